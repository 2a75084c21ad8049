"""`SQLMeshResultsResource`: what the steps of a Dagster run share."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import dagster as dg
import pytest

from sqlmesh_dagster import InvalidSettingError, SQLMeshResultsResource
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


_OLD, _NEW = "0b1ac5ed-1f58-4b66-8d38-2a3b1c9c4f10", "f3b7c1de-6a56-4e0a-8f8e-1d1f2a0b9c77"


def _age(path: Path, days: float) -> None:
    then = time.time() - days * 86400
    os.utime(path, (then, then))


def test_records_of_runs_that_ended_long_ago_are_deleted(tmp_path: Path) -> None:
    """Promise: the instance's storage does not grow for ever."""
    resource = SQLMeshResultsResource(storage_dir=str(tmp_path), keep_days=7)
    with dg.DagsterInstance.ephemeral() as instance:
        for run_id in (_OLD, _NEW):
            resource.of_run(instance, run_id).append(_OUTCOME)
        _age(tmp_path / "sqlmesh" / _OLD / "sqlmesh.jsonl", 8)
        resource.forget_old_runs(instance)
    assert [folder.name for folder in (tmp_path / "sqlmesh").iterdir()] == [_NEW]


def test_nothing_but_old_records_is_deleted(tmp_path: Path) -> None:
    """Promise: a folder that holds other things, `.git` among them, keeps them, whatever their age."""
    others = [
        ".git/HEAD",
        "precious/data.jsonl",
        f"sqlmesh/{_OLD}/notes.txt",
        f"sqlmesh/{_OLD}/other.jsonl",
        "sqlmesh/precious/sqlmesh.jsonl",
    ]
    for name in others:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("mine\n")
    resource = SQLMeshResultsResource(storage_dir=str(tmp_path))
    with dg.DagsterInstance.ephemeral() as instance:
        resource.of_run(instance, _OLD).append(_OUTCOME)
        for path in tmp_path.rglob("*"):
            _age(path, 400)
        resource.forget_old_runs(instance)
    assert not (tmp_path / "sqlmesh" / _OLD / "sqlmesh.jsonl").exists()
    assert [name for name in others if not (tmp_path / name).is_file()] == []


@pytest.mark.parametrize("days", [0, -1])
def test_records_are_kept_for_a_day_at_least(tmp_path: Path, days: int) -> None:
    """Promise: no setting deletes the record of a run that goes on."""
    resource = SQLMeshResultsResource(storage_dir=str(tmp_path), keep_days=days)
    with dg.DagsterInstance.ephemeral() as instance:
        resource.of_run(instance, _NEW).append(_OUTCOME)
        with pytest.raises(InvalidSettingError, match=f"`keep_days` is {days}"):
            resource.forget_old_runs(instance)
        assert resource.of_run(instance, _NEW).of(_OUTCOME.fqn)


def test_steps_of_one_process_share_one_reader(tmp_path: Path) -> None:
    """Promise: whichever step appends, the others of its process are woken."""
    resource = SQLMeshResultsResource(storage_dir=str(tmp_path))
    with dg.DagsterInstance.ephemeral() as instance:
        waiting, leading = (resource.of_run(instance, "run") for _ in range(2))
    threading.Timer(0.2, lambda: leading.append(_OUTCOME)).start()
    began = time.monotonic()
    waiting.wait(30)
    assert time.monotonic() - began < 10
