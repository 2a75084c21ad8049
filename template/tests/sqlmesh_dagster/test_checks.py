"""Audits as asset checks: with their model, alone, standalone, and on external tables."""

from __future__ import annotations

import logging

import dagster as dg

from sqlmesh_dagster.translator import SQLMeshTranslator, TranslatorSettings
from tests.sqlmesh_dagster.projects import Project, run_in_process


def _check(model: str, name: str) -> dg.AssetCheckKey:
    return dg.AssetCheckKey(dg.AssetKey(["warehouse", "demo", model]), name)


def test_a_check_is_executed_alone_without_rebuilding_its_model(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: only the audit runs; what it finds now is what is reported."""
    project.model(
        "kept",
        "SELECT 1::INT AS id, now()::TIMESTAMP AS built_at",
        "kind FULL, audits (not_null(columns := (id)), unique_values(columns := (id)))",
    )
    definitions = project.definitions()
    run_in_process(definitions, instance)
    before = project.query("SELECT built_at FROM demo__dev.kept")
    ((table,),) = project.query(
        "SELECT table_schema || '.' || table_name FROM information_schema.tables"
        " WHERE table_schema = 'sqlmesh__demo' AND table_type = 'BASE TABLE'"
    )
    project.execute(f"UPDATE {table} SET id = NULL")
    alone = run_in_process(definitions, instance, checks=[_check("kept", "not_null_id")])
    assert alone.passed == {"kept:not_null_id": False}
    assert alone.checks["kept:not_null_id"].severity is dg.AssetCheckSeverity.ERROR
    assert alone.materialized == []
    assert project.query("SELECT built_at FROM demo__dev.kept") == before


def test_a_check_of_a_model_that_was_never_built_has_no_result(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: nothing to audit is not a pass."""
    project.model("other", "SELECT 1::INT AS id")
    project.model("unbuilt", "SELECT 1::INT AS id", "kind FULL, audits (not_null(columns := (id)))")
    definitions = project.definitions()
    run_in_process(definitions, instance, "other")
    alone = run_in_process(definitions, instance, checks=[_check("unbuilt", "not_null_id")])
    assert alone.success
    assert alone.checks == {}


def test_a_check_alone_covers_every_interval_unless_narrowed(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: an audit of an incremental model looks at all that is recorded; options narrow it."""
    project.model(
        "daily",
        "SELECT @start_ds::DATE AS day, 1::INT AS n",
        "kind INCREMENTAL_BY_TIME_RANGE (time_column day, batch_size 1),"
        " audits (accepted_range(column := n, min_v := 2, blocking := false))",
    )
    definitions = project.definitions()
    run_in_process(definitions, instance)
    key = _check("daily", "accepted_range_n")
    alone = run_in_process(definitions, instance, checks=[key])
    assert alone.checks["daily:accepted_range_n"].metadata["sqlmesh/failing_rows"].value == 9
    narrow = {"start": "2025-01-02", "end": "2025-01-03"}
    narrowed = run_in_process(definitions, instance, checks=[key], options=narrow)
    assert narrowed.checks["daily:accepted_range_n"].metadata["sqlmesh/failing_rows"].value == 2


def test_what_an_audit_finds_is_a_warning_under_the_step_of_its_model(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: SQLMesh's "audit error" of one model is not shown under another's step."""
    warns = "kind FULL, audits (accepted_range(column := n, min_v := 5, blocking := false))"
    project.model("first", "SELECT 1::INT AS n")
    project.model("second", "SELECT n FROM demo.first", warns)
    run = run_in_process(project.definitions(), instance)
    about = [e for e in instance.all_logs(run.run_id) if "found 1 row" in e.user_message]
    (told,) = [e for e in about if e.dagster_event is None]
    assert (told.step_key, told.level) == ("warehouse__demo__second", logging.WARNING)
    texts = [e.user_message for e in instance.all_logs(run.run_id)]
    assert [text for text in texts if "audit error" in text] == []


def test_a_check_that_was_renamed_keeps_its_last_result(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: after an update from long names, or beside a new use of the audit, nothing is forgotten."""
    warns = "kind FULL, audits (accepted_range(column := n, min_v := 5, blocking := false))"
    project.model("kept", "SELECT 1::INT AS n", warns)
    long_names = SQLMeshTranslator(settings=TranslatorSettings(long_check_names=True))
    run_in_process(project.definitions(translator=long_names), instance)
    again = run_in_process(project.definitions(), instance)
    kept = instance.get_records_for_run(
        again.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION
    )
    (event,) = [record.event_log_entry.dagster_event for record in kept.records]
    assert event is not None and event.asset_check_evaluation_data.check_name == "accepted_range_n"
    assert not event.asset_check_evaluation_data.passed
    assert "sqlmesh/found_at" in event.asset_check_evaluation_data.metadata


def test_the_same_audit_twice_gives_two_results(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: each use of an audit is a check, built-in and custom alike, each with its own finding."""
    project.write(
        "audits/above.sql", "AUDIT (name above); SELECT * FROM @this_model WHERE @c <= @n;"
    )
    project.model(
        "twice",
        "SELECT 5::INT AS a, NULL::INT AS b",
        "kind FULL, audits (above(c := a, n := 1), above(c := a, n := 9, blocking := false),"
        " not_null(columns := (a)), not_null(columns := (b), blocking := false))",
    )
    run = run_in_process(project.definitions(), instance)
    assert run.success
    assert run.passed == {
        "twice:above_a_n_1": True,
        "twice:above_a_n_9": False,
        "twice:not_null_a": True,
        "twice:not_null_b": False,
    }


def test_a_standalone_audit_is_a_check_that_runs_after_its_models(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: it is shown on a model that it reads, and sees what this run built."""
    project.model("orders", "SELECT 3::INT AS id")
    project.model("payments", "SELECT 4::INT AS id")
    project.write(
        "audits/paid.sql",
        """
        AUDIT (name all_paid, standalone true);
        SELECT o.id FROM demo.orders AS o LEFT JOIN demo.payments AS p USING (id) WHERE p.id IS NULL
        """,
    )
    run = run_in_process(project.definitions(), instance)
    assert run.success
    ((name, passed),) = run.passed.items()
    assert name.endswith(":all_paid")
    assert not passed
    assert run.checks[name].severity is dg.AssetCheckSeverity.WARN
    assert run.checks[name].metadata["sqlmesh/failing_rows"].value == 1


def test_audits_of_an_external_table_are_checks_on_its_asset(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: raw data is audited where it is loaded."""
    project.execute("CREATE TABLE main.source AS SELECT NULL::INT AS id")
    project.write(
        "external_models.yaml",
        """
        - name: main.source
          columns:
            id: INT
          audits:
            - name: not_null
              columns: "(id)"
        """,
    )
    project.model("reader", "SELECT id::INT AS id FROM main.source")
    definitions = project.definitions(external_asset_mapping="raw/{node.name}")
    run = run_in_process(definitions, instance)
    assert run.passed == {"source:not_null_id": False}


def test_a_check_whose_audit_cannot_be_executed_fails_its_step(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: an audit that raises is an error, neither a pass nor a finding."""
    project.write(
        "audits/raising.sql",
        "AUDIT (name raising); SELECT 1 AS one FROM @this_model WHERE error('no audit') IS NULL;",
    )
    project.model("kept", "SELECT 1::INT AS id")
    run_in_process(project.definitions(), instance)
    project.model("kept", "SELECT 1::INT AS id", "kind FULL, audits (raising)")
    run = run_in_process(project.definitions(), instance)
    assert run.checks == {}
    ((_, error),) = run.failed.items()
    assert "no audit" in error


def _sample(check: dg.AssetCheckEvaluation) -> list[dict[str, object]] | None:
    table = check.metadata.get("sqlmesh/sample")
    if table is None:
        return None
    assert isinstance(table, dg.TableMetadataValue)
    return [dict(record.data) for record in table.records]


def _rows_found(
    project: Project, instance: dg.DagsterInstance, **settings: int
) -> list[dict[str, object]] | None:
    project.model(
        "found",
        "SELECT i::INT AS id, 'name ' || i AS name FROM range(3) AS t(i)",
        "kind FULL, cron '@hourly', audits (accepted_range(column := id, max_v := 0, blocking := false))",
    )
    run = run_in_process(project.definitions(**settings), instance)
    (check,) = run.checks.values()
    assert check.metadata["sqlmesh/arguments"].value == {"column": "id", "max_v": "0"}
    return _sample(check)


def test_failing_rows_are_shown_when_asked_for_and_never_otherwise(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: data leaves the warehouse only by a setting, and no more rows than it says."""
    assert _rows_found(project, instance) is None
    project.execute("UPDATE sqlmesh._intervals SET is_removed = true")
    rows = _rows_found(project, instance, failing_rows_sample=1)
    assert rows in ([{"id": "1", "name": "name 1"}], [{"id": "2", "name": "name 2"}])


def test_a_sample_is_shown_for_a_check_alone_and_for_a_blocking_audit(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: also where the model fails because of it."""
    project.model(
        "blocked",
        "SELECT NULL::INT AS id, 'x'::TEXT AS name, '2025-01-01'::DATE AS day, 1.5::DECIMAL(5, 2) AS cost",
        "kind FULL, audits (not_null(columns := (id)))",
    )
    definitions = project.definitions(failing_rows_sample=5)
    run = run_in_process(definitions, instance)
    assert not run.success
    for checks in (run.checks, run_in_process(definitions, instance).checks):
        (check,) = checks.values()
        (row,) = _sample(check) or []
        assert row == {"id": "NULL", "name": "x", "day": "2025-01-01", "cost": "1.50"}


def _bad_day(project: Project, day: str) -> None:
    project.execute(f"CREATE OR REPLACE TABLE main.bad AS SELECT '{day}'::DATE AS day")


def _with_a_bad_day(project: Project) -> None:
    """A model of which the rows of one day, named by a table, are worse than its audit allows."""
    _bad_day(project, "2025-01-09")
    project.model(
        "daily",
        "SELECT @start_ds::DATE AS day, CASE WHEN @start_ds::DATE = (SELECT day FROM main.bad)"
        " THEN 0 ELSE 1 END::INT AS n",
        "kind INCREMENTAL_BY_TIME_RANGE (time_column day, batch_size 1),"
        " audits (accepted_range(column := n, min_v := 1, blocking := false))",
    )


def test_a_check_of_an_incremental_model_says_what_it_covers(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: the intervals that the run built; all of them when the check is executed alone."""
    _with_a_bad_day(project)
    definitions = project.definitions()
    (first,) = run_in_process(definitions, instance).checks.values()
    assert first.metadata["sqlmesh/covers"].value == "2025-01-01 to 2025-01-09"
    (second,) = run_in_process(definitions, instance, now="2025-01-11T00:30:00").checks.values()
    assert second.metadata["sqlmesh/covers"].value == "2025-01-10"
    key = second.asset_check_key
    alone = run_in_process(definitions, instance, checks=[key], now="2025-01-11T00:30:00")
    (third,) = alone.checks.values()
    assert third.metadata["sqlmesh/covers"].value == "2025-01-01 to 2025-01-10"


def test_a_clean_day_does_not_hide_the_rows_of_another(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: a check stays failed until what failed is audited and found well; a setting forgets it."""
    _with_a_bad_day(project)
    definitions = project.definitions()
    (bad,) = run_in_process(definitions, instance).checks.values()
    assert (bad.passed, bad.description) == (False, "found 1 row in 2025-01-01 to 2025-01-09")
    (clean,) = run_in_process(definitions, instance, now="2025-01-11T00:30:00").checks.values()
    assert clean.passed is False
    assert clean.description == (
        "found no rows in 2025-01-10; an earlier run found rows in 2025-01-09, and no later audit of"
        " that time has passed"
    )
    (kept,) = run_in_process(definitions, instance, now="2025-01-11T00:30:00").checks.values()
    assert (kept.passed, kept.description) == (False, clean.description)
    forgetful = project.definitions(keep_checks_failed=False)
    (forgot,) = run_in_process(forgetful, instance, now="2025-01-12T00:30:00").checks.values()
    assert forgot.passed is True


def test_a_check_passes_again_once_the_bad_day_is_mended(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: a restatement of that day, or the check alone, looks at it again."""
    _with_a_bad_day(project)
    definitions = project.definitions()
    run_in_process(definitions, instance)
    _bad_day(project, "2030-01-01")
    options = {"restate": True, "start": "2025-01-09", "end": "2025-01-09"}
    (fixed,) = run_in_process(definitions, instance, options=options).checks.values()
    assert (fixed.passed, fixed.description) == (True, "found no rows in 2025-01-09")
