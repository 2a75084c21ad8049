"""Partitions and backfills as the UI shows and launches them: webserver, daemon and code server."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from typing import Any

import pytest
from tests.sqlmesh_dagster.projects import run_config

from tests.answers import EXAMPLE
from tests.conftest import Render
from tests.robustness.projects import Generated, wait_until
from tests.webserver import Ask, launch, location_of, served

pytestmark = pytest.mark.generated

_PACKAGE = EXAMPLE["package_name"]
_MODELS = ["hourly", "daily", "weekly", "monthly", "whole"]
_STATUS = """
query ($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { ... on AssetNode {
  backfillPolicy { policyType maxPartitionsPerRun }
  partitionStats { numMaterialized numPartitions numFailed numMaterializing }
  assetPartitionStatuses { ... on TimePartitionStatuses { ranges { startKey endKey status } } }
} } }
"""
_BACKFILL = """
mutation ($params: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $params) {
  __typename
  ... on LaunchBackfillSuccess { backfillId }
  ... on PythonError { message }
} }
"""
_PROGRESS = """
query ($id: String!) { partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill {
  status error { message } runs { id status }
} } }
"""
_ENDED = {"COMPLETED_SUCCESS", "COMPLETED_FAILED", "FAILED", "CANCELED", "COMPLETED"}


@dataclass(frozen=True)
class _Served:
    """The project, served, with the first day of its daily models."""

    project: Generated
    ask: Ask
    first: date

    def days(self, first: int, last: int) -> list[str]:
        """Keys of daily partitions by the day of the first month."""
        return [str(self.first.replace(day=day)) for day in range(first, last + 1)]

    def node(self, name: str) -> Mapping[str, Any]:
        """What the asset's page shows."""
        key = {"path": ["demo", name]}
        return dict(self.ask(_STATUS, key=key)["assetNodeOrError"])

    def built_at(self, name: str) -> dict[str, str]:
        """When each row was built, by the begin of its interval."""
        wait_until(self.project.is_released, self.project.root / "dev.log")
        rows = self.project.query(f"SELECT began::TEXT, built_at FROM demo__dev.{name}")
        assert len(rows) == len(dict(rows)), "rows are there twice"
        return dict(rows)

    def backfill(
        self, names: Sequence[str], keys: Sequence[str], options: Mapping[str, Any] | None = None
    ) -> list[str]:
        """Backfills partitions as the UI does, and waits for the end: the ids of its runs."""
        parameters = {
            "assetSelection": _selection(names),
            "partitionNames": list(keys),
            "runConfigData": json.dumps(run_config(options, now=None)),
        }
        launched = self.ask(_BACKFILL, params=parameters)["launchPartitionBackfill"]
        assert launched["__typename"] == "LaunchBackfillSuccess", launched

        def progress() -> dict[str, Any]:
            asked = self.ask(_PROGRESS, id=launched["backfillId"])
            return dict(asked["partitionBackfillOrError"])

        wait_until(
            lambda: progress()["status"] in _ENDED, self.project.root / "dev.log", seconds=240
        )
        assert progress()["status"] == "COMPLETED_SUCCESS", progress()
        return [run["id"] for run in progress()["runs"]]


@pytest.fixture(scope="module")
def platform(render: Render, tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Served]:
    """Hourly, daily, weekly and monthly models that read one another, built once by one run."""
    project = Generated.tiny(render, tmp_path_factory.mktemp("backfills") / "project")
    today = datetime.now(timezone.utc).date()
    first = (today.replace(day=1) - timedelta(days=1)).replace(day=1)
    _by_time(project, "hourly", "@hourly", today - timedelta(days=1))
    _by_time(project, "daily", "@daily", first, "hourly")
    _by_time(project, "weekly", "@weekly", first, "daily")
    _by_time(project, "monthly", "@monthly", first, "daily")
    project.model("whole", "SELECT count(*)::BIGINT AS n FROM demo.monthly")
    transform = f"src/{_PACKAGE}/defs/transform.py"
    mapping = 'external_asset_mapping="raw/{node.name}"'
    project.replace(transform, mapping, f"{mapping}, settings=TranslatorSettings(partitions=True)")
    project.replace(transform, "SQLMeshTranslator, ", "SQLMeshTranslator, TranslatorSettings, ")
    with served(project.root, project.environment) as ask:
        run_id, status = launch(
            ask, location_of(ask), "sqlmesh_job", assetSelection=_selection(_MODELS)
        )
        assert status == "SUCCESS", project.recorded(run_id).failed
        assert project.sqlmesh_runs(run_id) == 1
        yield _Served(project, ask, first)


def _by_time(
    project: Generated, name: str, cron: str, start: date, upstream: str | None = None
) -> None:
    above = f" WHERE (SELECT count(*) FROM demo.{upstream}) >= 0" if upstream else ""
    project.model(
        name,
        f"SELECT @start_dt::TIMESTAMP AS began, @execution_ts::TEXT AS built_at{above}",
        "kind INCREMENTAL_BY_TIME_RANGE (time_column began, batch_size 1),"
        f" cron '{cron}', start '{start}'",
    )


def test_the_ui_shows_the_partitions_that_one_run_of_all_models_built(platform: _Served) -> None:
    """Promise: of hourly, daily, weekly and monthly models, as many as SQLMesh built intervals."""
    for name in _MODELS[:-1]:
        node = platform.node(name)
        assert node["partitionStats"]["numMaterialized"] == len(platform.built_at(name)), name
        assert node["partitionStats"]["numFailed"] == 0
        assert node["backfillPolicy"]["policyType"] == "SINGLE_RUN"
    daily = platform.node("daily")
    stats = daily["partitionStats"]
    assert stats["numMaterialized"] == stats["numPartitions"]
    (done,) = daily["assetPartitionStatuses"]["ranges"]
    assert (done["startKey"], done["status"]) == (str(platform.first), "MATERIALIZED")
    assert platform.node("weekly")["partitionStats"]["numPartitions"] == stats["numPartitions"]
    assert platform.node("whole")["partitionStats"] is None


def test_a_backfill_is_one_run_that_builds_exactly_its_range_again(platform: _Served) -> None:
    """Promise: of all models that share its partitions, in one sqlmesh run; and of no other model."""
    before = {name: platform.built_at(name) for name in _MODELS[:-1]}
    (run_id,) = platform.backfill(["daily", "weekly"], platform.days(10, 12))
    assert platform.project.sqlmesh_runs(run_id) == 1
    days = platform.days(10, 12)
    assert _changed(platform, before) == {
        "hourly": [],
        "daily": days,
        "weekly": days,
        "monthly": [],
    }
    for name in ("daily", "weekly"):
        stats = platform.node(name)["partitionStats"]
        assert stats["numMaterialized"] == len(before[name]), name
        assert stats["numFailed"] == stats["numMaterializing"] == 0
    recorded = platform.project.recorded(run_id)
    assert recorded.materialized == ["daily"] * 3 + ["weekly"] * 3


def test_a_range_goes_downstream_when_its_run_option_says_so(platform: _Served) -> None:
    """Promise: what reads the range is built again, a month as a whole, though nobody selected it."""
    before = {name: platform.built_at(name) for name in _MODELS[:-1]}
    days = platform.days(10, 11)
    run_id, status = launch(
        platform.ask,
        location_of(platform.ask),
        "__ASSET_JOB",
        assetSelection=_selection(["daily"]),
        config=run_config({"restate_downstream": True}, now=None),
        tags={
            "dagster/asset_partition_range_start": days[0],
            "dagster/asset_partition_range_end": days[-1],
        },
    )
    assert status == "SUCCESS"
    assert platform.project.sqlmesh_runs(run_id) == 1
    month = [str(platform.first)]
    assert _changed(platform, before) == {
        "hourly": [],
        "daily": days,
        "weekly": days,
        "monthly": month,
    }


def _selection(names: Sequence[str]) -> list[dict[str, list[str]]]:
    return [{"path": ["demo", name]} for name in names]


def _changed(platform: _Served, before: Mapping[str, Mapping[str, str]]) -> dict[str, list[str]]:
    """Begins of the intervals whose rows were built again."""
    return {
        name: sorted(
            at[:10] for at, when in platform.built_at(name).items() if before[name].get(at) != when
        )
        for name in before
    }
