"""Stale intervals are built again, with what is due, in the same `sqlmesh run`.

Importing this module imports SQLMesh.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from itertools import zip_longest

from sqlmesh_dagster.definition.partitions import Interval, merged
from sqlmesh_dagster.facts.outcomes import ModelOutcome
from sqlmesh_dagster.facts.staleness import (
    Input,
    Inputs,
    Known,
    Subject,
    Table,
    Verdict,
    contents,
    inputs_after,
    inputs_before,
    judge,
)
from sqlmesh_dagster.options import CheckedRunOptions
from sqlmesh_dagster.production import PRODUCTION
from sqlmesh_dagster.settings import ProjectSettings
from sqlmesh_dagster.upstream.internals import (
    DeployabilityIndex,
    Snapshot,
    SnapshotId,
    StateSync,
    to_timestamp,
)


@dataclass(frozen=True)
class Rebuild:
    """What a run builds in addition to what is due.

    Attributes:
        intervals: The intervals whose record is removed, for each snapshot.
        previews: The same for previews, whose record SQLMesh cannot remove, up to the run's now.
        audited: Names of the snapshots of which only the audits run.
    """

    intervals: Mapping[SnapshotId, tuple[Interval, ...]] = field(default_factory=dict)
    previews: Mapping[SnapshotId, Interval] = field(default_factory=dict)
    audited: frozenset[str] = frozenset()

    @property
    def spans(self) -> Mapping[SnapshotId, Interval]:
        """Begin and end of what is built again, for each snapshot."""
        return {s: (spans[0][0], spans[-1][1]) for s, spans in self.intervals.items()}

    def leave_out(self, snapshots: Mapping[SnapshotId, Snapshot]) -> None:
        """Lets the intervals be missing for this run; the record of them is as it was."""
        for snapshot_id, spans in self.intervals.items():
            if snapshot_id in snapshots:
                for span in spans:
                    snapshots[snapshot_id].remove_interval(span)

    def forget(self, state: StateSync, snapshots: Mapping[SnapshotId, Snapshot]) -> None:
        """Removes the intervals from SQLMesh's record: if they fail, the next run builds them.
        SQLMesh removes one interval of a table at a time.
        """
        chosen = {s: spans for s, spans in self.intervals.items() if s in snapshots}
        for spans in zip_longest(*chosen.values()):
            removed = [
                (snapshots[s], span)
                for s, span in zip(chosen, spans, strict=True)
                if span is not None
            ]
            state.remove_intervals(removed, remove_shared_versions=True)


class Freshness:
    """What the run does about stale models, and the inputs that each outcome then records."""

    def __init__(
        self,
        known: Known,
        snapshots: Mapping[str, Snapshot],
        settings: ProjectSettings,
        options: CheckedRunOptions,
        execution_time: datetime,
    ) -> None:
        self._known = known
        self._subjects = {subject.fqn: subject for subject in known.subjects.values()}
        is_production = settings.environment == PRODUCTION
        deployable = (
            DeployabilityIndex.all_deployable()
            if is_production
            else DeployabilityIndex.create(snapshots.values())
        )
        self._previews = {
            s.name: s for s in snapshots.values() if not deployable.is_representative(s)
        }
        self._snapshots = snapshots
        self._now = to_timestamp(execution_time)
        self._tables = {
            label: _table(snapshots[subject.fqn], subject, deployable, self._now, is_production)
            for label, subject in known.subjects.items()
            if subject.fqn in snapshots
        }
        self._verdicts = judge(known, self._tables)
        if options.start or options.end:  # what is removed outside of them would stay missing
            self._verdicts = {label: _limited(v) for label, v in self._verdicts.items()}
        self._inputs = {
            label: Input(contents(inputs_before(subject, self._tables.get(label), known.loads)))
            for label, subject in known.subjects.items()
            if subject.recorded is not None
        }

    def rebuild(self, log: Callable[[int, str], None]) -> Rebuild | None:
        """What is built again; logs it in one line, and what is not in another."""
        chosen = {label: v for label, v in self._verdicts.items() if v.rebuild}
        if chosen:
            log(logging.INFO, f"Stale, and built again: {', '.join(sorted(chosen))}.")
        left = {label: v for label, v in self._verdicts.items() if v.left}
        if left:
            log(logging.INFO, f"Stale, and left as they are: {', '.join(sorted(left))}.")
        if not chosen:
            return None
        intervals: dict[SnapshotId, tuple[Interval, ...]] = {}
        previews: dict[SnapshotId, Interval] = {}
        for label, verdict in chosen.items():
            snapshot = self._snapshots[self._known.subjects[label].fqn]
            if snapshot.name in self._previews:
                end = max(self._now, verdict.rebuild[-1][1])
                previews[snapshot.snapshot_id] = (verdict.rebuild[0][0], end)
            else:
                intervals[snapshot.snapshot_id] = verdict.rebuild
        audited = {self._known.subjects[label].fqn for label, v in chosen.items() if v.only_audits}
        return Rebuild(intervals, previews, frozenset(audited))

    def with_reason(self, outcome: ModelOutcome) -> ModelOutcome:
        """The outcome, with the model's inputs, and why it was built again or not."""
        subject = self._subjects.get(outcome.fqn)
        if subject is None or not outcome.is_success:
            return outcome
        verdict = self._verdicts.get(subject.label, Verdict())
        table = self._tables.get(subject.label)
        inputs = inputs_before(subject, table, self._known.loads)
        if outcome.status == "executed":
            now = {k: Input(load.version, load.pointer) for k, load in self._known.loads.items()}
            inputs = inputs_after(
                inputs, subject, verdict, table, outcome.intervals, {**now, **self._inputs}
            )
            self._inputs[subject.label] = Input(contents(inputs))
        behind = [c.label for c in verdict.changes if self._is_behind(c.label, inputs)]
        stale = _left(verdict, outcome.next_due) if behind else None
        is_built = outcome.status == "executed"
        return replace(
            outcome,
            inputs=tuple((label, made.version, made.pointer) for label, made in inputs.items()),
            stale=stale,
            reason=stale if stale and not is_built else outcome.reason,
            renewed=tuple(c.label for c in verdict.changes) if is_built and verdict.rebuild else (),
        )

    def _is_behind(self, label: str, inputs: Inputs) -> bool:
        now = self._known.loads.get(label)
        version = (
            now.version if now else self._inputs[label].version if label in self._inputs else ""
        )
        return label not in inputs or inputs[label].version != version


def _table(
    snapshot: Snapshot,
    subject: Subject,
    deployable: DeployabilityIndex,
    now: int,
    is_production: bool,
) -> Table:
    is_own = deployable.is_representative(snapshot)
    done = tuple(merged(snapshot.intervals if is_own else snapshot.dev_intervals))
    may_be_due = subject.policy == "nothing" and done and done[-1][1] < now
    return Table(
        version=snapshot.version,
        done=done,
        built_at=snapshot.last_altered_ts if is_own else snapshot.dev_last_altered_ts,
        is_due=bool(may_be_due)
        and bool(
            snapshot.missing_intervals(
                done[-1][1], now, execution_time=now, deployability_index=deployable
            )
        ),
        is_restatable=not snapshot.disable_restatement,
        refusal=_refusal(snapshot, subject, is_production),
    )


def _refusal(snapshot: Snapshot, subject: Subject, is_production: bool) -> str | None:
    if not is_production and not snapshot.is_paused:
        return (
            "this environment shares its table with production. Run it there:"
            " `SQLMESH_ENVIRONMENT=prod poe run`."
        )
    if (
        snapshot.disable_restatement
        and subject.policy in ("all", "touched")
        and not subject.is_view
    ):
        return (
            "its `disable_restatement` is on, to prevent the loss of data. Set it to `false` in the"
            " model if its data can be built again."
        )
    return None


def _limited(verdict: Verdict) -> Verdict:
    if not verdict.rebuild:
        return verdict
    return Verdict(
        verdict.changes,
        left="`start` and `end` limit this run to what is due. Launch it without them to build it now.",
    )


def _left(verdict: Verdict, next_due: str | None) -> str | None:
    """Why it was not built, since when, until when, and how to build it now."""
    if not verdict.left:
        return None
    changed = ", ".join(
        f"`{change.label}`" + (f" (since {_moment(change.since)})" if change.since else "")
        for change in verdict.changes
    )
    until = f" By its cron, it is due next at {next_due}." if next_due else ""
    return f"There is new data in {changed}, and what was built before is left as it is: {verdict.left}{until}"


def _moment(milliseconds: int) -> str:
    moment = datetime.fromtimestamp(milliseconds / 1000, timezone.utc)
    return f"{moment:%Y-%m-%d %H:%M} UTC"
