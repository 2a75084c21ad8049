"""Checks of partitioned models: each partition has the result of its own time, as Dagster shows them."""

from __future__ import annotations

from typing import Any

import dagster as dg
import pytest
from tests.sqlmesh_dagster.projects import NOW, Project, Run, run_config, run_in_process

from sqlmesh_dagster import SQLMeshTranslator, TranslatorSettings

_PARTITIONED = SQLMeshTranslator(settings=TranslatorSettings(partitions=True))
_CHECK = dg.AssetCheckKey(dg.AssetKey(["warehouse", "demo", "daily"]), "accepted_range_n")


@pytest.fixture
def definitions(project: Project) -> dg.Definitions:
    """A daily model of which the rows of one day, named by a table, are worse than its audit allows."""
    _bad_day(project, "2025-01-08")
    audit = "accepted_range(column := n, min_v := 1, blocking := false)"
    project.model(
        "daily",
        "SELECT @start_ds::DATE AS day, CASE WHEN @start_ds::DATE = (SELECT day FROM main.bad)"
        " THEN 0 ELSE 1 END::INT AS n",
        "kind INCREMENTAL_BY_TIME_RANGE (time_column day, batch_size 1), start '2025-01-06',"
        f" audits ({audit})",
    )
    return project.definitions(translator=_PARTITIONED)


def _bad_day(project: Project, day: str) -> None:
    project.execute(f"CREATE OR REPLACE TABLE main.bad AS SELECT '{day}'::DATE AS day")


def _shown(instance: dg.DagsterInstance, definitions: dg.Definitions) -> dict[str, str]:
    """What Dagster's UI shows of each of the check's partitions, and of the asset's health."""
    partitions = definitions.resolve_asset_graph().get(_CHECK).partitions_def
    assert partitions is not None
    storage = instance.event_log_storage
    subsets = storage.get_asset_check_state([(_CHECK, partitions)])[_CHECK].subsets
    latest = storage.get_latest_asset_check_execution_by_key([_CHECK])[_CHECK]
    days = {
        key[-2:]: status.value
        for status, subset in subsets.items()
        for key in subset.subset_value.get_partition_keys()
    }
    return dict(sorted({**days, "health": latest.status.value}.items()))


def _of_partition(
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    day: str,
    *,
    now: str = NOW,
    is_check_alone: bool = False,
) -> Run:
    """A run of one partition of the model, or of its check alone, as the UI launches it."""
    job = definitions.resolve_implicit_global_asset_job_def()
    if is_check_alone:
        job = job.get_subset(asset_selection=set(), asset_check_selection={_CHECK})
    result = job.execute_in_process(
        instance=instance,
        tags={"dagster/partition": day},
        run_config=run_config({}, now),
        raise_on_error=False,
    )
    return Run(result.success, result.run_id, result.all_events)


def _days(first: int, last: int, **but: str) -> dict[str, str]:
    days = {f"{day:02}": "SUCCEEDED" for day in range(first, last + 1)}
    return {**days, **{key.removeprefix("day"): status for key, status in but.items()}}


def test_each_partition_has_the_result_of_its_own_time(
    project: Project, instance: dg.DagsterInstance, definitions: dg.Definitions
) -> None:
    """Promise: also after a clean day, with nothing due, and once the bad day is mended; and the asset is
    as unwell as its worst partition."""
    run_in_process(definitions, instance)
    bad = _days(6, 9, day08="FAILED", health="FAILED")
    assert _shown(instance, definitions) == bad
    run_in_process(definitions, instance, now="2025-01-11T00:30:00")
    bad = _days(6, 10, day08="FAILED", health="FAILED")
    assert _shown(instance, definitions) == bad
    for _ in range(2):
        idle = run_in_process(definitions, instance, now="2025-01-11T00:30:00")
        assert (idle.unchanged, idle.materialized) == (["daily"], [])
        assert _shown(instance, definitions) == bad
    _bad_day(project, "2030-01-01")
    assert _of_partition(definitions, instance, "2025-01-08", now="2025-01-11T00:30:00").success
    assert _shown(instance, definitions) == _days(6, 10, health="SUCCEEDED")


def test_a_check_alone_looks_at_a_partition_or_at_all(
    project: Project, instance: dg.DagsterInstance, definitions: dg.Definitions
) -> None:
    """Promise: what it finds now is shown where it was found before; nothing is built."""
    run_in_process(definitions, instance)
    ((table,),) = project.query(
        "SELECT table_schema || '.' || table_name FROM information_schema.tables"
        " WHERE table_schema = 'sqlmesh__demo' AND table_type = 'BASE TABLE'"
    )
    project.execute(f"UPDATE {table} SET n = 1")
    alone = run_in_process(definitions, instance, checks=[_CHECK])
    assert (alone.materialized, list(alone.passed.values())) == ([], [True])
    assert _shown(instance, definitions) == _days(6, 9, health="SUCCEEDED")
    project.execute(f"UPDATE {table} SET n = 0 WHERE day = '2025-01-07'")
    result = _of_partition(definitions, instance, "2025-01-07", is_check_alone=True)
    assert result.success
    assert _shown(instance, definitions) == _days(6, 9, day07="FAILED", health="FAILED")


def test_a_blocking_audit_fails_the_partition_in_which_it_found_rows(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: its neighbours, which were built and audited well, have passed."""
    _bad_day(project, "2025-01-08")
    project.model(
        "daily",
        "SELECT @start_ds::DATE AS day, CASE WHEN @start_ds::DATE = (SELECT day FROM main.bad)"
        " THEN 0 ELSE 1 END::INT AS n",
        "kind INCREMENTAL_BY_TIME_RANGE (time_column day, batch_size 1, batch_concurrency 1),"
        " start '2025-01-06', audits (accepted_range(column := n, min_v := 1))",
    )
    definitions = project.definitions(translator=_PARTITIONED)
    assert not run_in_process(definitions, instance).success
    assert _shown(instance, definitions) == {
        "06": "SUCCEEDED",
        "07": "SUCCEEDED",
        "08": "FAILED",
        "health": "FAILED",
    }


@pytest.mark.parametrize("execution", ["shared", "per_step"])
def test_days_that_are_built_after_a_day_has_failed_have_their_results(
    project: Project, instance: dg.DagsterInstance, execution: str
) -> None:
    """Promise: SQLMesh builds and audits them all the same, whenever the model's step reports its failure."""
    day = "CASE WHEN @start_ds = '2025-01-07' THEN error('bad day')::DATE ELSE @start_ds::DATE END"
    bad = "CASE WHEN @start_ds = '2025-01-09' THEN 0 ELSE 1 END::INT"
    project.model(
        "daily",
        f"SELECT {day} AS day, {bad} AS n",
        "kind INCREMENTAL_BY_TIME_RANGE (time_column day, batch_size 1), start '2025-01-06',"
        " audits (accepted_range(column := n, min_v := 1, blocking := false))",
    )
    definitions = project.definitions(translator=_PARTITIONED, execution=execution)
    assert not run_in_process(definitions, instance).success
    assert project.query("SELECT n FROM demo__dev.daily ORDER BY day") == [(1,), (1,), (0,)]
    assert _shown(instance, definitions) == {
        "06": "SUCCEEDED",
        "08": "SUCCEEDED",
        "09": "FAILED",
        "health": "FAILED",
    }


def test_whoever_executes_checks_alone_from_the_ui_keeps_them_whole(
    project: Project, instance: dg.DagsterInstance, definitions: dg.Definitions
) -> None:
    """Promise: `partitioned_checks=False`; the UI does not execute a partitioned check alone."""
    settings = TranslatorSettings(partitions=True, partitioned_checks=False)
    whole = project.definitions(translator=SQLMeshTranslator(settings=settings))
    assert definitions.resolve_asset_graph().get(_CHECK).partitions_def is not None
    assert whole.resolve_asset_graph().get(_CHECK).partitions_def is None
    run = run_in_process(whole, instance)
    results: list[Any] = [
        event.event_specific_data
        for event in run.events
        if event.event_type is dg.DagsterEventType.ASSET_CHECK_EVALUATION
    ]
    assert [(result.passed, result.partition) for result in results] == [(False, None)]
