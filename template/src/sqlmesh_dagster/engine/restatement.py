"""Restatement: which models, which intervals, and what is removed from SQLMesh's record for it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlmesh_dagster.errors import RestatementRefusedError
from sqlmesh_dagster.options import CheckedRunOptions
from sqlmesh_dagster.upstream.internals import (
    Snapshot,
    SnapshotId,
    StateSync,
    TimeLike,
    earliest_start_date,
    identify_restatement_intervals_across_snapshot_versions,
    now,
    snapshots_to_dag,
    to_timestamp,
)

Interval = tuple[int, int]


@dataclass(frozen=True)
class Restatement:
    """Intervals that a run restates, with the missing ones in the same span.

    Attributes:
        start: Begin of the span that the run was asked for.
        end: As `start`.
        intervals: What is built of each model; SQLMesh widens the span where a model needs it.
        below: Models that nobody selected, by the selected model that they are downstream of.
        keeps_crons: Whether other models are built by their crons: no partitions were chosen.
    """

    start: TimeLike
    end: TimeLike
    intervals: Mapping[SnapshotId, Interval]
    below: Mapping[str, tuple[str, ...]]
    keeps_crons: bool = False

    @property
    def unselected(self) -> set[str]:
        """The models that nobody selected."""
        return {name for names in self.below.values() for name in names}


def plan_restatement(
    snapshots: Mapping[str, Snapshot],
    wanted: Collection[str],
    options: CheckedRunOptions,
    execution_time: datetime,
    log: Callable[[int, str], None],
    *,
    is_production: bool,
) -> Restatement:
    """As SQLMesh's `PlanBuilder` does for `--restate-model`, for exactly the wanted models or more.

    Args:
        snapshots: What the environment runs, by name.
        wanted: The selected models that are deployed; at least one.

    Raises:
        RestatementRefusedError: A wanted model must not be built again.
    """
    start, end = _span([snapshots[name] for name in wanted], options, execution_time)
    intervals: dict[SnapshotId, Interval] = {}
    above: dict[SnapshotId, set[str]] = {}
    for snapshot_id in snapshots_to_dag(snapshots.values()):
        snapshot = snapshots.get(snapshot_id.name)
        if snapshot is None or not snapshot.is_model or snapshot.is_external:
            continue
        is_wanted = snapshot.name in wanted
        parents = [snapshots[p.name] for p in snapshot.parents if p in intervals]
        if not is_wanted and not (parents and options.restate_downstream):
            continue
        interval = _interval(snapshot, parents, intervals, start, end, execution_time)
        if options.partitions is None:
            interval = _done_or_due(snapshot, interval, execution_time)
        reason = _refusal(snapshot, options, is_production=is_production)
        if reason and is_wanted and (options.restate or _overlaps(snapshot, interval)):
            raise RestatementRefusedError(f"`{snapshot.node.name}` is not built again: {reason}")
        if reason:
            log(logging.WARNING, f"`{snapshot.node.name}` stays as it is: {reason}")
        elif not snapshot.is_seed and interval[0] < interval[1]:
            intervals[snapshot_id] = interval
            above[snapshot_id] = {n for p in parents for n in above[p.snapshot_id]} | (
                {snapshot.name} if is_wanted else set()
            )
    return Restatement(
        start,
        end,
        intervals,
        {
            name: tuple(
                sorted(
                    s.name
                    for s, tops in above.items()
                    if name in tops and s.name not in wanted and snapshots[s.name].evaluatable
                )
            )
            for name in wanted
        },
        keeps_crons=options.partitions is None and not options.ignore_cron,
    )


def done_of(
    snapshots: Mapping[SnapshotId, Snapshot], restatement: Restatement
) -> list[tuple[Snapshot, Interval]]:
    """What is restated of each snapshot that has something done.

    A plan leaves the record of it as it is. A run removes it when its first model begins: if it then
    fails or is stopped, the intervals are missing, and the next run builds them. Previews have a record
    of their own, which SQLMesh cannot remove.
    """
    return [
        (snapshots[s], interval)
        for s, interval in restatement.intervals.items()
        if s in snapshots and snapshots[s].intervals
    ]


def forget_elsewhere(
    state: StateSync,
    snapshots: Mapping[SnapshotId, Snapshot],
    intervals: Mapping[SnapshotId, Interval],
) -> None:
    """Lets development environments build again what production restates, as a plan does.

    Their own versions of a model would bring old rows into production when they are promoted.
    """
    requests = identify_restatement_intervals_across_snapshot_versions(
        state_reader=state,
        prod_restatements={s.name: interval for s, interval in intervals.items()},
        disable_restatement_models={
            s.name for s in snapshots.values() if s.is_model and s.disable_restatement
        },
        loaded_snapshots=dict(snapshots),
        current_ts=to_timestamp(now()),
    )
    if requests:
        state.remove_intervals(
            [(request.snapshot, request.interval) for request in requests.values()],
            remove_shared_versions=True,
        )


def _span(
    wanted: Iterable[Snapshot], options: CheckedRunOptions, execution_time: datetime
) -> tuple[TimeLike, TimeLike]:
    """The span that the run was asked for; by default all that is done, and all that is due.

    Of a restatement that failed before, more or less is missing.
    """
    if options.partitions is not None:
        return options.partitions
    spans = [span for s in wanted for span in _done_and_due(s, execution_time)]
    return (
        options.start or min(low for low, _ in spans),
        options.end or max(high for _, high in spans),
    )


def _done_and_due(snapshot: Snapshot, execution_time: datetime) -> Iterable[Interval]:
    done = (*snapshot.intervals, *snapshot.dev_intervals)
    ends = to_timestamp(snapshot.node.cron_floor(execution_time))
    begins = to_timestamp(earliest_start_date([snapshot], relative_to=execution_time))
    return [*done, (done[-1][1] if done else min(begins, ends), ends)]


def _interval(
    snapshot: Snapshot,
    parents: Iterable[Snapshot],
    intervals: Mapping[SnapshotId, Interval],
    start: TimeLike,
    end: TimeLike,
    execution_time: datetime,
) -> Interval:
    spans = [intervals[p.snapshot_id] for p in parents if p.is_incremental]
    spans.append(snapshot.get_removal_interval(start, end, execution_time, strict=False))
    low, high = min(low for low, _ in spans), max(high for _, high in spans)
    unit = snapshot.node.interval_unit
    if unit is None:
        return low, high
    floor = to_timestamp(unit.cron_floor(high))
    whole = to_timestamp(unit.cron_next(floor)) if floor < high else high
    return to_timestamp(unit.cron_floor(low)), whole


def _done_or_due(snapshot: Snapshot, interval: Interval, execution_time: datetime) -> Interval:
    """Without the time that the model's own cron has not reached, as in a plan of SQLMesh's.

    The span is that of all models: the days of a week that is not over would be done too early, and
    not be built again when it is.
    """
    low, high = interval
    return low, min(high, max(end for _, end in _done_and_due(snapshot, execution_time)))


def _refusal(snapshot: Snapshot, options: CheckedRunOptions, *, is_production: bool) -> str | None:
    """Why SQLMesh would not restate it."""
    if snapshot.disable_restatement:
        return (
            "its `disable_restatement` is on, to prevent the loss of data. Set it to `false` in the"
            " model, if its data can be built again."
        )
    if not is_production and not snapshot.is_paused:
        given = {"--start": options.start, "--end": options.end}
        span = "".join(f" {name} '{value}'" for name, value in given.items() if value)
        return (
            "this environment shares its version with production. Build it again there:"
            f" `SQLMESH_ENVIRONMENT=prod poe rebuild {snapshot.node.name}{span}`; or change the model."
        )
    return None


def _overlaps(snapshot: Snapshot, interval: Interval) -> bool:
    """Whether some of it is done."""
    done = (*snapshot.intervals, *snapshot.dev_intervals)
    return any(low < interval[1] and interval[0] < high for low, high in done)
