"""Signals that ask this process to stop, noticed whoever gets them."""

from __future__ import annotations

import os
import signal
import socket
import threading
from contextlib import suppress

_STOP = frozenset(
    number
    for name in ("SIGINT", "SIGTERM", "SIGBREAK")
    if (number := getattr(signal, name, None)) is not None
)
_NONE = -1


class _Heard:
    """The process's own: Python's signal handlers write the number of each signal to its socket.

    A handler cannot be relied upon: Dagster exchanges it at each step's borders, and the error that it
    raises there, in another step or in a `__del__`, never reaches who waits for SQLMesh's work.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._count = 0
        self._before = _NONE
        self._reader: socket.socket | None = None
        self._writer: socket.socket | None = None

    def begin(self) -> None:
        """Only in the main thread, which alone gets signals."""
        with self._lock:
            self._users += 1
            if self._reader is not None or not _is_main_thread():
                return
            self._reader, self._writer = socket.socketpair()
            self._reader.setblocking(False)
            self._writer.setblocking(False)
            self._before = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)

    def end(self) -> None:
        """As often as `begin`; with the last, who listened before listens again."""
        with self._lock:
            self._users -= 1
            if self._users or self._writer is None or not _is_main_thread():
                return  # it is closed with the next one's end
            self._listen()
            _put_back(self._writer.fileno(), self._before)
            self._forget()

    def count(self) -> int:
        """How many signals to stop have arrived."""
        with self._lock:
            self._listen()
            return self._count

    def after_fork(self) -> None:
        """A forked process has its parent's socket: its signals are none of the parent's."""
        self._lock = threading.Lock()
        if self._writer is not None:
            _put_back(self._writer.fileno(), _NONE)
            self._forget()

    def _listen(self) -> None:
        while self._reader is not None:
            try:
                numbers = self._reader.recv(4096)
            except OSError:  # nothing more
                return
            self._count += sum(number in _STOP for number in numbers)
            if self._before != _NONE:
                with suppress(OSError):
                    os.write(self._before, numbers)

    def _forget(self) -> None:
        for end in (self._reader, self._writer):
            if end is not None:
                end.close()
        self._reader = self._writer = None
        self._before = _NONE


def _put_back(own: int, before: int) -> None:
    """If somebody else has begun to listen since, they go on."""
    with suppress(ValueError, OSError):
        found = signal.set_wakeup_fd(before)
        if found != own:
            signal.set_wakeup_fd(found)


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


_heard = _Heard()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_heard.after_fork)


class StopSignals:
    """The signals that ask this process to stop, from its making until it is closed."""

    def __init__(self) -> None:
        _heard.begin()
        self._before = _heard.count()
        self._is_open = True

    @property
    def has_come(self) -> bool:
        """Whether one has come since; also one that something else has handled, or swallowed."""
        return _heard.count() > self._before

    def close(self) -> None:
        """Ends the listening."""
        if self._is_open:
            self._is_open = False
            _heard.end()
