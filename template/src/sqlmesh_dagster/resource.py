"""`SQLMeshResource`: one project's context and connection, and the thread in which it runs."""

# No `from __future__ import annotations`: Dagster reads the type of a `ResourceDependency` unquoted.

import itertools
import logging
import os
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import PrivateAttr

from sqlmesh_dagster.guard.cancel import CancelToken
from sqlmesh_dagster.guard.folder import at_home
from sqlmesh_dagster.guard.locks import ProjectLock
from sqlmesh_dagster.guard.secrets import mask
from sqlmesh_dagster.guard.stopping import Patience, Stopping
from sqlmesh_dagster.guard.worker import Worker
from sqlmesh_dagster.options import CheckedRunOptions, RunOptions
from sqlmesh_dagster.settings import ProjectSettings
from sqlmesh_dagster.translator import SQLMeshTranslator
from sqlmesh_dagster.upstream.dagster import end_process_soon, is_interrupted, is_process_of_run

if TYPE_CHECKING:
    from sqlmesh import Context
    from sqlmesh.core.engine_adapter.base import EngineAdapter

    from sqlmesh_dagster.engine.context import CaptureContext

_log = logging.getLogger(__name__)
_POLL_SECONDS = 0.2
_POLLS_PER_QUERY = 10
_INTERRUPTS = (KeyboardInterrupt, dg.DagsterExecutionInterruptedError)
_STOPPING = (dg.DagsterRunStatus.CANCELING, dg.DagsterRunStatus.CANCELED)


class SQLMeshRunOptions(RunOptions, dg.ConfigurableResource[None]):
    """How this run's sqlmesh run is done; set in the launchpad."""

    def resolve(self) -> CheckedRunOptions:
        """The options, checked.

        Raises:
            InvalidSettingError: A time that cannot be read, or that makes no sense, or no choice of `build`.
        """
        return CheckedRunOptions.of(self)


class SQLMeshResource(ProjectSettings, dg.ConfigurableResource[None]):
    """A SQLMesh project, gateway and environment; give each project one instance."""

    translator: dg.ResourceDependency[SQLMeshTranslator] = SQLMeshTranslator()  # type: ignore[assignment]
    """How models look in Dagster."""

    _holder: str = PrivateAttr(default_factory=lambda: f"process {os.getpid()}")
    _work: Worker | None = PrivateAttr(default=None)
    _messages: deque[tuple[int, str]] = PrivateAttr(default_factory=deque)
    _is_in_run: bool = PrivateAttr(default=False)
    _of_run: ProjectSettings | None = PrivateAttr(default=None)

    @property
    def settings(self) -> ProjectSettings:
        """What this resource was configured with, checked; reads environment variables.

        Within a run, once in each process.

        Raises:
            InvalidSettingError: A setting that makes no sense, such as an unset variable.
        """
        if self._of_run is None:
            checked = self._checked()
            if not self._is_in_run:
                return checked
            self._of_run = checked
        return self._of_run

    def _checked(self) -> ProjectSettings:
        given = {name: getattr(self, name) for name in ProjectSettings.model_fields}
        return ProjectSettings.model_construct(**given).checked()

    @contextmanager
    def open_context(self, *, load: bool = True) -> Iterator["Context"]:
        """SQLMesh's own context, for everything that the integration does not offer.

        Runs of this host wait until it is closed, and all connections are released then. If the project's
        files have relative paths that lead nowhere from here, the process works in its folder meanwhile.

        Args:
            load: Whether the project's files are needed, not only what is deployed.

        Raises:
            ProjectLoadError: The project cannot be loaded.
            EnvironmentBusyError: Another run held the project for longer than `wait_timeout`.
        """
        with self._locked(), at_home(self.settings.project_paths), self._opened(load) as context:
            yield context

    def _locked(self) -> AbstractContextManager[None]:
        settings = self.settings
        lock = ProjectLock(settings.lock_name, settings.project_path)
        return lock.held(self.holder, settings.wait_timeout)

    def _opened(self, load: bool) -> AbstractContextManager["CaptureContext"]:
        from sqlmesh_dagster.engine.context import open_context  # imports SQLMesh

        return open_context(self.settings, load=load)

    @contextmanager
    def connection(self) -> Iterator["EngineAdapter"]:
        """The warehouse's connection, as SQLMesh's engine adapter, for assets that load raw data.

        Raises:
            DatabaseLockedError: Another process held the DuckDB file for longer than `wait_timeout`.
            DatabaseUnavailableError: Postgres does not let its role do this, with the right to grant.
        """
        from sqlmesh_dagster.engine.context import open_adapter  # imports SQLMesh
        from sqlmesh_dagster.engine.refusals import refusal_of

        with self._locked(), self._opened(load=False) as context:
            adapter = open_adapter(context, self.settings)
            try:
                yield adapter
            except Exception as error:
                told = refusal_of(error)
                if told is None:
                    raise
                raise told from error

    # ------------------------------------------------------------ used by the integration's steps

    @property
    def holder(self) -> str:
        """This resource's name as the holder of a lock: its Dagster run, or its process."""
        return self._holder

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Remembers which Dagster run this is; opens nothing."""
        self._is_in_run, self._of_run = context.run is not None, None
        if context.run is not None:
            self._holder = f"Dagster run {context.run.run_id}"

    def start_work(self, work: Callable[[CancelToken], None]) -> None:
        """Starts `work` in a worker thread; it may outlive the step, and ends before the teardown."""
        self._finish_work()
        self._work = Worker(work)

    def run_work(
        self, work: Callable[[CancelToken], None], meanwhile: Callable[[], None] = lambda: None
    ) -> None:
        """Runs `work` in a worker thread, and waits for it; raises what it raises."""
        self.start_work(work)
        self._finish_work(meanwhile=meanwhile)

    def cancel_work(self) -> None:
        """Stops SQLMesh; returns at once."""
        if self._work is not None:
            self._work.token.cancel()

    def say(self, level: int, message: str) -> None:
        """Keeps a message of the worker thread, with its logging level, for the next step that waits."""
        text = mask(message)
        _log.log(level, text)
        self._messages.append((level, text))

    def heard(self) -> Iterator[tuple[int, str]]:
        """Takes the messages kept so far."""
        while self._messages:
            yield self._messages.popleft()

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:
        """Waits for SQLMesh's work, stops it if the Dagster run is being stopped, logs the rest.

        A signal is raised here, too, and must not end the wait: the process would end in the middle of
        a model, silently. One that comes later, while it is waited for, does.
        """
        polls = itertools.count(1)
        stopping = Stopping(self.cancel_timeout, lambda text: self.say(logging.INFO, text))
        interrupt: BaseException | None = None
        while self._work is not None:
            try:
                self._finish_work(
                    lambda: (
                        is_interrupted()
                        or (next(polls) % _POLLS_PER_QUERY == 0 and _is_stopping(context))
                    ),
                    lambda: self._log_heard(context),
                    self._give_up,
                    stopping,
                )
            except _INTERRUPTS as error:
                interrupt = error
                if stopping.is_told_again():
                    self._leave("as it was told to stop once more")
                    break
        self._log_heard(context)  # messages after the last step
        if interrupt is not None:
            raise interrupt

    def _log_heard(self, context: dg.InitResourceContext) -> None:
        if context.log is not None:
            for level, message in self.heard():
                context.log.log(level, message)

    def _give_up(self) -> bool:
        """Whether a model that goes on is left: its process is there for this run alone, and ends soon."""
        if not is_process_of_run():
            self.say(
                logging.WARNING, "This process is not the run's own, so that it goes on waiting."
            )
            return False
        self._leave("after `cancel_timeout`")
        return True

    def _leave(self, why: str) -> None:
        """Says that what is built is left alone; the process ends soon, if it is the run's own.

        As `kill -9` does it: each record of an interval is one transaction, done or not.
        """
        token = self._work.token if self._work else CancelToken()
        other = token.other_work.what or "what SQLMesh does"
        models = ", ".join(f"`{name}`" for name in sorted(token.running)) or other
        is_own = is_process_of_run()
        end = "this process ends, and" if is_own else "it goes on until this process ends, and then"
        self.say(
            logging.WARNING,
            f"Gave up on {models} {why}: {end} nothing that is not recorded by then will be. The next"
            " run builds it.",
        )
        if is_own:
            end_process_soon()

    def _finish_work(
        self,
        is_stopping: Callable[[], bool] = lambda: False,
        meanwhile: Callable[[], None] = lambda: None,
        give_up: Callable[[], bool] = lambda: False,
        stopping: Stopping | None = None,
    ) -> None:
        """Waits for the end of the work, if there is one; raises what it raised.

        Args:
            give_up: Called once when the work was told to stop `cancel_timeout` seconds ago: whether to
                wait no longer.
            stopping: Of a wait that was interrupted, and goes on.
        """
        work = self._work
        if work is None:
            return
        if stopping is None:
            stopping = Stopping(self.cancel_timeout, lambda text: self.say(logging.INFO, text))
        try:
            while not work.is_done(_POLL_SECONDS):  # short waits notice an interrupt
                meanwhile()
                if work.token.is_cancelled or is_stopping():
                    work.token.cancel()  # again: an interrupt between two queries has no effect
                    token = work.token
                    found = stopping.look(
                        token.running, can_interrupt=token.can_interrupt, other=token.other_work
                    )
                    is_over = found is Patience.GIVE_UP
                    if is_over and give_up():
                        self._work = None
                        return
        except BaseException:
            work.token.cancel()
            raise
        self._work = None
        work.join()


def _is_stopping(context: dg.InitResourceContext) -> bool:
    run = context.run
    if run is None or context.instance is None:
        return False
    stored = context.instance.get_run_by_id(run.run_id)
    return stored is not None and stored.status in _STOPPING
