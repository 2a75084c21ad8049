"""How each driver ends a query that another thread waits for: by its public API, where it has one.

Read in psycopg2 2.9, duckdb 1.5, PyMySQL 1.1, mysqlclient 2.2, snowflake-connector-python 4.8,
databricks-sql-connector 4.9, trino 0.340, google-cloud-bigquery 3.47, pyodbc 5.2 and pyspark 3.5.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

_log = logging.getLogger(__name__)
_PAUSE_SECONDS = 1.0
"""Between two attempts that ask a server: a query that begins after one is ended by the next."""
_CANCELLED_BY_CURSOR = {"databricks", "trino", "pyodbc"}
_KILLED_BY_ID = {"pymysql", "MySQLdb"}


class Interrupter:
    """Ends what a DB-API cursor executes, from another thread; call it again and again.

    What needs the network is done in a thread of its own, so that who stops a run waits for no server.

    Args:
        adapter: SQLMesh's, of an engine whose queries are not the cursor's.
        elsewhere: Executes a statement on a second connection to the same server.
    """

    def __init__(
        self, cursor: Any, adapter: Any = None, elsewhere: Callable[[str], None] | None = None
    ) -> None:
        self._now = _at_once(cursor)
        self._soon = None if self._now else _by_the_server(cursor, adapter, elsewhere)
        self._thread: threading.Thread | None = None

    @property
    def is_able(self) -> bool:
        """Whether the driver has a way; else the query ends by itself."""
        return bool(self._now or self._soon)

    def __call__(self) -> None:
        """Returns at once."""
        if self._now is not None:
            self._now()
        elif self._soon is not None and (self._thread is None or not self._thread.is_alive()):
            self._thread = threading.Thread(target=self._try, args=(self._soon,), daemon=True)
            self._thread.start()

    def _try(self, end_query: Callable[[], object]) -> None:
        try:
            end_query()
        except Exception:  # such as a query that has just ended
            _log.debug("A query could not be interrupted.", exc_info=True)
        time.sleep(_PAUSE_SECONDS)


def _at_once(cursor: Any) -> Callable[[], None] | None:
    """DuckDB's cursor is a connection of its own and has `interrupt`; psycopg2's connection has `cancel`."""
    if hasattr(cursor, "interrupt"):
        return cursor.interrupt  # type: ignore[no-any-return]
    if hasattr(getattr(cursor, "connection", None), "cancel"):
        return cursor.connection.cancel  # type: ignore[no-any-return]
    return None


def _by_the_server(
    cursor: Any, adapter: Any, elsewhere: Callable[[str], None] | None
) -> Callable[[], object] | None:
    driver = type(cursor).__module__.partition(".")[0]
    if driver in _CANCELLED_BY_CURSOR:
        return cursor.cancel  # type: ignore[no-any-return]
    if driver in _KILLED_BY_ID and elsewhere is not None:
        number = int(cursor.connection.thread_id())
        return lambda: elsewhere(f"KILL QUERY {number}")
    if driver == "snowflake":  # a query has no id before its answer
        connection = cursor.connection
        kill = f"SELECT SYSTEM$CANCEL_ALL_QUERIES({int(connection.session_id)})"
        return lambda: connection.cursor().execute(kill)
    if driver == "google" and adapter is not None:
        return lambda: _cancel_jobs(adapter)
    if type(cursor).__module__.startswith("sqlmesh.engines.spark"):
        return _cancel_spark_jobs
    return None


def _cancel_jobs(adapter: Any) -> None:
    """Those of all its threads: SQLMesh keeps the last job of each, and cancels them so when it closes."""
    for job in adapter._connection_pool.get_all_attributes("query_job"):
        if job is not None and not job.done():
            job.cancel()


def _cancel_spark_jobs() -> None:
    """Of this process: a run is an application of its own."""
    from pyspark import SparkContext  # type: ignore[import-not-found,unused-ignore]

    SparkContext.getOrCreate().cancelAllJobs()
