"""The jobs that plan an environment, apply the plan, and invalidate an environment."""

# No `from __future__ import annotations`: Dagster reads the types of an op's arguments unquoted.

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import dagster as dg

from sqlmesh_dagster.definition.project import DagsterProject
from sqlmesh_dagster.errors import InvalidSettingError
from sqlmesh_dagster.facts.outcomes import ModelOutcome
from sqlmesh_dagster.facts.plan_summary import PlanSummary
from sqlmesh_dagster.facts.tables import BuiltTables
from sqlmesh_dagster.options import InvalidateOptions, PlanOptions
from sqlmesh_dagster.production import PRODUCTION
from sqlmesh_dagster.run.jobs import in_session, one_op_job, resource_of
from sqlmesh_dagster.run.promotion import Promoting
from sqlmesh_dagster.run.recording import Recording
from sqlmesh_dagster.settings import ProjectSettings, checked_environment

if TYPE_CHECKING:
    from sqlmesh_dagster.engine.session import Session


class SQLMeshPlanOptions(PlanOptions, dg.Config):
    """How an environment is planned; set in the launchpad. By default the plan is only shown."""


class SQLMeshInvalidateOptions(InvalidateOptions, dg.Config):
    """Which environment is invalidated; set in the launchpad."""


def plan_job(project: DagsterProject) -> dg.JobDefinition:
    """The job `<name>_plan_job`."""

    def plan(
        context: dg.OpExecutionContext, config: SQLMeshPlanOptions
    ) -> Iterator[dg.Output[None]]:
        yield from _plan(context, config, project)

    return one_op_job(
        project,
        "plan",
        plan,
        "Shows what a plan of an environment would change and build, after SQLMesh's unit tests and"
        " linter; applies it if asked to.",
    )


def invalidate_job(project: DagsterProject) -> dg.JobDefinition:
    """The job `<name>_invalidate_job`."""

    def invalidate(
        context: dg.OpExecutionContext, config: SQLMeshInvalidateOptions
    ) -> Iterator[dg.Output[None]]:
        yield from _invalidate(context, config, project)

    return one_op_job(
        project,
        "invalidate",
        invalidate,
        "Invalidates a development environment; never production.",
    )


def _plan(
    context: dg.OpExecutionContext, config: SQLMeshPlanOptions, project: DagsterProject
) -> Iterator[dg.Output[None]]:
    resource = resource_of(context, project)
    own = resource.settings
    settings = _settings_of(own, config.environment)
    if settings.environment == PRODUCTION and config.apply and not config.allow_production:
        raise InvalidSettingError(
            f"A plan of `{PRODUCTION}` is applied only if `allow_production` is on as well as `apply`."
            " Look at the plan without `apply` first. In a terminal, `poe promote` shows it, and asks."
        )
    config.check()
    recording = Recording(context.instance, project, resource, settings.environment)
    promotion: Promoting | None = None
    if settings.environment == PRODUCTION and config.apply:
        promotion = Promoting.begin(context, project, settings, config)
    shown: list[PlanSummary] = []
    built: list[str] = []
    durations: list[int] = []
    applied_tables: list[BuiltTables] = []

    def show(summary: PlanSummary) -> None:
        shown.append(summary)
        resource.say(logging.INFO, summary.markdown)

    def report(outcome: ModelOutcome) -> None:
        durations.append(outcome.duration_ms)
        if outcome.status == "executed" and outcome.fqn in project.assets_by_fqn:
            built.append(outcome.fqn)
        recording.outcome(outcome, promotion.change if promotion else None)

    def applied(tables: BuiltTables) -> None:
        applied_tables.append(tables)
        for key in recording.applied(tables, promotion.change if promotion else None):
            resource.say(
                logging.INFO, f"`{key.to_user_string()}` had been built before, and is promoted."
            )

    def finished() -> dict[str, Any]:
        if promotion is None or not applied_tables:
            return {}
        return promotion.finish(resource, sum(durations) / 1000)

    def work(session: "Session") -> None:
        from sqlmesh_dagster.engine.plan import Planning  # imports SQLMesh

        audited = [table.snapshot for table in project.table_checks] if recording.is_on else []
        Planning(session, audited, project.manifest.former).plan(
            config,
            show,
            report,
            applied,
            recording.verified,
            approve=promotion.approve if promotion else lambda basis: None,
            reviewed=promotion.environment if promotion else None,
            run=context.run_id,
            commit=promotion.commit if promotion else None,
        )

    try:
        in_session(context, resource, settings, work)
    except dg.Failure as error:
        if not shown:
            raise
        plan = {"sqlmesh/plan_summary": dg.MetadataValue.md(shown[0].markdown)}
        # it is promoted all the same where what failed comes after that
        metadata = {**error.metadata, **plan, **finished()}
        raise type(error)(error.description, metadata=metadata) from error
    (summary,) = shown
    if config.apply and not recording.is_on:
        context.log.info(
            f"Dagster's assets are those of environment `{own.environment}`, so that nothing is"
            f" recorded of what was built in `{settings.environment}`."
        )
    yield dg.Output(None, metadata={**_plan_metadata(summary, config.apply, built), **finished()})


def _plan_metadata(summary: PlanSummary, is_applied: bool, built: list[str]) -> dict[str, Any]:
    return {
        "sqlmesh/plan_summary": dg.MetadataValue.md(summary.markdown),
        "sqlmesh/environment": summary.environment,
        "sqlmesh/plan": summary.plan_id,
        "sqlmesh/models_changed": len(summary.changes),
        "sqlmesh/models_to_build": len(summary.backfills),
        "sqlmesh/nothing_to_do": summary.is_empty,
        "sqlmesh/applied": is_applied,
        **({"sqlmesh/models_built": len(built)} if is_applied else {}),
    }


def _invalidate(
    context: dg.OpExecutionContext, config: SQLMeshInvalidateOptions, project: DagsterProject
) -> Iterator[dg.Output[None]]:
    resource = resource_of(context, project)
    settings = _settings_of(resource.settings, config.environment)
    name = settings.environment
    if name == PRODUCTION:
        raise InvalidSettingError(f"`{PRODUCTION}` is never invalidated. Name another environment.")

    def work(session: "Session") -> bool:
        from sqlmesh_dagster.engine.plan import Planning  # imports SQLMesh

        return Planning(session).invalidate(is_dropped=config.drop)

    existed = in_session(context, resource, settings, work)
    if existed:
        when = "now" if config.drop else "by the next janitor"
        context.log.info(f"Environment `{name}` is invalidated; its views are dropped {when}.")
    else:
        context.log.warning(f"Environment `{name}` does not exist; there is nothing to invalidate.")
    yield dg.Output(None, metadata={"sqlmesh/environment": name, "sqlmesh/existed": existed})


def _settings_of(settings: ProjectSettings, environment: str | None) -> ProjectSettings:
    """The resource's settings, for an environment that a run names."""
    if environment is None:
        return settings
    name = checked_environment("environment", environment)
    return settings.model_copy(update={"environment": name})
