"""Kill -9 at any moment: nothing hangs, and what the next run leaves is what an undisturbed one does."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from tests.answers import EXAMPLE
from tests.conftest import Render
from tests.robustness.rivals import Platform, Worker, sqlmesh_cli, wait_until, workers

pytestmark = pytest.mark.generated

_BEFORE, _NOW = "2025-01-05T00:30:00", "2025-01-09T00:30:00"
_MOMENTS = 20
_HELD = {
    "model": "while a Python model runs",
    "audit": "when an append-only model's rows are in, and its interval is not recorded",
    "gap": "when one model's outcome is told, and the next has not touched its table",
    "results": "when an outcome is about to be written",
    "torn": "when half an outcome is written",
}
"""Moments that are reached by construction: names of the holds in `rivals` and `worker`."""
_OUTCOMES_TOLD = (1, 3)
"""Moments that follow an outcome as closely as another process can see it."""


@dataclass(frozen=True)
class Undisturbed:
    """What a run leaves that nobody disturbs, and how long its sqlmesh run takes by executor.

    Attributes:
        start: The warehouse before it.
        rows: By model.
        intervals: By model, merged, in milliseconds.
        seconds: By the number of steps that run at once.
    """

    start: Path
    rows: dict[str, list[tuple[Any, ...]]]
    intervals: dict[str, list[tuple[int, int]]]
    seconds: dict[int, float]


@pytest.fixture(scope="module")
def platform(render: Render, tmp_path_factory: pytest.TempPathFactory) -> Platform:
    """One project for all tests; each trial puts its warehouse back to the start."""
    return Platform.of(render(**EXAMPLE), tmp_path_factory.mktemp("kill") / "project")


@pytest.fixture(scope="module")
def worker(platform: Platform) -> Iterator[Worker]:
    """A warm process that starts runs, and is not itself killed."""
    with workers(platform, "worker") as (worker,):
        yield worker


@pytest.fixture(scope="module")
def undisturbed(platform: Platform, worker: Worker) -> Undisturbed:
    """Deployed and built once, then four days later by each executor."""
    assert worker.tell("materialize", now=_BEFORE, tag="start") == "SUCCESS"
    start = platform.root / "start.duckdb"
    shutil.copy(platform.warehouse, start)
    left, seconds = [], {}
    for processes in (1, 3):
        _back_to(start, platform)
        worker.ask("materialize", now=_NOW, tag=f"undisturbed {processes}", processes=processes)
        wait_until(lambda: platform.leader() is not None, "a leader")
        began = time.monotonic()
        wait_until(lambda: platform.outcomes() == 6, "six outcomes")
        seconds[processes] = time.monotonic() - began
        assert worker.answer() == "SUCCESS"
        left.append((platform.rows(), platform.intervals()))
    assert left[0] == left[1]
    assert len(left[0][0]) == len(left[0][1]) == 6
    return Undisturbed(start, *left[0], seconds)


def test_the_process_that_leads_is_killed(
    platform: Platform, worker: Worker, undisturbed: Undisturbed
) -> None:
    """Other steps go on or fail clearly, and a re-execution or the next run completes the rest."""
    bystanders, killed, taken_over = worker.processes, 0, 0
    for number, moment in enumerate(_moments(undisturbed.seconds[3])):
        tag = f"leader {number}"
        _back_to(undisturbed.start, platform)
        _hold(platform, moment)
        worker.ask("materialize", now=_NOW, tag=tag, processes=3)
        leader = _wait_for(platform, moment)
        with suppress(ProcessLookupError):  # the run may be faster than the undisturbed one
            os.kill(leader, signal.SIGKILL)
            killed += 1
        _release(platform)
        status = worker.answer()
        wait_until(lambda: worker.processes <= bystanders, f"{moment}: the end of every step")
        run, said = platform.run(tag)
        assert run.is_finished, f"{moment}: {run.status}"
        if status != "SUCCESS":
            assert any("SIGKILL" in line for line in said), (moment, "\n".join(said))
        taken_over += sum("Starting one sqlmesh run" in line for line in said) > 1
        parent = run.run_id if run.status is dg.DagsterRunStatus.FAILURE and number % 2 else ""
        again = worker.tell("materialize", now=_NOW, tag=f"{tag}, again", parent=parent)
        assert again == "SUCCESS", (moment, platform.run(f"{tag}, again"))
        assert _left(platform) == (undisturbed.rows, undisturbed.intervals), moment
    assert killed > _MOMENTS / 2 and taken_over, (killed, taken_over)


def test_the_whole_run_is_killed(
    platform: Platform, worker: Worker, undisturbed: Undisturbed
) -> None:
    """The next run needs no hand: it finds no lock, and completes what is missing."""
    for number, moment in enumerate(_moments(undisturbed.seconds[1])):
        tag = f"whole {number}"
        _back_to(undisturbed.start, platform)
        _hold(platform, moment)
        group = worker.tell("fork", now=_NOW, tag=tag)
        assert _wait_for(platform, moment) == group
        os.killpg(group, signal.SIGKILL)
        worker.wait_for(group)
        _release(platform)
        worker.wait_for(worker.tell("fork", now=_NOW, tag=f"{tag}, again"))
        run, said = platform.run(f"{tag}, again")
        assert run.is_success, (moment, "\n".join(said))
        assert _left(platform) == (undisturbed.rows, undisturbed.intervals), moment


def test_a_plan_is_killed_before_it_is_finished(
    platform: Platform, worker: Worker, undisturbed: Undisturbed
) -> None:
    """The next run, which deploys by itself, finishes it and builds what is due; nothing is missing."""
    _back_to(undisturbed.start, platform)
    model = platform.root / "sqlmesh_project/models/unrelated.sql"
    model.write_text(model.read_text().replace("1::INT", "2::INT"))
    _hold(platform, _Moment(hold="promotion"))
    command = ("plan", "dev", "--auto-apply", "--no-prompts", "--execution-time", _BEFORE)
    plan = sqlmesh_cli(platform, *command)
    wait_until((platform.root / "holds/reached").exists, "the end of the plan")
    os.killpg(plan.pid, signal.SIGKILL)
    plan.communicate()
    _release(platform)
    assert platform.query("SELECT 1 FROM sqlmesh._environments WHERE finalized_ts IS NULL")
    with workers(platform, "after the plan", WAIT_TIMEOUT="1") as (after,):
        assert after.tell("materialize", now=_NOW, tag="unfinished") == "SUCCESS"
    assert not platform.query("SELECT 1 FROM sqlmesh._environments WHERE finalized_ts IS NULL")
    rows = {**undisturbed.rows, "unrelated": [(2,)]}
    assert platform.rows() == rows


@dataclass(frozen=True)
class _Moment:
    """When to kill: at a hold, after this many outcomes, or this long after a process leads.

    Attributes:
        seed: Of the generator that `seconds` is drawn from, to repeat it.
    """

    hold: str | None = None
    outcomes: int | None = None
    seconds: float = 0.0
    seed: int | None = None


def _moments(duration: float) -> list[_Moment]:
    """Each constructed one, and random ones, one from each equal part of `duration`."""
    seed = int(os.environ.get("KILL_SEED") or time.time_ns() % 2**32)
    constructed = [
        *(_Moment(hold=name) for name in _HELD),
        *(_Moment(outcomes=told) for told in _OUTCOMES_TOLD),
    ]
    drawn = random.Random(seed)
    count = _MOMENTS - len(constructed)
    return constructed + [
        _Moment(seconds=duration * (part + drawn.random()) / count, seed=seed)
        for part in range(count)
    ]


def _hold(platform: Platform, moment: _Moment) -> None:
    if moment.hold:
        (platform.root / "holds" / moment.hold).touch()


def _wait_for(platform: Platform, moment: _Moment) -> int:
    """Returns the leading process at the moment."""
    wait_until(lambda: platform.leader() is not None, f"{moment}: a leader")
    leader = platform.leader()
    assert leader is not None
    if moment.hold:
        wait_until((platform.root / "holds/reached").exists, f"{moment}")
    elif moment.outcomes:
        wanted = moment.outcomes
        wait_until(lambda: platform.outcomes() >= wanted, f"{moment}")
    else:
        time.sleep(moment.seconds)  # the moment itself, not a wait for something
    return leader


def _release(platform: Platform) -> None:
    for hold in (platform.root / "holds").iterdir():
        hold.unlink()


def _back_to(start: Path, platform: Platform) -> None:
    platform.forget_runs()
    platform.warehouse.with_suffix(".duckdb.wal").unlink(missing_ok=True)
    shutil.copy(start, platform.warehouse)


def _left(platform: Platform) -> tuple[dict[str, Any], dict[str, Any]]:
    return platform.rows(), platform.intervals()
