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
from pathlib import Path
from typing import Any, TextIO

from sqlmesh_dagster.commands.messages import Inbox
from sqlmesh_dagster.commands.progress import AssetLine, LaunchedRun, RunProgress
from sqlmesh_dagster.commands.request import RunRequest

_POLL_SECONDS = 0.1


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
            with _passing_on_signals(process):
                last = _shown(process, Inbox(messages), show)
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


def _ask_to_stop(process: subprocess.Popen[bytes]) -> None:
    if sys.platform == "win32":  # it has no signal that a process of another group can be asked by
        process.terminate()
    else:
        process.send_signal(signal.SIGINT)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """The process and all that it has started."""
    if sys.platform == "win32":
        process.kill()
    else:
        os.killpg(process.pid, signal.SIGKILL)


@contextmanager
def _passing_on_signals(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Asks the run to stop where this process is asked to; the second time at once."""
    asked: list[int] = []

    def pass_on(number: int, _: Any) -> None:
        asked.append(number)
        if len(asked) == 1:
            sys.stderr.write(
                "\nStopping the run; what is being built is given up. Again to kill it.\n"
            )
            _ask_to_stop(process)
        else:
            _kill(process)

    before = {n: signal.signal(n, pass_on) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if process.poll() is None:
            process.kill()


def _shown(
    process: subprocess.Popen[bytes], inbox: Inbox, show: Callable[[AssetLine, int], None]
) -> LaunchedRun | None:
    """Shows each asset as it ends; what the process said last, once it has ended."""
    last = None
    while True:
        is_over = process.poll() is not None
        for message in inbox.take():
            if message["kind"] == "asset":
                show(AssetLine.from_data(message["line"]), message["width"])
            else:
                last = _end_of(message)
        if is_over:
            return last
        time.sleep(_POLL_SECONDS)


def _end_of(message: Mapping[str, Any]) -> LaunchedRun:
    if message["kind"] == "refused":
        return LaunchedRun(None, False, RunProgress(), message["error"])
    progress = RunProgress.from_data(message["progress"])
    return LaunchedRun(message["run_id"], message["is_success"], progress)
