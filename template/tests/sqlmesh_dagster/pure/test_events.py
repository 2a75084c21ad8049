"""Outcome → Dagster events: what each outcome becomes, and in which words a step fails."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import dagster as dg
import pytest

from sqlmesh_dagster import checks, errors, events
from sqlmesh_dagster.definition.project import ModelAsset, translate
from sqlmesh_dagster.facts.outcomes import AuditOutcome, ErrorOutcome, ModelOutcome, RowSample
from sqlmesh_dagster.facts.reported import Found, Reported, reported
from sqlmesh_dagster.facts.tables import BuiltTable
from sqlmesh_dagster.translator import SQLMeshTranslator, TranslatorSettings
from tests.sqlmesh_dagster.pure.records import audit, fqn, manifest, model

FIRST, SECOND = 1735689600000, 1735776000000  # 2025-01-01 and the day after
THIRD = SECOND + SECOND - FIRST
BUILT = ModelOutcome(
    fqn("m"),
    "executed",
    intervals=((FIRST, SECOND),),
    batches=1,
    duration_ms=1500,
    snapshot="snapshot",
    version="7",
    built_at=THIRD,
    execution_time="2025-01-03T00:00:00+00:00",
)
FOUND = AuditOutcome("not_null", "not_null(columns=(id))", "not_null", True, 2, "SELECT 1")


def asset_of(**changes: Any) -> ModelAsset:
    """The asset of a model, which is partitioned where its intervals are known."""
    settings = TranslatorSettings(partitions=True)
    project = translate(
        manifest(model("m", **changes)),
        SQLMeshTranslator(settings=settings),
        name="x",
        group_name="g",
        owners=(),
    )
    return project.assets[0]


DAILY: dict[str, Any] = {
    "kind": "INCREMENTAL_BY_TIME_RANGE",
    "first_interval": "2025-01-01T00:00:00+00:00",
}


def values(metadata: Any) -> dict[str, Any]:
    """Metadata as plain values."""
    return {key: getattr(value, "value", value) for key, value in metadata.items()}


def test_a_materialization_says_what_was_built() -> None:
    """Promise: intervals, time, batches, and which table it is."""
    result = events.materialization(asset_of(), BUILT)
    assert result.asset_key == dg.AssetKey(["db", "demo", "m"])
    shown = values(result.metadata)
    assert {key: shown[key] for key in shown if key != "sqlmesh/intervals"} == {
        "sqlmesh/status": "built",
        "sqlmesh/batches": 1,
        "sqlmesh/duration_seconds": 1.5,
        "sqlmesh/audits": 0,
        "sqlmesh/audits_failed": 0,
        "sqlmesh/interval_start": FIRST / 1000,
        "sqlmesh/interval_end": SECOND / 1000,
        "sqlmesh/snapshot": "snapshot",
        "sqlmesh/version": "7",
        "sqlmesh/built_at": THIRD / 1000,
    }
    assert shown["sqlmesh/intervals"] == [
        ["2025-01-01T00:00:00+00:00", "2025-01-02T00:00:00+00:00"]
    ]


def test_what_is_not_known_is_not_shown() -> None:
    """Promise: an outcome without numbers or intervals has no empty entries."""
    shown = events.metadata(ModelOutcome("m", "executed"))
    assert shown.pop("sqlmesh/status") == "built"
    assert sorted(shown) == [
        "sqlmesh/audits",
        "sqlmesh/audits_failed",
        "sqlmesh/batches",
        "sqlmesh/duration_seconds",
    ]


def test_what_the_engine_counted_is_shown() -> None:
    """Promise: zero is a number; the row count is Dagster's own entry."""
    outcome = replace(BUILT, rows_processed=0, bytes_processed=0, row_count=0, plan="p")
    shown = events.metadata(outcome)
    assert (shown["sqlmesh/rows_processed"], shown["sqlmesh/bytes_processed"]) == (0, 0)
    assert (shown["dagster/row_count"], shown["sqlmesh/plan"]) == (0, "p")
    due = replace(
        BUILT, next_due="2025-01-04T00:00:00+00:00", audits=(FOUND, replace(FOUND, failing_rows=0))
    )
    shown = values(events.metadata(due))
    assert shown["sqlmesh/next_due"] == 1735948800.0
    assert (shown["sqlmesh/audits"], shown["sqlmesh/audits_failed"]) == (2, 1)


def test_intervals_that_touch_are_one_and_few_are_shown() -> None:
    """Promise: twenty at most; begin and end are those of all of them."""
    touching = replace(BUILT, intervals=((SECOND, THIRD), (FIRST, SECOND)))
    assert len(events.metadata(touching)["sqlmesh/intervals"]) == 1
    many = replace(BUILT, intervals=tuple((n * 10, n * 10 + 5) for n in range(30)))
    shown = values(events.metadata(many))
    assert len(shown["sqlmesh/intervals"]) == 20
    assert (shown["sqlmesh/interval_start"], shown["sqlmesh/interval_end"]) == (0.0, 0.295)


def test_the_data_version_changes_with_each_execution() -> None:
    """Promise: another time, another table or other intervals are other data; the rest is not."""

    def version(outcome: ModelOutcome) -> str:
        found = events.materialization(asset_of(), outcome).data_version
        assert found is not None
        return found.value

    same = replace(BUILT, duration_ms=1, row_count=3, built_at=1)
    others = [
        replace(BUILT, execution_time="later"),
        replace(BUILT, snapshot="other"),
        replace(BUILT, intervals=()),
    ]
    assert version(same) == version(BUILT)
    assert len({version(BUILT), *map(version, others)}) == 4


def _of_partitions(outcome: ModelOutcome) -> list[dg.AssetMaterialization]:
    """One for each partition that was built."""
    asset = asset_of(**DAILY)
    built = events.built_partitions(asset, outcome)
    older = itertools.starmap(events.partition_event(asset, outcome), built[:-1])
    return [*older, events.newest_partition_event(asset, outcome, built)]


def test_each_partition_that_was_built_is_materialized() -> None:
    """Promise: each with its own time; what is known of the whole stands on the newest."""
    outcome = replace(BUILT, intervals=((FIRST, SECOND), (SECOND, THIRD)), reason="why")
    older, newest = _of_partitions(outcome)
    assert (older.partition, newest.partition) == ("2025-01-01", "2025-01-02")
    assert (older.description, newest.description) == (None, "why")
    assert "sqlmesh/batches" not in older.metadata
    shown = values(newest.metadata)
    assert (shown["sqlmesh/batches"], shown["sqlmesh/partitions"]) == (1, 2)
    assert (shown["sqlmesh/interval_start"], shown["sqlmesh/interval_end"]) == (
        SECOND / 1000,
        THIRD / 1000,
    )
    assert older.tags == newest.tags and older.tags and older.tags["dagster/code_version"] == "1"
    assert values(older.metadata)["sqlmesh/version"] == "7"
    assert values(older.metadata)["sqlmesh/interval_start"] == FIRST / 1000


def test_an_interval_that_fills_no_partition_is_told_all_the_same() -> None:
    """Promise: it belongs to no partition, and its time is shown."""
    half = replace(BUILT, intervals=((FIRST, FIRST + 3600000),))
    (only,) = _of_partitions(half)
    shown = values(only.metadata)
    assert only.partition is None and "sqlmesh/partitions" not in shown
    assert shown["sqlmesh/interval_end"] == FIRST / 1000 + 3600


def test_what_no_step_reports_has_the_versions_that_a_step_would_give_it() -> None:
    """Promise: Dagster counts it as current; partitioned or not."""
    one = events.runless_materialization(asset_of(), replace(BUILT, reason="why"))
    version = events.materialization(asset_of(), BUILT).data_version
    assert version is not None
    assert one.tags == {
        "dagster/data_version": version.value,
        "dagster/code_version": "1",
    }
    assert one.description == "why"
    assert values(one.metadata) == values(events.metadata(BUILT))
    daily = asset_of(**DAILY)
    days = events.built_partitions(daily, BUILT)
    partitioned = events.runless_materialization(daily, BUILT, days, {"why": "a plan"})
    assert partitioned.partition == days[-1][0] == "2025-01-01"
    assert values(partitioned.metadata)["why"] == "a plan" and partitioned.tags == {
        "dagster/data_version": version.value,
        "dagster/code_version": "1",
    }
    assert events.version_tags("v", None) == {"dagster/data_version": "v"}


TABLE = BuiltTable(fqn("m"), "snapshot", "7", "1", THIRD, FIRST, THIRD, ((FIRST, THIRD),))
IDLE = ModelOutcome(
    fqn("m"),
    "up_to_date",
    snapshot="snapshot",
    version="7",
    next_due="2025-01-04T00:00:00+00:00",
    reason="nothing is due",
    table=TABLE,
)


def last_of(event: dg.AssetMaterialization, run_id: str = "run-1") -> Reported:
    """What is known of an asset after this event."""
    return reported(event, run_id, THIRD / 1000)


def test_a_model_with_nothing_due_keeps_its_data_version_and_its_inputs() -> None:
    """Promise: the table as it is, built when and where; however often it is reported."""
    built = events.runless_materialization(asset_of(), replace(BUILT, row_count=3))
    tags = {**(built.tags or {}), "dagster/input_data_version/raw/a": "5", "dagster/backfill": "b"}
    first = events.unchanged(
        asset_of(), IDLE, last_of(dg.AssetMaterialization("m", metadata=built.metadata, tags=tags))
    )
    assert first is not None
    del tags["dagster/backfill"]
    assert first.tags == tags
    assert first.description == "Nothing is due. The data is the same as before."
    assert values(first.metadata) == {
        "dagster/row_count": 3,
        "sqlmesh/status": "up to date",
        "sqlmesh/reason": "nothing is due",
        "sqlmesh/next_due": 1735948800.0,
        "sqlmesh/interval_start": FIRST / 1000,
        "sqlmesh/interval_end": THIRD / 1000,
        "sqlmesh/snapshot": "snapshot",
        "sqlmesh/version": "7",
        "sqlmesh/built_at": THIRD / 1000,
        "sqlmesh/built_in_run": "run-1",
    }
    again = events.unchanged(asset_of(), IDLE, last_of(first, "run-2"))
    assert again is not None
    assert (values(again.metadata), again.tags) == (values(first.metadata), first.tags)


def test_a_table_of_which_dagster_does_not_know_is_told_as_that() -> None:
    """Promise: with a data version that any instance gives it; and never where there is no data."""
    fresh = events.unchanged(asset_of(), IDLE, None)
    built = events.runless_materialization(asset_of(), BUILT)
    newer = replace(IDLE, table=replace(TABLE, built_at=THIRD + 1))
    moved = events.unchanged(asset_of(), newer, last_of(built))
    assert fresh is not None and moved is not None
    assert values(fresh.metadata)["sqlmesh/source"] == "outside Dagster"
    assert values(moved.metadata)["sqlmesh/source"] == "outside Dagster"
    assert fresh.tags == events.built_outside(asset_of(), TABLE).tags
    assert (moved.tags or {})["dagster/data_version"] != (built.tags or {})["dagster/data_version"]
    assert events.unchanged(asset_of(), replace(IDLE, table=None), last_of(built)) is None


def test_what_the_audits_of_later_days_do_not_cover_stays_failed() -> None:
    """Promise: a clean day does not hide the rows of another; a good audit of that day does."""
    own = asset_of(audits=(audit("not_null"),)).checks

    def found(
        covered: tuple[int, int], rows: int, last: dg.AssetCheckEvaluation | None, **of: Any
    ) -> Any:
        failing = ((*covered, rows),) if rows else ()
        ran = replace(FOUND, failing_rows=rows, blocking=False, covered=(covered,), failing=failing)
        before = {own[0][1].key: Found(last, "run-1", 1.0)} if last else {}
        (one,) = checks.check_evaluations(own, replace(BUILT, audits=(ran,), **of), before)
        return one

    bad = found((FIRST, SECOND), 2, None)
    assert (bad.passed, bad.description) == (False, "found 2 rows in 2025-01-01")
    clean = found((SECOND, THIRD), 0, bad)
    assert clean.passed is False
    assert clean.description == (
        "found no rows in 2025-01-02; an earlier run found rows in 2025-01-01, and no later audit of"
        " that time has passed"
    )
    shown = values(clean.metadata)
    assert (shown["sqlmesh/covers"], shown["sqlmesh/failing_rows"]) == ("2025-01-02", 0)
    assert [(f["rows"], f["run"]) for f in shown["sqlmesh/failing_intervals"]] == [(2, "run-1")]
    assert found((FIRST, THIRD), 0, clean).passed is True
    assert found((SECOND, THIRD), 0, bad, version="8").passed is True  # another table


def test_a_last_result_says_when_and_where_it_was_found() -> None:
    """Promise: the first time, however often it is reported; none of an audit that has changed."""
    own = asset_of(audits=(audit("not_null"),)).checks
    (evaluation,) = checks.check_evaluations(own, replace(BUILT, audits=(FOUND,)))
    key = own[0][1].key
    (kept,) = checks.kept_results(own, IDLE, {key: Found(evaluation, "run-1", 5.0)})
    assert (kept.passed, kept.description) == (False, "found 2 rows")
    assert values(kept.metadata)["sqlmesh/found_at"] == 5.0
    assert values(kept.metadata)["sqlmesh/found_in_run"] == "run-1"
    (again,) = checks.kept_results(own, IDLE, {key: Found(kept, "run-2", 9.0)})
    assert values(again.metadata) == values(kept.metadata)
    assert checks.as_result(again).passed is False
    changed = asset_of(audits=(audit("not_null", query="SELECT 2"),)).checks
    assert not list(checks.kept_results(changed, IDLE, {key: Found(evaluation, "run-1", 5.0)}))
    assert not list(checks.kept_results(own, IDLE, {}))


def check(outcome: AuditOutcome) -> dg.AssetCheckResult:
    """The result of the check of one audit that ran."""
    own = asset_of(audits=(audit("not_null"), audit("other"))).checks
    (result,) = checks.check_results(own, replace(BUILT, audits=(outcome,)))
    return result


def test_an_audit_that_did_not_run_has_no_result() -> None:
    """Promise: silence is not success."""
    result = check(FOUND)
    assert result.check_name == "not_null"
    assert result.asset_key == dg.AssetKey(["db", "demo", "m"])


@pytest.mark.parametrize(
    ("rows", "blocking", "passed", "severity", "description"),
    [
        (0, True, True, "ERROR", "found no rows"),
        (1, True, False, "ERROR", "found 1 row"),
        (2, False, False, "WARN", "found 2 rows"),
    ],
)
def test_a_check_fails_when_its_audit_finds_rows(
    rows: int, blocking: bool, passed: bool, severity: str, description: str
) -> None:
    """Promise: an error if it blocks, a warning if not."""
    result = check(replace(FOUND, failing_rows=rows, blocking=blocking))
    assert (result.passed, result.severity.value) == (passed, severity)
    assert result.description == description
    assert values(result.metadata)["sqlmesh/failing_rows"] == rows
    assert values(result.metadata)["sqlmesh/fails_model"] == blocking


def test_a_check_shows_what_its_audit_was_called_with_and_found() -> None:
    """Promise: the call, its SQL, and rows where they were asked for."""
    plain = values(check(replace(FOUND, query=None)).metadata)
    assert sorted(plain) == [
        "sqlmesh/audit",
        "sqlmesh/covers",
        "sqlmesh/definition",
        "sqlmesh/failing_rows",
        "sqlmesh/fails_model",
        "sqlmesh/version",
    ]
    sample = RowSample(("id", "n"), (("1", "a"), ("2", "b")))
    shown = check(replace(FOUND, arguments=(("columns", "(id)"),), sample=sample)).metadata
    assert values(shown)["sqlmesh/audit"] == "not_null(columns=(id))"
    assert values(shown)["sqlmesh/arguments"] == {"columns": "(id)"}
    assert values(shown)["sqlmesh/query"] == "```sql\nSELECT 1\n```"
    table = shown["sqlmesh/sample"]
    assert isinstance(table, dg.TableMetadataValue)
    assert [record.data for record in table.records] == [
        {"id": "1", "n": "a"},
        {"id": "2", "n": "b"},
    ]
    assert table.schema == dg.TableSchema([dg.TableColumn("id"), dg.TableColumn("n")])
    torn = RowSample(("id", "n"), (("1",),))
    with pytest.raises(ValueError, match="zip"):
        check(replace(FOUND, sample=torn))


def test_a_check_that_no_step_reports_is_the_same() -> None:
    """Promise: whoever records it, it reads alike."""
    own = asset_of(audits=(audit("not_null"),)).checks
    (evaluation,) = checks.check_evaluations(own, replace(BUILT, audits=(FOUND,)))
    result = check(FOUND)
    assert (evaluation.asset_key, evaluation.check_name) == (result.asset_key, "not_null")
    assert (evaluation.passed, evaluation.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert evaluation.description == result.description
    assert values(evaluation.metadata) == values(result.metadata)
    passed = replace(FOUND, failing_rows=0, blocking=False)
    (evaluation,) = checks.check_evaluations(own, replace(BUILT, audits=(passed,)))
    assert (evaluation.passed, evaluation.severity) == (True, dg.AssetCheckSeverity.WARN)


def failure(outcome: ModelOutcome) -> errors.SQLMeshDagsterError:
    """What the step of a model fails with."""
    with pytest.raises(errors.SQLMeshDagsterError) as caught:
        events.raise_for("demo.m", outcome)
    return caught.value


def test_a_failed_model_fails_with_the_engines_words_and_the_sql() -> None:
    """Promise: kind, message and query in the text; all of it in the metadata."""
    error = ErrorOutcome("BinderException", "no column `x`", "SELECT x", "Traceback …")
    raised = failure(replace(BUILT, status="failed", error=error))
    assert type(raised) is errors.ModelFailedError
    assert raised.description == (
        "Model `demo.m` failed with BinderException: no column `x`\n\nSQL:\nSELECT x"
    )
    assert values(raised.metadata) == {
        "sqlmesh/error": "no column `x`",
        "sqlmesh/query": "```sql\nSELECT x\n```",
        "sqlmesh/traceback": "```\nTraceback …\n```",
    }


def test_a_failure_without_sql_has_none_in_its_text_and_a_long_one_is_cut() -> None:
    """Promise: a Python model has no query; the metadata keeps a long one whole."""
    bare = failure(replace(BUILT, status="failed", error=ErrorOutcome("ValueError", "no")))
    assert bare.description == "Model `demo.m` failed with ValueError: no"
    assert sorted(bare.metadata) == ["sqlmesh/error"]
    query = "x" * 5000
    long = failure(replace(BUILT, status="failed", error=ErrorOutcome("E", "m", query)))
    assert str(long.description).endswith("\n" + "x" * 4000)
    assert "x" * 5000 in str(values(long.metadata)["sqlmesh/query"])


def test_a_failure_says_of_which_time_it_is() -> None:
    """Promise: the day of the batch that failed, also where a Python model has no SQL to show it."""
    day = (1_735_948_800_000, 1_736_035_200_000)
    error = ErrorOutcome("ValueError", "no", covered=day)
    failed = failure(replace(BUILT, status="failed", error=error))
    assert failed.description == "Model `demo.m` failed in 2025-01-04 with ValueError: no"
    found = replace(FOUND, covered=(day,), failing=((*day, 2),))
    audited = failure(replace(BUILT, status="audit_failed", audits=(found,)))
    assert "found 2 rows in 2025-01-04. " in str(audited.description)


def test_blocking_audits_that_found_rows_are_the_reason() -> None:
    """Promise: those and no others, each with its count and its SQL."""
    passed = replace(FOUND, check_name="passed", identity="passed", failing_rows=0)
    warned = replace(FOUND, check_name="warned", identity="warned", blocking=False)
    other = replace(FOUND, check_name="other", identity="other", failing_rows=1, query=None)
    raised = failure(replace(BUILT, status="audit_failed", audits=(passed, FOUND, warned, other)))
    assert type(raised) is errors.AuditFailedError
    assert str(raised.description).startswith(
        "Model `demo.m`: blocking audit `not_null(columns=(id))` found 2 rows;"
        " blocking audit `other` found 1 row. "
    )
    assert sorted(raised.metadata) == ["sqlmesh/not_null"]


@pytest.mark.parametrize(
    "kind",
    [
        errors.ProjectLoadError,
        errors.EnvironmentMissingError,
        errors.EnvironmentNotFinalizedError,
        errors.EnvironmentBusyError,
        errors.UndeployedChangesError,
        errors.PlanFailedError,
        errors.RestatementRefusedError,
        errors.DatabaseLockedError,
        errors.DatabaseUnavailableError,
        errors.StateVersionError,
        errors.RunFailedError,
    ],
)
def test_an_error_of_the_whole_run_keeps_its_kind_and_its_words(
    kind: type[errors.SQLMeshDagsterError],
) -> None:
    """Promise: it is not dressed up as a failure of the model."""
    error = ErrorOutcome(kind.__name__, "what to do next")
    raised = failure(replace(BUILT, status="failed", error=error))
    assert type(raised) is kind
    assert raised.description == "what to do next"


def test_a_model_that_is_not_deployed_says_how_to_deploy_it() -> None:
    """Promise: the reason is the remedy."""
    raised = failure(replace(BUILT, status="not_deployed", reason="Run `sqlmesh plan`."))
    assert type(raised) is errors.UndeployedChangesError
    assert raised.description == "Model `demo.m` is not deployed. Run `sqlmesh plan`."
    bare = failure(replace(BUILT, status="not_deployed", reason=None))
    assert bare.description == "Model `demo.m` is not deployed."


def test_a_model_that_was_not_reached_says_why() -> None:
    """Promise: the reason, or else the status."""
    raised = failure(replace(BUILT, status="upstream_failed", reason="a failed"))
    assert type(raised) is errors.ModelSkippedError
    assert raised.description == "Model `demo.m` was not built: a failed."
    bare = failure(replace(BUILT, status="cancelled"))
    assert bare.description == "Model `demo.m` was not built: cancelled."
    lost = failure(replace(BUILT, status="failed"))  # without an error
    assert type(lost) is errors.ModelSkippedError
