"""The adaptive schedule: asks SQLMesh what is due, requests only that, and changes nothing."""

from __future__ import annotations

import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import dagster as dg
import pytest
from sqlmesh.core.engine_adapter.duckdb import DuckDBEngineAdapter
from sqlmesh.core.state_sync import EngineAdapterStateSync
from sqlmesh.utils.cron import CroniterCache
from tests.sqlmesh_dagster.projects import Project, held_by_another_process, run_in_process

from sqlmesh_dagster import (
    InvalidSettingError,
    SQLMeshResource,
    SQLMeshTranslator,
    TranslatorSettings,
)

BUILT_AT = "2025-01-10T00:30:00"


def _tick(
    definitions: dg.Definitions, instance: dg.DagsterInstance, at: str
) -> tuple[list[dg.RunRequest], str | None]:
    """Run requests, or the reason for none, of a tick at a moment in UTC."""
    schedule = definitions.resolve_schedule_def("sqlmesh_adaptive_schedule")
    with dg.build_schedule_context(
        instance,
        scheduled_execution_time=datetime.fromisoformat(at).replace(tzinfo=timezone.utc),
        repository_def=definitions.get_repository_def(),
    ) as context:
        data = schedule.evaluate_tick(context)
    return list(data.run_requests or ()), data.skip_message


def _requested(requests: list[dg.RunRequest]) -> list[str]:
    return sorted(key.path[-1] for request in requests for key in request.asset_selection or ())


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """An instance on disk: a tick opens its own."""
    home = tmp_path / "home"
    home.mkdir()
    with dg.DagsterInstance.local_temp(str(home)) as local:
        yield local


@pytest.fixture
def built(project: Project, instance: dg.DagsterInstance) -> Project:
    """An hourly, a daily and a weekly model, all built at `BUILT_AT`."""
    project.model("hourly", "SELECT 1::INT AS id", "kind FULL, cron '@hourly'")
    project.model("daily", "SELECT id FROM demo.hourly")
    project.model("weekly", "SELECT id FROM demo.daily", "kind FULL, cron '@weekly'")
    project.write("seeds/names.csv", "id\n1\n")
    project.model("names", "", "kind SEED (path '../seeds/names.csv'), columns (id INT)")
    assert run_in_process(project.definitions(), instance, now=BUILT_AT).success
    return project


def test_its_cron_is_the_finest_among_the_models(built: Project) -> None:
    """Promise: no model waits longer than its own cron says."""
    schedule = built.definitions().resolve_schedule_def("sqlmesh_adaptive_schedule")
    assert schedule.cron_schedule == "@hourly"
    assert schedule.execution_timezone == "UTC"


def test_a_tick_requests_only_what_is_due(built: Project, instance: dg.DagsterInstance) -> None:
    """Promise: hourly at the hour, daily too at midnight, and weekly on Sunday."""
    definitions = built.definitions()
    assert _requested(_tick(definitions, instance, "2025-01-10T01:00:00")[0]) == ["hourly"]
    assert _requested(_tick(definitions, instance, "2025-01-11T00:00:00")[0]) == ["daily", "hourly"]
    sunday, _ = _tick(definitions, instance, "2025-01-12T00:00:00")
    assert _requested(sunday) == ["daily", "hourly", "weekly"]


def test_a_preview_that_is_up_to_date_is_not_requested(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: forward-only models, whose intervals a development environment keeps apart, count."""
    project.write("seeds/names.csv", "id,name\n1,a\n")
    project.model("names", "", "kind SEED (path '../seeds/names.csv'), columns (id INT, name TEXT)")
    project.model(
        "history",
        "SELECT id::INT AS id, name::TEXT AS name FROM demo.names",
        "kind SCD_TYPE_2_BY_COLUMN (unique_key id, columns [name])",
    )
    project.model("below", "SELECT id FROM demo.history")
    definitions = project.definitions()
    run = run_in_process(definitions, instance, now=BUILT_AT)
    assert sorted(run.materialized) == ["below", "history", "names"]
    assert _tick(definitions, instance, "2025-01-10T01:00:00")[0] == []
    requests, _ = _tick(definitions, instance, "2025-01-11T00:30:00")
    assert _requested(requests) == ["below", "history"]


def test_a_requested_run_builds_what_the_tick_saw(
    built: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: the run request is valid, and its run has the tick's time as its now."""
    definitions = built.definitions()
    ((request,), _) = _tick(definitions, instance, "2025-01-11T00:00:00")
    job = definitions.resolve_job_def("sqlmesh_job")
    result = job.execute_in_process(
        instance=instance,
        asset_selection=request.asset_selection,
        run_config=request.run_config,
        tags=request.tags,
    )
    names = [
        e.asset_key.path[-1] for e in result.all_events if e.is_step_materialization and e.asset_key
    ]
    assert names == ["hourly", "daily"]
    assert _tick(definitions, instance, "2025-01-11T00:00:00")[0] == []


def test_a_requested_run_selects_no_check_that_a_models_step_reports_anyway(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: standalone audits, and checks of the owner's own, are selected; audits and the linter not."""
    project.model("m", "SELECT 1::INT AS id", "kind FULL, audits (not_null(columns := (id)))")
    project.write(
        "audits/all_there.sql",
        "AUDIT (name all_there, standalone true); SELECT id FROM demo.m WHERE id IS NULL",
    )

    @dg.asset_check(asset=dg.AssetKey(["warehouse", "demo", "m"]))
    def own() -> dg.AssetCheckResult:
        return dg.AssetCheckResult(passed=True)

    settings = TranslatorSettings(lint_checks=True)
    definitions = dg.Definitions.merge(
        project.definitions(translator=SQLMeshTranslator(settings=settings)),
        dg.Definitions(asset_checks=[own]),
    )
    ((request,), _) = _tick(definitions, instance, "2025-01-11T00:00:00")
    assert [key.name for key in request.asset_check_keys or ()] == ["all_there", "own"]


def test_a_tick_with_nothing_due_says_when_the_next_is(
    built: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: an idle tick is a skip with a date."""
    requests, reason = _tick(built.definitions(), instance, "2025-01-10T00:45:00")
    assert requests == []
    assert reason is not None
    assert "2025-01-10T01:00:00+00:00" in reason


def test_a_tick_does_not_pile_up_on_an_active_run(
    built: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: while a run of the project has not ended, a tick skips and names it."""
    definitions = built.definitions()
    job = definitions.resolve_job_def("sqlmesh_job")
    run = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
    requests, reason = _tick(definitions, instance, "2025-01-11T00:00:00")
    assert requests == []
    assert reason is not None
    assert run.run_id in reason
    instance.delete_run(run.run_id)
    assert _tick(definitions, instance, "2025-01-11T00:00:00")[0]


def test_a_tick_on_a_locked_file_skips_with_the_reason(
    built: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: somebody else's open database is no failure."""
    with held_by_another_process(built.database):
        requests, reason = _tick(built.definitions(), instance, "2025-01-11T00:00:00")
    assert requests == []
    assert reason is not None
    assert "in use" in reason
    assert _tick(built.definitions(), instance, "2025-01-11T00:00:00")[0]


def test_a_tick_on_a_damaged_file_skips_with_what_is_wrong_and_what_helps(
    built: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: it is not told as one that somebody else holds, for which people would wait for ever."""
    definitions = built.definitions()
    built.database.write_bytes(b"no database")
    requests, reason = _tick(definitions, instance, "2025-01-11T00:00:00")
    assert requests == [] and reason is not None
    assert "not a valid DuckDB database" in reason and "Restore it from a backup" in reason
    assert "in use" not in reason


def test_a_tick_of_a_process_that_runs_sqlmesh_skips_with_the_reason(
    built: Project, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Promise: another project's context in the same process is no failure."""
    monkeypatch.setattr("sqlmesh_dagster.engine.state._PROCESS_SECONDS", 0.1)
    other = Project(tmp_path / "other")
    is_open, may_close = threading.Event(), threading.Event()

    def hold() -> None:
        with SQLMeshResource(project_dir=str(other.root)).open_context(load=False):
            is_open.set()
            may_close.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        assert is_open.wait(60)
        requests, reason = _tick(built.definitions(), instance, "2025-01-11T00:00:00")
    finally:
        may_close.set()
        thread.join()
    assert requests == []
    assert reason is not None
    assert "already running SQLMesh" in reason
    assert _tick(built.definitions(), instance, "2025-01-11T00:00:00")[0]


def test_a_tick_on_an_unfinalized_environment_skips_with_the_reason(
    built: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: a plan that died is named, and how to finish it."""
    built.execute("UPDATE sqlmesh._environments SET finalized_ts = NULL")
    requests, reason = _tick(built.definitions(), instance, "2025-01-11T00:00:00")
    assert requests == []
    assert reason is not None
    assert f"cd {built.root} && sqlmesh plan dev" in reason


def test_a_tick_of_a_new_development_environment_requests_everything(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: where runs may create the environment, the first tick does; it creates no file itself."""
    project.model("first", "SELECT 1::INT AS id")
    requests, _ = _tick(project.definitions(), instance, "2025-01-11T00:00:00")
    assert _requested(requests) == ["first"]
    assert not project.database.exists()


def test_a_tick_of_a_missing_production_environment_skips_with_the_command(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: production is planned by a person first."""
    project.model("first", "SELECT 1::INT AS id")
    definitions = project.definitions(environment="prod")
    requests, reason = _tick(definitions, instance, "2025-01-11T00:00:00")
    assert requests == []
    assert reason is not None
    assert f"cd {project.root} && sqlmesh plan" in reason


def test_a_tick_changes_nothing_in_sqlmeshs_state(
    built: Project, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    """Promise: state tables are the same, row by row, before and after ticks."""
    before = _state(built, tmp_path / "before.duckdb")
    for at in ("2025-01-10T00:45:00", "2025-01-11T00:00:00", "2025-01-12T00:00:00"):
        _tick(built.definitions(), instance, at)
    assert _state(built, tmp_path / "after.duckdb") == before


def test_daily_crons_at_different_hours_all_have_a_tick(project: Project) -> None:
    """Promise: where the finest period is shared, no model waits for another day."""
    project.model("early", "SELECT 1::INT AS id", "kind FULL, cron '0 5 * * *'")
    project.model("late", "SELECT 1::INT AS id", "kind FULL, cron '0 17 * * *'")
    schedule = project.definitions().resolve_schedule_def("sqlmesh_adaptive_schedule")
    assert schedule.cron_schedule == ["0 17 * * *", "0 5 * * *"]


@pytest.mark.slow
def test_a_later_tick_costs_the_same_for_more_models(
    built: Project, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise: what is done is read again only if it has changed, and a cron is evaluated once for all models."""
    few = _costs_of_later_ticks(built.definitions(), instance, monkeypatch)
    for number in range(6):
        built.model(f"more_{number}", "SELECT id FROM demo.hourly")
    assert run_in_process(built.definitions(), instance, now=BUILT_AT).success
    many = _costs_of_later_ticks(built.definitions(), instance, monkeypatch)
    assert many["statements"] == few["statements"] and many["states"] == few["states"] == 1
    assert few["crons"] <= 15 and many["crons"] <= 15, "five at most for each of three crons"
    built.execute("DELETE FROM sqlmesh._intervals WHERE name LIKE '%more_3%'")
    assert _requested(_tick(built.definitions(), instance, "2025-01-10T00:50:00")[0]) == ["more_3"]


def _costs_of_later_ticks(
    definitions: dg.Definitions, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> Counter[str]:
    """Of the second of two ticks: statements, opened states and evaluations of crons, after it is known what is done."""
    counted: Counter[str] = Counter()

    def count(name: str, owner: type, method: str) -> None:
        original = getattr(owner, method)

        def counting(*args: object, **kwargs: object) -> object:
            counted[name] += 1
            return original(*args, **kwargs)

        patch.setattr(owner, method, counting)

    with monkeypatch.context() as patch:
        assert _tick(definitions, instance, "2025-01-10T00:45:00")[0] == []
        count("statements", DuckDBEngineAdapter, "execute")
        count("states", EngineAdapterStateSync, "__init__")
        count("crons", CroniterCache, "get_next")
        assert _tick(definitions, instance, "2025-01-10T00:50:00")[0] == []
    return counted


def _state(project: Project, copy: Path) -> dict[str, list[tuple[object, ...]]]:
    shutil.copy(project.database, copy)
    tables = project.query("SELECT table_name FROM duckdb_tables() WHERE schema_name = 'sqlmesh'")
    return {
        name: sorted(project.query(f'SELECT * FROM sqlmesh."{name}"'), key=str)
        for (name,) in tables
    }


def test_a_tick_that_is_tried_for_a_later_day_answers_for_that_day(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: as "Test schedule" does in the UI; the clock of the process has no say."""
    project.model("daily", "SELECT 1::INT AS id")
    definitions = project.definitions()
    assert run_in_process(definitions, instance, now=None).success
    later = datetime.now(timezone.utc) + timedelta(days=2)
    requests, _ = _tick(definitions, instance, f"{later:%Y-%m-%d}T00:00:00")
    assert _requested(requests) == ["daily"]


def _ingest(name: str, *deps: str, partitioned: bool = False) -> dg.AssetsDefinition:
    @dg.asset(
        key=["warehouse", "raw", name],
        deps=[dg.AssetKey(["warehouse", "raw", dep]) for dep in deps],
        partitions_def=dg.StaticPartitionsDefinition(["a"]) if partitioned else None,
    )
    def load() -> dg.MaterializeResult[None]:
        return dg.MaterializeResult(data_version=dg.DataVersion("1"))

    return load


@pytest.fixture
def loaded(project: Project) -> Project:
    """A view on a loaded table, a table that reads the view, and one that reads a partitioned asset."""
    project.execute("CREATE SCHEMA raw")
    project.execute("CREATE TABLE raw.events AS SELECT 1 AS id")
    project.execute("CREATE TABLE raw.parts AS SELECT 1 AS id")
    project.model("seen", "SELECT id::INT AS id FROM raw.events", "kind VIEW, cron '@weekly'")
    project.model("daily", "SELECT id FROM demo.seen")
    project.model("parted", "SELECT id::INT AS id FROM raw.parts")
    return project


def _with_ingest(project: Project, **settings: str) -> dg.Definitions:
    ingest = [
        _ingest("download"),
        _ingest("events", "download"),
        _ingest("parts", partitioned=True),
    ]
    return dg.Definitions.merge(
        project.definitions(**settings), dg.Definitions(assets=[*ingest, _ingest("unread")])
    )


@pytest.mark.parametrize(
    ("loads", "names"), [("none", []), ("direct", ["events"]), ("all", ["download", "events"])]
)
def test_a_tick_loads_what_the_due_models_read(
    loaded: Project, instance: dg.DagsterInstance, loads: str, names: list[str]
) -> None:
    """Promise: through views, and as far up as the setting says; what has partitions is left out."""
    definitions = _with_ingest(loaded, schedule_loads=loads)
    assert run_in_process(definitions, instance, "seen", "daily", "parted", now=BUILT_AT).success
    (request,), _ = _tick(definitions, instance, "2025-01-11T00:00:00")
    assert _requested([request]) == sorted(["daily", "parted", *names])
    result = definitions.resolve_job_def("sqlmesh_job").execute_in_process(
        instance=instance,
        asset_selection=request.asset_selection,
        run_config=request.run_config,
        tags=request.tags,
    )
    assert result.success
    assert _tick(definitions, instance, "2025-01-11T00:00:00")[0] == []


def test_a_tick_loads_nothing_that_is_fresher_than_itself(
    loaded: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: what another run has loaded since is not loaded again."""
    definitions = _with_ingest(loaded)
    run_in_process(definitions, instance, "seen", "daily", "parted", now=BUILT_AT)
    run_in_process(definitions, instance, "events", now=None)
    (request,), _ = _tick(definitions, instance, "2025-01-11T00:00:00")
    assert _requested([request]) == ["daily", "parted"]


def test_what_one_op_loads_is_loaded_together(
    loaded: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: an op that cannot load a part of its assets neither breaks the location nor the tick."""
    names = [["warehouse", "raw", "events"], ["warehouse", "raw", "beside"]]

    @dg.multi_asset(specs=[dg.AssetSpec(name) for name in names])
    def load() -> Iterator[dg.MaterializeResult[None]]:
        yield from (dg.MaterializeResult(name) for name in names)

    definitions = dg.Definitions.merge(loaded.definitions(), dg.Definitions(assets=[load]))
    dg.Definitions.validate_loadable(definitions)
    assert run_in_process(definitions, instance, "seen", "daily", "parted", now=BUILT_AT).success
    requests, _ = _tick(definitions, instance, "2025-01-11T00:00:00")
    assert _requested(requests) == ["beside", "daily", "events", "parted"]


def test_a_choice_that_there_is_not_is_named(loaded: Project) -> None:
    """Promise: with the choices."""
    with pytest.raises(InvalidSettingError, match="`schedule_loads` is `some`"):
        loaded.definitions(schedule_loads="some")


def test_a_model_that_is_only_due_to_be_restated_is_requested(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: an `auto_restatement_cron` is a cron: a tick requests the model, and its run restates it."""
    project.settings = {"environment": "prod", "undeployed_changes": "apply"}
    kind = "time_column day, auto_restatement_cron '@daily', auto_restatement_intervals 1"
    project.model(
        "monthly",
        "SELECT @start_ds::DATE AS day, @execution_ts::TEXT AS built_at",
        f"kind INCREMENTAL_BY_TIME_RANGE ({kind}), cron '@monthly', start '2024-11-01'",
    )
    project.model(
        "below",
        "SELECT built_at FROM demo.monthly",
        "kind FULL, cron '@monthly', start '2024-11-01'",
    )
    project.model("other", "SELECT 1 AS x")
    definitions = project.definitions()
    schedule = definitions.resolve_schedule_def("sqlmesh_adaptive_schedule")
    assert schedule.cron_schedule == "@daily"
    assert run_in_process(definitions, instance, now=BUILT_AT).success
    assert _requested(_tick(definitions, instance, "2025-01-10T01:00:00")[0]) == []
    _restate_at(project, "2025-01-11T00:00:00+00:00")
    before = _state_of_monthly(project)
    ((request,), _) = _tick(definitions, instance, "2025-01-11T00:00:00")
    assert {"below", "monthly"} <= set(_requested([request]))
    assert _state_of_monthly(project) == before  # a tick changes nothing
    run_in_process(definitions, instance, "other", now="2025-01-11T00:00:00")
    ((request,), _) = _tick(definitions, instance, "2025-01-11T00:10:00")
    assert _requested([request]) == ["below", "monthly"]  # still, after a run of another model
    definitions.resolve_job_def("sqlmesh_job").execute_in_process(
        instance=instance, asset_selection=request.asset_selection, run_config=request.run_config
    )
    ((built_at,),) = project.query("SELECT max(built_at) FROM demo.monthly")
    assert built_at.startswith("2025-01-11")
    assert _requested(_tick(definitions, instance, "2025-01-11T01:00:00")[0]) == []


def _restate_at(project: Project, moment: str) -> None:
    """SQLMesh counts the first restatement from the clock of the plan, which is years ahead here."""
    milliseconds = int(datetime.fromisoformat(moment).timestamp() * 1000)
    project.execute(
        f"INSERT INTO sqlmesh._auto_restatements SELECT name, version, {milliseconds} FROM sqlmesh._snapshots"
        " WHERE name LIKE '%monthly%' AND NOT EXISTS (SELECT 1 FROM sqlmesh._auto_restatements)"
    )
    project.execute(
        f"UPDATE sqlmesh._auto_restatements SET next_auto_restatement_ts = {milliseconds}"
    )


def _state_of_monthly(project: Project) -> list[tuple[object, ...]]:
    return project.query("SELECT * FROM sqlmesh._auto_restatements ORDER BY ALL")
