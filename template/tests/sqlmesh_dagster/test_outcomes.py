"""What each SQLMesh outcome becomes in Dagster: the rows of the table in `events`."""

from __future__ import annotations

import dagster as dg
import pytest

from tests.sqlmesh_dagster.projects import Project, run_in_process

NEXT_DAY = "2025-01-11T00:30:00"


def test_an_executed_model_is_materialized_with_its_intervals_and_audits(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: a materialization says what SQLMesh executed."""
    project.model(
        "daily",
        "SELECT @start_ds::DATE AS day, 1::INT AS n",
        "kind INCREMENTAL_BY_TIME_RANGE (time_column day, batch_size 4),"
        " audits (not_null(columns := (day)))",
    )
    run = run_in_process(project.definitions(), instance)
    assert run.success
    assert run.materialized == ["daily"]
    assert run.passed == {"daily:not_null_day": True}
    metadata = run.metadata("daily")
    assert metadata["sqlmesh/batches"] == 3
    assert metadata["sqlmesh/interval_start"] == 1735689600.0  # 2025-01-01 UTC
    assert metadata["sqlmesh/interval_end"] == 1736467200.0  # 2025-01-10 UTC, exclusive
    assert metadata["sqlmesh/next_due"] == 1736553600.0  # 2025-01-11 UTC


def test_a_model_with_nothing_due_is_reported_as_it_was_before(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: Dagster shows the table as it is: same data version, built when and where it was, and
    the last result of each check, with when and where it was found."""
    project.model("full", "SELECT 1::INT AS id", "kind FULL, audits (not_null(columns := (id)))")
    definitions = project.definitions()
    first = run_in_process(definitions, instance)
    before = _last(instance, "full")
    idle = run_in_process(definitions, instance)
    assert idle.success
    assert (idle.materialized, idle.unchanged, idle.observed) == ([], ["full"], [])
    facts, built = idle.metadata("full"), first.metadata("full")
    assert facts["sqlmesh/status"] == "up to date"
    assert facts["sqlmesh/next_due"] == 1736553600.0
    assert facts["sqlmesh/built_in_run"] == first.run_id
    for key in ("sqlmesh/built_at", "sqlmesh/version", "sqlmesh/snapshot", "dagster/row_count"):
        assert facts[key] == built[key], key
    assert _last(instance, "full").tags == before.tags
    assert (idle.passed, idle.kept) == ({}, {"full:not_null_id": True})
    check = idle.checks["full:not_null_id"].metadata
    assert check["sqlmesh/found_in_run"].value == first.run_id
    third = run_in_process(definitions, instance)
    assert third.metadata("full") == facts
    assert third.checks["full:not_null_id"].metadata == check


def _last(instance: dg.DagsterInstance, name: str) -> dg.AssetMaterialization:
    event = instance.get_latest_materialization_event(dg.AssetKey(["warehouse", "demo", name]))
    assert event is not None and event.asset_materialization is not None
    return event.asset_materialization


def test_a_due_model_downstream_of_an_idle_one_is_built(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: an up-to-date model does not hold back what depends on it."""
    project.model(
        "monthly", "SELECT 1::INT AS id", "kind FULL, cron '@monthly', start '2024-12-01'"
    )
    project.model("daily", "SELECT id FROM demo.monthly")
    definitions = project.definitions()
    run_in_process(definitions, instance)
    next_day = run_in_process(definitions, instance, now=NEXT_DAY)
    assert next_day.success
    assert next_day.unchanged == ["monthly"]
    assert next_day.materialized == ["daily"]


def test_a_model_that_was_never_built_is_observed_with_the_name_of_what_it_waits_for(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: a signal that holds a model back is named, and the run goes on."""
    project.write(
        "signals/gates.py",
        """
        import typing as t
        from sqlmesh import DatetimeRanges, signal

        @signal()
        def gate_open(batch: DatetimeRanges) -> t.Union[bool, DatetimeRanges]:
            return False
        """,
    )
    project.model("gated", "SELECT 1::INT AS id", "kind FULL, signals (gate_open())")
    project.model("below", "SELECT id FROM demo.gated")
    project.model("free", "SELECT 1::INT AS id")
    run = run_in_process(project.definitions(), instance)
    assert run.success
    assert run.materialized == ["free"]
    assert sorted(run.observed) == ["below", "gated"]
    assert run.metadata("gated")["sqlmesh/status"] == "not ready"
    assert "gate_open" in run.metadata("gated")["sqlmesh/reason"]
    assert "gated" in run.metadata("below")["sqlmesh/reason"]


def test_a_failed_model_fails_its_step_with_the_engines_error_and_the_sql(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: the step's error names the model and says what the engine said; successes are kept."""
    project.model("good", "SELECT 1::INT AS id")
    project.model("broken", "SELECT error('no such luck')::TEXT AS reason FROM demo.good")
    project.model("below", "SELECT reason FROM demo.broken")
    project.model("beside", "SELECT id FROM demo.good")
    run = run_in_process(project.definitions(), instance)
    assert not run.success
    assert sorted(run.materialized) == ["beside", "good"]
    ((step, error),) = run.failed.items()
    assert step == "warehouse__demo__broken"
    assert "`demo.broken`" in error
    assert "no such luck" in error
    assert "SELECT" in error
    assert "warehouse__demo__below" not in run.started
    assert project.query("SELECT count(*) FROM demo__dev.good") == [(1,)]


def test_a_failing_python_model_shows_its_own_traceback(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: an exception of the user's Python reaches the step's error."""
    project.write(
        "models/py.py",
        """
        import typing as t
        import pandas as pd
        from sqlmesh import ExecutionContext, model

        @model("demo.py", columns={"id": "int"}, kind="FULL")
        def execute(context: ExecutionContext, **kwargs: t.Any) -> pd.DataFrame:
            raise ValueError("the oven is cold")
        """,
    )
    run = run_in_process(project.definitions(), instance)
    ((_, error),) = run.failed.items()
    assert "`demo.py`" in error
    assert "the oven is cold" in error


def test_a_failed_blocking_audit_fails_its_check_and_its_step_and_skips_downstream(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: the culprit is red, with the rows it found; nothing below it runs."""
    project.model(
        "bad",
        "SELECT * FROM (VALUES (1::INT, 1::INT), (NULL, 2)) AS t(id, n)",
        "kind FULL, audits (not_null(columns := (id)), unique_values(columns := (n)))",
    )
    project.model("below", "SELECT id FROM demo.bad")
    run = run_in_process(project.definitions(), instance)
    assert not run.success
    assert run.materialized == []
    assert run.passed == {"bad:not_null_id": False, "bad:unique_values_n": True}
    check = run.checks["bad:not_null_id"]
    assert check.severity is dg.AssetCheckSeverity.ERROR
    assert check.metadata["sqlmesh/failing_rows"].value == 1
    query = (
        str(check.metadata["sqlmesh/query"].value).removeprefix("```sql\n").removesuffix("\n```")
    )
    assert len(project.query(query)) == 1
    ((step, error),) = run.failed.items()
    assert step == "warehouse__demo__bad"
    assert "not_null" in error
    assert "warehouse__demo__below" not in run.started


def test_a_failed_non_blocking_audit_warns_and_the_asset_materializes(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: `blocking := false` on the model's use of an audit counts."""
    project.model(
        "bad",
        "SELECT NULL::INT AS id",
        "kind FULL, audits (not_null(columns := (id), blocking := false))",
    )
    project.model("below", "SELECT id FROM demo.bad")
    run = run_in_process(project.definitions(), instance)
    assert run.success
    assert run.materialized == ["bad", "below"]
    assert run.passed == {"bad:not_null_id": False}
    assert run.checks["bad:not_null_id"].severity is dg.AssetCheckSeverity.WARN


def test_an_audit_that_did_not_run_is_not_reported(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: a model that fails before its audits has no check results; a skipped audit has none."""
    project.write("audits/off.sql", "AUDIT (name off, skip true); SELECT * FROM @this_model;")
    project.model(
        "broken",
        "SELECT error('boom')::TEXT AS id",
        "kind FULL, audits (not_null(columns := (id)))",
    )
    project.model("fine", "SELECT 1::INT AS id", "kind FULL, audits (off)")
    run = run_in_process(project.definitions(), instance)
    assert not run.success
    assert run.checks == {}
    assert run.materialized == ["fine"]


def test_a_model_that_fails_in_its_second_batch_is_not_materialized(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: a model is only materialized when all that was due has been executed."""
    project.model(
        "batched",
        "SELECT @start_ds::DATE AS day, CASE WHEN @start_ds >= '2025-01-05' THEN error('late')"
        " ELSE 'x' END AS v",
        "kind INCREMENTAL_BY_TIME_RANGE (time_column day, batch_size 4, batch_concurrency 1)",
    )
    run = run_in_process(project.definitions(), instance)
    assert run.materialized == []
    ((_, error),) = run.failed.items()
    assert "late" in error


def test_a_mended_model_and_what_is_below_it_are_built_by_the_next_run(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: a failed interval is not recorded as done."""
    project.execute("CREATE TABLE main.source AS SELECT NULL::INT AS id")
    project.model(
        "reader",
        "SELECT id::INT AS id FROM main.source",
        "kind FULL, audits (not_null(columns := (id)))",
    )
    project.model("below", "SELECT id FROM demo.reader")
    definitions = project.definitions()
    assert not run_in_process(definitions, instance).success
    project.execute("UPDATE main.source SET id = 1")
    fixed = run_in_process(definitions, instance)
    assert fixed.success
    assert fixed.materialized == ["reader", "below"]
    assert fixed.passed == {"reader:not_null_id": True}


def test_the_data_version_changes_exactly_when_a_model_was_executed(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: an idle run leaves the data version as it is; a new execution changes it."""
    project.model("full", "SELECT 1::INT AS id")
    definitions = project.definitions()
    (key,) = definitions.resolve_asset_graph().executable_asset_keys
    versions = []
    for now in ("2025-01-10T00:30:00", "2025-01-10T00:40:00", NEXT_DAY):
        run_in_process(definitions, instance, now=now)
        event = instance.get_latest_materialization_event(key)
        assert event is not None
        assert event.asset_materialization is not None
        versions.append((event.asset_materialization.tags or {})["dagster/data_version"])
    assert versions[0] == versions[1]
    assert versions[1] != versions[2]


def test_a_materialization_says_how_many_rows_there_are_now(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: of tables, not of views, as a number that the UI can plot; with the plan and the audits."""
    project.model(
        "daily",
        "SELECT @start_ds::DATE AS day, 1::INT AS n",
        "kind INCREMENTAL_BY_TIME_RANGE (time_column day, batch_size 3),"
        " audits (accepted_range(column := n, min_v := 2, blocking := false))",
    )
    project.model("seen", "SELECT day FROM demo.daily", "kind VIEW")
    project.model("full", "SELECT i::INT AS id FROM range(7) AS t(i)")
    run = run_in_process(project.definitions(), instance)
    daily, full = run.metadata("daily"), run.metadata("full")
    ((rows,),) = project.query("SELECT count(*) FROM demo__dev.daily")
    assert (daily["dagster/row_count"], full["dagster/row_count"]) == (rows, 7)
    assert "dagster/row_count" not in run.metadata("seen")
    assert daily["sqlmesh/intervals"] == [
        ["2025-01-01T00:00:00+00:00", "2025-01-10T00:00:00+00:00"]
    ]
    assert (daily["sqlmesh/audits"], daily["sqlmesh/audits_failed"]) == (1, 1)
    ((plan,),) = project.query("SELECT plan_id FROM sqlmesh._environments WHERE name = 'dev'")
    assert daily["sqlmesh/plan"] == plan
    assert isinstance(daily["sqlmesh/duration_seconds"], float)


def test_a_count_that_fails_fails_no_model(
    project: Project, instance: dg.DagsterInstance, caplog: pytest.LogCaptureFixture
) -> None:
    """Promise: what only decorates is best effort. A model that drops its own table has none to count."""
    project.write(
        "models/fleeting.sql",
        """
        MODEL (name demo.fleeting, kind FULL);
        SELECT 1::INT AS id;
        @IF(@runtime_stage = 'evaluating', DROP TABLE IF EXISTS @this_model);
        """,
    )
    with caplog.at_level("INFO"):
        run = run_in_process(project.definitions(), instance)
    assert run.materialized == ["fleeting"]
    assert "dagster/row_count" not in run.metadata("fleeting")
    assert "Could not count the rows" in caplog.text
