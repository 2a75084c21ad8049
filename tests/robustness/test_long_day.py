"""24 hours of ticks, sensors and runs in one process, as a code server that runs in-process has them: `pytest -m storm`.

With `-s` it prints what the process holds after each three hours.
"""

from __future__ import annotations

import tempfile
from datetime import datetime, timedelta, timezone
from pathlib import Path

import dagster as dg
import pytest
from tests.sqlmesh_dagster.projects import Project

from tests.integration.conftest import own_process, project
from tests.integration.test_faults import _Held, _held_by_this_process

__all__ = ["own_process", "project"]
pytestmark = pytest.mark.storm

_BEGIN = datetime(2025, 1, 10, tzinfo=timezone.utc)
_HOUR = timedelta(hours=1)
_MIB = 2**20


def _temporary_files() -> int:
    return sum(1 for _ in Path(tempfile.gettempdir()).rglob("*"))


def test_a_day_of_ticks_and_sensors_leaves_memory_and_files_flat(
    project: Project, tmp_path: Path
) -> None:
    """Promise: each hour is built once; after the first hours nothing grows with the number of ticks."""
    by_hour = (
        "kind INCREMENTAL_BY_TIME_RANGE (time_column moment), cron '@hourly', start '2025-01-09'"
    )
    hours = "SELECT h AS moment FROM generate_series(@start_dt::TIMESTAMP, @end_dt::TIMESTAMP, INTERVAL 1 HOUR) AS t(h)"
    project.model("hourly", hours, by_hour)
    for number in range(8):
        project.model(
            f"m{number}", "SELECT count(*) AS n FROM demo.hourly", "kind FULL, cron '@hourly'"
        )
    home = tmp_path / "home"
    home.mkdir()
    held: list[tuple[_Held, int]] = []
    runs = 0
    with dg.DagsterInstance.local_temp(str(home)) as instance:
        definitions = project.definitions()
        schedule = definitions.resolve_schedule_def("sqlmesh_adaptive_schedule")
        (sensor,) = definitions.sensors or ()
        assert isinstance(sensor, dg.SensorDefinition)
        job, cursor = definitions.resolve_job_def("sqlmesh_job"), None
        for minute in range(0, 24 * 60, 3):
            at = _BEGIN + timedelta(minutes=minute)
            with dg.build_sensor_context(instance=instance, cursor=cursor) as look:
                result = sensor(look)
            assert isinstance(result, dg.SensorResult)
            cursor = result.cursor
            if minute % 15 == 0:
                repository = definitions.get_repository_def()
                with dg.build_schedule_context(instance, at, repository_def=repository) as moment:
                    tick = schedule.evaluate_tick(moment)
                for request in tick.run_requests or ():
                    done = job.execute_in_process(
                        instance=instance,
                        asset_selection=request.asset_selection,
                        run_config=request.run_config,
                        tags=request.tags,
                    )
                    runs += done.success
            if minute % 180 == 177:
                held.append((_held_by_this_process(project), _temporary_files()))
                now = held[-1][0]
                print(
                    f"{at:%H:%M}: {now.memory / _MIB:.0f} MiB, {now.handles} handles,"
                    f" {now.threads} threads, {held[-1][1]} temporary files, {runs} runs"
                )
    assert runs == 24
    rows = project.query("SELECT count(*), count(DISTINCT moment) FROM demo__dev.hourly")
    assert rows == [(47, 47)]
    (early, early_files), (late, late_files) = held[2], held[-1]
    assert late.threads <= early.threads and late.contexts <= early.contexts
    assert late.handles <= early.handles + 2
    assert late_files <= early_files + 2
    assert (late.memory - early.memory) / 15 < _MIB  # for each hour: a run, 4 ticks, 20 sensors
