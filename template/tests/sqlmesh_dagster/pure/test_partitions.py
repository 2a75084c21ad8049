"""Partitions: one for each interval of a model, and which of them a stretch of time fills."""

from __future__ import annotations

from datetime import datetime, timezone

import dagster as dg
import pytest

from sqlmesh_dagster.definition.partitions import (
    interval_partitions,
    keys_within,
    merged,
    window_of,
)
from tests.sqlmesh_dagster.pure.records import model

DAY = 86_400_000


def at(text: str) -> int:
    """Epoch milliseconds of a time in UTC."""
    return int(datetime.fromisoformat(text).replace(tzinfo=timezone.utc).timestamp() * 1000)


def daily(unit: str = "day", end: str | None = None) -> dg.TimeWindowPartitionsDefinition:
    """The partitions of a model that is built by time range."""
    record = model(
        "m",
        kind="INCREMENTAL_BY_TIME_RANGE",
        interval_unit=unit,
        first_interval="2025-01-01T00:00:00+00:00",
        end_of_last_interval=end,
    )
    partitions = interval_partitions(record)
    assert partitions is not None
    return partitions


@pytest.mark.parametrize(
    ("unit", "keys"),
    [
        ("year", ["2025-01-01", "2026-01-01"]),
        ("month", ["2025-01-01", "2025-02-01"]),
        ("day", ["2025-01-01", "2025-01-02"]),
        ("hour", ["2025-01-01-00:00", "2025-01-01-01:00"]),
        ("half_hour", ["2025-01-01-00:00", "2025-01-01-00:30"]),
        ("quarter_hour", ["2025-01-01-00:00", "2025-01-01-00:15"]),
        ("five_minute", ["2025-01-01-00:00", "2025-01-01-00:05"]),
    ],
)
def test_each_interval_unit_has_partitions_of_its_length(unit: str, keys: list[str]) -> None:
    """Promise: keys as Dagster itself writes them, in UTC."""
    now = datetime(2027 if unit in ("year", "month") else 2025, 1, 3, tzinfo=timezone.utc)
    partitions = daily(unit)
    assert partitions.get_partition_keys(current_time=now)[:2] == keys
    assert partitions.timezone == "UTC"


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "FULL"},
        {"kind": "INCREMENTAL_BY_UNIQUE_KEY", "first_interval": "2025-01-01T00:00:00+00:00"},
        {"kind": "INCREMENTAL_BY_TIME_RANGE", "first_interval": None},
    ],
)
def test_a_model_without_fixed_intervals_has_no_partitions(changes: dict[str, str | None]) -> None:
    """Promise: neither one of another kind, nor one whose start moves with the clock."""
    assert interval_partitions(model("m", **changes)) is None


def test_a_model_that_ends_has_no_partition_after_its_end() -> None:
    """Promise: the end of its last interval is exclusive."""
    partitions = daily(end="2025-01-03T00:00:00+00:00")
    assert partitions.get_partition_keys() == ["2025-01-01", "2025-01-02"]


def test_a_range_of_keys_is_the_time_from_the_first_to_the_end_of_the_last() -> None:
    """Promise: in epoch milliseconds, end exclusive, as SQLMesh counts."""
    window = window_of(daily(), "2025-01-02", "2025-01-03")
    assert window == (at("2025-01-02"), at("2025-01-04"))


def test_only_partitions_that_are_filled_wholly_count() -> None:
    """Promise: half a day is no partition; adjacent intervals fill one together."""
    half = DAY // 2
    begin = at("2025-01-02")
    intervals = [(begin + half, begin + DAY), (begin - half, begin + half)]
    assert list(keys_within(daily(), intervals)) == [("2025-01-02", (begin, begin + DAY))]


def test_time_before_the_first_and_after_the_last_partition_is_left_out() -> None:
    """Promise: what was built there belongs to no partition."""
    partitions = daily(end="2025-01-03T00:00:00+00:00")
    everything = [(at("2024-01-01"), at("2026-01-01"))]
    assert [key for key, _ in keys_within(partitions, everything)] == ["2025-01-01", "2025-01-02"]
    before, after = (at("2024-01-01"), at("2025-01-01")), (at("2025-01-03"), at("2025-02-01"))
    assert list(keys_within(partitions, [before, after])) == []
    assert [key for key, _ in keys_within(daily(), [before, after])][::30] == ["2025-01-03"]


def test_partitions_come_oldest_first_from_intervals_in_any_order() -> None:
    """Promise: also when there are gaps between them."""
    first, third = at("2025-01-01"), at("2025-01-03")
    intervals = [(third, third + DAY), (first, first + DAY)]
    assert [key for key, _ in keys_within(daily(), intervals)] == ["2025-01-01", "2025-01-03"]


@pytest.mark.parametrize(
    ("intervals", "expected"),
    [
        ([], []),
        ([(1, 2)], [(1, 2)]),
        ([(2, 3), (1, 2)], [(1, 3)]),
        ([(1, 2), (3, 4)], [(1, 2), (3, 4)]),
        ([(1, 9), (2, 3)], [(1, 9)]),
        ([(1, 3), (2, 5), (7, 8)], [(1, 5), (7, 8)]),
    ],
)
def test_intervals_that_touch_or_overlap_become_one(
    intervals: list[tuple[int, int]], expected: list[tuple[int, int]]
) -> None:
    """Promise: the same time in as few as can be, in order."""
    assert merged(intervals) == expected


@pytest.mark.parametrize(
    "unit", ["month", "day", "hour", "half_hour", "quarter_hour", "five_minute"]
)
def test_the_time_of_each_partition_is_what_dagster_says(unit: str) -> None:
    """Promise: also where it is not parsed from its key, across gaps, the ends of months and a leap day."""
    partitions = daily(unit)
    february, march = {"month": ("01", "02"), "day": ("27", "02")}.get(unit, ("28", "01"))
    spans = [
        (f"{year}-02-{february}T00:00", f"{year}-03-{march}T02:00") for year in ("2026", "2028")
    ]
    found = list(keys_within(partitions, [(at(begin), at(end)) for begin, end in spans]))
    assert found == [(key, window_of(partitions, key, key)) for key, _ in found]
    assert found and len({key for key, _ in found}) == len(found)
