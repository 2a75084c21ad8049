"""Crons that only SQLMesh takes become crons that Dagster takes, and no tick comes before its model is due."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from itertools import pairwise, takewhile
from zoneinfo import ZoneInfo

import dagster as dg
import pytest
from croniter import croniter  # type: ignore[import-untyped]
from dagster._utils.schedules import schedule_execution_time_iterator
from sqlmesh.utils.cron import CroniterCache

from sqlmesh_dagster.definition.crons import after_a_skipped_hour, dagster_cron, even_steps
from sqlmesh_dagster.run.schedule import finest_crons
from tests.sqlmesh_dagster.pure.records import model

_DAY = 86400.0
_WEEKS = timedelta(days=32)


@pytest.mark.parametrize(
    ("cron", "expected"),
    [
        ("@daily", "@daily"),
        ("0 0 L * *", "0 0 L * *"),
        ("0 0 * * * 0", "0 0 * * *"),
        ("0 0 * * * 00", "0 0 * * *"),
        ("0 0 * * * 30", "1 0 * * *"),
        ("* 2 * * * 30", "* 2 * * *"),
        ("58 1 * * * 30", "59 1 * * *"),
        ("5-59 1 * * * 30", "0 * * * *"),
        ("*/10,5 1 * * * 30", "0 * * * *"),
        ("0 0 1W * * 30 2026", "1 0 * * *"),
        ("*/10 * * * * 15", "1-59/10 * * * *"),
        ("10-20,30 1 * * 1-5 5", "11-21,31 1 * * 1-5"),
        ("0 0 1 1 * 0 2026", "0 0 1 1 *"),
        ("0 12 1W * *", "0 12 * * *"),
        ("59 23 * * * 30", "0 * * * *"),
        ("nonsense", "0 * * * *"),
    ],
)
def test_a_cron_is_kept_or_replaced_by_the_closest(cron: str, expected: str) -> None:
    """Promise: seconds become the next minute; words that Dagster does not know, every day."""
    assert dagster_cron(cron, _DAY) == expected


@pytest.mark.parametrize("seconds", ["0", "30", "*/20", "59"])
@pytest.mark.parametrize("minute", ["0", "59", "*/5", "1,58", "3-7"])
@pytest.mark.parametrize("rest", ["* * * *", "0 * * *", "23 1W * *", "4 * * 1-5", "5 1,15 * *"])
def test_a_tick_follows_within_the_hour_of_each_tick_of_sqlmeshs(
    minute: str, rest: str, seconds: str
) -> None:
    """Promise: a model that is due is found due soon after, and never waits for the next day."""
    cron = f"{minute} {rest} {seconds}"
    begin = datetime(2026, 1, 1, tzinfo=timezone.utc)
    theirs, period = croniter(cron, begin), 300.0
    ours = dagster_cron(cron, period)
    dg.AutomationCondition.cron_tick_passed(ours)
    for _ in range(20):
        due = theirs.get_next(datetime)
        tick = croniter(ours, due - timedelta(seconds=1)).get_next(datetime)
        assert timedelta(0) <= tick - due <= timedelta(hours=1), (cron, ours, due, tick)


@pytest.mark.parametrize(
    ("seconds", "cron"),
    [
        (30, "*/1 * * * *"),
        (60, "*/1 * * * *"),
        (119, "*/1 * * * *"),
        (120, "*/2 * * * *"),
        (3599, "*/59 * * * *"),
        (3600, "0 * * * *"),
        (90061, "0 * * * *"),
    ],
)
def test_even_steps_are_no_longer_than_the_time_between_two_ticks(
    seconds: float, cron: str
) -> None:
    """Promise: each minute at most, and each hour at least."""
    assert even_steps(seconds) == cron


@pytest.mark.parametrize(
    ("cron", "period", "zone", "second"),
    [
        ("30 2 * * *", _DAY, "Europe/Berlin", "30 3 * * *"),
        ("0 2 * * 0", 7 * _DAY, "Europe/Berlin", "0 3 * * 0"),
        ("0 1-2,5 * * *", _DAY, "Europe/Berlin", "0 3 * * *"),
        ("0 2,3 * * *", _DAY, "Europe/Berlin", "0 3 * * *"),
        ("0 3 * * *", _DAY, "Europe/Berlin", None),
        ("0 2 * * *", _DAY, "UTC", None),
        ("0 2 * * *", _DAY - 1, "Europe/Berlin", None),
        ("0 * * * *", _DAY, "Europe/Berlin", None),
        ("0 */2 * * *", _DAY, "Europe/Berlin", None),
        ("@daily", _DAY, "Europe/Berlin", None),
        ("15 0 * * 1", 7 * _DAY, "Asia/Beirut", "15 1 * * 1"),
        ("15 2 * * *", _DAY, "Australia/Lord_Howe", "15 3 * * *"),
        ("30 23 * * 6", 7 * _DAY, "America/Nuuk", "30 0 * * *"),
    ],
)
def test_an_hour_that_summer_time_skips_has_a_second_tick(
    cron: str, period: float, zone: str, second: str | None
) -> None:
    """Promise: an hour later; after midnight on whatever day that is; none where no clock skips the hour."""
    assert after_a_skipped_hour(cron, period, zone) == second


_ZONES = (
    "Europe/Berlin",
    "America/New_York",
    "America/Santiago",
    "America/Nuuk",
    "Africa/Casablanca",
    "Asia/Beirut",
    "Australia/Lord_Howe",
    "Pacific/Chatham",
    "Asia/Kathmandu",
)
"""Summer time that begins at 2:00, at midnight, before it, by half an hour, at a quarter to, and none."""


@pytest.mark.parametrize("zone", _ZONES)
@pytest.mark.parametrize(
    "cron",
    ["@daily", "@hourly", "0 2 * * *", "45 2 * * *", "30 23 * * *", "0 2 * * 0", "15 3 1 * *"],
)
def test_no_night_of_a_clock_change_costs_a_day(zone: str, cron: str) -> None:
    """Promise: what SQLMesh says is due is found due an hour later at most, and no model waits for the next day.

    SQLMesh's tick and Dagster's are those of two programs, which differ in nights without 2:30.
    """
    local, this_year = ZoneInfo(zone), datetime.now(timezone.utc).year
    period = {"@hourly": 3600.0, "0 2 * * 0": 7 * _DAY, "15 3 1 * *": 28 * _DAY}.get(cron, _DAY)
    (crons, _) = finest_crons(
        [model("m", cron=cron, cron_tz=zone, cron_period=period, cron_gap=period)]
    )
    days = (datetime(this_year, 1, 1, tzinfo=timezone.utc) + timedelta(days=n) for n in range(366))
    changes = [
        day for day, following in pairwise(days) if _offset(day, local) != _offset(following, local)
    ]
    for change in changes:
        before = timedelta(days=3 if period >= _DAY else 1)
        begin, end = change - before, change + before + timedelta(days=1)
        ticks = schedule_execution_time_iterator(
            begin.timestamp(), list(crons), zone, ascending=True
        )
        until = end + (timedelta(days=2) if period <= _DAY else _WEEKS)
        seen = [tick.timestamp() for tick in takewhile(until.__gt__, ticks)]
        due, last = CroniterCache(cron, begin, local), begin.date()
        while (moment := due.get_next()) < end:
            late = min(tick for tick in seen if tick >= moment.timestamp()) - moment.timestamp()
            day = moment.astimezone(timezone.utc).date()
            # a time that the clock shows twice is two ticks of SQLMesh, and the end of one day
            assert late <= 3600 or day == last, (moment, late)
            last = day


def _offset(moment: datetime, zone: ZoneInfo) -> timedelta | None:
    return moment.astimezone(zone).utcoffset()
