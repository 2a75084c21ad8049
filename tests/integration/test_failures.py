"""What fails, fails: nothing of it is materialized in the run, and what was built is known all the same."""

from __future__ import annotations

import dagster as dg
from dagster._core.instance.runs.run_domain import RunDomain
from tests.sqlmesh_dagster.projects import Project, Run, run_in_process

from sqlmesh_dagster import SQLMeshTranslator, TranslatorSettings

PARTITIONED = SQLMeshTranslator(settings=TranslatorSettings(partitions=True))
BATCHED = "kind INCREMENTAL_BY_TIME_RANGE (time_column day, batch_size 1)"
DAYS = [f"2025-01-0{day}" for day in range(1, 10)]


def key(name: str) -> dg.AssetKey:
    """A model's asset key."""
    return dg.AssetKey(["warehouse", "demo", name])


def retried(instance: dg.DagsterInstance, run: Run) -> list[str]:
    """What Dagster builds again in a re-execution from asset failure."""
    record = instance.get_run_by_id(run.run_id)
    assert record is not None and record.execution_plan_snapshot_id is not None
    plan = instance.get_execution_plan_snapshot(record.execution_plan_snapshot_id)
    keys, _ = RunDomain(instance).get_keys_to_reexecute(run.run_id, plan)
    return sorted(k.path[-1] for k in keys if isinstance(k, dg.AssetKey))


def test_a_retry_takes_a_partitioned_model_of_which_one_day_failed(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: days before and after the one that failed are known; the retry leaves no gap."""
    project.execute("CREATE TABLE main.flag AS SELECT true AS is_down")
    fails = (
        "CASE WHEN @start_ds = '2025-01-04' AND (SELECT is_down FROM main.flag)"
        " THEN error('bad day') ELSE 1 END::INT AS id"
    )
    project.model("m", f"SELECT @start_ds::DATE AS day, {fails}", BATCHED)
    child = "SELECT day, id FROM demo.m WHERE day BETWEEN @start_ds AND @end_ds"
    project.model("child", child, BATCHED)
    definitions = project.definitions(translator=PARTITIONED)
    run = run_in_process(definitions, instance)
    assert not run.success
    assert "`demo.m` failed in 2025-01-04 with" in str(run.failed)
    assert (run.materialized, run.unchanged) == ([], [])
    assert retried(instance, run) == ["child", "m"]
    known = sorted(instance.get_materialized_partitions(key("m")))
    assert known == [day for day in DAYS if day != "2025-01-04"]
    assert known == [str(day) for (day,) in project.query("SELECT day FROM demo__dev.m ORDER BY 1")]
    project.execute("UPDATE main.flag SET is_down = false")
    assert run_in_process(definitions, instance, *retried(instance, run)).success
    assert sorted(instance.get_materialized_partitions(key("m"))) == DAYS
    rows = "SELECT (SELECT count(*) FROM demo__dev.m), (SELECT count(*) FROM demo__dev.child)"
    assert project.query(rows) == [(9, 9)]


def test_a_retry_takes_a_model_whose_restatement_failed_further_down(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: the step that stands for a model below it has failed, so that its own is not done either."""
    project.execute("CREATE TABLE main.flag AS SELECT false AS is_down")
    project.model("m", "SELECT 1::INT AS id")
    below = "CASE WHEN (SELECT is_down FROM main.flag) THEN error('boom') ELSE id END::INT AS id"
    project.model("below", f"SELECT {below} FROM demo.m")
    definitions = project.definitions()
    run_in_process(definitions, instance)
    project.execute("UPDATE main.flag SET is_down = true")
    options = {"restate": True, "restate_downstream": True}
    run = run_in_process(definitions, instance, "m", options=options)
    assert "boom" in str(run.failed)
    assert run.materialized == []
    assert retried(instance, run) == ["m"]
    last = instance.get_latest_materialization_event(key("m"))
    assert last is not None and last.asset_materialization is not None and last.run_id == ""
    assert last.asset_materialization.metadata["sqlmesh/built_in_run"].value == run.run_id


def test_an_after_all_that_fails_fails_the_run_and_says_why(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: as `sqlmesh run` does; what was built is known, what is deployed is told so, and the janitor runs."""
    config = (project.root / "config.yaml").read_text()
    project.write("config.yaml", f"{config}after_all:\n  - INSERT INTO main.finished VALUES (1)\n")
    project.settings = {"environment": "prod", "undeployed_changes": "apply"}
    project.model("first", "SELECT 1::INT AS id")
    project.model("gone", "SELECT id FROM demo.first")
    project.model("old", "SELECT id FROM demo.first")
    project.model("second", "SELECT id FROM demo.first")
    run = run_in_process(project.definitions(), instance)
    assert sorted(run.materialized) == ["first", "gone", "old"]
    assert list(run.failed) == ["warehouse__demo__second"]
    (error,) = run.failed.values()
    assert "`prod` is as the plan was to make it" in error and error.count("'after_all'") == 1
    assert project.query("SELECT * FROM demo.second") == [(1,)]

    project.execute("UPDATE sqlmesh._snapshots SET ttl_ms = 1 WHERE name LIKE '%gone%'")
    (project.root / "models" / "demo_46_gone.sql").unlink()
    (project.root / "models" / "demo_46_old.sql").unlink()
    run = run_in_process(project.definitions(), instance, now="2025-01-11T00:30:00")
    assert not run.success
    ((step, error),) = run.failed.items()
    assert step == "warehouse__demo__second"
    assert "after_all" in error and "finished" in error and "was built" in error
    assert run.materialized == ["first"]
    last = instance.get_latest_materialization_event(key("second"))
    assert last is not None and last.asset_materialization is not None
    assert last.asset_materialization.metadata["sqlmesh/built_in_run"].value == run.run_id
    assert not project.query("SELECT 1 FROM sqlmesh._snapshots WHERE name LIKE '%gone%'")

    expired = "UPDATE sqlmesh._snapshots SET ttl_ms = 1, updated_ts = 1 WHERE name LIKE '%old%'"
    project.execute(expired)
    run = run_in_process(project.definitions(), instance, now="2025-01-12T00:30:00")
    assert not run.success, "with nothing to deploy"
    assert not project.query("SELECT 1 FROM sqlmesh._snapshots WHERE name LIKE '%old%'")


def test_a_step_that_dagster_tries_again_builds_its_model_again(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: what the first try found is not taken for the second one's; what reads the model waits for it."""
    tried = project.root / "tried"
    project.write(
        "models/m.py",
        f"""
        from pathlib import Path

        import pandas as pd
        from sqlmesh import model


        @model("demo.m", kind="FULL", columns={{"id": "int"}})
        def execute(context, **kwargs):
            tried = Path({str(tried)!r})
            if not tried.exists():
                tried.touch()
                raise RuntimeError("the first time")
            return pd.DataFrame({{"id": [1]}})
        """,
    )
    project.model("child", "SELECT id FROM demo.m")
    project.model("grandchild", "SELECT id FROM demo.child")
    policy = dg.RetryPolicy(max_retries=1)
    job = dg.define_asset_job("again", selection="*", op_retry_policy=policy)
    definitions = dg.Definitions.merge(project.definitions(), dg.Definitions(jobs=[job]))
    run = definitions.resolve_job_def("again").execute_in_process(instance=instance)
    built = [
        e.asset_key.path[-1] for e in run.all_events if e.is_step_materialization and e.asset_key
    ]
    restarts = [e.step_key for e in run.all_events if e.is_step_restarted]
    assert run.success
    assert (sorted(built), restarts) == (["child", "grandchild", "m"], ["warehouse__demo__m"])
    assert project.query("SELECT id FROM demo__dev.grandchild") == [(1,)]
    assert project.sqlmesh_runs() == 3  # the plan, and a run for each try
