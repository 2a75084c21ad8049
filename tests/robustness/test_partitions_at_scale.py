"""What it costs to report many partitions: `PARTITIONS=13043 pytest -m storm tests/robustness/test_partitions_at_scale.py -s`."""

from __future__ import annotations

import os
import time
from datetime import datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from tests.sqlmesh_dagster.projects import Project, run_in_process

from sqlmesh_dagster import SQLMeshTranslator, TranslatorSettings
from tests.integration import alone

_STORAGE = """
storage:
  custom:
    module: sqlmesh_dagster.event_log
    class: PooledSqliteStorage
    config: {{base_dir: {folder}}}
"""


@pytest.mark.storm
def test_many_partitions_are_each_reported_once(tmp_path: Path) -> None:
    """Promise: one event for each partition, and the CPU time is in proportion; it is printed."""
    hours = int(os.environ.get("PARTITIONS", "2000"))
    project = Project(tmp_path / "project")
    project.model(
        "hours",
        "SELECT hour::TIMESTAMP AS hour FROM (SELECT unnest(generate_series('2024-01-01'::TIMESTAMP,"
        " '2026-12-31'::TIMESTAMP, INTERVAL 1 HOUR)) AS hour) WHERE hour BETWEEN @start_ts AND @end_ts",
        "kind INCREMENTAL_BY_TIME_RANGE (time_column hour), cron '@hourly', start '2024-01-01'",
    )
    first = datetime(2024, 1, 1, 1, 10)
    end = (first + timedelta(hours=hours)).isoformat()
    home = tmp_path / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text(_STORAGE.format(folder=home / "storage"))
    translator = SQLMeshTranslator(settings=TranslatorSettings(partitions=True))
    definitions = project.definitions(
        environment="prod", undeployed_changes="apply", translator=translator
    )
    with dg.DagsterInstance.from_config(str(home)) as instance:
        assert run_in_process(definitions, instance, now=first.isoformat()).success
        copy = alone.copied(project, tmp_path / "copy")
        begun = time.process_time()
        alone.run(copy, at=end)
        built = time.process_time()
        run = run_in_process(definitions, instance, now=end)
        reported = time.process_time()
        stored = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
        assert run.success and len(stored) == hours
        (key,) = definitions.resolve_asset_graph().materializable_asset_keys
        assert len(instance.get_materialized_partitions(key)) == hours + 1
    print(
        f"{hours} partitions: {built - begun:.1f} CPU s by SQLMesh alone,"
        f" {reported - built:.1f} through Dagster,"
        f" {(reported - built) / hours * 1000:.1f} ms each; the reports cost"
        f" {(reported - built) / (built - begun) - 1:.1f} of the build"
    )
