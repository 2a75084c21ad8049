"""A batch of an append-only model and the record of its interval: one transaction."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlmesh import Context

from sqlmesh_dagster.errors import ModelFailedError
from sqlmesh_dagster.upstream.internals import (
    EngineAdapter,
    EngineAdapterStateSync,
    Snapshot,
    SnapshotEvaluator,
    StateSync,
    TimeLike,
)
from sqlmesh_dagster.upstream.sqlmesh import has_state_beside_data, is_state_apart

_TAKEN_BACK = (
    "Another process has recorded this batch of `{name}` while this run built it: most likely the"
    " `sqlmesh` command, which takes no lock of Dagster's runs. Its rows are there; those of this run were"
    " taken back. Run it again."
)


class RecordedOnce(EngineAdapterStateSync):
    """SQLMesh's state, written by the connection that has just written the rows, and by its transaction."""

    def add_interval(
        self, snapshot: Snapshot, start: TimeLike, end: TimeLike, *more: Any, **named: Any
    ) -> None:
        """As the original, unless somebody else has recorded the same meanwhile.

        Raises:
            ModelFailedError: Somebody has, and the rows must not stay.
        """
        is_dev = bool(named.get("is_dev", more[0] if more else False))
        fresh = snapshot.copy()
        self.refresh_snapshot_intervals([fresh])
        span = snapshot.inclusive_exclusive(start, end, strict=False, expand=False)
        done = fresh.dev_intervals if is_dev else fresh.intervals
        if any(first <= span[0] and span[1] <= last for first, last in done):
            raise ModelFailedError(_TAKEN_BACK.format(name=snapshot.model.name))
        super().add_interval(snapshot, start, end, *more, **named)


def state_in_transaction(
    context: Context, evaluator: SnapshotEvaluator, state: StateSync
) -> StateSync | None:
    """The state, if it is written through the connection of the data; None where it cannot be.

    Args:
        state: As SQLMesh opened it; on DuckDB it shares the connection, elsewhere it has its own.
    """
    if has_state_beside_data(context):
        return state
    adapter = evaluator.adapter
    # Postgres' DDL is part of a transaction, too
    if is_state_apart(context) or adapter.dialect != "postgres":
        return None
    schema = context.config.get_state_schema(context.gateway)
    return RecordedOnce(adapter, schema=schema, cache_dir=context.cache_dir)


@contextmanager
def appended_once(
    snapshot: Snapshot, adapter: EngineAdapter, *, writes_state: bool
) -> Iterator[None]:
    """Evaluates in one transaction, if evaluating again would append rows twice.

    SQLMesh records an interval after its rows are in and audited, by another transaction, and uses
    none on DuckDB: a process that dies in between leaves rows that are not recorded, and the next run
    appends them again. Other kinds of model replace or merge what is there. (Verified on SQLMesh 0.236.4.)

    Args:
        writes_state: Whether the state is written through `adapter`'s connection; see `state_in_transaction`.
    """
    if not (snapshot.is_incremental_unmanaged and writes_state):
        yield
    elif adapter.SUPPORTS_TRANSACTIONS:
        with adapter.transaction():
            yield
    else:
        yield from _by_statements(adapter)


def _by_statements(adapter: EngineAdapter) -> Iterator[None]:
    adapter.execute("BEGIN TRANSACTION")
    try:
        yield
    except BaseException:
        adapter.execute("ROLLBACK")
        raise
    adapter.execute("COMMIT")
