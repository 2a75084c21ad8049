"""Dead and living runs, distinguished."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from sqlmesh_dagster.run.liveness import (
    SILENCE_SECONDS,
    START_SECONDS,
    RunProcess,
    RunSigns,
    death_of,
    give_sign,
    read_sign,
    this_host,
)

NOW = time.time()
STARTED = RunSigns(is_queued=False, has_started=True, created_at=NOW - 60, holds_lock=False)


def _process(pid: int, host: str = "", began_at: float = NOW, seen_at: float = NOW) -> RunProcess:
    return RunProcess(pid, host or this_host(), began_at, seen_at)


@pytest.fixture
def gone() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.parametrize(
    "signs",
    [
        replace(STARTED, is_queued=True, has_started=False, created_at=NOW - 10 * START_SECONDS),
        replace(STARTED, has_started=False, created_at=NOW - START_SECONDS + 1),
        replace(STARTED, process=None),
        replace(STARTED, process=_process(1, began_at=NOW + 10)),
        replace(STARTED, process=_process(1, host="elsewhere", seen_at=NOW - SILENCE_SECONDS + 1)),
    ],
)
def test_a_run_of_which_nothing_bad_is_known_lives(signs: RunSigns) -> None:
    """Promise: no run is ended that may be running."""
    assert death_of(signs, NOW) is None


def test_a_run_whose_process_is_gone_is_dead(gone: int) -> None:
    """Promise: after a power cut the next tick knows."""
    assert death_of(replace(STARTED, process=_process(gone)), NOW) == f"its process {gone} is gone"


def test_a_run_that_holds_the_projects_lock_lives(gone: int) -> None:
    """A step's process goes on though the run's own was killed: nobody else may start meanwhile."""
    assert death_of(replace(STARTED, process=_process(gone), holds_lock=True), NOW) is None


def test_a_process_that_got_the_number_of_a_dead_one_is_another_one() -> None:
    """Promise: after a restart, a low number that is in use again deceives nobody."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        signs = replace(STARTED, process=_process(other.pid, began_at=time.time() - 3600))
        if Path("/proc/self").exists():
            assert death_of(signs, time.time()) == f"its process {other.pid} is gone"
        living = replace(STARTED, process=_process(other.pid, began_at=time.time() + 1))
        assert death_of(living, time.time()) is None
        other.kill()


def test_a_run_that_never_started_is_dead_after_a_while() -> None:
    """Promise: a launch that was lost stops no schedule."""
    signs = replace(STARTED, has_started=False, created_at=NOW - START_SECONDS - 60)
    assert death_of(signs, NOW) == "it has not started for 16 minutes"


def test_a_host_that_is_silent_for_long_is_gone() -> None:
    """Promise: a container that was replaced by another stops no schedule for ever."""
    signs = replace(STARTED, process=_process(1, host="elsewhere", seen_at=NOW - 7 * 3600))
    assert death_of(signs, NOW) == "its host `elsewhere` has given no sign for 7 hours"


def test_a_sign_says_who_and_since_when(tmp_path: Path) -> None:
    """Promise: the first sign's time is kept by later ones of the same process."""
    path = tmp_path / "run" / "process.json"
    assert read_sign(path) is None
    give_sign(path)
    first = read_sign(path)
    time.sleep(0.01)
    give_sign(path)
    second = read_sign(path)
    assert first and second
    assert (second.pid, second.host, second.began_at) == (first.pid, first.host, first.began_at)
    assert second.seen_at > first.seen_at
    for broken in ("", "{", "[]", '{"pid": 1}'):
        path.write_text(broken)
        assert read_sign(path) is None


def test_a_sign_that_cannot_be_written_fails_nothing(tmp_path: Path) -> None:
    """Promise: steps that share no folder run all the same."""
    (tmp_path / "run").write_text("no folder")
    give_sign(tmp_path / "run" / "process.json")
    assert read_sign(tmp_path / "run" / "process.json") is None
