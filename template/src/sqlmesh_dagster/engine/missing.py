"""Which intervals of many models are due: SQLMesh is asked once for all models that must have the same answer.

Evaluating a cron costs 0.1 ms, and SQLMesh does it three times a model; a project has few crons. A contract
test compares the answers with those of `sqlmesh.core.snapshot.missing_intervals`, for all.

Importing this module imports SQLMesh.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable
from datetime import datetime

from sqlmesh_dagster.upstream.internals import (
    DeployabilityIndex,
    Intervals,
    Snapshot,
    SnapshotToIntervals,
    start_date,
    to_datetime,
)


def missing_at(
    snapshots: Collection[Snapshot], at: datetime, deployability: DeployabilityIndex
) -> SnapshotToIntervals:
    """As SQLMesh's `missing_intervals`, for one moment, in one order."""
    by_id = {snapshot.snapshot_id: snapshot for snapshot in snapshots}
    starts: dict[str, datetime] = {}
    answers: dict[Hashable, Intervals] = {}
    missing: dict[Snapshot, Intervals] = {}
    for snapshot in snapshots:
        if not snapshot.evaluatable:
            continue
        start = start_date(snapshot, by_id, starts, relative_to=at)
        key = _asked(snapshot, start, deployability)
        if key not in answers:
            answers[key] = _missing(snapshot, start, at, deployability)
        if answers[key]:
            missing[snapshot] = answers[key]
    return missing


def next_cron(snapshots: Iterable[Snapshot], at: datetime) -> Iterable[datetime]:
    """When the crons of these go off next, each cron once."""
    crons = {(s.node.cron, str(s.node.cron_tz)): s.node for s in snapshots}
    return [node.cron_next(at) for node in crons.values()]


def _missing(
    snapshot: Snapshot, start: datetime, at: datetime, deployability: DeployabilityIndex
) -> Intervals:
    if start > at:
        return []
    end = snapshot.node.end
    return snapshot.missing_intervals(
        start,
        end if end and to_datetime(end) < at else at,
        execution_time=at,
        deployability_index=deployability,
    )


def _asked(snapshot: Snapshot, start: datetime, deployability: DeployabilityIndex) -> Hashable:
    """All that `Snapshot.missing_intervals` looks at."""
    node = snapshot.node
    is_shown = deployability.is_representative(snapshot)
    done = tuple(snapshot.intervals if is_shown else snapshot.dev_intervals)
    timing = (node.cron, str(node.cron_tz), node.interval_unit, str(node.start), str(node.end))
    if not snapshot.is_model:
        return (*timing, start, done)
    model = snapshot.model  # a property that looks for it each time
    return (*timing, start, done, model.lookback, model.kind.is_seed, model.allow_partials)
