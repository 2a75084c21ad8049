"""Two tables, compared by the database: the numbers are those that SQL by hand gives."""

from __future__ import annotations

import duckdb
import pytest
from sqlmesh.core.engine_adapter.duckdb import DuckDBEngineAdapter

from sqlmesh_dagster.engine.measure import Comparison, Limits, Measured, table_of

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
