"""Crons that Dagster takes, for crons that only SQLMesh takes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from itertools import pairwise
from zoneinfo import ZoneInfo

import dagster as dg

_MINUTES = 60
_DAY = 24 * 3600
_QUARTER = timedelta(minutes=15)
"""Zones change by a multiple of it."""
_NUMBERS = re.compile(r"\d+(-\d+)?(,\d+(-\d+)?)*")
_STEPS = re.compile(r"\*/(\d+)")


@lru_cache(maxsize=1024)
def dagster_cron(cron: str, period: float) -> str:
    """The cron itself, or one that ticks in the minute after each of its ticks, or more often.

    SQLMesh's crons may have seconds as a sixth field and a year as a seventh, and words such as `1W`.
    A tick too many costs a look at what is due; one before the model is due would be a day lost.

    Args:
        period: Shortest time between two of its ticks, in seconds.
    """
    return next((c for c in _candidates(cron) if _is_taken(c)), even_steps(period))


def even_steps(period: float) -> str:
    """A cron that ticks at least as often; hourly at least, as time zones agree on the full hour or half."""
    minutes = max(1, int(period // 60))
    return f"*/{minutes} * * * *" if minutes < _MINUTES else "0 * * * *"


@lru_cache(maxsize=256)
def after_a_skipped_hour(cron: str, period: float, zone: str) -> str | None:
    """A second tick, an hour later, for a cron at an hour that the zone's summer time skips.

    In that night SQLMesh's tick and Dagster's differ in some zones, by an hour at most: Dagster's
    came first, found nothing due, and the next came a day or a week later.

    Args:
        cron: One that Dagster takes.
    """
    minute, hour, *days = (*cron.split(), "", "")[:5]
    if period < _DAY or not _NUMBERS.fullmatch(hour):
        return None
    hours = {int(number) for number in re.findall(r"\d+", hour)} & _skipped_hours(zone)
    if not hours:
        return None
    later = ",".join(str((number + 1) % 24) for number in sorted(hours))
    return " ".join((minute, later, *(["*"] * 3 if 23 in hours else days)))


@lru_cache(maxsize=16)
def _skipped_hours(zone: str) -> frozenset[int]:
    """The hours that no clock shows, at least in part, in some night of this year or the next."""
    begin = datetime(datetime.now(timezone.utc).year, 1, 1, tzinfo=timezone.utc)
    days = [(begin + timedelta(days=number)).astimezone(ZoneInfo(zone)) for number in range(732)]
    changes = [pair for pair in pairwise(days) if _offset(pair[0]) < _offset(pair[1])]
    return frozenset(hour for day, _ in changes for hour in _skipped_in(day))


def _skipped_in(day: datetime) -> Iterator[int]:
    """Summer time begins within a day after this moment."""
    moments = [
        (day.astimezone(timezone.utc) + n * _QUARTER).astimezone(day.tzinfo) for n in range(97)
    ]
    before, after = next(pair for pair in pairwise(moments) if _offset(pair[0]) < _offset(pair[1]))
    shown = (before + _QUARTER).replace(tzinfo=None)
    while shown < after.replace(tzinfo=None):
        yield shown.hour
        shown += _QUARTER


def _offset(moment: datetime) -> timedelta:
    return moment.utcoffset() or timedelta()


def _candidates(cron: str) -> Iterator[str]:
    """The closest first."""
    yield cron
    minute, hour, *days = (*cron.split(), "", "")[:7]
    days, seconds = days[:3], days[3] if len(days) > 3 else ""
    if seconds not in ("", "0", "00"):
        minute = _a_minute_later(minute)
    yield " ".join((minute, hour, *days))
    yield f"{minute} {hour} * * *"


def _a_minute_later(minute: str) -> str:
    """The field, one minute later; empty, which is no cron, where that would be in the next hour."""
    if minute == "*":
        return minute
    steps = _STEPS.fullmatch(minute)
    if steps:
        return f"1-59/{steps[1]}"
    numbers = [int(number) for number in re.findall(r"\d+", minute)]
    if not _NUMBERS.fullmatch(minute) or max(numbers) + 1 >= _MINUTES:
        return ""
    return re.sub(r"\d+", lambda found: str(int(found[0]) + 1), minute)


def _is_taken(cron: str) -> bool:
    try:
        dg.ScheduleDefinition(name="any", job_name="any", cron_schedule=cron)
    except dg.DagsterInvalidDefinitionError:
        return False
    return True
