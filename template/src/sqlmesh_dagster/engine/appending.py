"""A batch of an append-only model and the record of its interval: one transaction."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlmesh_dagster.upstream.internals import EngineAdapter, Snapshot


@contextmanager
def appended_once(
    snapshot: Snapshot, adapter: EngineAdapter, *, writes_state: bool
) -> Iterator[None]:
    """Evaluates in one transaction, if evaluating again would append rows twice.

    SQLMesh records an interval after its rows are in and audited, and uses no transaction on DuckDB:
    a process that dies in between leaves rows that are not recorded, and the next run appends them
    again. Other kinds of
    model replace or merge what is there. (Verified on SQLMesh 0.236.4.)

    Args:
        writes_state: Whether the state is written through `adapter`'s connection; see
            `upstream.has_state_beside_data`.
    """
    if not (snapshot.is_incremental_unmanaged and writes_state):
        yield
        return
    adapter.execute("BEGIN TRANSACTION")
    try:
        yield
    except BaseException:
        adapter.execute("ROLLBACK")
        raise
    adapter.execute("COMMIT")
