"""What must wait because a model upstream lacks the same time, on days that are numbers."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping

from sqlmesh_dagster.definition.partitions import Interval
from sqlmesh_dagster.facts.gaps import without_gaps

CHAIN = {"top": (), "middle": ("top",), "bottom": ("middle",)}


def _days(*days: int) -> list[Interval]:
    return [(day, day + 1) for day in days]


def _built(
    wanted: Mapping[str, Collection[int]],
    gaps: Mapping[str, Collection[int]],
    *,
    consecutive: Collection[str] = (),
) -> dict[str, tuple[list[int], tuple[str, ...]]]:
    """The days that may be built of each model of the chain, and what the rest waits for."""
    found = without_gaps(
        CHAIN,
        {name: _days(*days) for name, days in wanted.items()},
        {name: _days(*days) for name, days in gaps.items()},
        consecutive,
    )
    return {name: ([low for low, _ in may.intervals], may.waits_for) for name, may in found.items()}


def test_what_nothing_upstream_lacks_is_built() -> None:
    """Promise: without a gap nothing waits."""
    assert _built({"bottom": [1, 2, 3]}, {}) == {"bottom": ([1, 2, 3], ())}


def test_a_day_that_upstream_lacks_waits_with_its_name() -> None:
    """Promise: the other days are built."""
    assert _built({"bottom": [1, 2, 3]}, {"middle": [2]}) == {"bottom": ([1, 3], ("middle",))}


def test_a_gap_goes_on_through_a_model_that_has_the_day() -> None:
    """Promise: a model between, built before its upstream was restated, hides nothing."""
    assert _built({"bottom": [1, 2]}, {"top": [2]}) == {"bottom": ([1], ("top",))}


def test_a_gap_before_or_after_holds_nothing_back() -> None:
    """Promise: only the same time counts, and an end is no part of it."""
    assert _built({"middle": [2]}, {"top": [1, 3]}) == {"middle": ([2], ())}


def test_a_model_that_is_built_in_order_of_time_stops_at_the_first_gap() -> None:
    """Promise: what depends on its past is never built past a hole."""
    found = _built({"bottom": [1, 2, 3]}, {"top": [2]}, consecutive=["bottom"])
    assert found == {"bottom": ([1], ("top",))}


def test_an_hour_that_is_missing_holds_back_its_day() -> None:
    """Promise: intervals of different length are compared by their time."""
    found = without_gaps(CHAIN, {"middle": [(0, 24), (24, 48)]}, {"top": [(30, 31)]})
    assert found["middle"].intervals == ((0, 24),)


def test_no_day_is_built_that_a_model_above_lacks_and_no_other_is_left() -> None:
    """Promise: the same as a look at each day of each model above, on random graphs."""
    for seed in range(300):
        chance = random.Random(seed)
        names = [f"m{i}" for i in range(chance.randint(2, 6))]
        parents = {
            n: tuple(m for m in names[:i] if chance.random() < 0.5) for i, n in enumerate(names)
        }
        missing = {n: {d for d in range(6) if chance.random() < 0.4} for n in names}
        taken = {n for n in names if chance.random() < 0.5}
        found = without_gaps(
            parents,
            {n: _days(*sorted(missing[n])) for n in taken},
            {n: _days(*sorted(missing[n])) for n in names if n not in taken},
        )
        for name in taken:
            above = _above(parents, name) - taken
            lacked = {day for other in above for day in missing[other]}
            assert [low for low, _ in found[name].intervals] == sorted(missing[name] - lacked), seed
            waits_for = sorted(other for other in above if missing[other] & missing[name])
            assert list(found[name].waits_for) == waits_for, seed


def _above(parents: Mapping[str, Collection[str]], name: str) -> set[str]:
    return {other for p in parents[name] for other in {p, *_above(parents, p)}}
