"""Tests of a project run on a DuckDB that is thrown away, whatever its config and the environment say."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest
from sqlmesh import Config, Context
from sqlmesh.core.config import (
    DuckDBConnectionConfig,
    GatewayConfig,
    ModelDefaultsConfig,
    MySQLConnectionConfig,
    PostgresConnectionConfig,
    SnowflakeConnectionConfig,
)
from sqlmesh.core.config.connection import ConnectionConfig, DuckDBAttachOptions
from tests.sqlmesh_dagster.projects import Project

from sqlmesh_dagster.engine.throw_away import throw_away_config
from tests.postgres import Server, postgres

POSTGRES = PostgresConnectionConfig(
    host="production", port=5432, user="ada", password="secret", database="analytics"
)
MYSQL = MySQLConnectionConfig.model_construct(host="h", user="u")  # its driver is not needed
OWNERS_TEST = """
import dagster as dg
import pytest
from sqlmesh import Context

from sqlmesh_dagster import sqlmesh_definitions_factory

PROJECT = {project!r}


@pytest.fixture(scope="module")
def built():
    return build()


def build():
    defs = sqlmesh_definitions_factory(project_dir=PROJECT, environment={environment!r})
    job = defs.resolve_implicit_global_asset_job_def()
    with dg.DagsterInstance.ephemeral() as instance:
        result = job.execute_in_process(instance=instance)
    return {{e.asset_key.path[-1] for e in result.get_asset_materialization_events()}}, defs


def test_everything_is_built():
    names, defs = build()
    assert names == {{"first", "second"}}
    with dg.DagsterInstance.get() as instance:
        assert not instance.get_runs()
    with defs.resources["sqlmesh"].connection() as adapter:
        assert adapter.dialect == "duckdb"
        assert adapter.fetchone("SELECT sum(n) FROM demo{suffix}.second") == (2,)


def test_a_context_of_its_own_is_redirected_too():
    with_own = Context(paths=PROJECT)
    with_own.plan({environment!r}, auto_apply=True, no_prompts=True)
    assert with_own.engine_adapter.dialect == "duckdb"


def test_each_test_begins_with_an_empty_warehouse():
    assert not Context(paths=PROJECT).state_reader.get_environments()
"""
WIDE_TEST = """
from {module} import build, built, PROJECT
from sqlmesh import Context


def test_a_test_sees_what_a_wider_fixture_has_built(built):
    assert Context(paths=PROJECT).engine_adapter.fetchone("SELECT sum(n) FROM demo{suffix}.second") == (2,)
"""


def connections(connection: ConnectionConfig, folder: Path, **gateway: object) -> GatewayConfig:
    """What becomes of a gateway."""
    config = Config(
        gateways={"main": GatewayConfig(connection=connection, **gateway)},  # type: ignore[arg-type]
        model_defaults=ModelDefaultsConfig(dialect="duckdb"),
    )
    return throw_away_config(config, folder / "test" / "warehouse").get_gateway("main")


@pytest.mark.parametrize(
    ("connection", "catalogs"),
    [
        (POSTGRES, ["analytics"]),
        (SnowflakeConnectionConfig.model_construct(account="a", database="DWH"), ["DWH"]),
        (DuckDBConnectionConfig(database="/srv/warehouse.duckdb"), ["warehouse"]),
        (DuckDBConnectionConfig(catalogs={"a": "/srv/a.db", "b": "/srv/b.db"}), ["a", "b"]),
        (
            DuckDBConnectionConfig(
                catalogs={"lake": DuckDBAttachOptions(type="ducklake", path="postgres:host=db")}
            ),
            ["lake"],
        ),
        (DuckDBConnectionConfig(catalogs={"cloud": "md:prod"}), ["cloud"]),
        (MYSQL, ["warehouse"]),
    ],
    ids=lambda value: "" if isinstance(value, list) else value.type_,
)
def test_every_connection_becomes_files_that_are_thrown_away(
    connection: ConnectionConfig, catalogs: list[str], tmp_path: Path
) -> None:
    """Promise: the names of catalogs stay, and nothing else of the connection; the state goes with the data."""
    gateway = connections(connection, tmp_path, state_connection=POSTGRES, test_connection=POSTGRES)
    assert isinstance(gateway.connection, DuckDBConnectionConfig)
    folder = tmp_path / "test" / "warehouse"
    files = {name: str(folder / f"{name}.duckdb") for name in catalogs}
    assert gateway.connection.catalogs == files
    assert gateway.state_connection is None and gateway.test_connection is None


def test_a_file_of_the_tests_own_is_left_to_it(tmp_path: Path) -> None:
    """Promise: a test that names a DuckDB file in its temporary folder goes on reading that file."""
    own = DuckDBConnectionConfig(database=str(tmp_path / "own.duckdb"))
    gateway = connections(own, tmp_path, state_connection=POSTGRES)
    assert gateway.connection is own and gateway.state_connection is None
    memory = DuckDBConnectionConfig()
    assert connections(memory, tmp_path).connection is memory


def test_names_without_a_catalog_stay_without_one(tmp_path: Path) -> None:
    """Promise: a test finds the models of a MySQL project by their names."""
    replaced = connections(MYSQL, tmp_path).connection
    assert replaced is not None
    adapter = replaced.create_engine_adapter()
    assert adapter.default_catalog is None
    adapter.create_schema("demo")
    adapter.execute("CREATE TABLE demo.t AS SELECT 1 AS n")
    assert adapter.fetchone("SELECT n FROM demo.t") == (1,)
    adapter.close()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """One server for all tests."""
    with postgres() as running:
        yield running


@pytest.mark.slow
@pytest.mark.parametrize("what", ["state", "warehouse"])
def test_tests_leave_postgres_as_it_is(what: str, server: Server, tmp_path: Path) -> None:
    """Promise: tests build everything, and no row, table or file of warehouse and state is touched."""
    server.create_database(what)
    project = Project(tmp_path / "elsewhere" / "project")
    place = {"type": "postgres", "host": "127.0.0.1", "port": server.port, "user": "postgres"}
    place |= {"password": "", "database": what}
    data = f"{{type: duckdb, database: {project.database}}}" if what == "state" else place
    project.write(
        "config.yaml",
        f"""
gateways: {{main: {{connection: {data}, state_connection: {place}}}}}
model_defaults: {{dialect: {"duckdb" if what == "state" else "postgres"}, start: 2025-01-01}}
disable_anonymized_analytics: true
""",
    )
    project.model("first", "SELECT 1::INT AS n")
    project.model("second", "SELECT n + 1 AS n FROM demo.first")
    context = Context(paths=str(project.root))
    context.plan("prod", auto_apply=True, no_prompts=True)
    context.close()
    if what == "state":
        context.engine_adapter.close()

    def rows() -> dict[str, int]:
        tables = server.query(
            what,
            "SELECT format('%I.%I', table_schema, table_name) FROM information_schema.tables"
            " WHERE table_schema NOT IN ('pg_catalog', 'information_schema')",
        )
        counts = {
            str(name): int(server.query(what, f"SELECT count(*) FROM {name}")[0][0])
            for (name,) in tables
        }
        if what == "state":
            with duckdb.connect(str(project.database)) as connection:
                found = connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()
            counts |= {str(name): -1 for (name,) in found}
        return counts

    before = rows()
    assert len(before) > 5
    (tests := tmp_path / "tests").mkdir()
    names = {"project": str(project.root), "environment": "prod", "suffix": "", "module": "owners"}
    (tests / "owners.py").write_text(OWNERS_TEST.format(**names))
    (tests / "test_platform.py").write_text("from owners import *\n")
    (tests / "test_wide.py").write_text(WIDE_TEST.format(**names))
    command = [sys.executable, "-m", "pytest", "-p", "sqlmesh_dagster.pytest_plugin", "-q", "-x"]
    command += ["-p", "no:cacheprovider", "--rootdir", str(tests), str(tests)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(tests)])}
    result = subprocess.run(
        command, cwd=tests, env=environment, text=True, capture_output=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "4 passed" in result.stdout
    assert rows() == before
