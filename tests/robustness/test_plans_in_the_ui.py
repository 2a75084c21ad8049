"""Plans and the sync sensor, on a real server: what the UI shows of them."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Render
from tests.robustness.projects import Generated
from tests.webserver import Ask, launch, location_of, served

pytestmark = pytest.mark.generated

_METADATA = """
query ($id: ID!) { runOrError(runId: $id) { ... on Run { eventConnection { events {
  __typename
  ... on ExecutionStepOutputEvent { metadataEntries {
    label __typename
    ... on MarkdownMetadataEntry { mdStr }
    ... on IntMetadataEntry { intValue }
    ... on BoolMetadataEntry { boolValue }
  } }
} } } } }
"""
_MATERIALIZATIONS = """
query ($key: AssetKeyInput!) { assetOrError(assetKey: $key) { ... on Asset {
  assetMaterializations { runId description metadataEntries {
    label ... on TextMetadataEntry { text } ... on TimestampMetadataEntry { timestamp }
  } }
} } }
"""
_START = """
mutation ($selector: SensorSelector!) { startSensor(sensorSelector: $selector) {
  __typename ... on PythonError { message }
} }
"""
_TICKS = """
query ($selector: SensorSelector!) { sensorOrError(sensorSelector: $selector) {
  ... on Sensor { sensorState { ticks { status skipReason runIds } } }
} }
"""


def _entries(ask: Ask, run_id: str) -> dict[str, dict[str, Any]]:
    """The metadata of a run's step, by label."""
    events = ask(_METADATA, id=run_id)["runOrError"]["eventConnection"]["events"]
    outputs = [e for e in events if e["__typename"] == "ExecutionStepOutputEvent"]
    return {entry["label"]: entry for output in outputs for entry in output["metadataEntries"]}


def _materializations(ask: Ask, name: str) -> list[dict[str, Any]]:
    key = {"path": ["demo", name]}
    asset = ask(_MATERIALIZATIONS, key=key)["assetOrError"]
    return list(asset.get("assetMaterializations", []))


def _plan(ask: Ask, location: str, **options: Any) -> dict[str, dict[str, Any]]:
    config = {"ops": {"sqlmesh_plan": {"config": options}}}
    run_id, status = launch(ask, location, "sqlmesh_plan_job", config=config)
    assert status == "SUCCESS"
    return _entries(ask, run_id)


def test_plans_and_what_happened_outside_are_shown(render: Render, tmp_path: Path) -> None:
    """The plan is Markdown; what it built, and what the command line built, are materializations."""
    project = Generated.tiny(render, tmp_path / "project")
    project.model("first", "SELECT 1::INT AS id")
    project.model("below", "SELECT id FROM demo.first")
    with served(project.root, project.environment) as ask:
        location = location_of(ask)
        shown = _plan(ask, location)
        assert "| warehouse.demo.first | added |" in shown["sqlmesh/plan_summary"]["mdStr"]
        assert shown["sqlmesh/models_to_build"]["intValue"] == 2
        assert shown["sqlmesh/applied"]["boolValue"] is False
        assert _materializations(ask, "first") == []
        _plan(ask, location, apply=True)
        assert len(_materializations(ask, "first")) == 1

        sensor = {
            "repositoryLocationName": location,
            "repositoryName": "__repository__",
            "sensorName": "sqlmesh_sync_sensor",
        }
        project.model("first", "SELECT 2::INT AS id")
        _command_line(project, "sqlmesh", "-p", "sqlmesh_project", "plan", "dev", "--auto-apply")
        assert ask(_START, selector=sensor)["startSensor"]["__typename"] == "Sensor"
        deadline = time.monotonic() + 180
        while len(_materializations(ask, "below")) < 2:
            assert time.monotonic() < deadline, ask(_TICKS, selector=sensor)
            time.sleep(0.5)
        newest = _materializations(ask, "first")[0]
        told = {entry["label"]: entry for entry in newest["metadataEntries"]}
        ticks = ask(_TICKS, selector=sensor)["sensorOrError"]["sensorState"]["ticks"]
    assert told["sqlmesh/source"]["text"] == "outside Dagster"
    assert newest["description"] == "Built outside Dagster." and not newest["runId"]
    assert any("Reported 2 models" in str(tick["skipReason"]) for tick in ticks)
    assert not [tick for tick in ticks if tick["runIds"]]


def _command_line(project: Generated, *command: str) -> None:
    """What a colleague runs in a terminal."""
    subprocess.run(command, cwd=project.root, env=project.environment, check=True)
