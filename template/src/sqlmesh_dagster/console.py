"""SQLMesh's console → outcomes: hears what a run starts, finishes, skips and fails, and tells each model once.

SQLMesh calls a console from its worker threads, and an exception in a callback fails a model that
succeeded: every callback is guarded.
"""

from __future__ import annotations

import functools
import logging
import threading
import traceback
import unittest
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, TypeVar, cast

from sqlglot import exp
from sqlmesh.core.console import NoopConsole
from sqlmesh.core.snapshot import Snapshot
from sqlmesh.utils.date import now_timestamp
from sqlmesh.utils.errors import NodeAuditsErrors

from sqlmesh_dagster.definition.names import audit_identity, check_names
from sqlmesh_dagster.engine.explanation import unavailable_database
from sqlmesh_dagster.engine.reader import audit_arguments
from sqlmesh_dagster.facts.outcomes import (
    AuditOutcome,
    ErrorOutcome,
    ModelOutcome,
    RowSample,
    Status,
)
from sqlmesh_dagster.guard.cancel import CancelToken, RunCancelled

_log = logging.getLogger(__name__)
CANCELLED: tuple[Status, str] = ("cancelled", "the Dagster run was cancelled")
"""Status and reason of a model that a cancelled run did not build."""
_Callback = TypeVar("_Callback", bound=Callable[..., None])


@dataclass
class _Capture:
    """What was heard of one model so far."""

    planned: list[tuple[int, int]] = field(default_factory=list)
    executed: list[tuple[int, int]] = field(default_factory=list)
    duration_ms: int = 0
    rows: int | None = None
    bytes: int | None = None
    row_count: int | None = None
    snapshot: str | None = None
    version: str | None = None
    built_at: int | None = None
    signal: str | None = None
    audits: dict[str, AuditOutcome] = field(default_factory=dict)
    error: ErrorOutcome | None = None
    blocked: bool = False
    cancelled: bool = False
    told: bool = False

    def identify(self, snapshot: Snapshot) -> None:
        """Notes which snapshot it is about."""
        self.snapshot, self.version = snapshot.identifier, snapshot.version


def _guarded(
    callback: _Callback,
) -> _Callback:
    @functools.wraps(callback)
    def guard(self: CaptureConsole, *args: Any, **kwargs: Any) -> None:
        try:
            with self._lock:
                callback(self, *args, **kwargs)
        except Exception:  # the one seam where capture must never fail a model
            _log.exception(
                "Could not capture `%s`; the model itself is not affected.", callback.__name__
            )

    return cast(_Callback, guard)


class CaptureConsole(NoopConsole):
    """Captures one run or audit and tells the outcome of each model as soon as it is known.

    Args:
        selected: FQNs that the run is to take; a plan may build others, which are told, too.
        tell: Receives each outcome once, from SQLMesh's threads.
        log: Receives a logging level and a message: what SQLMesh itself says.
        cancel: Once it is cancelled, a plan is stopped before it promotes anything, and a run while
            it waits for a plan; queries are interrupted elsewhere.
    """

    def __init__(
        self,
        selected: Iterable[str],
        tell: Callable[[ModelOutcome], None],
        log: Callable[[int, str], None] = _log.log,
        cancel: CancelToken | None = None,
        *,
        audit_only: bool = False,
    ) -> None:
        self._lock = threading.RLock()
        self._selected = set(selected)
        self._tell = tell
        self._log = log
        self._cancel = cancel or CancelToken()
        self._audit_only = audit_only
        self._captures: dict[str, _Capture] = {}
        self._next_due: dict[str, str | None] = {}
        self._execution_time: str | None = None
        self._below: dict[str, tuple[str, ...]] = {}
        self._plan: str | None = None
        self._failures: list[str] = []
        self._errors: list[str] = []
        self._is_planning = False

    @property
    def errors(self) -> str:
        """What went wrong, in the order it did: a plan raises without saying it."""
        return "\n".join(self._errors)

    @contextmanager
    def planning(self) -> Iterator[None]:
        """While a plan is applied: what it builds is kept, and told with what the run builds."""
        self._is_planning = True
        try:
            yield
        finally:
            self._is_planning = False

    def begin(
        self,
        snapshots: Mapping[str, Snapshot],
        execution_time: datetime,
        hint: str,
        plan: str | None = None,
        below: Mapping[str, tuple[str, ...]] | None = None,
    ) -> list[str]:
        """Takes the environment's snapshots, by name, and tells the models that it does not have.

        Args:
            hint: How to deploy a model that is missing.
            plan: Id of the plan that last changed the environment.
            below: Models that are restated with a selected one; they are taken, too.

        Returns:
            The taken names that the environment has, sorted.
        """
        with self._lock:
            self._execution_time = execution_time.isoformat()
            self._below = dict(below or {})
            self._selected.update(name for names in self._below.values() for name in names)
            self._plan = plan
            for name in sorted(self._selected - snapshots.keys()):
                self._tell_once(name, self._capture(name), "not_deployed", hint)
            present = sorted(self._selected & snapshots.keys())
            for name in present:
                self._capture(name).identify(snapshots[name])
                self._next_due[name] = _next_due(snapshots[name], execution_time)
            return present

    def finish(self, rest: tuple[Status, str] | None = None) -> None:
        """Tells what is still untold: models that were idle or not reached, and what a plan built beside.

        Args:
            rest: Status and reason of models of which nothing was heard, if they were not just idle.
        """
        with self._lock:
            for name in sorted(self._selected):
                capture = self._capture(name)
                if capture.told:
                    continue
                if capture.error or capture.cancelled:
                    self._tell_failed(name, capture)
                elif rest is not None:
                    self._tell_once(name, capture, *rest)
                elif capture.planned:
                    self._tell_once(name, capture, "upstream_failed", None)
                else:
                    self._tell_idle(name, capture)
            for name, capture in sorted(self._captures.items()):
                if name not in self._selected and capture.executed:
                    self._tell_once(name, capture, "executed", "built by the plan that deployed it")

    def fail(self, error: ErrorOutcome) -> None:
        """Tells every untold model that the run as a whole failed."""
        with self._lock:
            for name in sorted(self._selected):
                capture = self._capture(name)
                if not capture.told:
                    capture.error = capture.error or error
                    self._tell_failed(name, capture)

    # ------------------------------------------------------------ what SQLMesh calls

    @_guarded
    def update_signal_progress(
        self,
        snapshot: Snapshot,
        signal_name: str,
        signal_idx: int,
        total_signals: int,
        ready_intervals: list[tuple[int, int]],
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Remembers the signal that let nothing through."""
        if not ready_intervals:
            self._capture(snapshot.name).signal = signal_name

    @_guarded
    def start_evaluation_progress(
        self, batched_intervals: Mapping[Snapshot, list[tuple[int, int]]], *args: Any, **kwargs: Any
    ) -> None:
        """Knows now what will be executed, and tells the models for which nothing will."""
        planned = {snapshot.name: batches for snapshot, batches in batched_intervals.items()}
        if self._is_planning:
            return
        for name in sorted(self._selected):
            capture = self._capture(name)
            if name not in planned:
                if not self._audit_only:
                    self._tell_idle(name, capture)
            elif not planned[name]:
                self._tell_once(name, capture, "not_ready", self._waits_for(capture))
            else:
                capture.planned = [*capture.executed, *planned[name]]

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
        """Counts a batch; a batch without a duration has failed (SQLMesh calls this in `finally`)."""
        capture = self._capture(snapshot.name)
        if duration_ms is None:
            if snapshot.name in self._selected and (capture.error or capture.cancelled):
                self._tell_failed(snapshot.name, capture)
            return
        capture.executed.append((interval[0], interval[1]))
        capture.duration_ms += duration_ms
        capture.identify(snapshot)
        capture.built_at = now_timestamp()
        if execution_stats is not None:
            capture.rows = _add(capture.rows, execution_stats.total_rows_processed)
            capture.bytes = _add(capture.bytes, execution_stats.total_bytes_processed)
        if not self._is_planning and len(capture.executed) >= len(capture.planned):
            self._tell_once(
                snapshot.name, capture, "audited" if self._audit_only else "executed", None
            )

    @_guarded
    def log_skipped_models(self, snapshot_names: set[str]) -> None:
        """Tells the models that SQLMesh skipped because an upstream model failed."""
        for name in sorted(snapshot_names):
            capture = self._capture(name)
            if name in self._selected and not capture.error and not capture.cancelled:
                self._tell_once(
                    name,
                    capture,
                    "upstream_failed",
                    f"SQLMesh skipped it, because upstream failed: {', '.join(self._failures)}",
                )

    @_guarded
    def log_failed_models(self, errors: list[Any]) -> None:
        """Tells failures that happened outside an evaluation, such as creating a table."""
        for error in errors:
            name = getattr(error.node, "snapshot_name", None) or error.node.name
            capture = self._capture(name)
            if not capture.told:
                self.capture_failure(name, error.__cause__ or error)
                if name in self._selected:
                    self._tell_failed(name, capture)

    @_guarded
    def log_test_results(self, result: unittest.TestResult, target_dialect: str) -> None:
        """Keeps what failing unit tests say: the plan that they stop does not."""
        self._errors.extend(
            f"{test}: {text.strip()}" for test, text in (*result.errors, *result.failures)
        )

    def update_creation_progress(self, *args: Any, **kwargs: Any) -> None:
        """Stops a plan between two tables that it creates."""
        self._cancel.check()

    def stop_creation_progress(self, *args: Any, **kwargs: Any) -> None:
        """Stops a plan that has created its tables; what comes next is the promotion."""
        self._cancel.check()

    def log_success(self, *args: Any, **kwargs: Any) -> None:
        """Stops a plan that has no table to create, as above."""
        self._cancel.check()

    @_guarded
    def show_linter_violations(
        self, violations: list[Any], model: Any, is_error: bool = False
    ) -> None:
        """Keeps what the linter found: the plan that it stops only says that it found something."""
        found = [f"`{model.name}`: {violation}" for violation in violations]
        for line in found if is_error else ():
            self._errors.append(line)

    def log_warning(
        self, short_message: str, long_message: str | None = None, *args: Any, **kwargs: Any
    ) -> None:
        """Passes SQLMesh's warning on; a run that waits for a plan warns each time it looks."""
        self._log(logging.INFO, (long_message or short_message).strip())
        if not self._is_planning:  # a plan that promotes would leave the environment half changed
            self._cancel.check()

    def log_error(self, message: str, *args: Any, **kwargs: Any) -> None:
        """Passes SQLMesh's error on."""
        self._errors.append(message.strip())
        self._log(logging.ERROR, message.strip())

    # ------------------------------------------------------------ what the session calls

    @_guarded
    def capture_failure(self, name: str, error: BaseException, query: str | None = None) -> None:
        """Keeps why an evaluation failed; the outcome is told when SQLMesh ends the batch."""
        capture = self._capture(name)
        self._failures.append(name)
        if isinstance(error, RunCancelled):
            capture.cancelled = True
        elif isinstance(error, NodeAuditsErrors):
            capture.blocked = True
            found = "; ".join(str(audit) for audit in error.errors)
            capture.error = ErrorOutcome("audit", found)
        else:
            told = unavailable_database(error) or error
            capture.error = replace(as_error(told), query=query)
        if capture.error:
            self._errors.append(f"`{name}`: {capture.error.message}")

    @_guarded
    def capture_row_count(self, name: str, count: int | None) -> None:
        """Keeps how many rows a model's table has now."""
        self._capture(name).row_count = count

    @_guarded
    def capture_audits(
        self, snapshot: Snapshot, results: list[Any], samples: Mapping[int, RowSample]
    ) -> None:
        """Adds the results of one batch's audits, in the order of the model's audit calls.

        Args:
            samples: Rows that an audit found, by its place among the results.
        """
        calls = [(result.audit.name, audit_arguments(result.audit_args)) for result in results]
        adds = self._capture(snapshot.name).audits
        dialect = snapshot.model.dialect if snapshot.is_model else snapshot.node.dialect
        for place, ((name, arguments), check_name, result) in enumerate(
            zip(calls, check_names(calls), results, strict=True)
        ):
            if result.skipped:
                continue
            before = adds.get(check_name)
            query = (
                result.query.sql(dialect=dialect, pretty=True)
                if isinstance(result.query, exp.Expr)
                else None
            )
            adds[check_name] = AuditOutcome(
                name=name,
                identity=audit_identity(name, arguments),
                check_name=check_name,
                blocking=result.blocking,
                failing_rows=(before.failing_rows if before else 0) + (result.count or 0),
                query=query if result.count or before is None else before.query,
                arguments=tuple(arguments.items()),
                sample=samples.get(place, before.sample if before else None),
            )

    # ------------------------------------------------------------

    def _capture(self, name: str) -> _Capture:
        return self._captures.setdefault(name, _Capture())

    def _tell_idle(self, name: str, capture: _Capture) -> None:
        """Nothing is due; a plan may just have built it."""
        if capture.executed:
            self._tell_once(name, capture, "executed", None)
        else:
            self._tell_once(name, capture, "up_to_date", "nothing is due")

    def _waits_for(self, capture: _Capture) -> str:
        if capture.signal:
            return f"signal `{capture.signal}` is not ready"
        waiting = sorted(n for n, c in self._captures.items() if c.signal)
        return f"upstream waits for a signal: {', '.join(waiting) or 'unknown'}"

    def _tell_failed(self, name: str, capture: _Capture) -> None:
        if capture.cancelled:
            self._tell_once(name, capture, *CANCELLED)
        else:
            self._tell_once(name, capture, "audit_failed" if capture.blocked else "failed", None)

    def _tell_once(self, name: str, capture: _Capture, status: Status, reason: str | None) -> None:
        if capture.told:
            return
        capture.told = True
        self._tell(
            ModelOutcome(
                fqn=name,
                status=status,
                intervals=tuple(capture.executed),
                batches=len(capture.executed),
                duration_ms=capture.duration_ms,
                rows_processed=capture.rows,
                bytes_processed=capture.bytes,
                row_count=capture.row_count,
                plan=self._plan,
                snapshot=capture.snapshot,
                version=capture.version,
                built_at=capture.built_at,
                execution_time=self._execution_time,
                next_due=self._next_due.get(name),
                reason=reason,
                audits=tuple(capture.audits.values()),
                error=capture.error,
                below=self._below.get(name, ()),
            )
        )


def as_error(error: BaseException) -> ErrorOutcome:
    """An exception as data."""
    return ErrorOutcome(
        kind=type(error).__name__,
        message=str(error).strip(),
        traceback="".join(traceback.format_exception(error)),
    )


def _next_due(snapshot: Snapshot, after: datetime) -> str | None:
    if not snapshot.evaluatable or snapshot.is_seed:
        return None
    return snapshot.node.cron_next(after).isoformat()


def _add(total: int | None, more: int | None) -> int | None:
    return total if more is None else (total or 0) + more
