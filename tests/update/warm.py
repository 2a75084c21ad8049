"""A `copier` that costs no import: a process that has imported Copier, and forks for each command."""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path

import plumbum
from copier import run_copy

from tests.compiled import compiled_once, no_git_to_ask
from tests.conftest import ROOT

_COMMAND = """\
#!{python} -SE
import json, os, socket, sys

with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    request = json.dumps([sys.argv, os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(server, [len(request).to_bytes(4, "big")], [0, 1, 2])
    server.sendall(request)
    status = server.recv(1)
sys.exit(status[0] if status else 70)
"""


@contextlib.contextmanager
def serving(template: Path, folder: Path) -> Iterator[Path]:
    """Starts the process; yields a folder with the command.

    Args:
        template: Is rendered once before, so that its templates are compiled.
    """
    address, command = f"{folder}/socket", folder / "copier"
    command.write_text(_COMMAND.format(python=sys.executable, address=address))
    command.chmod(0o755)
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.update.warm", address, template],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert server.stdin and server.stdout
    assert server.stdout.readline() == b"ready\n"
    try:
        yield folder
    finally:
        server.communicate()  # it ends with its input


def main(address: str, template: str) -> None:
    """Answers one after the other, until its input ends."""
    (copier,) = entry_points(group="console_scripts", name="copier")
    run = copier.load()
    with compiled_once(), no_git_to_ask(), socket.socket(socket.AF_UNIX) as server:
        with tempfile.TemporaryDirectory() as folder:
            run_copy(template, folder, defaults=True, quiet=True)
        server.bind(address)
        server.listen()
        print("ready", flush=True)
        while server in select.select([server, sys.stdin], [], [])[0]:
            connection, _ = server.accept()
            with connection:
                child = os.fork()
                if child == 0:
                    _become(connection, run)
                os.waitpid(child, 0)


def _become(connection: socket.socket, run: Callable[[list[str]], object]) -> None:
    """The command that was asked for."""
    status = 70
    try:
        size, streams, _, _ = socket.recv_fds(connection, 4, 3)
        with connection.makefile("rb") as stream:
            arguments, folder, environment = json.loads(stream.read(int.from_bytes(size, "big")))
        for number, descriptor in enumerate(streams):
            os.dup2(descriptor, number)
        os.environ.clear()
        os.environ.update(environment)
        plumbum.local.env.clear()
        plumbum.local.env.update(environment)
        plumbum.local.cwd.chdir(folder)
        tempfile.tempdir = None
        run(arguments)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # as the interpreter does
        traceback.print_exc()
        status = 1
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        connection.sendall(bytes([status]))
        os._exit(status)


if __name__ == "__main__":
    main(*sys.argv[1:])
