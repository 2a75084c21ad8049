"""Commands that cost no import: a process that has imported what they need, and forks for each of them.

A command is the same code in a process of its own, with its caller's arguments, folder, environment and
streams. It gets no signal that is sent to its caller's child: what is stopped or killed is started cold.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from atexit import _run_exitfuncs as run_exit_functions  # what the interpreter calls at its end
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.conftest import ROOT

_CLIENT = """\
#!{python} -SE
import json, os, socket, sys

arguments = [{name!r}, *sys.argv[1:]]
if not ({condition}):
    os.execv({cold!r}, [{cold!r}, *sys.argv[1:]])
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    request = json.dumps([arguments, os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(server, [len(request).to_bytes(4, "big")], [0, 1, 2])
    server.sendall(request)
    status = server.recv(1)
sys.exit(status[0] if status else 70)
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
def serving(module: str, *arguments: str | Path) -> Iterator[None]:
    """Starts the module, whose `main` calls `answer`, and ends it."""
    server = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
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


def answer(address: str, run: Callable[[Sequence[str]], object]) -> None:
    """Forks for each command, which `run` is given; until the input of this process ends."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for a child but its client
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen()
        print("ready", flush=True)
        while server in select.select([server, sys.stdin], [], [])[0]:
            connection, _ = server.accept()
            with connection:
                if os.fork() == 0:
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    server.close()
                    _become(connection, run)


def _become(connection: socket.socket, run: Callable[[Sequence[str]], object]) -> None:
    """The command that was asked for; its status goes to its client at the very end."""
    status = 70
    try:
        size, streams, _, _ = socket.recv_fds(connection, 4, 3)
        with connection.makefile("rb") as stream:
            arguments, folder, environment = json.loads(stream.read(int.from_bytes(size, "big")))
        for number, descriptor in enumerate(streams):
            os.dup2(descriptor, number)
            os.close(descriptor)
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        tempfile.tempdir = None
        sys.argv = arguments
        status = _status_of(run, arguments)
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        connection.sendall(bytes([status]))
        os._exit(status)


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
