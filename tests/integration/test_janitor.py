"""SQLMesh's janitor: what it cannot drop is never the models' fault."""

from __future__ import annotations

import logging
from pathlib import Path

import dagster as dg
import pytest
from tests.sqlmesh_dagster.projects import NOW, Project, Run, last_run, run_in_process, start

_MATERIALIZATION = """
from sqlmesh import CustomMaterialization

class Copied(CustomMaterialization):
    NAME = "copied"

    def insert(self, table_name, query_or_df, model, is_first_insert, render_kwargs, **kwargs):
        self.adapter.replace_query(table_name, query_or_df)
"""


@pytest.fixture
def production(project: Project) -> Project:
    """A model of production."""
    project.settings = {"environment": "prod", "undeployed_changes": "apply"}
    project.model("kept", "SELECT 1::INT AS id")
    return project


def _expire(project: Project, instance: dg.DagsterInstance) -> None:
    """Removes the model `gone`, and lets what is left of it expire."""
    assert run_in_process(project.definitions(), instance).success
    (project.root / "models" / "demo_46_gone.sql").unlink()
    assert run_in_process(project.definitions(), instance).success
    project.execute(
        "UPDATE sqlmesh._snapshots SET ttl_ms = 1, updated_ts = 1 WHERE name LIKE '%gone%'"
    )


@pytest.mark.slow
def test_what_the_janitor_needs_is_loaded(
    production: Project, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    """Promise: a new process drops a snapshot of a custom materialization, and reports it for no model."""
    production.write("materializations/copied.py", _MATERIALIZATION)
    production.model("gone", "SELECT 1::INT AS id", "kind CUSTOM (materialization 'copied')")
    _expire(production, instance)
    home = tmp_path / "home"
    start(production, home, options={"execution_time": "2025-01-11T00:30:00"}).wait(timeout=300)
    assert last_run(home).materialized == ["kept"]
    assert not production.query("SELECT 1 FROM sqlmesh._snapshots WHERE name LIKE '%gone%'")


@pytest.mark.parametrize(("now", "built"), [("2025-01-11T00:30:00", ["kept"]), (NOW, [])])
def test_what_it_cannot_drop_is_a_warning_of_the_run(
    production: Project, instance: dg.DagsterInstance, now: str, built: list[str]
) -> None:
    """Promise: models are built, the run succeeds, and its log says what is left; also if nothing is due."""
    production.model("gone", "SELECT 1::INT AS id")
    _expire(production, instance)
    ((table,),) = production.query(
        "SELECT table_name FROM duckdb_tables() WHERE table_name LIKE '%gone%'"
    )
    production.execute(f"DROP TABLE sqlmesh__demo.{table}")
    production.execute(f"CREATE VIEW sqlmesh__demo.{table} AS SELECT 1 AS id")  # no table to drop
    run = run_in_process(production.definitions(), instance, now=now)
    assert run.success
    assert [name for name in run.materialized if _is_new(run, name)] == built
    warnings = [
        entry.user_message
        for entry in instance.all_logs(run.run_id)
        if entry.level == logging.WARNING and "janitor" in entry.user_message
    ]
    assert len(warnings) == 1
    assert table in warnings[0]


def _is_new(run: Run, name: str) -> bool:
    """Whether the model was executed, and not only reported."""
    return "sqlmesh/batches" in run.metadata(name)
