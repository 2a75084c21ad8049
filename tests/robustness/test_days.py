"""A generated project left alone with the daemon: each day it loads its files and builds its marts.

On the minimal sample; by hand also on the full one: `DAYS_SAMPLE=full pytest tests/robustness/test_days.py`.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path

import dagster as dg
import duckdb
import pytest

from tests.answers import EXAMPLE
from tests.conftest import Render
from tests.instance import instance_of

pytestmark = pytest.mark.generated

_PACKAGE = EXAMPLE["package_name"]
_CLOCK = """\
import os, sys, time
from datetime import datetime, timedelta, timezone

ahead = float(os.environ["CLOCK_AHEAD"])
command = " ".join(sys.orig_argv)
if "dagster._daemon" in command:  # the names that Dagster's own tests use
    from dagster import _time
    _time._mockable_get_current_timestamp = lambda: time.time() + ahead
    _time._mockable_get_current_datetime = (
        lambda: datetime.now(timezone.utc) + timedelta(seconds=ahead)
    )
elif "multiprocessing" in command:  # the process of a run
    import time_machine  # which SQLMesh requires
    time_machine.travel(datetime.now(timezone.utc) + timedelta(seconds=ahead), tick=True).start()
"""
"""Python starts with it. The servers keep the time, from which gRPC counts its deadlines."""
_ENDED = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
_PATIENCE = 600


@pytest.fixture
def platform(render: Render, tmp_path: Path) -> tuple[Path, Mapping[str, str]]:
    """A generated project, and the environment of its processes."""
    sample = os.environ.get("DAYS_SAMPLE", "minimal")
    root = shutil.copytree(render(**{**EXAMPLE, "sample": sample}), tmp_path / "project")
    clock = tmp_path / "clock"
    clock.mkdir()
    (clock / "sitecustomize.py").write_text(_CLOCK)
    return root, {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join([str(clock), str(root / "src")]),
        "DAGSTER_HOME": str(root / "dagster_home"),
        "MAX_FORK_WORKERS": "1",
    }


@contextmanager
def _daemon(
    root: Path, environment: Mapping[str, str], now: datetime
) -> Iterator[subprocess.Popen[bytes]]:
    """The real daemon, and all that it starts, at this time."""
    ahead = (now - datetime.now(timezone.utc)).total_seconds()
    command = [sys.executable, "-m", "dagster._daemon", "run"]
    with (root / "daemon.log").open("a") as log:
        daemon = subprocess.Popen(
            [*command, "-m", f"{_PACKAGE}.definitions"],
            cwd=root,
            env={**environment, "CLOCK_AHEAD": str(ahead)},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            yield daemon
        finally:
            daemon.send_signal(signal.SIGINT)
            try:
                daemon.wait(timeout=60)
            except subprocess.TimeoutExpired:
                os.killpg(daemon.pid, signal.SIGKILL)
                daemon.wait()


def _wait(root: Path, daemon: subprocess.Popen[bytes], runs: int, seen: int) -> None:
    """Until the daemon, which lives, knows the schedule, and so many runs have ended."""
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline and daemon.poll() is None:
        with instance_of(root / "dagster_home") as instance:
            ended = [r for r in instance.get_runs() if r.status in _ENDED]
            if len(ended) >= runs and len(instance.all_instigator_state()) >= seen:
                return
        time.sleep(1)
    pytest.fail((root / "daemon.log").read_text()[-5000:])


def _pay(root: Path, number: int, day: datetime) -> None:
    """A payment of a day, in the raw file, for a job that is not paid for yet: nobody overpays."""
    with (root / "data" / "raw" / "payments.csv").open("a") as file:
        file.write(f"{900000 + number},50369,STA,balance,card,1.00,{day:%Y-%m-%d} 12:00:00\n")


def test_three_days_alone_load_the_files_and_build_the_marts(
    platform: tuple[Path, Mapping[str, str]],
) -> None:
    """Each midnight one run loads yesterday's payments and builds yesterday's revenue."""
    root, environment = platform
    today = datetime.now(timezone.utc).replace(hour=0, minute=0, second=0, microsecond=0)
    first = today + timedelta(
        days=1
    )  # never behind the clock, from which gRPC counts its deadlines
    with _daemon(root, environment, first + timedelta(hours=12)) as daemon:
        _wait(root, daemon, runs=0, seen=1)
    for number in (1, 2, 3):
        midnight = first + timedelta(days=number)
        _pay(root, number, midnight - timedelta(days=1))
        with _daemon(root, environment, midnight + timedelta(seconds=5)) as daemon:
            _wait(root, daemon, runs=number, seen=1)
        with instance_of(root / "dagster_home") as instance:
            (run, *_) = instance.get_runs(limit=1)
            logged = [e.dagster_event for e in instance.all_logs(run.run_id) if e.dagster_event]
        assert run.status is dg.DagsterRunStatus.SUCCESS, (root / "daemon.log").read_text()
        assert run.tags["dagster/schedule_name"] == "sqlmesh_adaptive_schedule"
        built = {e.asset_key.path[-1] for e in logged if e.is_step_materialization and e.asset_key}
        assert {"payments", "daily_revenue"} <= built
        with duckdb.connect(str(root / "warehouse.duckdb"), read_only=True) as connection:
            days = connection.execute(
                "SELECT revenue FROM warehouse.marts__dev.daily_revenue WHERE revenue_date >= $first",
                {"first": first.date()},
            ).fetchall()
        assert len(days) == number
