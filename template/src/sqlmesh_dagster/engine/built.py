"""What a sync asks SQLMesh: which tables an environment shows, and when their data last changed.

Importing this module imports SQLMesh.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sqlmesh_dagster.engine.state import (
    Deployed,
    Obstructed,
    deployability,
    find_deployed,
    read_deployed,
)
from sqlmesh_dagster.facts.tables import BuiltTable, BuiltTables
from sqlmesh_dagster.settings import ProjectSettings
from sqlmesh_dagster.upstream.internals import DeployabilityIndex, Snapshot, StateReader


def find_built(settings: ProjectSettings) -> BuiltTables:
    """Asks the deployed environment; opens the state alone, and releases it.

    Raises:
        ProjectLoadError: The project's config is broken.
    """
    return _tables(lambda: find_deployed(settings, "a sync"))


def read_built(settings: ProjectSettings, state: StateReader) -> BuiltTables:
    """The same, from a state that is open."""
    return _tables(lambda: read_deployed(settings, state))


def tables_of(
    settings: ProjectSettings, snapshots: Mapping[str, Snapshot]
) -> dict[str, BuiltTable]:
    """The tables of an environment's models that hold data, by the model's name."""
    index = deployability(settings, list(snapshots.values()))
    tables = (_table(s, index) for s in snapshots.values() if s.is_model and not s.is_symbolic)
    return {table.fqn: table for table in tables if table}


def _tables(look: Callable[[], Deployed | None]) -> BuiltTables:
    """The tables behind the environment's views that hold data; none if it was never planned."""
    try:
        deployed = look()
    except Obstructed as obstacle:
        return BuiltTables(obstacle=str(obstacle))
    if deployed is None:
        return BuiltTables()
    shown = {s.snapshot_id for s in deployed.environment.promoted_snapshots}
    tables = (
        _table(s, deployed.deployability)
        for s in deployed.snapshots
        if s.snapshot_id in shown and s.is_model and not s.is_symbolic
    )
    return BuiltTables(tuple(sorted((t for t in tables if t), key=lambda t: t.fqn)))


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
