"""What is said of a package that is missing: a command that works as it stands."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest
from sqlmesh import Config

from sqlmesh_dagster.engine.connections import UnusableGatewayError, chosen
from sqlmesh_dagster.engine.explanation import with_wheel
from sqlmesh_dagster.facts.reaching import Server, lacks_package
from sqlmesh_dagster.guard import packages
from sqlmesh_dagster.guard.packages import addition, installation, missing
from sqlmesh_dagster.warehouses import GATEWAY, STATE, WAREHOUSES, variables_of


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with an odd path, whose environment has pip; the process is in a folder of it."""
    folder = tmp_path / "our platform"
    models = folder / "sqlmesh_project"
    models.mkdir(parents=True)
    (folder / "pyproject.toml").write_text('dependencies = ["psycopg2-binary>=2.9", "snowflake"]\n')
    monkeypatch.chdir(models)
    monkeypatch.setattr(sys, "executable", str(folder / ".venv/bin/python"))
    monkeypatch.setattr(packages, "find_spec", lambda _: True)
    return folder


def test_the_command_is_that_of_what_looks_after_the_environment(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise: pip's, with this environment's Python, from anywhere; uv's where its lock is, or no pip."""
    begin = ["cd", str(root), "&&"]
    pip = [".venv/bin/python", "-m", "pip", "install"]
    assert shlex.split(installation()) == [*begin, *pip, "--editable", ".", "--group", "dev"]
    assert shlex.split(addition("sqlmesh[trino]")) == [*begin, *pip, "sqlmesh[trino]"]
    monkeypatch.setattr(packages, "find_spec", lambda _: None)
    assert shlex.split(installation()) == [*begin, "uv", "sync"]
    monkeypatch.setattr(packages, "find_spec", lambda _: True)
    (root / "uv.lock").touch()
    assert shlex.split(addition("sqlmesh[trino]")) == [*begin, "uv", "add", "sqlmesh[trino]"]


def test_a_python_elsewhere_is_named_by_its_path(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in an image whose environment is not the project's."""
    monkeypatch.setattr(sys, "executable", "/opt/python 3/bin/python")
    assert "'/opt/python 3/bin/python' -m pip install --editable ." in installation()


@pytest.mark.parametrize("name", [n for n in WAREHOUSES if WAREHOUSES[n].driver[0] != "duckdb"])
def test_a_missing_driver_is_named_with_how_to_install_it(
    root: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Promise: one message of each warehouse; what `pyproject.toml` names already needs no update."""
    module, package = WAREHOUSES[name].driver
    _set_all(monkeypatch, name)
    monkeypatch.setitem(sys.modules, module.split(".")[0], None)
    with pytest.raises(UnusableGatewayError) as error:
        chosen(Config(), name, (), reads_credentials=True)
    said = str(error.value)
    begin = f"{WAREHOUSES[name].title} needs the package `{package}`, which is not installed. "
    assert said.startswith(begin) and f"`{installation()}`" in said
    assert ("poe update --data warehouse" in said) is (name != "postgres")
    (root / "pyproject.toml").write_text(f'dependencies = ["{package}[pandas]>=1"]\n')
    with pytest.raises(UnusableGatewayError, match=" Install the project again: `cd "):
        chosen(Config(), name, (), reads_credentials=True)


def test_the_driver_of_the_state_is_asked_for_where_the_warehouse_needs_none(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DuckLake and MotherDuck work with DuckDB, and have their state on Postgres."""
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    for name in ("ducklake", "motherduck"):
        _set_all(monkeypatch, name)
        with pytest.raises(UnusableGatewayError, match=r"^SQLMesh's state on Postgres needs"):
            chosen(Config(), name, (), reads_credentials=True)


def test_a_driver_that_cannot_be_imported_is_told_with_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library that it needs is not there: another thing than a package that is not installed."""
    (tmp_path / "odd_driver.py").write_text("import its_own_need\n")
    (tmp_path / "old_driver.py").write_text("from os import a_name_that_is_gone\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert missing("json") is None
    assert missing("odd_driver") == "cannot be imported (No module named 'its_own_need')"
    assert (missing("old_driver") or "").startswith("cannot be imported (cannot import name")
    assert missing("no_driver.sql") == "is not installed" == missing("json.no_part")


def test_what_a_login_needs_besides_is_told_with_the_command() -> None:
    """Promise: no variable is to be corrected where a package is missing."""
    server = Server("Warehouse `databricks`", "db.example.com", 443, (), ("WAREHOUSE_CLIENT_ID",))
    said = lacks_package(server, "ModuleNotFoundError: No module named 'databricks.sdk'", "uv sync")
    assert "No module named 'databricks.sdk' → " in said.message and "`uv sync`" in said.message
    assert "WAREHOUSE_CLIENT_ID" not in said.message


def test_the_driver_of_postgres_is_the_one_without_a_compiler(root: Path) -> None:
    """Promise: `sqlmesh[postgres]` would build its driver from source; other extras are right."""
    message = 'Failed to import it. Run: `pip install "sqlmesh[{}]"`.'
    assert with_wheel(message.format("postgres")).endswith("pip install psycopg2-binary`.")
    assert with_wheel(message.format("snowflake")).endswith("pip install 'sqlmesh[snowflake]'`.")


def _set_all(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for variable in variables_of(WAREHOUSES[name]):
        is_path = variable.endswith(("KEY_PATH", "KEYFILE"))
        monkeypatch.setenv(variable, __file__ if is_path else "1")
    monkeypatch.setenv("WAREHOUSE_OPTIONS", "{}")
    for variable in variables_of(STATE, state=True):
        monkeypatch.setenv(variable, "1")
    monkeypatch.setenv(GATEWAY, name)
