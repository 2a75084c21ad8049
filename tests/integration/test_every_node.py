"""Every kind of node: what SQLMesh's scheduler evaluates is what a tick requests and a run evaluates."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import dagster as dg
import pytest
from tests.sqlmesh_dagster.projects import Project, run_in_process

from tests.integration import alone

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


def _tick(
    definitions: dg.Definitions, instance: dg.DagsterInstance, at: str
) -> tuple[dg.RunRequest, set[str]]:
    """A tick's request, and the names of what its run evaluates: models, and audits without one."""
    schedule = definitions.resolve_schedule_def("sqlmesh_adaptive_schedule")
    with dg.build_schedule_context(
        instance,
        scheduled_execution_time=datetime.fromisoformat(at).replace(tzinfo=timezone.utc),
        repository_def=definitions.get_repository_def(),
    ) as context:
        tick = schedule.evaluate_tick(context)
    (request,) = tick.run_requests or ()
    job = definitions.resolve_job_def("sqlmesh_job").get_subset(  # as the daemon does
        asset_selection=frozenset(request.asset_selection or ()),
        asset_check_selection=frozenset(request.asset_check_keys or ()),
    )
    result = job.execute_in_process(
        instance=instance, run_config=request.run_config, raise_on_error=False
    )
    built = {
        e.asset_key.path[-1] if e.asset_key else ""
        for e in result.get_asset_materialization_events()
        if e.materialization.metadata["sqlmesh/status"].value == "built"
    }
    checks = {(e.asset_key.path[-1], e.check_name) for e in result.get_asset_check_evaluations()}
    standalone = {"alone"} & {check for _, check in checks}
    return request, built | standalone | {"things" for table, _ in checks if table == "things"}


@pytest.mark.slow
def test_a_tick_and_its_run_evaluate_what_sqlmesh_does(
    project: Project, tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    """Promise: of models, external tables and standalone audits all, and no more; the same is done then.

    One with a closed signal waits.
    """
    _write(project)
    definitions = project.definitions(environment="prod", undeployed_changes="apply")
    run = run_in_process(definitions, instance)
    assert run.success, run.failed
    copy = alone.copied(project, tmp_path / "copy")
    evaluated = set(alone.run(copy, at=LATER).evaluated)
    assert _tick(definitions, instance, LATER)[1] == evaluated
    assert {"alone", "things", "whole"} <= evaluated
    assert alone.done(project) == alone.done(copy)


def test_audits_without_a_model_are_due_by_themselves(
    project: Project, tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    """Promise: where no model is due, a tick requests the audits that are, as SQLMesh evaluates them.

    What a blocking audit finds is not done, and is due again; SQLMesh says so, too.
    """
    project.model("seldom", "SELECT id FROM raw.things", "kind FULL, cron '@weekly'")
    project.write(
        "audits/alone.sql",
        "AUDIT (name alone, standalone true, cron '@hourly');"
        " SELECT 1 FROM demo.seldom WHERE id < 0",
    )
    project.write(
        "external_models.yaml",
        "- name: raw.things\n  columns: {id: INT}\n  audits:\n"
        "    - name: not_null\n      columns: '[id]'\n",
    )
    project.execute("CREATE SCHEMA raw")
    project.execute("CREATE TABLE raw.things AS SELECT 1::INT AS id")
    definitions = project.definitions(environment="prod", undeployed_changes="apply")
    assert definitions.resolve_schedule_def("sqlmesh_adaptive_schedule").cron_schedule == "@hourly"
    assert run_in_process(definitions, instance).success
    copy = alone.copied(project, tmp_path / "copy")
    request, evaluated = _tick(definitions, instance, LATER)
    assert not request.asset_selection
    assert evaluated == set(alone.run(copy, at=LATER).evaluated) == {"alone", "things"}
    assert alone.done(project) == alone.done(copy)
    project.execute("INSERT INTO raw.things VALUES (NULL)")
    copy = alone.copied(project, tmp_path / "copy")
    for at in ("2025-01-12T00:30:00", "2025-01-12T01:30:00"):
        _, evaluated = _tick(definitions, instance, at)
        assert evaluated == set(alone.run(copy, at=at).evaluated) == {"things"}
        assert alone.done(project) == alone.done(copy)
