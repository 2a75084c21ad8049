"""A generated project on a DuckLake whose catalogue, like the state, is on a real Postgres.

By hand, with DuckDB's extensions from packages, of which DuckDB must have the version:
`pip install duckdb-extension-ducklake duckdb-extension-postgres-scanner duckdb==1.5.5`, and then
`pytest tests/robustness/test_ducklake.py -m storm`.
"""

from __future__ import annotations

import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import duckdb
import pytest

from tests.conftest import Render
from tests.postgres import postgres
from tests.test_generated_projects import Project, with_tools_of

pytestmark = pytest.mark.storm
_PACKAGES = ("duckdb_extension_ducklake", "duckdb_extension_postgres_scanner")


def _extensions(folder: Path) -> Path:
    """The folder from which DuckDB loads them."""
    for package in _PACKAGES:
        found = find_spec(package)
        if found is None or not found.submodule_search_locations:
            pytest.skip(f"{package} is not installed")
        (file,) = Path(next(iter(found.submodule_search_locations))).rglob("*.duckdb_extension")
        if file.parent.name != f"v{duckdb.__version__}":
            pytest.skip(f"{package} is for DuckDB {file.parent.name}")
        platform = duckdb.execute("PRAGMA platform").fetchall()[0][0]
        target = folder / file.parent.name / platform
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    return folder


def test_a_lake_is_built_and_taken_from_the_file(render: Render, tmp_path: Path) -> None:
    """Promise: doctor, run and move by answers and environment alone; a move leaves nothing to build."""
    extensions = _extensions(tmp_path / "extensions")
    root = Path(
        shutil.copytree(render(warehouse="ducklake", sample="minimal"), tmp_path / "project")
    )

    def on(gateway: str, **variables: str) -> Project:
        variables |= {"SQLMESH_GATEWAY": gateway, "WAREHOUSE_PATH": str(tmp_path / "file.duckdb")}
        variables |= {"PYTHONPATH": str(root / "src")}
        return Project(root, with_tools_of(Path(sys.executable), **variables))

    with postgres() as server:
        place = {"HOST": "127.0.0.1", "PORT": str(server.port), "USER": "postgres"}
        place |= {"PASSWORD": "correct-horse-battery"}
        lake = {
            f"{of}_{name}": value for of in ("WAREHOUSE", "STATE") for name, value in place.items()
        }
        lake |= {"WAREHOUSE_DATABASE": "lake", "STATE_DATABASE": "state"}
        lake |= {"WAREHOUSE_DATA_PATH": str(tmp_path / "data")}
        lake |= {"WAREHOUSE_EXTENSION_DIRECTORY": str(extensions)}
        for name in ("lake", "state"):
            server.create_database(name)
        assert "FAIL" not in on("ducklake", **lake).run("poe", "doctor")
        assert "3 built" in on("ducklake", **lake).run("poe", "run")
        assert "3 up to date" in on("ducklake", **lake).run("poe", "run")
        assert list((tmp_path / "data").rglob("*.parquet"))

        for name in ("lake", "state"):
            server.query("postgres", f"DROP DATABASE {name} WITH (FORCE)")
            server.create_database(name)
        shutil.rmtree(tmp_path / "data")
        for command in (("load",), ("promote", "--yes"), ("run",)):
            on("duckdb", SQLMESH_ENVIRONMENT="prod").run("poe", *command)
        moved = on("ducklake", **lake, SQLMESH_ENVIRONMENT="prod").run("poe", "move", "--yes")
        assert "Moved: 1,420 rows in 3 tables" in moved, moved
        assert "3 up to date" in on("ducklake", **lake, SQLMESH_ENVIRONMENT="prod").run(
            "poe", "run"
        )
