"""What the integration asks of Python's garbage collector, and that it takes nothing for good."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from typing import Any

import dagster as dg
import pytest
from tests.sqlmesh_dagster.projects import Project, run_in_process

pytestmark = pytest.mark.slow

_LOAD_TWICE = """
import gc, json, sys
from sqlmesh_dagster import sqlmesh_definitions_factory

frozen = [gc.get_freeze_count()]  # from Python 3.12 on, not 0
for _ in range(2):
    sqlmesh_definitions_factory(project_dir=sys.argv[1])
    frozen.append(gc.get_freeze_count())
print(json.dumps({"frozen": frozen, "threshold": gc.get_threshold()[0]}))
"""


def test_the_first_definitions_are_frozen_and_no_others(project: Project) -> None:
    """Promise: a process that loads again and again keeps no more than the first definitions."""
    project.model("a", "SELECT 1 AS id")
    _told(project)  # stores the manifest
    told = _told(project)
    before, first, second = told["frozen"]
    assert first >= second > before + 10_000  # a few are gone: nothing refers to them any more
    assert told["threshold"] == gc.get_threshold()[0]


def test_what_a_load_of_the_project_leaves_behind_is_not_frozen(project: Project) -> None:
    """Promise: SQLMesh's models are collected when a process has read them."""
    project.model("a", "SELECT 1 AS id")
    before, *after = _told(project)["frozen"]
    assert after == [before, before]


def test_what_a_run_reads_is_frozen_in_its_own_process_alone(
    project: Project, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise: a process that goes on after a run collects what the run has read."""
    project.model("a", "SELECT 1 AS id")
    definitions = project.definitions()
    before = gc.get_freeze_count()
    assert run_in_process(definitions, instance).success
    assert gc.get_freeze_count() <= before
    monkeypatch.setattr(sys, "argv", [*sys.argv, "execute_run"])  # as Dagster starts it
    assert run_in_process(definitions, instance).success
    assert gc.get_freeze_count() > before + 10_000
    gc.unfreeze()


def _told(project: Project) -> dict[str, Any]:
    output = subprocess.run(
        [sys.executable, "-c", _LOAD_TWICE, str(project.root)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=True,
        stdout=subprocess.PIPE,
    ).stdout
    told: dict[str, Any] = json.loads(output)
    return told
