"""What owners read of an engine is the engine's: its SQL, its name, and one word when it is gone."""

from __future__ import annotations

import socket

import dagster as dg
from tests.sqlmesh_dagster.projects import Project, run_in_process


def test_an_error_shows_the_sql_that_the_engine_got(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: a model in MySQL's dialect fails with DuckDB's SQL, the statement that was sent."""
    project.model(
        "broken",
        "SELECT CAST(`text` AS SIGNED) AS id FROM (SELECT 'x' AS `text`) AS t",
        "kind FULL, dialect mysql",
    )
    ((_, error),) = run_in_process(project.definitions(), instance).failed.items()
    sql = error.partition("SQL:")[2]
    assert "SQLMESH_RUN" not in sql  # an error is the same each time
    assert 'CAST("t"."text" AS BIGINT)' in sql and "`" not in sql
    assert "CREATE OR REPLACE TABLE" in sql or "INSERT INTO" in sql


def test_an_audit_that_fails_shows_its_own_sql(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: what is wrong is in the SQL that is shown, and that is the audit's."""
    project.write(
        "audits/odd.sql",
        "AUDIT (name odd);\nSELECT * FROM @this_model WHERE error('odd one')::TEXT = 'x';\n",
    )
    project.model("audited", "SELECT 41 + 1 AS id", "kind FULL, audits (odd)")
    ((_, error),) = run_in_process(project.definitions(), instance).failed.items()
    sql = error.partition("SQL:")[2]
    assert "odd one" in sql and "41 + 1" not in sql


def test_the_engine_is_named_and_not_the_dialect(project: Project) -> None:
    """Promise: the badge of a model that is written in Postgres's SQL is that of DuckDB, which builds it."""
    project.model("one", "SELECT 1::INT AS id", "kind FULL, dialect postgres")
    (spec,) = [
        spec
        for spec in project.definitions().resolve_all_asset_specs()
        if spec.key.path[-1] == "one"
    ]
    assert spec.kinds == {"sqlmesh", "duckdb", "table"}
    assert spec.tags["dagster/storage_kind"] == "duckdb"
    assert spec.metadata["sqlmesh/dialect"] == "postgres"


def test_a_server_that_is_down_is_no_models_fault(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: the message is the same for the whole run, and says what to do."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    project.write(
        "config.yaml",
        f"""
        gateways:
          local:
            connection: {{type: duckdb, database: {project.database}}}
            state_connection:
              {{type: postgres, host: 127.0.0.1, port: {port}, user: ada, password: x, database: d}}
        model_defaults: {{dialect: duckdb, start: 2025-01-01}}
        disable_anonymized_analytics: true
        """,
    )
    project.model("one", "SELECT 1::INT AS id")
    project.model("two", "SELECT 2::INT AS id")
    run = run_in_process(project.definitions(), instance)
    assert len(run.failed) == 2
    for error in run.failed.values():
        assert "DatabaseUnavailableError" in error and "cannot be reached" in error
        assert "Model `" not in error
