"""Every kind of node: what SQLMesh's scheduler evaluates is what a tick requests and a run evaluates."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from sqlmesh import Context
from sqlmesh.core.console import NoopConsole, set_console
from tests.sqlmesh_dagster.projects import Project, run_in_process

LATER = "2025-01-11T00:30:00"
_KINDS = {
    "whole": "kind FULL",
    "view": "kind VIEW",
    "days": "kind INCREMENTAL_BY_TIME_RANGE (time_column day)",
    "keys": "kind INCREMENTAL_BY_UNIQUE_KEY (unique_key id)",
    "parts": "kind INCREMENTAL_BY_PARTITION, partitioned_by [id]",
    "appended": "kind INCREMENTAL_UNMANAGED",
    "slow": "kind SCD_TYPE_2_BY_COLUMN (unique_key id, columns [id])",
    "weekly": "kind FULL, cron '@weekly'",
    "restated": "kind INCREMENTAL_BY_TIME_RANGE (time_column day, auto_restatement_cron '@daily'),"
    " cron '@weekly'",
    "waiting": "kind FULL, signals (never())",
    "within": "kind EMBEDDED",
}


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """An instance on disk: a tick opens its own."""
    (tmp_path / "home").mkdir()
    with dg.DagsterInstance.local_temp(str(tmp_path / "home")) as local:
        yield local


def _write(project: Project) -> None:
    project.write("seeds/names.csv", "id\n1\n")
    project.model("names", "", "kind SEED (path '../seeds/names.csv'), columns (id INT)")
    for name, properties in _KINDS.items():
        project.model(name, "SELECT 1::INT AS id, '2025-01-10'::DATE AS day", properties)
    project.model("joined", "SELECT i.id, r.id AS other FROM demo.within AS i, raw.things AS r")
    project.write(
        "signals/__init__.py",
        "from sqlmesh import signal\n\n@signal()\ndef never(batch):\n    return False\n",
    )
    project.write(
        "audits/alone.sql",
        "AUDIT (name alone, standalone true); SELECT 1 FROM demo.whole WHERE id < 0",
    )
    project.write(
        "external_models.yaml",
        "- name: raw.things\n  columns: {id: INT}\n  audits:\n"
        "    - name: not_null\n      columns: '[id]'\n"
        "    - name: unique_values\n      columns: '[id]'\n      blocking: 'false'\n",
    )
    project.execute("CREATE SCHEMA raw")
    project.execute("CREATE TABLE raw.things AS SELECT 1::INT AS id")


class _Heard(NoopConsole):
    """The nodes that SQLMesh's scheduler evaluates."""

    def __init__(self) -> None:
        self.evaluated: set[str] = set()

    def start_snapshot_evaluation_progress(self, snapshot: Any, audit_only: bool = False) -> None:
        self.evaluated.add(snapshot.name.split(".")[-1].strip('"'))


def _alone(root: Path) -> set[str]:
    heard = _Heard()
    set_console(heard)
    context = Context(paths=str(root), load=False)
    try:
        context.run("prod", execution_time=LATER)
    finally:
        context.close()
        set_console(NoopConsole())
    return heard.evaluated


def test_a_tick_and_its_run_evaluate_what_sqlmesh_does(
    project: Project, tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    """Promise: of models and standalone audits all, and no more; one with a closed signal waits."""
    _write(project)
    definitions = project.definitions(environment="prod", undeployed_changes="apply")
    run = run_in_process(definitions, instance)
    assert run.success, run.failed
    copy = tmp_path / "copy"
    shutil.copytree(project.root, copy)
    config = (copy / "config.yaml").read_text()
    (copy / "config.yaml").write_text(config.replace(str(project.root), str(copy)))
    alone = _alone(copy)
    context = dg.build_schedule_context(
        instance,
        scheduled_execution_time=datetime.fromisoformat(LATER).replace(tzinfo=timezone.utc),
        repository_def=definitions.get_repository_def(),
    )
    tick = definitions.resolve_schedule_def("sqlmesh_adaptive_schedule").evaluate_tick(context)
    (request,) = tick.run_requests or ()
    result = definitions.resolve_job_def("sqlmesh_job").execute_in_process(
        instance=instance,
        run_config=request.run_config,
        asset_selection=list(request.asset_selection or ()),
        raise_on_error=False,
    )
    evaluated = {
        e.asset_key.path[-1] if e.asset_key else ""
        for e in result.get_asset_materialization_events()
        if e.materialization.metadata["sqlmesh/status"].value == "built"
    }
    checked = {(e.asset_key.path[-1], e.check_name) for e in result.get_asset_check_evaluations()}
    assert evaluated == alone - {"alone", "things"}
    assert "alone" in alone and ("whole", "alone") in checked
