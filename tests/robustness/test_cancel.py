"""Runs that are cancelled in the UI, in the middle of a query: SQLMesh stops, and nothing else happens."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from tests.sqlmesh_dagster.projects import run_config

from tests.conftest import Render
from tests.robustness.projects import (
    IN_PROCESS,
    PACKAGE,
    Generated,
    multiprocess,
    processes_of,
    wait_until,
)
from tests.webserver import Ask, end_of, launch, location_of, served, start, terminate

pytestmark = pytest.mark.generated

_LIMIT = 10
"""Seconds from the click on "Terminate" until nothing of the run is left."""
_BEFORE_ALL = [
    "CREATE SCHEMA IF NOT EXISTS raw",
    "CREATE TABLE IF NOT EXISTS raw.width AS FROM range(100000) AS t (n)",
]
"""With these rows the slow model's one query is hours of work; with one of them, none."""
_EXECUTORS = [
    pytest.param(IN_PROCESS, id="in-process"),
    pytest.param(multiprocess(3, "forkserver", f"sqlmesh,{PACKAGE}.definitions"), id="processes"),
]


def _slow(project: Generated, marker: Path, extra: int = 0) -> None:
    """Writes the model that is slow, and that makes a file when its query begins."""
    query = "SELECT count(*) FROM range(100000000) AS a, raw.width AS b"
    body = f"""
    Path({str(marker)!r}).touch()
    (count,) = context.engine_adapter.fetchone({query!r})
    return count + {extra}
    """
    project.python_model("slow", body, depends_on=["demo.quick", "raw.width"])


def _cancel(ask: Ask, project: Generated, location: str, marker: Path) -> str:
    """Launches all, cancels in the slow query, and waits until nothing is left: the run's id."""
    idle = set(processes_of(project.root))
    run = start(ask, location, "__ASSET_JOB", config=run_config())
    wait_until(marker.exists, project.root / "dev.log")
    asked = time.monotonic()
    terminate(ask, run)
    wait_until(lambda: set(processes_of(project.root)) <= idle, project.root / "dev.log")
    assert time.monotonic() - asked < _LIMIT
    assert project.is_released()
    assert end_of(ask, run) == "CANCELED"
    marker.unlink()
    return run


@pytest.mark.parametrize("executor", _EXECUTORS)
def test_a_run_that_is_terminated_in_the_ui_stops_in_the_middle_of_a_query(
    render: Render, tmp_path: Path, executor: str
) -> None:
    """Promise: within ten seconds no process and no lock is left, nothing more is built or promoted,
    and the next run completes the rest; be it the run or its plan that is stopped.
    """
    project = Generated.tiny(
        render, tmp_path / "project", before_all=_BEFORE_ALL, SQLMESH_ENVIRONMENT="prod"
    )
    transform = f"src/{PACKAGE}/defs/transform.py"
    project.replace(transform, "enable_schedule=False", 'undeployed_changes="apply"')
    project.use_executor(executor)
    marker = tmp_path / "began"
    project.model("quick", "SELECT 1::INT AS id")
    _slow(project, marker)
    project.model("after_slow", "SELECT n::BIGINT AS n FROM demo.slow")
    with served(project.root, project.environment) as ask:
        location = location_of(ask)
        run = _cancel(ask, project, location, marker)
        assert project.recorded(run).materialized == []  # it deployed, which is whole or not at all
        assert project.query("SELECT 1 FROM duckdb_views() WHERE schema_name = 'demo'") == []

        project.query("DELETE FROM raw.width WHERE n > 0")
        rest, status = launch(ask, location, "__ASSET_JOB", config=run_config())
        assert status == "SUCCESS"
        assert project.recorded(rest).unchanged == ["quick"]
        assert project.recorded(rest).materialized == ["slow", "after_slow"]
        assert project.query("FROM demo.after_slow") == [(100000000,)]

        before = project.tables()
        marker.unlink()
        _slow(project, marker, extra=1)
        project.query("INSERT INTO raw.width FROM range(1, 100000)")
        planned = _cancel(ask, project, location, marker)
        after = project.tables()
        assert project.recorded(planned).materialized == []
        assert {name: rows for name, rows in after.items() if rows} == before

        project.query("DELETE FROM raw.width WHERE n > 0")
        rest, status = launch(ask, location, "__ASSET_JOB", config=run_config())
        assert status == "SUCCESS"
        assert project.query("FROM demo.after_slow") == [(100000001,)]
