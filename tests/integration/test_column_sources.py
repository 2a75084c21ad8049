"""From which columns a column comes: as sqlglot's own lineage says, and at once for wide models."""

from __future__ import annotations

import time

import pytest
from sqlglot import exp, parse_one
from sqlglot.lineage import lineage
from sqlglot.optimizer.qualify import qualify
from sqlglot.optimizer.scope import build_scope

from sqlmesh_dagster.engine.lineage import sources_of

_SCHEMA = {
    "a": {"x": "int", "y": "int", "z": "int", "i": "int", "arr": "int[]"},
    "b": {"y": "int", "z": "int", "i": "int"},
}


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT a.x, b.y + a.z AS y FROM c.s.a AS a JOIN c.s.b AS b ON a.i = b.i",
        "WITH t AS (SELECT x, y AS k FROM c.s.a), d AS (SELECT k, x FROM t UNION ALL"
        " SELECT y, z FROM c.s.b) SELECT k, x * 2 AS xx, count(*) AS n FROM d GROUP BY 1, 2",
        "SELECT (SELECT max(y) FROM c.s.b) AS m, a.x FROM c.s.a AS a",
        "WITH RECURSIVE r AS (SELECT x FROM c.s.a UNION ALL SELECT r.x + 1 AS x FROM r WHERE r.x < 5)"
        " SELECT x FROM r",
        "SELECT u.x, t.y FROM c.s.a AS t CROSS JOIN UNNEST(t.arr) AS u(x)",
        "SELECT * FROM (SELECT x, y FROM c.s.a) AS q",
        "SELECT q.x, 1 AS one, row_number() OVER (PARTITION BY q.y ORDER BY q.x) AS n FROM"
        " (SELECT x, y FROM c.s.a WHERE x IN (SELECT y FROM c.s.b)) AS q",
        "SELECT x FROM c.s.a INTERSECT SELECT y FROM c.s.b",
        "SELECT * FROM c.s.a PIVOT(sum(y) FOR x IN (1, 2))",
    ],
)
def test_the_sources_are_those_of_sqlglot(sql: str) -> None:
    """Promise: the shorter way finds no more and no less."""
    query = qualify(
        parse_one(sql, dialect="duckdb"), dialect="duckdb", schema={"c": {"s": _SCHEMA}}
    )
    assert isinstance(query, exp.Query)
    expected = {}
    for name in query.named_selects:
        leaves = lineage(
            exp.column(name, quoted=True), query, scope=build_scope(query), trim_selects=False
        ).walk()
        found = {
            (leaf.source.name, exp.to_column(leaf.name, dialect="duckdb").name)
            for leaf in leaves
            if isinstance(leaf.source, exp.Table) and leaf.name != "*"
        }
        if found:
            expected[name] = found
    sources = sources_of(query, "duckdb").items()
    assert {
        name: {(table.split('"')[-2], column) for table, column in each} for name, each in sources
    } == expected


def test_two_thousand_columns_are_traced_at_once() -> None:
    """Promise: in proportion to the columns; looking at all of them for each took six seconds a model."""

    def cost(columns: int) -> float:
        names = [f"c{n}" for n in range(columns)]
        inner, outer = (", ".join(f"{t}.{name} AS {name}" for name in names) for t in "aw")
        query = parse_one(f"WITH w AS (SELECT {inner} FROM c.s.a AS a) SELECT {outer} FROM w")
        assert isinstance(query, exp.Query)
        begun = time.process_time()
        assert len(sources_of(query, "duckdb")) == columns
        return time.process_time() - begun

    cost(10)
    assert cost(2000) < 20 * cost(200) + 0.2
