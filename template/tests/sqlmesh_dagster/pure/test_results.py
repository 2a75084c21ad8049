"""`SQLMeshResultsResource`: what the steps of a Dagster run share."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import dagster as dg

from sqlmesh_dagster import SQLMeshResultsResource
from sqlmesh_dagster.facts.outcomes import AuditOutcome, ErrorOutcome, ModelOutcome
from sqlmesh_dagster.run.results import RunResults

_OUTCOME = ModelOutcome(
    fqn='"db"."s"."m"',
    status="audit_failed",
    intervals=((1, 2), (2, 3)),
    audits=(
        AuditOutcome("not_null", "not_null(columns=(id))", "not_null_id", True, 3, "SELECT 1"),
    ),
    error=ErrorOutcome("audit", "3 rows\nand a line", "SELECT 'ü'"),
)


def test_an_outcome_is_read_as_it_was_written_by_another_reader(tmp_path: Path) -> None:
    """Promise: a step in another process sees exactly what the leader told."""
    writer, reader = (RunResults(tmp_path / "run" / "sqlmesh.jsonl") for _ in range(2))
    assert reader.of(_OUTCOME.fqn) == []
    writer.append(_OUTCOME)
    assert reader.of(_OUTCOME.fqn) == [_OUTCOME]
    writer.append(_OUTCOME)
    assert reader.of(_OUTCOME.fqn) == [_OUTCOME, _OUTCOME]


def test_a_torn_line_of_a_killed_leader_costs_nothing_else(tmp_path: Path) -> None:
    """Promise: what was told before and after it is read."""
    path = tmp_path / "sqlmesh.jsonl"
    results = RunResults(path)
    results.append(_OUTCOME)
    with path.open("ab") as file:
        file.write(b'{"fqn": "half')
    RunResults(path).append(ModelOutcome("later", "executed"))
    assert set(RunResults(path).latest()) == {_OUTCOME.fqn, "later"}
    assert set(results.latest()) == {_OUTCOME.fqn, "later"}


def test_a_step_that_waits_is_woken_by_an_outcome(tmp_path: Path) -> None:
    """Promise: in the leader's process nobody waits for a poll."""
    results = RunResults(tmp_path / "sqlmesh.jsonl")
    threading.Timer(0.2, lambda: results.append(_OUTCOME)).start()
    began = time.monotonic()
    results.wait(30)
    assert time.monotonic() - began < 10
    assert results.of(_OUTCOME.fqn)


def test_records_of_runs_that_ended_long_ago_are_deleted(tmp_path: Path) -> None:
    """Promise: the instance's storage does not grow for ever."""
    resource = SQLMeshResultsResource(storage_dir=str(tmp_path), keep_days=7)
    with dg.DagsterInstance.ephemeral() as instance:
        for run_id in ("old", "new"):
            resource.of_run(instance, run_id).append(_OUTCOME)
        eight_days_ago = time.time() - 8 * 86400
        os.utime(tmp_path / "old", (eight_days_ago, eight_days_ago))
        resource.forget_old_runs(instance)
    assert [folder.name for folder in tmp_path.iterdir()] == ["new"]


def test_steps_of_one_process_share_one_reader(tmp_path: Path) -> None:
    """Promise: whichever step appends, the others of its process are woken."""
    resource = SQLMeshResultsResource(storage_dir=str(tmp_path))
    with dg.DagsterInstance.ephemeral() as instance:
        waiting, leading = (resource.of_run(instance, "run") for _ in range(2))
    threading.Timer(0.2, lambda: leading.append(_OUTCOME)).start()
    began = time.monotonic()
    waiting.wait(30)
    assert time.monotonic() - began < 10
