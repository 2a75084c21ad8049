"""Whichever executor and launcher runs the steps: the same events, the same tables, one sqlmesh run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from tests.sqlmesh_dagster.projects import Run, run_config

from tests.conftest import Render
from tests.robustness.projects import IN_PROCESS, PACKAGE, Generated, multiprocess
from tests.webserver import launch, location_of, served

pytestmark = pytest.mark.generated

_ASSETS = """
@dg.asset(key=["raw", "orders"])
def orders(sqlmesh: SQLMeshResource) -> None:
    with sqlmesh.connection() as adapter:
        adapter.create_schema("raw")
        adapter.execute("CREATE OR REPLACE TABLE raw.orders AS SELECT unnest([1, 2, 3]) AS id")


@dg.asset(key=["raw", "scored"], deps=[["demo", "staged"]])
def scored(sqlmesh: SQLMeshResource) -> None:
    with sqlmesh.connection() as adapter:
        rows = adapter.fetchall("SELECT id FROM demo__dev.staged ORDER BY id")
        scores = ", ".join(f"({id}, {id * 10})" for (id,) in rows)
        adapter.execute(
            f"CREATE OR REPLACE TABLE raw.scored AS FROM (VALUES {scores}) AS t (id, score)"
        )


@dg.asset(deps=[["demo", "final"]])
def published(sqlmesh: SQLMeshResource) -> dg.MaterializeResult:
    with sqlmesh.connection() as adapter:
        [(total,)] = adapter.fetchall("SELECT sum(score) FROM demo__dev.final")
    return dg.MaterializeResult(metadata={"total": int(total)})
"""
_BEFORE_ALL = [
    "CREATE SCHEMA IF NOT EXISTS raw",
    "CREATE TABLE IF NOT EXISTS raw.scored (id INT, score INT)",
]
"""A plan looks at the tables that its models read, also at one that an asset is still to make."""
_NAMES = ["staged", "final", "blocked", "below_blocked", "broken"]
_MODELS = " or ".join(f'key:"demo/{name}"' for name in _NAMES)
_STARTED = {
    "raw__orders",
    "demo__staged",
    "raw__scored",
    "demo__final",
    "published",
    "demo__blocked",
    "demo__broken",
}
"""Every step but the one below the blocked model."""
_OF_THE_EXECUTOR = {
    "ENGINE_EVENT",
    "LOGS_CAPTURED",
    "PIPELINE_DEQUEUED",
    "PIPELINE_ENQUEUED",
    "PIPELINE_STARTING",
    "RESOURCE_INIT_FAILURE",
    "RESOURCE_INIT_STARTED",
    "RESOURCE_INIT_SUCCESS",
    "STEP_WORKER_STARTED",
    "STEP_WORKER_STARTING",
}
"""Types of events that tell how steps are run, and nothing of assets."""
_VARYING = {
    "sqlmesh/duration_seconds",
    "sqlmesh/built_at",
    "sqlmesh/built_in_run",
    "sqlmesh/found_at",
    "sqlmesh/found_in_run",
    "sqlmesh/inputs",
    "sqlmesh/plan",
    "path",
}
"""Metadata that tells of the time and the place."""


def _mixed(render: Render, root: Path, executor: str = IN_PROCESS) -> Generated:
    """Python → model → Python → model → Python; next to it an audit that blocks and a model that fails."""
    project = Generated.tiny(render, root, before_all=_BEFORE_ALL)
    project.use_executor(executor)
    for name, number, blocking in (("no_three", 3, "false"), ("no_two", 2, "true")):
        project.write(
            f"sqlmesh_project/audits/{name}.sql",
            f"AUDIT (name {name}, blocking {blocking});\n"
            f"SELECT id FROM @this_model WHERE id = {number};\n",
        )
    project.assets(_ASSETS)
    project.model(
        "staged",
        "SELECT id::INT AS id FROM raw.orders",
        "kind FULL, audits (not_null(columns := (id)), no_three)",
    )
    project.model("final", "SELECT id::INT AS id, score::INT AS score FROM raw.scored")
    project.model("blocked", "SELECT id::INT AS id FROM demo.staged", "kind FULL, audits (no_two)")
    project.model("below_blocked", "SELECT id::INT AS id FROM demo.blocked")
    project.model("broken", "SELECT error('boom ' || id)::INT AS id FROM demo.staged")
    return project


def _told(run: Run) -> Counter[tuple[str, ...]]:
    """The run's events as a multiset, but for what depends on executors, times and places."""
    return Counter(
        _facts(event) for event in run.events if event.event_type_value not in _OF_THE_EXECUTOR
    )


def _facts(event: dg.DagsterEvent) -> tuple[str, ...]:
    key = event.asset_key.to_user_string() if event.asset_key else ""
    detail = ""
    data: Any = event.event_specific_data
    if event.is_step_materialization:
        detail = _shown(data.materialization.metadata)
    elif event.is_asset_observation:
        detail = _shown(data.asset_observation.metadata)
    elif isinstance(data, dg.AssetCheckEvaluation):
        key = data.asset_key.to_user_string()
        detail = f"{data.check_name} {data.passed} {data.severity} {_shown(data.metadata)}"
    elif event.event_type is dg.DagsterEventType.STEP_FAILURE:
        error = data.error.cause or data.error
        detail = f"{error.cls_name}: {error.message}"
    return event.event_type_value, event.step_key or "", key, detail


def _shown(metadata: Any) -> str:
    return str(sorted((k, str(v.value)) for k, v in metadata.items() if k not in _VARYING))


def _check_mixed(project: Generated, run: Run) -> None:
    """What the job must have done, in which order, whoever ran it."""
    assert not run.success
    assert set(run.started) == _STARTED, run.started
    assert len(run.started) == len(_STARTED)
    main = ["orders", "staged", "scored", "final", "published"]
    assert [name for name in run.materialized if name in main] == main
    assert set(run.materialized) == set(main)
    assert run.passed == {
        "staged:not_null_id": True,
        "staged:no_three": False,
        "blocked:no_two": False,
    }
    assert set(run.failed) == {"demo__blocked", "demo__broken"}
    assert "boom" in run.failed["demo__broken"]
    assert run.metadata("published")["total"] == 60
    assert project.query("FROM demo__dev.final ORDER BY id") == [(1, 10), (2, 20), (3, 30)]
    assert project.query("SELECT count(*) FROM demo__dev.below_blocked") == [(0,)]
    # one before and one after the Python asset in the middle
    assert project.sqlmesh_runs(run.run_id) == 2


def _check_models(project: Generated, run: Run) -> None:
    """The models alone, on the same day: what failed is tried again, and nothing else is due."""
    assert sorted(run.unchanged) == ["final", "staged"]
    assert run.materialized == []
    assert set(run.failed) == {"demo__blocked", "demo__broken"}
    assert run.passed == {"blocked:no_two": False}
    assert project.sqlmesh_runs(run.run_id) == 1


@pytest.fixture(scope="module")
def in_process(render: Render, tmp_path_factory: pytest.TempPathFactory) -> Sequence[Run]:
    """The mixed job, then its models alone, in one process: what the others are compared with."""
    project = _mixed(render, tmp_path_factory.mktemp("in_process") / "project")
    runs = project.run(), project.run(_MODELS)
    _check_mixed(project, runs[0])
    _check_models(project, runs[1])
    return runs


def _check_again(project: Generated, in_process: Sequence[Run]) -> None:
    """Does the mixed job under another executor, and compares."""
    mixed = project.run()
    _check_mixed(project, mixed)
    assert _told(mixed) == _told(in_process[0])


def test_spawned_processes_give_what_one_process_gives(
    render: Render, tmp_path: Path, in_process: Sequence[Run]
) -> None:
    """Promise: the same events and tables in the same order, though each step is a new process."""
    _check_again(_mixed(render, tmp_path / "project", multiprocess(2)), in_process)


@pytest.mark.parametrize("max_concurrent", [1, 8])
def test_forked_processes_give_what_one_process_gives(
    render: Render, tmp_path: Path, in_process: Sequence[Run], max_concurrent: int
) -> None:
    """Promise: also when they inherit an imported SQLMesh; in turn, or all at once."""
    preload = f"dagster,sqlmesh,sqlmesh_dagster,{PACKAGE}.definitions"
    executor = multiprocess(max_concurrent, "forkserver", preload)
    project = _mixed(render, tmp_path / "project", executor)
    _check_again(project, in_process)
    models = project.run(_MODELS)
    _check_models(project, models)
    assert _told(models) == _told(in_process[1])


def test_the_run_launcher_gives_what_a_command_gives(
    render: Render, tmp_path: Path, in_process: Sequence[Run]
) -> None:
    """Promise: with webserver, daemon, code server and run worker apart, events and tables are the same."""
    project = _mixed(render, tmp_path / "project")
    with served(project.root, project.environment) as ask:
        location = location_of(ask)
        mixed, models = (
            launch(ask, location, "__ASSET_JOB", config=run_config(), assetSelection=selection)
            for selection in (None, [{"path": ["demo", name]} for name in _NAMES])
        )
    assert (mixed[1], models[1]) == ("FAILURE", "FAILURE")
    _check_mixed(project, project.recorded(mixed[0]))
    _check_models(project, project.recorded(models[0]))
    assert _told(project.recorded(mixed[0])) == _told(in_process[0])
    assert _told(project.recorded(models[0])) == _told(in_process[1])
