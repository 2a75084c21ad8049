"""Steps that share no folder under `execution="shared"`: they notice, go on by themselves, and nothing is lost."""

from __future__ import annotations

import itertools
from pathlib import Path

import dagster as dg
import pytest
from tests.sqlmesh_dagster.projects import Project, Run, run_in_process

UNIQUE = "kind FULL, audits (unique_values(columns := (id), blocking := false))"


@pytest.fixture
def unshared(instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look for the instance's storage folder finds another one, as steps on several hosts do."""
    folders = (str(tmp_path / f"host_{n}") for n in itertools.count())
    monkeypatch.setattr(instance, "storage_directory", lambda: next(folders))


def _messages(instance: dg.DagsterInstance, run: Run) -> list[str]:
    return [entry.user_message for entry in instance.all_logs(run.run_id)]


@pytest.mark.usefixtures("unshared")
def test_every_model_is_materialized_once_with_its_checks(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: as `per_step` does: all is reported, no row is doubled, and the setting to change is named."""
    project.model("first", "SELECT 1::INT AS id", UNIQUE)
    project.model("second", "SELECT id FROM demo.first UNION ALL SELECT id FROM demo.first", UNIQUE)
    project.model(
        "appended",
        "SELECT @start_ds::DATE AS day, id FROM demo.first",
        "kind INCREMENTAL_UNMANAGED, audits (not_null(columns := (day)))",
    )
    run = run_in_process(project.definitions(), instance)
    assert run.success, run.failed
    assert sorted(run.materialized) == ["appended", "first", "second"]
    assert run.passed == {
        "first:unique_values_id": True,
        "second:unique_values_id": False,
        "appended:not_null_day": True,
    }
    assert project.query("SELECT count(*) FROM demo__dev.appended") == [(1,)]
    said = _messages(instance, run)
    assert any("Set `execution` to `per_step`" in message for message in said), said
    again = run_in_process(project.definitions(), instance)
    assert again.success and again.materialized == []


@pytest.mark.usefixtures("unshared")
def test_what_fails_fails_in_its_own_step(project: Project, instance: dg.DagsterInstance) -> None:
    """Promise: the error of a model is that of its step, and what is below it is skipped."""
    project.model("first", "SELECT 1::INT AS id")
    project.model("broken", "SELECT error('no such luck')::INT AS id FROM demo.first")
    project.model("below", "SELECT id FROM demo.broken")
    run = run_in_process(project.definitions(), instance)
    assert run.materialized == ["first"]
    ((step, error),) = run.failed.items()
    assert step.endswith("broken") and "no such luck" in error


def test_a_folder_that_cannot_be_written_loses_nothing(
    project: Project,
    instance: dg.DagsterInstance,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Promise: steps of one process still know of each other."""
    (tmp_path / "sqlmesh").write_text("not a folder")
    monkeypatch.setattr(instance, "storage_directory", lambda: str(tmp_path))
    project.model("first", "SELECT 1::INT AS id", UNIQUE)
    project.model("second", "SELECT id FROM demo.first", UNIQUE)
    run = run_in_process(project.definitions(), instance)
    assert run.success, run.failed
    assert sorted(run.materialized) == ["first", "second"]
    assert len(run.passed) == 2
