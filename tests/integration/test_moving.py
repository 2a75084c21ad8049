"""A project that lives moves from a DuckDB file to a real Postgres: `poe move`."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from subprocess import PIPE, Popen
from typing import Any

import dagster as dg
import pytest
from tests.sqlmesh_dagster.projects import Project, run_in_process

from sqlmesh_dagster import SQLMeshTranslator
from sqlmesh_dagster.engine.moving import move
from sqlmesh_dagster.errors import DatabaseUnavailableError, MoveRefusedError
from sqlmesh_dagster.settings import ProjectSettings
from tests.integration.conftest import instance, own_process, project
from tests.postgres import Server, postgres

__all__ = ["instance", "own_process", "project"]
pytestmark = pytest.mark.slow

_CONFIG = """
from pathlib import Path

from sqlmesh.core.config import Config, DuckDBConnectionConfig, GatewayConfig, ModelDefaultsConfig
from sqlmesh_dagster.gateways import with_warehouse

FILE = Path(__file__).parent / "warehouse.duckdb"
config = Config(
    default_gateway="duckdb",
    gateways={"duckdb": GatewayConfig(connection=DuckDBConnectionConfig(catalogs={"warehouse": str(FILE)}))},
    model_defaults=ModelDefaultsConfig(dialect="duckdb", start="2025-01-01", cron="@daily"),
    disable_anonymized_analytics=True,
)
config = with_warehouse(config)
"""
_BY_DAY = "kind INCREMENTAL_BY_TIME_RANGE (time_column day), audits (not_null(columns := (day)))"
_HISTORY = "kind SCD_TYPE_2_BY_COLUMN (unique_key id, columns [price])"
_KEEPING = "kind INCREMENTAL_UNMANAGED"
_LATER = "2025-01-11T00:30:00"


class Translator(SQLMeshTranslator):
    """As new projects have it."""

    catalog_in_keys = False


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """One server for all tests."""
    with postgres() as running:
        yield running


@pytest.fixture
def living(project: Project, instance: dg.DagsterInstance, patch: pytest.MonkeyPatch) -> Project:
    """A project of ten days whose raw rows are gone: what it has built is nowhere else."""
    (project.root / "config.yaml").unlink()
    project.write("config.py", _CONFIG)
    project.settings.update(environment="prod", undeployed_changes="apply", translator=Translator())
    project.execute(
        "CREATE SCHEMA raw; CREATE TABLE raw.events (day DATE, what VARCHAR, n UBIGINT, seen TIMESTAMP, file BLOB);"
        "INSERT INTO raw.events SELECT DATE '2025-01-01' + i::INT, ['a, \"b\"', '', NULL, 'ü\nx', '\\N'][i % 5 + 1],"
        " i * 1000000007, TIMESTAMP '2025-01-01 10:00:00.123456' + to_days(i::INT), 'x\\xFFy'::BLOB"
        " FROM range(9) t(i);"
        'CREATE TABLE raw."Prices" ("Id" INT UNIQUE, price DECIMAL(10, 2)); '
        "INSERT INTO raw.prices VALUES (1, 1.10), (2, 2.25);"
        "CREATE TABLE raw.unread (weight DOUBLE, is_known BOOLEAN, share FLOAT);"
        "INSERT INTO raw.unread VALUES (0.1, true, 0.1), ('nan'::DOUBLE, NULL, 3.4e38);"
        "CREATE VIEW raw.of_a_person AS SELECT 1 AS one"
    )
    project.write(
        "external_models.yaml",
        "- name: raw.events\n  columns: {day: date, what: text, n: ubigint, seen: timestamp, file: blob}\n"
        "- name: raw.prices\n  columns: {id: int, price: 'decimal(10, 2)'}\n",
    )
    project.write("seeds/kinds.csv", "id,name\n1,one\n2,two\n")
    project.model(
        "kinds", "", "kind SEED (path '$root/seeds/kinds.csv'), columns (id INT, name TEXT)"
    )
    project.model("daily", _SELECTED, _BY_DAY)
    project.model("prices", "SELECT id, price FROM raw.prices", _HISTORY)
    project.model("kept", "SELECT @start_ds::DATE AS day, 1::INT AS n", _KEEPING)
    project.model("shown", "SELECT day, n FROM demo.daily", "kind VIEW")
    project.model(
        "total", "SELECT count(*)::BIGINT AS rows, sum(n) AS big FROM demo.shown", "kind FULL"
    )
    assert run_in_process(project.definitions(), instance).success
    project.execute("UPDATE raw.prices SET price = 9.99 WHERE id = 1")
    assert run_in_process(project.definitions(), instance, now=_LATER).success
    project.execute("DELETE FROM raw.events WHERE day < '2025-01-06'; DELETE FROM raw.prices")
    return project


_SELECTED = "SELECT day, what, n::BIGINT AS n, seen, file FROM raw.events WHERE day BETWEEN @start_date AND @end_date"


@pytest.fixture
def patch(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No gateway is chosen yet."""
    for name in list(os.environ):
        if name.startswith(("WAREHOUSE_", "STATE_", "SQLMESH_GATEWAY")):
            monkeypatch.delenv(name)
    return monkeypatch


def to_postgres(
    patch: pytest.MonkeyPatch, server: Server, name: str, project: Project
) -> ProjectSettings:
    """An empty database, and the variables that choose it."""
    server.create_database(name)
    given = {"HOST": "127.0.0.1", "PORT": str(server.port), "USER": "postgres"}
    given |= {"PASSWORD": "none", "DATABASE": name}
    patch.setenv("SQLMESH_GATEWAY", "postgres")
    for variable, value in given.items():
        patch.setenv(f"WAREHOUSE_{variable}", value)
    return ProjectSettings(
        project_dir=str(project.root), environment="prod", wait_timeout=0
    ).checked()


def rows(project: Project, server: Server, name: str) -> dict[str, tuple[Any, Any]]:
    """The rows of each table and view, in the file and on the server."""
    views = ("demo.daily", "demo.prices", "demo.kept", "demo.shown", "demo.total", "demo.kinds")
    return {
        view: (
            sorted(map(plain, project.query(f"SELECT * FROM {view}"))),
            sorted(map(plain, server.query(name, f"SELECT * FROM {view}"))),
        )
        for view in (*views, "raw.events", "raw.prices", "raw.unread")
    }


def plain(row: tuple[Any, ...]) -> tuple[str, ...]:
    """Values as both drivers print them."""

    def text(value: Any) -> str:
        if isinstance(value, float):
            return f"{value:.6g}"  # the digits of a `FLOAT`
        return str(bytes(value) if isinstance(value, memoryview) else value)

    return tuple(map(text, row))


def test_nothing_is_lost_and_nothing_is_built_again(
    living: Project,
    instance: dg.DagsterInstance,
    server: Server,
    patch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Promise: rows, what is done, checks and history are there, also what no run could build again."""
    before = hashlib.sha256(living.database.read_bytes()).hexdigest()
    settings = to_postgres(patch, server, "moved", living)
    with pytest.raises(MoveRefusedError, match=r"nothing was changed.*poe move --yes"):
        move(settings, "duckdb")
    assert server.query("moved", _TABLES) == []

    move(settings, "duckdb", is_meant=True)
    said = capsys.readouterr().out
    assert hashlib.sha256(living.database.read_bytes()).hexdigest() == before
    assert re.search(r"copied +raw\.unread: 2 rows", said) and "raw.of_a_person" in said
    assert (
        "indexes, which are not moved, of raw.Prices" in said
    )  # its names are as models ask for them
    for name, (here, there) in rows(living, server, "moved").items():
        assert (here and here == there) or name == "raw.prices", name
    assert len(server.query("moved", "SELECT * FROM demo.prices WHERE valid_to IS NOT NULL")) == 1

    (sync,) = living.definitions().sensors or ()
    assert isinstance(sync, dg.SensorDefinition)
    with dg.build_sensor_context(instance=instance) as context:
        tick = sync(context)
    assert isinstance(tick, dg.SensorResult) and not tick.asset_events  # nothing seems new to it
    run = run_in_process(living.definitions(), instance, now=_LATER)
    assert run.success and run.materialized == [] and len(run.unchanged) == 6
    assert run.kept == {"daily:not_null_day": True}
    move(settings, "duckdb", is_meant=True)
    assert "Nothing was changed" in capsys.readouterr().out

    server.query("moved", "INSERT INTO raw.prices VALUES (2, 3.50)")
    run = run_in_process(living.definitions(), instance, now="2025-01-12T00:30:00")
    assert sorted(run.materialized) == ["daily", "kept", "prices", "shown", "total"]
    assert server.query("moved", "SELECT count(*) FROM demo.kept") == [(3,)]
    assert server.query("moved", "SELECT count(*) FROM demo.prices") == [(4,)]
    with pytest.raises(MoveRefusedError, match="Runs have built there"):
        move(settings, "duckdb", is_meant=True)


def test_a_move_is_refused_before_it_begins_and_goes_on_where_it_ended(
    living: Project, server: Server, patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Promise: no half-way state counts; each fault has its remedy, and the same command finishes."""
    settings = to_postgres(patch, server, "half", living)

    def refusal(*, rebuild: bool = False, **changed: str) -> str:
        with pytest.raises(MoveRefusedError) as refused:
            move(
                settings.model_copy(update=changed), "duckdb", is_rebuilding=rebuild, is_meant=True
            )
        return str(refused.value.description)

    assert "there is `prod`" in refusal(environment="dev")
    patch.setenv("SQLMESH_GATEWAY", "duckdb")
    assert "names the DuckDB file itself" in refusal()
    patch.setenv("SQLMESH_GATEWAY", "postgres")
    kept = living.root / "models/demo_46_kept.sql"
    text = kept.read_text()
    kept.write_text(text.replace("1::INT", "2::INT"))
    assert "differ" in (said := refusal()) and "demo.kept" in said and "total" not in said
    kept.write_text(text)
    assert server.query("half", _TABLES) == []

    for setting, told in (
        ("statement_timeout = '1ms'", "= 0"),
        (_READ_ONLY, "`WAREHOUSE_HOST` and"),
    ):
        server.query("postgres", f"ALTER DATABASE half SET {setting}")
        with pytest.raises(DatabaseUnavailableError, match=told):
            move(settings, "duckdb", is_meant=True)
        server.query("postgres", "ALTER DATABASE half RESET ALL")
    with held(living):
        assert "in use by another process" in (said := refusal()) and "schedule" in said
    server.query("half", "CREATE SCHEMA demo; CREATE VIEW demo.shown AS SELECT 1 AS one")
    server.query("half", "CREATE TABLE demo.total (n INT); CREATE TABLE demo.another (n INT)")
    assert "views of environment `prod` come: `demo.shown`, `demo.total`." in refusal()
    assert server.query("half", "SELECT one FROM demo.shown") == [(1,)]
    server.query("half", "DROP SCHEMA demo CASCADE")
    server.query(
        "half",
        "CREATE SCHEMA raw; CREATE TABLE raw.unread (weight FLOAT, is_known BOOL, share REAL)",
    )
    server.query("half", "INSERT INTO raw.unread VALUES (1, true, 1)")
    assert "`raw.unread` on postgres has other rows: 2 rows in the file, 1 there" in refusal()
    assert server.query("half", "SELECT count(*) FROM sqlmesh._snapshots") == [(0,)]
    server.query("half", f"DROP TABLE raw.unread; {_NO_VIEWS}")
    living.execute("CREATE TABLE raw.typo AS SELECT DATE '20205-01-01' AS day")
    assert "`raw.typo` has the date 20205-01-01;" in refusal(rebuild=True)
    living.execute("DROP TABLE raw.typo")
    assert "could not be made: no room for views" in refusal(rebuild=True)
    assert server.query("half", "SELECT count(*) FROM sqlmesh._snapshots") == [(8,)]
    server.query("half", "DROP EVENT TRIGGER no_views")
    capsys.readouterr()
    move(settings, "duckdb", is_rebuilding=True, is_meant=True)
    said = capsys.readouterr().out
    assert re.findall("^copied.*", said, re.M) == []
    assert "builds demo.kinds, demo.total" in said

    with dg.DagsterInstance.ephemeral() as fresh:
        run = run_in_process(living.definitions(), fresh, now=_LATER)
    assert run.success and sorted(run.materialized) == ["kinds", "total"]
    for name, (here, there) in rows(living, server, "half").items():
        assert here == there, name

    settings = to_postgres(patch, server, "tried", living)
    server.query("tried", _RAW)
    with dg.DagsterInstance.ephemeral() as other:
        tried = run_in_process(living.definitions(environment="dev"), other)
    assert tried.success, tried.failed
    before = server.query("tried", "SELECT count(*) FROM demo__dev.kept")
    said = refusal()
    assert "Built on postgres before the move" in said and "demo.daily, demo.shown" in said
    assert server.query("tried", "SELECT count(*) FROM demo__dev.kept") == before


@contextmanager
def held(project: Project) -> Iterator[None]:
    """Meanwhile another process has the project's DuckDB file open, and writes to it."""
    opened = f"import duckdb; held = duckdb.connect({str(project.database)!r}); print(1, flush=True); input()"
    with Popen([sys.executable, "-c", opened], stdin=PIPE, stdout=PIPE) as process:
        assert process.stdout is not None and process.stdout.readline()
        yield
        process.communicate(b"\n")


@pytest.mark.storm
def test_a_restatement_that_has_begun_goes_on_there(
    living: Project, server: Server, patch: pytest.MonkeyPatch
) -> None:
    """Promise: what SQLMesh has begun to restate by itself, and a kill has ended, is restated after the move."""
    day = (1736294400000, 1736380800000)
    living.execute(
        "INSERT INTO sqlmesh._intervals BY NAME SELECT 'pending' AS id, created_ts + 1 AS created_ts, name,"
        f" version, {day[0]} AS start_ts, {day[1]} AS end_ts, false AS is_dev, false AS is_removed,"
        " false AS is_compacted, true AS is_pending_restatement, last_altered_ts"
        " FROM sqlmesh._intervals WHERE name LIKE '%daily%' ORDER BY created_ts DESC LIMIT 1"
    )
    move(to_postgres(patch, server, "restated", living), "duckdb", is_meant=True)
    assert server.query(
        "restated",
        "SELECT start_ts, end_ts FROM sqlmesh._intervals WHERE is_pending_restatement"
        " AND name LIKE '%daily%'",
    ) == [day]


_READ_ONLY = "default_transaction_read_only = on"
_RAW = """
CREATE SCHEMA raw; CREATE TABLE raw.prices (id INT, price DECIMAL(10, 2));
INSERT INTO raw.prices VALUES (1, 5);
CREATE TABLE raw.events (day DATE, what TEXT, n DECIMAL(20, 0), seen TIMESTAMP, file BYTEA)
"""
_NO_VIEWS = """
CREATE FUNCTION no_views() RETURNS event_trigger LANGUAGE plpgsql AS $$
DECLARE made record;
BEGIN
  FOR made IN SELECT schema_name FROM pg_event_trigger_ddl_commands() LOOP
    IF made.schema_name = 'demo' THEN RAISE 'no room for views'; END IF;
  END LOOP;
END $$;
CREATE EVENT TRIGGER no_views ON ddl_command_end EXECUTE FUNCTION no_views()
"""
_TABLES = "SELECT table_name FROM information_schema.tables WHERE table_schema IN ('raw', 'demo', 'sqlmesh__demo')"
