"""What Postgres has refused, as one message: the role, the place, and the statement that grants the right.

SQLMesh goes on after a schema that it could not make, and only logs it; what fails then is the statement after it.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlmesh import Context

from sqlmesh_dagster.errors import DatabaseUnavailableError
from sqlmesh_dagster.facts.reaching import Server, failed
from sqlmesh_dagster.facts.rights import Missing, Refusal, granted_schema, missing
from sqlmesh_dagster.guard.secrets import mask
from sqlmesh_dagster.upstream.internals import ConnectionConfig
from sqlmesh_dagster.upstream.reading import causes
from sqlmesh_dagster.upstream.sqlmesh import ADAPTER_LOGGER, state_connection
from sqlmesh_dagster.warehouses import value_of

_DENIED = "InsufficientPrivilege"
_READ_ONLY = "ReadOnlySqlTransaction"
_AFTER_ANOTHER = {"InFailedSqlTransaction", "InvalidSchemaName"}
"""What Postgres says of a statement because of one before it that it had refused."""
_NEXT = "Then run again: what was not finished is not recorded as done."


@dataclass(frozen=True)
class _Login:
    """Who works on what, by SQLMesh's config: a connection that is closed says nothing of itself.

    Attributes:
        role: As whom the user works, who may have taken another role.
    """

    user: str
    role: str
    database: str


class _Unmade(logging.Filter):
    """Remembers why the last schema could not be made; lets each record pass that would be logged without it."""

    def __init__(self) -> None:
        super().__init__()
        self.last: str | None = None
        self.logins: list[_Login] = []
        self._passes = logging.NOTSET

    def hear(self, logger: logging.Logger) -> None:
        """From now on also where whoever set up logging wants no warnings."""
        logger.addFilter(self)  # once, however often it is added
        if self._passes:
            logger.setLevel(logging.NOTSET)
        level = logger.getEffectiveLevel()
        self._passes = level if level > logging.WARNING else logging.NOTSET
        if self._passes:
            logger.setLevel(logging.WARNING)

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if text.startswith("Failed to create schema"):
            self.last = text.partition("': ")[2]
        return record.levelno >= self._passes


_unmade = _Unmade()


def listen(context: Context) -> None:
    """From now on it is known what SQLMesh only logs, and as which role each user works."""
    _unmade.hear(logging.getLogger(ADAPTER_LOGGER))
    _unmade.last = None
    sides = (context.connection_config, state_connection(context))
    _unmade.logins = [_login(each) for each in sides]


def refusal_of(error: BaseException) -> DatabaseUnavailableError | None:
    """The message for an error whose cause is a right that is missing; None for any other."""
    found = found_missing(error)
    if found is None:
        return None
    return DatabaseUnavailableError(f"Postgres refuses: {found.said}. → {found.remedy} {_NEXT}")


def found_missing(error: BaseException) -> Missing | None:
    """The right that is missing, where that is the cause of an error."""
    return next((found for cause in _all_causes(error) if (found := _found(cause))), None)


def _found(cause: BaseException) -> Missing | None:
    kind = type(cause).__name__
    if kind not in {_DENIED, _READ_ONLY, *_AFTER_ANOTHER}:
        return None
    text = (_unmade.last or "") if kind in _AFTER_ANOTHER else str(cause)
    if "read-only transaction" in text:
        found = failed(_server(cause), mask(text).partition("\n")[0])
        return Missing(found.said, found.remedy)
    return missing(_refusal(cause, text, kind))


def granted_schemas(schemas: list[str], connection: ConnectionConfig) -> str:
    """The statements that open schemas for who logs in by a connection."""
    return " ".join(granted_schema(schema, _login(connection).role) for schema in schemas)


def _refusal(cause: BaseException, text: str, kind: str) -> Refusal:
    cursor = getattr(cause, "cursor", None)
    of_database = re.search(r"permission denied for database \"?([^\"\n]+)", text)
    database = of_database[1] if of_database else _said(cursor, "dbname")
    login = _of(_said(cursor, "user"), database)
    sent = getattr(cursor, "query", None) if kind == _DENIED else None
    statement = sent.decode(errors="replace") if isinstance(sent, bytes) else ""
    return Refusal(login.role, database or login.database, text, statement)


def _of(user: str, database: str) -> _Login:
    """The login that a connection is of: by what it says itself, else by its database, else the data's."""
    logins = _unmade.logins
    fits = [each for each in logins if each.user == user and each.database == database]
    fits += [each for each in logins if each.database == database] if not user else []
    return next(iter(fits or ([] if user else logins)), _Login(user, user, database))


def _server(cause: BaseException) -> Server:
    """Which of the servers that variables lead to it is."""
    cursor = getattr(cause, "cursor", None)
    place = (_said(cursor, "host"), _said(cursor, "port"), _said(cursor, "dbname"))
    for prefix in ("STATE_", "WAREHOUSE_"):
        names = (f"{prefix}HOST", f"{prefix}PORT", f"{prefix}DATABASE")
        host, port, database = (value_of(name, os.environ) for name in names)
        if place == (host, port or "5432", database):
            return Server("", None, None, (f"{prefix}HOST", f"{prefix}PORT"), (), prefix)
    given = [p for p in ("STATE_", "WAREHOUSE_") if value_of(f"{p}HOST", os.environ)]
    if not any(place) and len(given) == 1:  # a connection that is closed says nothing
        return Server("", None, None, (f"{given[0]}HOST", f"{given[0]}PORT"), (), given[0])
    return Server("", None, None)


def _said(cursor: Any, name: str) -> str:
    """What psycopg2 knows of the connection of a cursor."""
    info = getattr(getattr(cursor, "connection", None), "info", None)
    return str(getattr(info, name, None) or "")


def _login(connection: ConnectionConfig) -> _Login:
    given = connection.model_dump()
    user, role, database = (str(given.get(name) or "") for name in ("user", "role", "database"))
    return _Login(user, role or user, database)


def _all_causes(error: BaseException) -> Iterator[BaseException]:
    """The same, and those of several tables, which SQLMesh keeps in a list."""
    for cause in causes(error):
        yield cause
        several = getattr(cause, "errors", None)
        for each in several if isinstance(several, list) else ():
            if isinstance(each, BaseException):
                yield from _all_causes(each)
