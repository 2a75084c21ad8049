"""What Dagster's SQLite event log writes for an event, and reads of an asset, as plain SQL.

Dagster builds and compiles each statement from its tables, and serializes an event up to three times:
that is most of what a record costs. `REPRODUCED` names what is written here once more; where Dagster's
own has changed, or a file has other columns, `event_log.py` uses Dagster's. Verified on Dagster 1.13.27.
"""

from __future__ import annotations

import sqlite3
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from hashlib import sha256
from types import CodeType
from typing import Any

from dagster import AssetKey, DagsterEventType, EventLogEntry
from dagster._core.event_api import EventLogRecord
from dagster._core.events import EVENT_TYPE_TO_PIPELINE_RUN_STATUS
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus
from dagster._core.storage.event_log.base import AssetEntry, AssetRecord
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage
from dagster._core.storage.event_log.sqlite.sqlite_event_log import (
    INDEX_SHARD_NAME,
    SqliteEventLogStorage,
)
from dagster._core.storage.partition_status_cache import AssetStatusCacheValue
from dagster._serdes import deserialize_value

Open = Callable[[str], sqlite3.Connection]
"""Gives the connection to a shard (the index, or a run), on which a transaction goes on."""
Tags = Callable[[EventLogEntry], Mapping[str, str]]
"""Gives the tags of an event that are indexed."""
_MOST_KEYS = 900
"""In one statement: SQLite before 3.32 takes 999 parameters."""
_MOST_PARSED = 1000
_STATUS = AssetCheckExecutionRecordStatus

Verified = Mapping[str, tuple[Callable[..., Any], str]]
"""Dagster's methods, with a digest of the names that each used when it was verified."""
REPRODUCED: Verified = {
    "store_event": (SqliteEventLogStorage.store_event, "038f4630bd67"),
    "_event_to_row": (SqlEventLogStorage._event_to_row, "23bba76da132"),
    "_event_insert_timestamp": (SqlEventLogStorage._event_insert_timestamp, "2f67021a069e"),
    "_store_asset_event_tags": (SqlEventLogStorage._store_asset_event_tags, "bbc047609835"),
    "_store_asset_event": (SqlEventLogStorage._store_asset_event, "586ab52d6d8c"),
    "_get_asset_entry_values": (SqlEventLogStorage._get_asset_entry_values, "276e2abd4ff6"),
    "store_asset_check_event": (SqlEventLogStorage.store_asset_check_event, "53326cf4083b"),
    "_store_asset_check_evaluation_planned": (
        SqlEventLogStorage._store_asset_check_evaluation_planned,
        "411f7fdfa86d",
    ),
    "_store_runless_asset_check_evaluation": (
        SqlEventLogStorage._store_runless_asset_check_evaluation,
        "c1be0a25d634",
    ),
    "_update_asset_check_evaluation": (
        SqlEventLogStorage._update_asset_check_evaluation,
        "abc7bb589c1f",
    ),
    "get_asset_records": (SqlEventLogStorage.get_asset_records, "74882687b838"),
    "_fetch_raw_asset_rows": (SqlEventLogStorage._fetch_raw_asset_rows, "6c676107c8eb"),
    "_get_latest_materialization_records": (
        SqlEventLogStorage._get_latest_materialization_records,
        "91f12f3b1328",
    ),
    "_construct_asset_record_from_row": (
        SqlEventLogStorage._construct_asset_record_from_row,
        "17393d39c494",
    ),
}

_COLUMNS = {
    "event_logs": "id run_id event dagster_event_type timestamp step_key asset_key partition",
    "asset_keys": "id asset_key last_materialization last_run_id asset_details wipe_timestamp"
    " last_materialization_timestamp tags create_timestamp cached_status_data",
    "asset_event_tags": "id event_id asset_key key value event_timestamp",
    "asset_check_executions": "id asset_key check_name partition run_id execution_status"
    " evaluation_event evaluation_event_timestamp evaluation_event_storage_id"
    " materialization_event_storage_id create_timestamp",
}
_EVENT = (
    "INSERT INTO event_logs (run_id, event, dagster_event_type, timestamp, step_key, asset_key,"
    " partition) VALUES (?, ?, ?, ?, ?, ?, ?)"
)
_TAG = (
    "INSERT INTO asset_event_tags (event_id, asset_key, key, value, event_timestamp)"
    " VALUES (?, ?, ?, ?, ?)"
)
_CHECK = (
    "INSERT INTO asset_check_executions (execution_status, evaluation_event,"
    " evaluation_event_timestamp, evaluation_event_storage_id, materialization_event_storage_id,"
    " asset_key, check_name, run_id, partition) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_PLANNED_CHECK = (
    "UPDATE asset_check_executions SET execution_status = ?, evaluation_event = ?,"
    " evaluation_event_timestamp = ?, evaluation_event_storage_id = ?,"
    " materialization_event_storage_id = ?"
    " WHERE asset_key = ? AND check_name = ? AND run_id = ? AND partition IS ?"
)
_ASSETS = (
    "SELECT id, asset_key, last_materialization, last_run_id, asset_details, cached_status_data"
    " FROM asset_keys WHERE asset_key IN ({})"
    " AND (wipe_timestamp IS NULL OR last_materialization_timestamp > wipe_timestamp)"
)


def changed_methods(verified: Verified) -> tuple[str, ...]:
    """Those that this version of Dagster does in another way."""
    return tuple(
        name for name, (method, digest) in verified.items() if digest_of_names(method) != digest
    )


def digest_of_names(function: Callable[..., Any]) -> str:
    """Of the names that a function's code uses: the same for each version of Python."""
    code = getattr(function, "__code__", None)
    names = sorted(set(_names(code))) if code else []
    return sha256(" ".join(names).encode()).hexdigest()[:12]


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        for each in constant if isinstance(constant, tuple) else (constant,):
            if isinstance(each, CodeType):
                yield from _names(each)
            elif isinstance(each, str) and each.isidentifier():
                yield each


def has_the_tables(index: sqlite3.Connection) -> bool:
    """Whether the index has the tables of the verified version, neither older nor newer ones."""
    return all(
        {row[1] for row in index.execute(f"PRAGMA table_info({table})")} == set(columns.split())
        for table, columns in _COLUMNS.items()
    )


def is_known(event: object) -> bool:
    """Whether `write_event` knows what is written for an event."""
    if not isinstance(event, EventLogEntry) or not isinstance(event.run_id, str):
        return False
    return event.dagster_event_type not in _LEFT_TO_DAGSTER


def write_event(row: Mapping[str, Any], event: EventLogEntry, open_shard: Open, tags: Tags) -> None:
    """Writes what `SqliteEventLogStorage.store_event` writes, for an event that `is_known`.

    Args:
        row: What `_event_to_row` makes of the event.
    """
    kind = event.dagster_event_type
    values = (
        row["run_id"],
        row["event"],
        row["dagster_event_type"],
        _moment(event.timestamp),
        row["step_key"],
        row["asset_key"],
        row["partition"],
    )
    open_shard(event.run_id).execute(_EVENT, values)
    follow = _FOLLOWING.get(kind) if kind else None
    if follow is not None or kind in EVENT_TYPE_TO_PIPELINE_RUN_STATUS:
        index = open_shard(INDEX_SHARD_NAME)
        number = index.execute(_EVENT, values).lastrowid
        if follow is not None and number is not None:
            follow(index, event, number, row["event"], tags)


def write_alike(
    texts: Sequence[tuple[str, str]],
    row: Mapping[str, Any],
    newest: EventLogEntry,
    open_shard: Open,
    tags: Tags,
) -> None:
    """Writes what `write_event` writes for each of many materializations of one asset.

    Args:
        texts: The partition of each, and the event itself.
        row: What `_event_to_row` makes of the newest, the last of them in the end.
    """
    at, key = _moment(newest.timestamp), row["asset_key"]
    before = (row["dagster_event_type"], at, row["step_key"], key)
    values = [(row["run_id"], text, *before, partition) for partition, text in texts]
    open_shard(newest.run_id).executemany(_EVENT, values)
    index = open_shard(INDEX_SHARD_NAME)
    index.executemany(_EVENT, values)
    ((last,),) = index.execute("SELECT last_insert_rowid()")
    numbers = range(last - len(values) + 1, last + 1)  # in a row: nobody else writes meanwhile
    for name, value in tags(newest).items():
        index.executemany(_TAG, [(number, key, name, value, at) for number in numbers])
    _put_last(index, newest, last, texts[-1][1])


def _materialized(
    index: sqlite3.Connection, event: EventLogEntry, number: int, text: str, tags: Tags
) -> None:
    _tagged(index, event, number, tags)
    _put_last(index, event, number, text)


def _put_last(index: sqlite3.Connection, event: EventLogEntry, number: int, text: str) -> None:
    last = f'{{"__class__": "EventLogRecord", "event_log_entry": {text}, "storage_id": {number}}}'
    _put_asset(
        index,
        event,
        last_materialization=last,
        last_run_id=event.run_id,
        last_materialization_timestamp=_moment(event.timestamp),
    )


def _planned(
    index: sqlite3.Connection, event: EventLogEntry, number: int, text: str, tags: Tags
) -> None:
    _put_asset(
        index,
        event,
        last_run_id=event.run_id,
        last_materialization_timestamp=_moment(event.timestamp),
    )


def _observed(
    index: sqlite3.Connection, event: EventLogEntry, number: int, text: str, tags: Tags
) -> None:
    _tagged(index, event, number, tags)
    _put_asset(index, event, last_materialization_timestamp=_moment(event.timestamp))


def _tagged(index: sqlite3.Connection, event: EventLogEntry, number: int, tags: Tags) -> None:
    key, at = _asset_key(event), _moment(event.timestamp)
    for name, value in tags(event).items():
        index.execute(_TAG, (number, key, name, value, at))


def _put_asset(index: sqlite3.Connection, event: EventLogEntry, **values: str) -> None:
    names, key = list(values), _asset_key(event)
    sets = ", ".join(f"{name} = ?" for name in names)
    changed = index.execute(
        f"UPDATE asset_keys SET {sets} WHERE asset_key = ?", (*values.values(), key)
    )
    if not changed.rowcount:
        places = ", ".join("?" for _ in names)
        index.execute(
            f"INSERT INTO asset_keys ({', '.join(names)}, asset_key) VALUES ({places}, ?)",
            (*values.values(), key),
        )


def _check_planned(
    index: sqlite3.Connection, event: EventLogEntry, number: int, text: str, tags: Tags
) -> None:
    planned: Any = event.get_dagster_event().event_specific_data
    subset = planned.partitions_subset
    for partition in subset.get_partition_keys() if subset else [None]:
        found = (_STATUS.PLANNED.value, text, _moment(event.timestamp), number, None)
        which = (planned.asset_key.to_string(), planned.check_name, event.run_id, partition)
        index.execute(_CHECK, (*found, *which))


def _checked(
    index: sqlite3.Connection, event: EventLogEntry, number: int, text: str, tags: Tags
) -> None:
    evaluation: Any = event.get_dagster_event().event_specific_data
    status = _STATUS.SUCCEEDED if evaluation.passed else _STATUS.FAILED
    target = evaluation.target_materialization_data
    of = target.storage_id if target else None
    found = (status.value, text, _moment(event.timestamp), number, of)
    key, name = evaluation.asset_key.to_string(), evaluation.check_name
    which = (key, name, event.run_id, evaluation.partition)
    values = (*found, *which)
    if not event.run_id or not index.execute(_PLANNED_CHECK, values).rowcount:
        index.execute(_CHECK, values)


_FOLLOWING: Mapping[
    DagsterEventType | None, Callable[[sqlite3.Connection, EventLogEntry, int, str, Tags], None]
] = {
    DagsterEventType.ASSET_MATERIALIZATION: _materialized,
    DagsterEventType.ASSET_MATERIALIZATION_PLANNED: _planned,
    DagsterEventType.ASSET_OBSERVATION: _observed,
    DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED: _check_planned,
    DagsterEventType.ASSET_CHECK_EVALUATION: _checked,
}
"""What is written to the index after the event itself."""
_LEFT_TO_DAGSTER = {
    DagsterEventType.ASSET_FAILED_TO_MATERIALIZE,
    DagsterEventType.FRESHNESS_STATE_CHANGE,
}
"""Rare, and of assets, too. A contract test holds that there are no others."""


class AssetReader:
    """Reads assets' last materializations, and parses each text once.

    What is in the file decides, whoever has written it: a parsed record is used for the same text alone.
    """

    def __init__(self) -> None:
        self._parsed: OrderedDict[str, tuple[str, EventLogRecord]] = OrderedDict()

    def read(self, index: sqlite3.Connection, keys: Sequence[AssetKey]) -> list[AssetRecord] | None:
        """As `get_asset_records`; None where a row needs more than is known here."""
        names = sorted({key.to_string() for key in keys})
        rows = [row for part in _parts(names) for row in _rows(index, part)]
        records = [self._record(row) for row in sorted(rows, key=lambda row: str(row[1]))]
        return None if None in records else [record for record in records if record]

    def _record(self, row: tuple[Any, ...]) -> AssetRecord | None:
        number, name, last, run_id, details, status = row
        key, materialized = AssetKey.from_db_string(name), self._last(name, last)
        if key is None or materialized is None or details is not None:
            return None  # never materialized, wiped before, or of an older version
        return AssetRecord(
            storage_id=number,
            asset_entry=AssetEntry(
                asset_key=key,
                last_materialization_record=materialized,
                last_run_id=run_id,
                asset_details=None,
                cached_status=AssetStatusCacheValue.from_db_string(status),
                last_planned_materialization_storage_id=None,
            ),
        )

    def _last(self, name: str, text: str | None) -> EventLogRecord | None:
        if not text:
            return None
        known = self._parsed.get(name)
        if known is not None and known[0] == text:
            self._parsed.move_to_end(name)
            return known[1]
        record: object = deserialize_value(text)
        if not isinstance(record, EventLogRecord):
            return None  # as an older version has written it
        self._parsed[name] = (text, record)
        self._parsed.move_to_end(name)
        if len(self._parsed) > _MOST_PARSED:
            self._parsed.popitem(last=False)
        return record


def _parts(names: Sequence[str]) -> Iterator[Sequence[str]]:
    for begin in range(0, len(names), _MOST_KEYS):
        yield names[begin : begin + _MOST_KEYS]


def _rows(index: sqlite3.Connection, names: Sequence[str]) -> Iterable[tuple[Any, ...]]:
    return index.execute(_ASSETS.format(", ".join("?" for _ in names)), names)


def _asset_key(event: EventLogEntry) -> str:
    key = event.get_dagster_event().asset_key
    assert key is not None  # of `_FOLLOWING`, see `is_known`
    return key.to_string()


def _moment(timestamp: float) -> str:
    """As SQLAlchemy writes a moment to SQLite."""
    return datetime.fromtimestamp(timestamp, timezone.utc).strftime("%Y-%m-%d %H:%M:%S.%f")
