"""Questions to SQLMesh's state: what is deployed and done, without changing anything.

Importing this module imports SQLMesh.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TypeVar

import duckdb
from sqlmesh.core.environment import Environment
from sqlmesh.core.snapshot import DeployabilityIndex, Snapshot, SnapshotId
from sqlmesh.core.state_sync import StateReader

from sqlmesh_dagster.errors import EnvironmentBusyError
from sqlmesh_dagster.execution.context import open_context
from sqlmesh_dagster.execution.locks import ProjectLock
from sqlmesh_dagster.execution.settings import ProjectSettings
from sqlmesh_dagster.upstream import has_state

_PROCESS_SECONDS = 5.0
"""How long a question waits for another context of its own process before it gives up."""
_Answer = TypeVar("_Answer")

_KNOWN: dict[ProjectSettings, dict[SnapshotId, Snapshot]] = {}
"""Snapshots are immutable but for their intervals, and cost 20 ms each to read."""


def ask(
    settings: ProjectSettings,
    who: str,
    question: Callable[[StateReader], _Answer],
    *,
    unplanned: _Answer,
    obstructed: Callable[[str], _Answer],
) -> _Answer:
    """The answer of the project's state, which is opened alone and released; never waits for a run.

    Args:
        who: Asks; named to those who wait for the lock meanwhile.
        unplanned: The answer where nothing was ever planned.
        obstructed: Makes the answer of why the question cannot be asked now.

    Raises:
        ProjectLoadError: The project's config is broken.
    """
    lock = ProjectLock(settings.lock_name)
    if not lock.try_acquire(who):
        return obstructed(f"{lock.holder() or 'another process'} works on the project")
    try:
        with open_context(settings, load=False, process_timeout=_PROCESS_SECONDS) as context:
            return question(context.state_reader) if has_state(context) else unplanned
    except EnvironmentBusyError:
        return obstructed("this process is already running SQLMesh")
    except duckdb.IOException as error:
        return obstructed(f"the DuckDB file is in use: {error}")
    finally:
        lock.release()


def unfinished(environment: Environment) -> str | None:
    """Why an environment cannot be asked: a plan is changing it."""
    if environment.finalized_ts:
        return None
    return (
        f"environment `{environment.name}` is being changed by plan `{environment.plan_id}`, or that"
        f" plan died; `sqlmesh plan {environment.name}` finishes it"
    )


def deployability_of(
    settings: ProjectSettings, snapshots: Collection[Snapshot]
) -> DeployabilityIndex:
    """As `Scheduler.run` has it: a preview's intervals are kept apart from those of production."""
    if settings.environment == "prod":
        return DeployabilityIndex.all_deployable()
    return DeployabilityIndex.create(snapshots)


def snapshots_with_intervals(
    settings: ProjectSettings, state: StateReader, wanted: set[SnapshotId]
) -> list[Snapshot]:
    """Snapshots with what is recorded as done now; only those that are new to this process are read."""
    known = _KNOWN.get(settings, {})
    known = {**known, **state.get_snapshots(wanted - known.keys())}
    _KNOWN[settings] = {key: value for key, value in known.items() if key in wanted}
    snapshots = list(_KNOWN[settings].values())
    state.refresh_snapshot_intervals(snapshots)
    return snapshots
