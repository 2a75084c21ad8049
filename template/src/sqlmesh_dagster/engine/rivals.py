"""Whether another process has built the same as a run at the same time, if no lock prevents that."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta, timezone

from sqlmesh import Context

from sqlmesh_dagster.facts.rivals import Entry, built_twice, by_name, warning_about
from sqlmesh_dagster.upstream.internals import Snapshot
from sqlmesh_dagster.upstream.sqlmesh import (
    duckdb_files,
    interval_entries,
    read_state_anew,
    state_connection,
)

_LOOKS_BACK = timedelta(days=1)
"""Who began beside a run may end after it; the next runs tell it, until the model is built again."""


def rivals_warning(context: Context, snapshots: Mapping[str, Snapshot]) -> str:
    """What two processes have built at once, of these models; empty if nothing.

    A look at SQLMesh's state; on DuckDB, whose file only one process has at a time, there is none.
    """
    if duckdb_files(state_connection(context)):
        return ""
    read_state_anew(context)
    since = datetime.now(timezone.utc) - _LOOKS_BACK
    entries = [
        Entry((name, version, is_dev), *more)
        for name, version, is_dev, *more in interval_entries(context, since)
        if name in snapshots
    ]
    models = by_name(built_twice(entries), _kinds(snapshots))
    return warning_about(models) if models else ""


def _kinds(snapshots: Mapping[str, Snapshot]) -> dict[str, tuple[str, bool]]:
    """Models that keep rows from one build to the next, and whether a rebuild replaces those of its span."""
    return {
        name: (snapshot.model.name, not snapshot.is_incremental_unmanaged)
        for name, snapshot in snapshots.items()
        if snapshot.is_model
        and not (snapshot.model.kind.is_full or snapshot.model.kind.is_view)
        and not (snapshot.is_seed or snapshot.is_symbolic)
    }
