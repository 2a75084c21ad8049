"""Starts the process of a run, and shows what that says.

Nothing here imports Dagster: the run's process does, and once is enough.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from sqlmesh_dagster.commands.messages import Inbox
from sqlmesh_dagster.commands.progress import AssetLine, LaunchedRun, RunProgress
from sqlmesh_dagster.commands.request import RunRequest

_POLL_SECONDS = 0.1
_HEARD_WITHIN_SECONDS = 5


def launch(request: RunRequest, root: Path, show: Callable[[AssetLine, int], None]) -> LaunchedRun:
    """Executes the request in a process of its own, and shows each asset as it ends.

    What that process prints is kept from the terminal, unless the request asks for it: Dagster's run
    log has it.

    Args:
        show: Takes each line, and how wide the longest name is.
    """
    with tempfile.TemporaryDirectory(prefix="poe-run-") as folder:
        messages, output = Path(folder, "messages.jsonl"), Path(folder, "output.txt")
        with output.open("w") as file:
            process = _start(request, messages, None if request.is_verbose else file)
            stop = _Stop(process, Inbox(messages))
            with _passing_on_signals(stop):
                last = _shown(stop, show)
        if last is not None:
            return last
        from sqlmesh_dagster.commands.aftermath import ended_without_a_word

        return ended_without_a_word(request.launch, root, process.returncode, output)


def _start(request: RunRequest, messages: Path, output: TextIO | None) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "sqlmesh_dagster.commands.execution",
            request.to_json(),
            str(messages),
        ],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,  # Ctrl-C comes from here alone, once
    )


@dataclass
class _Stop:
    """How the process of a run is asked to end.

    Attributes:
        is_following: Whether it looks for messages, and so can cancel its run.
        unheard_since: When it was asked, until it has heard it; in seconds of the monotonic clock.
    """

    process: subprocess.Popen[bytes]
    inbox: Inbox
    is_following: bool = False
    is_asked: bool = False
    unheard_since: float | None = None

    def ask(self) -> None:
        """By a message where that is looked for, else by a signal; the second time at once."""
        if self.is_asked:
            self._kill()
        elif self.is_following:
            self.inbox.ask_to_stop()
            self.unheard_since = time.monotonic()
        else:
            self._interrupt()
        self.is_asked = True

    def look(self) -> None:
        """Sends the signal, if nobody has heard the message."""
        if (
            self.unheard_since is not None
            and time.monotonic() - self.unheard_since > _HEARD_WITHIN_SECONDS
        ):
            self.unheard_since = None
            self._interrupt()

    def _interrupt(self) -> None:
        if sys.platform == "win32":  # no signal reaches a process of another group
            self.process.terminate()
        else:
            self.process.send_signal(signal.SIGINT)

    def _kill(self) -> None:
        """The process and all that it has started."""
        if sys.platform == "win32":
            self.process.kill()
        else:
            os.killpg(self.process.pid, signal.SIGKILL)


@contextmanager
def _passing_on_signals(stop: _Stop) -> Iterator[None]:
    """Asks the run to stop where this process is asked to."""

    def pass_on(number: int, _: Any) -> None:
        if not stop.is_asked:
            sys.stderr.write(
                "\nStopping the run; what is being built is given up. Press Ctrl-C again to kill it.\n"
            )
        stop.ask()

    before = {n: signal.signal(n, pass_on) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if stop.process.poll() is None:
            stop.process.kill()


def _shown(stop: _Stop, show: Callable[[AssetLine, int], None]) -> LaunchedRun | None:
    """Shows each asset as it ends; what the process said last, once it has ended."""
    last = None
    while True:
        is_over = stop.process.poll() is not None
        for message in stop.inbox.take():
            if message["kind"] == "asset":
                show(AssetLine.from_data(message["line"]), message["width"])
            elif message["kind"] == "following":
                stop.is_following = True
            elif message["kind"] == "stopping":
                stop.unheard_since = None
            else:
                last = _end_of(message)
        if is_over:
            return last
        stop.look()
        time.sleep(_POLL_SECONDS)


def _end_of(message: Mapping[str, Any]) -> LaunchedRun:
    if message["kind"] == "refused":
        return LaunchedRun(None, False, RunProgress(), message["error"])
    progress = RunProgress.from_data(message["progress"])
    return LaunchedRun(message["run_id"], message["is_success"], progress)
