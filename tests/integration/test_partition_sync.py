"""Partitions that SQLMesh built without Dagster."""

from __future__ import annotations

import dagster as dg
from tests.sqlmesh_dagster.projects import Project, run_in_process

from sqlmesh_dagster import SQLMeshResource, SQLMeshTranslator, TranslatorSettings
from sqlmesh_dagster.definition.project import DagsterProject, translate
from sqlmesh_dagster.manifest.loading import project_manifest
from sqlmesh_dagster.run.sync import synchronize

_PARTITIONED = SQLMeshTranslator(settings=TranslatorSettings(partitions=True))
_KEY = dg.AssetKey(["warehouse", "demo", "daily"])


def _daily(project: Project) -> SQLMeshResource:
    project.model(
        "daily",
        "SELECT @start_ds::DATE AS day",
        "kind INCREMENTAL_BY_TIME_RANGE (time_column day, batch_size 1)",
    )
    return SQLMeshResource(
        project_dir=str(project.root), environment="dev", translator=_PARTITIONED
    )


def _translated(resource: SQLMeshResource) -> DagsterProject:
    manifest = project_manifest(resource)
    return translate(manifest, _PARTITIONED, name="sqlmesh", group_name="sqlmesh", owners=())


def _sync(resource: SQLMeshResource, instance: dg.DagsterInstance) -> int:
    """Number of materializations that a sync reports."""
    before = _count(instance)
    synced = synchronize(instance, _translated(resource), resource.settings)
    assert synced.obstacle is None
    assert synced.reported == ((_KEY,) if _count(instance) > before else ())
    return _count(instance) - before


def _count(instance: dg.DagsterInstance) -> int:
    return len(instance.fetch_materializations(_KEY, limit=100).records)


def _partitions(instance: dg.DagsterInstance) -> list[str]:
    return sorted(instance.get_materialized_partitions(_KEY))


def _days(first: int, last: int) -> list[str]:
    return [f"2025-01-{day:02}" for day in range(first, last + 1)]


def test_what_ran_before_or_outside_dagster_is_reported_once(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: after a plan, and after a run of the CLI, Dagster shows what SQLMesh has done."""
    resource = _daily(project)
    assert _sync(resource, instance) == 0  # there is no state yet
    with resource.open_context() as context:
        context.plan("dev", auto_apply=True, no_prompts=True, execution_time="2025-01-04")
    assert _sync(resource, instance) == 3
    assert _partitions(instance) == _days(1, 3)
    with resource.open_context() as context:
        context.run("dev", execution_time="2025-01-06")
    assert _sync(resource, instance) == 2
    assert _sync(resource, instance) == 0
    assert _partitions(instance) == _days(1, 5)


def test_what_ran_before_a_model_was_partitioned_is_reported(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: whoever switches partitions on does not start with an empty history."""
    resource = _daily(project)
    run_in_process(project.definitions(), instance, now="2025-01-06T00:30:00")
    assert _partitions(instance) == []
    assert _sync(resource, instance) == 5
    definitions = project.definitions(translator=_PARTITIONED)
    run_in_process(definitions, instance, now="2025-01-08T00:30:00")
    assert _sync(resource, instance) == 0
    assert _partitions(instance) == _days(1, 7)
