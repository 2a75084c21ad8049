"""What happened to each model of one run, and its outcome, reported once, as soon as it is known.

Only this module decides which outcome follows from SQLMesh's reports:

| what was heard                                   | outcome                       |
|--------------------------------------------------|-------------------------------|
| every batch that was planned has been built      | executed (or audited)         |
| a batch failed                                   | failed, audit failed, cancelled |
| no batch was planned                             | up to date                    |
| batches are due, and a signal holds all of them  | not ready                     |
| intervals are due, and a model upstream lacks them | not ready                   |
| planned, and nothing heard until the end         | upstream failed               |
| selected, and not in the environment             | not deployed                  |

What a plan builds counts once its environment shows it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal

from sqlmesh_dagster.definition.partitions import Interval, merged
from sqlmesh_dagster.facts.outcomes import AuditOutcome, ErrorOutcome, ModelOutcome, Status
from sqlmesh_dagster.facts.tables import BuiltTable

CANCELLED: tuple[Status, str] = ("cancelled", "the Dagster run was cancelled")
"""Status and reason of a model that a cancelled run did not build."""
BUILT_BY_PLAN = "built by the plan that deployed it"
"""Reason of a model that nobody selected."""
FailureKind = Literal["failed", "audit_failed", "cancelled"]


@dataclass(frozen=True)
class DeployedModel:
    """A model in an environment.

    Attributes:
        snapshot: Identifier of its snapshot; None if it is not known.
        version: What SQLMesh calls the version of its table.
        next_due: When it is due next, ISO 8601; None if never again.
        table: Its table before the run; None if it held no data.
    """

    snapshot: str | None
    version: str | None = None
    next_due: str | None = None
    table: BuiltTable | None = None


@dataclass(frozen=True)
class Batch:
    """One batch that was built.

    Attributes:
        interval: Epoch milliseconds, end exclusive.
        built_at: Epoch milliseconds.
    """

    interval: Interval
    duration_ms: int
    model: DeployedModel
    built_at: int
    rows: int | None = None
    bytes: int | None = None


@dataclass
class _Unshown:
    """What a plan has built of a model, whose view it has not changed yet."""

    built: list[Batch] = field(default_factory=list)
    audits: dict[str, AuditOutcome] = field(default_factory=dict)


@dataclass
class _Entry:
    """What was reported of one model so far."""

    model: DeployedModel | None = None
    planned: Sequence[Interval] = ()
    built: list[Batch] = field(default_factory=list)
    row_count: int | None = None
    signal: str | None = None
    waits_for: Sequence[str] = ()
    idle_because: str | None = None
    audits: dict[str, AuditOutcome] = field(default_factory=dict)
    failure: FailureKind | None = None
    error: ErrorOutcome | None = None
    is_reported: bool = False
    told_batches: int = 0
    late_audits: dict[str, AuditOutcome] = field(default_factory=dict)
    unshown: _Unshown = field(default_factory=_Unshown)

    def identify(self, model: DeployedModel) -> None:
        """Records which snapshot it is about."""
        known = self.model or model
        self.model = replace(
            model, next_due=model.next_due or known.next_due, table=model.table or known.table
        )


@dataclass(frozen=True)
class _Run:
    """Facts that are the same for every model of a run."""

    execution_time: str | None = None
    plan: str | None = None
    below: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    above: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


class Ledger:
    """The outcomes of one run or audit; methods may be called from any thread.

    Args:
        selected: FQNs that the run is to take; a plan may build others, which are reported, too.
        report: Receives each outcome once, in the thread that caused it.
        is_audit: Whether models are audited and not built.
    """

    def __init__(
        self,
        selected: Iterable[str],
        report: Callable[[ModelOutcome], None],
        *,
        is_audit: bool = False,
    ) -> None:
        self._lock = threading.RLock()
        self._selected = set(selected)
        self._report = report
        self._is_audit = is_audit
        self._entries: dict[str, _Entry] = {}
        self._failures: list[str] = []
        self._run = _Run()
        self._places: dict[str, int] = {}
        self._is_planning = False
        self._holds_last = False
        self._held: ModelOutcome | None = None
        self._failed_besides: ErrorOutcome | None = None

    # ------------------------------------------------------------ the run

    def begin(
        self,
        deployed: Mapping[str, DeployedModel],
        execution_time: str,
        hint: str,
        plan: str | None = None,
        below: Mapping[str, tuple[str, ...]] | None = None,
        above: Mapping[str, tuple[str, ...]] | None = None,
        *,
        holds_last: bool = False,
    ) -> list[str]:
        """Records the environment's models, and reports selected models that it lacks.

        Of what a plan has built before, only that counts which is deployed.

        Args:
            deployed: Upstream before downstream: what is known at once of several is reported so.
            hint: How to deploy a model that is missing.
            plan: Id of the plan that last changed the environment.
            below: Models that are restated with a selected one; they are taken, too.
            above: Models upstream of a selected one, which are built with it where they are missing.
            holds_last: Whether the run does more after its last model, such as `after_all`. Then
                that model is reported at the end of the run, so that a step can report a failure.

        Returns:
            The taken names that the environment has, sorted.
        """
        with self._lock:
            self._run = _Run(execution_time, plan, below or {}, above or {})
            if deployed:
                self._show(deployed)
            self._places = {name: place for place, name in enumerate(deployed)}
            self._holds_last = holds_last or self._failed_besides is not None
            self._selected.update(name for names in self._run.below.values() for name in names)
            for name in sorted(self._selected - deployed.keys()):
                self._report_once(name, "not_deployed", hint)
            present = sorted(self._selected & deployed.keys())
            for name in present:
                self._entry(name).identify(deployed[name])
            return present

    def end(self, rest: tuple[Status, str] | None = None) -> ErrorOutcome | None:
        """Reports what was not reported yet: idle models, models that were not reached, and models that a plan built.

        Args:
            rest: Status and reason of models of which nothing was heard, if they were not just idle.
                Without it, what a plan has built is deployed.

        Returns:
            What failed that is of no model, if no model is there to report it.
        """
        with self._lock:
            if rest is None:
                self._show(None)
            for name in self._unreported():
                entry = self._entry(name)
                if entry.failure:
                    self._report_failed(name)
                elif rest is not None:
                    self._report_once(name, *rest)
                elif entry.planned:
                    self._report_once(name, "upstream_failed", None)
                else:
                    self._report_idle(name)
            besides = self._failed_besides
            has_said_so = self._report_held(besides)
            self._report_late()
            for name in self._in_order(self._entries):
                entry = self._entries[name]
                if name in self._selected:
                    continue
                if entry.failure == "audit_failed" and not entry.built:
                    self._report_once(name, "audit_failed", None)
                elif entry.built:
                    self._report_once(name, "executed", BUILT_BY_PLAN)
            return None if has_said_so else besides

    def failed_besides(self, error: ErrorOutcome) -> None:
        """Something failed that keeps no model from being built: the last one reports it, at the end."""
        with self._lock:
            self._failed_besides, self._holds_last = error, True

    def fail(self, error: ErrorOutcome) -> bool:
        """Reports that the run failed, for every model that was not reported yet.

        Returns:
            Whether there was such a model.
        """
        with self._lock:
            unreported = self._unreported()
            has_said_so = self._report_held(error)
            self._report_late()
            for name in unreported:
                entry = self._entry(name)
                entry.failure = entry.failure or "failed"
                entry.error = entry.error or error
                self._report_failed(name)
            return has_said_so or bool(unreported)

    def refused(self, errors: Mapping[str, ErrorOutcome], below: Mapping[str, str]) -> None:
        """Reports the models whose local changes could not be deployed, and those downstream.

        Args:
            below: Models that are downstream of one of these, with its name.
        """
        with self._lock:
            for name, error in errors.items():
                entry = self._entry(name)
                entry.failure = "audit_failed" if error.kind == "audit" else "failed"
                entry.error = error
                if name in self._selected:
                    self._report_failed(name)
            for name, culprit in below.items():
                if name in self._selected:
                    reason = f"upstream could not be deployed: {_quoted([culprit])}"
                    self._report_once(name, "upstream_failed", reason)

    @contextmanager
    def planning(self) -> Iterator[None]:
        """Open while a plan is applied; what it builds is reported once the environment shows it."""
        self._is_planning = True
        try:
            yield
        finally:
            self._is_planning = False

    @property
    def is_planning(self) -> bool:
        """Whether a plan is being applied."""
        return self._is_planning

    @property
    def has_models(self) -> bool:
        """Whether models were selected: then their steps report what is found of them."""
        with self._lock:
            return bool(self._selected)

    # ------------------------------------------------------------ what is heard of a model

    def held_back(self, name: str, signal: str) -> None:
        """A signal holds back intervals of the model, or all."""
        with self._lock:
            self._entry(name).signal = signal

    def planned(self, batches: Mapping[str, Sequence[Interval]]) -> None:
        """The run will build these batches; reports the models for which there are none."""
        with self._lock:
            if self._is_planning:
                return
            for name, intervals in batches.items():
                entry = self._entry(name)
                entry.planned = (
                    [*(b.interval for b in entry.built), *intervals] if intervals else ()
                )
            self._selected.update(
                n for names in self._run.above.values() for n in names if batches.get(n)
            )
            for name in self._in_order(self._selected):
                entry = self._entry(name)
                if name not in batches:
                    if not self._is_audit:
                        self._report_idle(name)
                elif not batches[name]:
                    self._report_once(name, "not_ready", self._waits_for(entry))

    def waits(self, name: str, others: Sequence[str]) -> None:
        """Some of what is due of the model waits for models upstream that the run does not build."""
        with self._lock:
            self._entry(name).waits_for = others

    def is_idle_because(self, name: str, reason: str) -> None:
        """What is due of the model is not built, for this reason."""
        with self._lock:
            self._entry(name).idle_because = reason

    def built(self, name: str, batch: Batch) -> None:
        """One batch of a model has been built or audited."""
        with self._lock:
            entry = self._entry(name)
            if self._is_planning:
                entry.unshown.built.append(batch)
                return
            entry.identify(batch.model)
            entry.built.append(batch)
            if len(entry.built) >= len(entry.planned):
                self._report_once(
                    name, "audited" if self._is_audit else "executed", _partial(entry)
                )

    def failed(self, name: str, kind: FailureKind, error: ErrorOutcome | None) -> None:
        """The model failed; it is reported when its batch, or the run, has ended."""
        with self._lock:
            self._failures.append(name)
            entry = self._entry(name)
            entry.failure, entry.error = kind, error

    def batch_ended(self, name: str) -> None:
        """A batch has ended and was not built; reports the model if it failed."""
        with self._lock:
            if name in self._selected and self._entry(name).failure:
                self._report_failed(name)

    def skipped(self, names: Iterable[str]) -> None:
        """SQLMesh skips these models because a model upstream failed."""
        with self._lock:
            upstream = ", ".join(self._failures)
            for name in sorted(names):
                if name in self._selected and not self._entry(name).failure:
                    reason = f"SQLMesh skipped it, because upstream failed: {upstream}"
                    self._report_once(name, "upstream_failed", reason)

    def counted(self, name: str, rows: int | None) -> None:
        """The number of rows of the model's table."""
        with self._lock:
            self._entry(name).row_count = rows

    def audited(self, name: str, results: Iterable[AuditOutcome]) -> None:
        """Adds the results of one batch's audits: rows add up, the last query with rows is kept."""
        with self._lock:
            entry = self._entry(name)
            audits = entry.audits
            if self._is_planning:
                audits = entry.unshown.audits
            elif entry.is_reported:
                audits = entry.late_audits
            for result in results:
                audits[result.check_name] = _added(audits.get(result.check_name), result)

    def has_audited(self, name: str) -> bool:
        """Whether audits of it ran."""
        with self._lock:
            entry = self._entry(name)
            return bool(entry.audits or entry.unshown.audits)

    def is_reported(self, name: str) -> bool:
        """Whether the model's outcome is known."""
        with self._lock:
            return self._entry(name).is_reported

    # ------------------------------------------------------------

    def _entry(self, name: str) -> _Entry:
        return self._entries.setdefault(name, _Entry())

    def _show(self, deployed: Mapping[str, DeployedModel] | None) -> None:
        """Counts what plans have built of these models; None for whatever they have built."""
        for name, entry in self._entries.items():
            unshown, entry.unshown = entry.unshown, _Unshown()
            if deployed is not None:
                snapshot = deployed[name].snapshot if name in deployed else None
                unshown.built = [b for b in unshown.built if b.model.snapshot == snapshot]
            if unshown.built or deployed is None:
                entry.audits.update(unshown.audits)
            for batch in unshown.built:
                entry.identify(batch.model)
                entry.built.append(batch)

    def _unreported(self) -> list[str]:
        return [n for n in self._in_order(self._selected) if not self._entry(n).is_reported]

    def _in_order(self, names: Iterable[str]) -> list[str]:
        """Upstream before downstream: what a model was built from is known by what is upstream."""
        return sorted(names, key=lambda name: (self._places.get(name, -1), name))

    def _waits_for(self, entry: _Entry) -> str:
        if entry.signal:
            return f"signal `{entry.signal}` is not ready"
        waiting = sorted(name for name, other in self._entries.items() if other.signal)
        return f"upstream waits for a signal: {', '.join(waiting) or 'unknown'}"

    def _report_idle(self, name: str) -> None:
        """Nothing is due; a plan may just have built it."""
        entry = self._entry(name)
        if entry.built:
            self._report_once(name, "executed", None)
        elif entry.waits_for:
            self._report_once(name, "not_ready", f"it waits for {_quoted(entry.waits_for)}")
        else:
            self._report_once(name, "up_to_date", entry.idle_because or "nothing is due")

    def _report_failed(self, name: str) -> None:
        entry = self._entry(name)
        failure = entry.failure
        if failure == "audit_failed":
            unshown = entry.unshown.audits.items()
            # they say why; the others are of rows that no view shows
            entry.audits.update({k: a for k, a in unshown if a.blocking and a.failing_rows})
        if failure == "cancelled":
            self._report_once(name, *CANCELLED)
        elif failure:
            self._report_once(name, failure, None)

    def _report_once(self, name: str, status: Status, reason: str | None) -> None:
        entry = self._entry(name)
        if entry.is_reported:
            return
        entry.is_reported = True
        entry.told_batches = len(entry.built)
        above = tuple(n for n in self._run.above.get(name, ()) if self._entry(n).planned)
        outcome = _outcome(name, entry, self._run, status, reason, above)
        may_tell = status == "executed" or (self._failed_besides is not None and outcome.is_success)
        if self._holds_last and may_tell and not self._unreported():
            self._held = outcome
        else:
            self._report(outcome)

    def _report_held(self, error: ErrorOutcome | None) -> bool:
        """Reports the model that waited for the end of the run."""
        held, self._held, self._holds_last = self._held, None, False
        if held is not None:
            self._report(replace(held, error=error))
        return held is not None

    def _report_late(self) -> None:
        """Reports what was built and audited of a model after its failure was reported."""
        for name, entry in sorted(self._entries.items()):
            late = replace(entry, built=entry.built[entry.told_batches :], audits=entry.late_audits)
            if not (name in self._selected and entry.is_reported and entry.failure):
                continue
            if late.built or late.audits:
                outcome = _outcome(name, late, self._run, entry.failure, None, ())
                self._report(replace(outcome, is_late=True))


def _outcome(
    name: str,
    entry: _Entry,
    run: _Run,
    status: Status,
    reason: str | None,
    above: tuple[str, ...],
) -> ModelOutcome:
    model = entry.model or DeployedModel(snapshot=None)
    return ModelOutcome(
        fqn=name,
        status=status,
        intervals=tuple(batch.interval for batch in entry.built),
        batches=len(entry.built),
        duration_ms=sum(batch.duration_ms for batch in entry.built),
        rows_processed=_sum(batch.rows for batch in entry.built),
        bytes_processed=_sum(batch.bytes for batch in entry.built),
        row_count=entry.row_count,
        plan=run.plan,
        snapshot=model.snapshot,
        version=model.version,
        built_at=entry.built[-1].built_at if entry.built else None,
        execution_time=run.execution_time,
        next_due=model.next_due,
        reason=reason,
        audits=tuple(entry.audits.values()),
        error=entry.error,
        below=run.below.get(name, ()),
        above=above,
        table=model.table,
    )


def _partial(entry: _Entry) -> str | None:
    """Which intervals are missing of a model that was built."""
    what = [f"signal `{entry.signal}`"] if entry.signal else []
    what += [_quoted(entry.waits_for)] if entry.waits_for else []
    return f"the rest of it waits for {' and '.join(what)}" if what else None


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"`{plain}`" for plain in (name.replace('"', "") for name in names))


def _added(before: AuditOutcome | None, result: AuditOutcome) -> AuditOutcome:
    """For an audit of the whole table, the last batch counts: it has covered all rows."""
    if before is None or not result.covered:
        return result
    shown = before if before.failing_rows and not result.failing_rows else result
    return replace(
        result,
        failing_rows=before.failing_rows + result.failing_rows,
        query=shown.query,
        sample=result.sample or before.sample,
        covered=tuple(merged((*before.covered, *result.covered))),
        failing=(*before.failing, *result.failing),
    )


def _sum(counts: Iterable[int | None]) -> int | None:
    """None if the engine counted nothing."""
    known = [count for count in counts if count is not None]
    return sum(known) if known else None
