"""SQLMesh work of a Dagster op: alone on the project, heard while it goes on, recorded when it is done."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import dagster as dg

from sqlmesh_dagster import events
from sqlmesh_dagster.definition.project import Checks, ModelAsset
from sqlmesh_dagster.facts.outcomes import ModelOutcome
from sqlmesh_dagster.guard.cancel import CancelToken
from sqlmesh_dagster.guard.locks import ProjectLock
from sqlmesh_dagster.resource import SQLMeshResource
from sqlmesh_dagster.settings import ProjectSettings


def run_work(
    context: dg.OpExecutionContext, resource: SQLMeshResource, work: Callable[[CancelToken], None]
) -> None:
    """Waits for the end of `work`, and passes on meanwhile what it says."""
    try:
        resource.run_work(work, lambda: pass_on_messages(context, resource))
    finally:
        pass_on_messages(context, resource)


def pass_on_messages(context: dg.OpExecutionContext, resource: SQLMeshResource) -> None:
    """Logs what the worker thread has said since the last time."""
    for level, message in resource.heard():
        context.log.log(level, message)


def locked(
    resource: SQLMeshResource, settings: ProjectSettings, cancel: CancelToken
) -> AbstractContextManager[None]:
    """This host's lock on the project, where runs of this host share one; see `state_lock`."""
    if settings.execution != "shared":
        return nullcontext()
    return ProjectLock(settings.lock_name).held(
        resource.holder,
        settings.wait_timeout,
        cancel,
        lambda text: resource.say(logging.INFO, text),
    )


def record(
    instance: dg.DagsterInstance, asset: ModelAsset, outcome: ModelOutcome, checks: Checks
) -> None:
    """Records a model that was built although no step of a Dagster run stands for it."""
    for materialization in events.runless_materializations(asset, outcome):
        instance.report_runless_asset_event(materialization)
    for evaluation in events.check_evaluations(checks, outcome):
        instance.report_runless_asset_event(evaluation)
