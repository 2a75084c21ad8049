"""One piece of SQLMesh work at a time on a project: SQLMesh itself has no run lock."""

from __future__ import annotations

import getpass
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from sqlmesh_dagster.errors import EnvironmentBusyError

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

    def patience(self, holder: str, timeout: float) -> Patience:
        """How long `holder` goes on waiting for this lock."""
        return Patience(self, holder, timeout)

    @contextmanager
    def held(self, holder: str, timeout: float) -> Iterator[None]:
        """Takes the lock, waiting for it.

        Raises:
            EnvironmentBusyError: Somebody else kept it for longer than `timeout` seconds.
        """
        patience = self.patience(holder, timeout)
        while not self.try_acquire(holder):
            patience.check()
            time.sleep(_POLL_SECONDS)
        try:
            yield
        finally:
            self.release()


class Patience:
    """Waits for others for a limited time, and for other steps of the same Dagster run without limit."""

    def __init__(self, lock: ProjectLock, holder: str, timeout: float) -> None:
        self._lock = lock
        self._holder = holder
        self._timeout = timeout
        self._deadline = time.monotonic() + timeout

    def check(self) -> None:
        """Call it each time the lock was found taken.

        Raises:
            EnvironmentBusyError: Somebody else kept the lock for longer than the timeout.
        """
        other = self._lock.holder()
        if other == self._holder:
            self._deadline = time.monotonic() + self._timeout
        elif time.monotonic() > self._deadline:
            raise EnvironmentBusyError(
                f"Waited {self._timeout:g} s for {other or 'another process'}, which works on the"
                " same SQLMesh project. Let it finish, or raise `wait_timeout`."
            )
