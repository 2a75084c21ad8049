"""Commands that cost no import: a process that has imported what they need, and forks for each of them.

A command is the same code in a process of its own, with its caller's arguments, folder, environment and
open files. What its caller started waits for it, hands each signal on, and ends as it ends, also by a
signal; when that is killed, the command and all that it has forked are killed, too.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from atexit import _run_exitfuncs as run_exit_functions  # what the interpreter calls at its end
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
_CLIENT = """\
#!{python} -SE
import json, os, signal, socket, sys

arguments = [{name!r}, *sys.argv[1:]]
if not ({condition}):
    os.execv({cold!r}, [{cold!r}, *sys.argv[1:]])
files = [int(name) for name in os.listdir("/proc/self/fd")]
with socket.socket(socket.AF_UNIX) as server:
    files = [number for number in files if number != server.fileno() and os.path.exists(f"/proc/self/fd/{{number}}")]
    server.connect({address!r})
    given = [signal.SIGINT, signal.SIGTERM]
    ignored = [int(number) for number in given if signal.getsignal(number) is signal.SIG_IGN]
    request = json.dumps([arguments, os.getcwd(), dict(os.environ), files, ignored]).encode()
    socket.send_fds(server, [len(request).to_bytes(4, "big")], files)
    server.sendall(request)
    for number in given:
        signal.signal(number, lambda number, frame: server.send(bytes([number])))
    end = server.recv(2)
    for number in given:
        signal.signal(number, signal.SIG_DFL)
if end and end[0]:
    os.kill(os.getpid(), end[0])
sys.exit(end[1] if end else 70)
"""


def write_command(
    path: Path, address: str, condition: str = "True", cold: str = sys.executable
) -> None:
    """Writes a command that lets the process at the address do the work.

    Args:
        condition: Python, of `arguments` and `os.environ`: where it is false, `cold` is executed instead.
    """
    values = {"python": sys.executable, "name": path.name, "address": address}
    path.write_text(_CLIENT.format(**values, condition=condition, cold=cold))
    path.chmod(0o755)


@contextlib.contextmanager
def serving(
    module: str, *arguments: str | Path, python: str | Path = sys.executable
) -> Iterator[None]:
    """Starts the module, whose `main` calls `answer`, and ends it."""
    server = subprocess.Popen(
        [python, "-m", module, *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert server.stdin and server.stdout
    assert server.stdout.readline() == b"ready\n"
    try:
        yield
    finally:
        server.communicate()  # it ends with its input


@dataclass(frozen=True)
class _Command:
    """One that works.

    Attributes:
        client: What waits for its end.
        end: Can be read when its process has ended.
    """

    process: int
    client: socket.socket
    end: int


def answer(address: str, run: Callable[[Sequence[str]], object]) -> None:
    """Forks for each command, which `run` is given; until the input of this process ends."""
    at_work: list[_Command] = []
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen(100)
        print("ready", flush=True)
        while True:
            watched = {c.end: c for c in at_work} | {c.client.fileno(): c for c in at_work}
            ready, _, _ = select.select([server, sys.stdin, *watched], [], [])
            for command in {watched[number] for number in ready if isinstance(number, int)}:
                if command.end in ready:
                    _tell_end(command)
                    at_work.remove(command)
                else:
                    _hand_on(command)
            if server in ready:
                with contextlib.suppress(OSError, ValueError):  # who asked was killed meanwhile
                    at_work.append(_start(server, at_work, run))
            elif sys.stdin in ready:
                break
    for command in at_work:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(command.process, signal.SIGKILL)


def _start(
    server: socket.socket, at_work: Sequence[_Command], run: Callable[[Sequence[str]], object]
) -> _Command:
    client, _ = server.accept()
    size, files, _, _ = socket.recv_fds(client, 4, 250)
    with client.makefile("rb") as stream:
        request = json.loads(stream.read(int.from_bytes(size, "big")))
    process = os.fork()
    if process == 0:
        for other in at_work:
            other.client.close()
            os.close(other.end)
        server.close()
        client.close()
        _become(request, files, run)
    for number in files:
        os.close(number)
    return _Command(process, client, os.pidfd_open(process))


def _tell_end(command: _Command) -> None:
    """As it ended: the number of a signal, or its status."""
    _, status = os.waitpid(command.process, 0)
    code = os.waitstatus_to_exitcode(status)
    with command.client, contextlib.suppress(OSError):
        command.client.sendall(bytes([max(-code, 0), max(code, 0)]))
    os.close(command.end)


def _hand_on(command: _Command) -> None:
    """A signal that its client got; the death of its client."""
    with contextlib.suppress(ProcessLookupError):
        if number := command.client.recv(1):
            os.kill(command.process, number[0])
        else:
            os.killpg(command.process, signal.SIGKILL)


def _become(
    request: Sequence[Any], files: Sequence[int], run: Callable[[Sequence[str]], object]
) -> None:
    """The command that was asked for."""
    arguments, folder, environment, numbers, ignored = request
    status = 70
    try:
        os.setpgid(0, 0)
        for number in ignored:
            signal.signal(number, signal.SIG_IGN)
        _place(dict(zip(numbers, files, strict=True)))
        os.environ.clear()
        os.environ.update(environment)
        time.tzset()
        os.chdir(folder)
        tempfile.tempdir = None
        sys.argv = arguments
        status = _status_of(run, arguments)
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _place(files: Mapping[int, int]) -> None:
    """Gives each open file the number that it has in the caller."""
    free = max([*files, *files.values()]) + 1
    aside = {number: fcntl.fcntl(file, fcntl.F_DUPFD, free) for number, file in files.items()}
    for file in files.values():
        os.close(file)
    for number, file in aside.items():
        os.dup2(file, number)
        os.close(file)


def _status_of(run: Callable[[Sequence[str]], object], arguments: Sequence[str]) -> int:
    """As the interpreter ends: threads are waited for, then come the functions of `atexit`."""
    try:
        run(arguments)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        status = 1
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    run_exit_functions()
    return status
