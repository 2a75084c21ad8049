"""The launchpad's run options."""

from __future__ import annotations

import dagster as dg
import pytest
from tests.sqlmesh_dagster.projects import Project, run_in_process

from sqlmesh_dagster import InvalidSettingError, SQLMeshRunOptions


def _daily(project: Project) -> None:
    project.model(
        "daily",
        "SELECT @start_ds::DATE AS day, @execution_ds::DATE AS ran_on",
        "kind INCREMENTAL_BY_TIME_RANGE (time_column day, batch_size 1)",
    )


def test_start_and_end_limit_what_is_built(project: Project, instance: dg.DagsterInstance) -> None:
    """Promise: only missing intervals inside the bounds are executed."""
    _daily(project)
    options = {"start": "2025-01-03", "end": "2025-01-05"}
    run = run_in_process(project.definitions(), instance, options=options)
    assert run.metadata("daily")["sqlmesh/batches"] == 3


def test_execution_time_is_utc_and_reaches_sqlmesh(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: a time with an offset is converted; one without is UTC."""
    _daily(project)
    run_in_process(project.definitions(), instance, now="2025-01-03T20:00:00-08:00")
    assert project.query("SELECT max(day)::TEXT, max(ran_on)::TEXT FROM demo__dev.daily") == [
        ("2025-01-03", "2025-01-04")
    ]


_WEEKLY = "kind INCREMENTAL_BY_TIME_RANGE (time_column day), cron '@weekly', interval_unit 'day'"


def test_ignore_cron_builds_what_its_cron_would_hold_back(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: a weekly model is brought up to yesterday."""
    project.model("weekly", "SELECT @start_ds::DATE AS day", _WEEKLY)
    definitions = project.definitions()
    run_in_process(definitions, instance)
    assert run_in_process(definitions, instance).unchanged == ["weekly"]
    run = run_in_process(definitions, instance, options={"ignore_cron": True})
    assert run.materialized == ["weekly"]


def test_what_was_built_ahead_of_its_cron_is_restated_as_far(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: a restatement builds all that is done, and leaves no day of it missing."""
    project.model("weekly", "SELECT @start_ds::DATE AS day", _WEEKLY)
    definitions = project.definitions()
    early = {"ignore_cron": True}
    run_in_process(definitions, instance, options=early)
    restated = run_in_process(definitions, instance, options={"restate": True})
    assert restated.materialized == ["weekly"]
    assert run_in_process(definitions, instance, options=early).unchanged == ["weekly"]


def test_a_bad_execution_time_is_named(project: Project, instance: dg.DagsterInstance) -> None:
    """Promise: a typing error is reported as one."""
    _daily(project)
    run = run_in_process(project.definitions(), instance, now="yesterdayish")
    ((_, error),) = run.failed.items()
    assert "`yesterdayish`" in error


def test_the_janitor_is_skipped_when_told_to(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: expired environments stay when `skip_janitor` is set, and go when it is not, after the models."""
    project.model("kept", "SELECT 1::INT AS id")
    settings = {"environment": "prod", "undeployed_changes": "apply"}
    run_in_process(project.definitions(environment="old"), instance)
    project.model("reader", "SELECT id FROM demo__old.kept")
    run_in_process(project.definitions(**settings), instance)
    project.execute("UPDATE sqlmesh._environments SET expiration_ts = 1 WHERE name = 'old'")

    def is_there() -> bool:
        return bool(project.query("SELECT 1 FROM sqlmesh._environments WHERE name = 'old'"))

    run_in_process(project.definitions(**settings), instance, options={"skip_janitor": True})
    assert is_there()
    run = run_in_process(project.definitions(**settings), instance, now="2025-01-11T00:30:00")
    assert run.success and not is_there(), run.failed


def test_a_time_that_has_not_come_touches_nothing(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: neither a run nor a plan of 2099 leaves a database, or an interval, behind."""
    _daily(project)
    definitions = project.definitions()
    run = run_in_process(definitions, instance, now="2099-01-01T00:00:00")
    ((_, error),) = run.failed.items()
    assert "`execution_time` is `2099-01-01T00:00:00" in error
    plan = definitions.resolve_job_def("sqlmesh_plan_job").execute_in_process(
        instance=instance,
        run_config={"ops": {"sqlmesh_plan": {"config": {"start": "2099-01-01", "apply": True}}}},
        raise_on_error=False,
    )
    assert not plan.success
    assert not project.database.exists()


def test_the_launchpad_describes_every_option() -> None:
    """Promise: what can be set is explained where it is set."""
    fields = SQLMeshRunOptions.to_fields_dict()
    assert "build" in fields
    assert not [name for name, field in fields.items() if not field.description]


def test_a_build_that_there_is_not_is_named() -> None:
    """Promise: with the choices."""
    with pytest.raises(InvalidSettingError, match="`build` is `everything`"):
        SQLMeshRunOptions(build="everything").resolve()


def test_an_option_that_would_do_nothing_is_refused(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: `restate_downstream` alone builds nothing again, and looks as if it did."""
    project.model("m", "SELECT 1::INT AS id")
    definitions = project.definitions()
    run = run_in_process(definitions, instance, options={"restate_downstream": True})
    ((_, error),) = run.failed.items()
    assert "`restate_downstream` is `true`, and nothing is built again" in error
    assert run_in_process(definitions, instance, options={"restate_downstream": False}).success
