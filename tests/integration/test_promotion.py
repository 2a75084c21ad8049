"""When a deployment lets people see what it has made: after it is built, or before."""

from __future__ import annotations

from typing import Any

import dagster as dg
from tests.sqlmesh_dagster.projects import Project, run_in_process

_APPLY: dict[str, Any] = {"environment": "prod", "undeployed_changes": "apply"}
_VIEWS = "SELECT view_name FROM duckdb_views() WHERE schema_name = 'demo' ORDER BY ALL"


def test_a_new_production_shows_nothing_empty(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: a model that fails when it is built is not there, as after a `sqlmesh plan`; the rest is."""
    project.model("text", "SELECT 'x' AS word")
    project.model("bad", "SELECT word::INT AS id FROM demo.text")
    project.model("below", "SELECT id FROM demo.bad")
    project.model("empty", "SELECT 1 AS id", "kind FULL, audits (not_null(columns := (id)))")
    project.model(
        "doubt", "SELECT NULL::INT AS id", "kind FULL, audits (not_null(columns := (id)))"
    )
    run = run_in_process(project.definitions(**_APPLY), instance)
    assert sorted(run.materialized) == ["empty", "text"]
    assert "warehouse__demo__bad" in run.failed and "warehouse__demo__doubt" in run.failed
    assert project.query(_VIEWS) == [("empty",), ("text",)]
    assert project.query("SELECT id FROM demo.empty") == [(1,)]
    project.model("text", "SELECT '7' AS word")
    project.model("doubt", "SELECT 8 AS id", "kind FULL, audits (not_null(columns := (id)))")
    run = run_in_process(project.definitions(**_APPLY), instance)
    assert run.success, run.failed
    assert project.query(
        "SELECT id FROM demo.below UNION SELECT id FROM demo.doubt ORDER BY 1"
    ) == [
        (7,),
        (8,),
    ]


def test_a_new_production_waits_for_what_the_run_loads(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: a model that reads an asset of the same run is deployed once that is loaded."""

    @dg.asset(key=["warehouse", "raw", "things"], op_tags={"dagster/priority": "-9"})
    def things() -> None:
        project.execute("CREATE SCHEMA raw")
        project.execute("CREATE TABLE raw.things AS SELECT 3 AS id")

    project.model("first", "SELECT 1 AS id")
    project.model("read", "SELECT id::INT AS id FROM raw.things")
    definitions = dg.Definitions.merge(
        project.definitions(**_APPLY), dg.Definitions(assets=[things])
    )
    run = run_in_process(definitions, instance)
    assert run.success, run.failed
    assert project.query("SELECT id FROM demo.read") == [(3,)]


def test_an_audit_may_read_views_that_are_promoted_first(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: `promotion` chooses; with `before_build` the views are there when audits run."""
    project.model("first", "SELECT 1 AS id", "kind FULL, audits (is_shown)")
    project.write(
        "audits/shown.sql",
        "AUDIT (name is_shown);"
        " SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM duckdb_views() WHERE view_name = 'first')",
    )
    run = run_in_process(project.definitions(**_APPLY), instance)
    assert not run.success
    run = run_in_process(project.definitions(**_APPLY, promotion="before_build"), instance)
    assert run.success, run.failed
    assert project.query("SELECT id FROM demo.first") == [(1,)]
