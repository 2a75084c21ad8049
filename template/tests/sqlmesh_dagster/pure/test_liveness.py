"""Dead and living runs, distinguished."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

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
        replace(STARTED, has_started=False, created_at=NOW - START_SECONDS),
        replace(STARTED, process=None),
        replace(STARTED, process=_process(1, began_at=NOW + 10)),
        replace(STARTED, process=_process(1, host="elsewhere", seen_at=NOW - SILENCE_SECONDS)),
    ],
)
def test_a_run_of_which_nothing_bad_is_known_lives(signs: RunSigns) -> None:
    """Promise: no run is ended that may be running."""
    assert death_of(signs, NOW) is None


def test_a_run_whose_process_is_gone_is_dead(gone: int) -> None:
    """Promise: after a power cut the next tick knows."""
    assert death_of(replace(STARTED, process=_process(gone)), NOW) == f"its process {gone} is gone"


@pytest.mark.skipif(sys.platform != "linux", reason="Only Linux tells the state of a process.")
def test_a_process_that_has_ended_and_is_still_listed_is_gone() -> None:
    """Promise: in a container whose first process asks for no ends, a killed run stops no schedule."""
    with subprocess.Popen([sys.executable, "-c", ""]) as zombie:
        os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
        os.kill(zombie.pid, 0)  # its number is still there
        signs = replace(STARTED, process=_process(zombie.pid))
        assert death_of(signs, NOW) == f"its process {zombie.pid} is gone"


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
        time.sleep(0.05)
        assert other.poll() is None, "A look must not disturb the process."
        other.kill()


@pytest.mark.parametrize("hours", [-48, 0, 48])
def test_a_clock_that_was_set_ends_no_living_run(tmp_path: Path, hours: int) -> None:
    """Promise: whatever the clock said when the run began, and whatever the kernel has forgotten since."""
    path = tmp_path / "process.json"
    give_sign(path)
    sign = read_sign(path)
    assert sign is not None
    moved = replace(
        sign, began_at=sign.began_at + hours * 3600, seen_at=sign.seen_at + hours * 3600
    )
    assert death_of(replace(STARTED, process=moved), time.time()) is None


def test_a_process_of_before_the_hosts_start_is_dead(tmp_path: Path) -> None:
    """Promise: after a power cut its number is another's, whatever the clock says."""
    give_sign(tmp_path / "process.json")
    sign = read_sign(tmp_path / "process.json")
    if sign is not None and sign.boot:
        before = replace(sign, boot="another")
        assert "is gone" in str(death_of(replace(STARTED, process=before), time.time()))
    if sign is not None and sign.since_boot:
        younger = replace(sign, since_boot=sign.since_boot - 3600)
        assert "is gone" in str(death_of(replace(STARTED, process=younger), time.time()))


def test_a_run_of_the_future_that_has_not_started_is_dead() -> None:
    """Promise: a launch that was lost while the clock was a year ahead does not stop the schedule for a year."""
    signs = replace(STARTED, has_started=False, created_at=NOW + 2 * START_SECONDS)
    assert death_of(signs, NOW) == "it has not started, and the clock was set back since"


def test_a_run_that_never_started_is_dead_after_a_while() -> None:
    """Promise: a launch that was lost stops no schedule."""
    for minutes in (16, 600):
        signs = replace(STARTED, has_started=False, created_at=NOW - 60 * minutes)
        assert death_of(signs, NOW) == f"it has not started for {minutes} minutes"


def test_a_host_that_is_silent_for_long_is_gone() -> None:
    """Promise: a container that was replaced by another stops no schedule for ever."""
    for hours in (7, 4000):
        process = _process(1, host="elsewhere", seen_at=NOW - hours * 3600)
        told = f"its host `elsewhere` has given no sign for {hours} hours"
        assert death_of(replace(STARTED, process=process), NOW) == told


def test_a_host_whose_clock_was_set_back_gives_no_sign_of_the_future() -> None:
    """Promise: a run that died while the clocks were a year ahead does not stop the schedule for a year."""
    ahead = _process(1, host="elsewhere", seen_at=NOW + 7 * 3600)
    assert "set back" in str(death_of(replace(STARTED, process=ahead), NOW))
    a_bit = _process(1, host="elsewhere", seen_at=NOW + 5 * 3600)
    assert death_of(replace(STARTED, process=a_bit), NOW) is None


@pytest.mark.skipif(not Path("/proc/self/ns/pid").exists(), reason="needs process namespaces")
def test_a_host_that_has_another_name_now_is_still_this_one(
    tmp_path: Path, gone: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise: a laptop that was given a name by another network knows its own dead run at the next tick."""
    give_sign(tmp_path / "process.json")
    sign = read_sign(tmp_path / "process.json")
    assert sign is not None
    monkeypatch.setattr(socket, "gethostname", lambda: "renamed")
    assert this_host() != sign.host
    assert death_of(replace(STARTED, process=sign), time.time()) is None
    dead = replace(sign, pid=gone)
    assert death_of(replace(STARTED, process=dead), time.time()) == f"its process {gone} is gone"
    for other in (replace(dead, boot="another"), replace(dead, host="x pid:[1]")):
        assert death_of(replace(STARTED, process=other), time.time()) is None


def test_a_sign_says_who_and_since_when(tmp_path: Path) -> None:
    """Promise: the first sign's time is kept by later ones of the same process."""
    path = tmp_path / "sqlmesh" / "run" / "process.json"
    assert read_sign(path) is None
    before = time.time()
    give_sign(path)
    first = read_sign(path)
    assert first and before <= first.began_at == first.seen_at <= time.time()
    time.sleep(0.01)
    give_sign(path)
    second = read_sign(path)
    assert first and second
    assert (second.pid, second.host, second.began_at) == (first.pid, first.host, first.began_at)
    assert second.seen_at > first.seen_at
    for broken in ("", "{", "[]", '{"pid": 1}', "\xff", _sign(host=5), _sign(seen_at="x")):
        path.write_text(broken, encoding="latin-1")
        assert read_sign(path) is None
    path.write_text(_sign(boot=None))
    assert read_sign(path) is None


def _sign(**changed: object) -> str:
    known = {"pid": 1, "host": "h", "began_at": 1, "seen_at": 2.0}
    return json.dumps({**known, **changed})


@pytest.mark.parametrize("other", [{"pid": 1}, {"host": "elsewhere"}])
def test_a_sign_of_another_process_begins_anew(tmp_path: Path, other: dict[str, Any]) -> None:
    """Promise: another number, or the same number on another host."""
    path = tmp_path / "process.json"
    sign = {"pid": os.getpid(), "host": this_host(), "began_at": 1.0, "seen_at": 2.0, **other}
    path.write_text(json.dumps(sign))
    before = time.time()
    give_sign(path)
    sign_now = read_sign(path)
    assert sign_now and sign_now.began_at >= before
    assert (sign_now.pid, sign_now.host) == (os.getpid(), this_host())


def test_a_sign_that_cannot_be_written_fails_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Promise: steps that share no folder run all the same; who looks for the reason finds it."""
    caplog.set_level("DEBUG")
    (tmp_path / "run").write_text("no folder")
    path = tmp_path / "run" / "process.json"
    give_sign(path)
    assert read_sign(path) is None
    assert f"Could not write the sign of life `{path}`: [Errno" in caplog.text


def test_a_host_is_its_name_and_its_process_namespace() -> None:
    """Promise: two containers of one host, with a process of the same number, are two hosts."""
    namespace = Path("/proc/self/ns/pid")
    linked = [str(namespace.readlink())] if namespace.parent.exists() else []
    assert this_host().split() == [*socket.gethostname().split(), *linked]


def test_a_container_that_is_made_anew_knows_of_the_one_before(
    gone: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process namespace is another one: a run of before has no host, but by a name that stays."""
    before = _process(gone, host="0a1b2c pid:[1]")
    assert death_of(replace(STARTED, process=before), NOW) is None
    monkeypatch.setenv("SQLMESH_DAGSTER_HOST", "code")
    named = _process(gone)
    assert named.host == "code"
    assert death_of(replace(STARTED, process=named), NOW) == f"its process {gone} is gone"
