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
import time
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from tests.sqlmesh_dagster.projects import Project

from tests.integration.conftest import own_process

__all__ = ["own_process"]
pytestmark = pytest.mark.storm

_LIBRARY = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
Steps = tuple[tuple[str, str | None], ...]
"""When a run begins, by its clock in UTC, and what the clock is set to in the middle of it."""


@dataclass(frozen=True)
class _Series:
    """Runs one after the other, of models whose crons are in two time zones."""

    start: str
    crons: tuple[tuple[str, str], tuple[str, str]]
    steps: Steps


_SERIES = {
    "spring": _Series(
        "2026-03-26",
        (("30 2 * * *", "Europe/Berlin"), ("30 23 * * *", "America/Santiago")),
        (
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
        ),
    ),
    "autumn": _Series(
        "2026-10-22",
        (("30 2 * * *", "Europe/Berlin"), ("30 1 * * *", "America/New_York")),
        (
            ("2026-10-24T12:00", None),
            ("2026-10-25T00:35", "2026-10-25T01:35"),  # 2:35 in Berlin, twice
            ("2026-10-25T00:50", None),
            ("2026-10-26T00:40", None),
            ("2026-11-01T05:35", "2026-11-01T06:35"),  # 1:35 in New York, twice
            ("2026-11-01T05:10", None),
            ("2026-11-02T12:00", None),
        ),
    ),
    "a day that does not exist": _Series(
        "2011-12-22",
        (("0 12 * * *", "Pacific/Apia"), ("30 0 * * *", "Pacific/Apia")),
        (
            # not first from the 28th on: there SQLMesh's own plan makes no table of the first model, and fails
            ("2011-12-26T23:00", None),
            ("2011-12-28T12:00", None),
            ("2011-12-30T09:50", "2011-12-30T10:40"),  # from the 29th to the 31st in Apia
            ("2011-12-30T09:55", None),
            ("2011-12-30T22:30", None),
            ("2012-01-01T12:00", None),
        ),
    ),
}
_ZONES = ("UTC", "Pacific/Chatham", "America/New_York", "Europe/Berlin", "Pacific/Apia")
_COMMON = """
import json, os, sys, time
from datetime import datetime, timezone
from pathlib import Path

folder, begin, is_first = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "first"
assert datetime.now(timezone.utc).isoformat() >= begin, "the clock was not set"
assert datetime.now(timezone.utc).isoformat()[:10] == begin[:10], "the clock was not set"
"""
_BARE = """
    from sqlmesh import Context
    context = Context(paths=[str(folder)])
    if is_first:
        context.plan("dev", no_prompts=True, auto_apply=True)
    else:
        context.run("dev")
    context.close()
"""
_OURS = """
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


def _project(folder: Path, series: _Series) -> Project:
    project = Project(folder)
    config = (project.root / "config.yaml").read_text()
    project.write("config.yaml", config.replace("start: 2025-01-01", f"start: {series.start}"))
    times = "@start_dt AS began, @end_dt AS ended"
    by_time = f"kind INCREMENTAL_BY_TIME_RANGE (time_column moment), start '{series.start}'"
    hours = "SELECT h AS moment FROM generate_series(@start_ts::TIMESTAMP, @end_ts::TIMESTAMP, INTERVAL 1 HOUR) AS t(h)"
    project.model("hourly", hours, f"{by_time}, cron '@hourly'")
    days = (
        hours.replace("HOUR", "DAY").replace("@start_ts", "@start_ds").replace("@end_ts", "@end_ds")
    )
    for name, (cron, zone) in zip(("one_zone", "another_zone"), series.crons, strict=True):
        project.model(name, days, f"{by_time}, cron '{cron}', cron_tz '{zone}'")
    project.model(
        "appended",
        f"SELECT {times}",
        f"kind INCREMENTAL_UNMANAGED, start '{series.start}', cron '@hourly'",
    )
    project.model("whole", "SELECT @execution_ds::DATE AS day", "kind FULL, cron '@daily'")
    project.write(
        "models/jumping.py",
        """
        import time
        import typing as t
        from pathlib import Path
        from threading import Event
        import pandas as pd
        from sqlmesh import ExecutionContext, model

        @model("demo.jumping", columns={"n": "int"}, kind="FULL", cron="@hourly")
        def execute(context: ExecutionContext, **kwargs: t.Any) -> pd.DataFrame:
            jump, before = Path(FOLDER) / "jump", time.time()
            if jump.exists():
                jump.rename(jump.with_name("clock"))
                while abs(time.time() - before) < 60:  # the library looks once a second
                    Event().wait(0.1)  # `time.sleep` raises where the library moves the clock
            return pd.DataFrame({"n": [1]})
        """.replace("FOLDER", repr(str(folder))),
    )
    return project


def _offset(moment: str) -> str:
    wanted = datetime.fromisoformat(moment).replace(tzinfo=timezone.utc)
    return f"{wanted.timestamp() - time.time() + 1:+.0f}"


def _run(project: Project, body: str, steps: Steps) -> None:
    """A process for each step: libfaketime does not survive that its process sets a variable meanwhile."""
    clock, jump, log = (project.root / name for name in ("clock", "jump", "log"))
    for number, (begin, middle) in enumerate(steps):
        clock.write_text(_offset(begin))
        if middle:
            jump.write_text(_offset(middle))
        which = "first" if number == 0 else "later"
        with log.open("w") as output:
            done = subprocess.run(
                [
                    sys.executable,
                    "-c",
                    textwrap.dedent(_COMMON) + textwrap.dedent(body),
                    str(project.root),
                    begin,
                    which,
                ],
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(sys.path),
                    "LD_PRELOAD": str(_LIBRARY),
                    "FAKETIME_TIMESTAMP_FILE": str(clock),
                    "FAKETIME_CACHE_DURATION": "1",
                    "FAKETIME_DONT_FAKE_MONOTONIC": "1",
                    "NO_FAKE_STAT": "1",
                    "TZ": _ZONES[number % len(_ZONES)] if body is _OURS else "UTC",
                },
                stdout=output,
                stderr=output,
                timeout=400,
            )
        assert done.returncode == 0, f"{begin}: {log.read_text()[-6000:]}"


def _rows(project: Project, model: str, columns: str) -> list[tuple[Any, ...]]:
    return project.query(
        f"SELECT {columns}, count(*) FROM demo__dev.{model} GROUP BY ALL ORDER BY ALL"
    )


def _spans(project: Project) -> list[list[datetime]]:
    """What batches have appended, without their borders: of a first plan and of a first run they differ."""
    spans: list[list[datetime]] = []
    for began, ended, times in _rows(project, "appended", "began, ended"):
        assert times == 1
        if spans and began - spans[-1][1] == timedelta(microseconds=1):
            spans[-1][1] = ended
        else:
            spans.append([began, ended])
    return spans


@pytest.mark.skipif(_LIBRARY is None, reason="needs Debian's package libfaketime")
@pytest.mark.parametrize("series", _SERIES.values(), ids=_SERIES)
def test_under_a_clock_that_jumps_dagster_builds_what_bare_sqlmesh_does(
    tmp_path: Path, series: _Series
) -> None:
    """Promise: no interval more or less, no row twice, in any time zone; a tick asks for what its run builds."""
    bare = _project(tmp_path / "bare", series)
    ours = _project(tmp_path / "dagster" / "project", series)
    _run(bare, _BARE, series.steps)
    _run(ours, _OURS, series.steps)
    columns = {
        "hourly": "moment",
        "one_zone": "moment",
        "another_zone": "moment",
    }
    for model, names in columns.items():
        assert _rows(ours, model, names) == _rows(bare, model, names), model
    assert _spans(ours) == _spans(bare)
    # where SQLMesh's first plan ends before this model's last interval, bare SQLMesh shows the table of that plan for ever
    assert _rows(ours, "whole", "day") == [(date.fromisoformat(series.steps[-1][0][:10]), 1)]
    twice = [row for row in _rows(ours, "hourly", "moment") if row[-1] != 1]
    assert not twice
    hours = {f"{moment:%Y-%m-%d-%H:%M}" for moment, _ in _rows(ours, "hourly", "moment")}
    assert set(json.loads((ours.root / "hours.json").read_text())) == hours
