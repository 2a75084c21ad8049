"""Databases that are locked, missing, read-only, full or of another version: one message, and nothing lost."""

from __future__ import annotations

import threading

import dagster as dg
import pytest

from tests.sqlmesh_dagster.projects import Project, held_by_another_process, run_in_process

_LATER = "2025-01-12T00:30:00"
_CONNECTIONS = {
    "one-file": "connection: {{type: duckdb, database: {file}}}",
    "attached": "connection: {{type: duckdb, catalogs: {{warehouse: {file}}}}}",
    "state-elsewhere": (
        "connection: {{type: duckdb, catalogs: {{warehouse: {file}}}}},"
        " state_connection: {{type: duckdb, database: {file}.state}}"
    ),
}


def _connect(project: Project, connections: str) -> None:
    gateway = _CONNECTIONS[connections].format(file=project.database)
    project.write(
        "config.yaml",
        f"""
        gateways: {{local: {{{gateway}}}}}
        model_defaults: {{dialect: duckdb, start: 2025-01-01, cron: '@daily'}}
        """,
    )


@pytest.mark.parametrize("connections", _CONNECTIONS)
def test_a_run_waits_for_whoever_holds_the_file_again_and_again(
    project: Project, instance: dg.DagsterInstance, connections: str
) -> None:
    """Promise: a process that gave up once waits the next time, and goes on when the file is free.

    SQLMesh keeps a connection whose file could not be attached, and takes it for open.
    """
    _connect(project, connections)
    project.model("full", "SELECT 1::INT AS id")
    assert run_in_process(project.definitions(), instance).success
    for _ in range(2):
        with held_by_another_process(project.database):
            hasty = run_in_process(project.definitions(wait_timeout=0.6), instance, now=_LATER)
        ((_, error),) = hasty.failed.items()
        assert "DuckDB file is in use" in error
    with held_by_another_process(project.database) as holder:
        threading.Timer(1, lambda: holder.communicate(b"\n")).start()
        patient = run_in_process(project.definitions(), instance, now=_LATER)
    assert patient.materialized == ["full"]
    assert project.query("SELECT id FROM demo__dev.full") == [(1,)]
