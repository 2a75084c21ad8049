"""The console: whatever goes wrong while it captures, SQLMesh's own work goes on."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from sqlglot import exp
from sqlmesh.utils.errors import AuditError

from sqlmesh_dagster.console import CaptureConsole
from sqlmesh_dagster.facts.outcomes import ErrorOutcome, ModelOutcome
from sqlmesh_dagster.guard.cancel import CancelToken, RunCancelled

NONSENSE: Any = object()


@pytest.mark.parametrize(
    ("callback", "arguments"),
    [
        ("update_signal_progress", (NONSENSE, "s", 0, 1, [])),
        ("start_evaluation_progress", (NONSENSE,)),
        ("update_snapshot_evaluation_progress", (NONSENSE, (1, 2), 0, 1)),
        ("log_skipped_models", (NONSENSE,)),
        ("log_failed_models", (NONSENSE,)),
        ("log_test_results", (NONSENSE, "duckdb")),
        ("show_linter_violations", (NONSENSE, NONSENSE)),
        ("capture_audits", (NONSENSE, [], {})),
    ],
)
def test_a_capture_that_fails_is_logged_and_fails_no_model(
    callback: str, arguments: tuple[Any, ...], caplog: pytest.LogCaptureFixture
) -> None:
    """Promise: an exception in a callback would fail a model that succeeded."""
    console = CaptureConsole(["a"], lambda outcome: None)
    with caplog.at_level(logging.ERROR):
        getattr(console, callback)(*arguments)
    assert f"Could not capture `{callback}`; the model itself is not affected." in caplog.text


def test_an_outcome_that_cannot_be_told_fails_no_model(caplog: pytest.LogCaptureFixture) -> None:
    """Promise: a full disk below the records is no failure of the model that was built."""

    def refuse(outcome: ModelOutcome) -> None:
        raise OSError("No space left on device")

    console = CaptureConsole(["a"], refuse)
    console.start_evaluation_progress({})
    assert "No space left on device" in caplog.text


def test_a_failure_of_the_whole_run_is_told_for_each_model() -> None:
    """Promise: with the error's words, without the signs by which a terminal underlines."""
    told: list[ModelOutcome] = []
    console = CaptureConsole(["a", "b"], told.append)
    console.capture_failure("a", ValueError("of \x1b[4mits\x1b[0m own "), "SELECT 1")
    console.fail(ErrorOutcome("Error", "of all"))
    assert [(o.fqn, o.error and o.error.message) for o in told] == [
        ("a", "of its own"),
        ("b", "of all"),
    ]
    assert told[0].error and told[0].error.kind == "ValueError"
    assert told[0].error.query == "SELECT 1" and "of its own" in str(told[0].error.traceback)
    assert console.errors == "`a`: of its own"


def test_a_batch_that_fails_after_another_is_told_in_the_log() -> None:
    """Promise: the step has failed with the first; whoever mends that one shall know of the second."""
    said: list[tuple[int, str]] = []
    console = CaptureConsole(
        ["a"], lambda _: None, log=lambda level, text: said.append((level, text))
    )
    day = (1_735_948_800_000, 1_736_035_200_000)
    console.capture_failure("a", ValueError("first"))
    console.ledger.batch_ended("a")
    console.capture_failure("a", ValueError("second"), covered=day)
    assert said == [(logging.ERROR, "Model `a` failed in 2025-01-04, too: second")]


def test_what_sqlmesh_says_is_passed_on() -> None:
    """Promise: warnings as information, errors as errors, which a failed plan shows."""
    said: list[tuple[int, str]] = []
    console = CaptureConsole(
        [], lambda outcome: None, lambda level, text: said.append((level, text))
    )
    console.log_warning("short")
    console.log_warning("short", " long ")
    console.log_error(" wrong ")
    assert said == [(logging.INFO, "short"), (logging.INFO, "long"), (logging.ERROR, "wrong")]
    assert console.errors == "wrong"


def test_what_an_audit_found_is_left_to_the_step_of_its_model() -> None:
    """Promise: SQLMesh's words for it are not shown under another model's step; a plan has no such step."""
    said: list[str] = []
    run, plan = (
        CaptureConsole(names, lambda outcome: None, lambda level, text: said.append(text))
        for names in (['"marts"."orders"'], [])
    )
    found = AuditError("not_null", {}, 1, exp.select("1"))
    run.log_warning(f"\nmarts.orders: {found}.", f"{found}. Audit query:\nSELECT 1")
    with run.planning():
        run.log_warning(f"\nmarts.orders: {found}.")
    assert said == []
    with plan.planning():
        plan.log_warning(f"\nmarts.orders: {found}.")
    assert said == [f"marts.orders: {found}."]


def test_a_cancelled_run_stops_where_it_waits_and_a_plan_before_it_promotes() -> None:
    """Promise: never in the middle of a promotion, which would be half an environment."""
    token = CancelToken()
    console = CaptureConsole([], lambda outcome: None, cancel=token)
    before_promotion = (
        console.update_creation_progress,
        console.stop_creation_progress,
        console.log_success,
    )
    for callback in before_promotion:
        callback()
    token.cancel()
    for callback in before_promotion:
        with pytest.raises(RunCancelled):
            callback()
    with pytest.raises(RunCancelled):
        console.log_warning("Waiting for the environment")
    with console.planning():
        console.log_warning("a view is dropped")
