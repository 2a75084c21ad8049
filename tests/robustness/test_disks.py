"""Disks that are full, one place after the other: `pytest -m storm` on this file, as root, who may mount."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import duckdb
import pytest
from tests.sqlmesh_dagster.projects import Project, last_run, run_config

from tests.integration.conftest import own_process

__all__ = ["own_process"]
from tests.instance import POOLED_STORAGE

pytestmark = [
    pytest.mark.storm,
    pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounts file systems"),
]
_CODE = """
import dagster as dg
from sqlmesh_dagster import *

defs = dg.Definitions.merge(
    sqlmesh_definitions_factory(project_dir={root!r}, environment="dev", wait_timeout=5),
    dg.Definitions(executor={executor}),
)
"""
_SHOWN = int(os.environ.get("DISKS_SHOWN", "0"))
"""Characters of what each run said, with `-s`."""


@contextmanager
def _small_disk(place: Path, megabytes: int = 64) -> Iterator[None]:
    place.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", place], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def _fill(place: Path) -> Path:
    """A file that leaves not a byte."""
    file = place / "filler"
    with file.open("wb", buffering=0) as filler, suppress(OSError):
        for size in (2**20, 2**12, 1):
            with suppress(OSError):
                while filler.write(b"\0" * size) == size:
                    pass
    return file


def _run(folder: Path, day: int) -> subprocess.CompletedProcess[str]:
    config = run_config(now=f"2025-01-{day}")
    command = ["dagster", "asset", "materialize", "--select", "*", "-f", str(folder / "defs.py")]
    return subprocess.run(
        [sys.executable, "-m", *command, "--config-json", json.dumps(config)],
        cwd=folder,
        env={
            **os.environ,
            "DAGSTER_HOME": str(folder / "home"),
            "TMPDIR": str(folder / "temp"),
            "PYTHONPATH": os.pathsep.join(sys.path),
        },
        capture_output=True,
        text=True,
        timeout=240,
    )


_FILLER = """
import typing as t
from contextlib import suppress
from pathlib import Path
import pandas as pd
from sqlmesh import ExecutionContext, model

@model("demo.filler", columns={"n": "int"}, kind="FULL", cron="@daily")
def execute(context: ExecutionContext, **kwargs: t.Any) -> pd.DataFrame:
    place = Path(PLACE)
    if (place / "fill").exists():
        with (place / "filler").open("wb", buffering=0) as filler, suppress(OSError):
            while filler.write(bytes(2**12)):
                pass
    return pd.DataFrame({"n": [1]})
"""
"""A model in which the disk becomes full, if it is to."""


def _places(root: Path) -> dict[str, Path]:
    places = {"home": "home", "warehouse": "warehouse", "temp": "temp", "cache": "project/.cache"}
    return {name: root / path for name, path in places.items()}


def _project(root: Path, place: Path, executor: str) -> Project:
    project = Project(root / "project")
    for folder in _places(root).values():
        folder.mkdir(parents=True, exist_ok=True)
    config = (project.root / "config.yaml").read_text()
    project.write("config.yaml", config.replace(str(project.database), str(_database(root))))
    (root / "defs.py").write_text(_CODE.format(root=str(project.root), executor=executor))
    rows = "SELECT @start_ds::DATE AS day, i, hash(i)::TEXT AS text FROM range(20000) AS t(i), demo.filler"
    project.model("days", rows, "kind INCREMENTAL_UNMANAGED, start '2025-01-08'")
    project.model("below", "SELECT count(*) AS n FROM demo.days")
    project.write("models/filler.py", _FILLER.replace("PLACE", repr(str(place))))
    return project


def _database(root: Path) -> Path:
    return root / "warehouse" / "warehouse.duckdb"


@pytest.mark.parametrize(
    ("place", "moment", "executor"),
    [
        ("home", "before", "in_process"),
        ("home", "during", "in_process"),
        ("home", "during", "multiprocess"),
        ("warehouse", "before", "in_process"),
        ("warehouse", "during", "in_process"),
        ("temp", "before", "multiprocess"),
        ("temp", "during", "in_process"),
        ("cache", "before", "in_process"),
        ("cache", "during", "in_process"),
    ],
)
def test_a_full_disk_is_named_and_nothing_is_half_recorded(
    tmp_path: Path, place: str, moment: str, executor: str
) -> None:
    """Promise: the message names the folder, or the run needs none; with room again the next builds what is missing, once."""
    disk = _places(tmp_path)[place]
    _project(tmp_path, disk, f"dg.{executor}_executor")
    with _small_disk(disk):
        (tmp_path / "home" / "dagster.yaml").write_text(
            POOLED_STORAGE.format(home=tmp_path / "home")
        )
        first = _run(tmp_path, 10)
        assert first.returncode == 0, first.stderr[-3000:]
        if moment == "during":
            (disk / "fill").touch()
        else:
            _fill(disk)
        full = _run(tmp_path, 11)
        said = full.stdout + full.stderr
        print(
            f"=== {place} {moment} {executor}: {full.returncode}\n{said[-_SHOWN:] if _SHOWN else ''}"
        )
        (disk / "fill").unlink(missing_ok=True)
        (disk / "filler").unlink()
        again = _run(tmp_path, 12)
        assert again.returncode == 0, again.stderr[-3000:]
        assert last_run(tmp_path / "home").success
        with duckdb.connect(str(_database(tmp_path)), read_only=True) as connection:
            rows = connection.execute(
                "SELECT day::TEXT, count(*) FROM demo__dev.days GROUP BY 1 ORDER BY 1"
            ).fetchall()
    built_in_between = [("2025-01-08", 20000), ("2025-01-10", 20000), ("2025-01-11", 20000)]
    assert rows == (built_in_between if len(rows) == 3 else built_in_between[:2])
    if full.returncode:
        assert str(disk) in said
