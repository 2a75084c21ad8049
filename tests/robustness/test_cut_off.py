"""A server that is cut off in each phase of a run, by a proxy: of SQLMesh's data and state."""

from __future__ import annotations

import time
from collections.abc import Iterator

import dagster as dg
import pytest
from tests.sqlmesh_dagster.projects import Project, run_in_process

from tests.integration.conftest import instance, own_process, project
from tests.postgres import Server
from tests.robustness.proxy import Proxy, proxy
from tests.robustness.test_state_locks import _on_postgres, database, server

__all__ = ["database", "instance", "own_process", "project", "server"]
pytestmark = [pytest.mark.slow, pytest.mark.storm]

_PHASES = {
    "taking the lock": "pg_try_advisory_lock",
    "the plan": r"INSERT INTO [^;]*_environments",
    "a table": "CREATE TABLE [^;]*demo__days",
    "the build": "INSERT INTO [^;]*demo__days",
    "the record": r"INSERT INTO [^;]*_intervals",
    "release": "pg_advisory_unlock",
}
_SECONDS = 90
_LATER = "2025-01-12T00:30:00"


@pytest.fixture
def cutter(server: Server) -> Iterator[Proxy]:
    """In front of the server."""
    with proxy(server.port) as running:
        yield running


def _write_models(project: Project) -> None:
    by_day = "kind INCREMENTAL_BY_TIME_RANGE (time_column day), start '2025-01-08'"
    rows = "SELECT d::DATE AS day FROM generate_series(@start_ds::DATE, @end_ds::DATE, '1 day') AS t(d)"
    project.model("days", rows, by_day)
    project.model("below", "SELECT count(*) AS n FROM demo.days", "kind FULL, cron '@daily'")


@pytest.mark.parametrize("when", ["first", "later"])
@pytest.mark.parametrize("phase", _PHASES)
def test_a_cut_in_any_phase_ends_the_run_and_the_next_one_completes_it(
    project: Project,
    instance: dg.DagsterInstance,
    server: Server,
    database: str,
    cutter: Proxy,
    phase: str,
    when: str,
) -> None:
    """Promise: one message that says the server is gone; no interval is lost, and no row is there twice."""
    _on_postgres(project, cutter.port, database)
    _write_models(project)
    definitions = project.definitions(wait_timeout=5)
    if when == "later":
        assert run_in_process(definitions, instance).success
    cutter.cut_at(_PHASES[phase])
    begin = time.monotonic()
    cut = run_in_process(definitions, instance, now=_LATER)
    assert time.monotonic() - begin < _SECONDS
    if cutter.cuts == 0:
        pytest.skip(f"{phase} does not come in a {when} run")
    if not cut.success:
        errors = set(cut.failed.values())
        assert all(_is_told(error) for error in errors), errors
    again = run_in_process(definitions, instance, now=_LATER)
    assert again.success, again.failed
    assert server.query(database, "SELECT count(*), count(DISTINCT day) FROM demo__dev.days") == [
        (4, 4)
    ]
    assert server.query(database, "SELECT n FROM demo__dev.below") == [(4,)]


def _is_told(error: str) -> bool:
    """In words of ours, or as a model that was skipped because of it."""
    return (
        "cannot be reached, or has ended the" in error
        or "held the lock on SQLMesh's state was lost" in error
        or "Upstream" in error
        or "skipped" in error
    )
