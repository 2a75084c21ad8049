"""What must wait because a model upstream lacks the same interval: pure functions."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from sqlmesh_dagster.definition.partitions import Interval, merged


@dataclass(frozen=True)
class Buildable:
    """What may be built of one model.

    Attributes:
        intervals: In order.
        waits_for: Names of the models whose gaps hold the rest back.
    """

    intervals: tuple[Interval, ...]
    waits_for: tuple[str, ...] = ()


def without_gaps(
    parents: Mapping[str, Collection[str]],
    wanted: Mapping[str, Collection[Interval]],
    gaps: Mapping[str, Collection[Interval]],
    consecutive: Collection[str] = (),
) -> dict[str, Buildable]:
    """The intervals of `wanted` that may be built: none that any model upstream lacks.

    Args:
        parents: What each model reads directly, upstream before downstream.
        wanted: Intervals, each of the model's own length, of the models that a run may build.
        gaps: Time that a model lacks, and that the run does not build.
        consecutive: Models that are built in order of time: nothing after a gap may be built.
    """
    lacking: dict[str, dict[str, list[Interval]]] = {}
    found = {}
    for name, above in parents.items():
        lacking[name] = {
            other: times for parent in above for other, times in lacking.get(parent, {}).items()
        }
        if name in wanted:
            found[name] = _buildable(wanted[name], lacking[name], name in consecutive)
        if gaps.get(name):
            lacking[name] = {**lacking[name], name: merged(gaps[name])}
    return found


def _buildable(
    wanted: Collection[Interval], lacking: Mapping[str, list[Interval]], is_consecutive: bool
) -> Buildable:
    if not lacking:
        return Buildable(tuple(sorted(wanted)))
    kept = tuple(
        _outside(wanted, merged(t for times in lacking.values() for t in times), is_consecutive)
    )
    held = [interval for interval in wanted if interval not in set(kept)]
    waits_for = [name for name, times in lacking.items() if _is_overlapping(held, times)]
    return Buildable(kept, tuple(sorted(waits_for)))


def _outside(
    wanted: Iterable[Interval], gaps: list[Interval], is_consecutive: bool
) -> Iterable[Interval]:
    place = 0
    for interval in sorted(wanted):
        while place < len(gaps) and gaps[place][1] <= interval[0]:
            place += 1
        if place == len(gaps) or interval[1] <= gaps[place][0]:
            yield interval
        elif is_consecutive:
            return


def _is_overlapping(intervals: Iterable[Interval], times: list[Interval]) -> bool:
    return any(low < end and begin < high for low, high in intervals for begin, end in times)
