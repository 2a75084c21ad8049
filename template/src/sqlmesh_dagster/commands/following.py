"""Reads a run's events: while it goes on, for the command that shows it; or afterwards."""

from __future__ import annotations

import _thread
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from threading import Event, Thread, main_thread

import dagster as dg

from sqlmesh_dagster.commands.messages import Outbox
from sqlmesh_dagster.commands.progress import AssetLine, RunProgress
from sqlmesh_dagster.commands.reading import RunReader
from sqlmesh_dagster.commands.request import LAUNCH_TAG
from sqlmesh_dagster.guard.instance import opened_instance
from sqlmesh_dagster.guard.secrets import masked_texts
from sqlmesh_dagster.upstream.dagster import begin_canceling
from sqlmesh_dagster.upstream.launch import run_events

_POLL_SECONDS = 0.2


def past_run(instance: dg.DagsterInstance, run: dg.DagsterRun, root: Path) -> RunProgress:
    """The progress of a run up to now."""
    reader = RunReader(root)
    _read_on(instance, run.run_id, reader, None, lambda _: None)
    return _shown(reader.progress)


def _shown(progress: RunProgress) -> RunProgress:
    """Without secrets: also what the owner's own assets say is on its way to a terminal, or to a log of CI."""
    return masked_texts(progress, ("message", "details", "plans", "facts"))


def run_of(instance: dg.DagsterInstance, launch: str) -> dg.DagsterRun | None:
    """The run that a command started, if it has begun."""
    records = instance.get_run_records(dg.RunsFilter(tags={LAUNCH_TAG: launch}), limit=1)
    return records[0].dagster_run if records else None


@contextmanager
def followed(outbox: Outbox, launch: str, root: Path, files: Mapping[str, str]) -> Iterator[None]:
    """Tells the command of each asset that ends, and at the end of the run all there is to know.

    On a thread with an instance of its own: a run that cannot be followed is not disturbed. Then the
    command reads what became of it by itself.

    When the command asks for it, the run is canceled, which for Dagster is no failure of its assets.

    Args:
        launch: Of the request.
        files: File and line of each model, by asset key.
    """
    is_over = Event()
    arguments = (outbox, launch, RunReader(root, files), is_over)
    outbox.put("following", {})
    thread = Thread(target=_follow, args=arguments, daemon=True, name="follow-run")
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def _follow(outbox: Outbox, launch: str, reader: RunReader, is_over: Event) -> None:
    run, cursor, is_canceled = None, None, False

    def tell(line: AssetLine) -> None:
        shown = masked_texts(line, ("details",))
        outbox.put("asset", {"line": asdict(shown), "width": reader.progress.width})

    with opened_instance() as instance:
        while True:
            is_last = is_over.wait(_POLL_SECONDS)
            run = run or run_of(instance, launch)
            if not is_canceled and not is_last and outbox.is_asked_to_stop():
                is_canceled = True
                if run is not None:
                    begin_canceling(instance, run)
                outbox.put("stopping", {})
                _interrupt_main_thread()
            if run is not None:
                cursor = _read_on(instance, run.run_id, reader, cursor, tell)
            if is_last:
                break
        ended = run_of(instance, launch)
    if ended is not None and ended.is_finished:
        facts = {"run_id": ended.run_id, "is_success": ended.is_success}
        outbox.put("ended", {**facts, "progress": _shown(reader.progress).to_data()})


def _read_on(
    instance: dg.DagsterInstance,
    run_id: str,
    reader: RunReader,
    cursor: str | None,
    tell: Callable[[AssetLine], None],
) -> str | None:
    """Feeds the reader with all that was logged since a cursor; the cursor to go on from."""
    while True:
        entries, cursor = run_events(instance, run_id, cursor)
        if not entries:
            return cursor
        for entry in entries:
            for line in reader.feed(entry):
                tell(line)


def _interrupt_main_thread() -> None:
    """As Ctrl-C would."""
    if sys.platform == "win32":
        _thread.interrupt_main()
    else:  # wakes the thread also where it waits for the system
        signal.pthread_kill(main_thread().ident or 0, signal.SIGINT)
