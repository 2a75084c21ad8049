"""Rows of a DuckDB file in another warehouse: copied through SQLMesh's engine adapter, and compared by totals.

Importing this module imports SQLMesh.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any

import duckdb
import pandas as pd  # type: ignore[import-untyped,unused-ignore]
from sqlglot import exp

from sqlmesh_dagster.facts.moving import Totals, plain_type
from sqlmesh_dagster.upstream.internals import EngineAdapter

_ROWS_AT_ONCE = 20_000
_TEXT = exp.DataType.build("text")
_WHOLE = re.compile(r"^U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?$|^DECIMAL")
_PART = re.compile(r"^(DOUBLE|DATE|TIMESTAMP(_\w+)?)$")


class DuckDBFile:
    """A DuckDB project's files, open to be read alone."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Rows of a query."""
        return self._connection.execute(sql).fetchall()

    def columns(self, table: str) -> dict[str, str]:
        """The columns of a table with their types; none where there is no such table."""
        try:
            found = self.rows(f"DESCRIBE TABLE {table}")
        except duckdb.CatalogException:
            return {}
        return {str(name): str(kind) for name, kind, *_ in found}

    def totals(self, table: str, columns: Mapping[str, str]) -> Totals:
        """What a table holds, in figures.

        Raises:
            ValueError: With a date beyond the years 1 to 9999, which Python has no value for.
        """
        query = _totals_query(exp.to_table(table, dialect="duckdb"), columns)
        (row,) = self.rows(query.sql(dialect="duckdb", identify=True))
        for figure in row:
            if isinstance(figure, str):  # DuckDB's driver gives such a date as text; others fail
                raise ValueError(figure)
        return _totals(row, columns)

    def texts(
        self, table: str, columns: Mapping[str, str], dialect: str
    ) -> Iterator[list[tuple[str | None, ...]]]:
        """The rows, many at once, each value as text: no driver rounds a number or shifts a time."""
        selected = ", ".join(_as_text(name, kind, dialect) for name, kind in columns.items())
        with closing(self._connection.cursor()) as cursor:
            cursor.execute(f"SELECT {selected} FROM {table}")
            while rows := cursor.fetchmany(_ROWS_AT_ONCE):
                yield rows


@contextmanager
def opened(catalogs: Mapping[str, str]) -> Iterator[DuckDBFile]:
    """DuckDB files, by their catalogs; nothing is written to them."""
    with closing(duckdb.connect()) as connection:
        for name, path in catalogs.items():
            place = path.replace("'", "''")
            connection.execute(f"ATTACH '{place}' AS {_name(name)} (READ_ONLY)")
        yield DuckDBFile(connection)


def totals(adapter: EngineAdapter, table: exp.Table, columns: Mapping[str, str]) -> Totals:
    """What a table of the other warehouse holds, in the same figures.

    Args:
        columns: As the DuckDB file has them.
    """
    row = adapter.fetchone(_totals_query(table, columns), quote_identifiers=True)
    return _totals(row or (), columns)


def create(adapter: EngineAdapter, table: exp.Table, columns: Mapping[str, str]) -> None:
    """An empty table with the columns of DuckDB's, in its schema."""
    adapter.create_schema(table.db, warn_on_error=False)
    kinds = {n: plain_type(kind, adapter.dialect) for n, kind in columns.items()}
    adapter.create_table(
        table, {n: exp.DataType.build(kind, dialect="duckdb") for n, kind in kinds.items()}
    )


def copy(
    file: DuckDBFile,
    source: str,
    adapter: EngineAdapter,
    target: exp.Table,
    columns: Mapping[str, str],
) -> None:
    """Replaces the rows of a table by those of one in the file: all of them, or none where the engine has transactions.

    Args:
        columns: Which both have, with DuckDB's types.
    """
    names = list(columns)
    chunks = file.texts(source, columns, adapter.dialect)
    with adapter.transaction():
        adapter.delete_from(target, exp.true())
        if adapter.dialect == "postgres" and hasattr(adapter.cursor, "copy_expert"):
            _copy_in(adapter, target, names, chunks)
        else:
            for rows in chunks:
                _insert(adapter, target, names, rows)


def _copy_in(
    adapter: EngineAdapter,
    target: exp.Table,
    names: Sequence[str],
    chunks: Iterator[list[tuple[str | None, ...]]],
) -> None:
    """By Postgres's own `COPY`, in one stream."""
    listed = ", ".join(_name(name) for name in names)
    place = target.sql(dialect="postgres", identify=True)
    adapter.cursor.copy_expert(
        f"COPY {place} ({listed}) FROM STDIN WITH (FORMAT csv)", _Stream(map(_lines, chunks))
    )


class _Stream:
    """What `COPY` reads: a file whose end is made while it is read."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = b""

    def read(self, size: int = -1) -> bytes:
        """The next bytes, as many as are asked for, or all."""
        while size < 0 or len(self._rest) < size:
            more = next(self._chunks, None)
            if more is None:
                break
            self._rest += more
        cut = len(self._rest) if size < 0 else size
        found, self._rest = self._rest[:cut], self._rest[cut:]
        return found


def _lines(rows: list[tuple[str | None, ...]]) -> bytes:
    """CSV in which an empty text and no value differ."""
    return "".join(f"{','.join(map(_field, row))}\n" for row in rows).encode()


def _field(value: str | None) -> str:
    return "" if value is None else '"' + value.replace('"', '""') + '"'


def _insert(
    adapter: EngineAdapter,
    target: exp.Table,
    names: Sequence[str],
    rows: list[tuple[str | None, ...]],
) -> None:
    """By a table of texts, which one query gives their types."""
    kinds = {name: kind for name, kind in adapter.columns(target).items() if name in names}
    frame = pd.DataFrame(rows, columns=list(names), dtype=object)
    as_text = dict.fromkeys(names, _TEXT)
    with adapter.temp_table(frame, name=target, target_columns_to_types=as_text) as loaded:
        query = exp.select(
            *(exp.cast(exp.column(n, quoted=True), kinds[n]).as_(n, quoted=True) for n in names)
        ).from_(loaded)
        adapter.insert_append(
            target, query, target_columns_to_types={name: kinds[name] for name in names}
        )


def _totals_query(table: exp.Table, columns: Mapping[str, str]) -> exp.Select:
    figures: list[exp.Expression] = [exp.Count(this=exp.Star())]
    for name, kind in columns.items():
        figures += _figures(exp.column(name, quoted=True), kind)
    return exp.select(*(figure.as_(f"f{n}") for n, figure in enumerate(figures))).from_(table)


def _figures(column: exp.Column, kind: str) -> list[exp.Expression]:
    """How many values there are, and what they add up to or lie between, where engines agree on that."""
    count = exp.Count(this=column.copy())
    if _WHOLE.match(kind):
        return [count, exp.Sum(this=column.copy())]
    if _PART.match(kind):
        return [count, exp.Min(this=column.copy()), exp.Max(this=column.copy())]
    if kind == "FLOAT":  # drivers give its digits, or those of its 24 bits
        wide = exp.cast(column.copy(), "double")
        return [count, exp.Min(this=wide), exp.Max(this=wide.copy())]
    if kind == "BOOLEAN":
        return [count, exp.Sum(this=exp.case().when(column.copy(), "1").else_("0"))]
    if kind == "VARCHAR":
        text = exp.cast(column.copy(), "text")
        return [count, exp.Sum(this=exp.Length(this=text))]
    return [count]


def _totals(row: Sequence[Any], columns: Mapping[str, str]) -> Totals:
    found, place = {}, 1
    for name, kind in columns.items():
        number = len(_figures(exp.column(name), kind))
        found[name] = tuple(row[place : place + number])
        place += number
    return Totals(int(row[0]), found, columns)


def _as_text(name: str, kind: str, dialect: str) -> str:
    if kind == "BLOB" and dialect == "postgres":
        return f"'\\x' || lower(hex({_name(name)}))"
    return f"CAST({_name(name)} AS VARCHAR)"


def _name(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'
