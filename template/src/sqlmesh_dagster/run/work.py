"""SQLMesh work of a Dagster op: waits for it, logs its messages, and records what it has built."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import dagster as dg

from sqlmesh_dagster import events
from sqlmesh_dagster.checks import FoundResults, check_evaluations
from sqlmesh_dagster.definition.project import Checks, ModelAsset
from sqlmesh_dagster.facts.outcomes import ModelOutcome
from sqlmesh_dagster.guard.cancel import CancelToken
from sqlmesh_dagster.partition_checks import partition_results, partitioned
from sqlmesh_dagster.resource import SQLMeshResource
from sqlmesh_dagster.run.reported import last_audit_results
from sqlmesh_dagster.settings import ProjectSettings
from sqlmesh_dagster.upstream.dagster import (
    of_newest_materializations,
    report_outside_together,
)

if TYPE_CHECKING:
    from sqlmesh_dagster.engine.session import Session


def run_work(
    context: dg.OpExecutionContext, resource: SQLMeshResource, work: Callable[[CancelToken], None]
) -> None:
    """Waits for the end of `work`, and logs its messages meanwhile."""
    try:
        resource.run_work(work, lambda: pass_on_messages(context, resource))
    finally:
        pass_on_messages(context, resource)


def pass_on_messages(context: dg.OpExecutionContext, resource: SQLMeshResource) -> None:
    """Logs the messages of the worker thread since the last call."""
    for level, message in resource.heard():
        context.log.log(level, message)


def session_of(
    resource: SQLMeshResource,
    settings: ProjectSettings,
    cancel: CancelToken,
    *,
    has_project_lock: bool = False,
) -> Session:
    """A session; call it in the worker thread, because SQLMesh is imported here."""
    from sqlmesh_dagster.engine.session import Session

    return Session(settings, resource.holder, resource.say, cancel, has_project_lock)


def record(
    instance: dg.DagsterInstance,
    asset: ModelAsset | None,
    outcome: ModelOutcome,
    checks: Checks,
    run_id: str | None = None,
    more: Mapping[str, Any] | None = None,
) -> None:
    """Records a model that was built and that no step of a Dagster run reports.

    Args:
        asset: None for what is only audited, as an external table.
        run_id: The Dagster run that built it.
        more: Further metadata, such as which change it was built for.
    """
    if asset and outcome.intervals and (outcome.status == "executed" or asset.partitions):
        _report_built(instance, asset, outcome, {**events.built_in(run_id), **(more or {})})
    found = last_audit_results(instance, checks)
    of_partitions = results_of_partitions(instance, asset, checks, outcome, found)
    for evaluation in (*of_partitions, *check_evaluations(checks, outcome, found)):
        instance.report_runless_asset_event(evaluation)


def _report_built(
    instance: dg.DagsterInstance,
    asset: ModelAsset,
    outcome: ModelOutcome,
    facts: Mapping[str, Any],
) -> None:
    """Thousands of partitions are recorded together: one by one, that takes longer than to build them."""
    built = events.built_partitions(asset, outcome)
    if older := built[:-1]:
        make = events.partition_event(asset, outcome, facts)
        report_outside_together(instance, make, older)
    newest = events.runless_materialization(asset, outcome, built, facts)
    instance.report_runless_asset_event(newest)


def results_of_partitions(
    instance: dg.DagsterInstance,
    asset: ModelAsset | None,
    checks: Checks,
    outcome: ModelOutcome,
    found: FoundResults,
) -> Iterator[dg.AssetCheckEvaluation]:
    """What the audits of a partitioned model found in each partition, once it is materialized."""
    own = partitioned(asset, checks)
    if asset is not None and asset.partitions is not None and own:
        results = list(partition_results(own, asset.partitions, outcome, found))
        yield from of_newest_materializations(instance, results)
