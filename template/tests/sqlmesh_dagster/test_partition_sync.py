"""Partitions that SQLMesh built without Dagster."""

from __future__ import annotations

import dagster as dg

from sqlmesh_dagster import SQLMeshResource, SQLMeshTranslator, TranslatorSettings
from sqlmesh_dagster.definition.project import DagsterProject, translate
from sqlmesh_dagster.execution.locks import ProjectLock
from sqlmesh_dagster.loading import project_manifest
from sqlmesh_dagster.partition_sync import PartitionSync, synchronize_partitions
from tests.sqlmesh_dagster.projects import Project, held_by_another_process, run_in_process

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


def _sync(resource: SQLMeshResource, instance: dg.DagsterInstance) -> PartitionSync:
    return synchronize_partitions(instance, _translated(resource), resource.settings)


def _partitions(instance: dg.DagsterInstance) -> list[str]:
    return sorted(instance.get_materialized_partitions(_KEY))


def _days(first: int, last: int) -> list[str]:
    return [f"2025-01-{day:02}" for day in range(first, last + 1)]


def test_what_ran_before_or_outside_dagster_is_reported_once(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: after a plan, and after a run of the CLI, Dagster shows what SQLMesh has done."""
    resource = _daily(project)
    assert _sync(resource, instance) == PartitionSync({})  # there is no state yet
    with resource.open_context() as context:
        context.plan("dev", auto_apply=True, no_prompts=True, execution_time="2025-01-04")
    assert _sync(resource, instance).reported == {_KEY: 3}
    assert _partitions(instance) == _days(1, 3)
    with resource.open_context() as context:
        context.run("dev", execution_time="2025-01-06")
    assert _sync(resource, instance).reported == {_KEY: 2}
    assert _sync(resource, instance).reported == {}
    assert _partitions(instance) == _days(1, 5)


def test_what_ran_before_a_model_was_partitioned_is_reported(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: whoever switches partitions on does not start with an empty history."""
    resource = _daily(project)
    run_in_process(project.definitions(), instance, now="2025-01-06T00:30:00")
    assert _partitions(instance) == []
    assert _sync(resource, instance).reported == {_KEY: 5}
    definitions = project.definitions(translator=_PARTITIONED)
    run_in_process(definitions, instance, now="2025-01-08T00:30:00")
    assert _sync(resource, instance).reported == {}
    assert _partitions(instance) == _days(1, 7)


def test_a_sync_waits_for_nobody(project: Project, instance: dg.DagsterInstance) -> None:
    """Promise: while a run works, or another program has the file, it says so and reports nothing."""
    resource = _daily(project)
    run_in_process(project.definitions(), instance, now="2025-01-06T00:30:00")
    lock = ProjectLock(resource.settings.lock_name)
    assert lock.try_acquire("a test")
    try:
        assert _sync(resource, instance) == PartitionSync({}, "a test works on the project")
    finally:
        lock.release()
    with held_by_another_process(project.database):
        assert "in use" in str(_sync(resource, instance).obstacle)
    assert _sync(resource, instance).reported == {_KEY: 5}
