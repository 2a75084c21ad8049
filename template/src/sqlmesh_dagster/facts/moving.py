"""What `poe move` takes from a DuckDB file to another warehouse, and whether it has arrived: plain data, pure."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from sqlmesh_dagster.definition.markdown import counted
from sqlmesh_dagster.definition.names import name_for_models

Intervals = tuple[tuple[int, int], ...]
_REBUILT_KINDS = ("FULL", "SEED")
"""What can be built again from what is moved, whatever was there: no row of these is only there."""
_OWN = re.compile(r"(\[\d*\]$)|^(STRUCT|MAP|UNION|VARIANT|BIT|BIGNUM|TIME_NS|GEOMETRY)\b")
"""Types of which other engines have none, or another one."""
_WIDER = {
    "HUGEINT": "DECIMAL(38, 0)",
    "UHUGEINT": "DECIMAL(38, 0)",
    "UBIGINT": "DECIMAL(20, 0)",
    "UINTEGER": "BIGINT",
    "USMALLINT": "INTEGER",
    "UTINYINT": "SMALLINT",
    "TIMESTAMP_NS": "TIMESTAMP",
    "TIMESTAMP_MS": "TIMESTAMP",
    "TIMESTAMP_S": "TIMESTAMP",
}
"""DuckDB's types that others lack, and what holds their values."""
_CLOSE = 1e-9
_CLOSE_FLOAT = 1e-7
"""Of a `FLOAT`, whose 24 bits some engines keep in 53; each value is copied as the text that is only its own."""


@dataclass(frozen=True)
class MovedModel:
    """A model of the environment, as the DuckDB file has it.

    Attributes:
        key: Its name for SQLMesh without the catalog, by which the other warehouse knows it.
        table: The table with its rows, which the file's other names lead to; empty if it has none.
        columns: Of the table, with DuckDB's types.
        version: SQLMesh's, of the table: Dagster's history names it.
        intervals: What is done, in milliseconds.
        built_at: When its data last changed, in milliseconds.
        restated_at: When it is restated next by itself.
        pending: What a restatement by itself has begun and not ended, in milliseconds.
    """

    key: str
    name: str
    kind: str
    version: str
    intervals: Intervals
    table: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)
    built_at: int | None = None
    restated_at: int | None = None
    pending: Intervals = ()

    @property
    def can_be_rebuilt(self) -> bool:
        """Whether the next run can build all of it from what it reads."""
        return self.kind in _REBUILT_KINDS


@dataclass(frozen=True)
class OtherTable:
    """A table of the file that no model builds: one that is loaded, most often.

    Attributes:
        columns: With DuckDB's types.
        has_rules: Whether it has keys, constraints, defaults, computed columns or indexes.
    """

    schema: str
    name: str
    columns: Mapping[str, str]
    has_rules: bool = False

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.schema}.{self.name}"

    def known_to_models(self, dialect: str) -> OtherTable:
        """By the names under which models ask for it on another engine; DuckDB takes them, too."""
        columns = {name_for_models(n, dialect): kind for n, kind in self.columns.items()}
        schema, name = (name_for_models(n, dialect) for n in (self.schema, self.name))
        return replace(self, schema=schema, name=name, columns=columns)


@dataclass(frozen=True)
class Source:
    """All that a move reads of the DuckDB project before it begins.

    Attributes:
        catalogs: The files, each by its catalog; the first is the models'.
        others: Environments that are not moved.
        left: Views that people have made, which no model builds.
    """

    environment: str
    catalogs: Mapping[str, str]
    models: Sequence[MovedModel]
    tables: Sequence[OtherTable]
    others: Sequence[str] = ()
    left: Sequence[str] = ()

    @property
    def catalog(self) -> str:
        """The models'."""
        return next(iter(self.catalogs))


def keys_that_end(keys: Sequence[Sequence[str]], source: Source, catalog: str) -> str:
    """What becomes of assets whose keys begin with the catalog that the data leaves; empty where none does.

    Args:
        keys: Of all assets that Dagster's history knows.
        catalog: Of the new warehouse.
    """
    models = {(source.catalog, *model.name.split(".")[-2:]) for model in source.models}
    ending = sorted("/".join(key) for key in keys if tuple(key) in models)
    if not ending or catalog == source.catalog:
        return ""
    old, new = ending[0], "/".join((catalog, *ending[0].split("/")[1:]))
    return (
        f"assets begin with the catalog: `{old}` is `{new}` from now on, and its history in Dagster stays"
        f" with the old key ({counted(len(ending), 'asset')}). A database or catalog named"
        f" `{source.catalog}` keeps it: no other setting has to change"
    )


@dataclass(frozen=True)
class Totals:
    """What one query says of a table: its rows, and figures of each column; `kinds` are DuckDB's types."""

    rows: int
    columns: Mapping[str, tuple[Any, ...]]
    kinds: Mapping[str, str] = field(default_factory=dict)


def uncopyable(columns: Mapping[str, str], dialect: str) -> list[str]:
    """Columns whose values another engine cannot be given as texts."""
    if dialect == "duckdb":
        return []
    binary = () if dialect == "postgres" else ("BLOB",)
    return [n for n, kind in columns.items() if _OWN.search(kind) or kind in binary]


def plain_type(kind: str, dialect: str) -> str:
    """One of DuckDB's types, or a wider one that the other engine has, too."""
    if dialect == "duckdb":
        return kind
    return "VARCHAR" if kind.startswith("ENUM") else _WIDER.get(kind, kind)


def is_rebuilt(model: MovedModel, dialect: str, *, is_wanted: bool) -> bool:
    """Whether the next run builds a model's table, and no row of it is copied."""
    return model.can_be_rebuilt and (is_wanted or bool(uncopyable(model.columns, dialect)))


def refused(source: Source, dialect: str) -> list[str]:
    """Columns that cannot be copied, of what cannot be built again."""
    found: list[tuple[str, Mapping[str, str]]] = [
        (m.name, m.columns) for m in source.models if not m.can_be_rebuilt
    ]
    found += [(table.title, table.columns) for table in source.tables]
    return [
        f"`{name}.{column}` ({columns[column]})"
        for name, columns in found
        for column in uncopyable(columns, dialect)
    ]


def difference(here: Totals, there: Totals) -> str:
    """In which figure two tables differ; empty if in none."""
    if here.rows != there.rows:
        return f"{counted(here.rows, 'row')} in the file, {there.rows:,} there"
    for name, figures in here.columns.items():
        others = there.columns.get(name, ())
        if len(others) != len(figures):
            return f"column `{name}` is not there"
        close = _CLOSE_FLOAT if here.kinds.get(name) == "FLOAT" else _CLOSE
        for mine, theirs in zip(figures, others, strict=True):
            if not _is_same(mine, theirs, close):
                return f"column `{name}`: {mine} in the file, {theirs} there"
    return ""


def _is_same(mine: Any, theirs: Any, close: float) -> bool:
    mine, theirs = _plain(mine), _plain(theirs)
    if isinstance(mine, float) or isinstance(theirs, float):
        if mine is None or theirs is None:
            return mine is theirs
        here, there = float(mine), float(theirs)
        if here == there or (math.isnan(here) and math.isnan(there)):
            return True
        return abs(here - there) <= close * max(abs(here), abs(there))
    return bool(mine == theirs)


def _plain(value: Any) -> Any:
    """A value as both engines' drivers could have given it."""
    if isinstance(value, datetime):
        return value.replace(tzinfo=None).isoformat()
    if isinstance(value, date):
        return f"{value.isoformat()}T00:00:00"
    if isinstance(value, int | Decimal):
        return Decimal(value)
    return value


def missing_or_more(
    source: Source, there: Mapping[str, Intervals], rebuilt: Iterable[str]
) -> Iterator[str]:
    """Names of models whose record of what is done differs."""
    left = set(rebuilt)
    for model in source.models:
        if model.key not in left and there.get(model.key, ()) != model.intervals:
            yield model.name
