"""A signal to stop reaches the work that runs beside, whoever gets it."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from sqlmesh_dagster.guard.cancel import CancelToken
from sqlmesh_dagster.guard.signals import StopSignals
from sqlmesh_dagster.guard.worker import Worker

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sends signals to this process")


@pytest.fixture(autouse=True)
def swallowed() -> Iterator[list[int]]:
    """The signals that a handler got and told nobody, as Dagster's does outside of a step."""
    got: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = {n: signal.signal(n, lambda number, frame: got.append(number)) for n in numbers}
    yield got
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_work_is_cancelled_by_a_signal_that_another_used_up(
    stop: signal.Signals, swallowed: list[int]
) -> None:
    """Promise: also one that arrives while a step yields its result; a run waited on in silence."""

    def work(cancel: CancelToken) -> None:
        while not cancel.is_cancelled:
            time.sleep(0.005)

    worker = Worker(work)
    assert not worker.is_done(0.02)
    assert not worker.token.is_cancelled
    os.kill(os.getpid(), stop)
    deadline = time.monotonic() + 5
    while not worker.is_done(0.01):
        assert time.monotonic() < deadline
    worker.join()
    assert swallowed == [stop]  # who is to get it gets it


def test_other_signals_and_those_of_before_stop_nothing() -> None:
    """Promise: only a signal to stop, and only one that comes while somebody listens."""
    first = StopSignals()
    os.kill(os.getpid(), signal.SIGTERM)
    assert first.has_come
    second = StopSignals()
    os.kill(os.getpid(), signal.SIGUSR1)
    assert not second.has_come
    first.close()
    os.kill(os.getpid(), signal.SIGINT)
    assert second.has_come
    second.close()


def test_who_listened_before_goes_on() -> None:
    """Promise: as an event loop of the process around; it hears also what came meanwhile."""
    reader, writer = socket.socketpair()
    for end in (reader, writer):
        end.setblocking(False)
    before = signal.set_wakeup_fd(writer.fileno())
    try:
        signals = StopSignals()
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.has_come
        signals.close()
        os.kill(os.getpid(), signal.SIGINT)
        assert reader.recv(10) == bytes([signal.SIGTERM, signal.SIGINT])
        assert signal.set_wakeup_fd(writer.fileno()) == writer.fileno()
    finally:
        signal.set_wakeup_fd(before)
        reader.close()
        writer.close()


def test_signals_of_a_forked_process_are_none_of_its_parents() -> None:
    """Promise: a pool that ends its forked workers with SIGTERM stops no run."""
    signals = StopSignals()
    child = os.fork()
    if child == 0:
        os.kill(os.getpid(), signal.SIGTERM)
        os._exit(1 if signals.has_come else 0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert not signals.has_come
    signals.close()


def test_a_thread_listens_in_vain_and_breaks_nothing() -> None:
    """Promise: only the main thread gets signals; elsewhere work goes on as without."""
    found: list[bool] = []

    def listen() -> None:
        signals = StopSignals()
        found.append(signals.has_come)
        signals.close()

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert found == [False]
