"""Inputs are observed: whatever a load opens or lists, a change of it makes the definitions anew."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.sqlmesh_dagster.projects import Project

from sqlmesh_dagster import SQLMeshResource
from sqlmesh_dagster.manifest.inputs import Inputs
from sqlmesh_dagster.manifest.loading import project_manifest
from sqlmesh_dagster.manifest.store import ManifestStore

SAMPLE = Path(__file__).parents[2] / "template" / "sqlmesh_project"
_seen: list[set[str]] = []
_hooked: list[bool] = []


def _resource(root: Path) -> SQLMeshResource:
    return SQLMeshResource(project_dir=str(root))


def _names(root: Path) -> list[str]:
    """The models, as the definitions have them now."""
    return [model.name for model in project_manifest(_resource(root)).models]


def _digest(root: Path) -> str:
    """What the stored manifest would have to be made of."""
    stored = ManifestStore.in_folder(root / ".cache/dagster", None).read()
    inputs = stored.inputs if stored else Inputs()
    return inputs.digest(root, None, dict(os.environ))


def _is_current(root: Path) -> bool:
    stored = ManifestStore.in_folder(root / ".cache/dagster", None).read()
    return stored is not None and stored.digest == _digest(root)


@contextlib.contextmanager
def _opened_in(folder: Path) -> Iterator[set[str]]:
    """Every file of a folder that this process opens to read meanwhile, by Python's own account."""
    if not _hooked:
        _hooked.append(True)
        sys.addaudithook(_see)
    found: set[str] = set()
    _seen.append(found)
    try:
        yield found
    finally:
        _seen.clear()
        found.intersection_update(p for p in set(found) if Path(p).is_relative_to(folder))


def _see(event: str, arguments: tuple[Any, ...]) -> None:
    if not _seen or event != "open" or not isinstance(arguments[0], str):
        return
    if isinstance(arguments[1], str) and not set(arguments[1]) & set("wax+"):
        _seen[0].add(os.path.abspath(arguments[0]))  # noqa: PTH100


def _sample(root: Path) -> None:
    shutil.copytree(SAMPLE, root, dirs_exist_ok=True)


def _sushi(root: Path) -> None:
    """A project that looks its tenants, prices and settings up, each in another way."""
    project = Project(root)
    project.write(
        "config.py",
        f"""
        import json
        from pathlib import Path
        from sqlmesh.core.config import (
            Config, DuckDBConnectionConfig, GatewayConfig, ModelDefaultsConfig
        )

        here = Path(__file__).parent
        config = Config(
            gateways={{"local": GatewayConfig(connection=DuckDBConnectionConfig(database={str(project.database)!r}))}},
            model_defaults=ModelDefaultsConfig(dialect="duckdb", start="2025-01-01"),
            variables=json.loads((here / "settings" / "shop.json").read_text()),
            disable_anonymized_analytics=True,
        )
        """,
    )
    (root / "config.yaml").unlink()
    project.write("settings/shop.json", '{"place": "Bern"}')
    project.write("tenants/list.csv", "name\nacme\n")
    project.write("columns/a.yaml", "n: int\n")
    project.write("columns/b.yaml", "m: int\n")
    project.write(
        "macros/tenants.py",
        """
        import csv
        from sqlmesh import macro

        @macro()
        def tenants(evaluator):
            with open(evaluator.locals["tenant_file"]) if "tenant_file" in evaluator.locals else open(TENANTS) as file:
                return [f"(tenant := {row['name']})" for row in csv.DictReader(file)]
        """.replace("TENANTS", repr(str(root / "tenants/list.csv"))),
    )
    project.write(
        "models/orders.sql",
        """
        MODEL (name @tenant.orders, kind FULL, blueprints @tenants());
        SELECT 1::INT AS id, @VAR('place') AS place;
        """,
    )
    project.write(
        "models/wide.py",
        f"""
        import typing as t
        from pathlib import Path
        import pandas as pd
        import yaml
        from sqlmesh import ExecutionContext, model

        columns = {{}}
        for file in sorted(Path({str(root / "columns")!r}).glob("*.yaml")):
            columns.update(yaml.safe_load(file.read_text()))

        @model("demo.wide", columns=columns, kind="FULL")
        def execute(context: ExecutionContext, **kwargs: t.Any) -> pd.DataFrame:
            return pd.DataFrame({{"n": [1]}})
        """,
    )
    project.write("README.md", "Hello")
    project.write("data/orders.csv", "id\n1\n")


@pytest.mark.parametrize("make", [_sample, _sushi])
def test_every_file_that_a_load_opens_makes_it_anew(make: Any, tmp_path: Path) -> None:
    """Promise: one more byte in any of them, and the stored manifest is not current; else it is."""
    root = tmp_path / "project"
    make(root)
    with _opened_in(root) as opened:
        project_manifest(_resource(root))
    outputs = {p for p in opened if ".cache" in p or "__pycache__" in p or "/logs/" in p}
    files = sorted(path for path in opened - outputs if Path(path).is_file())
    assert len(files) > 5
    assert _is_current(root)
    for path in files:
        before = Path(path).read_bytes()
        Path(path).write_bytes(before + b"\n")
        assert not _is_current(root), path
        Path(path).write_bytes(before)
        assert _is_current(root), path
    others = [p for p in root.rglob("*") if p.is_file() and p.suffix in (".md", ".csv", ".duckdb")]
    for other in others:
        if str(other) not in opened and "seeds" not in other.parts:
            other.write_bytes(other.read_bytes() + b"\n")
            assert _is_current(root), other


def test_what_macros_config_and_python_models_look_up_is_an_input(tmp_path: Path) -> None:
    """Promise: a new tenant in a CSV is a new model, though SQLMesh's own cache knows the old list."""
    root = tmp_path / "project"
    _sushi(root)
    assert sorted(_names(root)) == ["acme.orders", "demo.wide"]
    (root / "tenants/list.csv").write_text("name\nacme\nzeta\n")
    assert sorted(_names(root)) == ["acme.orders", "demo.wide", "zeta.orders"]
    (root / "columns/c.yaml").write_text("k: int\n")
    wide = next(m for m in project_manifest(_resource(root)).models if m.name == "demo.wide")
    assert [column.name for column in wide.columns] == ["n", "m", "k"]
    (root / "columns/a.yaml").unlink()
    wide = next(m for m in project_manifest(_resource(root)).models if m.name == "demo.wide")
    assert [column.name for column in wide.columns] == ["m", "k"]
    (root / "settings/shop.json").write_text('{"place": "Basel"}')
    assert not _is_current(root)
    assert len(_names(root)) == 3
    assert _is_current(root)


@pytest.mark.parametrize("name", ["config.yml", "sqlmesh.yaml", "sqlmesh.yml", "config.py"])
def test_a_config_of_any_of_sqlmeshs_names_counts(name: str, tmp_path: Path) -> None:
    """Promise: the project's, and one that appears beside it, which SQLMesh refuses."""
    root = tmp_path / "project"
    Project(root).model("m", "SELECT 1::INT AS id")
    if name != "config.py":
        (root / "config.yaml").rename(root / name)
        text = (root / name).read_text()
        project_manifest(_resource(root))
        assert _is_current(root)
        (root / name).write_text(text.replace("@daily", "@hourly"))
        assert not _is_current(root)
        (root / name).write_text(text)
    else:
        project_manifest(_resource(root))
        (root / name).write_text("")
        assert not _is_current(root)


@pytest.mark.parametrize("name", ["config.yaml", "sqlmesh.yaml", "sqlmesh.yml"])
def test_a_persons_own_config_counts(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise: what `SQLMESH_HOME` holds, under each of SQLMesh's names."""
    monkeypatch.setenv("SQLMESH_HOME", str(tmp_path / "home"))
    root = tmp_path / "project"
    Project(root).model("m", "SELECT 1::INT AS id")
    project_manifest(_resource(root))
    assert _is_current(root)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / name).write_text("model_defaults: {cron: '@weekly'}\n")
    assert not _is_current(root)


def test_other_threads_are_not_recorded(tmp_path: Path) -> None:
    """Promise: what the server itself does meanwhile is no input; what the project's own code starts is."""
    from sqlmesh_dagster.manifest.reads import recorded_reads

    mine, other, helped, asked = (tmp_path / f"{name}.txt" for name in ("m", "o", "h", "a"))
    for file in (mine, other, helped):
        file.write_text("x")
    begun = threading.Event()
    thread = threading.Thread(target=lambda: begun.wait(10) and other.read_text())
    thread.start()
    with recorded_reads() as reads:
        begun.set()
        thread.join()
        with ThreadPoolExecutor(1) as pool:
            pool.submit(helped.read_text).result()
        mine.read_text()
        assert not asked.exists()
        (tmp_path / "made.txt").write_text("x")
        (tmp_path / "made.txt").read_text()
    assert reads.files == {str(mine), str(helped)}
    assert reads.asked == {str(asked)}


def test_what_is_looked_for_and_not_there_yet_is_an_input(tmp_path: Path) -> None:
    """Promise: a switch, settings of this machine alone, and rows of a SQLite file count once they come."""
    root = tmp_path / "project"
    _sushi(root)
    config = (root / "config.py").read_text()
    looks = f"""
import sqlite3
try:
    from settings_of_this_machine import VARIABLES
except ImportError:
    VARIABLES = {{}}
VARIABLES["switch"] = (Path(__file__).parent / "switch").exists()
with sqlite3.connect({str(tmp_path / "tenants.db")!r}) as connection:
    VARIABLES["tenants"] = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
connection.close()
config = Config("""
    changed = config.replace("config = Config(", looks.lstrip())
    (root / "config.py").write_text(changed.replace("variables=json", "variables=VARIABLES | json"))
    assert len(_names(root)) == 2
    assert _is_current(root)
    for change in (
        (root / "switch").touch,
        (root / "switch").unlink,
        lambda: (root / "settings_of_this_machine.py").write_text("VARIABLES = {}"),
        lambda: _execute(tmp_path / "tenants.db", "CREATE TABLE t (n TEXT)"),
    ):
        change()
        assert not _is_current(root)
        assert len(_names(root)) == 2
        assert _is_current(root)


def _execute(file: Path, statement: str) -> None:
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute(statement)
