"""The adaptive schedule: at each tick it asks SQLMesh what is due, and requests only that."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone

import dagster as dg

from sqlmesh_dagster.definition.crons import after_a_skipped_hour, dagster_cron, even_steps
from sqlmesh_dagster.definition.project import DagsterProject
from sqlmesh_dagster.definition.records import CronRecord, ModelRecord
from sqlmesh_dagster.errors import InvalidSettingError, SQLMeshDagsterError
from sqlmesh_dagster.run.active import active_run
from sqlmesh_dagster.run.inputs import Reads
from sqlmesh_dagster.settings import ProjectSettings, ScheduleLoads
from sqlmesh_dagster.upstream.dagster import AssetJob, checks_on, loadable_upstream


def adaptive_schedule(
    project: DagsterProject,
    job: AssetJob,
    settings: ProjectSettings,
    name: str,
    default_status: dg.DefaultScheduleStatus,
    loads: ScheduleLoads,
) -> dg.ScheduleDefinition:
    """A schedule for the project's job.

    Args:
        loads: Which assets outside SQLMesh a tick requests with the models.

    Raises:
        InvalidSettingError: The project has no model that has a cron.
    """
    crons, time_zone = finest_crons(
        [asset.model for asset in project.assets], project.manifest.audit_crons
    )

    @dg.schedule(
        name=name,
        job=job,
        cron_schedule=crons[0] if len(crons) == 1 else list(crons),
        execution_timezone=time_zone,
        default_status=default_status,
        description="Asks SQLMesh which models are due, loads what they read, and builds only those.",
    )
    def tick(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        return _evaluate(context, project, job.name, settings, loads)

    return tick


def finest_crons(
    models: Sequence[ModelRecord], audits: Sequence[CronRecord] = ()
) -> tuple[tuple[str, ...], str]:
    """The cron with the shortest period, and its time zone.

    An `auto_restatement_cron` counts as one, and so do the crons of standalone audits and of external
    tables that have audits. If several crons share that period, such as `0 5 * * *`
    and `0 7 * * *`, all are returned: a model would otherwise wait for almost a whole period. If the
    cron pauses, as `*/15 8-18 * * 1-5` does, crons that tick more often than the pause is long are
    returned, too. Other models wait for the next tick. A cron at an hour that summer time skips has a
    second look an hour later.

    Raises:
        InvalidSettingError: There is no model but seeds.
    """
    ticking = [model for model in models if not model.is_seed] or list(models)
    if not ticking:
        raise InvalidSettingError("A schedule needs a project with at least one model.")
    crons = [*(cron for model in ticking for cron in model.crons), *audits]
    shortest = min(cron.period for cron in crons)
    pause = min(cron.gap for cron in crons if cron.period == shortest)
    finest = [cron for cron in crons if cron.period == shortest or cron.gap < pause]
    zones = {cron.zone for cron in finest}
    if len(zones) > 1:  # a schedule has one time zone; even steps fit all whose full hours agree
        return (even_steps(shortest),), "UTC"
    (zone,) = zones
    taken = {dagster_cron(c.text, c.period): c.period for c in finest}
    later = {after_a_skipped_hour(cron, period, zone) for cron, period in taken.items()}
    return tuple(sorted({*taken, *(cron for cron in later if cron)})), zone


def _evaluate(
    context: dg.ScheduleEvaluationContext,
    project: DagsterProject,
    job_name: str,
    settings: ProjectSettings,
    loads: ScheduleLoads,
) -> dg.RunRequest | dg.SkipReason:
    active = active_run(context.instance, project, job_name, settings, context.log.warning)
    if active is not None:
        return dg.SkipReason(f"Run {active} is still active.")
    at = context.scheduled_execution_time.astimezone(timezone.utc)
    from sqlmesh_dagster.engine.due import find_due  # imports SQLMesh

    try:
        due = find_due(settings, at)
    except SQLMeshDagsterError as error:
        return dg.SkipReason(str(error))
    if due.obstacle:
        return dg.SkipReason(f"Could not ask SQLMesh what is due: {due.obstacle}.")
    if due.is_new and settings.deployment_policy != "apply":
        return dg.SkipReason(
            f"Environment `{settings.environment}` does not exist yet. {settings.plan_hint}"
        )
    keys = project.keys_by_fqn
    fqns = list(keys) if due.is_new else [m for m in due.models if m in keys]
    audits = project.checks_of_audits(due.audits)
    if not fqns and not audits:
        when = f" The next is due at {due.next_due.isoformat()}." if due.next_due else ""
        return dg.SkipReason(f"No model is due.{when}")
    options = {"execution_time": at.isoformat(), "build": "due"}
    selected = [*_to_load(context, project, fqns, loads, at), *(keys[m] for m in fqns)]
    checks = checks_on(context.repository_def, selected) - project.unplanned_checks | audits
    return dg.RunRequest(
        run_key=f"{settings.environment}:{at.isoformat()}",
        asset_selection=selected,
        asset_check_keys=sorted(checks),
        run_config={"resources": {project.options_key: {"config": options}}},
        tags={"sqlmesh/due": str(len(fqns))},
    )


def _to_load(
    context: dg.ScheduleEvaluationContext,
    project: DagsterProject,
    fqns: Sequence[str],
    loads: ScheduleLoads,
    at: datetime,
) -> list[dg.AssetKey]:
    """The assets outside SQLMesh that these models read, and that were not loaded since the tick."""
    if loads == "none":
        return []
    reads = Reads(project)
    direct = {
        reads.outside[source]
        for fqn in fqns
        for source in reads.sources(fqn)
        if source in reads.outside
    }
    wanted = direct if loads == "direct" else {project.keys_by_fqn[fqn] for fqn in fqns}
    repository = context.repository_def
    found = loadable_upstream(repository, wanted, with_ancestors=loads == "all")
    found -= project.fqns_by_key.keys() | project.others  # they have a schedule of their own
    records = context.instance.get_asset_records(list(found)) if found else ()
    fresh = {
        record.asset_entry.asset_key
        for record in records
        if (last := record.asset_entry.last_materialization) and last.timestamp >= at.timestamp()
    }
    return sorted(found - fresh)
