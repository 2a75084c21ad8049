"""Time spans as text, and their differences."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta, timezone

from sqlmesh_dagster.definition.partitions import Interval

_DAY = timedelta(days=1)
_SHOWN = 3


def utc(milliseconds: int) -> datetime:
    """Epoch milliseconds as a moment."""
    return datetime.fromtimestamp(milliseconds / 1000, timezone.utc)


def milliseconds(moment: datetime) -> int:
    """The reverse of `utc`."""
    return round(moment.timestamp() * 1000)


def in_words(spans: Iterable[Interval]) -> str:
    """`2025-01-01 to 2025-01-09`, or with times in UTC where a span begins or ends within a day."""
    texts = [_words(utc(low), utc(high)) for low, high in spans]
    more = f" and {len(texts) - _SHOWN} more spans" if len(texts) > _SHOWN else ""
    return ", ".join(texts[:_SHOWN]) + more


def without(span: Interval, covered: Iterable[Interval]) -> list[Interval]:
    """The rest of a span, in order."""
    left = [span]
    for low, high in covered:
        left = [
            part
            for begin, end in left
            for part in ((begin, min(end, low)), (max(begin, high), end))
            if part[0] < part[1]
        ]
    return left


def _words(begin: datetime, end: datetime) -> str:
    if begin.time() == end.time() == datetime.min.time():
        first, last = begin.date(), (end - _DAY).date()
        return f"{first}" if first >= last else f"{first} to {last}"
    return f"{begin:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC"
