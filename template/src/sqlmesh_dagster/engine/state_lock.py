"""Who may work on a project's state: on Postgres a lock that every host sees, elsewhere this host's own.

SQLMesh has no run lock. Environments share the tables of unchanged models, so that the lock is the
state's and not an environment's.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, Protocol

from sqlglot import exp
from sqlmesh import Context

from sqlmesh_dagster.guard.cancel import CancelToken
from sqlmesh_dagster.guard.locks import Patience, ProjectLock, wait_for
from sqlmesh_dagster.settings import ProjectSettings
from sqlmesh_dagster.upstream.sqlmesh import state_connection

_NAME_LENGTH = 63
"""Bytes that Postgres keeps of an application's name."""
_LOW_HALF = 0xFFFFFFFF
_HOLDER = """
SELECT activity.application_name
FROM pg_locks AS locks JOIN pg_stat_activity AS activity USING (pid)
WHERE locks.locktype = 'advisory' AND locks.granted AND locks.objsubid = 1
  AND locks.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND locks.classid = {high} AND locks.objid = {low} AND locks.pid <> pg_backend_pid()
LIMIT 1
"""


class StateLock(Protocol):
    """Keeps others from changing the same data at the same time."""

    def comparing(self) -> AbstractContextManager[None]:
        """Nobody else deploys local changes meanwhile; runs and audits may."""

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
    log: Callable[[int, str], None],
) -> Iterator[StateLock]:
    """The lock that fits the project's state; open it before the state itself.

    Under `shared` execution the step that leads holds this host's lock already.

    Args:
        holder: The name of this work for those who wait for it.
    """

    def say(message: str) -> None:
        log(logging.INFO, message)

    if _is_postgres(context):
        yield from _postgres_lock(context, settings, holder, cancel, log)
    elif settings.execution == "per_step":
        lock = ProjectLock(settings.lock_name, settings.project_path)
        with lock.held(holder, settings.wait_timeout, cancel, say):
            yield _Held()
    else:
        yield _Held()


class _Held:
    """This host's lock on the project is held already."""

    def comparing(self) -> AbstractContextManager[None]:
        return nullcontext()

    def alone(self) -> AbstractContextManager[None]:
        return nullcontext()

    def on_models(self, fqns: Collection[str]) -> AbstractContextManager[None]:
        return nullcontext()


class _PostgresLock:
    """Session-level advisory locks on a connection of their own; they end with it.

    A pooler in transaction mode gives each statement another session, and so cannot hold them.
    """

    def __init__(
        self,
        cursor: Any,
        scope: str,
        patience: Callable[[], Patience],
        cancel: CancelToken,
        log: Callable[[int, str], None],
    ) -> None:
        self._cursor = cursor
        self._scope = scope
        self._patience = patience
        self._cancel = cancel
        self._log = log

    def comparing(self) -> AbstractContextManager[None]:
        return self._held(f"{self._scope}\0\0deployment")

    def alone(self) -> AbstractContextManager[None]:
        return self._held(self._scope)

    @contextmanager
    def on_models(self, fqns: Collection[str]) -> Iterator[None]:
        with ExitStack() as locks:
            locks.enter_context(self._held(self._scope, "_shared"))
            for fqn in sorted(fqns):
                locks.enter_context(self._held(f"{self._scope}\0{fqn}"))
            yield

    @contextmanager
    def _held(self, name: str, mode: str = "") -> Iterator[None]:
        key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
        holder = _HOLDER.format(high=key >> 32 & _LOW_HALF, low=key & _LOW_HALF)
        wait_for(
            lambda: self._ask(f"SELECT pg_try_advisory_lock{mode}({key})") or None,
            self._patience(),
            lambda: str(self._ask(holder) or ""),
            self._cancel,
        )
        try:
            yield
        finally:
            self._release(f"SELECT pg_advisory_unlock{mode}({key})")

    def _release(self, query: str) -> None:
        try:
            is_ours = self._ask(query)
        except Exception:  # the work is done; only the lock was lost with the connection
            is_ours = False
        if not is_ours:
            self._log(
                logging.WARNING,
                "The connection that held the lock on SQLMesh's state was lost meanwhile; another"
                " run may have worked at the same time. Check the models for duplicate rows.",
            )

    def _ask(self, query: str) -> Any:
        self._cursor.execute(query)
        row = self._cursor.fetchone()
        return row[0] if row else None


def _postgres_lock(
    context: Context,
    settings: ProjectSettings,
    holder: str,
    cancel: CancelToken,
    log: Callable[[int, str], None],
) -> Iterator[StateLock]:
    adapter = state_connection(context).create_engine_adapter(concurrent_tasks=1)
    try:
        adapter.connection.autocommit = True  # no transaction stays open while the lock is held
        cursor = adapter.cursor
        name = holder.encode()[:_NAME_LENGTH].decode(errors="ignore")
        literal = exp.Literal.string(name).sql(dialect="postgres")
        cursor.execute(f"SELECT set_config('application_name', {literal}, false)")
        scope = f"sqlmesh_dagster\0{context.config.get_state_schema(context.gateway) or ''}"
        yield _PostgresLock(
            cursor,
            scope,
            lambda: Patience(name, settings.wait_timeout, lambda text: log(logging.INFO, text)),
            cancel,
            log,
        )
    finally:
        adapter.close()


def _is_postgres(context: Context) -> bool:
    return state_connection(context).DIALECT == "postgres"
