"""What a schedule asks SQLMesh: which models are due, without changing anything."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime

import duckdb
from sqlmesh.core.environment import Environment
from sqlmesh.core.snapshot import DeployabilityIndex, Snapshot, SnapshotId, missing_intervals
from sqlmesh.core.state_sync import StateReader

from sqlmesh_dagster.execution.context import open_context
from sqlmesh_dagster.execution.locks import ProjectLock
from sqlmesh_dagster.execution.settings import ProjectSettings
from sqlmesh_dagster.upstream import has_state

_PROCESS_SECONDS = 5.0
"""How long a tick waits for another context of its own process before it skips."""


@dataclass(frozen=True)
class Due:
    """The answer for one moment.

    Attributes:
        models: FQNs of the models with missing intervals, sorted. A signal may still hold some back.
        next_due: When the next model is due, if none is now.
        obstacle: Why the question could not be answered.
        is_new: Whether the environment does not exist yet.
    """

    models: tuple[str, ...] = ()
    next_due: datetime | None = None
    obstacle: str | None = None
    is_new: bool = False


_KNOWN: dict[ProjectSettings, dict[SnapshotId, Snapshot]] = {}
"""Snapshots are immutable but for their intervals, and cost 20 ms each to read."""


def find_due(settings: ProjectSettings, at: datetime) -> Due:
    """Asks the deployed environment; opens the state alone, and releases it.

    Raises:
        ProjectLoadError: The project's config is broken.
    """
    lock = ProjectLock(settings.lock_name)
    if not lock.try_acquire("a schedule's tick"):
        return Due(obstacle=f"{lock.holder() or 'another process'} works on the project")
    try:
        with open_context(settings, load=False, process_timeout=_PROCESS_SECONDS) as context:
            if not has_state(context):
                return Due(is_new=True)
            return _answer(settings, context.state_reader, at)
    except duckdb.IOException as error:
        return Due(obstacle=f"the DuckDB file is in use: {error}")
    finally:
        lock.release()


def _answer(settings: ProjectSettings, state: StateReader, at: datetime) -> Due:
    environment = state.get_environment(settings.environment)
    if environment is None:
        return Due(is_new=True)
    obstacle = unfinished(environment)
    if obstacle:
        return Due(obstacle=obstacle)
    wanted = {s.snapshot_id for s in environment.snapshots}
    snapshots = snapshots_with_intervals(settings, state, wanted)
    deployability = deployability_of(settings, snapshots)
    due = missing_intervals(snapshots, execution_time=at, deployability_index=deployability)
    models = sorted(s.name for s, intervals in due.items() if intervals and _is_built(s))
    return Due(models=tuple(models), next_due=None if models else _next_due(snapshots, at))


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


def _next_due(snapshots: Iterable[Snapshot], at: datetime) -> datetime | None:
    return min(
        (s.node.cron_next(at) for s in snapshots if _is_built(s) and not s.is_seed), default=None
    )


def _is_built(snapshot: Snapshot) -> bool:
    return snapshot.is_model and not snapshot.is_symbolic
