"""No model is built on a gap: what a run also builds upstream, and what has to wait.

Importing this module imports SQLMesh.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import pairwise

from sqlmesh_dagster.facts.gaps import Buildable, without_gaps
from sqlmesh_dagster.settings import MissingUpstream
from sqlmesh_dagster.upstream.internals import (
    DeployabilityIndex,
    Intervals,
    Snapshot,
    SnapshotToIntervals,
    expand_range,
)


@dataclass(frozen=True)
class Upstream:
    """The models upstream of those that a run takes.

    Attributes:
        order: The taken models and all models upstream, upstream before downstream, each with the
            models that it reads.
        along: What is built with them where it is missing, as `sqlmesh run --select-model` does.
        above: Of each taken model, those of `along` that are above it.
    """

    order: Mapping[str, tuple[str, ...]]
    along: frozenset[str]
    above: Mapping[str, tuple[str, ...]]


def find_upstream(
    snapshots: Mapping[str, Snapshot],
    taken: Collection[str],
    held: Collection[str],
    choice: MissingUpstream,
) -> Upstream:
    """Finds the models upstream of the taken ones, and decides which are built, too.

    External tables have no step of their own, so their audits always run, too.

    Args:
        snapshots: What the environment runs, by name.
        held: Names of models that must not be built now.
        choice: `build` takes along what is missing; `wait` leaves it.
    """
    order = _upstream_first(snapshots, taken)
    if len(order) == len(taken):
        return Upstream(order, frozenset(), {})
    along: set[str] = set()
    reached = set(taken)
    for name in reversed(order):
        snapshot = snapshots[name]
        is_taken = name in taken
        if name not in reached or (name in held and not is_taken):
            continue
        if not is_taken and snapshot.evaluatable:
            if choice == "wait" and not snapshot.is_external:
                continue
            along.add(name)
        reached.update(order[name])
    return Upstream(order, frozenset(along), _above(order, taken, along) if along else {})


def buildable(
    missing: SnapshotToIntervals,
    upstream: Upstream,
    taken: Collection[str],
    deployability: DeployabilityIndex,
) -> dict[str, Buildable]:
    """The missing intervals that may be built, for each taken model that waits for others.

    Args:
        missing: Of every model, as SQLMesh merged them.
        taken: The models that the run builds, with what goes along.
    """
    by_name = {snapshot.name: (snapshot, spans) for snapshot, spans in missing.items()}
    gaps = {
        name: _never_built(*by_name[name], deployability)
        for name in upstream.order
        if name in by_name and name not in taken
    }
    if not any(gaps.values()):
        return {}
    wanted = {
        name: _split(*by_name[name]) for name in upstream.order if name in by_name and name in taken
    }
    consecutive = {name for name in wanted if by_name[name][0].depends_on_past}
    found = without_gaps(upstream.order, wanted, gaps, consecutive)
    return {name: may for name, may in found.items() if may.waits_for}


def _upstream_first(
    snapshots: Mapping[str, Snapshot], taken: Collection[str]
) -> dict[str, tuple[str, ...]]:
    order: dict[str, tuple[str, ...]] = {}
    pending = [(name, False) for name in sorted(taken, reverse=True)]
    while pending:
        name, is_done = pending.pop()
        if name in order:
            continue
        parents = tuple(sorted(p.name for p in snapshots[name].parents if p.name in snapshots))
        if is_done:
            order[name] = parents
        else:
            pending.append((name, True))
            pending.extend((parent, False) for parent in parents if parent not in order)
    return order


def _above(
    order: Mapping[str, tuple[str, ...]], taken: Collection[str], along: Collection[str]
) -> dict[str, tuple[str, ...]]:
    above: dict[str, set[str]] = {}
    for name, parents in order.items():
        above[name] = {n for p in parents for n in above[p]} | {p for p in parents if p in along}
    return {name: tuple(sorted(above[name])) for name in taken if above[name]}


def _never_built(
    snapshot: Snapshot, spans: Intervals, deployability: DeployabilityIndex
) -> Intervals:
    """Missing intervals, without those that are only built again because of a `lookback`."""
    done = (
        snapshot.intervals if deployability.is_representative(snapshot) else snapshot.dev_intervals
    )
    return [
        (low, high)
        for low, high in _split(snapshot, spans)
        if not any(begin <= low and high <= end for begin, end in done)
    ]


def _split(snapshot: Snapshot, spans: Intervals) -> Intervals:
    """Merged intervals, each of the model's own length again."""
    unit = snapshot.node.interval_unit
    return [
        interval
        for span in spans
        for moments in [expand_range(*span, unit)]
        for interval in pairwise(moments)
    ]
