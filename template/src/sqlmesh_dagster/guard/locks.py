"""One piece of SQLMesh work at a time on a project: SQLMesh itself has no run lock.

Three locks, always taken in this order, each given back by who took it:

| work                                   | this host's, on the project | this process's, on SQLMesh | Postgres state's    |
|----------------------------------------|-----------------------------|----------------------------|---------------------|
| a run that a step leads (`shared`)     | the leading step takes a lease, its worker thread gives it back | held | alone |
| … while it deploys local changes       | the same                    | held                       | comparing, then alone |
| a step's own run (`per_step`)          | only where the state is not on Postgres | held           | on its model        |
| audits alone, a plan, a removal        | held (`shared`)             | held                       | alone               |
| unit tests and linter                  | none                        | held                       | none                |
| a tick of the schedule, a sync         | tried, never waited for     | waited for, for some seconds | none              |
| `SQLMeshResource.open_context`, `.connection` | held                 | held                       | none                |

The first is `ProjectLock` here, the second is in `engine.context`, the third is `engine.state_lock`;
`engine.session` takes them.
"""

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
from typing import TypeVar

from filelock import FileLock, Timeout

from sqlmesh_dagster.errors import EnvironmentBusyError
from sqlmesh_dagster.guard.cancel import CancelToken, RunCancelled

_log = logging.getLogger(__name__)
_POLL_SECONDS = 0.25
_Taken = TypeVar("_Taken")


class Lease:
    """A lock that was taken: who has this gives it back, in any thread, by leaving its `with`."""

    def __init__(self, lock: FileLock) -> None:
        self._lock = lock

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    def release(self) -> None:
        """Gives the lock back."""
        self._lock.release()


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

    def take(self, holder: str) -> Lease | None:
        """Takes the lock if it is free; `holder` names the taker to those who wait."""
        if self._lock.is_locked:  # by this very object: a `FileLock` would let it in again
            return None
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            return None
        self._holder.write_text(json.dumps({"holder": holder, "pid": os.getpid()}))
        return Lease(self._lock)

    def holder(self) -> str:
        """Who took it last, as given to `take`; empty if not known."""
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
        patience = Patience(holder, timeout, say)
        with wait_for(lambda: self.take(holder), patience, self.holder, cancel):
            yield


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
    take: Callable[[], _Taken | None],
    patience: Patience,
    holder: Callable[[], str],
    cancel: CancelToken | None = None,
) -> _Taken:
    """Tries until something is taken.

    Raises:
        EnvironmentBusyError: The patience is at its end.
        RunCancelled: Cancelled meanwhile.
    """
    while (taken := take()) is None:
        if cancel is not None and cancel.is_cancelled:
            raise RunCancelled
        patience.check(holder())
        time.sleep(_POLL_SECONDS)
    return taken
