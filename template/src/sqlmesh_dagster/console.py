"""SQLMesh's console: records in the ledger what SQLMesh reports during a run, as plain data.

SQLMesh calls a console from its worker threads, and an exception in a callback fails a model that
succeeded: every callback that captures something is guarded. What is captured shows no secrets.
"""

from __future__ import annotations

import functools
import logging
import re
import traceback
import unittest
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime
from typing import Any, TypeVar, cast

from sqlglot import exp

from sqlmesh_dagster.definition.names import audit_identity, check_names
from sqlmesh_dagster.definition.partitions import Interval
from sqlmesh_dagster.engine.explanation import unavailable_database, without_colors
from sqlmesh_dagster.engine.reader import audit_arguments
from sqlmesh_dagster.facts.ledger import Batch, DeployedModel, FailureKind, Ledger
from sqlmesh_dagster.facts.outcomes import (
    AuditOutcome,
    ErrorOutcome,
    ModelOutcome,
    RowSample,
    Status,
)
from sqlmesh_dagster.facts.tables import BuiltTable
from sqlmesh_dagster.guard.cancel import CancelToken, RunCancelled
from sqlmesh_dagster.guard.secrets import mask, masked_texts
from sqlmesh_dagster.upstream.internals import (
    NodeAuditsErrors,
    NoopConsole,
    Snapshot,
    now_timestamp,
    snapshots_to_dag,
)

_log = logging.getLogger(__name__)
_AUDIT_FOUND = re.compile(r"' audit error: \d+ rows? failed")
"""SQLMesh's words for what a non-blocking audit found (`sqlmesh.utils.errors.AuditError`)."""
_TEXTS = ("message", "query", "reason", "rows", "traceback")
"""What an outcome has of SQLMesh's, of the engine's and of Python's own words."""
_Callback = TypeVar("_Callback", bound=Callable[..., None])


def _guarded(callback: _Callback) -> _Callback:
    @functools.wraps(callback)
    def guard(self: CaptureConsole, *args: Any, **kwargs: Any) -> None:
        try:
            callback(self, *args, **kwargs)
        except Exception:  # an error while capturing must never fail a model
            _log.exception(
                "Could not capture `%s`; the model itself is not affected.", callback.__name__
            )

    return cast(_Callback, guard)


class CaptureConsole(NoopConsole):
    """Captures one run, plan or audit; the outcomes come from its ledger.

    Args:
        selected: FQNs that the run is to take; a plan may build others, which are reported, too.
        report: Receives each outcome once, from SQLMesh's threads.
        log: Receives a logging level and a message: SQLMesh's own messages.
        cancel: Once it is cancelled, a plan is stopped before it promotes anything, and a run while
            it waits for a plan; queries are interrupted elsewhere.
    """

    def __init__(
        self,
        selected: Iterable[str],
        report: Callable[[ModelOutcome], None],
        log: Callable[[int, str], None] = _log.log,
        cancel: CancelToken | None = None,
        *,
        audit_only: bool = False,
    ) -> None:
        self.ledger = Ledger(
            selected, lambda outcome: report(masked_texts(outcome, _TEXTS)), is_audit=audit_only
        )
        self._log = log
        self._cancel = cancel or CancelToken()
        self._errors: list[str] = []
        self._left: dict[str, int] = {}
        self._skipped: set[str] = set()
        self._written_whole: set[str] = set()
        self.failures: dict[str, ErrorOutcome] = {}
        """What failed so far, by snapshot name."""

    @property
    def errors(self) -> str:
        """What went wrong, in this order: SQLMesh's exception of a failed plan does not say it."""
        return "\n".join(self._errors)

    def planning(self) -> AbstractContextManager[None]:
        """While a plan is applied; see `Ledger.planning`."""
        return self.ledger.planning()

    def begin(
        self,
        snapshots: Mapping[str, Snapshot],
        execution_time: datetime,
        hint: str,
        plan: str | None = None,
        below: Mapping[str, tuple[str, ...]] | None = None,
        above: Mapping[str, tuple[str, ...]] | None = None,
        tables: Mapping[str, BuiltTable] | None = None,
        *,
        holds_last: bool = False,
    ) -> list[str]:
        """Takes the environment's snapshots, by name; parameters and result as `Ledger.begin`.

        Args:
            tables: Those that hold data, by the model's name.
        """
        held = tables or {}
        order = [i.name for i in snapshots_to_dag(snapshots.values()).sorted if i.name in snapshots]
        deployed = {
            name: DeployedModel(
                s.identifier, s.version, _next_due(s, execution_time), held.get(name)
            )
            for name in order
            for s in (snapshots[name],)
        }
        return self.ledger.begin(
            deployed, execution_time.isoformat(), hint, plan, below, above, holds_last=holds_last
        )

    def finish(self, rest: tuple[Status, str] | None = None) -> None:
        """Reports the models that were not reported yet; see `Ledger.end`."""
        untold = self.ledger.end(rest)
        if untold is not None:
            self._log(logging.ERROR, f"The run failed, and not by a model: {untold.message}")

    def fail(self, error: ErrorOutcome) -> bool:
        """Reports the failure of the run for every model not reported yet; see `Ledger.fail`."""
        return self.ledger.fail(error)

    # ------------------------------------------------------------ what SQLMesh calls

    def start_signal_progress(self, snapshot: Snapshot, *args: Any, **kwargs: Any) -> None:
        """Notes for who stops the run that Python of a signal is called."""
        self._cancel.check()
        self._cancel.now_does(f"the signals of `{snapshot.node.name}`")

    def stop_signal_progress(self, *args: Any, **kwargs: Any) -> None:
        """Stops a run between the signals of two models, and before it builds any."""
        self._cancel.now_does("")
        self._cancel.check()

    @_guarded
    def update_signal_progress(
        self,
        snapshot: Snapshot,
        signal_name: str,
        signal_idx: int,
        total_signals: int,
        ready_intervals: list[tuple[int, int]],
        check_intervals: list[tuple[int, int]] | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Records that a signal holds a model back, or some intervals of it."""
        if not ready_intervals or ready_intervals != (check_intervals or ready_intervals):
            self.ledger.held_back(snapshot.name, signal_name)

    @_guarded
    def start_evaluation_progress(
        self, batched_intervals: Mapping[Snapshot, list[tuple[int, int]]], *args: Any, **kwargs: Any
    ) -> None:
        """Records what will be executed; first comes `before_all`."""
        self._cancel.now_does("" if self.ledger.is_planning else "`before_all`")
        self._left = {s.name: len(batches) for s, batches in batched_intervals.items() if batches}
        self.ledger.planned({s.name: batches for s, batches in batched_intervals.items()})

    def stop_evaluation_progress(self, *args: Any, **kwargs: Any) -> None:
        """After the models of a run comes `after_all`."""
        self._cancel.now_does("" if self.ledger.is_planning else "`after_all`")

    def start_plan_evaluation(self, *args: Any, **kwargs: Any) -> None:
        """A plan begins with `before_all`."""
        self._cancel.now_does("`before_all`")

    def start_creation_progress(self, *args: Any, **kwargs: Any) -> None:
        """A plan makes the tables of new versions."""
        self._cancel.now_does("the tables of new versions", can_be_left=False)

    def start_promotion_progress(self, *args: Any, **kwargs: Any) -> None:
        """A plan makes the views of an environment, and runs what models do then."""
        self._cancel.now_does("the views of the environment", can_be_left=False)

    def stop_promotion_progress(self, *args: Any, **kwargs: Any) -> None:
        """A plan ends with `after_all`."""
        self._cancel.now_does("`after_all`")

    def stop_plan_evaluation(self, *args: Any, **kwargs: Any) -> None:
        """Nothing of note comes after a plan."""
        self._cancel.now_does("")

    @_guarded
    def update_snapshot_evaluation_progress(
        self,
        snapshot: Snapshot,
        interval: tuple[int, int],
        batch_idx: int,
        duration_ms: int | None,
        *args: Any,
        execution_stats: Any = None,
        **kwargs: Any,
    ) -> None:
        """Records a batch; one without a duration has failed (SQLMesh calls this in `finally`)."""
        if duration_ms is None:
            self.ledger.batch_ended(snapshot.name)
            return
        rows = execution_stats.total_rows_processed if execution_stats else None
        if snapshot.name in self._written_whole:
            self.ledger.counted(snapshot.name, rows)
        self.ledger.built(
            snapshot.name,
            Batch(
                interval=(interval[0], interval[1]),
                duration_ms=duration_ms,
                model=DeployedModel(snapshot.identifier, snapshot.version),
                built_at=now_timestamp(),
                rows=rows,
                bytes=execution_stats.total_bytes_processed if execution_stats else None,
            ),
        )
        if self.ledger.is_planning and self.ledger.has_models:
            self._log_progress(snapshot)

    def _log_progress(self, snapshot: Snapshot) -> None:
        """While a plan builds first, no step ends: the log says how far it is."""
        self._left[snapshot.name] = self._left.get(snapshot.name, 1) - 1
        if self._left[snapshot.name] <= 0:
            done = sum(left <= 0 for left in self._left.values())
            self._log(
                logging.INFO,
                f"Built `{snapshot.node.name}`, {done} of {len(self._left)} models; their views are made"
                " when all are built.",
            )

    @_guarded
    def log_skipped_models(self, snapshot_names: set[str]) -> None:
        """Keeps the models that SQLMesh skipped; one whose table could not be made is among them."""
        self._skipped = set(snapshot_names)

    @_guarded
    def log_failed_models(self, errors: list[Any]) -> None:
        """Records failures outside of an evaluation, such as while a table was created; then, what was skipped."""
        for error in errors:
            name = getattr(error.node, "snapshot_name", None) or error.node.name
            if not self.ledger.is_reported(name):
                self.capture_failure(name, error.__cause__ or error)
                self.ledger.batch_ended(name)
        self.ledger.skipped(self._skipped)
        self._skipped = set()

    @_guarded
    def log_test_results(self, result: unittest.TestResult, target_dialect: str) -> None:
        """Keeps the messages of failing unit tests, which the plan's exception does not have."""
        self._errors.extend(
            mask(f"{test}: {text.strip()}") for test, text in (*result.errors, *result.failures)
        )

    def update_creation_progress(self, *args: Any, **kwargs: Any) -> None:
        """Stops a plan between two tables that it creates."""
        self._cancel.check()

    def stop_creation_progress(self, *args: Any, **kwargs: Any) -> None:
        """Stops a plan that has created its tables, before it promotes them."""
        self._cancel.now_does("")
        self._cancel.check()

    def log_success(self, *args: Any, **kwargs: Any) -> None:
        """Stops a plan that has no table to create, as above."""
        self._cancel.check()

    @_guarded
    def show_linter_violations(
        self, violations: list[Any], model: Any, is_error: bool = False
    ) -> None:
        """Keeps what the linter found, which the plan's exception does not have."""
        found = [mask(f"`{model.name}`: {violation}") for violation in violations]
        self._errors.extend(found if is_error else ())

    @_guarded
    def log_destructive_change(
        self, snapshot_name: str, alter_operations: list[Any], dialect: str, error: bool = True
    ) -> None:
        """Keeps which forward-only model a plan is refused for, which the plan's exception does not say."""
        self._capture_refusal(error, snapshot_name, "drop or change columns", "destructive")

    @_guarded
    def log_additive_change(
        self, snapshot_name: str, alter_operations: list[Any], dialect: str, error: bool = True
    ) -> None:
        """As above, of columns that are added."""
        self._capture_refusal(error, snapshot_name, "add columns", "additive")

    def _capture_refusal(self, is_error: bool, name: str, what: str, kind: str) -> None:
        if is_error:
            plain = name.replace('"', "")
            message = (
                f"The change of forward-only model `{plain}` would {what} of its table, which its"
                f" `on_{kind}_change` does not allow."
            )
            self.failures[name] = ErrorOutcome("PlanFailedError", message)
            self._errors.append(message)

    def log_warning(
        self, short_message: str, long_message: str | None = None, *args: Any, **kwargs: Any
    ) -> None:
        """Logs SQLMesh's warning; a run that waits for a plan warns at each attempt.

        What an audit found is a warning in the step of its model, where models have steps.
        """
        if not (self.ledger.has_models and _AUDIT_FOUND.search(short_message)):
            self._log(logging.INFO, mask((long_message or short_message).strip()))
        if (
            not self.ledger.is_planning
        ):  # a plan that promotes would leave the environment half changed
            self._cancel.check()

    def log_error(self, message: str, *args: Any, **kwargs: Any) -> None:
        """Logs SQLMesh's error."""
        text = mask(message.strip())
        self._errors.append(text)
        self._log(logging.ERROR, text)

    # ------------------------------------------------------------ what the scheduler calls

    @_guarded
    def capture_failure(
        self,
        name: str,
        error: BaseException,
        query: str | None = None,
        covered: Interval | None = None,
    ) -> None:
        """Records why an evaluation failed, of which time if the model is built by time."""
        kind, failure = _failure(error, query, covered)
        is_known = self.ledger.is_reported(name) and not self.ledger.is_planning
        self.ledger.failed(name, kind, failure)
        if failure and is_known:
            self._log_another(name, failure)
        if failure:
            self.failures[name] = failure
            self._errors.append(f"`{name}`: {failure.message}")

    def _log_another(self, name: str, failure: ErrorOutcome) -> None:
        """The model's step has failed with the error of a batch before."""
        plain = name.replace('"', "")
        self._log(logging.ERROR, f"Model `{plain}` failed{failure.when}, too: {failure.message}")

    @_guarded
    def capture_row_count(self, name: str, count: int | None) -> None:
        """Records how many rows a model's table has now."""
        self.ledger.counted(name, count)

    @_guarded
    def count_as_written(self, name: str) -> None:
        """The table has the rows that the engine says its only batch has written."""
        self._written_whole.add(name)

    @_guarded
    def capture_audits(
        self,
        snapshot: Snapshot,
        results: list[Any],
        samples: Mapping[int, RowSample],
        covered: Interval | None = None,
        dialect: str = "",
    ) -> None:
        """Records the results of one batch's audits, in the order of the model's audit calls.

        Args:
            samples: Rows that an audit found, by its place among the results.
            covered: The interval that they covered; None for the whole table.
            dialect: The engine's; an audit's SQL is shown as the engine got it.
        """
        calls = [(result.audit.name, audit_arguments(result.audit_args)) for result in results]
        self.ledger.audited(
            snapshot.name,
            [
                AuditOutcome(
                    name=name,
                    identity=audit_identity(name, arguments),
                    check_name=check_name,
                    blocking=result.blocking,
                    failing_rows=result.count or 0,
                    query=_sql(result.query, dialect),
                    arguments=tuple(arguments.items()),
                    sample=samples.get(place),
                    covered=(covered,) if covered else (),
                    failing=((*covered, result.count),) if covered and result.count else (),
                )
                for place, ((name, arguments), check_name, result) in enumerate(
                    zip(calls, check_names(calls), results, strict=True)
                )
                if not result.skipped
            ],
        )


def as_error(error: BaseException) -> ErrorOutcome:
    """An exception as data."""
    return ErrorOutcome(
        kind=type(error).__name__,
        message=mask(without_colors(str(error)).strip()),
        traceback=mask(without_colors("".join(traceback.format_exception(error)))),
    )


def _failure(
    error: BaseException, query: str | None, covered: Interval | None
) -> tuple[FailureKind, ErrorOutcome | None]:
    if isinstance(error, RunCancelled):
        reason = str(error)
        return ("failed", ErrorOutcome("StateLockError", reason)) if reason else ("cancelled", None)
    if isinstance(error, NodeAuditsErrors):
        found = "; ".join(str(audit) for audit in error.errors)
        return "audit_failed", ErrorOutcome("audit", found)
    failure = as_error(unavailable_database(error) or error)
    return "failed", replace(failure, query=query, covered=covered)


def _sql(query: object, dialect: str | None) -> str | None:
    return query.sql(dialect=dialect, pretty=True) if isinstance(query, exp.Expr) else None


def _next_due(snapshot: Snapshot, after: datetime) -> str | None:
    if not snapshot.evaluatable or snapshot.is_seed:
        return None
    return snapshot.node.cron_next(after).isoformat()
