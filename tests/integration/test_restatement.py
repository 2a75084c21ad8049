"""What is done is built again: ranges of partitions, and any model from the launchpad."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg
import pytest
from tests.sqlmesh_dagster.projects import Project, Run, run_config, run_in_process

from sqlmesh_dagster import SQLMeshTranslator, TranslatorSettings

_PARTITIONED = SQLMeshTranslator(settings=TranslatorSettings(partitions=True))
_FIRST = "2025-01-10T00:30:00"
_LATER = "2025-01-10T06:00:00"


def _daily(project: Project, name: str, upstream: str = "", more: str = "") -> None:
    source = f" FROM demo.{upstream} WHERE day BETWEEN @start_ds AND @end_ds" if upstream else ""
    day = "day::DATE" if upstream else "@start_ds::DATE"
    project.model(
        name,
        f"SELECT {day} AS day, @execution_ts::TEXT AS built_at{source}",
        f"kind INCREMENTAL_BY_TIME_RANGE (time_column day, batch_size 1{more})",
    )


def _chain(project: Project) -> None:
    """A daily model, a daily one and a whole one that read it, and one next to them."""
    _daily(project, "source")
    _daily(project, "below", "source")
    project.model(
        "whole", "SELECT count(*)::BIGINT AS n, @execution_ts::TEXT AS built_at FROM demo.below"
    )
    _daily(project, "beside")


def _built_chain(project: Project, instance: dg.DagsterInstance, **settings: Any) -> dg.Definitions:
    """The same, built once; the definitions, for later runs."""
    _chain(project)
    definitions = project.definitions(**settings)
    assert run_in_process(definitions, instance, now=_FIRST).success
    return definitions


def _rebuilt(project: Project, name: str) -> list[int]:
    """Days whose rows are those of the later run."""
    rows = project.query(
        f"SELECT day FROM demo__dev.{name} WHERE built_at LIKE '2025-01-10 06%' ORDER BY 1"
    )
    return [day.day for (day,) in rows]


def _days(project: Project, name: str) -> list[int]:
    return [day.day for (day,) in project.query(f"SELECT day FROM demo__dev.{name} ORDER BY 1")]


def _is_rebuilt(project: Project) -> bool:
    ((built_at,),) = project.query("SELECT built_at FROM demo__dev.whole")
    return str(built_at).startswith("2025-01-10 06")


def _run_range(
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    names: Sequence[str],
    first: str,
    last: str,
    options: Mapping[str, Any] | None = None,
    now: str = _LATER,
) -> Run:
    """As a backfill launches it."""
    result = definitions.resolve_implicit_global_asset_job_def().execute_in_process(
        instance=instance,
        asset_selection=[dg.AssetKey(["warehouse", "demo", name]) for name in names],
        tags={
            "dagster/asset_partition_range_start": first,
            "dagster/asset_partition_range_end": last,
        },
        run_config=run_config(options, now),
        raise_on_error=False,
    )
    return Run(result.success, result.run_id, result.all_events)


def _partitions(instance: dg.DagsterInstance, name: str) -> list[str]:
    return sorted(instance.get_materialized_partitions(dg.AssetKey(["warehouse", "demo", name])))


def test_a_range_of_done_partitions_is_built_again_and_nothing_else(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: exactly its rows are new, and what is downstream is left as it is."""
    definitions = _built_chain(project, instance, translator=_PARTITIONED)
    before = project.sqlmesh_runs()
    run = _run_range(definitions, instance, ["source"], "2025-01-03", "2025-01-05")
    assert run.materialized == ["source"] * 3
    assert [e.partition for e in run.events if e.is_step_materialization] == [
        "2025-01-03",
        "2025-01-04",
        "2025-01-05",
    ]
    assert project.sqlmesh_runs() == before + 1
    assert _rebuilt(project, "source") == [3, 4, 5]
    assert _days(project, "source") == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert _rebuilt(project, "below") == _rebuilt(project, "beside") == []
    assert run_in_process(definitions, instance, now=_LATER).materialized == []


def test_a_range_goes_downstream_when_told_to(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: what reads it is built again for the same days, and Dagster knows it."""
    definitions = _built_chain(project, instance, translator=_PARTITIONED)
    run = _run_range(
        definitions, instance, ["source"], "2025-01-03", "2025-01-04", {"restate_downstream": True}
    )
    assert run.success
    assert _rebuilt(project, "source") == _rebuilt(project, "below") == [3, 4]
    assert _is_rebuilt(project)
    assert _rebuilt(project, "beside") == []
    assert _partitions(instance, "below") == [f"2025-01-{day:02}" for day in range(1, 10)]
    events = instance.fetch_materializations(dg.AssetKey(["warehouse", "demo", "below"]), limit=20)
    assert len(events.records) == 9 + 2


def test_a_range_that_is_missing_is_built_alone(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: the newest partition is an ordinary run of that partition; other gaps stay for others."""
    _chain(project)
    definitions = project.definitions(translator=_PARTITIONED)
    run_in_process(definitions, instance, "source", now="2025-01-05T00:30:00")
    run = _run_range(definitions, instance, ["source"], "2025-01-09", "2025-01-09")
    assert run.materialized == ["source"]
    assert _days(project, "source") == [1, 2, 3, 4, 9]
    mixed = _run_range(definitions, instance, ["source"], "2025-01-03", "2025-01-06")
    assert mixed.materialized == ["source"] * 4
    assert _days(project, "source") == [1, 2, 3, 4, 5, 6, 9]
    assert _rebuilt(project, "source") == [3, 4, 5, 6, 9]


def test_several_models_of_a_range_are_built_again_in_one_sqlmesh_run(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: also those without partitions, which are selected with them."""
    definitions = _built_chain(project, instance, translator=_PARTITIONED)
    before = project.sqlmesh_runs()
    names = ["source", "below", "whole"]
    run = _run_range(definitions, instance, names, "2025-01-03", "2025-01-04")
    assert run.materialized == ["source"] * 2 + ["below"] * 2 + ["whole"]
    assert project.sqlmesh_runs() == before + 1
    assert _rebuilt(project, "source") == _rebuilt(project, "below") == [3, 4]
    assert _is_rebuilt(project)


def test_a_restatement_names_what_it_would_rebuild_before_it_touches_anything(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: until it is said what is to become of the models downstream, nothing is done."""
    definitions = _built_chain(project, instance)
    before = project.sqlmesh_runs()
    run = run_in_process(definitions, instance, "source", now=_LATER, options={"restate": True})
    ((_, error),) = run.failed.items()
    assert "`demo.below`, `demo.whole` would be built again" in error
    assert "`restate_downstream`" in error
    assert "beside" not in error
    assert project.sqlmesh_runs() == before


@pytest.mark.parametrize(
    ("downstream", "execution"), [(True, "shared"), (False, "shared"), (True, "per_step")]
)
def test_any_model_is_restated_between_start_and_end(
    project: Project, instance: dg.DagsterInstance, downstream: bool, execution: str
) -> None:
    """Promise: with what is downstream, or without; also without partitions in Dagster."""
    definitions = _built_chain(project, instance, execution=execution)
    options = {
        "restate": True,
        "restate_downstream": downstream,
        "start": "2025-01-03",
        "end": "2025-01-05",
    }
    run = run_in_process(definitions, instance, "source", now=_LATER, options=options)
    assert run.materialized == ["source"]
    assert _rebuilt(project, "source") == [3, 4, 5]
    assert _rebuilt(project, "below") == ([3, 4, 5] if downstream else [])
    assert _is_rebuilt(project) is downstream


def test_a_restatement_that_nothing_reads_needs_no_word(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: a whole table is built again, though nothing is due."""
    definitions = _built_chain(project, instance)
    run = run_in_process(definitions, instance, "whole", now=_LATER, options={"restate": True})
    assert run.materialized == ["whole"]
    assert _is_rebuilt(project)


def test_a_restatement_that_is_disabled_is_refused(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: the model and its setting are named, and nothing is done; a range is refused as well."""
    _daily(project, "kept", more=", disable_restatement true")
    definitions = project.definitions(translator=_PARTITIONED)
    run_in_process(definitions, instance, now=_FIRST)
    whole = run_in_process(definitions, instance, "kept", now=_LATER, options={"restate": True})
    ((_, error),) = whole.failed.items()
    assert "`disable_restatement` is on for `demo.kept`" in error
    ranged = _run_range(definitions, instance, ["kept"], "2025-01-03", "2025-01-04")
    ((_, error),) = ranged.failed.items()
    assert "`disable_restatement`" in error
    assert _rebuilt(project, "kept") == []
    assert len(_days(project, "kept")) == 9


def test_a_version_that_production_runs_is_not_restated_from_elsewhere(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: a development environment never rebuilds production's tables; the message says so."""
    _chain(project)
    production = {"environment": "prod", "undeployed_changes": "apply"}
    run_in_process(project.definitions(**production), instance, now=_FIRST)
    options = {"restate": True, "restate_downstream": False}
    definitions = project.definitions()
    run = run_in_process(definitions, instance, "source", now=_LATER, options=options)
    ((_, error),) = run.failed.items()
    assert "shares its version with production" in error
    ranged = {**options, "start": "2025-01-03", "end": "2025-01-04"}
    run = run_in_process(definitions, instance, "source", now=_LATER, options=ranged)
    command = "poe rebuild demo.source --start '2025-01-03' --end '2025-01-04'"
    assert f"`SQLMESH_ENVIRONMENT=prod {command}`" in str(run.failed)
    run = run_in_process(
        project.definitions(**production), instance, "source", now=_LATER, options=options
    )
    assert run.materialized == ["source"]


def test_what_fails_while_it_is_restated_is_missing_afterwards(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: the step fails with the model's error and the failed check, and the next ordinary run
    builds what is then missing, and nothing else.
    """
    project.execute("CREATE SCHEMA raw; CREATE TABLE raw.bad AS SELECT NULL::DATE AS day")
    project.model(
        "checked",
        "SELECT @start_ds::DATE AS day, b.day AS bad, @execution_ts::TEXT AS built_at"
        " FROM (SELECT 1) AS one LEFT JOIN raw.bad AS b ON b.day = @start_ds::DATE",
        "kind INCREMENTAL_BY_TIME_RANGE (time_column day, batch_size 1, batch_concurrency 1),"
        " audits (forall(criteria := (bad IS NULL)))",
    )
    definitions = project.definitions(translator=_PARTITIONED)
    run_in_process(definitions, instance, now=_FIRST)
    project.execute("UPDATE raw.bad SET day = '2025-01-04'")
    run = _run_range(definitions, instance, ["checked"], "2025-01-03", "2025-01-05")
    ((_, error),) = run.failed.items()
    assert "blocking audit" in error
    assert list(run.passed.values()) == [False]
    assert run.materialized == []  # a retry must take it
    project.execute("UPDATE raw.bad SET day = NULL")
    fixed = run_in_process(definitions, instance, now="2025-01-10T06:10:00")
    assert fixed.materialized == ["checked"] * 2
    assert _rebuilt(project, "checked") == [3, 4, 5]


@pytest.mark.parametrize("build", [{"restate": True}, {"build": "all"}, {}])
def test_what_fails_before_its_models_forgets_nothing(
    project: Project, instance: dg.DagsterInstance, build: dict[str, Any]
) -> None:
    """Promise: as after a plan of SQLMesh whose `before_all` fails, all is recorded as done; the same
    run again builds all of it, and was green with nothing built. Also where a model is stale.
    """
    project.execute("CREATE SCHEMA raw; CREATE TABLE raw.source AS SELECT 1 AS n")
    project.model("source", "SELECT n::INT AS n, @execution_ts::TEXT AS built_at FROM raw.source")
    _daily(project, "beside")
    selected = ("source",) if build else ("source", "loaded")
    definitions = dg.Definitions.merge(
        project.definitions(external_asset_mapping="{node.schema}/{node.name}"),
        dg.Definitions(assets=[_loaded]),
    )
    assert run_in_process(definitions, instance, now=_FIRST).success
    done = _recorded(project)
    project.execute(
        "ALTER TABLE main.run_log RENAME TO kept; CREATE VIEW main.run_log AS FROM kept"
    )
    failed = run_in_process(definitions, instance, *selected, now=_LATER, options=build)
    assert not failed.success and "run_log" in str(failed.failed)
    assert _recorded(project) == done
    project.execute("DROP VIEW main.run_log; ALTER TABLE main.kept RENAME TO run_log")
    again = run_in_process(definitions, instance, *selected, now=_LATER, options=build)
    assert again.success and "source" in again.materialized
    ((built_at,),) = project.query("SELECT built_at FROM demo__dev.source")
    assert str(built_at).startswith("2025-01-10 06")


@dg.asset(key=["raw", "source"])
def _loaded() -> None:
    """New data of the table that `demo.source` reads, each time."""


def _recorded(project: Project) -> list[tuple[Any, ...]]:
    columns = "name, start_ts, end_ts, is_dev, is_removed"
    return project.query(f"SELECT {columns} FROM sqlmesh._intervals ORDER BY ALL")


def test_a_restatement_that_failed_is_whole_when_it_is_repeated(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: what is missing since belongs to it; by default it was of nothing, and green."""
    project.execute("CREATE SCHEMA raw; CREATE TABLE raw.bad AS SELECT 99 AS day")
    project.model(
        "checked",
        "SELECT @start_ds::DATE AS day, @execution_ts::TEXT AS built_at,"
        " CASE WHEN b.day <= day(@start_ds::DATE) THEN error('it broke') END AS broke FROM raw.bad AS b",
        "kind INCREMENTAL_BY_TIME_RANGE (time_column day, batch_size 1, batch_concurrency 1)",
    )
    definitions = project.definitions()
    assert run_in_process(definitions, instance, now=_FIRST).success
    for first_bad in (1, 5):
        project.execute(f"UPDATE raw.bad SET day = {first_bad}")
        run = run_in_process(definitions, instance, now=_LATER, options={"restate": True})
        assert "it broke" in str(run.failed)
    project.execute("UPDATE raw.bad SET day = 99")
    run = run_in_process(
        definitions, instance, now="2025-01-10 06:30:00", options={"restate": True}
    )
    assert run.materialized == ["checked"]
    rows = project.query("SELECT day FROM demo__dev.checked WHERE built_at LIKE '%06:30%'")
    assert len(rows) == 9


def test_a_failure_downstream_fails_the_restatement(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: the step says which model below it broke; what was restated is known, and can be retried."""
    _daily(project, "source")
    project.execute("CREATE SCHEMA raw; CREATE TABLE raw.bad AS SELECT NULL::TEXT AS reason")
    project.model(
        "breaks",
        "SELECT CASE WHEN b.reason IS NOT NULL THEN error(b.reason)::BIGINT ELSE 1 END AS n"
        " FROM demo.source AS s, raw.bad AS b",
    )
    definitions = project.definitions()
    run_in_process(definitions, instance, now=_FIRST)
    project.execute("UPDATE raw.bad SET reason = 'it broke'")
    options = {"restate": True, "restate_downstream": True, "start": "2025-01-03"}
    run = run_in_process(definitions, instance, "source", now=_LATER, options=options)
    assert run.materialized == []
    last = instance.get_latest_materialization_event(dg.AssetKey(["warehouse", "demo", "source"]))
    assert last is not None and last.asset_materialization is not None
    assert last.asset_materialization.metadata["sqlmesh/built_in_run"].value == run.run_id
    ((_, error),) = run.failed.items()
    assert "`demo.breaks` failed" in error
    assert "it broke" in error


def test_a_restatement_of_production_is_repeated_where_a_model_has_another_version(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: as after a plan of SQLMesh, a development environment builds the same days again."""
    _daily(project, "source")
    production = {"environment": "prod", "undeployed_changes": "apply"}
    run_in_process(project.definitions(**production), instance, now=_FIRST)
    project.model(
        "source",
        "SELECT @start_ds::DATE AS day, @execution_ts::TEXT AS built_at, 1::INT AS changed",
        "kind INCREMENTAL_BY_TIME_RANGE (time_column day, batch_size 1)",
    )
    development = project.definitions()
    assert run_in_process(development, instance, now=_FIRST).materialized == ["source"]
    options = {"restate": True, "start": "2025-01-03", "end": "2025-01-04"}
    in_production = project.definitions(environment="prod", undeployed_changes="warn")
    assert run_in_process(in_production, instance, now=_LATER, options=options).success
    assert run_in_process(development, instance, now=_LATER).materialized == ["source"]
    assert _rebuilt(project, "source") == [3, 4]
