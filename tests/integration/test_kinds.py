"""What SQLMesh can load beyond the usual: the same rows and intervals as with SQLMesh alone, or the same refusal."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from sqlmesh.utils.errors import SQLMeshError
from tests.sqlmesh_dagster.projects import NOW, Project, Run, run_in_process

from sqlmesh_dagster import SQLMeshResource, SQLMeshTranslator, TranslatorSettings
from sqlmesh_dagster.engine.due import find_due
from tests.integration import alone

pytestmark = pytest.mark.slow

LATER = "2025-01-11T00:30:00"
_DAYS = "kind INCREMENTAL_BY_TIME_RANGE (time_column day, batch_size 1{}), start '2025-01-07'"
_NOTHING = """
from sqlmesh import model
from sqlmesh.core.model.kind import ModelKindName

@model("demo.{name}", kind={kind}, columns={{"day": "date"}})
def execute(context, start, end, execution_time, **kwargs):
    yield from ()
"""


@pytest.fixture
def both(project: Project, instance: dg.DagsterInstance, tmp_path: Path) -> _Both:
    """The project, through Dagster, and a copy for SQLMesh alone."""
    return _Both(project, instance, tmp_path / "copy")


class _Both:
    """Builds a project both ways, in production."""

    def __init__(self, project: Project, instance: dg.DagsterInstance, folder: Path) -> None:
        self.project = project
        self.copy = project
        self._instance = instance
        self._folder = folder
        self.settings: dict[str, Any] = {"environment": "prod", "undeployed_changes": "apply"}

    def deploy(self, at: str = NOW) -> tuple[Run, str | None]:
        """A run of everything, and SQLMesh's words where its plan alone fails."""
        self.copy = alone.copied(self.project, self._folder)
        _, problem = alone.plan(self.copy, at=at)
        return self._run(at), problem

    def run(self, *moments: str) -> list[tuple[list[str], list[str]]]:
        """What Dagster builds at each moment, and what SQLMesh alone evaluates."""
        return [
            (
                sorted(set(self._run(at).materialized)),
                sorted(set(alone.run(self.copy, at=at).evaluated)),
            )
            for at in moments
        ]

    def assert_equal(self, *views: str) -> None:
        """The same is done, and views and tables hold the same rows."""
        assert alone.done(self.project) == alone.done(self.copy)
        for view in views:
            rows = [
                sorted(each.query(f"SELECT * FROM {view}")) for each in (self.project, self.copy)
            ]
            assert rows[0] == rows[1], view

    def _run(self, at: str) -> Run:
        return run_in_process(self.project.definitions(**self.settings), self._instance, now=at)

    def configure(self, text: str, old: str = "") -> None:
        """Adds to the project's config."""
        file = self.project.root / "config.yaml"
        config = file.read_text()
        file.write_text(config.replace(old, text) if old else config + text)

    def two_gateways(self) -> None:
        """A second DuckDB file, whose views are in itself."""
        root = self.project.root
        gateway = (
            f"  other:\n    connection:\n      type: duckdb\n      database: {root}/other.duckdb\n"
            f"    state_connection:\n      type: duckdb\n      database: {root}/warehouse.duckdb\n"
        )
        self.configure(f"{gateway}default_gateway: local", "default_gateway: local")
        self.configure("gateway_managed_virtual_layer: true\n")

    def of_other(self, sql: str) -> Sequence[Any]:
        """Rows of the second file, which are the same in both."""
        found = [_Other(each.root).query(sql) for each in (self.project, self.copy)]
        assert found[0] == found[1]
        return found[0]


class _Other(Project):
    """The second gateway of a project, to look into."""

    def __post_init__(self) -> None:
        """Writes nothing."""

    @property
    def database(self) -> Path:
        return self.root / "other.duckdb"


def test_an_engine_without_managed_tables_fails_that_model_alone(both: _Both) -> None:
    """Promise: MANAGED loads; what DuckDB has not is said in SQLMesh's words, and the rest is built."""
    both.project.model("ok", "SELECT 1 AS id")
    both.project.model(
        "m", "SELECT 1 AS id", "kind MANAGED, physical_properties (target_lag = '1 day')"
    )
    run, problem = both.deploy()
    assert problem and run.materialized == ["ok"]
    assert "does not support managed tables" in run.failed["warehouse__demo__m"]


def test_a_materialized_view_is_built_as_sqlmesh_builds_it(both: _Both) -> None:
    """Promise: when it is due, as a table is."""
    both.project.model("base", "SELECT 1 AS id")
    both.project.model("seen", "SELECT id FROM demo.base", "kind VIEW (materialized true)")
    assert both.deploy()[1] is None
    assert both.run(LATER) == [(["base", "seen"],) * 2]
    both.assert_equal("demo.seen")


def test_blueprints_of_two_gateways_are_built_in_both(both: _Both) -> None:
    """Promise: one file, a model in each database, with a key of its own."""
    both.two_gateways()
    both.project.write(
        "models/blueprints.sql",
        "MODEL (name @{who}.things, kind FULL, gateway @{gw}, blueprints ("
        "(who := one, gw := local), (who := two, gw := other))); SELECT 1 AS id",
    )
    run, problem = both.deploy()
    assert problem is None and run.success and len(run.materialized) == 2
    assert both.run(LATER) == [(["things"],) * 2]
    both.assert_equal("one.things")
    assert both.of_other("SELECT id FROM two.things") == [(1,)]


def test_partitions_of_another_gateway_are_those_that_it_holds(
    both: _Both, instance: dg.DagsterInstance
) -> None:
    """Promise: with `gateway_managed_virtual_layer`, each partition is materialized once it is built there."""
    both.two_gateways()
    both.project.model(
        "days", "SELECT @start_ds::DATE AS day", f"{_DAYS.format('')}, gateway other"
    )
    both.settings["translator"] = SQLMeshTranslator(settings=TranslatorSettings(partitions=True))
    assert both.deploy()[1] is None
    assert both.run(LATER) == [(["days"],) * 2]
    both.assert_equal()
    held = [str(day) for (day,) in both.of_other("SELECT day FROM demo.days ORDER BY 1")]
    (key,) = (
        both.project.definitions(**both.settings).resolve_asset_graph().materializable_asset_keys
    )
    assert sorted(instance.get_materialized_partitions(key)) == held and len(held) == 4


def test_dev_only_virtual_environments_have_no_views_in_production(both: _Both) -> None:
    """Promise: tables bear the models' names, and one that fails is there as little as with SQLMesh alone."""
    both.configure("virtual_environment_mode: dev_only\n")
    both.project.model("good", "SELECT 1 AS id")
    both.project.model("bad", "SELECT 'x'::INT AS id FROM demo.good")
    run, problem = both.deploy()
    assert problem and run.materialized == ["good"]
    tables = "SELECT table_name FROM duckdb_tables() WHERE schema_name = 'demo'"
    assert both.project.query(tables) == both.copy.query(tables) == [("good",)]
    both.project.model("bad", "SELECT '7'::INT AS id FROM demo.good")
    run, problem = both.deploy(LATER)
    assert problem is None and run.success
    both.assert_equal("demo.good", "demo.bad")


def test_changes_that_a_person_must_categorize_are_left(both: _Both) -> None:
    """Promise: with `auto_categorize_changes` off, the model that changed says so; new ones are deployed."""
    kinds = "".join(f"    {kind}: 'off'\n" for kind in ("sql", "python", "external", "seed"))
    both.configure(f"plan:\n  auto_categorize_changes:\n{kinds}")
    both.project.model("first", "SELECT 1 AS id")
    both.project.model("below", "SELECT id FROM demo.first")
    both.deploy()
    before = alone.done(both.project)
    both.project.model("first", "SELECT 2 AS id")
    both.project.model("new", "SELECT 3 AS id")
    run, problem = both.deploy(LATER)
    assert problem and "uncategorized" in problem
    assert "auto_categorize_changes" in run.failed["warehouse__demo__first"]
    assert run.materialized == ["new"] and alone.done(both.project)["first"] == before["first"]


@pytest.mark.parametrize("policy", ["error", "allow"])
def test_a_destructive_change_is_deployed_where_the_model_allows_it(
    both: _Both, policy: str
) -> None:
    """Promise: as with `sqlmesh plan`; where it does not, that model says so, and others are deployed."""
    kind = _DAYS.format(f", forward_only true, on_destructive_change {policy}")
    both.project.model("days", "SELECT @start_ds::DATE AS day, 1 AS one, 2 AS two", kind)
    both.project.model("other", "SELECT 1 AS id")
    both.deploy()
    both.project.model("days", "SELECT @start_ds::DATE AS day, 1 AS one", kind)
    both.project.model("other", "SELECT 2 AS id")
    run, problem = both.deploy(LATER)
    if policy == "error":
        assert problem and "destructive" in problem
        assert "`on_destructive_change`" in run.failed["warehouse__demo__days"]
        assert run.materialized == ["other"]
        assert both.project.query("SELECT id FROM demo.other") == [(2,)]
        assert len(both.project.query("SELECT two FROM demo.days")) == 3
    else:
        assert problem is None and run.success
        both.run("2025-01-12T00:30:00")
        both.assert_equal("demo.days", "demo.other")


def test_partial_intervals_are_built_and_built_again(
    both: _Both, instance: dg.DagsterInstance
) -> None:
    """Promise: `allow_partials` builds what there is of a day; its partition is there once the day is whole."""
    both.project.model(
        "days",
        "SELECT @start_ds::DATE AS day, @execution_ts::TEXT AS built_at",
        f"{_DAYS.format('')}, allow_partials true, cron '@hourly', interval_unit 'day'",
    )
    both.settings["translator"] = SQLMeshTranslator(settings=TranslatorSettings(partitions=True))
    both.deploy()
    moments = ("2025-01-10T05:30:00", "2025-01-10T06:30:00", LATER)
    assert both.run(*moments) == [(["days"],) * 2] * 3
    both.assert_equal("demo.days")
    (key,) = (
        both.project.definitions(**both.settings).resolve_asset_graph().materializable_asset_keys
    )
    assert "2025-01-10" in instance.get_materialized_partitions(key)


def test_a_python_model_that_yields_nothing_is_built(both: _Both) -> None:
    """Promise: an empty table, and its intervals are done."""
    by_time = "dict(name=ModelKindName.INCREMENTAL_BY_TIME_RANGE, time_column='day')"
    for name, kind in {"whole": "'FULL'", "by_time": by_time}.items():
        both.project.write(f"models/{name}.py", _NOTHING.format(name=name, kind=kind))
    both.project.model("below", "SELECT count(*) AS days FROM demo.whole")
    run, problem = both.deploy()
    assert problem is None and run.success
    assert both.run(LATER) == [(["below", "by_time", "whole"],) * 2]
    both.assert_equal("demo.below", "demo.whole", "demo.by_time")


def test_a_model_whose_cron_has_not_come_since_its_start_is_deployed_empty(both: _Both) -> None:
    """Promise: what SQLMesh alone gives by its second plan, as it has no table to show in its first."""
    both.project.model("daily", "SELECT 1 AS id")
    both.project.model("yearly", "SELECT 2 AS id", "kind FULL, cron '@yearly'")
    run, problem = both.deploy()
    assert problem is not None
    assert alone.plan(both.copy)[1] is None
    assert (run.success, run.failed) == (True, {})
    both.assert_equal("demo.daily", "demo.yearly")
    both.project.model("below", "SELECT COUNT(*)::INT AS id FROM demo.yearly")
    run, _ = both.deploy()
    assert (run.success, run.failed) == (True, {})
    assert both.project.query("SELECT * FROM demo.below") == [(0,)]
    # of these SQLMesh alone finds an interval that ends before it begins, and fails until the cron comes
    both.project.model("weekly", "SELECT 3 AS id", "kind FULL, cron '@weekly', start '2025-01-08'")
    days = "kind INCREMENTAL_BY_TIME_RANGE (time_column day), cron '@monthly', start '2025-01-05'"
    both.project.model(
        "monthly", "SELECT @start_dt::TIMESTAMP AS day", f"{days}, interval_unit hour"
    )
    run, _ = both.deploy()
    assert (run.success, run.failed) == (True, {})
    done = alone.done(both.project)
    assert done["weekly"] == done["monthly"] == both.project.query("FROM demo.weekly") == []
    assert alone.plan(both.copy)[1] is None
    ((built, evaluated),) = both.run("2025-02-02T00:30:00")
    assert {"weekly", "monthly"} <= set(built) == set(evaluated)
    both.assert_equal("demo.weekly", "demo.monthly")


def test_a_restatement_builds_no_time_that_a_models_cron_has_not_reached(both: _Both) -> None:
    """Promise: of models of different crons in one run, each as `plan --restate-model`; nothing upstream early."""
    times = {
        "days": "cron '@daily'",
        "weeks": "cron '@weekly', interval_unit day",
        "noons": "cron '0 12 * * *', interval_unit hour",
        "above": "cron '@weekly', interval_unit day",
    }
    for name, cron in times.items():
        query = "SELECT @start_dt::TIMESTAMP AS day" + " FROM demo.above" * (name == "days")
        batches = "2" if name == "noons" else ""  # twelve hours each: one each are 280
        kind = _DAYS.format(batches).replace("2025-01-07", "2024-12-29")
        both.project.model(name, query, f"{kind}, {cron}")
    both.project.model("whole", "SELECT 1 AS id", "kind FULL, cron '@weekly', interval_unit day")
    assert both.deploy()[1] is None
    names = ("days", "weeks", "noons", "whole")
    for span in ({}, {"start": "2025-01-04", "end": "2025-01-09"}):
        options = {"restate": True, "restate_downstream": True, **span}
        at = "2025-01-10T15:30:00"
        run = run_in_process(
            both.project.definitions(**both.settings),
            both._instance,
            *names,
            now=at,
            options=options,
        )
        assert run.success, run.failed
        restated = [f"demo.{name}" for name in names]
        assert alone.plan(both.copy, at=at, restate_models=restated, **span)[1] is None
        both.assert_equal("demo.weeks", "demo.noons", "demo.above", "demo.days")


def test_what_is_planned_outside_between_two_runs_is_taken_as_it_is(both: _Both) -> None:
    """Promise: older definitions go on with what somebody deployed, and build what is due of it."""
    both.project.model("first", "SELECT 1 AS id")
    both.project.model("second", "SELECT id FROM demo.first")
    both.deploy()
    definitions = both.project.definitions(environment="prod")
    for each in (both.project, both.copy):
        each.model("first", "SELECT 2 AS id")
        each.model("third", "SELECT id FROM demo.first")
        assert alone.plan(each, at="2025-01-10T05:00:00")[1] is None
    run = run_in_process(definitions, both._instance, now=LATER)
    assert not run.success and "not deployed" in run.failed["warehouse__demo__first"]
    definitions = both.project.definitions(environment="prod")
    assert run_in_process(definitions, both._instance, now=LATER).success
    alone.run(both.copy, at=LATER)
    both.assert_equal("demo.first", "demo.second", "demo.third")


def test_a_state_of_a_newer_sqlmesh_is_named_and_left_alone(both: _Both, tmp_path: Path) -> None:
    """Promise: a run fails with it, a tick and the sensor skip with it, where SQLMesh alone refuses."""
    both.project.model("first", "SELECT 1 AS id")
    both.deploy()
    newer = "UPDATE sqlmesh._versions SET schema_version = 999, sqlmesh_version = '0.999.0'"
    for each in (both.project, both.copy):
        each.execute(newer)
    with pytest.raises(SQLMeshError, match="Please upgrade"):
        alone.run(both.copy, at=LATER)
    definitions = both.project.definitions(environment="prod")
    run = run_in_process(definitions, both._instance, now=LATER)
    assert "StateVersionError" in run.failed["warehouse__demo__first"]
    (tmp_path / "home").mkdir()
    with dg.DagsterInstance.local_temp(str(tmp_path / "home")) as local:
        repository = definitions.get_repository_def()
        schedule = definitions.resolve_schedule_def("sqlmesh_adaptive_schedule")
        with dg.build_schedule_context(
            local,
            scheduled_execution_time=datetime.fromisoformat(f"{LATER}+00:00"),
            repository_def=repository,
        ) as tick:
            assert "newer SQLMesh" in (schedule.evaluate_tick(tick).skip_message or "")
        sensor = definitions.resolve_sensor_def("sqlmesh_sync_sensor")
        with dg.build_sensor_context(local, repository_def=repository) as look:
            assert "newer SQLMesh" in (sensor.evaluate_tick(look).skip_message or "")


def test_what_nobody_reads_in_development_is_built_once(project: Project, tmp_path: Path) -> None:
    """Promise: below a non-breaking change, a tick asks once for an interval, and a run says why it is idle.

    SQLMesh alone builds it in each run, into a table that no view shows. What the views show is equal.
    """
    project.model("first", "SELECT 1 AS id")
    project.model("below", "SELECT id FROM demo.first")
    project.model("seen", "SELECT id FROM demo.below", "kind VIEW")
    alone.plan(project, "prod")
    project.model("first", "SELECT 1 AS id, 2 AS more")
    alone.plan(project, "dev")
    copy = alone.copied(project, tmp_path / "copy")
    assert "below" in alone.run(copy, "dev", LATER).evaluated
    assert "below" in alone.run(copy, "dev", LATER).evaluated  # for nobody
    settings = SQLMeshResource(project_dir=str(project.root), environment="dev").settings
    at = datetime.fromisoformat(f"{LATER}+00:00")
    assert {name.split(".")[-1] for name in find_due(settings, at).models} == {
        '"first"',
        '"below"',
        '"seen"',
    }
    definitions = project.definitions()
    with dg.DagsterInstance.ephemeral() as instance:
        first = run_in_process(definitions, instance, now=LATER)
        assert set(first.materialized) == {"first", "below", "seen"}
        assert find_due(settings, at).models == ()
        second = run_in_process(definitions, instance, now=LATER)
        assert set(second.unchanged) == {"first", "below", "seen"} and second.success
        assert "production" in str(second.metadata("below")["sqlmesh/reason"])
    views = ("demo__dev.first", "demo__dev.below", "demo__dev.seen", "demo.below")
    for view in views:
        assert project.query(f"SELECT * FROM {view}") == copy.query(f"SELECT * FROM {view}")
