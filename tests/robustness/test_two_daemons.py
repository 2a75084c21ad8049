"""Two daemons on one instance, as while a deployment rolls or where `dg dev` runs twice: `pytest -m storm -s` on this file.

Each has a code server of its own, and the clock of all processes is set to just before midnight again and
again. On Postgres where `dagster-postgres` is installed.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pytest

from tests.answers import EXAMPLE
from tests.conftest import Render
from tests.instance import instance_of
from tests.postgres import postgres
from tests.robustness.test_days import _pay

pytestmark = pytest.mark.storm
_PACKAGE = EXAMPLE["package_name"]
_NIGHTS = int(os.environ.get("STORM_NIGHTS", "6"))
_PATIENCE = int(os.environ.get("STORM_PATIENCE", "240"))
_CLOCK = """\
import os, sys, time
from datetime import datetime, timedelta, timezone

real = time.time

def ahead():
    with open(os.environ["CLOCK"]) as file:
        return float(file.read())

def ours():
    caller = sys._getframe(1).f_globals.get("__name__", "")
    return real() + (ahead() if caller.startswith("sqlmesh_dagster") else 0)

command = " ".join(sys.orig_argv)
if "multiprocessing.spawn" in command:  # the process of a run
    import time_machine  # which SQLMesh requires
    time_machine.travel(datetime.now(timezone.utc) + timedelta(seconds=ahead()), tick=True).start()
elif "dagster._daemon" in command:  # the names that Dagster's own tests use
    from dagster import _time
    _time._mockable_get_current_timestamp = lambda: real() + ahead()
    _time._mockable_get_current_datetime = (
        lambda: datetime.now(timezone.utc) + timedelta(seconds=ahead())
    )
else:
    time.time = ours
"""
"""Python starts with it. In the servers it is the time of our own modules alone: gRPC counts its deadlines by it."""
_LAUNCHED_TWICE = "unexpectedly exited"
"""Dagster's words, of a run that both daemons took from the queue: the second process ends at once, and the
first goes on, though the run is shown as failed."""
_BEFORE = timedelta(seconds=4)
_POSTGRES = """
storage:
  postgres:
    postgres_db: {{hostname: 127.0.0.1, port: {port}, username: postgres, password: none, db_name: dagster}}
"""


@dataclass
class Platform:
    """A generated project, and the daemons that run on its instance."""

    root: Path
    environment: Mapping[str, str]
    daemons: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def clock(self) -> Path:
        """What all processes add to the time."""
        return self.root.parent / "clock"

    def set_clock(self, now: datetime) -> None:
        """In all processes at once."""
        unfinished = self.clock.with_name("next")
        unfinished.write_text(f"{(now - datetime.now(timezone.utc)).total_seconds():+.3f}")
        unfinished.replace(self.clock)

    def log(self, number: int) -> str:
        """What a daemon, and what it has started, printed."""
        return (self.root / f"daemon{number}.log").read_text()

    def start(self) -> None:
        """One more daemon."""
        number = len(self.daemons)
        with (self.root / f"daemon{number}.log").open("ab") as log:
            daemon = subprocess.Popen(
                [sys.executable, "-m", "dagster._daemon", "run", "-m", f"{_PACKAGE}.definitions"],
                cwd=self.root,
                env=dict(self.environment),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.daemons.append(daemon)

    def stop(self) -> None:
        """All of them."""
        for daemon in self.daemons:
            daemon.send_signal(signal.SIGINT)
        for daemon in self.daemons:
            try:
                daemon.wait(timeout=60)
            except subprocess.TimeoutExpired:
                os.killpg(daemon.pid, signal.SIGKILL)
                daemon.wait()

    @contextmanager
    def instance(self) -> Iterator[dg.DagsterInstance]:
        """The instance that they share."""
        with instance_of(self.root / "dagster_home") as instance:
            yield instance

    def wait(self, nights: int) -> None:
        """Until the schedule is known to both, or the runs of so many nights have ended and are quiet."""
        deadline = time.monotonic() + _PATIENCE
        quiet = 0
        while time.monotonic() < deadline:
            with self.instance() as instance:
                runs = instance.get_runs()
                is_known = bool(instance.all_instigator_state())
            is_quiet = all(run.is_finished for run in runs) and len(_nights(runs)) >= nights
            quiet = quiet + 1 if is_known and is_quiet and self._are_up() else 0
            if quiet > 6:
                return
            time.sleep(1)
        pytest.fail("\n".join(self.log(number)[-4000:] for number in range(len(self.daemons))))

    def _are_up(self) -> bool:
        logs = [self.log(number) for number in range(len(self.daemons))]
        return all("Instance is configured" in log for log in logs)


def _nights(runs: list[dg.DagsterRun] | Any) -> Counter[str]:
    """How many runs each tick of the schedule has."""
    return Counter(run.tags[".dagster/scheduled_execution_time"] for run in runs)


@pytest.fixture(params=["sqlite", "postgres"])
def platform(request: pytest.FixtureRequest, render: Render, tmp_path: Path) -> Iterator[Platform]:
    """On one of the two storages; its daemons are stopped at the end."""
    with ExitStack() as stack:
        root = shutil.copytree(render(**{**EXAMPLE, "sample": "minimal"}), tmp_path / "project")
        if request.param == "postgres":
            if importlib.util.find_spec("dagster_postgres") is None:
                pytest.skip("needs dagster-postgres")
            server = stack.enter_context(postgres())
            server.create_database("dagster")
            settings = root / "dagster_home" / "dagster.yaml"
            others = settings.read_text().partition("\nstorage:")[0]
            settings.write_text(others + _POSTGRES.format(port=server.port))
        clock = tmp_path / "clock"
        clock.write_text("0")
        start = tmp_path / "start"
        start.mkdir()
        (start / "sitecustomize.py").write_text(_CLOCK)
        platform = Platform(
            root,
            {
                **os.environ,
                "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
                "PYTHONPATH": os.pathsep.join([str(start), str(root / "src")]),
                "DAGSTER_HOME": str(root / "dagster_home"),
                "MAX_FORK_WORKERS": "1",
                "CLOCK": str(clock),
            },
        )
        stack.callback(platform.stop)
        yield platform


def _revenue(root: Path, since: date) -> list[tuple[Any, ...]]:
    """None while a run holds the file."""
    with (
        suppress(duckdb.IOException),
        duckdb.connect(str(root / "warehouse.duckdb"), read_only=True) as connection,
    ):
        return connection.execute(
            "SELECT revenue_date, count(*), sum(revenue)::INT FROM warehouse.marts__dev.daily_revenue"
            " WHERE revenue_date >= $since GROUP BY 1 ORDER BY 1",
            {"since": since},
        ).fetchall()
    return []


def test_two_daemons_build_each_night_once(platform: Platform) -> None:
    """Promise: whatever the daemons do twice, no row is there twice and none is missing."""
    today = datetime.now(timezone.utc).replace(hour=0, minute=0, second=0, microsecond=0)
    first = today + timedelta(days=1)
    platform.set_clock(first + timedelta(hours=12))
    platform.start()
    platform.start()
    platform.wait(0)
    for number in range(1, _NIGHTS + 1):
        midnight = first + timedelta(days=number)
        _pay(platform.root, number, midnight - timedelta(days=1))
        platform.set_clock(midnight - _BEFORE)
        platform.wait(number)
    expected = [((first + timedelta(days=n)).date(), 1, 1) for n in range(_NIGHTS)]
    _wait_until(lambda: _revenue(platform.root, first.date()) == expected)
    with platform.instance() as instance:
        runs = instance.get_runs()
        statuses = Counter(run.status.name for run in runs)
        schedules = [
            s for s in instance.all_instigator_state() if s.instigator_name.endswith("schedule")
        ]
        ticks = instance.get_ticks(schedules[0].instigator_origin_id, schedules[0].selector_id)
        logs = {
            run.run_id: "\n".join(entry.message for entry in instance.all_logs(run.run_id))
            for run in runs
            if not run.is_success
        }
    said = [n for n in (0, 1) if "Another SCHEDULER daemon is still sending" in platform.log(n)]
    print(
        f"{_NIGHTS} nights, {len(ticks)} ticks {Counter(t.status.name for t in ticks)}, runs {statuses},"
        f" of one night {sorted(_nights(runs).values())}, told by daemons {said}"
    )
    assert all(_LAUNCHED_TWICE in log for log in logs.values()), logs
    assert said == [0, 1]


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(1)
