"""New data is work: what is stale is built again, and what cannot be is said to be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg
import pytest
from sqlalchemy import Engine, event
from tests.sqlmesh_dagster.projects import Project, Run, run_config

from sqlmesh_dagster import SQLMeshResource, SQLMeshTranslator
from sqlmesh_dagster.commands.following import past_run
from sqlmesh_dagster.commands.report import ending
from sqlmesh_dagster.definition.project import translate
from sqlmesh_dagster.manifest.loading import project_manifest
from sqlmesh_dagster.run.inputs import known_inputs
from tests.integration.histories import alone

_NOW = "2025-01-10T00:30:00"
_LATER = "2025-01-10T06:00:00"


class Source:
    """An asset outside SQLMesh that loads `raw.events`, and says what it is asked to say of it."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.rows = "SELECT 1 AS id, DATE '2025-01-02' AS day"
        self.version: str | None = "v1"
        self.range: Mapping[str, str] | None = None
        project.execute("CREATE SCHEMA IF NOT EXISTS raw")
        self.load()

    def load(self) -> None:
        """Writes the table."""
        self.project.execute(f"CREATE OR REPLACE TABLE raw.events AS {self.rows}")

    def add(self, row: str, version: str, **time_range: str) -> None:
        """A row more, in a new version."""
        self.rows = f"{self.rows} UNION ALL SELECT {row}"
        self.version, self.range = version, time_range or None
        self.load()

    def asset(self) -> dg.AssetsDefinition:
        """The asset."""

        @dg.asset(key=["warehouse", "raw", "events"])
        def events() -> dg.MaterializeResult[None]:
            told = {"sqlmesh/loaded_range": dict(self.range)} if self.range else {}
            version = dg.DataVersion(self.version) if self.version else None
            return dg.MaterializeResult(metadata=told, data_version=version)

        return events


@pytest.fixture
def source(project: Project) -> Source:
    """One loaded table."""
    return Source(project)


def _definitions(source: Source, **settings: Any) -> dg.Definitions:
    return dg.Definitions.merge(
        source.project.definitions(**settings), dg.Definitions(assets=[source.asset()])
    )


def _run(
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    *names: str,
    now: str = _LATER,
    options: Mapping[str, Any] | None = None,
) -> Run:
    """Materializes the assets with these last key parts, or all."""
    keys = definitions.resolve_asset_graph().executable_asset_keys
    result = definitions.resolve_implicit_global_asset_job_def().execute_in_process(
        instance=instance,
        asset_selection=[key for key in keys if key.path[-1] in names] if names else None,
        run_config=run_config(options, now),
        raise_on_error=False,
    )
    return Run(result.success, result.run_id, result.all_events)


def _first_run(source: Source, instance: dg.DagsterInstance, **settings: Any) -> dg.Definitions:
    """Builds everything for the first time; the definitions, for later runs."""
    definitions = _definitions(source, **settings)
    assert _run(definitions, instance, now=_NOW).success
    return definitions


def _built(run: Run) -> list[str]:
    """Models that SQLMesh built or audited in a run."""
    return sorted(
        event.asset_key.path[-1]
        for event in run.events
        if event.is_step_materialization
        and event.asset_key
        and "sqlmesh/batches" in event.materialization.metadata
    )


def _says(run: Run, name: str) -> str:
    return str(run.metadata(name).get("sqlmesh/stale", ""))


def _rows(project: Project, name: str) -> int:
    ((count,),) = project.query(f"SELECT count(*) FROM demo__dev.{name}")
    return int(count)


@pytest.fixture
def whole(source: Source) -> Iterator[Source]:
    """A view, a table that reads it, and one below that."""
    project = source.project
    project.model("seen", "SELECT id::INT AS id, day::DATE AS day FROM raw.events", "kind VIEW")
    project.model("total", "SELECT id FROM demo.seen")
    project.model("below", "SELECT count(*)::INT AS n FROM demo.total")
    project.model("beside", "SELECT 1::INT AS id")
    yield source


def test_new_data_is_built_by_the_next_run(whole: Source, instance: dg.DagsterInstance) -> None:
    """Promise: without any flag, and through to the last table; what reads none of it is left alone."""
    definitions = _first_run(whole, instance)
    whole.add("2, DATE '2025-01-03'", "v2")
    run = _run(definitions, instance)
    assert _built(run) == ["below", "seen", "total"]
    assert _rows(whole.project, "total") == 2
    assert whole.project.query("SELECT n FROM demo__dev.below") == [(2,)]
    assert run.metadata("total")["sqlmesh/new_data_in"] == ["warehouse/raw/events"]


def test_the_same_data_makes_nothing_stale(whole: Source, instance: dg.DagsterInstance) -> None:
    """Promise: a load with the data version of before is no new data, however often."""
    definitions = _first_run(whole, instance)
    for _ in range(2):
        assert _built(_run(definitions, instance)) == []


def test_an_asset_without_a_data_version_is_new_in_every_run(
    whole: Source, instance: dg.DagsterInstance
) -> None:
    """Promise: that is Dagster's rule, and the documented one."""
    whole.version = None
    definitions = _first_run(whole, instance)
    assert _built(_run(definitions, instance)) == ["below", "seen", "total"]
    assert _built(_run(definitions, instance, "seen", "total", "below")) == []


def test_what_was_loaded_in_one_run_is_built_in_another(
    whole: Source, instance: dg.DagsterInstance
) -> None:
    """Promise: it is Dagster's record that counts, and not who loaded."""
    definitions = _first_run(whole, instance)
    whole.add("2, DATE '2025-01-03'", "v2")
    assert _run(definitions, instance, "events").success
    assert _built(_run(definitions, instance, "total")) == ["total"]
    assert _built(_run(definitions, instance, "below")) == ["below"]
    assert _built(_run(definitions, instance, "total", "below")) == []
    assert _built(_run(definitions, instance)) == ["seen"]


def test_a_model_that_was_not_selected_stays_stale(
    whole: Source, instance: dg.DagsterInstance
) -> None:
    """Promise: nothing is forgotten by a run that leaves it out."""
    definitions = _first_run(whole, instance)
    whole.add("2, DATE '2025-01-03'", "v2")
    assert _built(_run(definitions, instance, "events", "seen")) == ["seen"]
    assert _built(_run(definitions, instance)) == ["below", "total"]


def test_a_rebuild_that_fails_is_repeated(whole: Source, instance: dg.DagsterInstance) -> None:
    """Promise: what was taken off SQLMesh's record is missing, and built as soon as it can be."""
    project = whole.project
    project.model("total", "SELECT (id || '')::TINYINT AS id FROM demo.seen")
    definitions = _first_run(whole, instance)
    whole.add("1000, DATE '2025-01-03'", "v2")
    run = _run(definitions, instance)
    assert not run.success
    whole.rows = "SELECT 1 AS id, DATE '2025-01-02' AS day UNION ALL SELECT 7, DATE '2025-01-02'"
    whole.load()
    whole.version = "v3"
    assert _built(_run(definitions, instance)) == ["below", "seen", "total"]
    assert _rows(project, "total") == 2


def test_a_blocking_audit_of_a_view_stops_what_reads_it(
    whole: Source, instance: dg.DagsterInstance
) -> None:
    """Promise: a view is audited again, and bad new data goes no further."""
    project = whole.project
    project.model(
        "seen",
        "SELECT id::INT AS id, day::DATE AS day FROM raw.events",
        "kind VIEW, audits (NOT_NULL(columns := (id,)))",
    )
    definitions = _first_run(whole, instance)
    whole.add("NULL, DATE '2025-01-03'", "v2")
    run = _run(definitions, instance)
    assert run.passed == {"seen:not_null_id": False}
    assert _rows(project, "total") == 1


def _daily(project: Project, more: str = "", tag: str = "") -> None:
    tags = f", tags ['dagster:new_data:{tag}']" if tag else ""
    project.model(
        "daily",
        "SELECT day::DATE AS day, count(*)::INT AS n, @execution_ts::TEXT AS built_at"
        " FROM raw.events WHERE day BETWEEN @start_ds AND @end_ds GROUP BY 1",
        f"kind INCREMENTAL_BY_TIME_RANGE (time_column day, batch_size 1{more}){tags}",
    )


def _all_days(source: Source) -> None:
    source.rows = (
        "SELECT 1 AS id, CAST(t AS DATE) AS day FROM"
        " generate_series(DATE '2025-01-01', DATE '2025-01-09', INTERVAL 1 DAY) AS s(t)"
    )
    source.load()


def _built_days(
    source: Source,
    instance: dg.DagsterInstance,
    more: str = "",
    tag: str = "",
    **settings: Any,
) -> dg.Definitions:
    """A daily model of nine days, built."""
    _all_days(source)
    _daily(source.project, more, tag)
    return _first_run(source, instance, **settings)


def _rebuilt(project: Project, name: str = "daily") -> list[int]:
    rows = project.query(
        f"SELECT day FROM demo__dev.{name} WHERE built_at LIKE '2025-01-10 06%' ORDER BY 1"
    )
    return [day.day for (day,) in rows]


def test_a_range_builds_the_days_that_it_touches(
    source: Source, instance: dg.DagsterInstance
) -> None:
    """Promise: those of every load since the model was built, and no other."""
    definitions = _built_days(source, instance)
    source.add("2, DATE '2025-01-02'", "v2", start="2025-01-02", end="2025-01-02")
    _run(definitions, instance, "events")
    source.add("3, DATE '2025-01-05'", "v3", start="2025-01-05T08:00:00", end="2025-01-06T00:00:00")
    run = _run(definitions, instance)
    assert _built(run) == ["daily"]
    assert _rebuilt(source.project) == [2, 5, 6]
    assert source.project.query("SELECT sum(n) FROM demo__dev.daily") == [(11,)]


def test_without_a_range_the_newest_intervals_are_built(
    source: Source, instance: dg.DagsterInstance
) -> None:
    """Promise: the newest day, with the lookback; and once."""
    definitions = _built_days(source, instance, ", lookback 2")
    source.add("2, DATE '2025-01-08'", "v2")
    _run(definitions, instance)
    assert _rebuilt(source.project) == [7, 8, 9]
    assert _built(_run(definitions, instance)) == []


def test_without_a_range_nothing_is_built_if_the_setting_says_so(
    source: Source, instance: dg.DagsterInstance
) -> None:
    """Promise: it is left, says so, and stays stale."""
    definitions = _built_days(source, instance, new_data_without_range="nothing")
    source.add("2, DATE '2025-01-08'", "v2")
    for _ in range(2):
        run = _run(definitions, instance)
        assert _built(run) == []
        assert "the time of the new data in `warehouse/raw/events` is not known" in _says(
            run, "daily"
        )


def test_a_tag_of_the_model_has_the_last_word(source: Source, instance: dg.DagsterInstance) -> None:
    """Promise: where new rows may change any day, all of them are built again."""
    definitions = _built_days(source, instance, tag="all")
    source.add("2, DATE '2025-01-08'", "v2", start="2025-01-08", end="2025-01-08")
    _run(definitions, instance)
    assert _rebuilt(source.project) == list(range(1, 10))


def test_rows_of_a_time_that_is_not_due_wait_for_it(
    source: Source, instance: dg.DagsterInstance
) -> None:
    """Promise: today's rows build nothing today, and are in tomorrow's interval."""
    definitions = _built_days(source, instance)
    source.add("2, DATE '2025-01-10'", "v2", start="2025-01-10", end="2025-01-10")
    run = _run(definitions, instance)
    assert (_built(run), _says(run, "daily")) == ([], "")
    run = _run(definitions, instance, now="2025-01-11T00:30:00")
    assert _built(run) == ["daily"]
    assert _rebuilt(source.project) == []
    assert source.project.query("SELECT sum(n) FROM demo__dev.daily") == [(10,)]
    assert _built(_run(definitions, instance, now="2025-01-11T00:40:00")) == []


def test_a_model_below_follows_the_days_that_were_built_again(
    source: Source, instance: dg.DagsterInstance
) -> None:
    """Promise: a monthly total gets its month, a daily one its day."""
    _all_days(source)
    _daily(source.project)
    source.project.model(
        "after",
        "SELECT day, n, @execution_ts::TEXT AS built_at FROM demo.daily"
        " WHERE day BETWEEN @start_ds AND @end_ds",
        "kind INCREMENTAL_BY_TIME_RANGE (time_column day, batch_size 1)",
    )
    definitions = _first_run(source, instance)
    source.add("2, DATE '2025-01-04'", "v2", start="2025-01-04", end="2025-01-04")
    assert _built(_run(definitions, instance)) == ["after", "daily"]
    assert _rebuilt(source.project, "after") == _rebuilt(source.project) == [4]


def _keyed(project: Project, kind: str, tag: str = "") -> None:
    tags = f", tags ['dagster:new_data:{tag}']" if tag else ""
    project.model(
        "keyed", "SELECT id::INT AS id, day::DATE AS day FROM raw.events", f"kind {kind}{tags}"
    )


@pytest.mark.parametrize(
    "kind",
    [
        "INCREMENTAL_BY_UNIQUE_KEY (unique_key id)",
        "SCD_TYPE_2_BY_COLUMN (unique_key id, columns [day])",
        "INCREMENTAL_UNMANAGED",
    ],
)
def test_what_cannot_be_repeated_without_loss_is_left_and_says_so(
    source: Source, instance: dg.DagsterInstance, kind: str
) -> None:
    """Promise: not silently; with the reason, since when, until when, and the next step."""
    _keyed(source.project, kind)
    definitions = _first_run(source, instance)
    rows = source.project.query("SELECT * FROM demo__dev.keyed ORDER BY ALL")
    source.add("2, DATE '2025-01-08'", "v2")
    for _ in range(2):
        run = _run(definitions, instance)
        text = _says(run, "keyed")
        assert _built(run) == []
        assert "new data in `warehouse/raw/events` (since 20" in text
        assert f"a model of kind {kind.split(' ')[0]} may be built again" in text
        assert "By its cron, it is due next at 2025-01-11T00:00:00+00:00." in text
        assert "`build: all`" in text or "`dagster:new_data:" in text
        newest = instance.get_run_records(limit=1)[0].dagster_run
        shown = " ".join(" ".join(ending(past_run(instance, newest, source.project.root))).split())
        assert f"Stale: warehouse/demo/keyed {' '.join(text.split())}" in shown
    assert source.project.query("SELECT * FROM demo__dev.keyed ORDER BY ALL") == rows


def test_a_history_that_may_take_new_data_loses_nothing(
    source: Source, instance: dg.DagsterInstance
) -> None:
    """Promise: a slowly changing dimension with the tag goes on from what it remembers."""
    _keyed(source.project, "SCD_TYPE_2_BY_COLUMN (unique_key id, columns [day])", "newest")
    definitions = _first_run(source, instance)
    source.rows = "SELECT 1 AS id, DATE '2025-01-04' AS day"
    source.version = "v2"
    source.load()
    assert _built(_run(definitions, instance)) == ["keyed"]
    days = source.project.query(
        "SELECT day::TEXT, valid_to IS NULL FROM demo__dev.keyed ORDER BY day"
    )
    assert days == [("2025-01-02", False), ("2025-01-04", True)]
    assert _built(_run(definitions, instance)) == []


def test_due_leaves_what_is_stale_and_builds_what_its_own_run_loads(
    whole: Source, instance: dg.DagsterInstance
) -> None:
    """Promise: as the schedule's runs do."""
    definitions = _first_run(whole, instance)
    whole.add("2, DATE '2025-01-03'", "v2")
    _run(definitions, instance, "events")
    due = {"build": "due"}
    run = _run(definitions, instance, "seen", "total", "below", options=due)
    assert _built(run) == []
    assert "Launch it with `build: stale` to build it now." in _says(run, "total")
    assert _built(_run(definitions, instance, options=due)) == ["below", "seen", "total"]


def test_start_and_end_build_nothing_again(whole: Source, instance: dg.DagsterInstance) -> None:
    """Promise: they limit what is due, and nothing is left missing outside of them."""
    definitions = _first_run(whole, instance)
    whole.add("2, DATE '2025-01-03'", "v2")
    run = _run(definitions, instance, options={"start": "2025-01-09"})
    assert _built(run) == []
    assert "Launch it without them to build it now." in _says(run, "total")
    assert _built(_run(definitions, instance)) == ["below", "seen", "total"]


def test_all_asks_as_a_restatement_does(whole: Source, instance: dg.DagsterInstance) -> None:
    """Promise: what would be built in addition is named first; then everything selected is built again."""
    definitions = _first_run(whole, instance)
    run = _run(definitions, instance, "total", options={"build": "all"})
    assert "`restate_downstream`" in "".join(run.failed.values())
    run = _run(
        definitions, instance, "total", options={"build": "all", "restate_downstream": False}
    )
    assert _built(run) == ["total"]


def test_a_changed_seed_is_built_with_what_reads_it(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: a seed is a part of the code: SQLMesh itself sees the change."""
    project.write("seeds/names.csv", "id\n1\n")
    project.model("names", "", "kind SEED (path '../seeds/names.csv'), columns (id INT)")
    project.model("reader", "SELECT id FROM demo.names")
    _run(project.definitions(), instance, now=_NOW)
    project.write("seeds/names.csv", "id\n1\n2\n")
    assert _built(_run(project.definitions(), instance)) == ["names", "reader"]
    assert _rows(project, "reader") == 2


def test_production_is_rebuilt_in_its_own_environment(
    whole: Source, instance: dg.DagsterInstance
) -> None:
    """Promise: production follows as well; an environment that shares its tables leaves them to it."""
    whole.project.settings = {"environment": "prod", "undeployed_changes": "apply"}
    production = _definitions(whole)
    assert _run(production, instance, now=_NOW).success
    whole.project.settings = {"environment": "dev"}
    development = _definitions(whole)
    assert _run(development, instance, now=_NOW).success
    whole.add("2, DATE '2025-01-03'", "v2")
    run = _run(development, instance)
    assert _built(run) == []
    assert "shares its table with production. Run it there:" in _says(run, "total")
    assert _built(_run(production, instance)) == ["below", "seen", "total"]
    assert whole.project.query("SELECT count(*) FROM demo.total") == [(2,)]


@pytest.mark.parametrize("execution", ["shared", "per_step"])
def test_a_step_of_its_own_follows_the_same_rule(
    whole: Source, instance: dg.DagsterInstance, execution: str
) -> None:
    """Promise: also where each step runs its own model."""
    definitions = _first_run(whole, instance, execution=execution)
    whole.add("2, DATE '2025-01-03'", "v2")
    assert _built(_run(definitions, instance)) == ["below", "seen", "total"]
    assert whole.project.query("SELECT n FROM demo__dev.below") == [(2,)]
    assert _built(_run(definitions, instance)) == []


def test_one_look_finds_all_inputs_however_many_models_there_are(
    source: Source, instance: dg.DagsterInstance
) -> None:
    """Promise: the event log is asked once for a run, and not for each of its models."""
    for number in range(30):
        source.project.model(f"m{number}", "SELECT id::INT AS id FROM raw.events")
    translator = SQLMeshTranslator()
    resource = SQLMeshResource(project_dir=str(source.project.root), environment="dev")
    manifest = project_manifest(resource)
    project = translate(manifest, translator, name="p", group_name="g", owners=())
    instance.report_runless_asset_event(dg.AssetMaterialization(["warehouse", "raw", "events"]))
    for asset in project.assets:
        instance.report_runless_asset_event(dg.AssetMaterialization(asset.spec.key))
    asked: list[str] = []

    def ask(connection: object, cursor: object, statement: str, *rest: object) -> None:
        asked.append(statement)

    def looks(count: int) -> int:
        asked.clear()
        known = known_inputs(
            instance,
            project,
            translator,
            [asset.model.fqn for asset in project.assets[:count]],
            run_id="",
            build="stale",
            without_range="newest",
            outcomes={},
        )
        assert len(known.subjects) == count and list(known.loads) == ["warehouse/raw/events"]
        return len(asked)

    event.listen(Engine, "before_cursor_execute", ask)
    try:
        looks(1)  # the storage asks once what it is able to
        assert looks(3) == looks(30) > 0
    finally:
        event.remove(Engine, "before_cursor_execute", ask)


def test_a_wiped_history_is_begun_anew_and_builds_nothing_twice(
    source: Source, instance: dg.DagsterInstance
) -> None:
    """Promise: after `dagster asset wipe` of all, partitions too, the next run knows each asset again, and no row is there twice."""
    project = source.project
    project.model("whole", "SELECT id FROM raw.events")
    project.model("appended", "SELECT @start_ds::DATE AS day", "kind INCREMENTAL_UNMANAGED")
    by_day = "kind INCREMENTAL_BY_TIME_RANGE (time_column day)"
    project.model(
        "daily", "SELECT id, day FROM raw.events WHERE day BETWEEN @start_ds AND @end_ds", by_day
    )
    definitions = _definitions(source)
    assert _run(definitions, instance, now=_NOW).success
    tables = ("whole", "appended", "daily")
    before = [project.query(f"FROM demo__dev.{name} ORDER BY ALL") for name in tables]
    keys = list(definitions.resolve_asset_graph().executable_asset_keys)
    instance.wipe_assets(keys)
    assert _run(definitions, instance).success
    assert [project.query(f"FROM demo__dev.{name} ORDER BY ALL") for name in tables] == before
    assert all(instance.get_latest_materialization_event(key) for key in keys)


def test_what_a_plan_built_is_not_built_again_for_the_same_data(
    whole: Source, instance: dg.DagsterInstance
) -> None:
    """Promise: as after `poe promote`: Dagster has no record of what the models were made of."""
    definitions = _definitions(whole)
    assert _run(definitions, instance, "events", now=_NOW).success
    with alone(whole.project, load=True) as context:
        context.plan("dev", auto_apply=True, no_prompts=True, execution_time=_NOW)
    assert _built(_run(definitions, instance)) == []
    whole.add("2, DATE '2025-01-03'", "v2")
    assert _built(_run(definitions, instance)) == ["below", "seen", "total"]
