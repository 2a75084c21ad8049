"""Sync: what was built outside Dagster becomes materializations, once each."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from tests.sqlmesh_dagster.projects import (
    Project,
    held_by_another_process,
    last_run,
    multiprocess,
    run_in_process,
    start,
)

from sqlmesh_dagster import SQLMeshResource
from sqlmesh_dagster.definition.project import translate
from sqlmesh_dagster.engine.built import find_built
from sqlmesh_dagster.facts.reported import Reported, has_moved
from sqlmesh_dagster.facts.tables import BuiltTable
from sqlmesh_dagster.guard.locks import ProjectLock
from sqlmesh_dagster.manifest.loading import project_manifest
from sqlmesh_dagster.run.sync import report_moved

DAILY = "kind INCREMENTAL_BY_TIME_RANGE (time_column day)"
ROWS = "SELECT @start_ds::DATE AS day, 1::INT AS id"


def plan(project: Project, environment: str = "dev", **options: Any) -> None:
    """Plans and applies, as SQLMesh does for whoever calls it."""
    with SQLMeshResource(project_dir=str(project.root)).open_context() as context:
        context.plan(environment, auto_apply=True, no_prompts=True, **options)


def tick(
    project: Project, instance: dg.DagsterInstance, cursor: str | None = None
) -> dg.SensorResult:
    """One evaluation of the sensor, of the definitions as they are now."""
    (sensor,) = project.definitions().sensors or ()
    assert isinstance(sensor, dg.SensorDefinition)
    with dg.build_sensor_context(instance=instance, cursor=cursor) as context:
        result = sensor(context)
    assert isinstance(result, dg.SensorResult)
    return result


def reports(instance: dg.DagsterInstance, name: str) -> Sequence[dg.AssetMaterialization]:
    """Materializations of a model, oldest first."""
    key = dg.AssetKey(["warehouse", "demo", name])
    records = instance.fetch_materializations(key, limit=100, ascending=True).records
    found = [record.asset_materialization for record in records]
    return [m for m in found if m is not None]


def message(result: dg.SensorResult) -> str:
    """What the sensor's tick says in the UI."""
    assert result.skip_reason
    return str(
        result.skip_reason.skip_message
        if isinstance(result.skip_reason, dg.SkipReason)
        else result.skip_reason
    )


@pytest.mark.slow
def test_what_the_command_line_built_is_reported_once(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: one materialization for each model, with its intervals; none at the second tick."""
    project.model("first", "SELECT 1::INT AS id")
    project.model("daily", ROWS, DAILY)
    program = "import sys; from sqlmesh.cli.main import cli; cli()"
    command = [sys.executable, "-c", program, "-p", str(project.root), "plan", "dev"]
    subprocess.run([*command, "--auto-apply", "--no-prompts"], check=True, capture_output=True)
    first = tick(project, instance)
    assert "Reported 2 models" in message(first)
    (report,) = reports(instance, "daily")
    assert report.metadata["sqlmesh/interval_start"].value == 1735689600.0  # 2025-01-01
    assert report.metadata["sqlmesh/source"].value == "outside Dagster"
    again = tick(project, instance, first.cursor)
    restarted = tick(project, instance)
    assert [message(r) for r in (again, restarted)] == ["Nothing was built outside Dagster."] * 2
    assert [len(reports(instance, name)) for name in ("first", "daily")] == [1, 1]


def test_what_dagster_built_is_never_reported_again(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: neither a run's models, nor those that its deployment built or left unbuilt."""
    project.model("first", "SELECT 1::INT AS id")
    project.model("second", "SELECT id FROM demo.first")
    run_in_process(project.definitions(), instance)
    assert message(tick(project, instance)) == "Nothing was built outside Dagster."
    project.model("first", "SELECT 2::INT AS id")
    assert run_in_process(project.definitions(), instance, "first").materialized == ["first"]
    assert message(tick(project, instance)) == "Nothing was built outside Dagster."
    assert len(reports(instance, "second")) == 1


def test_what_a_production_plan_of_a_run_builds_besides_is_not_reported_again(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: the run that deployed it has said so already."""
    project.settings = {"environment": "prod", "undeployed_changes": "apply"}
    project.model("first", "SELECT 1::INT AS id")
    project.model("second", "SELECT id FROM demo.first")
    run_in_process(project.definitions(), instance)
    project.model("first", "SELECT 2::INT AS id")
    run_in_process(project.definitions(), instance, "first")
    assert len(reports(instance, "second")) == 2
    assert message(tick(project, instance)) == "Nothing was built outside Dagster."


def test_a_restatement_moves_what_it_rebuilds_and_nothing_else(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: intervals that end as they were are noticed, too; the data version changes with them."""
    project.model("daily", ROWS, DAILY)
    project.model("other", "SELECT 1::INT AS id")
    run_in_process(project.definitions(), instance, now=None)
    plan(project, restate_models=["demo.daily"], start="2025-01-03", end="2025-01-04")
    assert "warehouse/demo/daily" in message(tick(project, instance))
    before, after = reports(instance, "daily")
    version = "dagster/data_version"
    assert (before.tags or {})[version] != (after.tags or {})[version]
    assert len(reports(instance, "other")) == 1


def test_a_promotion_that_builds_nothing_is_reported(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: other data behind the view counts, however old it is; with the code that made it."""
    project.model("first", "SELECT 1::INT AS id")
    run_in_process(project.definitions(), instance)
    project.model("first", "SELECT 2::INT AS id")
    plan(project, "other")
    assert message(tick(project, instance)) == "Nothing was built outside Dagster."
    plan(project)
    assert "Reported 1 model " in message(tick(project, instance))
    (spec,) = project.definitions().resolve_all_asset_specs()
    newest = reports(instance, "first")[-1]
    assert (newest.tags or {})["dagster/code_version"] == spec.code_version


def test_a_change_of_a_description_alone_is_no_materialization(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: a new snapshot of the same table holds no new data."""
    project.model("first", "SELECT 1::INT AS id")
    run_in_process(project.definitions(), instance, now=None)
    project.model("first", "SELECT 1::INT AS id", "kind FULL, description 'Other words.'")
    plan(project)
    assert message(tick(project, instance)) == "Nothing was built outside Dagster."


def test_ticks_that_overlap_report_once(project: Project, instance: dg.DagsterInstance) -> None:
    """Promise: of two ticks at the same time one reports, and the other says why it does not."""
    for number in range(20):
        project.model(f"m{number}", "SELECT 1::INT AS id")
    plan(project)
    results: list[dg.SensorResult] = []
    threads = [
        threading.Thread(target=lambda: results.append(tick(project, instance))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert [len(reports(instance, f"m{n}")) for n in range(20)] == [1] * 20


def test_a_tick_skips_while_somebody_works_on_the_project(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: it waits for nobody, says for whom, and reports at the next tick."""
    project.model("first", "SELECT 1::INT AS id")
    plan(project)
    settings = SQLMeshResource(project_dir=str(project.root)).settings
    lock = ProjectLock(settings.lock_name, settings.project_path)
    with lock.held("Dagster run abc", 0):
        assert "Dagster run abc works on the project" in message(tick(project, instance))
    with held_by_another_process(project.database):
        assert "the DuckDB file is in use" in message(tick(project, instance))
    assert "Reported 1 model " in message(tick(project, instance))


def test_what_a_run_changed_since_the_look_is_not_reported_as_it_was_before(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: a run may begin and end between the look at the state and the reports."""
    project.model("first", "SELECT 1::INT AS id")
    run_in_process(project.definitions(), instance)
    resource = SQLMeshResource(project_dir=str(project.root), environment="dev")
    looked_at = time.time()
    seen = find_built(resource.settings)
    project.model("first", "SELECT 2::INT AS id")
    run_in_process(project.definitions(), instance)
    translated = translate(
        project_manifest(resource), resource.translator, name="x", group_name="x", owners=()
    )
    assert list(report_moved(instance, translated, seen.tables, looked_at)) == []
    assert list(report_moved(instance, translated, seen.tables)) != []  # it would have been wrong


def test_a_tick_leaves_the_database_free(project: Project, instance: dg.DagsterInstance) -> None:
    """Promise: another process can open the DuckDB file at once."""
    project.model("first", "SELECT 1::INT AS id")
    plan(project)
    tick(project, instance)
    with held_by_another_process(project.database):
        pass


def test_an_environment_that_was_never_planned_has_nothing_to_report(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: and no database is made by looking."""
    project.model("first", "SELECT 1::INT AS id")
    assert message(tick(project, instance)) == "Nothing was built outside Dagster."
    assert not project.database.exists()


WAITING = """
import pathlib, time
@dg.asset(deps=[dg.AssetKey(['warehouse', 'demo', 'first'])])
def later():
    home = pathlib.Path(os.environ['DAGSTER_HOME'])
    (home / 'waiting').touch()
    while not (home / 'go').exists():
        time.sleep(0.05)
extra = [later]
"""


@pytest.mark.slow
def test_a_run_that_has_built_and_not_yet_told_is_left_alone(
    project: Project, tmp_path: Path
) -> None:
    """Promise: while a run is active a tick reports nothing; after it, nothing of what it built."""
    project.model("first", "SELECT 1::INT AS id")
    home = tmp_path / "home"
    body = "import os\n" + WAITING
    process = start(project, home, body=body, executor=multiprocess(1))
    while not (home / "waiting").exists():
        assert process.poll() is None, (home / "run.log").read_text()
        time.sleep(0.1)
    with dg.DagsterInstance.from_config(str(home)) as instance:
        assert "is still active" in message(tick(project, instance))
        (home / "go").touch()
        assert process.wait(120) == 0
        assert message(tick(project, instance)) == "Nothing was built outside Dagster."
        assert len(reports(instance, "first")) == 1
    assert last_run(home).success


def _table(version: str = "1", built_at: int | None = 5) -> BuiltTable:
    return BuiltTable('"a"', "s", version, "c", built_at, 0, 1)


@pytest.mark.parametrize(
    ("table", "last", "moved"),
    [
        (_table(), None, True),
        (_table(), Reported("1", 5), False),
        (_table(built_at=6), Reported("1", 5), True),
        (_table("2", 1), Reported("1", 5), True),
        (_table("2", 5), Reported(None, 5), False),
        (_table(built_at=None), Reported("1", 5), False),
    ],
)
def test_a_table_has_moved_when_its_version_or_its_data_is_new(
    table: BuiltTable, last: Reported | None, moved: bool
) -> None:
    """Promise: another version, or the same with newer data; what is not known moves nothing."""
    assert has_moved(table, last) is moved
