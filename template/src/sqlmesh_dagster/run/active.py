"""Which run works on a project: one that Dagster lists as active, and that is not dead."""

from __future__ import annotations

import time
from collections.abc import Callable, Set
from dataclasses import replace
from pathlib import Path

import dagster as dg

from sqlmesh_dagster.definition.project import DagsterProject
from sqlmesh_dagster.guard.locks import ProjectLock
from sqlmesh_dagster.run.liveness import RunProcess, RunSigns, death_of, read_sign, this_host
from sqlmesh_dagster.run.results import RECORDS, SIGN
from sqlmesh_dagster.settings import ProjectSettings
from sqlmesh_dagster.upstream.dagster import end_dead_run, launches_here, run_start

_ACTIVE = [
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def active_run(
    instance: dg.DagsterInstance,
    project: DagsterProject,
    job_name: str,
    settings: ProjectSettings,
    say: Callable[[str], None],
) -> str | None:
    """A run that has not ended and builds a model of this project, whoever launched it.

    A run that is dead, because its process was killed, is ended as failed.

    Args:
        say: Receives a message about each dead run.
    """
    ours = set(project.keys_by_fqn.values())
    for record in instance.get_run_records(filters=dg.RunsFilter(statuses=_ACTIVE)):
        run = record.dagster_run
        if not _is_of(instance, run, job_name, ours):
            continue
        signs = _signs(instance, run, record.create_timestamp.timestamp(), settings)
        death = death_of(signs, time.time())
        if death is None:
            return run.run_id
        again = instance.get_run_by_id(run.run_id)
        if again is None or again.is_finished:  # it ended by itself since it was listed
            continue
        message = f"This run is dead: {death}. It is ended as failed; what it did not build is due."
        end_dead_run(instance, run, message)
        say(f"Run {run.run_id} is dead: {death}. It was ended as failed.")
    return None


def _is_of(
    instance: dg.DagsterInstance, run: dg.DagsterRun, job_name: str, ours: Set[dg.AssetKey]
) -> bool:
    """Whether a run is this project's: another code location's job may have the same name."""
    planned = _planned_assets(instance, run)
    return bool(ours & planned) or (run.job_name == job_name and not planned)


def _signs(
    instance: dg.DagsterInstance, run: dg.DagsterRun, created_at: float, settings: ProjectSettings
) -> RunSigns:
    start = run_start(instance, run.run_id)
    return RunSigns(
        is_queued=run.status is dg.DagsterRunStatus.QUEUED,
        has_started=start is not None,
        created_at=created_at,
        holds_lock=_holds_lock(run, settings),
        process=_process(instance, run, *start) if start else None,
    )


def _process(
    instance: dg.DagsterInstance, run: dg.DagsterRun, pid: int, began_at: float
) -> RunProcess | None:
    """The run's own process; the processes of its steps come and go, and say on which host they are."""
    sign = read_sign(Path(instance.storage_directory()) / RECORDS / run.run_id / SIGN)
    if sign is not None:
        return replace(sign, pid=pid, began_at=began_at)
    if launches_here(instance):
        return RunProcess(pid, this_host(), began_at, began_at)
    return None


def _holds_lock(run: dg.DagsterRun, settings: ProjectSettings) -> bool:
    lock = ProjectLock(settings.lock_name, settings.project_path)
    lease = lock.take("a look at active runs")
    if lease is not None:
        lease.release()
        return False
    return run.run_id in lock.holder()


def _planned_assets(instance: dg.DagsterInstance, run: dg.DagsterRun) -> set[dg.AssetKey]:
    """What a run builds; one of a whole job of somebody else's names no assets but in its events."""
    if run.asset_selection is not None:
        return set(run.asset_selection)
    planned = instance.all_logs(
        run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED
    )
    events = [entry.dagster_event for entry in planned]
    return {event.asset_key for event in events if event and event.asset_key}
