"""Where each step runs SQLMesh alone: what a `sqlmesh run` does once is done once in a Dagster run."""

from __future__ import annotations

import shutil
from pathlib import Path

import dagster as dg
import pytest
from sqlmesh import Context
from tests.sqlmesh_dagster.projects import Project, Run, run_forked, run_in_process

LATER = "2025-01-11T00:30:00"
LATEST = "2025-01-12T00:30:00"
_PRELOADED = "sqlmesh_dagster.engine.sqlmesh_run"
"""Each step runs SQLMesh."""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Logs each statement before and after all, with what was built by then."""
    project = Project(tmp_path / "project", {"environment": "dev", "execution": "per_step"})
    config = (project.root / "config.yaml").read_text()
    config = config.replace(
        "  - INSERT INTO main.run_log VALUES (now())\n", _LOGGED.format("begin")
    )
    project.write("config.yaml", f"{config}after_all:\n{_LOGGED.format('end')}")
    project.execute("CREATE TABLE IF NOT EXISTS main.log (what TEXT, moment TIMESTAMP)")
    project.model("first", "SELECT 1 AS id, now() AS moment")
    project.model("second", "SELECT id, now() AS moment FROM demo.first")
    project.model("alone", "SELECT 1 / (SELECT n FROM main.divisor) AS id, now() AS moment")
    project.model("below", "SELECT id FROM demo.alone")
    project.execute("CREATE TABLE main.divisor AS SELECT 1 AS n")
    return project


_LOGGED = "  - INSERT INTO main.log SELECT '{}', now()\n"


def _logged(project: Project) -> list[str]:
    rows = project.query("SELECT what FROM main.log ORDER BY moment")
    project.execute("TRUNCATE main.log")
    return [what for (what,) in rows]


def _deployed(project: Project, instance: dg.DagsterInstance) -> dg.Definitions:
    definitions = project.definitions()
    run = run_in_process(definitions, instance)
    assert run.success, run.failed
    _logged(project)
    return definitions


def test_statements_run_once_as_in_sqlmesh(
    project: Project, tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    """Promise: before the first model and after the last one, in a retry of the run again."""
    definitions = _deployed(project, instance)
    copy = tmp_path / "copy"
    shutil.copytree(project.root, copy)
    config = (copy / "config.yaml").read_text()
    (copy / "config.yaml").write_text(config.replace(str(project.root), str(copy)))
    context = Context(paths=str(copy), load=False)
    context.run("dev", execution_time=LATER)
    context.close()
    alone = Project.__new__(Project)
    alone.root = copy
    bare = _logged(alone)
    run = run_in_process(definitions, instance, now=LATER)
    assert run.success, run.failed
    assert _logged(project) == bare == ["begin", "end"]
    run = run_in_process(definitions, instance, now=LATER)
    assert run.unchanged
    assert _logged(project) == []


def test_they_run_once_though_models_fail(project: Project, instance: dg.DagsterInstance) -> None:
    """Promise: what is skipped because of a failure is not waited for."""
    definitions = _deployed(project, instance)
    project.execute("UPDATE main.divisor SET n = NULL")
    project.execute("ALTER TABLE main.divisor RENAME TO gone")
    run = run_in_process(definitions, instance, now=LATER)
    assert sorted(run.materialized) == ["first", "second"]
    assert list(run.failed) == ["warehouse__demo__alone"]
    assert _logged(project) == ["begin", "end"]


@pytest.mark.slow
def test_they_run_once_in_many_processes(project: Project, tmp_path: Path) -> None:
    """Promise: whichever process is first and last; `after_all` comes after every model."""
    run: Run = run_forked(project, tmp_path / "home", preloaded=_PRELOADED)
    assert run.success, run.failed
    _logged(project)
    run = run_forked(
        project, tmp_path / "home", preloaded=_PRELOADED, options={"execution_time": LATER}
    )
    assert run.success, run.failed
    ((ended,),) = project.query("SELECT max(moment) FROM main.log WHERE what = 'end'")
    ((built,),) = project.query("SELECT max(moment) FROM demo__dev.second")
    assert ended > built.replace(tzinfo=None)
    assert _logged(project) == ["begin", "end"]
