"""The real daemon, and all that it has started, killed again and again: `pytest -m storm` on this file."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pytest

from tests.instance import instance_of
from tests.robustness.projects import processes_of
from tests.robustness.test_days import _daemon, _pay, platform

__all__ = ["platform"]
pytestmark = pytest.mark.storm
_KILLS = int(os.environ.get("STORM_KILLS", "10"))
_SEED = int(os.environ.get("STORM_SEED", "1"))
_PATIENCE = 240


def _newest(root: Path) -> tuple[int, dg.DagsterRun | None]:
    with instance_of(root / "dagster_home") as instance:
        runs = instance.get_runs()
        return len(runs), runs[0] if runs else None


def _new_run(root: Path, before: int, *, is_ended: bool) -> dg.DagsterRun:
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        count, run = _newest(root)
        is_there = run is not None and (
            run.is_finished or (not is_ended and run.status is dg.DagsterRunStatus.STARTED)
        )
        if count > before and run is not None and is_there:
            return run
        time.sleep(0.2)
    pytest.fail((root / "daemon.log").read_text()[-5000:])


def _wait_for_all(root: Path) -> None:
    """Until no run is left, of the schedule or of the daemon's retries."""
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        with instance_of(root / "dagster_home") as instance:
            if all(run.is_finished for run in instance.get_runs()):
                return
        time.sleep(1)
    pytest.fail((root / "daemon.log").read_text()[-5000:])


def _learn_schedule(root: Path, environment: Mapping[str, str], now: datetime) -> None:
    """The schedule is known from here on."""
    with _daemon(root, environment, now):
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            with instance_of(root / "dagster_home") as instance:
                if instance.all_instigator_state():
                    return
            time.sleep(0.5)


def _with_retries(root: Path) -> None:
    """The daemon launches again what failed, beside what the schedule requests."""
    settings = root / "dagster_home" / "dagster.yaml"
    text = settings.read_text()
    assert "max_retries: 0" in text
    settings.write_text(text.replace("max_retries: 0", "max_retries: 2"))


def _marts(root: Path) -> dict[str, list[tuple[Any, ...]]]:
    """The rows of every mart, each with how often it is there."""
    with duckdb.connect(str(root / "warehouse.duckdb"), read_only=True) as connection:
        names = connection.execute(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = 'marts__dev'"
        ).fetchall()
        query = "SELECT *, count(*) FROM warehouse.marts__dev.{} GROUP BY ALL ORDER BY ALL"
        return {name: connection.execute(query.format(name)).fetchall() for (name,) in names}


def _kill_all(root: Path) -> int:
    """As a power cut: how many processes there were."""
    killed: set[int] = set()
    while found := processes_of(root):
        for pid in found:
            killed.add(pid)
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)
    return len(killed)


def test_killed_at_random_moments_the_schedule_goes_on_and_no_row_is_lost_or_doubled(
    platform: tuple[Path, Mapping[str, str]],
) -> None:
    """Promise: the next tick ends what is dead, and builds what is missing: each mart is that of an undisturbed run.

    The clock jumps a day ahead with each start, and the daemon retries what was killed, too. A run is killed
    once its process has begun: that one which was only launched is dead is told by its age, of which the
    code server's clock knows nothing here.
    """
    root, environment = platform
    _with_retries(root)
    calm = shutil.copytree(root, root.with_name("calm"))
    moments = random.Random(_SEED)
    today = datetime.now(timezone.utc).replace(hour=0, minute=0, second=0, microsecond=0)
    first = today + timedelta(days=1)
    midnights = [first + timedelta(days=number) for number in range(1, _KILLS + 2)]
    cut = 0
    _learn_schedule(root, environment, first + timedelta(hours=23))
    for number, midnight in enumerate(midnights, 1):
        _pay(root, number, midnight - timedelta(days=1))
        _pay(calm, number, midnight - timedelta(days=1))
        before, _ = _newest(root)
        is_last = midnight == midnights[-1]
        with _daemon(root, environment, midnight + timedelta(seconds=5)):
            run = _new_run(root, before, is_ended=is_last)
            if is_last:
                _wait_for_all(root)
            else:
                time.sleep(moments.uniform(0, 15))
                with instance_of(root / "dagster_home") as instance:
                    found = instance.get_run_by_id(run.run_id)
                cut += found is not None and not found.is_finished
                _kill_all(root)
    with instance_of(root / "dagster_home") as instance:
        statuses = [r.status.name for r in instance.get_runs()]
    assert set(statuses) <= {"SUCCESS", "FAILURE"}, statuses
    undisturbed = {name: text.replace(str(root), str(calm)) for name, text in environment.items()}
    _learn_schedule(calm, undisturbed, first + timedelta(hours=23))
    with _daemon(calm, undisturbed, midnights[-1] + timedelta(seconds=5)):
        _new_run(calm, 0, is_ended=True)
        _wait_for_all(calm)
    with duckdb.connect(str(root / "warehouse.duckdb"), read_only=True) as connection:
        days = connection.execute(
            "SELECT revenue_date, count(*), sum(revenue) FROM warehouse.marts__dev.daily_revenue"
            " WHERE revenue_date >= $first GROUP BY 1 ORDER BY 1",
            {"first": first.date()},
        ).fetchall()
    expected = [((first + timedelta(days=n)).date(), 1, 1) for n in range(_KILLS + 1)]
    assert [(day, count, float(revenue)) for day, count, revenue in days] == expected
    assert _marts(root) == _marts(calm)
    print(f"{_KILLS} kills, {cut} of them in the middle of a run, {len(statuses)} runs: {statuses}")
    assert cut
