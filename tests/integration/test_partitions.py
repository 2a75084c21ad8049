"""Models that are built by time range, as partitioned assets."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import dagster as dg
import pytest
from tests.sqlmesh_dagster.projects import Project, Run, run_config, run_in_process

from sqlmesh_dagster import ModelRecord, SQLMeshResource, SQLMeshTranslator, TranslatorSettings
from tests.integration import alone

_PARTITIONED = SQLMeshTranslator(settings=TranslatorSettings(partitions=True))


class _DailyOnly(SQLMeshTranslator):
    """Partitions one model."""

    settings = TranslatorSettings(partitions=True)

    def get_partitions_def(self, model: ModelRecord) -> dg.TimeWindowPartitionsDefinition | None:
        return super().get_partitions_def(model) if model.view_name == "daily" else None


def _by_time(project: Project, name: str, cron: str, upstream: str = "", more: str = "") -> None:
    source = f" FROM demo.{upstream} WHERE at BETWEEN @start_dt AND @end_dt" if upstream else ""
    project.model(
        name,
        f"SELECT @start_dt::TIMESTAMP AS at, @execution_ts::TEXT AS built_at{source}",
        f"kind INCREMENTAL_BY_TIME_RANGE (time_column at, batch_size 1), cron '{cron}'{more}",
    )


def _all_crons(project: Project) -> None:
    """Hourly, daily, weekly and monthly models that read one another, and one without partitions."""
    _by_time(project, "hourly", "@hourly", more=", start '2025-01-08'")
    _by_time(project, "daily", "@daily", "hourly", more=", start '2025-01-06'")
    _by_time(project, "weekly", "@weekly", "daily")
    _by_time(project, "monthly", "@monthly", "weekly", more=", start '2024-11-01'")
    project.model("whole", "SELECT count(*)::BIGINT AS n FROM demo.monthly")


def _partitions(instance: dg.DagsterInstance, name: str, catalog: str = "warehouse") -> list[str]:
    return sorted(instance.get_materialized_partitions(dg.AssetKey([catalog, "demo", name])))


def _days(first: int, last: int) -> list[str]:
    return [f"2025-01-{day:02}" for day in range(first, last + 1)]


def _job_run(definitions: dg.Definitions, instance: dg.DagsterInstance, now: str) -> Run:
    config = {"resources": {"sqlmesh_run_options": {"config": {"execution_time": now}}}}
    result = definitions.resolve_job_def("sqlmesh_job").execute_in_process(
        instance=instance, run_config=config, raise_on_error=False
    )
    return Run(result.success, result.run_id, result.all_events)


@pytest.mark.parametrize(
    ("cron", "start", "first", "cron_of_partitions"),
    [
        ("@yearly", "2023-05-01", "2023-01-01", "0 0 1 1 *"),
        ("@monthly", "2025-01-15", "2025-01-01", "0 0 1 * *"),
        ("@weekly", "2025-01-01", "2025-01-01", "0 0 * * *"),
        ("@daily", "2025-01-01", "2025-01-01", "0 0 * * *"),
        ("@hourly", "2025-01-01 02:30:00", "2025-01-01-02:00", "0 * * * *"),
        ("*/30 * * * *", "2025-01-01", "2025-01-01-00:00", "*/30 * * * *"),
        ("*/15 * * * *", "2025-01-01", "2025-01-01-00:00", "*/15 * * * *"),
        ("*/5 * * * *", "2025-01-01", "2025-01-01-00:00", "*/5 * * * *"),
    ],
)
def test_partitions_are_the_intervals_that_sqlmesh_counts(
    project: Project, cron: str, start: str, first: str, cron_of_partitions: str
) -> None:
    """Promise: the interval unit gives their size, the start the first of them; in UTC."""
    _by_time(project, "model", cron, more=f", start '{start}'")
    partitions = _definition(project.definitions(translator=_PARTITIONED), "model")
    assert partitions.get_first_partition_key() == first
    assert (partitions.cron_schedule, partitions.timezone) == (cron_of_partitions, "UTC")


@pytest.mark.slow
def test_hourly_daily_weekly_and_monthly_models_are_built_in_one_run(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: a run without a partition builds what is due of all of them, again and again; each
    interval that SQLMesh built is a materialized partition, and no other is.
    """
    _all_crons(project)
    definitions = project.definitions(translator=_PARTITIONED)
    first = run_in_process(definitions, instance, now="2025-01-09T03:30:00")
    assert first.success
    assert set(first.materialized) == {"hourly", "daily", "weekly", "monthly", "whole"}
    _assert_agreement(project, definitions, instance)
    assert _partitions(instance, "daily") == _days(6, 8)
    assert _partitions(instance, "monthly") == ["2024-11-01", "2024-12-01"]
    second = _job_run(definitions, instance, now="2025-01-10T05:30:00")
    assert second.success
    assert (set(second.materialized), second.unchanged) == (
        {"hourly", "daily", "whole"},
        ["weekly", "monthly"],
    )
    assert project.sqlmesh_runs() == 3  # a plan, and a run for each
    _assert_agreement(project, definitions, instance)
    assert _partitions(instance, "daily") == _days(6, 9)
    assert len(_partitions(instance, "hourly")) == 24 + 24 + 5


def test_only_the_models_that_a_translator_names_are_partitioned(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: it is the translator's choice, model by model; without it nothing is partitioned."""
    _all_crons(project)
    keys = {"hourly", "daily", "weekly", "monthly", "whole"}

    def partitioned(translator: SQLMeshTranslator) -> set[str]:
        graph = project.definitions(translator=translator).resolve_asset_graph()
        return {k.path[-1] for k in graph.executable_asset_keys if graph.get(k).partitions_def}

    assert partitioned(SQLMeshTranslator()) == set()
    assert partitioned(_DailyOnly()) == {"daily"}
    assert partitioned(_PARTITIONED) == keys - {"whole"}


def test_a_model_whose_start_moves_with_the_clock_is_not_partitioned(project: Project) -> None:
    """Promise: partitions never change because time went by."""
    _by_time(project, "moving", "@daily", more=", start '1 week ago'")
    _by_time(project, "ends", "@daily", more=", end '2025-01-05'")
    definitions = project.definitions(translator=_PARTITIONED)
    graph = definitions.resolve_asset_graph()
    assert graph.get(dg.AssetKey(["warehouse", "demo", "moving"])).partitions_def is None
    assert _definition(definitions, "ends").get_partition_keys() == _days(1, 5)


def test_partitions_that_were_built_before_a_failure_are_materialized(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: SQLMesh has recorded them as done, and so has Dagster."""
    project.model(
        "breaks",
        "SELECT CASE WHEN @start_ds::TEXT = '2025-01-04' THEN error('boom') END, @start_ds::DATE AS day",
        "kind INCREMENTAL_BY_TIME_RANGE (time_column day, batch_size 1, batch_concurrency 1)",
    )
    definitions = project.definitions(translator=_PARTITIONED)
    run = run_in_process(definitions, instance)
    assert "boom" in next(iter(run.failed.values()))
    assert _partitions(instance, "breaks") == _days(1, 3)
    _assert_agreement(project, definitions, instance)


@pytest.mark.parametrize(("first", "last"), [(3, 6), (5, 6)])
def test_a_range_of_which_a_signal_holds_back_some_is_no_success(
    project: Project, instance: dg.DagsterInstance, tmp_path: Path, first: int, last: int
) -> None:
    """Promise: the run names the partitions that were not built, and why; SQLMesh alone builds the same rest."""
    project.write(
        "signals/__init__.py",
        "from sqlmesh import signal\n\n@signal()\ndef arrived(batch):\n"
        "    return [i for i in batch if i[0].day < 5]\n",
    )
    _by_time(project, "gated", "@daily", more=", signals (arrived())")
    _by_time(project, "below", "@daily", "gated")
    settings = {"environment": "prod", "undeployed_changes": "apply", "translator": _PARTITIONED}
    start, end = _days(first, last)[0], _days(first, last)[-1]
    alone.plan(project, skip_backfill=True)
    copy = alone.copied(project, tmp_path / "copy")
    alone.run(copy, start=start, end=end)
    job = project.definitions(**settings).resolve_implicit_global_asset_job_def()
    result = job.execute_in_process(
        instance=instance,
        run_config=run_config(),
        tags={
            "dagster/asset_partition_range_start": start,
            "dagster/asset_partition_range_end": end,
        },
        raise_on_error=False,
    )
    run = Run(result.success, result.run_id, result.all_events)
    assert not run.success
    message = run.failed["warehouse__demo__gated"]
    assert "signal `arrived`" in message and "`2025-01-05`, `2025-01-06`" in message
    assert "`2025-01-04`" not in message
    assert "warehouse__demo__gated" not in run.materialized
    assert _partitions(instance, "gated") == _days(first, 4)
    rows = 'SELECT "at" FROM demo.gated ORDER BY ALL'
    assert project.query(rows) == copy.query(rows)
    assert alone.done(project)["gated"] == alone.done(copy)["gated"]


def test_audits_of_a_partitioned_model_are_reported(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: its checks have their results, in a run with and without a partition."""
    _by_time(project, "daily", "@daily", more=", audits (not_null(columns := (at)))")
    run = run_in_process(project.definitions(translator=_PARTITIONED), instance)
    assert list(run.passed.values()) == [True]


def _definition(definitions: dg.Definitions, name: str) -> dg.TimeWindowPartitionsDefinition:
    key = dg.AssetKey(["warehouse", "demo", name])
    partitions = definitions.resolve_asset_graph().get(key).partitions_def
    assert isinstance(partitions, dg.TimeWindowPartitionsDefinition)
    return partitions


def _assert_agreement(
    project: Project, definitions: dg.Definitions, instance: dg.DagsterInstance
) -> None:
    """Each partition is materialized exactly if SQLMesh's state has its interval."""
    resource = SQLMeshResource(project_dir=str(project.root), environment="dev")
    with resource.open_context(load=False) as context:
        environment = context.state_reader.get_environment("dev")
        assert environment is not None
        snapshots = context.state_reader.get_snapshots(environment.snapshots).values()
    for snapshot in snapshots:
        name = snapshot.model.view_name
        done = snapshot.intervals
        if snapshot.is_incremental_by_time_range:
            partitions = _definition(definitions, name)
            windows = {
                key: partitions.time_window_for_partition_key(key)
                for key in partitions.get_partition_keys(datetime(2025, 2, 1, tzinfo=timezone.utc))
            }
            expected = [
                key
                for key, window in windows.items()
                if any(
                    low <= window.start.timestamp() * 1000 and window.end.timestamp() * 1000 <= high
                    for low, high in done
                )
            ]
            assert _partitions(instance, name) == expected, name
