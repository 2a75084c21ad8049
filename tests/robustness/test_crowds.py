"""One instance with thousands of runs, many writers and few files: `pytest -m storm` on this file, with `-s` for its figures."""

from __future__ import annotations

import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.events import StepMaterializationData
from tests.sqlmesh_dagster.pure.records import manifest, model

from sqlmesh_dagster import SQLMeshTranslator
from sqlmesh_dagster.definition.project import translate
from sqlmesh_dagster.run.active import active_run
from sqlmesh_dagster.run.reported import last_materializations
from sqlmesh_dagster.settings import ProjectSettings
from tests.instance import POOLED_STORAGE
from tests.integration.conftest import own_process

__all__ = ["own_process"]
pytestmark = pytest.mark.storm

_RUNS = int(os.environ.get("CROWD_RUNS", "2000"))
_SECONDS = float(os.environ.get("CROWD_SECONDS", "10"))
_WRITERS = 8
_KEYS = [dg.AssetKey(["db", "demo", f"m{number}"]) for number in range(20)]


@contextmanager
def _opened(home: Path, *, is_ours: bool = True) -> Iterator[dg.DagsterInstance]:
    home.mkdir(exist_ok=True)
    (home / "dagster.yaml").write_text(POOLED_STORAGE.format(home=home) if is_ours else "")
    with dg.DagsterInstance.from_config(str(home)) as instance:
        yield instance


def _add_run(instance: dg.DagsterInstance, number: int) -> str:
    """A run of the past, with what it left in the log."""
    run = dg.DagsterRun("x_job", status=dg.DagsterRunStatus.SUCCESS)
    instance.add_run(run)
    _materialize(instance, run.run_id, number)
    return run.run_id


def _add_short_run(instance: dg.DagsterInstance, number: int) -> str:
    """The same without a log of its own, whose file takes the most of the time."""
    run = dg.DagsterRun("x_job", status=dg.DagsterRunStatus.SUCCESS)
    instance.add_run(run)
    instance.report_runless_asset_event(dg.AssetMaterialization(_KEYS[number % len(_KEYS)]))
    return run.run_id


def _materialize(instance: dg.DagsterInstance, run_id: str, number: int) -> None:
    key = _KEYS[number % len(_KEYS)]
    data = StepMaterializationData(dg.AssetMaterialization(key))
    event = dg.DagsterEvent("ASSET_MATERIALIZATION", "x_job", event_specific_data=data)
    instance.report_dagster_event(event, run_id)


def _cpu(work: Callable[[], object]) -> float:
    """The least of five, in milliseconds."""
    spent = []
    for _ in range(5):
        begin = time.process_time()
        work()
        spent.append((time.process_time() - begin) * 1000)
    return min(spent)


def _handles() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_tick_costs_the_same_after_thousands_of_runs(tmp_path: Path) -> None:
    """Promise: what a tick and a page ask does not grow with the number of runs, nor do open files."""
    project = translate(
        manifest(*(model(f"m{n}") for n in range(20))),
        SQLMeshTranslator(),
        name="x",
        group_name="g",
        owners=(),
    )
    settings = ProjectSettings(project_dir=str(tmp_path)).checked()
    with _opened(tmp_path / "home") as instance:
        questions: dict[str, Callable[[], object]] = {
            "tick: active run": lambda: active_run(instance, project, "x_job", settings, print),
            "sync: last materializations": lambda: last_materializations(instance, _KEYS),
            "page: newest 25 runs": lambda: instance.get_run_records(limit=25),
            "page: assets": lambda: instance.get_asset_records(_KEYS),
        }
        few = [_add_run(instance, number) for number in range(100)]
        before = {name: _cpu(ask) for name, ask in questions.items()}
        logged = [*few, *(_add_run(instance, number) for number in range(100, 300))]
        many = [*logged, *(_add_short_run(instance, number) for number in range(300, _RUNS))]
        after = {name: _cpu(ask) for name, ask in questions.items()}
        handles = _handles()
        for run_id in logged:
            assert len(instance.all_logs(run_id)) == 1
        grown = _handles() - handles
        for run_id in many[200:400]:
            instance.delete_run(run_id)
        assert instance.get_runs_count() == _RUNS - 200
        assert active_run(instance, project, "x_job", settings, print) is None
    for name in questions:
        print(f"{name}: {before[name]:.1f} ms with 100 runs, {after[name]:.1f} ms with {_RUNS}")
        assert after[name] < 3 * before[name] + 5
    print(f"open files: {grown} more after reading the logs of 300 runs")
    assert grown <= 16 * 3


def _write_for_a_while(home: Path, is_ours: bool, number: int, until: float) -> None:
    with _opened(home, is_ours=is_ours) as instance:
        run_id = _add_run(instance, number)
        while time.time() < until:
            _materialize(instance, run_id, number)
            time.sleep(0.02)


def _latencies(home: Path, *, is_ours: bool) -> tuple[list[float], int]:
    """Seconds that a page's questions take while eight processes write, and how much was written."""
    with _opened(home, is_ours=is_ours) as instance:
        for number in range(20):
            _add_run(instance, number)
    forks, until = multiprocessing.get_context("fork"), time.time() + _SECONDS
    writers = [
        forks.Process(target=_write_for_a_while, args=(home, is_ours, number, until))
        for number in range(_WRITERS)
    ]
    for writer in writers:
        writer.start()
    taken = []
    with _opened(home, is_ours=is_ours) as instance:
        while time.time() < until:
            begin = time.perf_counter()
            (newest, *_) = instance.get_run_records(limit=25)
            instance.get_asset_records(_KEYS)
            instance.all_logs(newest.dagster_run.run_id)
            taken.append(time.perf_counter() - begin)
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0] * _WRITERS
    with _opened(home, is_ours=is_ours) as instance:
        written = sum(len(instance.all_logs(run.run_id)) for run in instance.get_runs())
        found = instance.get_event_records(
            dg.EventRecordsFilter(dg.DagsterEventType.ASSET_MATERIALIZATION)
        )
        assert len(found) == written  # the index and the logs of the runs agree
    return taken, written


def test_pages_answer_while_eight_processes_write(tmp_path: Path) -> None:
    """Promise: no error, nothing lost, and no slower than with Dagster's own storage."""
    ours, by_us = _latencies(tmp_path / "ours", is_ours=True)
    stock, by_stock = _latencies(tmp_path / "stock", is_ours=False)
    for name, taken, written in (("ours", ours, by_us), ("stock", stock, by_stock)):
        p95 = statistics.quantiles(taken, n=20)[-1]
        print(
            f"{name}: {len(taken)} pages, median {statistics.median(taken) * 1000:.0f} ms,"
            f" 95 % {p95 * 1000:.0f} ms, worst {max(taken) * 1000:.0f} ms; {written} records written"
        )
    assert statistics.median(ours) < 2 * statistics.median(stock)


@pytest.mark.parametrize("is_ours", [True, False], ids=["ours", "stock"])
def test_a_run_that_is_deleted_while_it_writes_stops_nobody(tmp_path: Path, is_ours: bool) -> None:
    """Promise: its process goes on without an error, and so do all others, as with Dagster's own storage."""
    home = tmp_path / "home"
    with _opened(home, is_ours=is_ours):
        forks = multiprocessing.get_context("fork")
    writers = [
        forks.Process(target=_write_for_a_while, args=(home, is_ours, number, time.time() + 6))
        for number in range(2)
    ]
    for writer in writers:
        writer.start()
    time.sleep(2)
    with _opened(home, is_ours=is_ours) as instance:
        deleted, kept = (run.run_id for run in instance.get_runs())
        instance.delete_run(deleted)
        for writer in writers:
            writer.join(60)
        assert [writer.exitcode for writer in writers] == [0, 0]
        assert [run.run_id for run in instance.get_runs()] == [kept]
        assert len(instance.all_logs(kept)) > 50
        assert instance.get_latest_materialization_event(_KEYS[0]) is not None
