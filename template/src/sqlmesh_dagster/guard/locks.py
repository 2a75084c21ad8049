"""One piece of SQLMesh work at a time on a project: SQLMesh itself has no run lock.

Three locks, always taken in this order, each released by the one who took it:

| work                                   | this host's, on the project | this process's, on SQLMesh | the state's, on its server |
|----------------------------------------|-----------------------------|----------------------------|----------------------------|
| a run that a step leads (`shared`)     | the leading step takes a lease, its worker thread gives it back | held | alone |
| … while it deploys local changes       | the same                    | held                       | comparing, then alone |
| a step's own run (`per_step`)          | only where the state is on DuckDB | held                 | on its model        |
| audits alone, a plan, a rollback, …    | held (`shared`)             | held                       | alone               |
| unit tests and linter                  | none                        | held                       | none                |
| a tick of the schedule, a sync         | tried, never waited for     | waited for, for some seconds | none              |
| `SQLMeshResource.open_context`, `.connection` | held                 | held                       | none                |

The first is `ProjectLock` here, the second is in `engine.context`, the third is `engine.state_lock`;
`engine.session` takes them. The third is there where the state is on Postgres, MySQL or SQL Server.
"""

from __future__ import annotations

import getpass
import json
import logging
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout

from sqlmesh_dagster.errors import EnvironmentBusyError, SQLMeshDagsterError
from sqlmesh_dagster.guard.cancel import CancelToken, RunCancelled
from sqlmesh_dagster.guard.places import no_file, opened_for_all, owner_of

_log = logging.getLogger(__name__)
_POLL_SECONDS = 0.25
_Taken = TypeVar("_Taken")


class RivalStep(Exception):
    """Another step of the same Dagster run works, on another host: the two share no folder."""


class Lease:
    """A lock that was taken; it is released at the end of its `with`, in any thread."""

    def __init__(self, lock: FileLock) -> None:
        self._lock = lock

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    def release(self) -> None:
        """Releases the lock."""
        self._lock.release()


class ProjectLock:
    """A lock on a project, shared by every process of this host.

    The operating system releases it when its process ends.

    Args:
        name: `ProjectSettings.lock_name`.
        project: The project's folder, in which the lock is, so that all users of the project share
            it. Where it cannot be written, or is None, the lock is in a private temporary folder.

    Raises:
        EnvironmentBusyError: The folder for locks belongs to somebody else.
    """

    def __init__(self, name: str, project: Path | None = None) -> None:
        self._name = name
        self._use(_shared_folder(project) or _private_folder())

    def _use(self, folder: Path) -> None:
        # who may write to the folder may take the lock; its owner in any case
        mode = folder.stat().st_mode & 0o666 | 0o600
        self._lock = FileLock(folder / f"{self._name}.lock", thread_local=False, mode=mode)
        self._holder = folder / f"{self._name}.json"

    def take(self, holder: str) -> Lease | None:
        """Takes the lock if it is free; those who wait are shown the name `holder`.

        Raises:
            EnvironmentBusyError: Another user made the lock, and this one may not use it.
            SQLMeshDagsterError: Its file cannot be made.
        """
        if self._lock.is_locked:  # by this object: a `FileLock` can be taken twice
            return None
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            return None
        except NotImplementedError:  # a file system without locks
            self._use(_private_folder())
            return self.take(holder)
        except PermissionError as error:
            raise EnvironmentBusyError(_not_ours(Path(self._lock.lock_file))) from error
        except OSError as error:
            if fault := no_file(Path(self._lock.lock_file)):
                raise SQLMeshDagsterError(
                    f"The project's lock cannot be taken: {fault} Then run again: nothing was begun."
                ) from error
            raise SQLMeshDagsterError(
                f"The project's lock `{self._lock.lock_file}` cannot be taken: {error.strerror or error}."
                " Make room on its disk, or let this user write there; then run again: nothing was begun."
            ) from error
        self._note(holder)
        return Lease(self._lock)

    def _note(self, holder: str) -> None:
        """Who holds it, for those who wait; without it, as on a full disk, they wait for a process without a name."""
        try:
            self._holder.unlink(missing_ok=True)  # another user's may not be writable
            self._holder.write_text(json.dumps({"holder": holder, "pid": os.getpid()}))
        except OSError as error:
            _log.warning("The note `%s` cannot be written: %s", self._holder, error)

    def holder(self) -> str:
        """The holder that was given to `take` last; empty if not known."""
        try:
            if not self._holder.is_file():  # reading a pipe would never end
                return ""
            return str(json.loads(self._holder.read_bytes())["holder"])
        except (OSError, ValueError, KeyError, TypeError):
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


_FOLDER = ".cache/dagster/locks"


def _shared_folder(project: Path | None) -> Path | None:
    if project is None:
        return None
    folder = project / _FOLDER
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    try:
        return folder if os.access(folder, os.W_OK | os.X_OK) or any(folder.iterdir()) else None
    except PermissionError as error:  # there may be locks of others in it
        raise EnvironmentBusyError(_not_ours(folder)) from error


def _private_folder() -> Path:
    """A temporary folder that no other user may write to, so that nobody can put links in it.

    Raises:
        EnvironmentBusyError: There is one of its name that is not ours.
    """
    user = str(os.getuid()) if hasattr(os, "getuid") else getpass.getuser()
    try:
        folder = Path(tempfile.gettempdir()) / f"sqlmesh_dagster-{user}"
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        found = folder.lstat()
    except OSError as error:
        raise EnvironmentBusyError(
            f"The project's lock cannot be taken, as no temporary folder can be used for it: {error.strerror}. Set the"
            " environment variable `TMPDIR` to a folder that this user may write."
        ) from error
    is_ours = not hasattr(os, "getuid") or (
        found.st_uid == os.getuid() and not found.st_mode & 0o022
    )
    if not stat.S_ISDIR(found.st_mode) or not is_ours:
        raise EnvironmentBusyError(
            f"The temporary folder `{folder}`, in which locks are kept, is not this user's alone."
            " Remove it, or set the environment variable `TMPDIR` to another folder."
        )
    if found.st_mode & 0o700 != 0o700:  # this user has taken its own rights
        folder.chmod(0o700)
    return folder


def _not_ours(path: Path) -> str:
    folder = path if os.path.isdir(path) else path.parent  # noqa: PTH112 # no error where it cannot be looked at
    owner = owner_of(path if os.path.lexists(path) else folder)
    return (
        f"The project's lock, `{path}`, belongs to {owner}, and this user may not take it. Run Dagster"
        f" as that user, or let all users of the project write to it: `{opened_for_all(folder)}`."
    )


class Patience:
    """How long to wait: a limited time for others, without limit for steps of the same Dagster run.

    Args:
        holder: Who waits.
        timeout: Seconds to wait for anybody else.
        say: Called once, with the name of the holder.
    """

    def __init__(self, holder: str, timeout: float, say: Callable[[str], None] = _log.info) -> None:
        self._holder = holder
        self._timeout = timeout
        self._deadline = time.monotonic() + timeout
        self._say = say
        self._said: str | None = None

    def check(self, other: str) -> None:
        """Call it after each attempt that failed, with the name of the holder.

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
    """Tries until `attempt` succeeds.

    Raises:
        EnvironmentBusyError: Waiting took too long.
        RunCancelled: Cancelled meanwhile.
    """
    while (taken := take()) is None:
        if cancel is not None and cancel.is_cancelled:
            raise RunCancelled(cancel.reason)
        patience.check(holder())
        time.sleep(_POLL_SECONDS)
    return taken
