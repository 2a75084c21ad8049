"""One piece of SQLMesh work at a time on a project: SQLMesh itself has no run lock."""

from __future__ import annotations

import getpass
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from sqlmesh_dagster.errors import EnvironmentBusyError
from sqlmesh_dagster.guard.cancel import CancelToken, RunCancelled

_log = logging.getLogger(__name__)
_POLL_SECONDS = 0.25


class ProjectLock:
    """A lock on a project, shared by every process of this user on this host.

    The operating system drops it when its process dies.

    Args:
        name: `ProjectSettings.lock_name`.
    """

    def __init__(self, name: str) -> None:
        folder = Path(tempfile.gettempdir()) / f"sqlmesh_dagster-{getpass.getuser()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        self._lock = FileLock(folder / f"{name}.lock", thread_local=False)
        self._holder = folder / f"{name}.json"

    def try_acquire(self, holder: str) -> bool:
        """Takes the lock if it is free; `holder` names the taker to those who wait."""
        if self._lock.is_locked:  # by this very object: a `FileLock` would let it in again
            return False
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            return False
        self._holder.write_text(json.dumps({"holder": holder, "pid": os.getpid()}))
        return True

    def release(self) -> None:
        """Gives the lock back; any thread may."""
        self._lock.release()

    def holder(self) -> str:
        """Who took it last, as given to `try_acquire`; empty if not known."""
        try:
            return str(json.loads(self._holder.read_text())["holder"])
        except (FileNotFoundError, json.JSONDecodeError, KeyError):
            return ""

    @contextmanager
    def held(
        self,
        holder: str,
        timeout: float,
        cancel: CancelToken | None = None,
        say: Callable[[str], None] = _log.info,
    ) -> Iterator[None]:
        """Takes the lock, waiting for it; see `Patience`.

        Raises:
            EnvironmentBusyError: Somebody else kept it for longer than `timeout` seconds.
            RunCancelled: Cancelled while waiting.
        """
        wait_for(
            lambda: self.try_acquire(holder), Patience(holder, timeout, say), self.holder, cancel
        )
        try:
            yield
        finally:
            self.release()


class Patience:
    """Waits for others for a limited time, and for other steps of the same Dagster run without limit.

    Args:
        holder: Who waits.
        timeout: Seconds to wait for anybody else.
        say: Told once whom this waits for.
    """

    def __init__(self, holder: str, timeout: float, say: Callable[[str], None] = _log.info) -> None:
        self._holder = holder
        self._timeout = timeout
        self._deadline = time.monotonic() + timeout
        self._say = say
        self._said: str | None = None

    def check(self, other: str) -> None:
        """Call it each time the lock was found taken, with the name of who has it.

        Raises:
            EnvironmentBusyError: Somebody else kept the lock for longer than the timeout.
        """
        if other == self._holder:
            self._deadline = time.monotonic() + self._timeout
            return
        name = other or "another process"
        if time.monotonic() > self._deadline:
            raise EnvironmentBusyError(
                f"Waited {self._timeout:g} s for {name}, which works on the same SQLMesh project."
                " Let it finish, or raise `wait_timeout`."
            )
        if name != self._said:
            self._said = name
            self._say(
                f"Waiting for {name}, which works on the same SQLMesh project,"
                f" for {self._timeout:g} s at most."
            )


def wait_for(
    try_acquire: Callable[[], bool],
    patience: Patience,
    holder: Callable[[], str],
    cancel: CancelToken | None = None,
) -> None:
    """Tries until it succeeds.

    Raises:
        EnvironmentBusyError: The patience is at its end.
        RunCancelled: Cancelled meanwhile.
    """
    while not try_acquire():
        if cancel is not None and cancel.is_cancelled:
            raise RunCancelled
        patience.check(holder())
        time.sleep(_POLL_SECONDS)
