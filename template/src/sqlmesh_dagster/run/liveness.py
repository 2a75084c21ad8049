"""Whether a run that Dagster lists as active still lives: its process may have been killed.

| known of the run                                               | it is                          |
|----------------------------------------------------------------|--------------------------------|
| it waits in the queue                                          | alive                          |
| it holds the project's lock                                    | alive                          |
| it has not started, and is 15 minutes old, or from the future  | dead                           |
| its process was on this host, and is gone or is another one    | dead                           |
| its process is on another host, and gave a sign within 6 hours | alive |
| … and gave none for longer, or its last one in the future      | dead                           |
| nothing                                                        | alive; Dagster's run monitoring decides |
"""

from __future__ import annotations

import json
import logging
import math
import os
import socket
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

from pydantic import TypeAdapter

_log = logging.getLogger(__name__)
START_SECONDS = 15 * 60
"""Dagster's own monitoring gives a run three minutes to start; a queue of images may be slower."""
SILENCE_SECONDS = 6 * 3600
"""Longest time without a sign of life from another host; steps outside SQLMesh give none."""
HOST_VARIABLE = "SQLMESH_DAGSTER_HOST"
_CLOCK_SECONDS = 5
"""How much later the start of a process may seem than its first event, where a clock must say so."""
_TICK_SECONDS = 0.1
"""Processes begin at whole ticks of the kernel's clock."""
_STARTED = 19
"""Place of a process's start in `/proc/<pid>/stat`, after its name; see `man 5 proc`."""
_ENDED = ("Z", "X")
"""States of a process that has ended, and keeps its number until its parent asks how (a zombie)."""


@dataclass(frozen=True)
class RunProcess:
    """The process of a run.

    Attributes:
        host: Name of the host, and its process namespace, as containers have their own.
        began_at: When it said so first, in epoch seconds.
        seen_at: When it gave its last sign, in epoch seconds.
        boot: Which start of the host it was; empty where that is not known.
        since_boot: Seconds from there to its first sign, which no clock that is set changes.
    """

    pid: int
    host: str
    began_at: float
    seen_at: float
    boot: str = ""
    since_boot: float | None = None


@dataclass(frozen=True)
class RunSigns:
    """What is known of an active run.

    Attributes:
        is_queued: Whether a daemon is still to launch it.
        has_started: Whether its process has started.
        created_at: Epoch seconds.
        holds_lock: Whether it holds the project's lock.
        process: None if nothing is known of it.
    """

    is_queued: bool
    has_started: bool
    created_at: float
    holds_lock: bool
    process: RunProcess | None = None


def death_of(signs: RunSigns, now: float) -> str | None:
    """Why the run is dead; None while it may live."""
    if signs.is_queued or signs.holds_lock:
        return None
    if not signs.has_started:
        return _never_started(now - signs.created_at)
    process = signs.process
    if process is None:
        return None
    if _is_here(process):
        return None if _is_running(process) else f"its process {process.pid} is gone"
    silence = now - process.seen_at
    if silence < -SILENCE_SECONDS:
        return f"its host `{process.host}` gave its last sign before the clock was set back"
    if silence > SILENCE_SECONDS:
        return f"its host `{process.host}` has given no sign for {silence / 3600:.0f} hours"
    return None


def _never_started(waited: float) -> str | None:
    """A run that is created later than now waits for nothing: its clock was ahead, and was set right."""
    if waited < -START_SECONDS:
        return "it has not started, and the clock was set back since"
    return f"it has not started for {waited / 60:.0f} minutes" if waited > START_SECONDS else None


def this_host() -> str:
    """The host's name, and the process namespace where there are such; or what `SQLMESH_DAGSTER_HOST` says.

    A container that is made again is another host, of which nothing is known. The variable names a
    container whose successor knows that it is gone, as there is one at a time: set it for the code
    server alone, which hands it on to its runs.
    """
    if named := os.environ.get(HOST_VARIABLE):
        return named
    namespace = ""
    with suppress(OSError):
        namespace = str(Path("/proc/self/ns/pid").readlink())
    return f"{socket.gethostname()} {namespace}".strip()


def give_sign(path: Path) -> None:
    """Writes a sign of life: this process works on a run. Call it again from time to time.

    If it cannot be written, as by steps that share no folder, there is no sign; that never fails a
    run.
    """
    before = read_sign(path)
    now = time.time()
    if before and _is_this(before):
        sign = replace(before, seen_at=now)
    else:
        sign = RunProcess(os.getpid(), this_host(), now, now, _boot(), _since_boot())
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(json.dumps(asdict(sign)))
        unfinished.replace(path)
    except OSError as error:
        _log.debug("Could not write the sign of life `%s`: %s", path, error)


def read_sign(path: Path) -> RunProcess | None:
    """The last sign; None if there is none that can be read."""
    try:
        if not path.is_file():  # reading a pipe would never end
            return None
        return _signs().validate_json(path.read_bytes(), strict=True)
    except (OSError, ValueError):
        return None


@cache
def _signs() -> TypeAdapter[RunProcess]:
    return TypeAdapter(RunProcess)


def _is_here(process: RunProcess) -> bool:
    """Whether it is one of this host's, which may have another name since: laptops take one from each network."""
    if process.host == this_host():
        return True
    namespace = process.host.rpartition(" ")[2]
    is_same_start = bool(process.boot) and process.boot == _boot()
    return is_same_start and namespace.startswith("pid:") and this_host().endswith(f" {namespace}")


def _is_this(process: RunProcess) -> bool:
    return (process.pid, process.host) == (os.getpid(), this_host()) and process.boot == _boot()


def _is_running(process: RunProcess) -> bool:
    """Whether the process is there, and no other one that got its number.

    Windows cannot be asked, as `os.kill` would end the process; Dagster's run monitoring decides there.
    """
    if sys.platform == "win32":
        return True
    if process.boot and process.boot != _boot():
        return False
    try:
        os.kill(process.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        pass
    state, began = _state_and_begin(process.pid)
    return state not in _ENDED and began <= _latest_begin(process)


def _latest_begin(process: RunProcess) -> float:
    """Until when a process with its number is the run's own, in seconds since the host's start."""
    if process.since_boot is not None:
        return process.since_boot + _TICK_SECONDS
    since = _since_boot()
    if since is None:
        return math.inf
    return since - (time.time() - process.began_at) + _CLOCK_SECONDS


def _state_and_begin(pid: int) -> tuple[str, float]:
    """State of a process, and seconds from the host's start to its own; "" and 0 where only its number is known.

    Not the time of its folder in `/proc`, which is that of the first look at it, and of the first one
    since the kernel needed the memory.
    """
    if sys.platform == "linux":
        with suppress(OSError, ValueError, IndexError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            return fields[0], int(fields[_STARTED]) / os.sysconf("SC_CLK_TCK")
    return "", 0.0


def _since_boot() -> float | None:
    return time.clock_gettime(time.CLOCK_BOOTTIME) if sys.platform == "linux" else None


@cache
def _boot() -> str:
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""
