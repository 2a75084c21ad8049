"""Relative paths in a project's files lead where they lead for `sqlmesh`, wherever Dagster was started."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import dagster as dg
import pytest
from tests.sqlmesh_dagster.projects import Project, run_in_process

from sqlmesh_dagster import SQLMeshResource
from sqlmesh_dagster.guard.folder import at_home, home_of, started_in, with_config
from tests.integration import alone

_PYTHON = """
import pandas as pd
from sqlmesh import model

names = pd.read_csv("data/days.csv", nrows=0).columns

@model("demo.frame", kind="FULL", columns={name: "int" for name in names})
def execute(context, start, end, execution_time, **kwargs):
    return pd.read_csv("data/days.csv")
"""
_MACRO = """
import glob
from sqlmesh import macro

@macro()
def tables(evaluator):
    return [f"CREATE OR REPLACE TABLE main.{f[5:-4]} AS SELECT * FROM '{f}'" for f in glob.glob("data/*.csv")]
"""


@pytest.mark.slow
def test_files_that_models_macros_and_sql_name_are_the_projects(
    tmp_path: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise: the rows of `sqlmesh` in the project's folder; afterwards Dagster is where it was."""
    project = Project(tmp_path / "transform", {"environment": "prod"})
    project.write("data/days.csv", "id,day\n1,7\n2,8\n")
    project.write("models/frame.py", _PYTHON)
    project.write("macros/tables.py", _MACRO)
    config = project.root / "config.yaml"
    config.write_text(f'{config.read_text()}  - "@tables()"\n')
    project.model("direct", "SELECT id FROM read_csv('./data/*.csv')")
    project.model("loaded", "SELECT id FROM main.days")
    copy = alone.copied(project, tmp_path / "copy")
    monkeypatch.chdir(copy.root)
    _, problem = alone.plan(copy)
    assert problem is None
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    run = run_in_process(project.definitions(undeployed_changes="apply"), instance)
    assert run.success, run.failed
    assert alone.done(project) == alone.done(copy)
    for name in ("frame", "direct", "loaded"):
        rows = f"SELECT * FROM demo.{name}"
        assert sorted(project.query(rows)) == sorted(copy.query(rows)) != []
    assert Path.cwd() == tmp_path / "elsewhere" and not list(Path.cwd().iterdir())


def test_an_asset_of_ones_own_works_with_the_projects_context_in_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise: `open_context` finds what a model reads; `connection`, which loads raw data, stays."""
    project = Project(tmp_path / "transform")
    project.write("data/days.csv", "id,day\n1,7\n2,8\n")
    project.write("models/frame.py", _PYTHON)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    sqlmesh = SQLMeshResource(project_dir=str(project.root))
    with sqlmesh.open_context() as context:
        frame = context.evaluate(
            "demo.frame", start="2025-01-01", end="2025-01-02", execution_time="2025-01-03"
        )
    assert [list(row) for row in frame.itertuples(index=False)] == [[1, 7], [2, 8]]
    with sqlmesh.connection():
        assert Path.cwd() == tmp_path / "elsewhere"
    assert Path.cwd() == tmp_path / "elsewhere"


_FILES = {
    "no path": ("model.sql", "SELECT 1 / 2 AS a, 'x.y' AS b", False),
    "a file in quotes": ("model.sql", "SELECT * FROM 'rows.csv'", True),
    "a pattern": ("model.py", 'glob("./data/*.csv")', True),
    "a bare word of a config": ("config.yaml", "path: data/rows.csv", True),
    "a folder": ("model.py", "load('data/')", True),
    "a comment": ("model.sql", "-- see data/rows.csv\nSELECT 1 AS a", False),
    "a comment behind code": ("model.sql", "SELECT 1 AS a -- see 'data/rows.csv'\n", False),
    "a comment of lines": (
        "model.sql",
        "/* From `data/rows.csv`,\n by hand */\nSELECT 1 AS a",
        False,
    ),
    "a docstring": ("model.py", '"""Reads\n`data/rows.csv`."""\n', False),
    "a description": ("model.sql", "MODEL (name a.b, description 'of data/rows.csv')", False),
    "a file that is not there": ("model.sql", "SELECT * FROM 'data/none.csv'", False),
    "a file above": ("model.sql", "SELECT * FROM '../rows.csv'", False),
    "a whole path": ("model.sql", "SELECT * FROM '/etc/hosts'", False),
    "a file that is here, too": ("model.sql", "SELECT * FROM 'both.csv'", False),
    "a seed": ("model.sql", "MODEL (name a.b, kind SEED (path 'rows.csv'))", False),
    "a hidden folder": (".venv/model.sql", "SELECT * FROM 'rows.csv'", False),
}


@pytest.mark.parametrize("case", sorted(_FILES))
def test_a_project_without_such_paths_stays_where_dagster_is(case: str, tmp_path: Path) -> None:
    """Promise: the working directory, which is everybody's, changes only for a path that needs it."""
    project, here = tmp_path / "repository" / "transform", tmp_path / "here"
    for file in ("repository/transform/data/rows.csv", "repository/transform/rows.csv"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    here.mkdir()
    for folder in (here, project):
        (folder / "both.csv").touch()
    name, text, is_moved = _FILES[case]
    (project / name).parent.mkdir(exist_ok=True)
    (project / name).write_text(text)
    assert home_of([project], here) == (project if is_moved else None)


def test_the_sample_stays_where_dagster_is() -> None:
    """Promise: its files name none but those that SQLMesh finds by itself."""
    template = Path(__file__).parents[2] / "template"
    assert home_of([template / "sqlmesh_project"], template) is None


def test_a_path_from_the_root_of_the_repository_is_found_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise: where `sqlmesh -p transform` was typed; one at home already changes nothing."""
    root = tmp_path / "repository"
    project = root / "transform"
    (project / "data").mkdir(parents=True)
    (root / ".git").mkdir()
    (project / "data" / "rows.csv").touch()
    (project / "config.yaml").touch()
    (project / "model.sql").write_text("SELECT * FROM 'transform/data/rows.csv'")
    monkeypatch.chdir(tmp_path)
    with at_home([project]):
        assert (Path.cwd(), started_in()) == (root, tmp_path)
        with at_home([project]):
            assert (Path.cwd(), started_in()) == (root, tmp_path)
    assert (Path.cwd(), started_in()) == (tmp_path, tmp_path)
    assert home_of([project], root) is home_of([project], project) is None


def test_code_that_changes_the_working_directory_leaves_it_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise: a `config.py` that calls `os.chdir` moves no other project of the process."""
    project, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    for folder in (project, elsewhere):
        folder.mkdir()
    (project / "config.yaml").touch()
    monkeypatch.chdir(tmp_path)
    with at_home([project]):
        os.chdir(elsewhere)
    assert Path.cwd() == started_in() == tmp_path
    (project / "data").mkdir()
    (project / "data" / "rows.csv").touch()
    (project / "model.sql").write_text("SELECT * FROM 'data/rows.csv'")
    with at_home([project]), at_home([elsewhere]):
        assert Path.cwd() == project
    assert Path.cwd() == started_in() == tmp_path


def test_threads_share_a_folder_and_wait_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise: two sessions of one project at once; the next project's begins when both have ended."""
    one, other = tmp_path / "one", tmp_path / "other"
    for project in (one, other):
        (project / "data").mkdir(parents=True)
        (project / "data" / "rows.csv").touch()
        (project / "config.yaml").touch()
        (project / "model.sql").write_text("SELECT * FROM 'data/rows.csv'")
    monkeypatch.chdir(tmp_path)
    seen: list[Path] = []

    def work(project: Path) -> None:
        with at_home([project]):
            seen.append(Path.cwd())

    with at_home([one]):
        shared, waiting = (threading.Thread(target=work, args=[folder]) for folder in (one, other))
        shared.start()
        shared.join(30)
        waiting.start()
        waiting.join(0.1)
        assert seen == [one] == [Path.cwd()]
    waiting.join(30)
    assert (seen, Path.cwd()) == ([one, other], tmp_path)


def test_a_folder_without_a_config_is_no_project(tmp_path: Path) -> None:
    """Promise: a setting that names a whole home folder by mistake costs no minutes before it is refused."""
    folders = [tmp_path / name for name in ("home", "yaml", "python", "dbt")]
    for folder, name in zip(
        folders, ("a.sql", "config.yaml", "config.py", "dbt_project.yml"), strict=True
    ):
        folder.mkdir()
        (folder / name).touch()
    assert with_config([*folders, tmp_path / "nowhere"]) == folders[1:]
