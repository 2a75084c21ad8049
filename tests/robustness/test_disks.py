"""Disks that are full, one place after the other: `pytest -m storm` on this file, as root, who may mount."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from tests.sqlmesh_dagster.projects import Project, last_run

from tests.integration.conftest import own_process

__all__ = ["own_process"]
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
_PLACES = ("home", "warehouse", "temp", "cache")
_EXECUTORS = ("dg.in_process_executor", "dg.multiprocess_executor")


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
    config = (
        f"{{resources: {{sqlmesh_run_options: {{config: {{execution_time: '2025-01-{day}'}}}}}}}}"
    )
    command = ["dagster", "asset", "materialize", "--select", "*", "-f", str(folder / "defs.py")]
    return subprocess.run(
        [sys.executable, "-m", *command, "--config-json", _json(config)],
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


def _json(config: str) -> str:
    import json

    import yaml

    return json.dumps(yaml.safe_load(config))


@pytest.mark.parametrize("executor", _EXECUTORS)
@pytest.mark.parametrize("place", _PLACES)
def test_a_full_disk_is_named_and_nothing_is_half_recorded(
    tmp_path: Path, place: str, executor: str
) -> None:
    """Promise: the message says which folder; with room again the next run builds what is missing, once."""
    project = Project(tmp_path / "project")
    places = {
        "home": tmp_path / "home",
        "warehouse": tmp_path / "warehouse",
        "temp": tmp_path / "temp",
        "cache": project.root / ".cache",
    }
    for folder in places.values():
        folder.mkdir(exist_ok=True)
    database = places["warehouse"] / "warehouse.duckdb"
    config = (project.root / "config.yaml").read_text()
    project.write("config.yaml", config.replace(str(project.database), str(database)))
    (tmp_path / "home" / "dagster.yaml").touch()
    (tmp_path / "defs.py").write_text(_CODE.format(root=str(project.root), executor=executor))
    project.model(
        "days",
        "SELECT @start_ds::DATE AS day, i, hash(i)::TEXT AS text FROM range(20000) AS t(i)",
        "kind INCREMENTAL_UNMANAGED, start '2025-01-08'",
    )
    project.model("below", "SELECT count(*) AS n FROM demo.days")
    with _small_disk(places[place]):
        if place == "home":
            (tmp_path / "home" / "dagster.yaml").write_text(_STORAGE.format(home=tmp_path / "home"))
        first = _run(tmp_path, 10)
        assert first.returncode == 0, first.stderr[-3000:]
        filler = _fill(places[place])
        full = _run(tmp_path, 11)
        said = full.stdout + full.stderr
        print(
            f"=== {place} {executor}: rc {full.returncode}\n",
            said[-int(os.environ.get("SHOWN", "6000")) :],
        )
        filler.unlink()
        again = _run(tmp_path, 12)
        assert again.returncode == 0, again.stderr[-3000:]
        assert last_run(tmp_path / "home").success
        import duckdb

        with duckdb.connect(str(database), read_only=True) as connection:
            rows = connection.execute(
                "SELECT day::TEXT, count(*) FROM demo__dev.days GROUP BY 1 ORDER BY 1"
            ).fetchall()
            print(rows)
    assert sum(count for _, count in rows) % 20000 == 0


_STORAGE = """
storage:
  custom:
    module: sqlmesh_dagster.event_log
    class: PooledSqliteStorage
    config:
      base_dir: {home}
"""
