"""`PooledSqliteStorage`: Dagster's own SQLite storage, but its event log keeps connections open."""

from __future__ import annotations

import inspect
import logging
import os
import sqlite3
import sys
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import dagster
from dagster import AssetKey, EventLogEntry
from dagster._core.event_api import EventHandlerFn
from dagster._core.storage.event_log.base import AssetRecord
from dagster._core.storage.event_log.migration import ASSET_KEY_INDEX_COLS
from dagster._core.storage.event_log.schema import SqlEventLogStorageMetadata
from dagster._core.storage.event_log.sqlite.sqlite_event_log import (
    INDEX_SHARD_NAME,
    SqliteEventLogStorage,
    SqliteEventLogStorageWatchdog,
)
from dagster._core.storage.runs.sqlite.sqlite_run_storage import SqliteRunStorage
from dagster._core.storage.schedules.sqlite.sqlite_schedule_storage import SqliteScheduleStorage
from dagster._core.storage.sqlite import SQLITE_BUSY_TIMEOUT_SECONDS, create_db_conn_string
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage
from dagster._serdes import ConfigurableClassData
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool, QueuePool
from watchdog.events import FileSystemEvent
from watchdog.observers import Observer

from sqlmesh_dagster.upstream.alike import Alike
from sqlmesh_dagster.upstream.event_rows import (
    REPRODUCED,
    AssetReader,
    Verified,
    changed_methods,
    has_the_tables,
    is_known,
    write_alike,
    write_event,
)
from sqlmesh_dagster.upstream.storage_errors import explain_errors_of, explained

_log = logging.getLogger(__name__)
_MOST_OPEN_SHARDS = 16
"""Per process, three file handles each; a run needs two, a webserver one for each run it shows."""
_MOST_TOGETHER = 1000
"""Records of one transaction: others wait for it."""


class PooledSqliteStorage(DagsterSqliteStorage):
    """Dagster's default storage on SQLite, same files and tables, with an event log that writes faster.

    For each record, Dagster's own opens a connection, builds its statements, waits for the disk, and
    closes; for one of an asset or a check two or three times. Here connections stay open, statements
    are text (`event_rows`), a record is one transaction in each of its files, and so is a batch: all
    that a run plans, or the partitions that a step built.
    The operating system has a record when the call returns (SQLite's `synchronous=NORMAL`):
    a process that dies loses nothing; when the machine does, the log may miss its last records, and
    stays intact.

    An exception to "public APIs only", as Dagster has none for this: it depends on how
    `SqliteEventLogStorage` connects, initializes and watches its files. If that has changed, it
    says so once and works as Dagster's own; contract tests in
    `tests/sqlmesh_dagster/test_upstream_contract.py`
    fail clearly. Verified on Dagster 1.13.27. Without its block in `dagster.yaml`, Dagster goes on with
    the same files.
    """

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        explain_errors_of(Path(base_dir))
        moved = moved_names()
        if moved or changed_methods(MADE_WITH):
            super().__init__(base_dir, inst_data)
        else:
            self.base_dir = base_dir
            self._run_storage = _run_storage(base_dir)
            self._schedule_storage = _schedule_storage(base_dir)
            self._inst_data = inst_data
            super(DagsterSqliteStorage, self).__init__()  # type: ignore[no-untyped-call]
        if moved:
            _warn_that_it_is_slower(moved)
        else:
            self._event_log_storage = PooledSqliteEventLog(str(Path(base_dir) / "history" / "runs"))
            _allow_batches()

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Any
    ) -> PooledSqliteStorage:
        """Dagster's own makes a `DagsterSqliteStorage`, whatever the class."""
        return cls.from_local(inst_data=inst_data, **config_value)


MADE_WITH: Verified = {
    "DagsterSqliteStorage.__init__": (DagsterSqliteStorage.__init__, "8a7be1ac3806"),
    "SqliteRunStorage.from_local": (SqliteRunStorage.from_local, "76976fa9c8d0"),
    "SqliteScheduleStorage.from_local": (SqliteScheduleStorage.from_local, "f9e6b33bafd4"),
    "SqliteEventLogStorage._initdb": (SqliteEventLogStorage._initdb, "fcf49c18ddb0"),
}
"""How Dagster opens its files, with digests as in `event_rows`: where one differs, Dagster opens them."""


def _run_storage(base_dir: str) -> SqliteRunStorage:
    path = Path(base_dir) / "history" / "runs.db"
    _make_whole(path, partial(_made_by_dagster, SqliteRunStorage.from_local, path.name))
    if not _is_made(path, "instance_info"):
        return _Runs.from_local(str(path.parent))
    return _Runs(create_db_conn_string(str(path.parent), "runs"))


class _Runs(SqliteRunStorage):
    def has_execution_plan_snapshot(self, execution_plan_snapshot_id: str) -> bool:
        """Before each run, Dagster reads and parses all of it to see that it is there."""
        return self.has_job_snapshot(execution_plan_snapshot_id)


def _schedule_storage(base_dir: str) -> SqliteScheduleStorage:
    path = Path(base_dir) / "schedules" / "schedules.db"
    _make_whole(path, partial(_made_by_dagster, SqliteScheduleStorage.from_local, path.name))
    if not _is_made(path, "job_ticks"):
        return SqliteScheduleStorage.from_local(str(path.parent))
    return SqliteScheduleStorage(create_db_conn_string(str(path.parent), "schedules"))


def _is_made(path: str | Path, table: str) -> bool:
    """Whether a file has its tables and its version, so that Dagster would change nothing in it.

    To see that, Dagster loads all migrations that it has ever had, in each process and for each file.
    """
    if not os.path.exists(path):  # noqa: PTH110 # for each record's file
        return False
    try:
        with closing(sqlite3.connect(path, timeout=SQLITE_BUSY_TIMEOUT_SECONDS)) as connection:
            connection.execute(f"SELECT 1 FROM {table} LIMIT 1")
            return bool(connection.execute("SELECT version_num FROM alembic_version").fetchone())
    except sqlite3.Error:
        return False


_MIGRATIONS = Path(dagster.__file__).parent / "_core" / "storage" / "alembic" / "versions"
_NEWEST_MIGRATION, _NAMES_OF_MIGRATIONS = "29b539ebc72a", "5fb8e5a3e245"
"""The revision that Dagster stamps a new file with, and a digest of the names of all it has."""
_VERSION = (
    "CREATE TABLE alembic_version (\n\tversion_num VARCHAR(32) NOT NULL, \n\tCONSTRAINT"
    " alembic_version_pkc PRIMARY KEY (version_num)\n)"
)


@cache
def knows_migrations() -> bool:
    """Whether this version of Dagster has the migrations that were verified, no more."""
    names = sorted(path.name for path in _MIGRATIONS.glob("*.py"))
    return sha256(" ".join(names).encode()).hexdigest()[:12] == _NAMES_OF_MIGRATIONS


def _make_whole(path: str | Path, content: Callable[[], bytes]) -> None:
    """Makes a file that is not there, whole or not at all: it appears under its name when it is done.

    Dagster makes it step by step, so that processes which open a new instance at once, as a web
    server and a daemon do, fail at each other's tables.
    """
    new = Path(f"{path}.{os.getpid()}.{threading.get_ident()}")
    try:
        if Path(path).exists():
            return
        new.parent.mkdir(parents=True, exist_ok=True)
        new.write_bytes(content())
        os.link(new, path)  # fails if another process has made it
    except (OSError, sqlite3.Error, SQLAlchemyError):
        return  # Dagster looks next, and makes it in its own way
    finally:
        new.unlink(missing_ok=True)


@cache
def _made_by_dagster(make: Callable[[str], object], name: str) -> bytes:
    """The file that a new storage of Dagster's makes in its folder."""
    with TemporaryDirectory() as folder:
        make(folder)
        return (Path(folder) / name).read_bytes()


@cache
def _empty_log() -> bytes:
    """A file as Dagster makes it, with a write-ahead log."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "log"
        engine = create_engine(
            "sqlite://", creator=partial(sqlite3.connect, path), poolclass=NullPool
        )
        with engine.begin() as connection:
            SqlEventLogStorageMetadata.create_all(connection)
            connection.exec_driver_sql(_VERSION)
            connection.exec_driver_sql(
                "INSERT INTO alembic_version VALUES (?)", (_NEWEST_MIGRATION,)
            )
        with closing(sqlite3.connect(path)) as file:
            file.execute("PRAGMA journal_mode=WAL")
        return path.read_bytes()


_OVERRIDDEN = {
    "run_connection": ["self", "run_id"],
    "index_connection": ["self"],
    "store_event": ["self", "event"],
    "store_event_batch": ["self", "events"],
    "has_table": ["self", "table_name"],
    "has_secondary_index": ["self", "name"],
    "get_asset_records": ["self", "asset_keys"],
    "_event_to_row": ["self", "event"],
    "_tags_for_asset_event": ["self", "event"],
    "_has_asset_key_col_on_connection": ["self", "conn", "column_name"],
    "watch": ["self", "run_id", "cursor", "callback"],
    "path_for_shard": ["self", "run_id"],
    "conn_string_for_shard": ["self", "shard_name"],
}
"""The methods of Dagster's log that are overridden or called, with their parameters."""


def moved_names() -> tuple[str, ...]:
    """The methods that this version of Dagster's log lacks, or that have other parameters."""
    return tuple(
        name
        for name, parameters in _OVERRIDDEN.items()
        if not hasattr(SqliteEventLogStorage, name)
        or list(inspect.signature(getattr(SqliteEventLogStorage, name)).parameters) != parameters
    )


@cache
def _warn_that_it_is_slower(moved: tuple[str, ...]) -> None:
    _log.warning(
        "The faster event log does not fit this version of Dagster, which has changed %s. Dagster's own"
        " log is used, with the same files. Run `poe update` for one that fits.",
        ", ".join(f"`{name}`" for name in moved),
    )


def _allow_batches() -> None:
    """Off by default in Dagster: for a batch, its Postgres storage updates the last asset alone."""
    os.environ.setdefault("DAGSTER_EVENT_BATCH_SIZE", str(_MOST_TOGETHER))


class PooledSqliteEventLog(SqliteEventLogStorage):
    """Keeps one connection to each of the shards (index, or one run) that this process used last."""

    _obs: Any  # Dagster leaves it untyped

    def __init__(self, base_dir: str) -> None:
        self._shards: OrderedDict[str, _Shard] = OrderedDict()
        self._transaction: _Transaction | None = None
        self._present: set[str] = set()
        self._reader = AssetReader()
        self._is_verified = not changed_methods(REPRODUCED)
        self._opens = not changed_methods(MADE_WITH)
        _guard_forks()
        _logs.add(self)
        weakref.finalize(self, _close, self._shards)  # at exit, too: SQLite tidies up
        if self._opens:
            index = Path(base_dir) / f"{INDEX_SHARD_NAME}.db"
            _make_whole(index, partial(_made_by_dagster, SqliteEventLogStorage, index.name))
        super().__init__(base_dir)

    def run_connection(self, run_id: str | None = None) -> Any:
        return self._connection(str(run_id))

    def index_connection(self) -> AbstractContextManager[Connection]:
        return self._connection(INDEX_SHARD_NAME)

    def store_event(self, event: EventLogEntry) -> None:
        with self._written_together():
            self._store(event)

    def store_event_batch(self, events: Sequence[EventLogEntry]) -> None:
        """All of them or, if one cannot be stored, none: Dagster then stores them one by one."""
        with self._written_together():
            for event in events:
                self._store(event)

    def store_alike(self, alike: Alike) -> bool:
        """As `store_event_batch` for each thousand of them; False where Dagster has to store them."""
        row = self._event_to_row(alike.newest)
        for begin in range(0, len(alike.built), _MOST_TOGETHER):
            with self._written_together():
                if not (is_known(alike.newest) and self._has_the_tables()):
                    return False
                texts = list(alike.texts(begin, begin + _MOST_TOGETHER))
                write_alike(texts, row, alike.newest, self._began, self._tags_for_asset_event)
        return True

    def _store(self, event: EventLogEntry) -> None:
        """In the transaction that goes on."""
        if is_known(event) and self._has_the_tables():
            row = self._event_to_row(event)
            write_event(row, event, self._began, self._tags_for_asset_event)
        else:
            super().store_event(event)

    def get_asset_records(
        self, asset_keys: Sequence[AssetKey] | None = None
    ) -> Sequence[AssetRecord]:
        """Before each step, Dagster asks for the assets that the step's own reads."""
        if asset_keys is not None and self.has_secondary_index(ASSET_KEY_INDEX_COLS):
            with self._written_together():
                is_readable = self._has_the_tables()
                found = (
                    self._reader.read(self._began(INDEX_SHARD_NAME), asset_keys)
                    if is_readable
                    else None
                )
            if found is not None:
                return found
        return super().get_asset_records(asset_keys)

    def has_table(self, table_name: str) -> bool:
        """Asks until it is there: Dagster does for each record of a check."""
        return self._is_present(f"table {table_name}", partial(super().has_table, table_name))

    def has_secondary_index(self, name: str) -> bool:
        """As above; Dagster asks for each asset that it looks up."""
        return self._is_present(f"index {name}", partial(super().has_secondary_index, name))

    def _has_asset_key_col_on_connection(self, conn: Connection, column_name: str) -> bool:
        """As above; Dagster asks for each record of an asset."""
        look = partial(super()._has_asset_key_col_on_connection, conn, column_name)
        return self._is_present(f"column {column_name}", look)

    def watch(self, run_id: str, cursor: str | None, callback: EventHandlerFn) -> None:
        """Watches the write-ahead log, where records stay for long while connections are open."""
        if not self._obs:
            self._obs = Observer()
            self._obs.start()
        watchdog = _Watchdog(self, run_id, callback, cursor)
        watch = self._obs.schedule(watchdog, self._base_dir, recursive=True)
        self._watchers[run_id][callback] = (watchdog, watch)

    def wipe(self) -> None:
        self.close()
        super().wipe()

    def dispose(self) -> None:
        self.close()
        super().dispose()

    def close(self) -> None:
        """Closes every connection that is not in use; the next use opens another one."""
        with _lock:
            _close(self._shards)

    def _is_present(self, what: str, look: Callable[[], bool]) -> bool:
        if what not in self._present and look():
            self._present.add(what)
        return what in self._present

    def _has_the_tables(self) -> bool:
        """Whether files and methods are those that `event_rows` knows."""
        return self._is_verified and self._is_present(
            "all tables", lambda: has_the_tables(self._began(INDEX_SHARD_NAME))
        )

    @contextmanager
    def _connection(self, shard: str) -> Iterator[Connection]:
        with _lock:
            if self._transaction is not None:
                yield self._transaction.connection(shard)
            else:
                with self._open(shard).begin() as connection:
                    yield connection

    @contextmanager
    def _written_together(self) -> Iterator[None]:
        """One transaction in each shard for all that is written meanwhile; nothing of it after an error."""
        with _lock:
            if self._transaction is not None:
                yield
                return
            self._transaction = transaction = _Transaction(self._open)
            try:
                yield
                transaction.commit()
            except sqlite3.DatabaseError as error:  # of the driver: no engine has seen it
                told = explained(Path(self._base_dir), error)
                if told is None:
                    raise
                raise told from error
            finally:
                self._transaction = None
                transaction.roll_back()

    def _began(self, shard: str) -> sqlite3.Connection:
        """The driver's connection in the transaction that goes on."""
        assert self._transaction is not None
        connection = self._transaction.connection(shard).connection.dbapi_connection
        assert isinstance(connection, sqlite3.Connection)
        return connection

    def _open(self, name: str) -> _Shard:
        path = self.path_for_shard(name)
        file = _identity(path)
        shard = self._shards.get(name)
        if shard is not None and shard.file == file:
            self._shards.move_to_end(name)
            return shard
        if shard is not None:  # another process has deleted the file
            self._shards.pop(name).close()
        if file is None:
            self._initialized_dbs.discard(name)
        if name not in self._initialized_dbs and self._opens:
            if file is None and name != INDEX_SHARD_NAME and knows_migrations():
                _make_whole(path, _empty_log)
                file = _identity(path)
            if _is_made(path, "event_logs"):
                self._initialized_dbs.add(name)
        if name not in self._initialized_dbs:
            with super().run_connection(name):  # creates what is missing
                file = _identity(path)
        in_use = self._transaction.begun if self._transaction else {}
        for other in [each for each in self._shards if each not in in_use]:
            if len(self._shards) >= _MOST_OPEN_SHARDS:
                self._shards.pop(other).close()
        engine = _engine(self.conn_string_for_shard(name))
        self._shards[name] = shard = _Shard(engine, engine.connect(), file)
        return shard


class _Watchdog(SqliteEventLogStorageWatchdog):
    def __init__(
        self, log: PooledSqliteEventLog, run_id: str, callback: EventHandlerFn, cursor: str | None
    ) -> None:
        super().__init__(log, run_id, callback, cursor)
        self._patterns = [f"{log.path_for_shard(run_id)}{suffix}" for suffix in ("", "-wal")]

    def on_modified(self, event: FileSystemEvent) -> None:
        self._process_log()


@dataclass(frozen=True)
class _Transaction:
    """The connections that one thread writes to, with `_lock`."""

    open: Callable[[str], _Shard]
    begun: dict[str, Connection] = field(default_factory=dict)

    def connection(self, shard: str) -> Connection:
        if shard not in self.begun:
            connection = self.open(shard).connection
            connection.begin()
            self.begun[shard] = connection
        return self.begun[shard]

    def commit(self) -> None:
        """In the order in which they were begun: what is in the index, is in the log of its run."""
        for connection in self.begun.values():
            connection.commit()

    def roll_back(self) -> None:
        """What is not committed."""
        for connection in self.begun.values():
            connection.rollback()


@dataclass(frozen=True)
class _Shard:
    """The connection to a file of the log, and the identity of that file."""

    engine: Engine
    connection: Connection
    file: tuple[int, int] | None

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        with self.connection.begin():
            yield self.connection

    def close(self) -> None:
        self.connection.close()
        self.engine.dispose()


def _engine(url: str) -> Engine:
    engine = create_engine(
        url,
        poolclass=QueuePool,
        pool_size=1,
        max_overflow=0,
        connect_args={"timeout": SQLITE_BUSY_TIMEOUT_SECONDS, "check_same_thread": False},
    )
    event.listen(engine, "connect", _wait_less)
    return engine


def _wait_less(connection: sqlite3.Connection, record: object) -> None:
    """Only for a file with a write-ahead log: any other could be corrupt after a power cut."""
    if connection.execute("PRAGMA journal_mode").fetchone() == ("wal",):
        connection.execute("PRAGMA synchronous=NORMAL")


def _identity(path: str) -> tuple[int, int] | None:
    """Which file this is, None if there is none; a number is not given again while the file is open."""
    try:
        status = os.stat(path)  # noqa: PTH116 # for each record: a `Path` costs more than the look
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _close(shards: OrderedDict[str, _Shard]) -> None:
    while shards:
        shards.popitem()[1].close()


_lock = threading.RLock()
"""Held while any connection of this process is in use."""
_logs: weakref.WeakSet[PooledSqliteEventLog] = weakref.WeakSet()


@cache
def _guard_forks() -> None:
    """A forked child must inherit no connection, and no lock of another thread."""
    if sys.platform != "win32":
        os.register_at_fork(
            before=_before_fork, after_in_parent=_lock.release, after_in_child=_lock.release
        )


def _before_fork() -> None:
    _lock.acquire()
    for log in list(_logs):
        log.close()
