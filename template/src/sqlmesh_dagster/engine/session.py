"""All that SQLMesh work needs: its locks, a context with a console, and clear errors."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

from sqlmesh_dagster.console import CaptureConsole
from sqlmesh_dagster.engine.context import CaptureContext, open_context, wait_for_database
from sqlmesh_dagster.engine.explanation import explained
from sqlmesh_dagster.engine.reaching import reach
from sqlmesh_dagster.engine.state_lock import StateLock, state_lock
from sqlmesh_dagster.errors import StateLockError
from sqlmesh_dagster.guard.cancel import CancelToken
from sqlmesh_dagster.guard.folder import at_home
from sqlmesh_dagster.guard.locks import ProjectLock
from sqlmesh_dagster.settings import ProjectSettings


@dataclass(frozen=True)
class Session:
    """Who works on which project, and who gets its messages. `guard.locks` has the table of locks.

    Attributes:
        holder: The name of the Dagster run for those who wait for it.
        log: Receives a logging level and a message.
        has_project_lock: Whether the caller holds this host's lock on the project already.
    """

    settings: ProjectSettings
    holder: str
    log: Callable[[int, str], None]
    cancel: CancelToken
    has_project_lock: bool = False

    @contextmanager
    def opened(
        self, console: CaptureConsole | None = None, *, load: bool = False, is_locked: bool = True
    ) -> Iterator[CaptureContext]:
        """A fresh context, alone in this process.

        Args:
            load: Whether the project's files are needed, not only what is deployed.
            is_locked: Whether runs of this host wait meanwhile.

        Raises:
            SQLMeshDagsterError: For what goes wrong outside any model; see `explanation`.
        """
        settings, cancel = self.settings, self.cancel
        try:
            with (
                self._project_lock() if is_locked else nullcontext(),
                at_home(settings.project_paths),
                open_context(settings, load=load, console=console, cancel=cancel) as context,
            ):
                yield context
        except Exception as error:
            if cancel.reason:
                raise StateLockError(cancel.reason) from error
            clear = explained(error, settings)
            if clear is error:
                raise
            raise clear from error

    @contextmanager
    def state_locked(self, context: CaptureContext) -> Iterator[StateLock]:
        """The lock on the state, with the files of state and data open; waits for both.

        Raises:
            DatabaseUnavailableError: A server of theirs cannot be worked with.
        """
        reach(context)
        with state_lock(
            context,
            self.settings,
            self.holder,
            self.cancel,
            self.log,
            is_leading=self.has_project_lock,
        ) as lock:
            wait_for_database(context, self.settings, self.log)
            yield lock

    def _project_lock(self) -> AbstractContextManager[None]:
        if self.has_project_lock or self.settings.execution != "shared":
            return nullcontext()
        return ProjectLock(self.settings.lock_name, self.settings.project_path).held(
            self.holder,
            self.settings.wait_timeout,
            self.cancel,
            lambda message: self.log(logging.INFO, message),
        )
