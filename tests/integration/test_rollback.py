"""Rollbacks: production runs what it ran before, and what cannot be undone is refused before anything is touched."""

from __future__ import annotations

import shutil
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from tests.sqlmesh_dagster.projects import NOW, Project, Run, run_in_process

from sqlmesh_dagster import SQLMeshResource
from sqlmesh_dagster.guard.locks import ProjectLock
from tests.integration.test_plans import execute_of, failure

pytestmark = pytest.mark.slow

BASE = "SELECT i::INT AS id, (i * 10)::INT AS amount FROM range(1, 11) AS t(i)"
DAILY = "kind INCREMENTAL_BY_TIME_RANGE (time_column day)"
DAYS = "SELECT @start_ds::DATE AS day, {value}::INT AS amount"
_VIEWS = (
    "SELECT schema_name, view_name, sql FROM duckdb_views() WHERE schema_name = 'demo' ORDER BY ALL"
)
_INTERVALS = (
    "SELECT name, version, start_ts, end_ts, is_removed FROM sqlmesh._intervals"
    " WHERE NOT is_dev ORDER BY ALL"
)
PROD = {"environment": "prod", "apply": True, "allow_production": True, "execution_time": NOW}


def of_models(root: Path) -> Project:
    """A table, an incremental model, a view and a model that goes with the promotion."""
    project = Project(root, {"environment": "prod"})
    project.model("base", BASE)
    project.model("daily", DAYS.format(value=1), DAILY)
    project.model("view", "SELECT id, amount FROM demo.base", "kind VIEW")
    project.model("leaving", "SELECT count(*)::INT AS n FROM demo.base")
    return project


def changed(project: Project) -> None:
    """A breaking change, one that breaks nothing, a model more and one less."""
    project.model("base", BASE.replace("i * 10", "i * 11"))
    project.model("daily", DAYS.format(value=2) + ", 3::INT AS more", DAILY)
    (project.root / "models/demo_46_leaving.sql").unlink(missing_ok=True)
    project.model("fresh", "SELECT id FROM demo.base")


@pytest.fixture(scope="module")
def production(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project, planned into production."""
    root = tmp_path_factory.mktemp("production") / "project"
    with pytest.MonkeyPatch.context() as patch, dg.DagsterInstance.ephemeral() as instance:
        patch.setenv("MAX_FORK_WORKERS", "1")
        patch.setenv("SQLMESH__DISABLE_ANONYMIZED_ANALYTICS", "true")
        run, _ = promote(of_models(root), instance)
        assert run.success, run.failed
    return root


@pytest.fixture
def project(production: Path, tmp_path: Path) -> Project:
    """A copy of it."""
    root = tmp_path / "project"
    shutil.copytree(production, root)
    return Project(root, {"environment": "prod"})


def promote(project: Project, instance: dg.DagsterInstance) -> tuple[Run, dict[str, Any]]:
    """The files, into production."""
    return execute_of(project.definitions(), instance, "plan", **PROD)


def roll_back(
    project: Project, instance: dg.DagsterInstance, **options: Any
) -> tuple[Run, dict[str, Any]]:
    """Production, to what it ran before."""
    return execute_of(project.definitions(), instance, "rollback", **{"apply": True, **options})


def data(project: Project) -> dict[str, list[tuple[Any, ...]]]:
    """All that production shows: the text of its views, and their rows."""
    views = project.query(_VIEWS)
    found = {f"{s}.{v}": project.query(f'FROM "{s}"."{v}" ORDER BY ALL') for s, v, _ in views}
    return {"views": views, **found}


def plan_of(project: Project) -> str:
    """The plan that production is at."""
    ((plan,),) = project.query("SELECT plan_id FROM sqlmesh._environments WHERE name = 'prod'")
    return str(plan)


def newest(instance: dg.DagsterInstance, name: str) -> dict[str, Any]:
    """The metadata of a model's newest materialization."""
    event = instance.get_latest_materialization_event(dg.AssetKey(["warehouse", "demo", name]))
    assert event is not None and event.asset_materialization is not None
    return {k: v.value for k, v in event.asset_materialization.metadata.items()}


def test_production_runs_what_it_ran_before(
    project: Project, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    """Views, rows and intervals as they were; shown first, and recorded; what comes after knows it."""
    before, intervals = data(project), project.query(_INTERVALS)
    changed(project)
    promoted, _ = promote(project, instance)
    assert promoted.success, promoted.failed
    after = data(project)
    assert after.keys() - before.keys() == {"demo.fresh"} and after != before

    run, facts = roll_back(project, instance, apply=False)
    assert run.success, run.failed
    page = facts["sqlmesh/plan_summary"]
    assert data(project) == after and not facts["sqlmesh/applied"]
    for line in (
        "| warehouse.demo.base | is as it was |",
        "| warehouse.demo.leaving | comes back |",
        "| warehouse.demo.fresh | goes |",
        f"of Dagster run `{promoted.run_id[:8]}`",
    ):
        assert line in page

    moved, _ = roll_back(project, instance, of="a plan that was shown before")
    assert "Production has moved since the plan was shown" in failure(moved)
    assert data(project) == after

    run, facts = roll_back(project, instance, of=facts["sqlmesh/rolls_back"])
    assert run.success, run.failed
    assert data(project) == before
    rolled = project.query(_INTERVALS)
    assert set(intervals) <= set(rolled)  # the tables of after stay, too
    assert newest(instance, "base")["sqlmesh/rolled_back_in"] == run.run_id
    key = dg.AssetKey(["warehouse", "demo", "fresh"])
    (gone,) = instance.fetch_observations(key, limit=1).records
    assert gone.event_log_entry.asset_observation is not None
    assert "no longer has this model" in str(gone.event_log_entry.asset_observation.description)

    # the files are ahead: the next run says so, builds what production has, and deploys nothing
    for policy in ("fail", "apply", "warn"):
        later = Project(project.root, {"environment": "prod", "undeployed_changes": policy})
        run = run_in_process(later.definitions(), instance, "base", "daily")
        assert run.success, (policy, run.failed)
        assert data(project) == before
    # and a tick requests what production has and is due, and nothing of the files
    definitions = project.definitions()
    with dg.DagsterInstance.local_temp(str(tmp_path)) as local:
        at = datetime(2025, 1, 11, 0, 30, tzinfo=timezone.utc)
        schedule = definitions.resolve_schedule_def("sqlmesh_adaptive_schedule")
        with dg.build_schedule_context(
            local, scheduled_execution_time=at, repository_def=definitions.get_repository_def()
        ) as context:
            ticked = schedule.evaluate_tick(context)
    (request,) = ticked.run_requests or ()
    assert {k.path[-1] for k in request.asset_selection or ()} == {"base", "daily", "view"}


@pytest.mark.storm
def test_rollbacks_in_a_row_go_further_back_and_one_can_be_taken_back(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Each is a plan of its own; a plan that changes nothing is passed over."""
    versions = [data(project)]
    plans = [plan_of(project)]
    for factor in (11, 12):
        project.model("base", BASE.replace("i * 10", f"i * {factor}"))
        run, _ = promote(project, instance)
        assert run.success, run.failed
        versions.append(data(project))
        plans.append(plan_of(project))
    for wanted in (versions[1], versions[0]):
        run, _ = roll_back(project, instance)
        assert run.success, run.failed
        assert data(project) == wanted
    run, _ = roll_back(project, instance)
    assert "is the first that production had" in failure(run)
    run, _ = roll_back(project, instance, to=plans[2])
    assert run.success, run.failed
    assert data(project) == versions[2]
    run, _ = roll_back(project, instance, to=plans[2])
    assert "Production runs what it ran from plan" in failure(run)
    run, _ = roll_back(project, instance, of=plans[0])
    assert "Production has moved since the plan was shown" in failure(run)
    run, _ = roll_back(project, instance)
    assert data(project) == versions[1]


def physical(project: Project, model: str) -> str:
    """The table behind a view of production."""
    ((sql,),) = project.query(
        f"SELECT sql FROM duckdb_views() WHERE schema_name = 'demo' AND view_name = '{model}'"
    )
    return str(sql).rsplit(" ", 1)[1].rstrip(";\n")


def bare_plan(project: Project) -> None:
    """`sqlmesh plan prod --auto-apply`, without Dagster."""
    from sqlmesh import Context

    context = Context(paths=[str(project.root)])
    try:
        context.plan("prod", auto_apply=True, no_prompts=True, execution_time=NOW)
    finally:
        context.close()
        context.engine_adapter.close()


def test_a_forward_only_change_is_refused_by_name(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """It has written into the table of before; nothing at all is touched."""
    project.model("base", BASE.replace("i * 10", "i * 11"))
    project.model("daily", DAYS.format(value=2), DAILY.replace("day)", "day, forward_only true)"))
    run, _ = promote(project, instance)
    assert run.success, run.failed
    shown, plan = data(project), plan_of(project)
    run, _ = roll_back(project, instance)
    assert "The change of `warehouse.demo.daily` was forward-only" in failure(run)
    assert data(project) == shown and plan_of(project) == plan


def test_tables_that_are_gone_are_refused_by_name_with_the_way_that_is_left(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Dropped by hand, or by SQLMesh's janitor once they have expired; what is left is built again."""
    from sqlmesh import Context

    before = data(project)
    old = physical(project, "base")
    project.model("base", BASE.replace("i * 10", "i * 11"))
    run, _ = promote(project, instance)
    assert run.success, run.failed
    shown = data(project)
    project.execute(f"ALTER TABLE {old} RENAME TO away")
    run, _ = roll_back(project, instance)
    assert "`warehouse.demo.base` are gone from the warehouse" in failure(run)
    assert data(project) == shown
    schema, _, name = old.rpartition(".")
    project.execute(f"ALTER TABLE {schema}.away RENAME TO {name}")

    context = Context(paths=[str(project.root)])
    context.run_janitor(ignore_ttl=True)
    context.close()
    context.engine_adapter.close()
    run, _ = roll_back(project, instance)
    for name in ("base", "leaving", "view"):
        assert f"`warehouse.demo.{name}`" in failure(run)
    assert "`poe promote --without-review`" in failure(run) and data(project) == shown
    project.model("base", BASE)
    run, _ = promote(project, instance)
    assert run.success, run.failed
    assert {k: v for k, v in data(project).items() if k != "views"} == {
        k: v for k, v in before.items() if k != "views"
    }


def test_what_a_bare_sqlmesh_plan_has_promoted_is_undone_too_where_dagster_had_seen_what_was(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """The record is beside SQLMesh's state; a view that only reads another table reads that of before."""
    before, parent = data(project), physical(project, "base")
    project.model("base", BASE.replace("AS amount", "AS amount, 'x' AS more"))
    bare_plan(project)
    newer = physical(project, "base")
    assert newer != parent and physical(project, "view") in str(before["views"])
    run, _ = roll_back(project, instance)
    assert run.success, run.failed
    assert data(project) == before
    project.execute(f"DROP TABLE {newer}")  # as SQLMesh's janitor does later
    assert project.query("SELECT count(*) FROM demo.view") == [(10,)]

    for factor in (12, 13):
        project.model("base", BASE.replace("i * 10", f"i * {factor}"))
        bare_plan(project)
    run, _ = roll_back(project, instance)
    assert "was not recorded" in failure(run) and "`poe promote --without-review`" in failure(run)


def test_a_rollback_that_was_killed_is_finished_by_the_next(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """As after a kill between the record of the environment and its views: SQLMesh's plan alone forgets them."""
    before = data(project)
    changed(project)
    run, _ = promote(project, instance)
    assert run.success, run.failed
    views = {name: sql for _, name, sql in project.query(_VIEWS)}
    table = project.query("SELECT snapshots FROM sqlmesh._environments WHERE name = 'prod'")
    run, _ = roll_back(project, instance)
    assert run.success, run.failed
    for name in ("fresh", "base"):
        project.execute(views[name].replace("CREATE VIEW", "CREATE OR REPLACE VIEW"))
    project.query(
        "UPDATE sqlmesh._environments SET finalized_ts = NULL, previous_finalized_snapshots = $$"
        + table[0][0]
        + "$$ WHERE name = 'prod'"
    )
    assert data(project) != before
    run, facts = roll_back(project, instance, apply=False)
    run, _ = roll_back(
        project, instance, to=facts["sqlmesh/restores"], of=facts["sqlmesh/rolls_back"]
    )
    assert run.success, run.failed
    assert data(project) == before


@pytest.mark.storm
def test_a_rollback_waits_for_nobody_for_ever(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Another run works on the project: it says which, and changes nothing."""
    project.model("base", BASE.replace("i * 10", "i * 11"))
    run, _ = promote(project, instance)
    assert run.success, run.failed
    shown = data(project)
    later = Project(project.root, {"environment": "prod", "wait_timeout": 0.0})
    settings = SQLMeshResource(project_dir=str(project.root)).settings
    lock = ProjectLock(settings.lock_name, settings.project_path)
    with lock.held("Dagster run abc", 0):
        run, _ = roll_back(later, instance)
    assert "Dagster run abc" in failure(run)
    assert data(project) == shown
