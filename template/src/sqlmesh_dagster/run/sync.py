"""Sync: what SQLMesh built outside Dagster becomes materializations, once each.

What Dagster knows is read from the event log, not from a cursor: each materialization has the
version of the table and when it was built (`sqlmesh/version`, `sqlmesh/built_at`). Tables that
Dagster's own runs built have such a materialization, too, so they are not reported again, not even
after a restart.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import dagster as dg

from sqlmesh_dagster import events
from sqlmesh_dagster.definition.markdown import counted
from sqlmesh_dagster.definition.names import digest
from sqlmesh_dagster.definition.partitions import keys_within
from sqlmesh_dagster.definition.project import DagsterProject
from sqlmesh_dagster.errors import SQLMeshDagsterError
from sqlmesh_dagster.facts.reported import Reported, has_moved
from sqlmesh_dagster.facts.tables import BuiltTable, BuiltTables
from sqlmesh_dagster.guard.locks import ProjectLock
from sqlmesh_dagster.run.active import active_run
from sqlmesh_dagster.run.code_checks import report_kept
from sqlmesh_dagster.run.reported import last_materializations
from sqlmesh_dagster.settings import ProjectSettings
from sqlmesh_dagster.upstream.dagster import report_outside_together

_INTERVAL_SECONDS = 60
_SHOWN_KEYS = 10
OUTSIDE = "Built outside Dagster."
"""What the materialization of a table says that no Dagster run has built."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Synced:
    """What a sync did.

    Attributes:
        reported: Assets that got a materialization.
        obstacle: Why it could not read the state; the next sync will.
        cursor: Digest of what was seen; an equal one has nothing new.
    """

    reported: tuple[dg.AssetKey, ...] = ()
    obstacle: str | None = None
    cursor: str | None = None

    @property
    def message(self) -> str:
        """The message for people."""
        if self.obstacle:
            return f"Could not ask SQLMesh what was built: {self.obstacle}."
        if not self.reported:
            return "Nothing was built outside Dagster."
        names = ", ".join(key.to_user_string() for key in self.reported[:_SHOWN_KEYS])
        more = ", …" if len(self.reported) > _SHOWN_KEYS else ""
        return (
            f"Reported {counted(len(self.reported), 'model')} built outside Dagster: {names}{more}."
        )


def sync_sensor(
    project: DagsterProject,
    settings: ProjectSettings,
    name: str,
    default_status: dg.DefaultSensorStatus,
) -> dg.SensorDefinition:
    """A sensor that reports what moved; it requests no run."""

    @dg.sensor(
        name=name,
        minimum_interval_seconds=_INTERVAL_SECONDS,
        default_status=default_status,
        description="Reports models that SQLMesh built outside Dagster, such as by its CLI.",
    )
    def look(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        synced = synchronize(context.instance, project, settings, context.cursor)
        return dg.SensorResult(skip_reason=synced.message, cursor=synced.cursor)

    return look


def synchronize(
    instance: dg.DagsterInstance,
    project: DagsterProject,
    settings: ProjectSettings,
    cursor: str | None = None,
) -> Synced:
    """Reports what was built outside Dagster since the last materialization of each asset.

    Never waits: it locks the project while it reads SQLMesh's state, and gives up if the project is
    locked. While a run of the project is active, nothing is reported, because the run will report
    it.

    Args:
        cursor: That of the last sync, to save a query of the event log.
    """
    from sqlmesh_dagster.engine.built import find_built  # imports SQLMesh

    alone = ProjectLock(f"{settings.lock_name}-sync", settings.project_path)
    lease = alone.take("a sync")
    if lease is None:
        return Synced(obstacle="another sync is at work", cursor=cursor)
    try:
        busy = _active(instance, project, settings) or ""
        looked_at = time.time()
        built = BuiltTables(obstacle=busy) if busy else find_built(settings)
        # a run that began meanwhile may have built it, and not reported it yet
        obstacle = built.obstacle or _active(instance, project, settings)
        if obstacle:
            return Synced(obstacle=obstacle, cursor=cursor)
        seen = digest(repr(built.tables), 16)
        if seen == cursor:
            return Synced(cursor=cursor)
        moved = report_moved(instance, project, built.tables, looked_at)
        completed = report_partitions(instance, project, built.tables)
        reported = (*moved, *completed)
        report_kept(instance, project.code_checks_of(reported))
        return Synced(reported=reported, cursor=seen)
    except SQLMeshDagsterError as error:
        return Synced(obstacle=str(error.description or error).rstrip("."), cursor=cursor)
    finally:
        lease.release()


def report_moved(
    instance: dg.DagsterInstance,
    project: DagsterProject,
    tables: Iterable[BuiltTable],
    looked_at: float | None = None,
    more: Mapping[str, Any] | None = None,
    description: str = OUTSIDE,
) -> Iterator[dg.AssetKey]:
    """Reports each table that is newer than its asset's last materialization; yields its key.

    Assets with partitions are left out: a whole table says nothing of one of them; see
    `report_partitions`.

    Args:
        looked_at: When the tables were read, in epoch seconds, where others may have built since: what
            was reported later knows more than the tables.
        more: Further metadata, such as which change moved them.
        description: Of the materializations.
    """
    assets = project.assets_by_fqn
    candidates = [
        (assets[table.fqn], table)
        for table in tables
        if table.fqn in assets and assets[table.fqn].spec.partitions_def is None
    ]
    last = last_materializations(instance, [asset.spec.key for asset, _ in candidates])
    for asset, table in candidates:
        known = last.get(asset.spec.key)
        if has_moved(table, known) and not _is_reported_since(known, looked_at):
            event = events.built_outside(asset, table, description=description, more=more)
            instance.report_runless_asset_event(event)
            yield asset.spec.key


def _is_reported_since(known: Reported | None, looked_at: float | None) -> bool:
    """Not what is of a time that has not come: it was reported before the clock was set back."""
    return bool(known and looked_at and looked_at < known.reported_at <= time.time())


def report_partitions(
    instance: dg.DagsterInstance, project: DagsterProject, tables: Iterable[BuiltTable]
) -> Iterator[dg.AssetKey]:
    """Reports each partition that SQLMesh has built and Dagster lacks; yields the assets' keys.

    Also for what ran before a model was partitioned. A partition that SQLMesh has forgotten stays
    materialized: Dagster's own storage cannot take it back.
    """
    assets = project.assets_by_fqn
    for table in tables:
        asset = assets.get(table.fqn)
        if asset is None or asset.partitions is None:
            continue
        known = instance.get_materialized_partitions(asset.spec.key)
        unknown = [w for w in keys_within(asset.partitions, table.done) if w[0] not in known]
        report_outside_together(instance, partial(events.built_outside, asset, table), unknown)
        if unknown:
            yield asset.spec.key


def _active(
    instance: dg.DagsterInstance, project: DagsterProject, settings: ProjectSettings
) -> str | None:
    run = active_run(instance, project, project.job_name, settings, _log.warning)
    return f"Dagster run {run} is still active" if run else None
