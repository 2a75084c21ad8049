"""What a step records of models that no step of its Dagster run reports."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import dagster as dg
import pytest

from sqlmesh_dagster.definition.project import translate
from sqlmesh_dagster.facts.outcomes import AuditOutcome, ErrorOutcome, ModelOutcome
from sqlmesh_dagster.guard.locks import ProjectLock
from sqlmesh_dagster.options import CheckedRunOptions
from sqlmesh_dagster.resource import SQLMeshResource
from sqlmesh_dagster.run.results import SQLMeshResultsResource
from sqlmesh_dagster.run.step import Step
from sqlmesh_dagster.translator import SQLMeshTranslator, TranslatorSettings
from tests.sqlmesh_dagster.pure.records import audit, fqn, manifest, model

DAY = 86_400_000
FIRST = 20_089 * DAY
"""2025-01-01."""
KEY = dg.AssetKey(["db", "demo", "m"])
DAILY = model(
    "m",
    kind="INCREMENTAL_BY_TIME_RANGE",
    first_interval="2025-01-01T00:00:00+00:00",
    audits=(audit("not_null"),),
)
BUILT = ModelOutcome(
    fqn("m"),
    "executed",
    intervals=((FIRST, FIRST + DAY),),
    batches=1,
    audits=(AuditOutcome("not_null", "not_null", "not_null", True, 2, "SELECT 1"),),
)
LATE = replace(BUILT, status="failed", error=ErrorOutcome("E", "another day"), is_late=True)


@pytest.fixture
def step(tmp_path: Path) -> Iterator[Step]:
    """A step of a project with one partitioned model, on an instance in memory."""
    translator = SQLMeshTranslator(settings=TranslatorSettings(partitions=True))
    project = translate(manifest(DAILY), translator, name="x", group_name="g", owners=())
    with dg.DagsterInstance.ephemeral() as instance:
        yield Step(
            dg.build_op_context(instance=instance),
            project,
            SQLMeshResource(project_dir=str(tmp_path)),
            SQLMeshResultsResource(),
            CheckedRunOptions(),
            ProjectLock("x", tmp_path),
        )


@pytest.mark.parametrize(
    ("outcome", "selected", "is_recorded", "has_checks"),
    [
        (BUILT, [], True, True),
        (BUILT, [fqn("m")], False, False),
        (LATE, [fqn("m")], True, True),
    ],
)
def test_what_no_step_reports_is_recorded_once(
    step: Step, outcome: ModelOutcome, selected: list[str], is_recorded: bool, has_checks: bool
) -> None:
    """Promise: a model of no step has all of it recorded.

    What was built and audited of a model after its failure was reported is recorded, too: the step of
    the model does not wait for it.
    """
    step.report_besides(outcome, selected)
    instance = step.context.instance
    assert (instance.get_latest_materialization_event(KEY) is not None) is is_recorded
    kind = dg.DagsterEventType.ASSET_CHECK_EVALUATION
    events = instance.event_log_storage.get_event_records(dg.EventRecordsFilter(kind))
    assert bool(events) is has_checks
