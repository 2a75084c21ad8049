"""A run whose processes were killed: the next tick says so, ends it, and goes on."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import dagster as dg
import pytest
from tests.sqlmesh_dagster.projects import Project, multiprocess, run_in_process, start

from sqlmesh_dagster.upstream.dagster import run_start
from tests.integration.test_schedule import _tick

pytestmark = pytest.mark.slow

_NEXT = "2025-01-11T00:00:00"
_SEED = 7
_SLOW = """
import time
import typing as t
import pandas as pd
from sqlmesh import ExecutionContext, model

@model("demo.slow", columns={"id": "int"}, kind="FULL", cron="@daily")
def execute(context: ExecutionContext, **kwargs: t.Any) -> pd.DataFrame:
    time.sleep(1)
    return pd.DataFrame({"id": [1]})
"""
_ALIVE = (dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED)
_HAS_RESOURCES = dg.DagsterEventType.RESOURCE_INIT_SUCCESS


@pytest.fixture
def due(project: Project) -> Project:
    """Three models that are due at the tick: before, in and after one that takes a second."""
    project.model("first", "SELECT 1::INT AS id")
    project.write("models/slow.py", _SLOW)
    rows = "SELECT @start_ds::DATE AS day, first.id FROM demo.first, demo.slow"
    project.model("days", rows, "kind INCREMENTAL_BY_TIME_RANGE (time_column day)")
    with dg.DagsterInstance.ephemeral() as instance:
        assert run_in_process(project.definitions(), instance).success
    return project


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The folder of the instance that ticks and runs share; its tables are there."""
    folder = tmp_path / "home"
    folder.mkdir()
    with dg.DagsterInstance.from_config(str(folder)) as instance:
        assert not instance.get_runs()
    return folder


@pytest.mark.parametrize("executor", ["dg.in_process_executor", multiprocess(2)])
def test_the_next_tick_after_a_kill_ends_the_dead_run_and_builds_what_is_missing(
    due: Project, home: Path, executor: str
) -> None:
    """Promise: killed at any moment, a run stops no schedule; rows equal those of an undisturbed run."""
    moments = random.Random(_SEED)
    killed = 0
    for _ in range(3):
        process = start(due, home, executor=executor, options={"execution_time": _NEXT})
        for run in _active(home):
            time.sleep(moments.uniform(0, 2))
            killed += _kill(process)
            with _instance(home) as instance:
                _wait_for_end(instance, run)
                requests, reason = _tick(due.definitions(), instance, _NEXT)
                ended = instance.get_run_by_id(run.run_id)
            assert ended is not None and ended.is_finished, reason
            assert requests or "No model is due" in str(reason)
            if ended.status is dg.DagsterRunStatus.FAILURE:
                with _instance(home) as instance:
                    said = " ".join(entry.message for entry in instance.all_logs(run.run_id))
                assert "This run is dead: its process" in said
    with _instance(home) as instance:
        assert run_in_process(due.definitions(), instance, now=_NEXT).success
    assert killed
    rows = due.query("SELECT day, count(*) FROM demo__dev.days GROUP BY day ORDER BY day")
    assert [count for _, count in rows] == [1, 1]  # one row a batch: before, and at the tick


def test_a_living_run_is_left_alone(due: Project, home: Path) -> None:
    """Promise: a tick ends no run that works."""
    process = start(due, home, options={"execution_time": _NEXT})
    for run in _active(home):
        with _instance(home) as instance:
            requests, reason = _tick(due.definitions(), instance, _NEXT)
            found = instance.get_run_by_id(run.run_id)
        assert requests == [] and f"Run {run.run_id} is still active." == reason
        assert found is not None and found.status in _ALIVE
    assert process.wait(120) == 0, (home / "run.log").read_text()


def _instance(home: Path) -> dg.DagsterInstance:
    return dg.DagsterInstance.from_config(str(home))


def _active(home: Path) -> Iterator[dg.DagsterRun]:
    """The run that has just begun, and has given its first sign: with its resources."""
    for _ in range(1200):
        with _instance(home) as instance:
            found = instance.get_runs(filters=dg.RunsFilter(statuses=[_ALIVE[1]]))
            if found and instance.all_logs(found[0].run_id, of_type=_HAS_RESOURCES):
                yield found[0]
                return
        time.sleep(0.1)
    raise AssertionError((home / "run.log").read_text())


def _wait_for_end(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    """Until the run's process is gone: that of a warm command is killed just after its client."""
    start = run_start(instance, run.run_id)
    assert start is not None
    with suppress(ProcessLookupError):
        for _ in range(600):
            os.kill(start[0], 0)
            time.sleep(0.1)


def _kill(process: subprocess.Popen[str]) -> bool:
    """Kills the process group; whether it was still there."""
    with suppress(ProcessLookupError):
        os.killpg(os.getpgid(process.pid), signal.SIGKILL)
        process.wait(60)
        return True
    return False
