"""The ledger: what was heard of each model becomes one outcome, reported once and as soon as it is known."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sqlmesh_dagster.facts.ledger import CANCELLED, Batch, DeployedModel, Ledger
from sqlmesh_dagster.facts.outcomes import AuditOutcome, ErrorOutcome, ModelOutcome, RowSample
from sqlmesh_dagster.facts.tables import BuiltTable

NOW = "2025-01-10T00:30:00+00:00"
A, B, C = "a", "b", "c"
DEPLOYED = {name: DeployedModel(f"snapshot of {name}", "1", "tomorrow") for name in (A, B, C)}
BOOM = ErrorOutcome("Error", "boom")


class _Told(list[ModelOutcome]):
    """Outcomes in the order in which they were reported."""

    @property
    def statuses(self) -> list[tuple[str, str]]:
        return [(outcome.fqn, outcome.status) for outcome in self]


def _ledger(*selected: str, is_audit: bool = False) -> tuple[Ledger, _Told]:
    """A ledger of a run that has begun."""
    told = _Told()
    ledger = Ledger(selected, told.append, is_audit=is_audit)
    ledger.begin(DEPLOYED, NOW, "hint", "plan 1")
    return ledger, told


BUILT = DeployedModel("built", "2")


def _batch(start: int = 1, **numbers: int) -> Batch:
    return Batch((start, start + 1), 10, BUILT, 99, **numbers)


def _audit(rows: int, query: str = "q", sample: RowSample | None = None) -> AuditOutcome:
    return AuditOutcome("not_null", "not_null", "not_null", True, rows, query, sample=sample)


def test_a_model_is_executed_when_its_last_planned_batch_is_built() -> None:
    """Promise: not before, and at once then."""
    ledger, told = _ledger(A)
    ledger.planned({A: [(1, 2), (2, 3)]})
    ledger.built(A, _batch(1))
    assert told == []
    ledger.built(A, _batch(2))
    assert told.statuses == [(A, "executed")]
    ledger.built(A, _batch(3))
    ledger.end()
    assert len(told) == 1


def test_an_outcome_says_what_was_built_of_which_table_and_when() -> None:
    """Promise: batches add up, and a table keeps the time at which it is due next."""
    ledger, told = _ledger(A)
    ledger.planned({A: [(1, 2), (2, 3)]})
    ledger.counted(A, 7)
    ledger.built(A, _batch(1, rows=2, bytes=20))
    ledger.built(A, _batch(2, rows=3, bytes=30))
    assert told == [
        ModelOutcome(
            A,
            "executed",
            intervals=((1, 2), (2, 3)),
            batches=2,
            duration_ms=20,
            rows_processed=5,
            bytes_processed=50,
            row_count=7,
            plan="plan 1",
            snapshot="built",
            version="2",
            built_at=99,
            execution_time=NOW,
            next_due="tomorrow",
        )
    ]


def test_a_count_that_no_engine_gave_stays_unknown() -> None:
    """Promise: unknown is not zero."""
    ledger, told = _ledger(A)
    ledger.planned({A: [(1, 2), (2, 3)]})
    ledger.built(A, _batch(1))
    ledger.built(A, _batch(2, rows=0))
    assert (told[0].rows_processed, told[0].bytes_processed, told[0].row_count) == (0, None, None)


def test_a_model_for_which_no_batch_was_planned_is_up_to_date_at_once() -> None:
    """Promise: nobody waits for the end of the run to hear that nothing is due."""
    ledger, told = _ledger(A, B)
    ledger.planned({B: [(1, 2)]})
    assert told.statuses == [(A, "up_to_date")]
    assert (told[0].reason, told[0].snapshot, told[0].built_at) == (
        "nothing is due",
        "snapshot of a",
        None,
    )


def test_what_is_not_selected_is_not_told() -> None:
    """Promise: neither as idle, nor as skipped or failed."""
    ledger, told = _ledger(A)
    ledger.planned({A: [(1, 2)]})
    ledger.failed(B, "failed", BOOM)
    ledger.batch_ended(B)
    ledger.skipped([C])
    assert told == []


def test_a_selected_model_that_the_environment_lacks_is_not_deployed() -> None:
    """Promise: it is reported first, with the way to deploy it; the others are returned."""
    told = _Told()
    ledger = Ledger([A, "new"], told.append)
    assert ledger.begin({A: DEPLOYED[A]}, NOW, "hint") == [A]
    assert told == [ModelOutcome("new", "not_deployed", execution_time=NOW, reason="hint")]


def test_models_that_are_restated_with_a_selected_one_are_taken_too() -> None:
    """Promise: each is reported, and the selected one names them."""
    told = _Told()
    ledger = Ledger([A], told.append)
    assert ledger.begin(DEPLOYED, NOW, "hint", below={A: (B,)}) == [A, B]
    ledger.planned({A: [(1, 2)], B: [(1, 2)]})
    ledger.built(B, _batch())
    ledger.built(A, _batch())
    assert told.statuses == [(B, "executed"), (A, "executed")]
    assert [outcome.below for outcome in told] == [(), (B,)]


def test_a_failed_batch_is_told_when_it_ends_with_its_error() -> None:
    """Promise: SQLMesh says first that something failed, and then that the batch has ended."""
    ledger, told = _ledger(A)
    ledger.planned({A: [(1, 2)]})
    ledger.failed(A, "failed", BOOM)
    assert told == []
    ledger.batch_ended(A)
    assert told.statuses == [(A, "failed")]
    assert told[0].error == BOOM and told[0].reason is None


def test_a_batch_that_ended_without_a_failure_says_nothing() -> None:
    """Promise: what becomes of the model is heard later."""
    ledger, told = _ledger(A)
    ledger.planned({A: [(1, 2)]})
    ledger.batch_ended(A)
    assert told == []


def test_what_is_built_and_audited_after_a_failure_is_told_at_the_end() -> None:
    """Promise: each batch and each audit is told once, also an audit that fails a later batch."""
    ledger, told = _ledger(A, B)
    ledger.planned({A: [(1, 2), (2, 3), (3, 4)], B: [(1, 2)]})
    ledger.audited(A, [_audit(0)])
    ledger.built(A, _batch(1))
    ledger.failed(A, "failed", BOOM)
    ledger.batch_ended(A)
    ledger.audited(A, [_audit(3)])
    ledger.built(A, _batch(3))
    ledger.failed(B, "failed", BOOM)
    ledger.batch_ended(B)
    ledger.audited(B, [_audit(4)])
    ledger.end()
    assert [(o.fqn, o.intervals, o.audits, o.is_late) for o in told] == [
        (A, ((1, 2),), (_audit(0),), False),
        (B, (), (), False),
        (A, ((3, 4),), (_audit(3),), True),
        (B, (), (_audit(4),), True),
    ]


def test_what_was_built_before_a_failure_is_in_its_outcome() -> None:
    """Promise: the first of two batches is done, whatever becomes of the second."""
    ledger, told = _ledger(A)
    ledger.planned({A: [(1, 2), (2, 3)]})
    ledger.built(A, _batch(1))
    ledger.failed(A, "audit_failed", BOOM)
    ledger.batch_ended(A)
    assert told.statuses == [(A, "audit_failed")]
    assert told[0].intervals == ((1, 2),)


def test_models_below_a_failed_one_name_it() -> None:
    """Promise: a skipped model says why; one that failed itself is no skipped one."""
    ledger, told = _ledger(A, B, C)
    ledger.planned({name: [(1, 2)] for name in (A, B, C)})
    ledger.failed(A, "failed", BOOM)
    ledger.failed(C, "failed", BOOM)
    ledger.skipped([C, B])
    assert told.statuses == [(B, "upstream_failed")]
    assert told[0].reason == "SQLMesh skipped it, because upstream failed: a, c"


def test_a_model_that_a_signal_holds_back_is_not_ready() -> None:
    """Promise: it names the signal, and what reads it names the model."""
    ledger, told = _ledger(A, B)
    ledger.held_back(A, "weekend")
    ledger.planned({A: [], B: []})
    assert [(o.fqn, o.status, o.reason) for o in told] == [
        (A, "not_ready", "signal `weekend` is not ready"),
        (B, "not_ready", "upstream waits for a signal: a"),
    ]
    ledger, told = _ledger(A, B, C)
    ledger.held_back(B, "weekend")
    ledger.held_back(A, "weekend")
    ledger.planned({C: []})
    assert told[-1].reason == "upstream waits for a signal: a, b"


def test_a_model_that_waits_for_nobody_knows_what_says_so() -> None:
    """Promise: a batch-less model without a signal anywhere is still reported."""
    ledger, told = _ledger(B)
    ledger.planned({B: []})
    assert told[0].reason == "upstream waits for a signal: unknown"


def test_a_model_that_waits_for_others_is_not_ready() -> None:
    """Promise: where nothing of it is due now, it names those that the run does not build."""
    ledger, told = _ledger(A)
    ledger.waits(A, ["x", "y"])
    ledger.planned({})
    assert [(o.fqn, o.status, o.reason) for o in told] == [
        (A, "not_ready", "it waits for `x`, `y`")
    ]


def test_the_end_tells_what_was_planned_and_never_heard_of_as_skipped() -> None:
    """Promise: a step waits for each outcome, so that each is reported."""
    ledger, told = _ledger(A, B)
    ledger.planned({A: [(1, 2)]})
    ledger.end()
    assert told.statuses == [(B, "up_to_date"), (A, "upstream_failed")]
    assert told[1].reason is None


def test_the_end_tells_models_of_a_run_that_planned_nothing_as_idle() -> None:
    """Promise: SQLMesh plans nothing where nothing is due anywhere."""
    ledger, told = _ledger(A)
    ledger.end()
    assert told.statuses == [(A, "up_to_date")]


def test_the_end_of_a_cancelled_run_says_so_of_what_is_untold() -> None:
    """Promise: and of nothing else; a failure stays one."""
    ledger, told = _ledger(A, B, C)
    ledger.planned({name: [(1, 2)] for name in (A, B, C)})
    ledger.built(A, _batch())
    ledger.failed(B, "failed", BOOM)
    ledger.end(CANCELLED)
    assert told.statuses == [(A, "executed"), (B, "failed"), (C, "cancelled")]
    assert told[2].reason == "the Dagster run was cancelled"


def test_a_batch_that_was_cancelled_is_no_failure() -> None:
    """Promise: it has the words of a cancelled run, and no error."""
    ledger, told = _ledger(A)
    ledger.failed(A, "cancelled", None)
    ledger.batch_ended(A)
    assert told.statuses == [(A, CANCELLED[0])]
    assert (told[0].reason, told[0].error) == (CANCELLED[1], None)


def test_an_error_of_the_whole_run_is_told_for_every_untold_model() -> None:
    """Promise: what has a failure of its own keeps it, and what is reported stays reported."""
    ledger, told = _ledger(A, B, C)
    ledger.planned({name: [(1, 2)] for name in (A, B, C)})
    own = ErrorOutcome("Own", "its own")
    ledger.built(A, _batch())
    ledger.failed(B, "audit_failed", own)
    ledger.fail(BOOM)
    assert told.statuses == [(A, "executed"), (B, "audit_failed"), (C, "failed")]
    assert [outcome.error for outcome in told] == [None, own, BOOM]
    assert [ledger.is_reported(name) for name in (A, B, C, "other")] == [True, True, True, False]


def test_what_fails_besides_the_models_is_told_by_the_last_one() -> None:
    """Promise: once, also if nothing is due of it; what a plan built besides is still told."""
    told = _Told()
    ledger = Ledger([A, B], told.append)
    with ledger.planning():
        ledger.built(C, _batch())
        ledger.built(A, _batch())
    ledger.failed_besides(BOOM)
    ledger.begin(dict.fromkeys((A, B, C), BUILT), NOW, "hint")
    ledger.planned({})
    assert told.statuses == [(A, "executed")]
    assert ledger.end() is None
    assert told.statuses == [(A, "executed"), (B, "up_to_date"), (C, "executed")]
    assert [outcome.error for outcome in told] == [None, BOOM, None]
    assert not told[1].is_success


def test_what_fails_besides_models_that_fail_is_left_to_who_ends_the_run() -> None:
    """Promise: no failure of a model is hidden by it, and it is not lost."""
    ledger, told = _ledger(A)
    ledger.failed_besides(BOOM)
    ledger.planned({A: [(1, 2)]})
    own = ErrorOutcome("Own", "its own")
    ledger.failed(A, "failed", own)
    ledger.batch_ended(A)
    assert ledger.end() is BOOM
    assert [(o.status, o.error) for o in told] == [("failed", own)]


def test_what_a_plan_builds_is_told_with_the_run_that_follows() -> None:
    """Promise: a model that the plan built is executed, though nothing is due any more."""
    told = _Told()
    ledger = Ledger([A, B], told.append)
    with ledger.planning():
        assert ledger.is_planning
        ledger.planned({A: [(1, 2)], B: [(1, 2)]})
        ledger.built(A, _batch())
        ledger.built(B, _batch())
    assert told == [] and not ledger.is_planning
    ledger.begin(dict.fromkeys((A, B), BUILT), NOW, "hint")
    ledger.planned({B: [(2, 3)]})
    assert told.statuses == [(A, "executed")]
    ledger.built(B, _batch(2))
    assert told.statuses == [(A, "executed"), (B, "executed")]
    assert told[1].intervals == ((1, 2), (2, 3))


def test_a_plan_that_fails_is_no_longer_planning() -> None:
    """Promise: its error goes on, and what comes next counts."""
    ledger, _ = _ledger(A)
    try:
        with ledger.planning():
            raise ValueError
    except ValueError:
        assert not ledger.is_planning


def test_what_a_plan_builds_beside_the_selection_is_told_at_the_end() -> None:
    """Promise: with where it comes from; what it did not build is not."""
    told = _Told()
    ledger = Ledger([A], told.append)
    with ledger.planning():
        ledger.built(B, _batch())
    ledger.begin(dict.fromkeys((A, B, C), BUILT), NOW, "hint")
    ledger.held_back(C, "signal")
    ledger.planned({})
    assert told.statuses == [(A, "up_to_date")]
    ledger.end()
    assert told.statuses == [(A, "up_to_date"), (B, "executed")]
    assert told[1].reason == "built by the plan that deployed it"


@pytest.mark.parametrize("how", ["stopped", "failed", "as deployed"])
def test_what_a_plan_has_built_and_nobody_sees_is_not_told_as_built(how: str) -> None:
    """Promise: the environment goes on showing the old version: no interval and no audit is of that one."""
    told = _Told()
    ledger = Ledger([A], told.append)
    with ledger.planning():
        for name in (A, B):
            ledger.audited(name, [_audit(0)])
            ledger.built(name, _batch())
    if how == "as deployed":
        ledger.begin(DEPLOYED, NOW, "hint")
        ledger.planned({})
        ledger.end()
    elif how == "failed":
        ledger.fail(BOOM)
    else:
        ledger.end(CANCELLED)
    words = {"stopped": "cancelled", "failed": "failed", "as deployed": "up_to_date"}
    assert told.statuses == [(A, words[how])]
    assert [(o.intervals, o.audits) for o in told] == [((), ())]


@pytest.mark.parametrize("is_told_by_its_batch", [True, False])
def test_an_audit_of_a_plan_says_why_its_model_could_not_be_deployed(
    is_told_by_its_batch: bool,
) -> None:
    """Promise: its rows and its query are shown, though the plan was not completed; no other audit of it is.

    Regression: the end of its batch told it, before its audits counted: "Model `a`: ." was all that was said.
    """
    told = _Told()
    ledger = Ledger([A], told.append)
    with ledger.planning():
        beside = replace(_audit(1), check_name="unique")
        passing = replace(_audit(0), check_name="in_range")
        ledger.audited(A, [_audit(2), replace(beside, blocking=False), passing])
        if is_told_by_its_batch:
            ledger.failed(A, "audit_failed", ErrorOutcome("audit", "2 rows"))
            ledger.batch_ended(A)
    ledger.refused({A: ErrorOutcome("audit", "2 rows")}, {})
    assert told.statuses == [(A, "audit_failed")]
    assert told[0].audits == (_audit(2),)


def test_an_audit_is_told_when_its_batches_are_through() -> None:
    """Promise: what is not due is left to the end: an audit does not care what is due."""
    ledger, told = _ledger(A, B, is_audit=True)
    ledger.planned({A: [(1, 2)]})
    assert told == []
    ledger.built(A, _batch())
    assert told.statuses == [(A, "audited")]


def test_the_audits_of_batches_add_up() -> None:
    """Promise: rows are summed; query and rows shown are those of the last batch that found any."""
    ledger, told = _ledger(A)
    ledger.planned({A: [(1, 2)]})
    first, last = RowSample(("n",), (("1",),)), RowSample(("n",), (("2",),))
    found = (_audit(0, "q1"), _audit(2, "q2", first), _audit(3, "q3", last), _audit(0, "q4"))
    for day, result in enumerate(found):
        rows = result.failing_rows
        failing = ((day, day + 1, rows),) if rows else ()
        ledger.audited(A, [replace(result, covered=((day, day + 1),), failing=failing)])
    ledger.built(A, _batch())
    total = replace(_audit(5, "q3", last), covered=((0, 4),), failing=((1, 2, 2), (2, 3, 3)))
    assert told[0].audits == (total,)


def test_an_audit_of_the_whole_table_has_seen_it_all_in_the_last_batch() -> None:
    """Promise: rows that each batch finds once more are not counted twice."""
    ledger, told = _ledger(A)
    for rows in (1, 2):
        ledger.audited(A, [_audit(rows, f"q{rows}")])
    ledger.end()
    assert told[0].audits == (_audit(2, "q2"),)


def test_an_audit_that_never_finds_anything_shows_its_last_query() -> None:
    """Promise: there is always a query to run by hand, and it is of the newest time."""
    ledger, told = _ledger(A)
    for query in ("q1", "q2"):
        ledger.audited(A, [_audit(0, query)])
    ledger.end()
    assert told[0].audits == (_audit(0, "q2"),)


def test_two_audits_of_a_model_are_two_results() -> None:
    """Promise: results are kept by check."""
    ledger, told = _ledger(A)
    other = AuditOutcome("unique", "unique", "unique", False, 1)
    ledger.audited(A, [_audit(0), other])
    ledger.end()
    assert told[0].audits == (_audit(0), other)


@pytest.mark.parametrize(
    ("signal", "others", "reason"),
    [
        (None, [], None),
        ("weekend", [], "the rest of it waits for signal `weekend`"),
        (None, ['"db"."x"', "y"], "the rest of it waits for `db.x`, `y`"),
        ("weekend", ["x"], "the rest of it waits for signal `weekend` and `x`"),
    ],
)
def test_a_model_that_is_built_in_part_says_what_the_rest_waits_for(
    signal: str | None, others: list[str], reason: str | None
) -> None:
    """Promise: nobody takes a day that is missing for one that is built."""
    ledger, told = _ledger(A)
    if signal:
        ledger.held_back(A, signal)
    ledger.waits(A, others)
    ledger.planned({A: [(1, 2)]})
    ledger.built(A, _batch())
    assert [(o.status, o.reason) for o in told] == [("executed", reason)]


def test_a_model_that_is_idle_for_a_reason_has_it() -> None:
    """Promise: of that model alone."""
    ledger, told = _ledger(A, B)
    ledger.is_idle_because(A, "nobody reads it")
    ledger.end()
    assert [o.reason for o in told] == ["nobody reads it", "nothing is due"]


def test_audits_count_as_run_whoever_ran_them() -> None:
    """Promise: those of a plan, too; and each model's own."""
    ledger, _ = _ledger(A, B)
    assert not ledger.has_audited(A)
    ledger.audited(A, [_audit(0)])
    assert ledger.has_audited(A) and not ledger.has_audited(B)
    with ledger.planning():
        ledger.audited(B, [_audit(0)])
    assert ledger.has_audited(B)


def test_models_that_cannot_be_deployed_are_told_with_those_below() -> None:
    """Promise: an audit that failed is its check's failure; only selected models are told."""
    told = _Told()
    ledger = Ledger([A, B, C], told.append)
    audit = ErrorOutcome("audit", "2 rows")
    ledger.refused({A: BOOM, B: audit, "other": BOOM}, {C: '"db"."a"', "far": A})
    assert told.statuses == [(A, "failed"), (B, "audit_failed"), (C, "upstream_failed")]
    assert [o.error for o in told] == [BOOM, audit, None]
    assert told[2].reason == "upstream could not be deployed: `db.a`"
    ledger.end()
    assert len(told) == 3


def test_an_audit_of_a_plan_is_told_of_a_model_beside_the_selection() -> None:
    """Promise: its check shows it at the end, though the run did not select the model."""
    told = _Told()
    ledger = Ledger([A], told.append)
    with ledger.planning():
        ledger.audited(B, [_audit(2)])
    audit = ErrorOutcome("audit", "2 rows")
    ledger.refused({B: audit}, {})
    assert told == []
    ledger.end()
    assert told.statuses == [(A, "up_to_date"), (B, "audit_failed")]
    assert (told[1].error, told[1].reason) == (audit, None)
    assert [a.failing_rows for a in told[1].audits] == [2]


def test_what_is_known_of_several_at_once_is_told_upstream_first() -> None:
    """Promise: what a model was built from is known when it is told; what is not deployed comes before."""
    told = _Told()
    ledger = Ledger(["b", "z", "a", "m"], told.append)
    ledger.begin(dict.fromkeys(("z", "m", "a"), BUILT), NOW, "hint")
    ledger.end()
    assert [o.fqn for o in told] == ["b", "z", "m", "a"]


def test_models_upstream_that_are_built_along_are_told_and_named() -> None:
    """Promise: those for which there are batches, in the outcome of the model that needs them."""
    told = _Told()
    ledger = Ledger([C], told.append)
    ledger.begin(DEPLOYED, NOW, "hint", above={C: (A, B)})
    ledger.planned({A: [(1, 2)], C: [(1, 2)]})
    ledger.built(A, _batch())
    ledger.built(C, _batch())
    ledger.end()
    assert told.statuses == [(A, "executed"), (C, "executed")]
    assert [o.above for o in told] == [(), (A,)]


def test_the_table_that_is_known_before_is_kept() -> None:
    """Promise: a batch knows less of the table than the run does at its begin; the asset shows all of it."""
    told = _Told()
    ledger, table = Ledger([A], told.append), BuiltTable(A, "s", "1", "1", None, 1, 2)
    ledger.begin({A: replace(BUILT, table=table, next_due="tomorrow")}, NOW, "hint")
    ledger.planned({A: [(1, 2)]})
    ledger.built(A, _batch())
    assert (told[0].table, told[0].next_due) == (table, "tomorrow")


def test_a_run_that_ends_after_its_models_says_whether_somebody_told_it() -> None:
    """Promise: the last model waits for `after_all` and has its error; later, nobody is left to tell it."""
    told = _Told()
    ledger = Ledger([A], told.append)
    ledger.begin(DEPLOYED, NOW, "hint", holds_last=True)
    ledger.planned({A: [(1, 2)]})
    ledger.built(A, _batch())
    assert told == []
    assert ledger.fail(BOOM) is True
    assert [(o.status, o.error) for o in told] == [("executed", BOOM)]
    assert ledger.fail(BOOM) is False and len(told) == 1


def test_what_fails_besides_while_models_are_built_waits_for_the_last() -> None:
    """Promise: the model that ends last has it, also where nothing was to follow."""
    ledger, told = _ledger(A, B)
    ledger.planned({A: [(1, 2)], B: [(1, 2)]})
    ledger.failed_besides(BOOM)
    ledger.built(A, _batch())
    ledger.built(B, _batch())
    assert told.statuses == [(A, "executed")]
    assert ledger.end() is None
    assert [(o.fqn, o.error) for o in told] == [(A, None), (B, BOOM)]


def test_late_batches_of_each_failed_model_are_told() -> None:
    """Promise: a model that was built between them, and what it was, hide none."""
    ledger, told = _ledger(A, B, C)
    ledger.planned({name: [(1, 2), (2, 3)] for name in (A, B, C)})
    for name in (A, C):
        ledger.failed(name, "audit_failed", BOOM)
        ledger.batch_ended(name)
    for name in (A, B, C):
        ledger.built(name, _batch(2))
        ledger.audited(name, [_audit(3)])
    ledger.built(B, _batch(1))
    ledger.end()
    late = [o for o in told if o.is_late]
    assert [(o.fqn, o.status, o.intervals, o.above) for o in late] == [
        (A, "audit_failed", ((2, 3),), ()),
        (C, "audit_failed", ((2, 3),), ()),
    ]
    assert [[a.failing_rows for a in o.audits] for o in late] == [[3], [3]]
