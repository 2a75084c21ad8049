"""What a sync asks SQLMesh: which tables an environment shows, and when their data last changed."""

from __future__ import annotations

import duckdb
from sqlmesh.core.snapshot import DeployabilityIndex, Snapshot
from sqlmesh.core.state_sync import StateReader

from sqlmesh_dagster.due import deployability_of, snapshots_with_intervals, unfinished
from sqlmesh_dagster.errors import EnvironmentBusyError
from sqlmesh_dagster.execution.context import open_context
from sqlmesh_dagster.execution.locks import ProjectLock
from sqlmesh_dagster.execution.settings import ProjectSettings
from sqlmesh_dagster.sync import BuiltTable, BuiltTables
from sqlmesh_dagster.upstream import has_state

_PROCESS_SECONDS = 5.0
"""How long a sync waits for another context of its own process before it gives up."""


def find_built(settings: ProjectSettings) -> BuiltTables:
    """Asks the deployed environment; opens the state alone, and releases it.

    Raises:
        ProjectLoadError: The project's config is broken.
    """
    lock = ProjectLock(settings.lock_name)
    if not lock.try_acquire("a sync"):
        return BuiltTables(obstacle=f"{lock.holder() or 'another process'} works on the project")
    try:
        with open_context(settings, load=False, process_timeout=_PROCESS_SECONDS) as context:
            return read_built(settings, context.state_reader) if has_state(context) else _NOTHING
    except EnvironmentBusyError:
        return BuiltTables(obstacle="this process is already running SQLMesh")
    except duckdb.IOException as error:
        return BuiltTables(obstacle=f"the DuckDB file is in use: {error}")
    finally:
        lock.release()


def read_built(settings: ProjectSettings, state: StateReader) -> BuiltTables:
    """The tables behind the environment's views that hold data; none if it was never planned."""
    environment = state.get_environment(settings.environment)
    if environment is None:
        return _NOTHING
    obstacle = unfinished(environment)
    if obstacle:
        return BuiltTables(obstacle=obstacle)
    wanted = {s.snapshot_id for s in environment.snapshots}
    snapshots = snapshots_with_intervals(settings, state, wanted)
    deployability = deployability_of(settings, snapshots)
    shown = {s.snapshot_id for s in environment.promoted_snapshots}
    tables = (
        _table(s, deployability)
        for s in snapshots
        if s.snapshot_id in shown and s.is_model and not s.is_symbolic
    )
    return BuiltTables(tuple(sorted((t for t in tables if t), key=lambda t: t.fqn)))


_NOTHING = BuiltTables()


def _table(snapshot: Snapshot, deployability: DeployabilityIndex) -> BuiltTable | None:
    is_deployable = deployability.is_deployable(snapshot)
    intervals = snapshot.intervals if is_deployable else snapshot.dev_intervals
    if not intervals:
        return None
    return BuiltTable(
        fqn=snapshot.name,
        snapshot=snapshot.identifier,
        version=snapshot.version or "",
        code_version=snapshot.fingerprint.data_hash,
        built_at=snapshot.last_altered_ts if is_deployable else snapshot.dev_last_altered_ts,
        start=min(low for low, _ in intervals),
        end=max(high for _, high in intervals),
        done=tuple(
            snapshot.intervals
            if deployability.is_representative(snapshot)
            else snapshot.dev_intervals
        ),
    )
