"""The lock on a project's state: one that every host sees if its engine has locks, otherwise one of this host.

SQLMesh has no run lock. Environments share the tables of unchanged models, so that the lock is the
state's and not an environment's.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from typing import Any, Protocol

from sqlmesh import Context

from sqlmesh_dagster.engine.lock_sql import LockSQL, lock_sql
from sqlmesh_dagster.errors import InvalidSettingError, StateLockError
from sqlmesh_dagster.guard.cancel import CancelToken
from sqlmesh_dagster.guard.heartbeat import beating
from sqlmesh_dagster.guard.locks import Patience, ProjectLock, RivalStep, wait_for
from sqlmesh_dagster.settings import ProjectSettings
from sqlmesh_dagster.upstream.sqlmesh import (
    autocommit,
    end_when_unanswered,
    is_duckdb_on_this_host,
    read_state_anew,
    state_connection,
)

Log = Callable[[int, str], None]
_HEARTBEAT_SECONDS = 2.0
_ANSWER_SECONDS = 20
"""A server that has vanished answers no heartbeat; by then the connection counts as lost."""
_SILENT = (
    f"The server that has SQLMesh's state has not answered for {_ANSWER_SECONDS} seconds, and this run"
    " waits for it. Look whether the server works; a run that is canceled ends when it answers, or when"
    " its connection is closed."
)
_LOST = (
    "The connection that held the lock on SQLMesh's state was lost, so that another run may have begun"
    " to work on the same models. {consequence} Run it again; if the server ends connections that wait,"
    " let it not end this one."
)
_POOLED = (
    "The lock on SQLMesh's state cannot be held: the connection to `{place}` is another session at each"
    " statement, as behind a connection pooler in transaction mode, such as PgBouncer's"
    " `pool_mode = transaction`. Let the gateway's `state_connection`, or `STATE_HOST` and `STATE_PORT`,"
    " name the server itself, or a pool in session mode."
)


class StateLock(Protocol):
    """Keeps others from changing the same data at the same time."""

    def comparing(self) -> AbstractContextManager[None]:
        """Nobody else deploys local changes meanwhile; runs and audits may."""

    def once(self) -> AbstractContextManager[None]:
        """Nobody else does meanwhile what is done once in a Dagster run; models are built."""

    def alone(self) -> AbstractContextManager[None]:
        """Nobody else runs, plans or audits meanwhile: for a plan, and a run of many models."""

    def on_models(self, fqns: Collection[str]) -> AbstractContextManager[None]:
        """Nobody plans, and nobody else builds or audits these models, meanwhile."""


@contextmanager
def state_lock(
    context: Context,
    settings: ProjectSettings,
    holder: str,
    cancel: CancelToken,
    log: Log,
    *,
    is_leading: bool = False,
) -> Iterator[StateLock]:
    """The lock that fits the project's state; open it before the state itself.

    Under `shared` execution the step that leads holds this host's lock already.

    Args:
        holder: The name of this work for those who wait for it.
        is_leading: Whether this is to do the work of other steps of the same Dagster run, too.

    Raises:
        StateLockError: The engine's lock cannot be held.
        InvalidSettingError: The state's engine has no locks, and the steps need one.
    """
    connection = state_connection(context)
    sql = lock_sql(connection.DIALECT)
    if sql is not None:
        yield from _engine_lock(context, sql, settings, holder, cancel, log, is_leading)
    elif settings.execution == "per_step":
        if not is_duckdb_on_this_host(connection):
            raise InvalidSettingError(
                f"`execution` is `per_step`, and SQLMesh's state is on {connection.DISPLAY_NAME}, where"
                " no lock keeps its steps apart. Let the gateway's `state_connection` name a database"
                " on Postgres, MySQL or SQL Server, or leave `execution` at `shared`."
            )
        lock = ProjectLock(settings.lock_name, settings.project_path)
        with lock.held(holder, settings.wait_timeout, cancel, lambda text: log(logging.INFO, text)):
            yield _Held()
    else:
        if not is_duckdb_on_this_host(connection):
            log(
                logging.WARNING,
                f"SQLMesh's state is on {connection.DISPLAY_NAME}, where no lock keeps runs of several"
                " hosts apart: two at once may double rows. Run this project on one host alone, or let"
                " the gateway's `state_connection` name a database on Postgres, MySQL or SQL Server.",
            )
        yield _Held()


class _Held:
    """This host's lock on the project is held already."""

    def comparing(self) -> AbstractContextManager[None]:
        return nullcontext()

    def once(self) -> AbstractContextManager[None]:
        return nullcontext()

    def alone(self) -> AbstractContextManager[None]:
        return nullcontext()

    def on_models(self, fqns: Collection[str]) -> AbstractContextManager[None]:
        return nullcontext()


class _EngineLock:
    """Locks of a connection of their own, with which they end.

    While one is held, a heartbeat asks every few seconds whether it still is, and each batch asks before
    it begins; if not, the work is cancelled.
    """

    def __init__(
        self,
        connection: _Connection,
        sql: LockSQL,
        scope: str,
        holder: str,
        patience: Callable[[], Patience],
        cancel: CancelToken,
        log: Log,
        taken: Callable[[], None],
        *,
        is_leading: bool,
    ) -> None:
        self._connection = connection
        self._sql = sql
        self._scope = scope
        self._holder = holder
        self._patience = patience
        self._cancel = cancel
        self._log = log
        self._taken = taken
        self._is_leading = is_leading
        self._names: list[str] = []
        self._is_lost = False

    def comparing(self) -> AbstractContextManager[None]:
        return self._held(f"{self._scope}\0\0deployment")

    def once(self) -> AbstractContextManager[None]:
        return self._held(f"{self._scope}\0\0once")

    def alone(self) -> AbstractContextManager[None]:
        return self._held(self._scope, is_alone=True)

    @contextmanager
    def on_models(self, fqns: Collection[str]) -> Iterator[None]:
        with ExitStack() as locks:
            locks.enter_context(self._held(self._scope, is_shared=self._sql.has_shared))
            for fqn in sorted(fqns) if self._sql.has_shared else ():
                locks.enter_context(self._held(f"{self._scope}\0{fqn}"))
            yield

    @contextmanager
    def _held(
        self, name: str, *, is_shared: bool = False, is_alone: bool = False
    ) -> Iterator[None]:
        take = self._sql.take(name, self._holder, is_shared=is_shared)
        wait_for(
            lambda: self._ask(take) or None,
            self._patience(),
            lambda: self._other(name, is_alone),
            self._cancel,
        )
        self._names.append(name)
        try:
            self._check_held(name)
            self._taken()
            with self._watched() if len(self._names) == 1 else nullcontext():
                yield
        finally:
            self._names.remove(name)
            self._release(self._sql.give_back(name, self._holder, is_shared=is_shared))

    def _other(self, name: str, is_alone: bool) -> str:
        """Who has a lock.

        Raises:
            RivalStep: A step of the same run has it, on another host: on this one, it would hold the
                project's lock, too.
        """
        other = str(self._ask(self._sql.holder(name, self._holder)) or "")
        if is_alone and self._is_leading and other == self._holder:
            raise RivalStep
        return other

    def _ask(self, query: str) -> Any:
        """The first value of a query.

        Raises:
            StateLockError: The connection was lost.
        """
        try:
            return self._connection.ask(query)
        except Exception as error:
            if self._is_connected():
                raise
            text = _LOST.format(consequence="Nothing more was begun.")
            raise StateLockError(text) from error

    def _is_connected(self) -> bool:
        try:
            return self._connection.is_same_session()
        except Exception:  # what became of the connection does not matter: it holds nothing
            return False

    @contextmanager
    def _watched(self) -> Iterator[None]:
        heartbeat = beating(
            self._check, self._silent, every=_HEARTBEAT_SECONDS, silent=_ANSWER_SECONDS
        )
        with self._cancel.guarded(self._check), heartbeat:
            yield

    def _silent(self) -> None:
        self._log(logging.WARNING, _SILENT)

    def _check_held(self, name: str) -> None:
        if not self._ask(self._sql.is_held(name)):
            raise StateLockError(_POOLED.format(place=self._connection.place))

    def _check(self) -> None:
        """Cancels the work if the lock is not held any more."""
        if self._is_lost or not self._names:
            return
        is_held = self._is_connected()
        if not is_held and self._names:
            self._is_lost = True
            text = _LOST.format(consequence="What had not begun was stopped before it wrote.")
            self._log(logging.ERROR, text)
            self._cancel.cancel(text)

    def _release(self, query: str) -> None:
        try:
            is_ours = self._connection.ask(query)
        except Exception:  # the work is done; only the lock was lost with the connection
            is_ours = False
        if not is_ours and not self._is_lost:
            self._is_lost = True
            consequence = (
                "The work had just ended. Look for duplicate rows in models that only append."
            )
            self._log(logging.ERROR, _LOST.format(consequence=consequence))


class _Connection:
    """The connection that holds locks, for any thread; drivers allow one query at a time."""

    def __init__(self, adapter: Any, sql: LockSQL, place: str) -> None:
        self._adapter = adapter
        self._sql = sql
        self.place = place
        self._lock = threading.Lock()
        autocommit(adapter.connection)  # no transaction stays open while a lock is held
        end_when_unanswered(adapter.connection, _ANSWER_SECONDS)
        self._cursor = adapter.cursor
        self._session = self.ask(sql.session)

    def ask(self, query: str) -> Any:
        """The first value of a query."""
        with self._lock:
            self._cursor.execute(query)
            row = self._cursor.fetchone()
            return row[0] if row else None

    def is_same_session(self) -> bool:
        """Whether the server answers in the session in which the connection began."""
        return bool(self.ask(self._sql.session) == self._session)

    def is_pooled(self, other: _Connection) -> bool:
        """Whether this connection and another one, opened after it, change their sessions of the server.

        A pooler in transaction mode gives a statement the session that was given back last. So the other
        one has got this one's; or else the two overlapping transactions have two, and end in the order
        in which this one's next statement gets the other's.
        """
        if other._session == self._session:
            return True
        both = (self, other)
        for connection in both:
            connection.execute("BEGIN")
        is_kept = all(connection.is_same_session() for connection in both)
        for connection in both:
            connection.execute("COMMIT")
        return not is_kept or not self.is_same_session()

    def execute(self, statement: str) -> None:
        """A statement without rows."""
        with self._lock:
            self._cursor.execute(statement)


def _engine_lock(
    context: Context,
    sql: LockSQL,
    settings: ProjectSettings,
    holder: str,
    cancel: CancelToken,
    log: Log,
    is_leading: bool,
) -> Iterator[StateLock]:
    config = state_connection(context)

    def connect() -> Any:
        return closing(config.create_engine_adapter(concurrent_tasks=1))

    place = str(getattr(config, "host", "") or config.DISPLAY_NAME)
    with connect() as adapter:
        connection = _Connection(adapter, sql, place)
        with connect() if sql.may_be_pooled else nullcontext() as other:
            if other is not None and connection.is_pooled(_Connection(other, sql, place)):
                raise StateLockError(_POOLED.format(place=place))
        for statement in sql.begin(holder):
            connection.ask(statement)
        scope = f"sqlmesh_dagster\0{context.config.get_state_schema(context.gateway) or ''}"
        yield _EngineLock(
            connection,
            sql,
            scope,
            holder,
            lambda: Patience(holder, settings.wait_timeout, lambda text: log(logging.INFO, text)),
            cancel,
            log,
            lambda: read_state_anew(context),  # others wrote to it meanwhile
            is_leading=is_leading,
        )
