"""Whether the servers of data and state answer, before anything is asked of them, within a bounded time.

Drivers retry for minutes where a host is silent, and each model would say it in its own words. Importing
this module imports SQLMesh.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import threading
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from sqlmesh import Context

from sqlmesh_dagster.errors import DatabaseUnavailableError
from sqlmesh_dagster.facts.reaching import (
    Server,
    Unreachable,
    failed,
    lacks_java,
    lacks_package,
    refused,
    silent,
    unanswered,
    unknown_host,
)
from sqlmesh_dagster.guard.packages import installation
from sqlmesh_dagster.guard.secrets import mask, masked_message
from sqlmesh_dagster.upstream.internals import BaseDuckDBConnectionConfig, ConnectionConfig
from sqlmesh_dagster.upstream.sqlmesh import engine_name, is_state_apart, state_connection
from sqlmesh_dagster.warehouses import GATEWAY, STATE, WAREHOUSES, Warehouse, value_of, variables_of

_CONNECT_SECONDS = 10.0
_ANSWER_SECONDS = 60.0
_STARTING = {"databricks": 300.0}
"""Engines whose compute starts with the first query."""
_FRESH_SECONDS = 30.0
"""How long a server that was asked by this process is not asked again, whatever came of it."""
_PLACE = {"HOST", "PORT", "ACCOUNT", "MASTER", "HTTP_SCHEME", "CONFIG_DIR"}
_NO_LOGIN = {*_PLACE, "OPTIONS", "CONCURRENT_TASKS", "SSLMODE", "SCHEMA", "LOCATION"}
_HTTPS = 443
_asked: dict[tuple[Server, str], tuple[float, Unreachable | None]] = {}


def reach(context: Context, *, is_warehouse_alone: bool = False) -> None:
    """Asks the servers of the state and the warehouse, if these are servers.

    Raises:
        DatabaseUnavailableError: One cannot be worked with.
    """
    sides = [warehouse_of(context)]
    if not is_warehouse_alone and is_state_apart(context):
        sides.insert(0, state_of(context))
    for server, connection in sides:
        found = _asked_lately(server, connection)
        if found is not None:
            raise DatabaseUnavailableError(mask(found.message))


def _asked_lately(server: Server, connection: ConnectionConfig) -> Unreachable | None:
    """As `look`, once for all the steps that a process works on at about the same time."""
    key = (server, str(getattr(connection, "user", "")))
    at, found = _asked.get(key, (float("-inf"), None))
    if time.monotonic() - at > _FRESH_SECONDS:
        found = look(server, connection)
        _asked[key] = (time.monotonic(), found)
    return found


def warehouse_of(context: Context) -> tuple[Server, ConnectionConfig]:
    """The server of the data, with its connection."""
    connection = context.connection_config
    name = os.environ.get(GATEWAY, "").strip().lower()
    warehouse = WAREHOUSES.get(name)
    is_its = warehouse is not None and warehouse.type == connection.type_
    known = warehouse if is_its and name not in {"", "duckdb"} else None
    subject = f"Warehouse `{name if known else engine_name(connection)}`"
    return _server(subject, connection, known, is_state=False), connection


def state_of(context: Context) -> tuple[Server, ConnectionConfig]:
    """The server of SQLMesh's state, with its connection."""
    if not is_state_apart(context):
        return warehouse_of(context)
    connection = state_connection(context)
    names = variables_of(STATE, state=True)
    known = STATE if any(value_of(name, os.environ) for name in names) else None
    return _server("SQLMesh's state", connection, known, is_state=True), connection


def look(server: Server, connection: ConnectionConfig) -> Unreachable | None:
    """What is wrong with a server; None if it answers, or is no server."""
    if engine_name(connection) == "spark" and not _has_java():
        return lacks_java(server)
    found = _knock(server) if server.host and server.port else None
    is_opened_by_runs = isinstance(connection, BaseDuckDBConnectionConfig)  # and shared by them
    if found is not None or is_opened_by_runs or engine_name(connection) == "spark":
        return found  # a session of Spark is not made for a look
    seconds = _STARTING.get(engine_name(connection), _ANSWER_SECONDS)
    error, has_ended = _within(seconds, lambda: _ask(connection))
    if not has_ended:
        return unanswered(server, seconds)
    first = _first(error)
    if isinstance(first, ImportError):
        return lacks_package(server, masked_message(first), installation())
    return failed(server, masked_message(first)) if first else None


def _first(error: Exception | None) -> BaseException | None:
    """What happened, where a driver says of the rollback after it that the connection is closed, as psycopg2 does."""
    is_after = type(error).__name__ == "InterfaceError"
    return (error.__context__ or error) if error is not None and is_after else error


def _server(
    subject: str, connection: ConnectionConfig, known: Warehouse | None, *, is_state: bool
) -> Server:
    host, port = _address(connection)
    if known is None:
        return Server(subject, host, port)
    prefix = "STATE_" if is_state else "WAREHOUSE_"
    names = [v.name for v in known.variables if value_of(f"{prefix}{v.name}", os.environ)]
    place = tuple(f"{prefix}{name}" for name in names if name in _PLACE)
    login = tuple(f"{prefix}{name}" for name in names if name not in _NO_LOGIN)
    return Server(subject, host, port, place, login, prefix)


def _address(connection: ConnectionConfig) -> tuple[str | None, int | None]:
    """Where a connection leads, if it is one host; options differ from engine to engine."""
    given: dict[str, Any] = connection.model_dump()
    match engine_name(connection):
        case "snowflake":
            host = given.get("host") or f"{given.get('account')}.snowflakecomputing.com"
            return _direct(host, given.get("port") or _HTTPS)
        case "bigquery":
            return _direct("bigquery.googleapis.com", _HTTPS)
        case "databricks":
            text = str(given.get("server_hostname") or "")
            parts = urlsplit(text if "//" in text else f"//{text}")
            return _direct(parts.hostname, parts.port or _HTTPS)
        case "spark":
            master = str((given.get("config") or {}).get("spark.master", ""))
            parts = urlsplit(master)
            is_one = master.startswith("spark://") and "," not in master
            return (parts.hostname, parts.port) if is_one else (None, None)
        case "ducklake":
            lake = str(given.get("catalogs"))
            host, port = re.search(r"\bhost=([\w.-]+)", lake), re.search(r"\bport=(\d+)", lake)
            return (host[1], int(port[1])) if host and port else (None, None)
        case "trino":
            return _direct(given.get("host"), given.get("port"))
        case _:
            host, port = given.get("host"), given.get("port")
            is_one = isinstance(host, str) and "/" not in host and "," not in host
            return (host, int(port)) if is_one and port else (None, None)


def _direct(host: Any, port: Any) -> tuple[str | None, int | None]:
    """The address of a server that is asked by HTTP; none where a proxy is between."""
    if not host or (getproxies() and not proxy_bypass(str(host))):
        return None, None
    return str(host), int(port)


def _knock(server: Server) -> Unreachable | None:
    """Whether its host takes a connection."""

    def knock() -> None:
        socket.create_connection((server.host, server.port or 0), _CONNECT_SECONDS).close()

    error, has_ended = _within(_CONNECT_SECONDS * 1.5, knock)
    if not has_ended or isinstance(error, TimeoutError):
        return silent(server, _CONNECT_SECONDS)
    if isinstance(error, socket.gaierror):
        return unknown_host(server)
    return refused(server, getattr(error, "strerror", None) or str(error)) if error else None


def _has_java() -> bool:
    """Whether Spark's driver, which is a Java program that PySpark starts here, can start."""
    return bool(os.environ.get("JAVA_HOME") or shutil.which("java"))


def _ask(connection: ConnectionConfig) -> None:
    with closing(connection.create_engine_adapter(concurrent_tasks=1)) as adapter:
        adapter.fetchone("SELECT 1")


def _within(seconds: float, work: Callable[[], None]) -> tuple[Exception | None, bool]:
    """The error of some work, and whether it has ended; what has not is left to a thread that keeps nobody."""
    found: list[Exception | None] = []

    def run() -> None:
        try:
            work()
        except Exception as error:
            found.append(error)
        else:
            found.append(None)

    thread = threading.Thread(target=run, name="a look at a server", daemon=True)
    thread.start()
    thread.join(seconds)
    return (found[0], True) if found else (None, False)
