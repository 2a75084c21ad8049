"""Stopping SQLMesh from another thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlmesh_dagster.upstream.sqlmesh import interrupt


class RunCancelled(Exception):
    """Raised inside SQLMesh's work when the Dagster run was cancelled."""


class CancelToken:
    """Tells SQLMesh's work to stop: no further model starts, and running queries are interrupted."""

    def __init__(self) -> None:
        self._cancelled = threading.Event()
        self._lock = threading.Lock()
        self._cursors: list[Any] = []

    @property
    def is_cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """Returns at once, before the work has ended.

        Repeat it until then: an interrupt only reaches a query that is being executed.
        """
        self._cancelled.set()
        with self._lock:
            for cursor in self._cursors:
                interrupt(cursor)

    def check(self) -> None:
        """Raises if the work is cancelled; call it where work may stop.

        Raises:
            RunCancelled: `cancel` was called.
        """
        if self.is_cancelled:
            raise RunCancelled

    @contextmanager
    def watching(self, cursor: Any) -> Iterator[None]:
        """While open, `cancel` interrupts what `cursor` executes.

        Raises:
            RunCancelled: Cancelled before or meanwhile.
        """
        with self._lock:
            if self.is_cancelled:
                raise RunCancelled
            self._cursors.append(cursor)
        try:
            yield
        except Exception as error:
            if self.is_cancelled:
                raise RunCancelled from error
            raise
        finally:
            with self._lock:
                self._cursors.remove(cursor)
