"""Two tables, compared by the database: the numbers are those that SQL by hand gives."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import duckdb
import pytest
from sqlglot import exp
from sqlmesh.core.engine_adapter import create_engine_adapter
from sqlmesh.core.engine_adapter.duckdb import DuckDBEngineAdapter

from sqlmesh_dagster.engine.measure import (
    Comparison,
    Limits,
    Measured,
    Table,
    column_changes,
    table_of,
)
from tests.postgres import Server, postgres

_LONG = 10**18
"""A number that is the same as its neighbours in 64 bits of floating point."""


def _measured(before: str, after: str, *key: str) -> Measured:
    with duckdb.connect() as connection:
        for name, query in (("before", before), ("after", after)):
            connection.execute(f"CREATE TABLE main.{name} AS {query}")
        adapter = DuckDBEngineAdapter(lambda: connection)
        was, now = (table_of(adapter, f"main.{name}") for name in ("before", "after"))
        return Comparison(adapter, was, now, Limits(rows=1000), key).measure()


@pytest.mark.parametrize(
    ("was", "now", "equal"),
    [
        (f"({_LONG} + i)::BIGINT", f"({_LONG} + i + 1)::DECIMAL(20, 0)", 0),
        (f"({_LONG} + i)::BIGINT", f"({_LONG} + i)::HUGEINT", 10),
        (f"({_LONG} + i)::BIGINT", f"({_LONG} + i)::DECIMAL(25, 2) + 0.01", 0),
        ("(i / 10)::DECIMAL(10, 1)", "(i / 10)::DECIMAL(14, 3)", 10),
        ("(i / 10)::DECIMAL(10, 1)", "(i / 10)::DECIMAL(10, 0)", 1),
        ("i::INT", "i::DOUBLE", 10),
        ("i::INT", "i::TEXT", 10),
        ("NULLIF(i, 1)::INT", "i::INT", 9),
        ("DATE '2025-01-01' + i::INT", "(DATE '2025-01-01' + i::INT)::TIMESTAMP", 10),
        ("TIME '10:00:00'", "TIMESTAMP '2025-01-01 10:00:00'", 0),
    ],
)
def test_values_of_another_type_are_the_same_only_if_they_are(
    was: str, now: str, equal: int
) -> None:
    """Promise: long numbers, other scales, dates and texts are matched exactly, also as keys."""
    rows = "FROM range(1, 11) AS t(i)"
    by_key = _measured(f"SELECT i, {was} AS v {rows}", f"SELECT i, {now} AS v {rows}", "i")
    assert by_key.comparison is not None
    assert (by_key.comparison.equal, by_key.comparison.only_before) == (equal, 0)
    whole = _measured(f"SELECT i, {was} AS v {rows}", f"SELECT i, {now} AS v {rows}")
    assert whole.comparison is not None and whole.comparison.equal == equal


def test_long_keys_of_another_type_match_their_own_rows() -> None:
    """Promise: half of the keys are on both sides, and each of them once."""
    found = _measured(
        f"SELECT (i + {_LONG})::BIGINT AS id, i AS v FROM range(100) AS t(i)",
        f"SELECT (i + {_LONG} + 50)::HUGEINT AS id, i + 50 AS v FROM range(100) AS t(i)",
        "id",
    ).comparison
    assert found is not None
    assert (found.only_before, found.only_after, found.equal) == (50, 50, 50)


def test_another_order_of_columns_is_told() -> None:
    """Promise: who reads them by their place gets others; a column more in between is no other order."""
    notes = [
        _measured("SELECT 1 AS id, 2 AS a, 3 AS b", after, "id").notes
        for after in (
            "SELECT 1 AS id, 3 AS b, 2 AS a",
            "SELECT 1 AS id, 9 AS new, 2 AS a, 3 AS b",
        )
    ]
    assert notes == [("The columns that both have are in another order.",), ()]


@pytest.mark.parametrize(
    ("dialect", "before", "after", "lost", "new"),
    [
        ("postgres", "Amount", "amount", ["Amount"], ["amount"]),
        ("snowflake", "AMOUNT", "amount", ["AMOUNT"], ["amount"]),
        ("duckdb", "Amount", "amount", [], []),
        ("mysql", "Amount", "amount", [], []),
        ("postgres", "Amount amount", "amount", ["Amount"], []),
        ("duckdb", "a b", "b A", [], []),
    ],
)
def test_another_case_is_another_column_where_the_engine_takes_it_for_one(
    dialect: str, before: str, after: str, lost: list[str], new: list[str]
) -> None:
    """Promise: who reads `"Amount"` on Postgres finds none; on DuckDB it is the same column."""
    tables = [
        Table(exp.to_table("t"), dict.fromkeys(names.split(), exp.DataType.build("INT")), dialect)
        for names in (before, after)
    ]
    changes = list(column_changes(*tables))
    assert [c.name for c in changes if c.fate == "removed"] == lost
    assert [c.name for c in changes if c.fate == "added"] == new


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A Postgres."""
    with postgres() as running:
        yield running


@pytest.mark.slow
def test_numbers_without_a_precision_are_compared_exactly_on_postgres(server: Server) -> None:
    """Promise: `NUMERIC` next to `BIGINT` and to a `NUMERIC` with digits; a renamed case is no match."""
    server.create_database("measured")
    rows = "FROM generate_series(1, 10) AS i"
    queries = {
        "whole": f'SELECT i AS id, ({_LONG} + i)::BIGINT AS v, i AS "Amount" {rows}',
        "bare": f"SELECT i AS id, ({_LONG} + i)::NUMERIC AS v, i AS amount {rows}",
        "other": f"SELECT i AS id, ({_LONG} + i + 1)::NUMERIC AS v, i AS amount {rows}",
        "scaled": f"SELECT i AS id, ({_LONG} + i)::NUMERIC(24, 2) AS v, i AS amount {rows}",
    }
    for name, query in queries.items():
        server.query("measured", f"CREATE TABLE {name} AS {query}")
    with closing(create_engine_adapter(lambda: server.connect("measured"), "postgres")) as adapter:
        for before, after, equal in (
            ("whole", "bare", 10),
            ("whole", "other", 0),
            ("bare", "scaled", 10),
            ("other", "scaled", 0),
            ("bare", "whole", 10),
        ):
            was, now = (table_of(adapter, f"public.{name}") for name in (before, after))
            found: dict[tuple[str, ...], Any] = {
                key: Comparison(adapter, was, now, Limits(rows=1000), key).measure().comparison
                for key in (("id",), (), ("v",))
            }
            assert all(found.values())
            assert [found[key].equal for key in (("id",), ())] == [equal, equal], (before, after)
            assert found["v",].only_before == (0 if equal else 1), (before, after)
        whole, bare = (table_of(adapter, f"public.{name}") for name in ("whole", "bare"))
        changes = {c.name: c.fate for c in column_changes(whole, bare)}
        assert changes == {"v": "retyped", "Amount": "removed", "amount": "added"}
