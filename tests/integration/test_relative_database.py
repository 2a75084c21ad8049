"""A relative DuckDB path leads to the file that `sqlmesh` made, wherever Dagster was started."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest
from sqlmesh import Context
from tests.sqlmesh_dagster.projects import Project, run_in_process

CONFIG = """
gateways:
  local:
    connection:
      type: duckdb
      catalogs: {warehouse: warehouse.duckdb}
    state_connection: {type: duckdb, database: state.duckdb}
default_gateway: local
model_defaults: {dialect: duckdb, start: 2025-01-01}
disable_anonymized_analytics: true
"""


def _project(root: Path) -> Project:
    project = Project(root / "repository" / "transform", {"environment": "prod"})
    project.write("config.yaml", CONFIG)
    project.model("m", "SELECT 1::INT AS id")
    (root / "repository" / ".git").mkdir()
    (root / "elsewhere").mkdir()
    return project


def _planned(project: Project) -> None:
    """As `sqlmesh plan --auto-apply` in the working directory."""
    context = Context(paths=str(project.root))
    context.plan("prod", auto_apply=True, no_prompts=True)
    context.close()


@pytest.mark.parametrize("started_in", ["repository/transform", "repository"])
def test_the_database_that_sqlmesh_made_is_used(
    started_in: str,
    tmp_path: Path,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Promise: production is found, state and data alike, and no second one is begun elsewhere."""
    project = _project(tmp_path)
    monkeypatch.chdir(tmp_path / started_in)
    _planned(project)
    monkeypatch.chdir(tmp_path / "elsewhere")
    run = run_in_process(project.definitions(), instance, now=None)
    assert run.success, run.failed
    assert (run.materialized, run.unchanged) == ([], ["m"])
    found = {path.relative_to(tmp_path).parent.as_posix() for path in tmp_path.rglob("*.duckdb")}
    assert found == {started_in}


def test_two_such_files_are_a_question_for_the_owner(
    tmp_path: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise: nothing is touched, both are named, and definitions load all the same."""
    project = _project(tmp_path)
    for folder in ("repository/transform", "repository"):
        monkeypatch.chdir(tmp_path / folder)
        _planned(project)
    definitions = project.definitions()
    run = run_in_process(definitions, instance, now=None)
    assert not run.success
    text = "\n".join(run.failed.values())
    assert "`state.duckdb` is relative, and there are two such files" in text or (
        "`warehouse.duckdb` is relative, and there are two such files" in text
    )
    assert str(tmp_path / "repository/transform") in text


def test_a_database_that_is_not_there_yet_is_made_in_the_project(
    tmp_path: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise: where `sqlmesh` in the project's folder finds it."""
    project = _project(tmp_path)
    monkeypatch.chdir(tmp_path / "elsewhere")
    run = run_in_process(project.definitions(undeployed_changes="apply"), instance, now=None)
    assert run.materialized == ["m"], run.failed
    assert (project.root / "warehouse.duckdb").exists()
    assert not list((tmp_path / "elsewhere").iterdir())
