"""CSV files in the warehouse: read by a DuckDB in memory, written by SQLMesh's engine adapter.

Importing this module imports SQLMesh.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
from sqlglot import exp

from sqlmesh_dagster.definition.names import name_for_models
from sqlmesh_dagster.engine.csv_faults import refuse, refuse_columns, unreadable
from sqlmesh_dagster.upstream.internals import EngineAdapter

_ROWS = "rows"
_TEXT = exp.DataType.build("text")
Range = tuple[date, date] | None


def load(
    adapter: EngineAdapter,
    path: Path,
    table: tuple[str, str],
    types: Mapping[str, str],
    time: str | None,
) -> tuple[int, Range]:
    """Replaces a table by the rows of a file: their number, and the time of those that differ.

    Raises:
        UnreadableFileError: The file cannot be read; the table is as it was.
    """
    with closing(duckdb.connect()) as memory:
        found = _read(memory, path, types)
        [(count,)] = memory.execute(f"SELECT count(*) FROM {_ROWS}").fetchall()
        target, is_there = _target(adapter, *table)
        there = list(adapter.columns(target)) if is_there else []
        columns = {
            name if name in there else name_for_models(name, adapter.dialect): kind
            for name, kind in found.items()
        }
        changed = _changed(adapter, target, there, memory, columns, time) if time else None
        kinds = {n: exp.DataType.build(kind, dialect="duckdb") for n, kind in columns.items()}
        if not is_there:
            adapter.create_table(target, kinds)
        if count:
            _replace(adapter, target, _texts(memory, list(kinds)), kinds)
        else:
            adapter.delete_from(target, exp.true())
    return count, changed


def _target(adapter: EngineAdapter, schema: str, name: str) -> tuple[exp.Table, bool]:
    """The table to load, and whether it is there: by its own name, or by the one that models ask for."""
    for each in dict.fromkeys((name, name_for_models(name, adapter.dialect))):
        target = exp.table_(each, db=schema, quoted=True)
        if adapter.table_exists(target):
            return target, True
    return target, False


def _read(
    memory: duckdb.DuckDBPyConnection, path: Path, types: Mapping[str, str]
) -> dict[str, str]:
    """Reads a file into `rows`; the columns' types, in DuckDB's words."""
    refuse(path)
    file = _literal(_plainly(path))
    try:
        header = _header(memory, path, file)
        told = {name.lower(): kind for name, kind in types.items()}
        known = ", ".join(
            f"{_literal(n)}: {_literal(told[n.lower()])}" for n in header if n.lower() in told
        )
        option = f", types = {{{known}}}" if known else ""
        memory.execute(f"CREATE TABLE {_ROWS} AS SELECT * FROM read_csv({file}{option})")
    except duckdb.Error as error:
        raise unreadable(path, error) from None  # its text may be as long as the file
    found = memory.table(_ROWS)
    return dict(zip(found.columns, map(str, found.types), strict=True))


def _header(memory: duckdb.DuckDBPyConnection, path: Path, file: str) -> list[str]:
    """The names of a file's columns, if DuckDB leaves out no line that has fields."""
    [(columns, delimiter, skipped)] = memory.execute(
        "SELECT list_transform(Columns, lambda found: found.name), Delimiter, SkipRows"
        f" FROM sniff_csv({file})"
    ).fetchall()
    refuse_columns(path, columns, skipped, delimiter)
    return list(columns)


def _texts(memory: duckdb.DuckDBPyConnection, names: list[str]) -> Any:
    """A DataFrame with each value as text: no driver rounds a number or shifts a time."""
    frame = memory.sql(f"SELECT COLUMNS(*)::VARCHAR FROM {_ROWS}").df().astype(object)
    frame.columns = names
    return frame.where(frame.notna(), None)


def _replace(
    adapter: EngineAdapter, target: exp.Table, texts: Any, kinds: dict[str, exp.DataType]
) -> None:
    """Loads the texts in bulk, then replaces the table by one query that gives them their types."""
    as_text = dict.fromkeys(kinds, _TEXT)
    with adapter.temp_table(texts, name=target, target_columns_to_types=as_text) as loaded:
        query = exp.select(
            *(
                exp.cast(exp.column(name, quoted=True), kind).as_(name, quoted=True)
                for name, kind in kinds.items()
            )
        ).from_(loaded)
        if not adapter.SUPPORTS_REPLACE_TABLE and list(adapter.columns(target)) != list(kinds):
            _alter(adapter, target, query, kinds)
        adapter.replace_query(target, query, target_columns_to_types=kinds)


def _alter(
    adapter: EngineAdapter, target: exp.Table, query: exp.Select, kinds: dict[str, exp.DataType]
) -> None:
    """Gives a table the columns of a query, where it cannot be replaced as a whole."""
    with adapter.temp_table(query, name=target, target_columns_to_types=kinds) as like:
        adapter.alter_table(adapter.get_alter_operations(target, like))


def _changed(
    adapter: EngineAdapter,
    target: exp.Table,
    there: Sequence[str],
    memory: duckdb.DuckDBPyConnection,
    columns: Mapping[str, str],
    time: str,
) -> Range:
    """Of which time the rows are that a load adds, changes or drops; compared as DuckDB's values.

    Args:
        there: The columns of the target; none if there is no such table.
    """
    time = next((name for name in columns if name.lower() == time.lower()), time)
    if time not in there or time not in columns:
        return None
    names = [exp.column(name, quoted=True) for name in there]
    before = adapter.fetchdf(exp.select(*names).from_(target), quote_identifiers=True)
    before.columns = list(there)
    memory.register("former", before)
    is_same_shape = set(there) == set(columns)
    compared = list(columns) if is_same_shape else [time]
    sides = [
        ", ".join(f"CAST({_name(n)} AS {columns[n]})::VARCHAR AS {_name(n)}" for n in compared)
        + f" FROM {side}"
        for side in (_ROWS, "former")
    ]
    union = (
        f"(SELECT {sides[0]} EXCEPT ALL SELECT {sides[1]})"
        f" UNION ALL (SELECT {sides[1]} EXCEPT ALL SELECT {sides[0]})"
        if is_same_shape
        else f"SELECT {sides[0]} UNION ALL SELECT {sides[1]}"
    )
    moment = f"CAST({_name(time)} AS {columns[time]})"
    [(start, end)] = memory.execute(
        f"SELECT min({moment}), max({moment}) FROM ({union})"
    ).fetchall()
    return None if start is None else (start, end)


def _plainly(path: Path) -> str:
    """A path for `read_csv`, which would take `*`, `?` and `[` for patterns."""
    return re.sub(r"([*?\[])", r"[\1]", str(path))


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _name(column: str) -> str:
    return '"' + column.replace('"', '""') + '"'
