"""Stopping SQLMesh from another thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from sqlmesh_dagster.guard.stopping import OtherWork
from sqlmesh_dagster.upstream.interrupting import Interrupter


class RunCancelled(Exception):
    """Raised inside SQLMesh's work when the Dagster run was cancelled; its text is the reason, if there is one."""


class CancelToken:
    """Tells SQLMesh's work to stop: no further model starts, and running queries are interrupted."""

    def __init__(self) -> None:
        self._cancelled = threading.Event()
        self._lock = threading.Lock()
        self._interrupters: list[Interrupter] = []
        self._guards: list[Callable[[], None]] = []
        self._reason = ""
        self._began_at: dict[object, tuple[str, float]] = {}
        self._other_work = OtherWork()
        self._other_work_since = 0.0

    @property
    def is_cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._cancelled.is_set()

    @property
    def reason(self) -> str:
        """Why it was cancelled, if not by a person."""
        return self._reason

    @property
    def running(self) -> Mapping[str, float]:
        """The models that are being built or audited, each with the seconds that it has taken."""
        now = time.monotonic()
        with self._lock:
            return {name: now - began_at for name, began_at in self._began_at.values()}

    @property
    def other_work(self) -> OtherWork:
        """What is done where no model is."""
        return replace(self._other_work, seconds=time.monotonic() - self._other_work_since)

    def now_does(self, what: str, *, can_be_left: bool = True) -> None:
        """What is done from now on next to the models, for who waits for its end; empty for nothing of note.

        Args:
            what: As a part of a sentence, such as "the unit tests".
            can_be_left: Whether the process may end in the middle of it.
        """
        self._other_work, self._other_work_since = (
            OtherWork(what, 0.0, can_be_left),
            time.monotonic(),
        )

    @property
    def can_interrupt(self) -> bool:
        """Whether the driver of each query that is being executed can end it."""
        with self._lock:
            return all(interrupt.is_able for interrupt in self._interrupters)

    def cancel(self, reason: str = "") -> None:
        """Returns at once, before the work has ended.

        Repeat it until then: an interrupt only reaches a query that is being executed.

        Args:
            reason: Why, if it is not a person who wants it; the first one counts.
        """
        if not self.is_cancelled:
            self._reason = reason
        self._cancelled.set()
        with self._lock:
            for interrupt in self._interrupters:
                interrupt()

    def check(self) -> None:
        """Raises if the work is cancelled; call it where work may stop.

        Raises:
            RunCancelled: `cancel` was called.
        """
        if self.is_cancelled:
            raise RunCancelled(self._reason)

    @contextmanager
    def guarded(self, guard: Callable[[], None]) -> Iterator[None]:
        """While open, `guard` is called before each piece of work, and may cancel it."""
        self._guards.append(guard)
        try:
            yield
        finally:
            self._guards.remove(guard)

    @contextmanager
    def watching(self, interrupter: Interrupter, name: str | None = None) -> Iterator[None]:
        """While open, `cancel` ends what is executed, in the way that its driver has.

        Args:
            interrupter: Ends the queries of one cursor.
            name: The model that it is done for.

        Raises:
            RunCancelled: Cancelled before or meanwhile.
        """
        for guard in tuple(self._guards):
            guard()
        with self._lock:
            self.check()
            self._interrupters.append(interrupter)
            work = object()
            if name is not None:
                self._began_at[work] = (name, time.monotonic())
        try:
            yield
        except Exception as error:
            if self.is_cancelled:
                raise RunCancelled(self._reason) from error
            raise
        finally:
            with self._lock:
                self._interrupters.remove(interrupter)
                self._began_at.pop(work, None)
