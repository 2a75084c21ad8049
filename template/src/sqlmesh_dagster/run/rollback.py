"""The job that takes production back to an earlier version."""

# No `from __future__ import annotations`: Dagster reads the types of an op's arguments unquoted.

import logging
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

import dagster as dg

from sqlmesh_dagster.definition.project import DagsterProject
from sqlmesh_dagster.facts.tables import BuiltTables
from sqlmesh_dagster.facts.versions import Rollback
from sqlmesh_dagster.options import RollbackOptions
from sqlmesh_dagster.production import PRODUCTION
from sqlmesh_dagster.run.jobs import in_session, one_op_job, resource_of
from sqlmesh_dagster.run.recording import Recording

if TYPE_CHECKING:
    from sqlmesh_dagster.engine.session import Session


class SQLMeshRollbackOptions(RollbackOptions, dg.Config):
    """How production goes back; set in the launchpad. By default it is only shown."""


def rollback_job(project: DagsterProject) -> dg.JobDefinition:
    """The job `<name>_rollback_job`."""

    def rollback(
        context: dg.OpExecutionContext, config: SQLMeshRollbackOptions
    ) -> Iterator[dg.Output[None]]:
        yield from _rollback(context, config, project)

    return one_op_job(
        project,
        "rollback",
        rollback,
        "Shows what production ran before; lets it run that again if asked to. Nothing is built: SQLMesh"
        " has kept the tables.",
    )


def _rollback(
    context: dg.OpExecutionContext, config: SQLMeshRollbackOptions, project: DagsterProject
) -> Iterator[dg.Output[None]]:
    resource = resource_of(context, project)
    own = resource.settings
    settings = own.model_copy(update={"environment": PRODUCTION})
    recording = Recording(context.instance, project, resource, PRODUCTION)
    shown: list[Rollback] = []

    def show(rollback: Rollback) -> None:
        shown.append(rollback)
        resource.say(logging.INFO, rollback.markdown)

    def applied(tables: BuiltTables, gone: Collection[str]) -> None:
        facts = change_of(context.run_id, shown[0])
        text = "Built before; production was rolled back to it."
        for key in recording.applied(tables, facts, text):
            resource.say(logging.INFO, f"`{key.to_user_string()}` shows the table of before.")
        if recording.is_on:
            _observe(context.instance, project, gone, facts)

    def work(session: "Session") -> None:
        from sqlmesh_dagster.engine.plan import Planning  # imports SQLMesh
        from sqlmesh_dagster.engine.rollback import RollingBack

        RollingBack(Planning(session), context.run_id).roll_back(config, show, applied)

    try:
        in_session(context, resource, settings, work)
    except dg.Failure as error:
        if not shown:
            raise
        page = {"sqlmesh/plan_summary": dg.MetadataValue.md(shown[0].markdown)}
        raise type(error)(error.description, metadata={**error.metadata, **page}) from error
    (found,) = shown
    if config.apply and not recording.is_on:
        context.log.info(
            f"Dagster's assets are those of environment `{own.environment}`, so that nothing is recorded"
            " of them."
        )
    yield dg.Output(
        None,
        metadata={
            "sqlmesh/plan_summary": dg.MetadataValue.md(found.markdown),
            "sqlmesh/environment": PRODUCTION,
            "sqlmesh/rolls_back": found.now.plan,
            "sqlmesh/restores": found.restores,
            "sqlmesh/models_changed": len(found.plan.changes),
            "sqlmesh/applied": config.apply,
            **({"sqlmesh/commit": found.target.commit} if found.target.commit else {}),
        },
    )


def change_of(run_id: str, rollback: Rollback) -> dict[str, Any]:
    """What production's assets show of the rollback that moved them."""
    facts: dict[str, Any] = {"sqlmesh/rolled_back_in": dg.MetadataValue.dagster_run(run_id)}
    if rollback.target.commit:
        facts["sqlmesh/commit"] = rollback.target.commit
    return facts


def _observe(
    instance: dg.DagsterInstance,
    project: DagsterProject,
    gone: Collection[str],
    facts: dict[str, Any],
) -> None:
    """Says of models that production no longer has that they are gone, as their assets are still there."""
    for name in gone:
        asset = project.assets_by_fqn.get(name)
        if asset is not None:
            instance.report_runless_asset_event(
                dg.AssetObservation(
                    asset.spec.key,
                    description="Production was rolled back, and no longer has this model.",
                    metadata=facts,
                )
            )
