"""SQLMesh's intervals as Dagster's partitions: one for each interval of a model's interval unit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta, timezone

import dagster as dg

from sqlmesh_dagster.definition.records import ModelRecord
from sqlmesh_dagster.errors import InvalidSettingError

Interval = tuple[int, int]
"""Epoch milliseconds, end exclusive; as SQLMesh's."""
_DAY = "%Y-%m-%d"
_MINUTE = "%Y-%m-%d-%H:%M"
_UNITS = {
    "year": ("0 0 1 1 *", _DAY),
    "month": ("0 0 1 * *", _DAY),
    "day": ("0 0 * * *", _DAY),
    "hour": ("0 * * * *", _MINUTE),
    "half_hour": ("*/30 * * * *", _MINUTE),
    "quarter_hour": ("*/15 * * * *", _MINUTE),
    "five_minute": ("*/5 * * * *", _MINUTE),
}
"""SQLMesh's interval units, each with the cron and the key's format that Dagster itself uses."""
_MINUTES = {"day": 1440, "hour": 60, "half_hour": 30, "quarter_hour": 15, "five_minute": 5}
_STEPS = {_UNITS[unit][0]: minutes * 60_000 for unit, minutes in _MINUTES.items()}
"""Milliseconds from one partition to the next, by cron, where they are always the same."""


def interval_partitions(model: ModelRecord) -> dg.TimeWindowPartitionsDefinition | None:
    """A partition for each of the model's intervals, in UTC, as SQLMesh counts them.

    Returns:
        None for a model that is not built by time range, and for one whose start is relative, such
        as `1 week ago`: its partitions would change each day.
    """
    if model.kind != "INCREMENTAL_BY_TIME_RANGE" or model.first_interval is None:
        return None
    cron, fmt = _UNITS[model.interval_unit]
    return dg.TimeWindowPartitionsDefinition(
        start=datetime.fromisoformat(model.first_interval),
        end=datetime.fromisoformat(model.end_of_last_interval)
        if model.end_of_last_interval
        else None,
        cron_schedule=cron,
        fmt=fmt,
        timezone="UTC",
    )


def window_of(
    partitions: dg.TimeWindowPartitionsDefinition, first_key: str, last_key: str
) -> Interval:
    """The time from the begin of one partition to the end of another."""
    begin = partitions.time_window_for_partition_key(first_key).start
    end = partitions.time_window_for_partition_key(last_key).end
    return _milliseconds(begin), _milliseconds(end)


def existing_window(
    partitions: dg.TimeWindowPartitionsDefinition, first_key: str, last_key: str, now: datetime
) -> Interval:
    """As `window_of`, for partitions that exist at a moment.

    Raises:
        InvalidSettingError: One does not exist, or its time has not ended, or the range is reversed.
    """
    for key in (first_key, last_key):
        try:
            window = partitions.time_window_for_partition_key(key)
        except (ValueError, OverflowError) as error:
            raise _unknown_partition(partitions, key) from error
        if window.end > now:
            raise InvalidSettingError(
                f"Partition `{key}` lies in the future: its time ends at {window.end.isoformat()},"
                f' and the "now" of the run is {now.isoformat()}. Choose partitions whose time has ended.'
            )
        if not partitions.has_partition_key(key):
            raise _unknown_partition(partitions, key)
    begin, end = window_of(partitions, first_key, last_key)
    if begin >= end:
        raise InvalidSettingError(
            f"The range of partitions from `{first_key}` to `{last_key}` ends before it begins. Give"
            " the earlier one first."
        )
    return begin, end


def _unknown_partition(
    partitions: dg.TimeWindowPartitionsDefinition, key: str
) -> InvalidSettingError:
    return InvalidSettingError(
        f"Partition `{key}` does not exist. Use one from `{partitions.get_first_partition_key()}`, the first,"
        f" to `{partitions.get_last_partition_key()}`, the newest."
    )


def keys_within(
    partitions: dg.TimeWindowPartitionsDefinition, intervals: Iterable[Interval]
) -> Iterator[tuple[str, Interval]]:
    """The partitions that lie wholly in what the intervals cover together, oldest first."""
    first = _milliseconds(partitions.start)
    last = _milliseconds(partitions.end) if partitions.end else None
    for begin, end in merged(intervals):
        low, high = max(begin, first), end if last is None else min(end, last)
        if low >= high:
            continue
        span = dg.TimeWindow(_moment(low), _moment(high))
        keys = partitions.get_partition_keys_in_time_window(span)
        for key, window in _windows(partitions, keys):
            if low <= window[0] and window[1] <= high:
                yield key, window


def _windows(
    partitions: dg.TimeWindowPartitionsDefinition, keys: Iterable[str]
) -> Iterator[tuple[str, Interval]]:
    """Each key with its time; one that follows the last in even steps is not parsed, which is dear."""
    step = _STEPS.get(partitions.cron_schedule, 0) if partitions.timezone == "UTC" else 0
    next_key, end = None, 0
    for key in keys:
        is_next = step and key == next_key
        window = (end, end + step) if is_next else window_of(partitions, key, key)
        end = window[1]
        next_key = _moment(end).strftime(partitions.fmt) if step else None
        yield key, window


def left_out(
    partitions: dg.TimeWindowPartitionsDefinition, wanted: Interval, built: Iterable[Interval]
) -> list[str]:
    """The keys of the partitions in a time of which nothing was built, oldest first."""
    gaps = []
    begin = wanted[0]
    for low, high in merged(built):
        gaps.append((begin, min(low, wanted[1])))
        begin = max(begin, high)
    gaps.append((begin, wanted[1]))
    return [key for key, _ in keys_within(partitions, (gap for gap in gaps if gap[0] < gap[1]))]


def newest_within(
    partitions: dg.TimeWindowPartitionsDefinition, intervals: Iterable[Interval]
) -> tuple[str, Interval] | None:
    """The last of `keys_within`, without a look at the others; None where the newest time fills none."""
    spans = merged(intervals)
    window = partitions.get_prev_partition_window(_moment(spans[-1][1])) if spans else None
    if window is None or _milliseconds(window.start) < spans[-1][0]:
        return None
    span = _milliseconds(window.start), _milliseconds(window.end)
    return next(((key, span) for key in partitions.get_partition_keys_in_time_window(window)), None)


def merged(intervals: Iterable[Interval]) -> list[Interval]:
    """The same time in as few intervals as can be, in order."""
    result: list[Interval] = []
    for low, high in sorted(intervals):
        if result and low <= result[-1][1]:
            result[-1] = (result[-1][0], max(high, result[-1][1]))
        else:
            result.append((low, high))
    return result


def _moment(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(0, timezone.utc) + timedelta(milliseconds=milliseconds)


def _milliseconds(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)
