"""A model with nothing due: what its asset and its checks get, so that Dagster shows the table as it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dagster as dg
import pytest
from sqlalchemy import Engine, event
from tests.sqlmesh_dagster.projects import NOW, Project, Run, run_config, run_in_process

from sqlmesh_dagster import SQLMeshResource, SQLMeshTranslator, TranslatorSettings, on_new_data
from sqlmesh_dagster.manifest.loading import project_manifest
from sqlmesh_dagster.run.sync import synchronize
from tests.shown import health, shown_checks

NEXT_DAY = "2025-01-11T00:30:00"
NOT_NULL = "kind FULL, audits (not_null(columns := (id)))"
WARNS = "kind FULL, audits (accepted_range(column := id, min_v := 5, blocking := false))"
DAILY = "kind INCREMENTAL_BY_TIME_RANGE (time_column day)"
ROWS = "SELECT @start_ds::DATE AS day, 1::INT AS id"
GATE = """
from sqlmesh import signal
from pathlib import Path

@signal()
def gate_open(batch):
    return Path({flag!r}).exists()
"""


def key(name: str) -> dg.AssetKey:
    """A model's asset key."""
    return dg.AssetKey(["warehouse", "demo", name])


def last(instance: dg.DagsterInstance, name: str) -> dg.AssetMaterialization:
    """A model's last materialization."""
    found = instance.get_latest_materialization_event(key(name))
    assert found is not None and found.asset_materialization is not None
    return found.asset_materialization


def data_version(instance: dg.DagsterInstance, name: str) -> str:
    """By which Dagster knows whether data is new."""
    return (last(instance, name).tags or {})["dagster/data_version"]


def shown_as_failed(instance: dg.DagsterInstance, run: Run) -> set[str]:
    """As Dagster's UI has it: the last run that was to materialize an asset failed, and did not do so."""
    records = instance.get_asset_records()
    return {
        record.asset_entry.asset_key.path[-1]
        for record in records
        if record.asset_entry.last_run_id == run.run_id
        and not run.success
        and (
            record.asset_entry.last_materialization is None
            or record.asset_entry.last_materialization.run_id != run.run_id
        )
    }


def sqlmesh_run(project: Project, now: str) -> None:
    """`sqlmesh run dev`, as a person does next to Dagster."""
    with SQLMeshResource(project_dir=str(project.root)).open_context() as context:
        context.run("dev", execution_time=now)


def test_in_a_run_that_fails_only_what_failed_is_shown_as_failed(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: idle and built models are as they are, with their checks, whatever becomes of others."""
    project.execute("CREATE TABLE main.source AS SELECT 1::INT AS id, false AS is_down")
    project.model("idle", "SELECT 1::INT AS id", f"{NOT_NULL}, cron '@weekly', start '2024-12-01'")
    project.model("fine", "SELECT 1::INT AS id", NOT_NULL)
    broken = "SELECT CASE WHEN is_down THEN error('boom') ELSE id END::INT AS id FROM main.source"
    project.model("broken", broken)
    project.model("below", "SELECT id FROM demo.broken")
    definitions = project.definitions()
    assert run_in_process(definitions, instance).success
    project.execute("UPDATE main.source SET is_down = true")
    run = run_in_process(definitions, instance, now=NEXT_DAY)
    assert (run.unchanged, run.materialized) == (["idle"], ["fine"])
    assert shown_as_failed(instance, run) == {"broken", "below"}
    assert (run.passed, run.kept) == ({"fine:not_null_id": True}, {"idle:not_null_id": True})


def test_a_model_that_was_never_built_is_not_failed_with_another(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: Dagster knows no data of it, and no failure; and nothing else of one that is observed."""
    project.write("signals/gates.py", GATE.format(flag="/nowhere"))
    project.model("gated", "SELECT 1::INT AS id", "kind FULL, signals (gate_open())")
    project.model("idle", "SELECT 1::INT AS id")
    run_in_process(project.definitions(), instance, "idle")
    project.model("broken", "SELECT error('boom')::INT AS id")
    definitions = project.definitions(nothing_due="observe")
    run = run_in_process(definitions, instance)
    assert (list(run.failed), set(run.observed)) == (
        ["warehouse__demo__broken"],
        {"gated", "idle"},
    )
    assert shown_as_failed(instance, run) == {"broken"}
    names = ("gated", "idle", "broken")
    assert health(instance, map(key, names)) == dict(
        zip(names, ("UNKNOWN", "HEALTHY", "DEGRADED"), strict=True)
    )


def test_a_warning_stays_until_the_audit_runs_again(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: rows that an audit found are still there when nothing was due."""
    project.model("warns", "SELECT 1::INT AS id", WARNS)
    definitions = project.definitions()
    first = run_in_process(definitions, instance)
    (name,) = first.passed
    idle = run_in_process(definitions, instance)
    assert idle.kept == {name: False}
    check = idle.checks[name]
    assert (check.severity, check.description) == (dg.AssetCheckSeverity.WARN, "found 1 row")
    assert check.metadata["sqlmesh/failing_rows"].value == 1
    assert check.metadata["sqlmesh/found_in_run"].value == first.run_id
    assert run_in_process(definitions, instance, now=NEXT_DAY).passed == {name: False}


def test_checks_keep_their_result_also_when_only_the_asset_is_selected(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: Dagster asks for a result on the newest materialization, which is the run's."""
    project.model("warns", "SELECT 1::INT AS id", WARNS)
    definitions = project.definitions()
    run_in_process(definitions, instance)
    result = dg.materialize(
        list(definitions.assets or ()),  # type: ignore[arg-type]
        selection=dg.AssetSelection.assets(key("warns")).without_checks(),
        resources=dict(definitions.resources or {}),
        instance=instance,
        run_config={"resources": {"sqlmesh_run_options": {"config": {"execution_time": NOW}}}},
    )
    alone = Run(result.success, result.run_id, result.all_events)
    assert (alone.unchanged, list(alone.kept.values())) == (["warns"], [False])


def test_an_audit_that_was_added_or_changed_says_what_it_finds_itself(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: SQLMesh runs it when it is deployed; what another query found is not reported again."""
    audit = "AUDIT (name odd, blocking false); SELECT * FROM @this_model WHERE id {} 5;"
    project.model("full", "SELECT 1::INT AS id")
    run_in_process(project.definitions(), instance)
    for comparison, passed in ((">", True), ("<", False)):
        project.write("audits/odd.sql", audit.format(comparison))
        project.model("full", "SELECT 1::INT AS id", "kind FULL, audits (odd)")
        run = run_in_process(project.definitions(), instance)
        assert (run.passed, run.kept) == ({"full:odd": passed}, {})


def test_a_warehouse_that_an_instance_does_not_know_is_reported_as_it_is(
    project: Project,
) -> None:
    """Promise: a lost instance loses no truth: what was built before is reported as that, each time equally."""
    project.model("full", "SELECT 1::INT AS id", NOT_NULL)
    with dg.DagsterInstance.ephemeral() as lost:
        built = run_in_process(project.definitions(), lost).metadata("full")
    versions = []
    for _ in range(2):
        with dg.DagsterInstance.ephemeral() as fresh:
            run = run_in_process(project.definitions(), fresh)
            assert (run.materialized, run.unchanged, run.checks) == ([], ["full"], {})
            facts = run.metadata("full")
            assert facts["sqlmesh/source"] == "outside Dagster"
            assert facts["sqlmesh/version"] == built["sqlmesh/version"]
            assert facts["sqlmesh/built_at"] == pytest.approx(built["sqlmesh/built_at"], abs=5)
            versions.append(data_version(fresh, "full"))
            again = run_in_process(project.definitions(), fresh)
            assert again.metadata("full")["sqlmesh/source"] == "outside Dagster"
            assert data_version(fresh, "full") == versions[-1]
    assert versions[0] == versions[1]


def test_what_was_built_beside_dagster_is_new_data_and_its_checks_are_not_known(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: an idle run after `sqlmesh run` reports the newer table, and no older result of its audits."""
    project.model("full", "SELECT 1::INT AS id", NOT_NULL)
    definitions = project.definitions()
    run_in_process(definitions, instance)
    before = data_version(instance, "full")
    sqlmesh_run(project, NEXT_DAY)
    idle = run_in_process(definitions, instance, now=NEXT_DAY)
    assert (idle.unchanged, idle.checks) == (["full"], {})
    assert idle.metadata("full")["sqlmesh/source"] == "outside Dagster"
    assert data_version(instance, "full") != before


def test_the_sync_has_nothing_to_report_after_an_idle_run(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: what was reported again is not taken for news."""
    project.model("full", "SELECT 1::INT AS id")
    project.model("daily", ROWS, DAILY)
    definitions = project.definitions()
    for _ in range(2):
        run_in_process(definitions, instance)
        synced = _sync(project, instance)
        assert (synced.obstacle, synced.reported) == (None, ())


def _sync(project: Project, instance: dg.DagsterInstance) -> Any:
    from sqlmesh_dagster.definition.project import translate

    resource = SQLMeshResource(project_dir=str(project.root), environment="dev")
    manifest = project_manifest(resource)
    translated = translate(
        manifest, SQLMeshTranslator(), name="sqlmesh", group_name="sqlmesh", owners=()
    )
    return synchronize(instance, translated, resource.settings)


def test_an_idle_partitioned_model_leaves_its_partitions_as_they_are(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: the asset is not failed and no partition is touched."""
    project.model("daily", ROWS, DAILY)
    settings = SQLMeshTranslator(settings=TranslatorSettings(partitions=True))
    definitions = project.definitions(translator=settings)
    run_in_process(definitions, instance)
    partitions = instance.get_materialized_partitions(key("daily"))
    before = data_version(instance, "daily")
    idle = run_in_process(definitions, instance)
    assert idle.unchanged == ["daily"]
    assert last(instance, "daily").partition is None
    assert data_version(instance, "daily") == before
    assert instance.get_materialized_partitions(key("daily")) == partitions
    assert len(partitions) == 9
    with dg.DagsterInstance.ephemeral() as fresh:  # knows no partition yet
        assert run_in_process(definitions, fresh).unchanged == ["daily"]
        assert fresh.get_materialized_partitions(key("daily")) == partitions


def test_a_model_that_waits_for_a_signal_is_reported_as_it_is(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: with the signal's name; and as fresh only where nobody asks Dagster for freshness."""
    flag = project.root / "open"
    project.write("signals/gates.py", GATE.format(flag=str(flag)))
    flag.touch()
    project.model("gated", "SELECT 1::INT AS id", f"{NOT_NULL}, signals (gate_open())")
    definitions = project.definitions()
    assert run_in_process(definitions, instance).materialized == ["gated"]
    flag.unlink()
    waits = run_in_process(definitions, instance, now=NEXT_DAY)
    assert (waits.unchanged, waits.kept) == (["gated"], {"gated:not_null_id": True})
    assert waits.metadata("gated")["sqlmesh/status"] == "not ready"
    assert "gate_open" in waits.metadata("gated")["sqlmesh/reason"]
    policies = SQLMeshTranslator(settings=TranslatorSettings(freshness_policies=True))
    late = run_in_process(project.definitions(translator=policies), instance, now=NEXT_DAY)
    assert (late.unchanged, late.observed) == ([], ["gated"])


def test_whoever_prefers_an_observation_keeps_it_by_a_setting(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: `nothing_due="observe"`; checks keep their result all the same."""
    project.model("full", "SELECT 1::INT AS id", NOT_NULL)
    definitions = project.definitions(nothing_due="observe")
    run_in_process(definitions, instance)
    idle = run_in_process(definitions, instance)
    assert (idle.materialized, idle.unchanged, idle.observed) == ([], [], ["full"])
    assert idle.kept == {"full:not_null_id": True}


def test_one_look_into_the_event_log_serves_all_models_of_a_run(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: a run asks for last results once, however many models and checks it has."""
    for number in range(6):
        project.model(f"m{number}", "SELECT 1::INT AS id", NOT_NULL)
    definitions = project.definitions()
    run_in_process(definitions, instance)
    with statements() as few:
        run_in_process(definitions, instance, "m0")
    with statements() as many:
        assert len(run_in_process(definitions, instance).kept) == 6
    lookups = [
        sum("max(asset_check_executions.id)" in text.lower() for text in seen)
        for seen in (few, many)
    ]
    assert lookups[0] == lookups[1] <= 3


@pytest.mark.parametrize(("job", "records"), [(None, 8), ("sqlmesh_job", 6)])
def test_a_model_with_nothing_due_costs_no_more_records_than_it_must(
    project: Project, instance: dg.DagsterInstance, job: str | None, records: int
) -> None:
    """Promise: of a model with two checks, its materialization, a result of each check, begin and end of
    its step, and what was planned, which in the scheduled job are no checks; one more if others wait."""
    audits = "kind FULL, audits (not_null(columns := (id)), unique_values(columns := (id)))"
    for number in range(5):
        project.model(f"m{number}", "SELECT 1::INT AS id", audits)
    project.model("n0", "SELECT id FROM demo.m4", audits)
    definitions = project.definitions()
    resolved = (
        definitions.resolve_job_def(job)
        if job
        else definitions.resolve_implicit_global_asset_job_def()
    )

    def count(*names: str) -> int:
        wanted = {key(name) for name in names}
        planned = None if job is None else set[dg.AssetCheckKey]()  # as the schedule asks
        part = resolved.get_subset(asset_selection=wanted, asset_check_selection=planned)
        run = part.execute_in_process(instance=instance, run_config=run_config())
        return len(instance.all_logs(run.run_id))

    run_in_process(definitions, instance)
    alone = count("m0")
    assert count("m0", "m1", "m2", "m3") - alone == 3 * records
    assert count("m0", "m4", "n0") - alone == 2 * records + 1
    assert len(shown_checks(instance, graph_checks(definitions))) == 12
    assert set(shown_checks(instance, graph_checks(definitions)).values()) == {"SUCCEEDED"}


def graph_checks(definitions: dg.Definitions) -> set[dg.AssetCheckKey]:
    """All checks of a project."""
    return set(definitions.resolve_asset_graph().asset_check_keys)


def test_a_built_model_costs_the_scheduled_job_one_record_for_each_check(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: not what is planned and an output besides; and what an audit found is told all the same."""
    rows = "kind FULL, audits (not_null(columns := (id)), accepted_range(column := id, min_v := 5,"
    project.model("m0", "SELECT 1::INT AS id", f"{rows} blocking := false))")
    project.model("m1", "SELECT 1::INT AS id", f"{rows}))")
    definitions = project.definitions()
    job = definitions.resolve_job_def("sqlmesh_job")
    result = job.execute_in_process(
        instance=instance, run_config=run_config(), raise_on_error=False
    )
    run = Run(result.success, result.run_id, result.all_events)
    assert list(run.failed) == ["warehouse__demo__m1"]
    assert shown_checks(instance, graph_checks(definitions)) == {
        "m0:not_null_id": "SUCCEEDED",
        "m0:accepted_range_id": "FAILED",
        "m1:not_null_id": "SUCCEEDED",
        "m1:accepted_range_id": "FAILED",
    }
    about = [entry for entry in instance.all_logs(run.run_id) if entry.dagster_event]
    assert (
        sum("CHECK" in str(e.dagster_event.event_type_value) for e in about if e.dagster_event) == 4
    )


@contextmanager
def statements() -> Iterator[list[str]]:
    """Every SQL statement that SQLAlchemy executes meanwhile."""
    seen: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *args: Any) -> None:
        seen.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(Engine, "before_cursor_execute", note)


def test_an_asset_on_new_data_follows_new_data_only(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: `eager` requests it for a model with nothing due, once; `on_new_data` never does, and both
    do when the model is built."""
    project.model("full", "SELECT 1::INT AS id")

    @dg.asset(deps=[key("full")], automation_condition=on_new_data())
    def careful() -> None: ...

    @dg.asset(deps=[key("full")], automation_condition=dg.AutomationCondition.eager())
    def eager() -> None: ...

    definitions = dg.Definitions.merge(
        project.definitions(), dg.Definitions(assets=[careful, eager])
    )
    cursor = None

    def requested() -> set[str]:
        nonlocal cursor
        result = dg.evaluate_automation_conditions(definitions, instance, cursor=cursor)
        cursor = result.cursor
        names = ("careful", "eager")
        return {name for name in names if result.get_num_requested(dg.AssetKey(name))}

    run_in_process(definitions, instance)  # all of it
    requested()
    assert requested() == set()
    run_in_process(definitions, instance, "full")
    assert (requested(), requested()) == ({"eager"}, set())
    run_in_process(definitions, instance, "full", now=NEXT_DAY)
    assert (requested(), requested()) == ({"careful", "eager"}, set())


def test_a_new_instance_finds_what_is_built_at_a_cost_that_does_not_grow_with_the_run(
    project: Project, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each idle step would read all events of the run: as many times as many as there are models."""
    for name in ("a", "b", "c", "d"):
        project.model(name, "SELECT 1::INT AS id")
    with dg.DagsterInstance.ephemeral() as other:
        assert run_in_process(project.definitions(), other).success
    read: list[str] = []
    stats = dg.DagsterInstance.get_run_step_stats

    def counted(self: dg.DagsterInstance, run_id: str, **more: Any) -> Any:
        read.append(run_id)
        return stats(self, run_id, **more)

    monkeypatch.setattr(dg.DagsterInstance, "get_run_step_stats", counted)
    run = run_in_process(project.definitions(), instance)
    assert sorted(run.unchanged) == ["a", "b", "c", "d"]
    assert len(read) <= 2, "once to lead"
