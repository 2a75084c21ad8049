"""What SQLMesh's state says about an environment: what is deployed and done. Changes nothing.

Importing this module imports SQLMesh.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from sqlmesh_dagster.engine.context import open_context
from sqlmesh_dagster.engine.explanation import explained, is_of_a_lock
from sqlmesh_dagster.errors import EnvironmentBusyError
from sqlmesh_dagster.guard.locks import ProjectLock
from sqlmesh_dagster.production import PRODUCTION
from sqlmesh_dagster.settings import ProjectSettings
from sqlmesh_dagster.upstream.internals import (
    DeployabilityIndex,
    Environment,
    Snapshot,
    SnapshotId,
    StateReader,
)
from sqlmesh_dagster.upstream.sqlmesh import has_state, intervals_mark

_PROCESS_SECONDS = 5.0
"""How long a question waits for another context of its own process before it gives up."""


@dataclass(frozen=True)
class _Known:
    """What a process has read: snapshots, and at which mark of the record of what is done."""

    mark: tuple[object, ...] | None
    snapshots: dict[SnapshotId, Snapshot]


_KNOWN: dict[ProjectSettings, _Known] = {}
"""Snapshots are immutable but for their intervals, and cost 20 ms each to read."""


class Obstructed(Exception):
    """Why the state cannot be read now; later it can."""


@dataclass(frozen=True)
class Deployed:
    """An environment, and its snapshots with what is recorded as done now."""

    environment: Environment
    snapshots: list[Snapshot]
    deployability: DeployabilityIndex


def find_deployed(settings: ProjectSettings, who: str) -> Deployed | None:
    """What is deployed, None before the first plan; opens the state alone, and releases it.

    Never waits for a run.

    Args:
        who: The name for those who wait for the project meanwhile.

    Raises:
        Obstructed: Somebody else works on the project.
        ProjectLoadError: The project's config is broken.
        StateVersionError: The state is of another version of SQLMesh.
        DatabaseUnavailableError: Its file is damaged, or its server cannot be worked with.
    """
    lock = ProjectLock(settings.lock_name, settings.project_path)
    lease = lock.take(who)
    if lease is None:
        raise Obstructed(f"{lock.holder() or 'another process'} works on the project")
    try:
        with open_context(settings, load=False, process_timeout=_PROCESS_SECONDS) as context:
            return read_deployed(settings, context.state_reader) if has_state(context) else None
    except EnvironmentBusyError:
        raise Obstructed("this process is already running SQLMesh") from None
    except Exception as error:  # such as a state of a newer SQLMesh, or of a server that is down
        if is_of_a_lock(error):
            raise Obstructed(f"the DuckDB file is in use: {error}") from error
        clear = explained(error, settings)
        if clear is error:
            raise
        raise clear from error
    finally:
        lease.release()


def read_deployed(settings: ProjectSettings, state: StateReader) -> Deployed | None:
    """As `find_deployed`, from a state that is open.

    Raises:
        Obstructed: A plan is changing the environment.
    """
    environment = state.get_environment(settings.environment)
    if environment is None:
        return None
    if not environment.finalized_ts:
        raise Obstructed(
            f"environment `{environment.name}` is being changed by plan `{environment.plan_id}`, or"
            f" that plan died; `{settings.plan_command(environment.name)}` finishes it"
        )
    wanted = {s.snapshot_id for s in environment.snapshots}
    snapshots = _snapshots_with_intervals(settings, state, wanted)
    return Deployed(environment, snapshots, deployability(settings, snapshots))


def deployability(settings: ProjectSettings, snapshots: Collection[Snapshot]) -> DeployabilityIndex:
    """As `Scheduler.run` has it: a preview's intervals are kept apart from those of production."""
    if settings.environment == PRODUCTION:
        return DeployabilityIndex.all_deployable()
    return DeployabilityIndex.create(snapshots)


def _snapshots_with_intervals(
    settings: ProjectSettings, state: StateReader, wanted: set[SnapshotId]
) -> list[Snapshot]:
    """Snapshots with what is recorded as done now.

    Only those that are new to this process are read, and what is done only if that has changed.
    """
    before = _KNOWN.pop(settings, _Known(None, {}))
    mark = intervals_mark(state)  # first: what is written meanwhile is read next time
    kept = {
        key: snapshot
        for key, snapshot in before.snapshots.items()
        if key in wanted and not (snapshot.is_model and snapshot.model.auto_restatement_cron)
    }  # the next restatement of those is read with them
    new = state.get_snapshots(wanted - kept.keys())
    if mark != before.mark:
        for snapshot in kept.values():
            snapshot.pending_restatement_intervals = []  # SQLMesh only adds to them
        state.refresh_snapshot_intervals(kept.values())
    _KNOWN[settings] = _Known(mark, {**kept, **new})
    return list(_KNOWN[settings].snapshots.values())
