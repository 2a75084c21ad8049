"""Which run works on a project: seen from a tick, on an instance of Dagster's without any project."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.events import AssetMaterializationPlannedData

from sqlmesh_dagster.definition.project import DagsterProject, translate
from sqlmesh_dagster.guard.locks import ProjectLock
from sqlmesh_dagster.run.active import active_run
from sqlmesh_dagster.run.liveness import give_sign, read_sign
from sqlmesh_dagster.run.results import RECORDS, SIGN
from sqlmesh_dagster.settings import ProjectSettings
from sqlmesh_dagster.translator import SQLMeshTranslator
from tests.sqlmesh_dagster.pure.records import manifest, model

PROJECT: DagsterProject = translate(
    manifest(model("m")), SQLMeshTranslator(), name="x", group_name="g", owners=()
)
OURS, THEIRS = dg.AssetKey(["db", "demo", "m"]), dg.AssetKey("other")
RUN = "0b1ac5ed-1f58-4b66-8d38-2a3b1c9c4f10"
OLDER = "0b1ac5ed-1f58-4b66-8d38-2a3b1c9c4f00"
STATUS = dg.DagsterRunStatus


class Tick:
    """An instance, and what a tick says of the runs in it."""

    def __init__(self, instance: dg.DagsterInstance, folder: Path) -> None:
        self.instance = instance
        self.settings = ProjectSettings(project_dir=str(folder)).checked()
        self.said: list[str] = []

    def look(self) -> str | None:
        """The active run."""
        return active_run(self.instance, PROJECT, "x_job", self.settings, self.said.append)

    def add(self, status: STATUS = STATUS.STARTED, **run: Any) -> dg.DagsterRun:
        """A run, which builds our model if nothing else is said."""
        given = {"job_name": "x_job", "asset_selection": frozenset([OURS]), **run}
        return self.instance.add_run(dg.DagsterRun(run_id=RUN, status=status, **given))

    def begin(self, pid: int, *, signs: bool = True) -> None:
        """The run's process has begun, on this host."""
        started = dg.DagsterEvent("PIPELINE_START", "x_job", pid=pid)
        self.instance.report_dagster_event(started, RUN)
        if signs:
            give_sign(self.sign)

    @property
    def sign(self) -> Path:
        """The file of the run's sign of life."""
        return Path(self.instance.storage_directory()) / RECORDS / RUN / SIGN

    @property
    def status(self) -> STATUS:
        """The run's."""
        run = self.instance.get_run_by_id(RUN)
        assert run is not None
        return run.status


@pytest.fixture
def tick(tmp_path: Path) -> Any:
    """An empty instance, whose databases are in memory."""
    with dg.DagsterInstance.ephemeral(str(tmp_path)) as instance:
        yield Tick(instance, tmp_path)


@pytest.fixture
def tick_of_a_launcher(tmp_path: Path) -> Any:
    """The same on disk, where runs are processes of their own."""
    home = tmp_path / "home"
    home.mkdir()
    with dg.DagsterInstance.from_config(str(home)) as instance:
        yield Tick(instance, tmp_path)


@pytest.fixture(scope="module")
def gone() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_without_runs_none_is_active(tick: Tick) -> None:
    """Promise: nor is anything said."""
    assert tick.look() is None and tick.said == []


@pytest.mark.parametrize("status", [STATUS.NOT_STARTED, STATUS.STARTING, STATUS.CANCELING])
def test_a_run_that_is_about_to_start_is_active(tick: Tick, status: STATUS) -> None:
    """Promise: a tick requests no second one."""
    tick.add(status)
    assert tick.look() == RUN


@pytest.mark.parametrize("status", [STATUS.SUCCESS, STATUS.FAILURE, STATUS.CANCELED])
def test_a_run_that_has_ended_is_not_active(tick: Tick, status: STATUS) -> None:
    """Promise: however it ended."""
    tick.add(status)
    assert tick.look() is None


@pytest.mark.parametrize(
    ("job", "assets", "is_active"),
    [
        ("x_job", None, True),
        ("x_job", [OURS], True),
        ("x_job", [THEIRS], False),
        ("theirs", [OURS, THEIRS], True),
        ("theirs", [THEIRS], False),
        ("theirs", None, False),
    ],
)
def test_a_run_counts_if_it_is_of_the_job_or_builds_a_model(
    tick: Tick, job: str, assets: list[dg.AssetKey] | None, is_active: bool
) -> None:
    """Promise: whoever launched it; runs of other assets stop no tick, though another location's job has the name."""
    tick.add(job_name=job, asset_selection=frozenset(assets) if assets else None)
    assert tick.look() == (RUN if is_active else None)


def test_a_run_whose_process_is_gone_is_ended_as_failed(tick: Tick, gone: int) -> None:
    """Promise: the reason is in the tick and in the run; the next tick finds nothing to do."""
    tick.add()
    tick.begin(gone)
    assert tick.look() is None
    assert tick.said == [f"Run {RUN} is dead: its process {gone} is gone. It was ended as failed."]
    assert tick.status is STATUS.FAILURE
    messages = " ".join(entry.message for entry in tick.instance.all_logs(RUN))
    assert f"This run is dead: its process {gone} is gone." in messages
    assert tick.look() is None and len(tick.said) == 1


def test_a_run_whose_process_is_gone_while_it_was_canceled_is_ended(tick: Tick, gone: int) -> None:
    """Promise: a run that nobody can finish canceling stops no tick for ever."""
    tick.add()
    tick.begin(gone)
    run = tick.instance.get_run_by_id(RUN)
    assert run is not None
    tick.instance.report_run_canceling(run)
    assert tick.status is STATUS.CANCELING
    assert tick.look() is None and tick.said
    assert tick.status in (STATUS.FAILURE, STATUS.CANCELED)
    assert tick.look() is None and len(tick.said) == 1


@pytest.mark.parametrize("status", [STATUS.NOT_STARTED, STATUS.STARTING])
def test_a_run_that_died_before_its_first_event_is_ended(
    tick: Tick, status: STATUS, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise: after a quarter of an hour, and the tick says so; before, it may still start."""
    tick.add(status)
    assert tick.look() == RUN
    later = time.time() + 16 * 60
    monkeypatch.setattr(time, "time", lambda: later)
    assert tick.look() is None
    assert "it has not started for 16 minutes" in tick.said[0]
    assert tick.status is STATUS.FAILURE


def test_a_run_that_ends_by_itself_while_a_tick_looks_is_left_as_it_ended(
    tick: Tick, gone: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise: its process is gone because it is done; it is not ended as failed."""
    run = tick.add()
    tick.begin(gone)
    listed = tick.instance.get_run_records

    def list_and_end(*args: Any, **kwargs: Any) -> Any:
        records = listed(*args, **kwargs)
        tick.instance.report_dagster_event(dg.DagsterEvent("PIPELINE_SUCCESS", "x_job"), run.run_id)
        return records

    monkeypatch.setattr(tick.instance, "get_run_records", list_and_end)
    assert tick.look() is None
    assert tick.said == []
    assert tick.status is STATUS.SUCCESS


def test_a_run_that_is_deleted_while_a_tick_looks_is_no_error(
    tick: Tick, gone: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise: nothing is left to end."""
    tick.add()
    tick.begin(gone)
    found = tick.instance.get_run_by_id

    def delete_first(run_id: str) -> Any:
        tick.instance.delete_run(run_id)
        return found(run_id)

    monkeypatch.setattr(tick.instance, "get_run_by_id", delete_first)
    assert tick.look() is None and tick.said == []


def test_a_run_that_holds_the_lock_is_active_whatever_its_process_seems(
    tick: Tick, gone: int
) -> None:
    """Promise: what works is never ended; a lock of somebody else says nothing of the run."""
    tick.add()
    tick.begin(gone)
    lock = ProjectLock(tick.settings.lock_name, tick.settings.project_path)
    with lock.held(f"Dagster run {RUN}", 1):
        assert tick.look() == RUN
    with lock.held("somebody else", 1):
        assert tick.look() is None
    assert tick.status is STATUS.FAILURE


@pytest.mark.parametrize("signs", [True, False])
def test_a_process_that_this_host_launched_is_looked_at_without_a_sign(
    tick_of_a_launcher: Tick, gone: int, signs: bool
) -> None:
    """Promise: a run that was killed before its first step is found dead, and one that lives is left."""
    tick = tick_of_a_launcher
    tick.add()
    tick.begin(os.getpid(), signs=signs)
    assert tick.look() == RUN
    tick.begin(gone, signs=False)
    tick.instance.delete_run(RUN)
    tick.add()
    tick.begin(gone, signs=signs)
    assert tick.look() is None
    assert tick.said == [f"Run {RUN} is dead: its process {gone} is gone. It was ended as failed."]


@pytest.mark.parametrize(("hours", "is_active"), [(1, True), (7, False)])
def test_a_run_on_another_host_is_known_by_its_signs(
    tick: Tick, gone: int, hours: int, is_active: bool
) -> None:
    """Promise: its process has a number of that host; silence for long is its end."""
    tick.add()
    tick.begin(gone)
    sign = read_sign(tick.sign)
    assert sign is not None
    elsewhere = replace(sign, host="elsewhere", seen_at=time.time() - hours * 3600)
    tick.sign.write_text(json.dumps(asdict(elsewhere)))
    assert tick.look() == (RUN if is_active else None)


def test_runs_of_others_and_dead_ones_hide_no_run(tick: Tick, gone: int) -> None:
    """Promise: every run that Dagster lists is looked at, the newest first."""
    tick.instance.add_run(dg.DagsterRun(run_id=OLDER, job_name="x_job", status=STATUS.STARTING))
    tick.add(job_name="theirs", asset_selection=frozenset([THEIRS]))
    assert tick.look() == OLDER
    tick.instance.delete_run(RUN)
    tick.add()
    tick.begin(gone)
    assert tick.look() == OLDER
    assert len(tick.said) == 1


@pytest.mark.parametrize("job", ["theirs", "x_job"])
def test_a_job_of_others_that_builds_a_model_is_known_by_what_it_plans(
    tick: Tick, job: str
) -> None:
    """Promise: a run of a whole job names no assets itself; other assets stop no tick, whatever the job's name."""
    run = tick.add(job_name=job, asset_selection=None)
    for key, active in ((THEIRS, None), (OURS, RUN)):
        tick.instance.report_dagster_event(
            dg.DagsterEvent.build_asset_materialization_planned_event(
                "theirs", "step", AssetMaterializationPlannedData(key)
            ),
            run.run_id,
        )
        assert tick.look() == active
