"""Queries about what a run has built or found, on the run's own connection.

Their results are optional: an error is logged, and fails no model.
"""

from __future__ import annotations

import logging

from sqlglot import exp

from sqlmesh_dagster.facts.outcomes import RowSample
from sqlmesh_dagster.upstream.internals import DeployabilityIndex, EngineAdapter, Snapshot

_log = logging.getLogger(__name__)
_COUNTING_DIALECTS = ("duckdb",)
"""Engines that count a table's rows from its statistics, in about a millisecond."""
_TELLING_DIALECTS = ("postgres",)
"""Engines whose drivers say how many rows a statement has written, whatever statement SQLMesh chose.

Seen with psycopg2. Others may say 1, or -1, of a CREATE TABLE AS.
"""


def row_count(
    snapshot: Snapshot, adapter: EngineAdapter, deployability: DeployabilityIndex | None
) -> int | None:
    """Rows of a model's table; None for a view, and if counting would scan the table."""
    if adapter.dialect not in _COUNTING_DIALECTS or not snapshot.is_model:
        return None
    if not snapshot.is_materialized or snapshot.is_materialized_view:
        return None
    index = deployability or DeployabilityIndex.all_deployable()
    table = exp.to_table(snapshot.table_name(is_deployable=index.is_deployable(snapshot)))
    try:
        (count,) = adapter.fetchone(
            exp.select(exp.Count(this=exp.Star())).from_(table), quote_identifiers=True
        ) or (None,)
    except Exception:
        _log.info("Could not count the rows of `%s`.", snapshot.name, exc_info=True)
        return None
    return None if count is None else int(count)


def is_written_whole(snapshot: Snapshot, adapter: EngineAdapter) -> bool:
    """Whether the rows that the engine says it wrote are those of the table.

    A Python model may write into other tables, too.
    """
    if adapter.dialect not in _TELLING_DIALECTS or not snapshot.is_model:
        return False
    return snapshot.is_seed or (snapshot.is_full and snapshot.model.is_sql)


def failing_sample(query: exp.Query, adapter: EngineAdapter, size: int) -> RowSample | None:
    """The first rows that an audit found, as text: a date as a date, and a decimal with its places."""
    rows = exp.select("*").from_(query.subquery("audit")).limit(size)
    try:
        found = adapter.fetchall(rows, quote_identifiers=True)
        columns = [column[0] for column in adapter.cursor.description or ()]
        if not columns:  # of an engine whose rows come another way
            frame = adapter.fetchdf(rows, quote_identifiers=True)
            columns, found = list(frame.columns), list(frame.itertuples(index=False, name=None))
    except Exception:
        _log.info("Could not read what an audit found.", exc_info=True)
        return None
    return RowSample(
        columns=tuple(str(name) for name in columns),
        rows=tuple(tuple(_as_text(value) for value in row) for row in found),
    )


def _as_text(value: object) -> str:
    return "NULL" if value is None else str(value)
