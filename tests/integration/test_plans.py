"""Plans: shown in full, applied when asked to, never on production by themselves; and environments."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from tests.sqlmesh_dagster.projects import Project, Run, run_in_process

from sqlmesh_dagster import SQLMeshResource, SQLMeshTranslator, TranslatorSettings
from sqlmesh_dagster.facts.plan_summary import PlannedChange, PlanSummary
from sqlmesh_dagster.guard.locks import ProjectLock

DAILY = "kind INCREMENTAL_BY_TIME_RANGE (time_column day)"
ROWS = "SELECT @start_ds::DATE AS day, 1::INT AS id"
FAILING_TEST = """
    test_first:
      model: demo.first
      outputs:
        query:
          - id: 2
"""


def execute(
    project: Project, instance: dg.DagsterInstance, what: str = "plan", **options: Any
) -> tuple[Run, dict[str, Any]]:
    """Runs the job of that name; the run, and its step's metadata as plain values."""
    return execute_of(project.definitions(), instance, what, **options)


def execute_of(
    definitions: dg.Definitions, instance: dg.DagsterInstance, what: str = "plan", **options: Any
) -> tuple[Run, dict[str, Any]]:
    """The same with definitions that are at hand."""
    result = definitions.resolve_job_def(f"sqlmesh_{what}_job").execute_in_process(
        instance=instance,
        run_config={"ops": {f"sqlmesh_{what}": {"config": options}}},
        raise_on_error=False,
    )
    steps = [e for e in result.all_events if e.event_type_value == "STEP_OUTPUT"]
    entries = steps[0].step_output_data.metadata if steps else {}
    metadata = {key: value.value for key, value in entries.items()}
    return Run(result.success, result.run_id, result.all_events), metadata


def failure(run: Run) -> str:
    """The only failed step's error."""
    ((_, error),) = run.failed.items()
    return error


def recorded(instance: dg.DagsterInstance, name: str) -> int:
    """How many materializations with new data a model has."""
    key = dg.AssetKey(["warehouse", "demo", name])
    found = [
        r.asset_materialization for r in instance.fetch_materializations(key, limit=100).records
    ]
    return len([event for event in found if event and "up to date" not in _status_of(event)])


def _status_of(event: dg.AssetMaterialization) -> str:
    status = event.metadata.get("sqlmesh/status")
    return str(status.value) if status else ""


def schemas(project: Project) -> set[str]:
    """Schemas of models' views."""
    rows = project.query("SELECT schema_name FROM information_schema.schemata")
    return {name for (name,) in rows if name.startswith("demo")}


def test_a_plan_that_names_what_is_not_there_names_its_option(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: SQLMesh would begin with nothing, or speak of a token; and nothing is changed."""
    project.model("first", "SELECT 1::INT AS id")
    definitions = project.definitions()
    assert run_in_process(definitions, instance).success
    for options, said in (
        ({"environment": "new", "create_from": "nowhere"}, "`create_from` is `nowhere`"),
        ({"environment": "new", "create_from": "new"}, "Use one of: dev"),
        ({"select_models": ["((("]}, "`select_models` is `(((`"),
        ({"select_models": ["nothing"]}, "`select_models` has `nothing`"),
        ({"select_models": ["tag:nothing"]}, "`select_models` is `tag:nothing`"),
        ({"select_models": ["demo.first", "+demo.fist"]}, "`+demo.fist`, which is the name of no"),
        ({"select_models": ["demo.fist"]}, "Did you mean `demo.first`?"),
        ({"effective_from": "2025-01-01"}, "set `forward_only` to `true`, too"),
    ):
        run, _ = execute_of(definitions, instance, apply=True, **options)
        assert "InvalidSettingError" in failure(run) and said in failure(run)
    assert schemas(project) == {"demo__dev"}


def test_a_plan_is_only_shown_unless_told_otherwise(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: changes, categories, what is to be built and text diffs as Markdown; nothing changes."""
    project.model("first", "SELECT 1::INT AS id")
    project.model("below", "SELECT id FROM demo.first")
    project.model("gone", "SELECT 1::INT AS id")
    project.model("daily", ROWS, DAILY)
    run_in_process(project.definitions(), instance)
    project.model("first", "SELECT 2::INT AS id")
    project.model("daily", ROWS + ", 'new' AS more", DAILY)
    project.model("added", "SELECT id FROM demo.first", "kind VIEW")
    (project.root / "models/demo_46_gone.sql").unlink()
    run, shown = execute(project, instance, execution_time="2025-01-10 00:30:00")
    assert run.success
    text = shown["sqlmesh/plan_summary"]
    assert "## Plan of environment `dev`" in text
    for row in (
        "| warehouse.demo.added | added | breaking |",
        "| warehouse.demo.first | modified | breaking |",
        "| warehouse.demo.below | modified indirectly | indirect breaking |",
        "| warehouse.demo.daily | modified | non-breaking |",
        "| warehouse.demo.gone | removed |  |",
        "| warehouse.demo.daily | 2025-01-01 - 2025-01-09 | 9 |  |",
        "| warehouse.demo.below | full refresh |",
        "| warehouse.demo.added | recreate view |",
    ):
        assert row in text, text
    assert "```diff" in text and "-  CAST(1 AS INT) AS id\n+  CAST(2 AS INT) AS id" in text
    numbers = (shown["sqlmesh/models_changed"], shown["sqlmesh/models_to_build"])
    assert (*numbers, shown["sqlmesh/applied"]) == (5, 4, False)
    logged = [entry.user_message for entry in instance.all_logs(run.run_id)]
    assert text in logged
    assert project.query("SELECT id FROM demo__dev.first") == [(1,)]
    assert recorded(instance, "first") == 1


def test_an_applied_plan_is_carried_out_and_recorded(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: what it builds is materialized once, and a run finds nothing to deploy afterwards."""
    project.model("first", "SELECT 1::INT AS id")
    project.model("daily", ROWS, DAILY)
    run, shown = execute(project, instance, apply=True)
    assert run.success, run.failed
    assert (shown["sqlmesh/applied"], shown["sqlmesh/models_built"]) == (True, 2)
    assert project.query("SELECT id FROM demo__dev.first") == [(1,)]
    assert [recorded(instance, name) for name in ("first", "daily")] == [1, 1]
    begun = project.sqlmesh_runs()
    assert len(run_in_process(project.definitions(), instance, now=None).unchanged) == 2
    assert project.sqlmesh_runs() == begun  # nothing was planned
    again, shown = execute(project, instance, apply=True)
    assert again.success and "There is nothing to do" in shown["sqlmesh/plan_summary"]
    assert [recorded(instance, name) for name in ("first", "daily")] == [1, 1]


def test_production_is_applied_only_with_an_option_of_its_own(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: `apply` alone refuses; without it the plan is shown; with both it is promoted."""
    project.settings = {"environment": "prod"}
    project.model("first", "SELECT 1::INT AS id")
    refused, _ = execute(project, instance, apply=True)
    assert "`allow_production`" in failure(refused)
    assert not project.database.exists()
    shown, _ = execute(project, instance)
    assert shown.success and "demo" not in schemas(project)
    done, _ = execute(project, instance, apply=True, allow_production=True)
    assert done.success and project.query("SELECT id FROM demo.first") == [(1,)]


def test_a_promotion_to_production_reuses_what_development_built(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: SQLMesh builds nothing again, and production's assets are materialized, with the code."""
    project.settings = {"environment": "prod"}
    production: dict[str, Any] = {"apply": True, "allow_production": True}
    project.model("first", "SELECT 1::INT AS id")
    execute(project, instance, **production)
    project.model("first", "SELECT 2::INT AS id")
    execute(project, instance, environment="dev_ada", apply=True)
    assert recorded(instance, "first") == 1  # what is built elsewhere is not production's asset
    _, shown = execute(project, instance, **production)
    assert shown["sqlmesh/models_built"] == 0
    assert project.query("SELECT id FROM demo.first") == [(2,)]
    key = dg.AssetKey(["warehouse", "demo", "first"])
    assert recorded(instance, "first") == 2
    event = instance.get_latest_materialization_event(key)
    assert event is not None and event.asset_materialization is not None
    (spec,) = project.definitions().resolve_all_asset_specs()
    assert (event.asset_materialization.tags or {})["dagster/code_version"] == spec.code_version


def test_a_new_environment_without_a_change_shows_what_production_does(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """SQLMesh alone asks for a flag of its command, which nobody can give to `poe apply`."""
    project.settings = {"environment": "prod"}
    project.model("first", "SELECT 1::INT AS id")
    execute(project, instance, apply=True, allow_production=True)
    planned, shown = execute(project, instance, environment="dev_bo", apply=True)
    assert planned.success and shown["sqlmesh/models_built"] == 0
    assert not shown["sqlmesh/nothing_to_do"]
    assert project.query("SELECT id FROM demo__dev_bo.first") == [(1,)]
    _, shown = execute(project, instance, environment="dev_bo", apply=True)
    assert shown["sqlmesh/nothing_to_do"]


@pytest.mark.parametrize("name", ["pr_12", "PR-12", "dev_ada"])
def test_an_environment_of_a_pull_request_lives_from_plan_to_removal(
    project: Project, instance: dg.DagsterInstance, name: str
) -> None:
    """Promise: one setting names it; views land in a schema with that suffix, and go with it."""
    suffix = name.lower().replace("-", "_")
    project.settings = {"environment": name}
    project.model("first", "SELECT 1::INT AS id")
    planned, _ = execute(project, instance, apply=True)
    assert planned.success and schemas(project) == {f"demo__{suffix}"}
    assert run_in_process(project.definitions(), instance, now=None).unchanged == ["first"]
    removed, shown = execute(project, instance, "invalidate")
    assert removed.success and shown == {"sqlmesh/environment": suffix, "sqlmesh/existed": True}
    assert schemas(project) == set()
    again, shown = execute(project, instance, "invalidate")
    assert again.success and shown["sqlmesh/existed"] is False


def test_an_invalidated_environment_may_be_left_to_the_janitor(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: without `drop` its views stay until SQLMesh's janitor runs."""
    project.model("first", "SELECT 1::INT AS id")
    execute(project, instance, apply=True)
    assert execute(project, instance, "invalidate", drop=False)[0].success
    assert schemas(project) == {"demo__dev"}
    with SQLMeshResource(project_dir=str(project.root)).open_context() as context:
        context.run_janitor(ignore_ttl=False)
    assert schemas(project) == set()


@pytest.mark.parametrize("name", ["prod", "PROD"])
def test_production_is_never_removed(
    project: Project, instance: dg.DagsterInstance, name: str
) -> None:
    """Promise: however it is written, and whatever else is there."""
    project.model("first", "SELECT 1::INT AS id")
    refused, _ = execute(project, instance, "invalidate", environment=name)
    assert "is never invalidated" in failure(refused)


def test_failing_unit_tests_stop_a_plan_with_their_text(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: before anything is planned; the test, its model and the difference are named."""
    project.model("first", "SELECT 1::INT AS id")
    project.write("tests/test_first.yaml", FAILING_TEST)
    run, _ = execute(project, instance, apply=True)
    error = failure(run)
    assert "1 of 1 unit tests fail" in error and "`warehouse.demo.first`: `test_first`" in error
    assert "Data mismatch" in error
    assert not project.database.exists()


def test_a_plan_that_fails_says_why_and_keeps_what_was_shown(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: the model, the engine's words and the plan; nothing is promoted or recorded."""
    project.model("broken", "SELECT id::INT AS id FROM main.nowhere")
    project.model("first", "SELECT 1::INT AS id")
    run, _ = execute(project, instance, apply=True)
    assert "nowhere" in failure(run)
    (event,) = [e for e in run.events if e.is_step_failure]
    shown = event.step_failure_data.user_failure_data
    assert shown is not None and "warehouse.demo.broken" in str(
        shown.metadata["sqlmesh/plan_summary"]
    )
    assert recorded(instance, "first") == 0


def test_a_plan_waits_for_who_works_on_the_project(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: a plan and a run never overlap; the one that gives up says for whom it waited."""
    project.model("first", "SELECT 1::INT AS id")
    project.settings = {"environment": "dev", "wait_timeout": 0.0}
    settings = SQLMeshResource(project_dir=str(project.root)).settings
    lock = ProjectLock(settings.lock_name, settings.project_path)
    with lock.held("Dagster run abc", 0):
        run, _ = execute(project, instance)
    assert "Dagster run abc" in failure(run)


def test_a_forward_only_change_is_called_so(project: Project, instance: dg.DagsterInstance) -> None:
    """Promise: the category says that history is kept."""
    project.model("daily", ROWS, f"{DAILY}, start '2025-01-01'")
    execute(project, instance, apply=True)
    project.model("daily", ROWS + ", 1 AS more", f"{DAILY}, start '2025-01-01'")
    _, shown = execute(project, instance, forward_only=True)
    assert (
        "| warehouse.demo.daily | modified | forward-only, non-breaking |"
        in shown["sqlmesh/plan_summary"]
    )


def test_audits_of_an_applied_plan_are_check_results(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: a warning that a plan finds is seen on its check, as after a run."""
    audits = "audits (not_null(columns := (id)), accepted_values_non_blocking(column := id, is_in := (2)))"
    project.model("first", "SELECT 1::INT AS id", f"kind FULL, {audits}")
    execute(project, instance, apply=True)
    keys = list(project.definitions().resolve_asset_graph().asset_check_keys)
    found = instance.event_log_storage.get_latest_asset_check_execution_by_key(keys)
    evaluations = [record.evaluation for record in found.values()]
    assert sorted(e.passed for e in evaluations if e is not None) == [False, True]


def test_an_applied_plan_leaves_no_check_unevaluated(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: audits of models and tables, standalone audits, unit tests and the linter, all that are shown."""
    project.execute("CREATE SCHEMA raw; CREATE TABLE raw.a AS SELECT 1::INT AS v")
    project.write(
        "external_models.yaml",
        """
        - name: raw.a
          columns: {v: int}
          audits:
          - name: not_null
            columns: "[v]"
        """,
    )
    project.write(
        "audits/alone.sql",
        "AUDIT (name alone, standalone true, blocking false);\nSELECT id FROM demo.full WHERE id > 5;",
    )
    project.write(
        "tests/test_full.yaml",
        """
        test_full:
          model: demo.full
          inputs: {raw.a: {rows: [{v: 1}]}}
          outputs: {query: {rows: [{id: 1}]}}
        """,
    )
    query = "SELECT COALESCE(v, 1)::INT AS id FROM raw.a"
    project.model("full", query, "kind FULL, audits (not_null(columns := (id)))")
    settings = TranslatorSettings(unit_test_checks=True, lint_checks=True)
    definitions = project.definitions(translator=SQLMeshTranslator(settings=settings))
    for _ in range(2):  # the second time the plan itself has nothing to do
        run, _shown = execute_of(definitions, instance, apply=True)
        assert run.success, run.failed
        found = {
            f"{check.asset_key.path[-1]}:{check.name}": _latest(instance, check)
            for check in definitions.resolve_asset_graph().asset_check_keys
        }
        assert found == {
            "full:not_null_id": True,
            "full:alone": True,
            "full:unit_tests": True,
            "full:lint": True,
            "a:not_null_v": True,
        }


def _latest(instance: dg.DagsterInstance, key: dg.AssetCheckKey) -> bool | None:
    record = instance.get_latest_asset_check_evaluation_record(key)
    return record.evaluation.passed if record and record.evaluation else None


@pytest.mark.slow
def test_a_plan_that_is_stopped_promotes_nothing(project: Project, tmp_path: Path) -> None:
    """Promise: stopped while it builds, it ends in its query; the environment shows what it showed."""
    begun = tmp_path / "begun"
    project.write("macros/__init__.py", "")
    project.write(
        "macros/begin.py",
        f"""
        from pathlib import Path
        from sqlmesh import macro

        @macro()
        def begins(evaluator):
            if evaluator.runtime_stage == "auditing":
                Path({str(begun)!r}).touch()
            return "TRUE"
        """,
    )
    query = "SELECT count(*) AS n FROM range(100000000) AS a, main.width AS b"
    project.write(
        "audits/slow.sql",
        f"AUDIT (name slow);\nSELECT n FROM ({query}) AS s WHERE @begins() AND n < 0;\n",
    )
    project.execute("CREATE TABLE main.width AS SELECT 1 AS n")
    project.model("slow", "SELECT 1::INT AS n", "kind FULL, audits (slow())")
    with dg.DagsterInstance.ephemeral() as instance:
        assert execute(project, instance, apply=True)[0].success
    begun.unlink()
    project.execute("INSERT INTO main.width FROM range(100000)")
    project.model("slow", "SELECT 2::INT AS n", "kind FULL, audits (slow())")
    code = (
        "import dagster as dg\n"
        "from sqlmesh_dagster import sqlmesh_definitions_factory\n"
        f"definitions = sqlmesh_definitions_factory(project_dir={str(project.root)!r},"
        " environment='dev')\n"
        "job = definitions.resolve_job_def('sqlmesh_plan_job')\n"
        "job.execute_in_process(run_config={'ops': {'sqlmesh_plan': {'config': {'apply': True}}}})\n"
    )
    command = ["env", "--default-signal=INT", sys.executable, "-c", code]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with (
        (tmp_path / "log").open("w") as log,
        subprocess.Popen(command, env=environment, stdout=log, stderr=log) as run,
    ):
        deadline = time.monotonic() + 90
        while not begun.exists() and run.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        run.send_signal(signal.SIGINT)
        try:
            assert run.wait(60) != 0
        finally:
            run.kill()
    assert begun.exists(), (tmp_path / "log").read_text()
    assert project.query("SELECT n FROM demo__dev.slow") == [(1,)]


def test_long_plans_are_cut_and_say_so() -> None:
    """Promise: a page of metadata stays a page; fences in a diff don't end its block."""
    diff = "\n".join(["+ ```", *("+ line" for _ in range(500))])
    changes = tuple(PlannedChange(f"a.b|c{n}", "modified", "breaking", diff) for n in range(300))
    text = PlanSummary("dev", "id", False, False, None, changes).markdown
    assert "… and 100 more" in text and "… and 250 more diffs" in text
    assert "… and 301 more lines" in text and "````diff" in text
    assert "a.b\\|c1 |" in text


def test_an_environment_that_is_always_recreated_is_known_to_exist(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Regression: `poe plan` said "does not exist yet" after each run."""
    config = (project.root / "config.yaml").read_text()
    project.write("config.yaml", config + "plan:\n  always_recreate_environment: true\n")
    project.model("first", "SELECT 1::INT AS id")
    _, shown = execute(project, instance)
    assert "It does not exist yet" in shown["sqlmesh/plan_summary"]
    assert run_in_process(project.definitions(), instance).success
    _, shown = execute(project, instance)
    assert "It exists" in shown["sqlmesh/plan_summary"]
