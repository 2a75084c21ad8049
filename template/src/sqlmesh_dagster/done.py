"""What a sync of partitions asks SQLMesh: which intervals of its models an environment has done."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import duckdb
from sqlmesh.core.snapshot import DeployabilityIndex
from sqlmesh.core.state_sync import StateReader

from sqlmesh_dagster.errors import EnvironmentBusyError
from sqlmesh_dagster.execution.context import open_context
from sqlmesh_dagster.execution.locks import ProjectLock
from sqlmesh_dagster.execution.settings import ProjectSettings
from sqlmesh_dagster.partition_sync import DoneIntervals
from sqlmesh_dagster.upstream import has_state

_PROCESS_SECONDS = 5.0
"""How long a sync waits for another context of its own process before it gives up."""


def find_done(
    settings: ProjectSettings, wanted: Collection[str]
) -> tuple[Sequence[DoneIntervals], str | None]:
    """Asks the deployed environment; opens the state alone, and releases it.

    Args:
        wanted: FQNs of models.

    Returns:
        What is done, or why that could not be asked.

    Raises:
        ProjectLoadError: The project's config is broken.
    """
    lock = ProjectLock(settings.lock_name)
    if not lock.try_acquire("a sync of partitions"):
        return [], f"{lock.holder() or 'another process'} works on the project"
    try:
        with open_context(settings, load=False, process_timeout=_PROCESS_SECONDS) as context:
            found = _read(settings, context.state_reader, wanted) if has_state(context) else []
            return found, None
    except EnvironmentBusyError:
        return [], "this process is already running SQLMesh"
    except duckdb.IOException as error:
        return [], f"the DuckDB file is in use: {error}"
    finally:
        lock.release()


def _read(
    settings: ProjectSettings, state: StateReader, wanted: Collection[str]
) -> list[DoneIntervals]:
    environment = state.get_environment(settings.environment)
    if environment is None:
        return []
    is_production = settings.environment == "prod"
    # whether a table is a preview shows in the snapshots upstream of it
    ids = [s for s in environment.snapshots if not is_production or s.name in wanted]
    snapshots = state.get_snapshots(ids)
    deployability = (
        DeployabilityIndex.all_deployable()
        if is_production
        else DeployabilityIndex.create(snapshots)
    )
    return [
        DoneIntervals(
            fqn=snapshot.name,
            snapshot=snapshot.identifier,
            code_version=snapshot.fingerprint.data_hash,
            intervals=tuple(
                snapshot.intervals
                if deployability.is_representative(snapshot)
                else snapshot.dev_intervals
            ),
        )
        for snapshot in snapshots.values()
        if snapshot.name in wanted
    ]
