"""`poe check` asks SQLMesh three things in one process, and each can say no."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from sqlmesh import Context
from tests.sqlmesh_dagster.projects import Project

pytestmark = pytest.mark.slow

_UNIT_TEST = """
test_of_one:
  model: demo.one
  outputs:
    query:
      - id: {id}
"""
_AUDIT = "audits (not_null(columns := (id)))"
_LINTER = "project: named\nlinter: {enabled: true, rules: [nomissingaudits]}\nformat: {normalize: false}\n"


def _checked(project: Project) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "sqlmesh_dagster.engine.checking"],
        env={
            **os.environ,
            "SQLMESH_PROJECT_DIR": str(project.root),
            "PYTHONPATH": os.pathsep.join(sys.path),
        },
        cwd=project.root.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_the_linter_a_unit_test_and_the_formatter_fail_the_check(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise: one after the other, in SQLMesh's words, with its exit status.

    Asked elsewhere, a relative DuckDB path leads to the project's file: a second one would stop all runs.
    """
    monkeypatch.chdir(project.root)
    config = project.root / "config.yaml"
    relative = config.read_text().replace(str(project.database), project.database.name)
    config.write_text(relative + _LINTER)
    project.write("models/one.sql", "MODEL (name demo.one, kind FULL);\nSELECT 1::INT AS id\n")
    project.write("tests/test_one.yaml", _UNIT_TEST.format(id=2))
    status, said = _checked(project)
    assert status == 1 and "nomissingaudits" in said and "test_of_one" not in said, said

    project.write(
        "models/one.sql", f"MODEL (name demo.one, kind FULL, {_AUDIT});\nSELECT 1::INT AS id\n"
    )
    status, said = _checked(project)
    assert status == 1 and "test_of_one" in said and "poe format" not in said, said

    project.write("tests/test_one.yaml", _UNIT_TEST.format(id=1))
    status, said = _checked(project)
    assert status == 1 and "Ran `1` Tests" in said and "Run `poe format`." in said, said

    context = Context(paths=str(project.root))
    context.format()
    context.close()
    status, said = _checked(project)
    assert status == 0, said
    assert [*project.root.parent.rglob("*.duckdb*")] == [project.database]
