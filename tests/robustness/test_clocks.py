"""A clock that is set, forwards and backwards, between runs and in the middle of them: `-m storm`, with libfaketime.

The same clock for bare SQLMesh and for Dagster on a copy of the project, whose process is in another time
zone at each step.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from tests.sqlmesh_dagster.projects import Project

from tests.integration.conftest import own_process

__all__ = ["own_process"]
pytestmark = pytest.mark.storm

_LIBRARY = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
_DAYS = (
    # when a run begins, by its clock, and what the clock is set to in the middle of it
    ("2026-03-27T12:00", None),
    ("2026-03-28T12:00", None),
    ("2026-03-29T00:30", "2026-03-29T03:30"),  # over the hour that is missing in Berlin
    ("2026-03-28T06:00", None),  # a day back
    ("2026-03-30T12:00", "2026-03-29T12:00"),
    ("2026-03-31T00:10", "2026-04-10T00:10"),  # ten days too late, and seen soon
    ("2026-04-01T00:10", None),
    ("2026-04-05T02:45", "2026-04-05T02:15"),  # 23:45 in Santiago, which comes twice
    ("2026-04-05T03:45", None),
    ("2026-04-06T12:00", None),
)
_ZONES = ("UTC", "Pacific/Chatham", "America/New_York", "Europe/Berlin", "Asia/Kathmandu")
_COMMON = """
import json, os, sys, time
from datetime import datetime, timezone
from pathlib import Path

folder, steps, zones = Path(sys.argv[1]), json.loads(sys.argv[2]), json.loads(sys.argv[3])
clock, jump = folder / "clock", folder / "jump"

def offset_of(text):
    real = time.time() - float(clock.read_text())
    return f"{datetime.fromisoformat(text).replace(tzinfo=timezone.utc).timestamp() - real + 1:+.0f}"

for number, (begin, middle) in enumerate(steps):
    next_clock = folder / "next"  # the library may look at any moment
    next_clock.write_text(offset_of(begin))
    next_clock.rename(clock)
    if middle:
        jump.write_text(offset_of(middle))
    assert datetime.now(timezone.utc).isoformat().startswith(begin[:15]), "the clock was not set"
"""
_BARE = """
    from sqlmesh import Context
    context = Context(paths=[str(folder)])
    if number == 0:
        context.plan("dev", no_prompts=True, auto_apply=True)
    else:
        context.run("dev")
    context.close()
"""
_OURS = """
    os.environ["TZ"] = zones[number % len(zones)]
    time.tzset()
    import dagster as dg
    from tests.sqlmesh_dagster.projects import LEFT_ALONE
    from sqlmesh_dagster import SQLMeshTranslator, TranslatorSettings, sqlmesh_definitions_factory

    translator = SQLMeshTranslator(settings=TranslatorSettings(partitions=True))
    definitions = sqlmesh_definitions_factory(
        project_dir=folder, environment="dev", translator=translator
    )
    home = folder.parent / "home"
    home.mkdir(exist_ok=True)
    (home / "dagster.yaml").write_text(
        "compute_logs: {module: dagster._core.storage.noop_compute_log_manager, class: NoOpComputeLogManager}"
    )
    with dg.DagsterInstance.from_config(str(home)) as instance:
        schedule = definitions.resolve_schedule_def("sqlmesh_adaptive_schedule")
        with dg.build_schedule_context(
            instance,
            scheduled_execution_time=datetime.now(timezone.utc),
            repository_def=definitions.get_repository_def(),
        ) as moment:
            tick = schedule.evaluate_tick(moment)
        result = definitions.resolve_job_def("sqlmesh_job").execute_in_process(
            instance=instance, raise_on_error=False
        )
        assert result.success, [e.message for e in result.all_events if e.is_step_failure]
        built = {
            e.asset_key.path[-1]
            for e in result.all_events
            if e.is_step_materialization
            and e.materialization.metadata["sqlmesh/status"].value not in LEFT_ALONE
        }
        asked = {key.path[-1] for r in tick.run_requests for key in r.asset_selection or ()}
        assert built == asked, (begin, built, asked, tick.skip_message)
        hours = sorted(instance.get_materialized_partitions(dg.AssetKey(["warehouse", "demo", "hourly"])))
        (folder / "hours.json").write_text(json.dumps(hours))
"""


def _project(folder: Path) -> Project:
    project = Project(folder)
    times = "@start_dt AS began, @end_dt AS ended"
    by_time = "kind INCREMENTAL_BY_TIME_RANGE (time_column moment), start '2026-03-26'"
    hours = "SELECT h AS moment FROM generate_series(@start_dt::TIMESTAMP, @end_dt::TIMESTAMP, INTERVAL 1 HOUR) AS t(h)"
    project.model("hourly", hours, f"{by_time}, cron '@hourly'")
    days = (
        hours.replace("HOUR", "DAY").replace("@start_dt", "@start_ds").replace("@end_dt", "@end_ds")
    )
    project.model("berlin", days, f"{by_time}, cron '30 2 * * *', cron_tz 'Europe/Berlin'")
    project.model("santiago", days, f"{by_time}, cron '30 23 * * *', cron_tz 'America/Santiago'")
    project.model(
        "appended",
        f"SELECT {times}",
        "kind INCREMENTAL_UNMANAGED, start '2026-03-26', cron '@hourly'",
    )
    project.model("whole", "SELECT @execution_ds::DATE AS day", "kind FULL, cron '@daily'")
    project.write(
        "models/jumping.py",
        """
        import typing as t
        from pathlib import Path
        import pandas as pd
        from sqlmesh import ExecutionContext, model

        @model("demo.jumping", columns={"n": "int"}, kind="FULL", cron="@hourly")
        def execute(context: ExecutionContext, **kwargs: t.Any) -> pd.DataFrame:
            jump = Path(FOLDER) / "jump"
            if jump.exists():
                jump.rename(jump.with_name("clock"))
            return pd.DataFrame({"n": [1]})
        """.replace("FOLDER", repr(str(folder))),
    )
    return project


def _run(project: Project, body: str) -> None:
    clock = project.root / "clock"
    clock.write_text("+0")
    arguments = [str(project.root), json.dumps(_DAYS), json.dumps(_ZONES)]
    log = project.root / "log"
    with log.open("w") as output:
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(_COMMON) + body, *arguments],
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(sys.path),
                "LD_PRELOAD": str(_LIBRARY),
                "FAKETIME_TIMESTAMP_FILE": str(clock),
                "FAKETIME_NO_CACHE": "1",
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
                "NO_FAKE_STAT": "1",
                "TZ": "UTC",
            },
            stdout=output,
            stderr=output,
            timeout=400,
        )
    assert done.returncode == 0, log.read_text()[-6000:]


def _rows(project: Project, model: str, columns: str) -> list[tuple[Any, ...]]:
    return project.query(
        f"SELECT {columns}, count(*) FROM demo__dev.{model} GROUP BY ALL ORDER BY ALL"
    )


@pytest.mark.skipif(_LIBRARY is None, reason="needs Debian's package libfaketime")
def test_under_a_clock_that_jumps_dagster_builds_what_bare_sqlmesh_does(tmp_path: Path) -> None:
    """Promise: no interval more or less, no row twice, in any time zone; a tick asks for what its run builds."""
    bare, ours = _project(tmp_path / "bare"), _project(tmp_path / "dagster" / "project")
    _run(bare, _BARE)
    _run(ours, _OURS)
    columns = {
        "hourly": "moment",
        "berlin": "moment",
        "santiago": "moment",
        "appended": "began, ended",
    }
    for model, names in columns.items():
        assert _rows(ours, model, names) == _rows(bare, model, names), model
    # `bare` shows the day of its first run here, with one process for all of its runs
    assert _rows(ours, "whole", "day") == [(date(2026, 4, 6), 1)]
    twice = [row for row in _rows(ours, "hourly", "moment") if row[-1] != 1]
    assert not twice
    hours = {f"{moment:%Y-%m-%d-%H:%M}" for moment, _ in _rows(ours, "hourly", "moment")}
    assert set(json.loads((ours.root / "hours.json").read_text())) == hours
