"""Local changes are not deployed changes: apply, warn or fail, and environments that are new."""

from __future__ import annotations

import dagster as dg
from tests.sqlmesh_dagster.projects import Project, run_in_process

from tests.integration.histories import alone


def test_a_new_development_environment_is_created_by_the_first_run(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: the first click works."""
    project.model("first", "SELECT 1::INT AS id")
    run = run_in_process(project.definitions(environment="dev"), instance)
    assert run.materialized == ["first"]


def test_production_is_never_created_or_changed_without_being_told_to(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: the default for `prod` is to fail, with the command to run."""
    project.model("first", "SELECT 1::INT AS id")
    run = run_in_process(project.definitions(environment="prod"), instance)
    ((_, error),) = run.failed.items()
    assert "Environment `prod` does not exist yet" in error
    assert "sqlmesh" in error
    assert "plan" in error


def test_apply_deploys_a_changed_model_and_runs_the_new_code(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: what Dagster shows is what ran; models that are not selected are not touched."""
    project.model("changed", "SELECT 1::INT AS id")
    project.model("same", "SELECT 1::INT AS id")
    run_in_process(project.definitions(), instance)
    project.model("changed", "SELECT 2::INT AS id")
    project.model("added", "SELECT id FROM demo.changed")
    run = run_in_process(project.definitions(), instance, "changed", "added")
    assert run.materialized == ["changed", "added"]
    assert project.query("SELECT id FROM demo__dev.added") == [(2,)]


def test_a_deleted_model_is_told_when_its_view_is_gone(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: once, by the run that removes it; somebody may read the view."""
    project.model("kept", "SELECT 1::INT AS id")
    project.model("gone", "SELECT 1::INT AS id")
    run_in_process(project.definitions(), instance)
    (project.root / "models/demo_46_gone.sql").unlink()
    told = []
    for _ in range(2):
        run = run_in_process(project.definitions(), instance)
        texts = [event.user_message for event in instance.all_logs(run.run_id)]
        told.append([text for text in texts if "Removed from" in text])
    assert told == [
        [
            "Removed from environment `dev`, as no file has them any more: warehouse.demo.gone."
            " Their tables are kept until SQLMesh's janitor drops them."
        ],
        [],
    ]
    views = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'demo__dev'"
    assert project.query(views) == [("kept",)]


def test_warn_runs_the_deployed_code_and_says_so(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: nothing is deployed, and the log names what differs; a new model fails clearly."""
    project.model("changed", "SELECT 1::INT AS id")
    run_in_process(project.definitions(), instance)
    project.model("changed", "SELECT 2::INT AS id")
    project.model("added", "SELECT 3::INT AS id")
    definitions = project.definitions(undeployed_changes="warn")
    run = run_in_process(definitions, instance, now="2025-01-11T00:30:00")
    assert run.materialized == ["changed"]
    assert project.query("SELECT id FROM demo__dev.changed") == [(1,)]
    ((step, error),) = run.failed.items()
    assert step == "warehouse__demo__added"
    assert "not deployed" in error
    messages = [entry.user_message for entry in instance.all_logs(run.run_id)]
    assert any("demo.added, warehouse.demo.changed" in text for text in messages)


def test_fail_refuses_to_run_old_code_and_names_the_command(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: with `fail`, every selected model says why, and nothing is built."""
    project.model("changed", "SELECT 1::INT AS id")
    run_in_process(project.definitions(), instance)
    project.model("changed", "SELECT 2::INT AS id")
    run = run_in_process(
        project.definitions(undeployed_changes="fail"), instance, now="2025-01-11T00:30:00"
    )
    assert run.materialized == []
    ((_, error),) = run.failed.items()
    assert "demo.changed" in error
    assert "plan dev" in error
    assert project.query("SELECT id FROM demo__dev.changed") == [(1,)]


def test_applying_to_an_existing_production_never_shows_an_empty_table(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: what the plan must rebuild below is built before `prod` is promoted, and recorded."""
    settings = {"environment": "prod", "undeployed_changes": "apply"}
    project.model("changed", "SELECT 1::INT AS id")
    project.model("below", "SELECT id FROM demo.changed")
    assert run_in_process(project.definitions(**settings), instance).success
    project.model("changed", "SELECT 2::INT AS id")
    below = dg.AssetKey(["warehouse", "demo", "below"])
    before = instance.get_latest_materialization_event(below)
    run = run_in_process(project.definitions(**settings), instance, "changed")
    assert run.success
    assert run.materialized == ["changed"]
    assert project.query("SELECT id FROM demo.below") == [(2,)]
    after = instance.get_latest_materialization_event(below)
    assert before is not None
    assert after is not None
    assert after.timestamp > before.timestamp


def test_a_failing_unit_test_stops_the_deployment_with_its_message(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: SQLMesh's unit tests guard what is deployed, and the failing one is named."""
    project.model("tested", "SELECT 1::INT AS id")
    project.write(
        "tests/test_tested.yaml",
        """
        test_tested:
          model: demo.tested
          outputs:
            query:
              - id: 2
        """,
    )
    run = run_in_process(project.definitions(), instance)
    ((_, error),) = run.failed.items()
    assert "test_tested" in error
    assert run.materialized == []


def test_a_broken_model_below_a_good_one_does_not_hide_its_name_when_deployed(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: when creating a table fails, the error says which model and why."""
    project.model("broken", "SELECT id::INT AS id FROM main.nowhere")
    run = run_in_process(project.definitions(), instance)
    ((_, error),) = run.failed.items()
    assert "nowhere" in error


def test_an_environments_name_may_be_written_as_sqlmesh_allows(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: `PR-12` is SQLMesh's `pr_12`, for the run and for the check that it exists."""
    project.model("first", "SELECT 1::INT AS id")
    definitions = project.definitions(environment="PR-12")
    assert run_in_process(definitions, instance).materialized == ["first"]
    assert run_in_process(definitions, instance).unchanged == ["first"]
    assert project.query("SELECT id FROM demo__pr_12.first") == [(1,)]


def test_what_the_linter_forbids_is_told_with_its_rule(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: the plan that it stops says only that there is something; the run names the rule."""
    config = (project.root / "config.yaml").read_text()
    project.write("config.yaml", config + "linter: {enabled: true, rules: [noselectstar]}\n")
    project.model("full", "SELECT * FROM (SELECT 1::INT AS id)")
    ((_, error),) = run_in_process(project.definitions(), instance).failed.items()
    assert "`demo.full`: noselectstar" in error


def test_an_environment_that_equals_production_is_created(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: the first run of a new environment works though nothing was changed in it.

    Bug: SQLMesh refused the plan, because a new environment needs a change.
    """
    project.model("customers", "SELECT 1::INT AS id")
    run_in_process(project.definitions(environment="prod", undeployed_changes="apply"), instance)
    run = run_in_process(project.definitions(), instance)
    assert run.unchanged == ["customers"]
    assert project.query("FROM demo__dev.customers") == [(1,)]


def test_apply_deploys_statements_that_alone_have_changed(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: a repaired `after_all` is what the next run executes; afterwards SQLMesh sees no change."""
    config = project.root / "config.yaml"
    before = config.read_text()
    project.model("first", "SELECT 1::INT AS id")
    assert run_in_process(project.definitions(), instance).success
    _end_with(project, before, "SELECT error('broken')")
    assert "broken" in str(run_in_process(project.definitions(), instance).failed)
    _end_with(project, before, "CREATE OR REPLACE TABLE main.ended AS SELECT 1 AS n")
    repaired = run_in_process(project.definitions(), instance)
    assert repaired.success and repaired.unchanged == ["first"]
    assert project.query("SELECT n FROM main.ended") == [(1,)]
    with alone(project, load=True) as context:
        assert not context.plan_builder("dev", skip_tests=True).build().has_changes
    again = run_in_process(project.definitions(), instance)
    said = [entry.user_message for entry in instance.all_logs(again.run_id)]
    assert again.success and not any("Deploying" in text for text in said)


def _end_with(project: Project, config: str, statement: str) -> None:
    text = f"{config}after_all:\n  - {statement}\n"
    (project.root / "config.yaml").write_text(text)
