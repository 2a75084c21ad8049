"""No model is built on a gap: what it lacks upstream is built first, or it waits."""

from __future__ import annotations

import dagster as dg
import pytest
from tests.sqlmesh_dagster.projects import Project, Run, run_in_process

from sqlmesh_dagster import SQLMeshTranslator, TranslatorSettings

DAILY = "kind INCREMENTAL_BY_TIME_RANGE (time_column day)"
DAYS = "SELECT day FROM (SELECT unnest(generate_series('2025-01-01'::DATE, '2025-01-31'::DATE, INTERVAL 1 DAY))::DATE AS day)"
WITHIN = "WHERE day BETWEEN @start_ds AND @end_ds"

_RUN_BUILDS = {
    "environment": "prod",
    "undeployed_changes": "apply",
    "promotion": "before_build",  # else a new production is built as a whole
}


@pytest.fixture
def chain(project: Project) -> Project:
    """`up`, `middle` and `down`, daily, deployed and not built; `total` counts `up`."""
    project.settings = dict(_RUN_BUILDS)
    project.model("up", f"{DAYS} {WITHIN}", f"{DAILY}, audits (not_null(columns := (day)))")
    project.model("middle", f"SELECT day FROM demo.up {WITHIN}", DAILY)
    project.model("down", f"SELECT day FROM demo.middle {WITHIN}", DAILY)
    project.model("total", "SELECT count(*)::INT AS days FROM demo.up")
    return project


def _days(project: Project, *names: str) -> list[int]:
    return [project.query(f"SELECT count(*) FROM demo.{name}")[0][0] for name in names]


def _reason(run: Run, name: str) -> str:
    return str(run.metadata(name)["sqlmesh/reason"])


def test_what_a_model_lacks_upstream_is_built_first(
    chain: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: a leaf alone is whole, as `sqlmesh run --select-model` makes it; nothing else is built."""
    run = run_in_process(chain.definitions(), instance, "down")
    assert run.success
    assert run.materialized == ["down"]
    assert _days(chain, "up", "middle", "down") == [9, 9, 9]
    assert chain.sqlmesh_runs() == 2  # a plan without a backfill, and the run


def test_what_was_built_first_is_recorded_with_its_checks(
    chain: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: the catalogue shows models that no step of the run stands for."""
    definitions = chain.definitions()
    run_in_process(definitions, instance, "down")
    graph = definitions.resolve_asset_graph()
    keys = {key.path[-1]: key for key in graph.get_all_asset_keys()}
    built = instance.get_latest_materialization_event(keys["up"])
    assert built is not None
    assert built.asset_materialization is not None
    assert built.asset_materialization.metadata["sqlmesh/batches"].value == 1
    (check,) = [key for key in graph.asset_check_keys if key.asset_key == keys["up"]]
    records = instance.event_log_storage.get_asset_check_execution_history(check, limit=1)
    assert [record.status.value for record in records] == ["SUCCEEDED"]
    assert instance.get_latest_materialization_event(keys["total"]) is None


def test_a_model_waits_if_the_project_says_so(chain: Project, instance: dg.DagsterInstance) -> None:
    """Promise: `wait` builds nothing that was not selected, and names what is missing."""
    definitions = chain.definitions(missing_upstream="wait")
    run = run_in_process(definitions, instance, "down", "total")
    assert run.success
    assert run.materialized == []
    assert "`warehouse.demo.middle`" in _reason(run, "down")
    assert "`warehouse.demo.up`" in _reason(run, "total")
    run_in_process(definitions, instance, "up", "middle")
    run = run_in_process(definitions, instance, "down", "total")
    assert sorted(run.materialized) == ["down", "total"]
    assert _days(chain, "up", "middle", "down") == [9, 9, 9]


def test_what_upstream_has_is_built_and_the_rest_waits(
    chain: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: the days that are there are built; the next run builds the others."""
    definitions = chain.definitions(missing_upstream="wait")
    run_in_process(definitions, instance, "up", "middle", options={"end": "2025-01-05"})
    run = run_in_process(definitions, instance, "down")
    assert run.materialized == ["down"]
    assert _days(chain, "down") == [5]
    run_in_process(definitions, instance, "up", "middle")
    run_in_process(definitions, instance, "down")
    assert _days(chain, "down") == [9]


def test_an_unknown_choice_is_refused(chain: Project) -> None:
    """Promise: a typing error is reported when definitions load."""
    with pytest.raises(dg.Failure, match=r"`missing_upstream` is `maybe`.*build, wait"):
        chain.definitions(missing_upstream="maybe")


def test_a_failure_upstream_fails_the_model_with_its_error(
    chain: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: the step that had to wait for it says what failed, and why."""
    chain.model("up", f"SELECT error('no such day')::DATE AS day {WITHIN}", DAILY)
    run = run_in_process(chain.definitions(), instance, "down")
    assert not run.success
    ((_, error),) = run.failed.items()
    assert "`demo.down` was not built, because `demo.up` upstream had to be built first" in error
    assert "no such day" in error


def test_a_failed_audit_upstream_fails_the_model_and_its_check(
    chain: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: a blocking audit blocks, whoever selected its model."""
    chain.model("up", "SELECT NULL::DATE AS day", "kind FULL, audits (not_null(columns := (day)))")
    definitions = chain.definitions()
    run = run_in_process(definitions, instance, "down")
    assert not run.success
    assert "blocking audit" in "".join(run.failed.values())
    (check,) = definitions.resolve_asset_graph().asset_check_keys
    records = instance.event_log_storage.get_asset_check_execution_history(check, limit=1)
    assert [record.status.value for record in records] == ["FAILED"]


def test_a_failure_upstream_is_told_to_a_model_with_nothing_due(
    chain: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: the run ends red, as SQLMesh alone does."""
    chain.model(
        "up", f"{DAYS} {WITHIN} AND IF(@execution_ds > '2025-01-10', error('gone'), TRUE)", DAILY
    )
    chain.model("weekly", "SELECT count(*)::INT AS days FROM demo.up", "kind FULL, cron '@weekly'")
    definitions = chain.definitions()
    assert run_in_process(definitions, instance, "weekly").success
    run = run_in_process(definitions, instance, "weekly", now="2025-01-11T00:30:00")
    assert not run.success
    assert "gone" in "".join(run.failed.values())


def test_partitions_are_built_on_whole_ones(project: Project, instance: dg.DagsterInstance) -> None:
    """Promise: a backfill of one day of a leaf builds that day upstream, and no other."""
    project.settings = dict(_RUN_BUILDS)
    project.model("up", f"{DAYS} {WITHIN}", DAILY)
    project.model("down", f"SELECT day FROM demo.up {WITHIN}", DAILY)
    translator = SQLMeshTranslator(settings=TranslatorSettings(partitions=True))
    definitions = project.definitions(translator=translator)
    job = definitions.resolve_implicit_global_asset_job_def()
    (down,) = [
        k for k in definitions.resolve_asset_graph().get_all_asset_keys() if k.path[-1] == "down"
    ]
    result = job.execute_in_process(
        instance=instance, asset_selection=[down], tags={"dagster/partition": "2025-01-04"}
    )
    assert result.success
    day = [("2025-01-04",)]
    assert project.query("SELECT day::TEXT FROM demo.up") == day
    assert project.query("SELECT day::TEXT FROM demo.down") == day


def test_a_model_that_is_built_again_is_not_built_on_a_gap(
    chain: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: a restatement builds what is missing upstream of it, too."""
    definitions = chain.definitions()
    run_in_process(definitions, instance, "total", options={"end": "2025-01-05"})
    options = {"restate": True, "start": "2025-01-01", "end": "2025-01-08"}
    assert run_in_process(definitions, instance, "total", options=options).success
    assert chain.query("SELECT days FROM demo.total") == [(8,)]


def test_steps_on_several_hosts_build_what_they_lack(
    chain: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: each step alone is no exception."""
    run = run_in_process(chain.definitions(execution="per_step"), instance, "down", "total")
    assert run.success
    assert _days(chain, "up", "middle", "down") == [9, 9, 9]
    assert chain.query("SELECT days FROM demo.total") == [(9,)]


def test_a_model_that_nobody_selected_is_not_built_before_its_ingest(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: what an asset of the same run is still loading is never built on the data of before."""
    project.settings = dict(_RUN_BUILDS)
    project.execute("CREATE SCHEMA raw; CREATE TABLE raw.numbers AS SELECT 1 AS n")
    project.model("first", "SELECT 1 AS n")
    project.model("staged", "SELECT n FROM raw.numbers")
    project.model("summed", "SELECT sum(n)::INT AS n FROM demo.staged")

    @dg.asset(
        key=["warehouse", "raw", "numbers"], deps=[dg.AssetKey(["warehouse", "demo", "first"])]
    )
    def numbers() -> None:
        project.execute("INSERT INTO raw.numbers VALUES (41)")

    definitions = dg.Definitions.merge(project.definitions(), dg.Definitions(assets=[numbers]))
    run = run_in_process(definitions, instance, "first", "numbers", "summed")
    assert run.success
    if "summed" not in run.materialized:
        assert "`warehouse.demo.staged`" in _reason(run, "summed")
        run = run_in_process(definitions, instance, "summed")
    assert project.query("SELECT n FROM demo.summed") == [(42,)]
