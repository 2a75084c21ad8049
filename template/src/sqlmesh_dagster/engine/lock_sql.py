"""The SQL of locks that end with their connection, for the engines that a SQLMesh state may be on and that have them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Protocol

from sqlglot import exp

_NAME_LENGTH = 63
"""Bytes that Postgres keeps of an application's name."""
_LOW_HALF = 0xFFFFFFFF


class LockSQL(Protocol):
    """How an engine locks a name for a connection; each query has one value.

    Attributes:
        session: Tells one connection from another, as long as it is the same.
        has_shared: Whether several connections may share a lock.
        may_be_pooled: Whether poolers of the engine change a connection's session.
    """

    session: str
    has_shared: bool
    may_be_pooled: bool

    def begin(self, holder: str) -> Sequence[str]:
        """Statements for a new connection."""

    def take(self, name: str, holder: str, *, is_shared: bool) -> str:
        """Whether the lock was taken; returns at once."""

    def give_back(self, name: str, holder: str, *, is_shared: bool) -> str:
        """Whether it was held."""

    def is_held(self, name: str) -> str:
        """Whether this connection holds it."""

    def holder(self, name: str, holder: str) -> str:
        """Who else holds it; `holder` itself if another connection of it does."""


def lock_sql(dialect: str) -> LockSQL | None:
    """The locks of an engine; None if it has none."""
    known: dict[str, LockSQL] = {
        "postgres": PostgresLocks(),
        "mysql": MySQLLocks(),
        "tsql": MSSQLLocks(),
    }
    return known.get(dialect)


class PostgresLocks:
    """Advisory locks; the application's name says who holds them."""

    session = "SELECT pg_backend_pid()"
    has_shared = True
    may_be_pooled = True

    def begin(self, holder: str) -> Sequence[str]:
        return (
            f"SELECT set_config('application_name', {_text(_short(holder))}, false)",
            # of Postgres 14 on; a connection that holds a lock waits, and must not be ended for that
            "SELECT count(set_config(name, '0', false)) FROM pg_settings"
            " WHERE name = 'idle_session_timeout'",
            # of a host that has vanished, the server learns in 40 seconds instead of two hours
            "SELECT count(set_config(name, value, false)) FROM pg_settings JOIN (VALUES"
            " ('tcp_keepalives_idle', '20'), ('tcp_keepalives_interval', '5'), ('tcp_keepalives_count', '4'),"
            " ('tcp_user_timeout', '40000')) AS wanted (name, value) USING (name) WHERE version() ~ 'linux'",
        )

    def take(self, name: str, holder: str, *, is_shared: bool) -> str:
        return f"SELECT pg_try_advisory_lock{'_shared' if is_shared else ''}({_number(name)})"

    def give_back(self, name: str, holder: str, *, is_shared: bool) -> str:
        return f"SELECT pg_advisory_unlock{'_shared' if is_shared else ''}({_number(name)})"

    def is_held(self, name: str) -> str:
        return f"SELECT count(*) {self._locks(name)} AND locks.pid = pg_backend_pid()"

    def holder(self, name: str, holder: str) -> str:
        """The name of an application is kept short: a long one of ours is recognised by its beginning."""
        own, short = _text(holder), _text(_short(holder))
        found = f"CASE WHEN activity.application_name = {short} THEN {own} ELSE activity.application_name END"
        return f"SELECT {found} {self._locks(name)} AND locks.pid <> pg_backend_pid() LIMIT 1"

    def _locks(self, name: str) -> str:
        key = _number(name)
        return (
            "FROM pg_locks AS locks JOIN pg_stat_activity AS activity USING (pid)"
            " WHERE locks.locktype = 'advisory' AND locks.granted AND locks.objsubid = 1"
            " AND locks.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            f" AND locks.classid = {key >> 32 & _LOW_HALF} AND locks.objid = {key & _LOW_HALF}"
        )


class MySQLLocks:
    """`GET_LOCK`, of MySQL 5.7 and MariaDB 10.0 on; a second one, of the holder's name, says who holds it."""

    session = "SELECT CONNECTION_ID()"
    has_shared = False
    may_be_pooled = False

    def begin(self, holder: str) -> Sequence[str]:
        return ()

    def take(self, name: str, holder: str, *, is_shared: bool) -> str:
        lock, own = _mysql(name), _mysql(f"{name}\0{holder}")
        return f"SELECT IF(GET_LOCK({lock}, 0) = 1, IF(GET_LOCK({own}, 0) = 1, 1, 1), 0)"

    def give_back(self, name: str, holder: str, *, is_shared: bool) -> str:
        lock, own = _mysql(name), _mysql(f"{name}\0{holder}")
        return f"SELECT IF(RELEASE_LOCK({own}) = 1, RELEASE_LOCK({lock}), RELEASE_LOCK({lock}))"

    def is_held(self, name: str) -> str:
        return f"SELECT IS_USED_LOCK({_mysql(name)}) = CONNECTION_ID()"

    def holder(self, name: str, holder: str) -> str:
        lock, own = _mysql(name), _mysql(f"{name}\0{holder}")
        return (
            f"SELECT IF(IS_USED_LOCK({lock}) = IS_USED_LOCK({own}), {_text(holder, 'mysql')},"
            " (SELECT CONCAT('a connection of ', user, '@', host) FROM information_schema.processlist"
            f" WHERE id = IS_USED_LOCK({lock})))"
        )


class MSSQLLocks:
    """Application locks of a session; a second one, of the holder's name, says whether it is ours."""

    session = "SELECT @@SPID"
    has_shared = True
    may_be_pooled = False

    def begin(self, holder: str) -> Sequence[str]:
        return ()

    def take(self, name: str, holder: str, *, is_shared: bool) -> str:
        get = self._get(name, "Shared" if is_shared else "Exclusive", "@taken")
        own = self._get(f"{name}\0{holder}", "Exclusive", "@own")
        also = "" if is_shared else f" IF @taken >= 0 {own}"
        return (
            f"SET NOCOUNT ON; DECLARE @taken INT, @own INT; {get}{also}"
            " SELECT CASE WHEN @taken >= 0 THEN 1 ELSE 0 END"
        )

    def give_back(self, name: str, holder: str, *, is_shared: bool) -> str:
        ours = f"{name}\0{holder}"
        own = "" if is_shared else f" {self._release(ours, '@own')}"
        return (
            f"SET NOCOUNT ON; DECLARE @given INT, @own INT;{own} {self._release(name, '@given')}"
            " SELECT CASE WHEN @given >= 0 THEN 1 ELSE 0 END"
        )

    def is_held(self, name: str) -> str:
        return (
            f"SELECT CASE APPLOCK_MODE('public', {_mssql(name)}, 'Session')"
            " WHEN 'NoLock' THEN 0 ELSE 1 END"
        )

    def holder(self, name: str, holder: str) -> str:
        own = _mssql(f"{name}\0{holder}")
        return (
            f"SELECT CASE APPLOCK_TEST('public', {own}, 'Exclusive', 'Session')"
            f" WHEN 0 THEN {_text(holder, 'tsql')} ELSE '' END"
        )

    def _get(self, name: str, mode: str, result: str) -> str:
        return (
            f"EXEC {result} = sp_getapplock @Resource = {_mssql(name)}, @LockMode = '{mode}',"
            " @LockOwner = 'Session', @LockTimeout = 0;"
        )

    def _release(self, name: str, result: str) -> str:
        return (
            f"EXEC {result} = sp_releaseapplock @Resource = {_mssql(name)}, @LockOwner = 'Session';"
        )


def _number(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)


def _mysql(name: str) -> str:
    """Names have 64 characters at most, and are the server's, not the database's."""
    return f"'sqlmesh_dagster_{hashlib.sha256(name.encode()).hexdigest()[:40]}'"


def _mssql(name: str) -> str:
    return f"'sqlmesh_dagster_{hashlib.sha256(name.encode()).hexdigest()}'"


def _short(holder: str) -> str:
    return holder.encode()[:_NAME_LENGTH].decode(errors="ignore")


def _text(value: str, dialect: str = "postgres") -> str:
    return exp.Literal.string(value).sql(dialect=dialect)
