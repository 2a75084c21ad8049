"""Crons that Dagster takes, for crons that only SQLMesh takes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

import dagster as dg

_MINUTES = 60
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
