"""What a Dagster run keeps of its sqlmesh runs: whole, once, and not for ever."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Collection
from pathlib import Path

import dagster as dg
import pytest
from tests.sqlmesh_dagster.projects import Project, run_in_process

from sqlmesh_dagster import SQLMeshResultsResource
from sqlmesh_dagster.facts.outcomes import ModelOutcome, to_line
from sqlmesh_dagster.run.step import Step


def _evaluations(instance: dg.DagsterInstance) -> list[str]:
    """Names of the checks that anything has reported to an instance."""
    records = instance.get_event_records(
        dg.EventRecordsFilter(dg.DagsterEventType.ASSET_CHECK_EVALUATION)
    )
    events = [record.event_log_entry.dagster_event for record in records]
    return [event.asset_check_evaluation_data.check_name for event in events if event]


def test_a_run_deletes_the_records_of_runs_that_ended_long_ago(
    project: Project, tmp_path: Path
) -> None:
    """Promise: nobody has to clean up: the next run does."""
    project.model("first", "SELECT 1::INT AS id")
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        records = Path(instance.storage_directory()) / "sqlmesh"
        long_ago, lately = (str(uuid.uuid4()) for _ in range(2))
        for name, days in ((long_ago, 8), (lately, 6)):
            (records / name).mkdir(parents=True)
            then = time.time() - days * 86400
            file = records / name / "sqlmesh.jsonl"
            file.write_bytes(to_line(ModelOutcome("m", "executed")))
            os.utime(file, (then, then))
        run = run_in_process(project.definitions(), instance)
    assert run.success
    assert {folder.name for folder in records.iterdir()} == {lately, run.run_id}


def test_checks_of_a_model_that_only_the_deployment_built_are_reported(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: what the plan's audits found of it is known at once, as the model itself is materialized."""
    project.settings = {"environment": "prod", "undeployed_changes": "apply"}
    audited = "kind FULL, audits (not_null(columns := (id)))"
    project.model("first", "SELECT 1::INT AS id")
    project.model("second", "SELECT id FROM demo.first", audited)
    run_in_process(project.definitions(), instance)
    assert _evaluations(instance) == ["not_null_id"]
    project.model("first", "SELECT 2::INT AS id")
    run_in_process(project.definitions(), instance, "first")
    second = dg.AssetKey(["warehouse", "demo", "second"])
    assert len(instance.fetch_materializations(second, limit=10).records) == 2
    assert _evaluations(instance) == ["not_null_id", "not_null_id"]


class _EndsUnexpectedly:
    """A sqlmesh run that breaks when it has reported its first model."""

    def run_models(
        self, fqns: Collection[str], tell: Callable[[ModelOutcome], None], *more: object
    ) -> None:
        """Tells one outcome."""
        first, *_ = sorted(fqns)
        tell(ModelOutcome(first, "executed"))
        raise RuntimeError("the disk is gone")


def test_a_sqlmesh_run_that_ends_unexpectedly_fails_what_is_untold_and_nothing_else(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise: what was built stays built, and no step waits for ever."""
    for name in ("a", "b", "c"):
        project.model(name, "SELECT 1::INT AS id")
    monkeypatch.setattr(Step, "sqlmesh_run", lambda *_, **__: _EndsUnexpectedly())
    store = SQLMeshResultsResource(storage_dir=str(tmp_path / "records"))
    with dg.DagsterInstance.ephemeral() as instance:
        definitions = project.definitions()
        resources = {**(definitions.resources or {}), "sqlmesh_results": store}
        run = run_in_process(
            dg.Definitions(assets=definitions.assets, resources=resources), instance, now=None
        )
        latest = store.of_run(instance, run.run_id).latest()
    told = {name.strip('"').split('"."')[-1]: (o.status, o.error) for name, o in latest.items()}
    assert told.pop("a") == ("executed", None)
    assert {name: (status, str(e and e.message)) for name, (status, e) in told.items()} == {
        "b": ("failed", "the disk is gone"),
        "c": ("failed", "the disk is gone"),
    }
    assert run.materialized == ["a"] and len(run.failed) == 2
