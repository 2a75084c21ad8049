"""Starts the process of a run, follows the run's events, and shows them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import dagster as dg

from sqlmesh_dagster.commands.progress import AssetLine, RunProgress
from sqlmesh_dagster.commands.request import LAUNCH_TAG, RunRequest
from sqlmesh_dagster.guard.secret_values import secrets_of_variables
from sqlmesh_dagster.guard.secrets import learn, mask
from sqlmesh_dagster.upstream.dagster import end_dead_run
from sqlmesh_dagster.upstream.launch import run_events

_POLL_SECONDS = 0.2
_LAST_LINES = 20


@dataclass(frozen=True)
class LaunchedRun:
    """A run that has ended, or why there is none.

    Attributes:
        run_id: None if the run could not begin.
        error: Why there is no run, or why it ended without an end of its own.
    """

    run_id: str | None
    is_success: bool
    progress: RunProgress
    error: str | None = None


def launch(
    request: RunRequest, root: Path, show: Callable[[AssetLine, RunProgress], None]
) -> LaunchedRun:
    """Executes the request in a process of its own, and shows each asset as it ends.

    What that process prints is kept from the terminal, unless the request asks for it: Dagster's run
    log has it.
    """
    progress = RunProgress(root)
    with tempfile.TemporaryDirectory(prefix="poe-run-") as folder:
        report = Path(folder, "report.json")
        with Path(folder, "output.txt").open("w+") as output:
            process = _start(request, report, None if request.is_verbose else output)
            with _passing_on_signals(process):
                run = _follow(request, process, report, progress, show)
            output.seek(0)
            if run is None:
                return LaunchedRun(None, False, progress, _why_not_started(process, report, output))
    if run.is_finished:
        return LaunchedRun(run.run_id, run.is_success, progress)
    return LaunchedRun(run.run_id, False, progress, _ended_as_dead(run, process))


def _start(request: RunRequest, report: Path, output: TextIO | None) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "sqlmesh_dagster.commands.execution",
            request.to_json(),
            str(report),
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


def _follow(
    request: RunRequest,
    process: subprocess.Popen[bytes],
    report: Path,
    progress: RunProgress,
    show: Callable[[AssetLine, RunProgress], None],
) -> dg.DagsterRun | None:
    """Feeds the run's events as they come; the run as it was at the end of its process."""
    while not report.exists():
        if process.poll() is not None:
            return None
        time.sleep(_POLL_SECONDS)
    run, cursor = None, None
    with dg.DagsterInstance.get() as instance:
        while True:
            is_over = process.poll() is not None
            run = _run_of(instance, request)
            if run is not None:
                progress.files = progress.files or _read(report).get("files", {})
                entries, cursor = run_events(instance, run.run_id, cursor)
                for entry in entries:
                    for line in progress.feed(entry):
                        show(line, progress)
                if entries:
                    continue
            if is_over:
                return run
            time.sleep(_POLL_SECONDS)


def _run_of(instance: dg.DagsterInstance, request: RunRequest) -> dg.DagsterRun | None:
    runs = instance.get_run_records(dg.RunsFilter(tags={LAUNCH_TAG: request.launch}), limit=1)
    return runs[0].dagster_run if runs else None


def _read(report: Path) -> dict[str, Any]:
    return dict(json.loads(report.read_text(encoding="utf-8")))


def _why_not_started(process: subprocess.Popen[bytes], report: Path, output: TextIO) -> str:
    if report.exists() and "error" in _read(report):
        return str(_read(report)["error"])
    learn(secrets_of_variables(os.environ))
    last = mask("".join(output.readlines()[-_LAST_LINES:]))
    return f"The run's process ended with exit code {process.returncode}.\n{last}".strip()


def _ended_as_dead(run: dg.DagsterRun, process: subprocess.Popen[bytes]) -> str:
    """Ends a run whose process is gone, so that nothing waits for it."""
    message = f"The run's process ended with exit code {process.returncode} before the run did."
    with dg.DagsterInstance.get() as instance:
        end_dead_run(instance, run, message)
    return message
