"""Crons that only SQLMesh takes become crons that Dagster takes, and no tick comes before its model is due."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import dagster as dg
import pytest
from croniter import croniter  # type: ignore[import-untyped]

from sqlmesh_dagster.definition.crons import dagster_cron

_DAY = 86400.0


@pytest.mark.parametrize(
    ("cron", "expected"),
    [
        ("@daily", "@daily"),
        ("0 0 L * *", "0 0 L * *"),
        ("0 0 * * * 0", "0 0 * * *"),
        ("0 0 * * * 30", "1 0 * * *"),
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
