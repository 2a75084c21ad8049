"""When a deployment lets people see what it has made: after it is built, or before."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from tests.sqlmesh_dagster.projects import Project, Run, run_in_process

from sqlmesh_dagster.engine.diagnosis import diagnose
from sqlmesh_dagster.settings import ProjectSettings
from sqlmesh_dagster.upstream.dagster import last_check_results
from tests.integration import alone

_APPLY: dict[str, Any] = {"environment": "prod", "undeployed_changes": "apply"}
_DAILY = "kind INCREMENTAL_BY_TIME_RANGE (time_column day)"
_HISTORY = "kind SCD_TYPE_2_BY_TIME (unique_key id)"
_VIEWS = "SELECT view_name FROM duckdb_views() WHERE schema_name = 'demo' ORDER BY ALL"


def test_a_new_production_shows_nothing_empty(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: a model that fails when it is built is not there, as after a `sqlmesh plan`; the rest is."""
    project.model("text", "SELECT 'x' AS word")
    project.model("bad", "SELECT word::INT AS id FROM demo.text")
    project.model("below", "SELECT id FROM demo.bad")
    project.model("empty", "SELECT 1 AS id", "kind FULL, audits (not_null(columns := (id)))")
    found = "audits (not_null(columns := (id)), number_of_rows(threshold := 5, blocking := false))"
    project.model("doubt", "SELECT NULL::INT AS id", f"kind FULL, {found}")
    daily = "SELECT id, '2025-01-09'::DATE AS day FROM main.nowhere"
    project.model("daily", daily, _DAILY)  # its table cannot be made
    project.model("below_daily", "SELECT id FROM demo.daily")
    history = "SELECT word::INT AS id, TIMESTAMP '2025-01-01' AS updated_at FROM demo.text"
    project.model("history", history, _HISTORY)  # built after SQLMesh has promoted it in its state
    project.model("below_history", "SELECT id FROM demo.history")
    project.model("added", "SELECT 1 AS id FROM demo.text", "kind INCREMENTAL_UNMANAGED")
    run = run_in_process(project.definitions(**_APPLY), instance)
    assert sorted(run.materialized) == ["added", "empty", "text"]
    assert {"warehouse__demo__bad", "warehouse__demo__doubt", "warehouse__demo__history"} <= {
        *run.failed
    }
    assert "nowhere does not exist" in run.failed["warehouse__demo__daily"]
    assert "`not_null(columns=(id))` found 1 row" in run.failed["warehouse__demo__doubt"]
    assert run.passed == {"empty:not_null_id": True, "doubt:not_null_id": False}
    project.model("daily", "SELECT 8 AS id, '2025-01-09'::DATE AS day", _DAILY)
    assert project.query(_VIEWS) == [("added",), ("empty",), ("text",)]
    assert project.query("SELECT id FROM demo.empty UNION ALL SELECT id FROM demo.added") == [
        (1,),
        (1,),
    ]
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
    assert project.query("SELECT id FROM demo.below_history") == [(7,)]


def test_a_new_history_that_fails_keeps_nothing_else_from_production(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: it and what reads it stay as they are, the rest is deployed, and the plan is finished.

    SQLMesh builds it after it has promoted it in its state, which a failure leaves half done.
    """
    project.model("good", "SELECT 1 AS id")
    project.model("child", "SELECT id FROM demo.good")
    assert run_in_process(project.definitions(**_APPLY), instance).success
    word, moment = "CASE WHEN id = 2 THEN error('boom') ELSE id END::INT", "TIMESTAMP '2025-01-01'"
    project.model(
        "history", f"SELECT {word} AS id, {moment} AS updated_at FROM demo.good", _HISTORY
    )
    project.model("good", "SELECT 2 AS id")
    project.model("child", "SELECT id + 10 AS id FROM demo.history")
    for built in (["good"], []):
        run = run_in_process(project.definitions(**_APPLY), instance)
        assert (list(run.failed), run.materialized) == (["warehouse__demo__history"], built)
        assert "boom" in run.failed["warehouse__demo__history"]
        assert project.query(_VIEWS) == [("child",), ("good",)]
        assert project.query("SELECT id FROM demo.good UNION ALL SELECT id FROM demo.child") == [
            (2,),
            (2,),
        ]
    project.model("good", "SELECT 3 AS id")
    assert run_in_process(project.definitions(**_APPLY), instance).success
    assert project.query("SELECT id FROM demo.child") == [(13,)]


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


_FOUND = "kind FULL, audits (not_null(columns := (id), blocking := false))"


def test_what_a_deployment_builds_besides_has_its_checks_results(
    project: Project, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    """Promise: though not selected, a model that the plan builds has the results of its audits at once."""
    project.model("asked", "SELECT 1 AS id")
    project.model("good", "SELECT 1 AS id", _FOUND)
    project.model("doubtful", "SELECT NULL::INT AS id UNION ALL SELECT NULL", _FOUND)
    project.write(
        "audits/alone.sql",
        "AUDIT (name beside, standalone true); SELECT 1 FROM demo.good WHERE id = 1",
    )
    heard, problem = alone.plan(alone.copied(project, tmp_path / "copy"))
    assert problem is None
    definitions = project.definitions(**_APPLY)
    assert run_in_process(definitions, instance, "asked").success
    failed = {
        (key.name if key.name == "beside" else key.asset_key.path[-1]): not found.passed
        for key in definitions.resolve_asset_graph().asset_check_keys
        if (found := _result(instance, key)) is not None
    }
    assert failed == {
        name: bool(count) for name, count in heard.failed_audits.items() if name != "asked"
    }
    assert failed == {"good": False, "doubtful": True, "beside": True}


def _result(instance: dg.DagsterInstance, key: dg.AssetCheckKey) -> dg.AssetCheckEvaluation | None:
    found = last_check_results(instance, [key]).get(key)
    return found[0] if found else None


@pytest.mark.parametrize("environment", ["dev", "prod"])
def test_a_new_environment_shows_what_a_plan_alone_shows(
    project: Project, instance: dg.DagsterInstance, tmp_path: Path, environment: str
) -> None:
    """Promise: what fails has no view, nor has what reads it, also where it is new to one that exists."""
    project.model("text", "SELECT 'x' AS word")
    settings = {
        "environment": environment,
        "undeployed_changes": "apply",
        "promotion": "after_build",
    }
    copy = alone.copied(project, tmp_path / "copy")
    project.model("bad", "SELECT word::INT AS id FROM demo.text")
    run = run_in_process(project.definitions(**settings), instance)
    assert run.materialized == ["text"] and list(run.failed) == ["warehouse__demo__bad"]
    assert "failed with ConversionException" in run.failed["warehouse__demo__bad"]
    alone.plan(copy, environment)
    views = _views(project)
    assert views == _views(copy) and len(views) == 1
    project.model("below", "SELECT id FROM demo.bad")
    run = run_in_process(project.definitions(**settings), instance)
    assert not run.success and _views(project) == views
    project.model("text", "SELECT '7' AS word")
    assert run_in_process(project.definitions(**settings), instance).success
    assert len(_views(project)) == 3


def test_a_plan_that_builds_first_says_how_far_it_is(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: no step ends until the views are there, so the log names each model as it is built."""
    project.model("first", "SELECT 1 AS id")
    project.model("second", "SELECT id FROM demo.first", "kind FULL")
    run = run_in_process(project.definitions(**_APPLY), instance)
    texts = [entry.user_message for entry in instance.all_logs(run.run_id)]
    assert [text.partition(";")[0] for text in texts if text.startswith("Built `")] == [
        "Built `demo.first`, 1 of 2 models",
        "Built `demo.second`, 2 of 2 models",
    ]


def _views(project: Project) -> list[tuple[Any, ...]]:
    found = project.query("SELECT schema_name, view_name FROM duckdb_views() WHERE NOT internal")
    return sorted(row for row in found if row[0].startswith("demo"))


def test_the_last_good_definitions_deploy_nothing_new(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: a file that cannot be loaded leaves an environment that does not exist as it is, and says why."""
    project.model("good", "SELECT 1 AS id")
    project.definitions(**_APPLY)
    project.write("models/broken.sql", "MODEL (name demo.broken, kind FULL); SELECT FROM WHERE")
    definitions = project.definitions(**_APPLY, keep_last_good=True)
    run = run_in_process(definitions, instance)
    assert not run.success and "broken.sql" in run.failed["warehouse__demo__good"]
    assert project.query(_VIEWS) == []
    (project.root / "models/broken.sql").unlink()
    assert run_in_process(project.definitions(**_APPLY), instance).success


def test_an_edit_that_fails_in_dev_leaves_what_was_there(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: where `sqlmesh plan dev` promotes nothing, the model that fails shows what it had, and the rest is new.

    Bug: the step of a standalone audit, which runs after the models, deployed what had failed a moment
    ago, and all that is downstream of it, empty.
    """
    audit = "AUDIT (name alone, standalone true); SELECT 1 FROM demo.text WHERE word = ''"
    project.write("audits/alone.sql", audit)
    project.model("text", "SELECT 'x' AS word")
    project.model("edited", "SELECT 1 AS id", "kind FULL")
    project.model("below", "SELECT id FROM demo.edited", "kind FULL")
    project.model("other", "SELECT 1 AS id", "kind FULL")
    project.model("unasked", "SELECT 1 AS id", "kind FULL")
    assert run_in_process(project.definitions(), instance).success
    project.model("edited", "SELECT word::INT AS id FROM demo.text", "kind FULL")
    project.model("other", "SELECT 2 AS id", "kind FULL")
    project.model("new", "SELECT word::INT AS id FROM demo.text", "kind FULL")
    shown = "SELECT (SELECT MAX(id) FROM demo__dev.{}), (SELECT MAX(id) FROM demo__dev.{})"
    key = dg.AssetCheckKey(dg.AssetKey(["warehouse", "demo", "text"]), "alone")
    checked = run_in_process(project.definitions(), instance, checks=[key])
    assert checked.passed == {"text:alone": True}
    assert project.query(shown.format("edited", "other")) == [(1, 1)]
    assert (
        sum("Checks that run alone deploy no model" in t for t in _warned(instance, checked)) == 1
    )
    run = run_in_process(project.definitions(), instance)
    assert run.materialized == ["other"]
    assert "failed with ConversionException" in run.failed["warehouse__demo__edited"]
    assert project.query(shown.format("edited", "below")) == [(1, 1)]
    assert project.query(shown.format("other", "unasked")) == [(2, 1)]
    assert "new" not in {name for _, name in _views(project)}
    assert run.passed == {"text:alone": True}
    assert not [text for text in _warned(instance, run) if "not deployed" in text]
    project.model("text", "SELECT '7' AS word")
    project.model("unasked", "SELECT 3 AS id", "kind FULL")
    run = run_in_process(project.definitions(), instance, "text", "edited", "below", "new")
    assert run.success, run.failed
    assert project.query(shown.format("edited", "below")) == [(7, 7)]
    texts = [entry.user_message for entry in instance.all_logs(run.run_id)]
    assert [text for text in texts if "shows their new versions empty" in text] == [
        "warehouse.demo.unasked changed, too, and this run does not select them: environment `dev`"
        " shows their new versions empty until a run builds them."
    ]


def _warned(instance: dg.DagsterInstance, run: Run) -> list[str]:
    logs = instance.all_logs(run.run_id)
    return [e.user_message for e in logs if int(e.level) == logging.WARNING]


_GRANTED = (
    "MODEL (name demo.second, kind FULL); SELECT 2 AS id;"
    " ON_VIRTUAL_UPDATE_BEGIN; INSERT INTO grants VALUES (1); ON_VIRTUAL_UPDATE_END;"
)


@pytest.mark.parametrize("promotion", ["before_build", "after_build"])
def test_a_deployment_that_failed_at_its_views_is_finished_by_the_next_run(
    project: Project, instance: dg.DagsterInstance, tmp_path: Path, promotion: str
) -> None:
    """Promise: its message has the model and the reason; corrected, the next run ends it at once, as a plan does."""
    project.model("first", "SELECT 1 AS id")
    settings = {**_APPLY, "promotion": promotion}
    project.write("models/second.sql", _GRANTED)
    failed = run_in_process(project.definitions(**settings), instance)
    said = failed.failed["warehouse__demo__second"]
    assert "warehouse.demo.second: CatalogException" in said and "grants does not exist" in said, (
        said
    )
    assert _unfinished(project) == [("prod",)]
    again = run_in_process(project.definitions(**settings), instance)
    assert (
        "grants does not exist" in again.failed["warehouse__demo__first"]
    )  # and no wait for nobody
    project.execute("CREATE TABLE grants (id INT)")
    copy = alone.copied(project, tmp_path / "copy")
    run = run_in_process(project.definitions(**settings), instance)
    assert run.success, run.failed
    alone.plan(copy)
    assert _views(project) == _views(copy) and len(_views(copy)) == 2
    assert _unfinished(project) == _unfinished(copy) == []
    assert project.query("SELECT count(*) FROM grants") == [(1,)]


def test_a_change_that_fails_at_its_view_leaves_production_whole(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: its model fails with the reason, no other does, and the environment is as it was."""
    project.model("first", "SELECT 1 AS id")
    assert run_in_process(project.definitions(**_APPLY), instance).success
    project.write("models/second.sql", _GRANTED)
    for _ in range(2):
        run = run_in_process(project.definitions(**_APPLY), instance)
        assert list(run.failed) == ["warehouse__demo__second"]
        assert "grants does not exist" in run.failed["warehouse__demo__second"]
        assert (_unfinished(project), project.query(_VIEWS)) == ([], [("first",)])
    project.execute("CREATE TABLE grants (id INT)")
    assert run_in_process(project.definitions(**_APPLY), instance).success
    assert project.query(_VIEWS) == [("first",), ("second",)]


def test_production_whose_plan_failed_is_told_at_once(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: who has opened the file is alone with it, so that a run that may not deploy waits for nobody."""
    project.model("first", "SELECT 1 AS id")
    project.write("models/second.sql", _GRANTED)
    assert not run_in_process(project.definitions(**_APPLY), instance).success
    (told,) = [f for f in diagnose(ProjectSettings(project_dir=str(project.root))) if f.remedy]
    assert told.subject == "plan" and "`prod`" in told.said and "&& sqlmesh plan`" in told.remedy
    began = time.monotonic()
    run = run_in_process(project.definitions(environment="prod", wait_timeout=300), instance)
    assert "or a plan of it died. Run `cd " in run.failed["warehouse__demo__first"]
    assert time.monotonic() - began < 150


def _unfinished(project: Project) -> list[tuple[Any, ...]]:
    return project.query("SELECT name FROM sqlmesh._environments WHERE finalized_ts IS NULL")
