"""What a sync reports of tables that were built outside Dagster: once each, and nothing it knows."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import time_machine

from sqlmesh_dagster.definition.project import DagsterProject, translate
from sqlmesh_dagster.facts.outcomes import ModelOutcome
from sqlmesh_dagster.facts.tables import BuiltTable, BuiltTables
from sqlmesh_dagster.guard.locks import ProjectLock
from sqlmesh_dagster.run.sync import Synced, report_moved, report_partitions, synchronize
from sqlmesh_dagster.run.work import record
from sqlmesh_dagster.settings import ProjectSettings
from sqlmesh_dagster.translator import SQLMeshTranslator, TranslatorSettings
from tests.sqlmesh_dagster.pure.records import fqn, manifest, model

DAY = 86_400_000
BEGIN = 20_089 * DAY
"""2025-01-01."""
KEY, DAILY = dg.AssetKey(["db", "demo", "m"]), dg.AssetKey(["db", "demo", "daily"])


def _project(**settings: Any) -> DagsterProject:
    daily = model(
        "daily", kind="INCREMENTAL_BY_TIME_RANGE", first_interval="2025-01-01T00:00:00+00:00"
    )
    translator = SQLMeshTranslator(settings=TranslatorSettings(**settings))
    found = manifest(model("m"), daily)
    return translate(found, translator, name="x", group_name="g", owners=())


PROJECT, PARTITIONED = _project(), _project(partitions=True)
TABLE = BuiltTable(fqn("m"), "s1", "v1", "c1", BEGIN + 5, BEGIN, BEGIN + 2 * DAY)
DAYS = replace(TABLE, fqn=fqn("daily"), done=((BEGIN, BEGIN + 2 * DAY),))


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """An empty one, in memory."""
    with dg.DagsterInstance.ephemeral() as empty:
        yield empty


def _last(instance: dg.DagsterInstance, key: dg.AssetKey = KEY) -> dg.AssetMaterialization:
    event = instance.get_latest_materialization_event(key)
    assert event is not None and event.asset_materialization is not None
    return event.asset_materialization


def test_a_table_is_reported_once(instance: dg.DagsterInstance) -> None:
    """Promise: with its version and its time, by which the next sync knows it."""
    assert list(report_moved(instance, PROJECT, [TABLE])) == [KEY]
    metadata = {name: value.value for name, value in _last(instance).metadata.items()}
    assert metadata["sqlmesh/version"] == "v1"
    assert metadata["sqlmesh/source"] == "outside Dagster"
    assert metadata["sqlmesh/built_at"] == (BEGIN + 5) / 1000
    assert list(report_moved(instance, PROJECT, [TABLE])) == []


@pytest.mark.parametrize(
    ("change", "is_reported"),
    [
        ({"version": "v2"}, True),
        ({"built_at": BEGIN + 6}, True),
        ({"built_at": BEGIN + 4}, False),
        ({"built_at": None}, False),
        ({"snapshot": "s2"}, False),
    ],
)
def test_a_table_is_reported_again_when_it_is_another_or_newer(
    instance: dg.DagsterInstance, change: dict[str, Any], is_reported: bool
) -> None:
    """Promise: a change of metadata alone, a new snapshot of the same version, is no new data."""
    list(report_moved(instance, PROJECT, [TABLE]))
    found = list(report_moved(instance, PROJECT, [replace(TABLE, **change)]))
    assert found == ([KEY] if is_reported else [])


def test_what_was_reported_after_the_look_knows_more_than_the_look(
    instance: dg.DagsterInstance,
) -> None:
    """Promise: a run that ends while a sync reads is not reported over."""
    looked_at = time.time() - 1
    list(report_moved(instance, PROJECT, [TABLE]))
    newer = [replace(TABLE, version="v2")]
    assert list(report_moved(instance, PROJECT, newer, looked_at)) == []
    assert list(report_moved(instance, PROJECT, newer, time.time() + 1)) == [KEY]


def test_a_clock_that_was_set_back_hides_no_table(instance: dg.DagsterInstance) -> None:
    """Promise: what was reported at a time that has not come again was there before the look."""
    list(report_moved(instance, PROJECT, [TABLE]))
    with time_machine.travel(time.time() - 3600):
        newer = [replace(TABLE, version="v2")]
        assert list(report_moved(instance, PROJECT, newer, time.time())) == [KEY]


def test_a_table_of_no_asset_is_left_out(instance: dg.DagsterInstance) -> None:
    """Promise: a code location that is older than the environment fails at nothing."""
    other = replace(TABLE, fqn=fqn("unknown"))
    assert list(report_moved(instance, PROJECT, [other])) == []
    assert list(report_partitions(instance, PARTITIONED, [other])) == []


def test_partitions_are_reported_each_once(instance: dg.DagsterInstance) -> None:
    """Promise: those that SQLMesh has done and Dagster never saw, and no whole table."""
    assert list(report_moved(instance, PARTITIONED, [DAYS])) == []
    assert list(report_partitions(instance, PARTITIONED, [DAYS, TABLE])) == [DAILY]
    assert instance.get_materialized_partitions(DAILY) == {"2025-01-01", "2025-01-02"}
    assert list(report_partitions(instance, PARTITIONED, [DAYS])) == []
    more = replace(DAYS, done=((BEGIN, BEGIN + 3 * DAY),))
    assert list(report_partitions(instance, PARTITIONED, [more])) == [DAILY]
    assert _last(instance, DAILY).partition == "2025-01-03"
    count = len(instance.fetch_materializations(DAILY, limit=9).records)
    assert count == 3


def test_a_partition_that_is_half_done_is_not_reported(instance: dg.DagsterInstance) -> None:
    """Promise: a day is there when all of it is."""
    half = replace(DAYS, done=((BEGIN, BEGIN + DAY // 2),))
    assert list(report_partitions(instance, PARTITIONED, [half])) == []


def test_an_active_run_reports_by_itself(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    """Promise: a sync leaves what a run builds to the run, and keeps its cursor."""
    settings = ProjectSettings(project_dir=str(tmp_path)).checked()
    run = dg.DagsterRun("x_job", status=dg.DagsterRunStatus.STARTING)
    instance.add_run(run)
    synced = synchronize(instance, PROJECT, settings, "before")
    assert synced == Synced(obstacle=f"Dagster run {run.run_id} is still active", cursor="before")


def test_a_run_that_begins_during_the_look_reports_by_itself(
    instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise: what a sync then finds may be the run's, which has not reported it yet."""
    settings = ProjectSettings(project_dir=str(tmp_path)).checked()
    run = dg.DagsterRun("x_job", status=dg.DagsterRunStatus.STARTED)

    def look(settings: ProjectSettings) -> BuiltTables:
        instance.add_run(run)
        return BuiltTables((TABLE,))

    monkeypatch.setattr("sqlmesh_dagster.engine.built.find_built", look)
    synced = synchronize(instance, PROJECT, settings, "before")
    assert synced == Synced(obstacle=f"Dagster run {run.run_id} is still active", cursor="before")
    assert instance.get_latest_materialization_event(KEY) is None


def test_two_syncs_do_not_report_at_once(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    """Promise: the second says so; afterwards the lock is free."""
    settings = ProjectSettings(project_dir=str(tmp_path)).checked()
    lease = ProjectLock(f"{settings.lock_name}-sync", settings.project_path).take("another")
    assert lease is not None
    with lease:
        assert synchronize(instance, PROJECT, settings).obstacle == "another sync is at work"
    assert synchronize(instance, PROJECT, settings).obstacle != "another sync is at work"
    assert synchronize(instance, PROJECT, settings).obstacle != "another sync is at work"


@pytest.mark.parametrize(
    ("synced", "message"),
    [
        (Synced(), "Nothing was built outside Dagster."),
        (Synced(obstacle="it is late"), "Could not ask SQLMesh what was built: it is late."),
        (
            Synced((dg.AssetKey("a"), dg.AssetKey(["b", "c"]))),
            "Reported 2 models built outside Dagster: a, b/c.",
        ),
        (
            Synced(tuple(dg.AssetKey(str(n)) for n in range(10))),
            "Reported 10 models built outside Dagster: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9.",
        ),
        (
            Synced(tuple(dg.AssetKey(str(n)) for n in range(11))),
            "Reported 11 models built outside Dagster: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ….",
        ),
    ],
)
def test_a_sync_says_what_it_did(synced: Synced, message: str) -> None:
    """Promise: in a sentence, with ten names at most."""
    assert synced.message == message


def test_what_a_plan_built_of_many_partitions_is_recorded_together(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise: each partition has the run that built it; one by one, they took longer than to build."""
    one_by_one: list[dg.AssetMaterialization] = []
    report = dg.DagsterInstance.report_runless_asset_event

    def counted(self: dg.DagsterInstance, event: dg.AssetMaterialization) -> None:
        one_by_one.append(event)
        report(self, event)

    monkeypatch.setattr(dg.DagsterInstance, "report_runless_asset_event", counted)
    asset = PARTITIONED.assets_by_fqn[fqn("daily")]
    outcome = ModelOutcome(fqn("daily"), "executed", intervals=((BEGIN, BEGIN + 40 * DAY),))
    record(instance, asset, outcome, (), "run-1", {"sqlmesh/commit": "0123abcd"})
    days = instance.get_materialized_partitions(DAILY)
    assert len(days) == 40 and len(one_by_one) == 1
    for day in (min(days), max(days)):
        found = instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=DAILY, asset_partitions=[day]), limit=2
        )
        (event,) = (entry.asset_materialization for entry in found.records)
        assert event is not None
        facts = {name: value.value for name, value in event.metadata.items()}
        assert (facts["sqlmesh/built_in_run"], facts["sqlmesh/commit"]) == ("run-1", "0123abcd")
