"""Runs that are cancelled, killed, or met by a rival: real signals, processes and locks."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pytest
from sqlmesh import Context
from tests.sqlmesh_dagster.projects import (
    Project,
    last_run,
    multiprocess,
    run_in_process,
    start,
)

from tests.robustness.projects import processes_of

pytestmark = pytest.mark.slow

_SLOW_QUERY = "SELECT count(*)::BIGINT AS n FROM range(100000000) AS a, range(100000) AS b"
"""Hours of work for DuckDB, in one query."""
_EXECUTORS = ["dg.in_process_executor", multiprocess(3)]


def _chain(project: Project, slow: str) -> None:
    project.model("quick", "SELECT 1::INT AS id")
    project.model("slow", slow, "kind FULL, depends_on (demo.quick)")
    project.model("after_slow", "SELECT n FROM demo.slow")


def _wait_until(condition: Callable[[], bool], log: Path, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


def _is_in_step(home: Path, step: str) -> Callable[[], bool]:
    return lambda: any("STEP_START" in line and step in line for line in (home / "run.log").open())


@pytest.mark.parametrize("executor", _EXECUTORS)
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_stops_sqlmesh_in_the_middle_of_a_query(
    project: Project, tmp_path: Path, executor: str, stop: signal.Signals
) -> None:
    """Promise: the query ends, no process and no lock is left; the next run completes the rest."""
    _chain(project, _SLOW_QUERY)
    home = tmp_path / "home"
    run = start(project, home, executor=executor)
    _wait_until(_is_in_step(home, "demo__slow"), home / "run.log")
    time.sleep(1.5)
    run.send_signal(stop)
    run.wait(timeout=120)  # the query would take hours; a loaded machine is slow to end processes
    _wait_until(lambda: not processes_of(home), home / "run.log", seconds=60)
    assert "after_slow" not in last_run(home).materialized
    assert project.query("SELECT count(*) FROM demo__dev.quick") == [(1,)]
    project.model("slow", "SELECT 5::BIGINT AS n", "kind FULL, depends_on (demo.quick)")
    with dg.DagsterInstance.ephemeral() as instance:
        rest = run_in_process(project.definitions(), instance)
    assert rest.success
    assert rest.materialized == ["slow", "after_slow"]


def test_a_run_that_is_stopped_between_two_queries_does_not_begin_the_next(
    project: Project, tmp_path: Path
) -> None:
    """Promise: an interrupt that met no query is repeated, or the next one would run to its end."""
    project.write(
        "models/between.py",
        f"""
        import os
        import signal
        import time
        import typing as t
        import pandas as pd
        from sqlmesh import ExecutionContext, model

        @model("demo.between", columns={{"n": "bigint"}}, kind="FULL")
        def execute(context: ExecutionContext, **kwargs: t.Any) -> pd.DataFrame:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(2)  # works on in Python, and begins a query after the interrupt
            return context.fetchdf({_SLOW_QUERY!r})
        """,
    )
    home = tmp_path / "home"
    start(project, home, executor="dg.in_process_executor").wait(timeout=90)
    assert "between" in str(last_run(home).failed)


def test_a_run_whose_leading_process_is_killed_ends_clearly_and_the_next_completes_it(
    project: Project, tmp_path: Path
) -> None:
    """Promise: no step hangs, the lock is free, and no interval is lost or done twice.

    Dagster's multiprocess executor fails a run when a process dies after its step has succeeded.
    """
    marker = project.root / "attempts"
    project.model(
        "appended", "SELECT @start_ds::DATE AS day, 1::INT AS n", "kind INCREMENTAL_UNMANAGED"
    )
    project.write(
        "models/slow.py",
        f"""
        import os
        import time
        import typing as t
        import pandas as pd
        from sqlmesh import ExecutionContext, model

        @model("demo.slow", columns={{"n": "bigint"}}, kind="FULL", depends_on=["demo.appended"])
        def execute(context: ExecutionContext, **kwargs: t.Any) -> pd.DataFrame:
            with open({str(marker)!r}, "a") as attempts:
                attempts.write(f"{{os.getpid()}}\\n")
            time.sleep(30 if len(open({str(marker)!r}).readlines()) == 1 else 0)
            return pd.DataFrame({{"n": [1]}})
        """,
    )
    project.model("after_slow", "SELECT n FROM demo.slow")
    home = tmp_path / "home"
    run = start(project, home, executor=multiprocess(3))
    _wait_until(lambda: marker.exists() and bool(marker.read_text()), home / "run.log")
    os.kill(int(marker.read_text().split()[0]), signal.SIGKILL)
    run.wait(timeout=60)
    assert not last_run(home).success
    with dg.DagsterInstance.ephemeral() as instance:
        rest = run_in_process(project.definitions(), instance)
    assert rest.success
    assert rest.unchanged == ["appended"]
    assert rest.materialized == ["slow", "after_slow"]
    assert project.query("SELECT count(*) FROM demo__dev.appended") == [(1,)]


@pytest.mark.parametrize("limit", [None, 2])
def test_rows_that_were_appended_in_vain_are_not_appended_twice(
    project: Project, instance: dg.DagsterInstance, limit: int | None
) -> None:
    """Promise: rows of an append-only model stay only with the record of their interval.

    SQLMesh alone leaves them, and appends them again with the next run.
    """
    project.write(
        "models/appended.sql",
        """
        MODEL (name demo.appended, kind INCREMENTAL_UNMANAGED, audits (allowed));
        SELECT @start_ds::DATE AS day;
        """,
    )
    project.write(
        "audits/allowed.sql",
        "AUDIT (name allowed); SELECT day FROM @this_model, main.refused WHERE day > until;",
    )
    project.execute("CREATE TABLE main.refused AS SELECT DATE '2030-01-01' AS until")
    project.settings = {"environment": "prod", "undeployed_changes": "apply"}  # dev only warns
    definitions = project.definitions(concurrency_limit=limit)
    assert run_in_process(definitions, instance).success
    project.execute("UPDATE main.refused SET until = '2000-01-01'")
    refused = run_in_process(definitions, instance, now="2025-01-11T00:30:00")
    assert "found 2 rows" in str(refused.failed)
    assert project.query("SELECT count(*) FROM demo.appended") == [(1,)]
    project.execute("UPDATE main.refused SET until = '2030-01-01'")
    assert run_in_process(definitions, instance, now="2025-01-11T00:30:00").success
    assert project.query("SELECT day::TEXT FROM demo.appended ORDER BY day") == [
        ("2025-01-01",),
        ("2025-01-10",),
    ]


def test_two_runs_at_once_are_serialised_and_duplicate_nothing(
    project: Project, tmp_path: Path
) -> None:
    """Promise: SQLMesh has no run lock; ours lets the second run find nothing due."""
    project.model(
        "appended",
        "SELECT @start_ds::DATE AS day, 1::INT AS n",
        "kind INCREMENTAL_UNMANAGED, start '2025-01-08'",
    )
    with dg.DagsterInstance.ephemeral() as instance:
        assert run_in_process(project.definitions(), instance).success
    before = project.query("SELECT count(*) FROM demo__dev.appended")
    later = {"execution_time": "2025-01-12T00:30:00"}
    homes = [tmp_path / "first", tmp_path / "second"]
    runs = [start(project, home, options=later) for home in homes]
    for run in runs:
        run.wait(timeout=120)
    recorded = [last_run(home) for home in homes]
    assert [run.success for run in recorded] == [True, True]
    assert sorted(run.materialized + run.unchanged for run in recorded) == [["appended"]] * 2
    assert sum(len(run.materialized) for run in recorded) == 1
    assert project.query("SELECT count(*) FROM demo__dev.appended") == [(before[0][0] + 1,)]


@pytest.mark.parametrize("policy", ["apply", "warn"])
def test_what_a_dead_plan_left_is_finished_or_told(
    project: Project, instance: dg.DagsterInstance, policy: str
) -> None:
    """Promise: SQLMesh would wait for six hours; a run that deploys finishes it, another says how to."""
    project.model("full", "SELECT 1::INT AS id")
    run_in_process(project.definitions(), instance)
    project.execute("UPDATE sqlmesh._environments SET finalized_ts = NULL")
    definitions = project.definitions(undeployed_changes=policy)
    run = run_in_process(definitions, instance, now="2025-01-12T00:30:00")
    left = project.query("SELECT name FROM sqlmesh._environments WHERE finalized_ts IS NULL")
    if policy == "apply":
        assert run.success and left == [], run.failed
        return
    ((_, error),) = run.failed.items()
    assert "being changed by a plan, or a plan of it died" in error
    assert "plan dev" in error and left == [("dev",)]


def test_a_signal_that_raises_is_named(project: Project, instance: dg.DagsterInstance) -> None:
    """Promise: SQLMesh stops the whole run for it; each step says which signal of which model."""
    project.write(
        "signals/gates.py",
        """
        from sqlmesh import DatetimeRanges, signal

        @signal()
        def gate(batch: DatetimeRanges) -> bool:
            raise RuntimeError("the gate is stuck")
        """,
    )
    project.model("gated", "SELECT 1::INT AS id", "kind FULL, signals (gate())")
    run = run_in_process(project.definitions(), instance)
    ((_, error),) = run.failed.items()
    assert "gate" in error
    assert "demo.gated" in error


def test_a_statement_before_the_run_that_fails_is_told(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: `before_all` is part of the run, and its error reaches every step."""
    project.model("full", "SELECT 1::INT AS id")
    run_in_process(project.definitions(), instance)
    project.execute("DROP TABLE main.run_log")
    project.execute("CREATE VIEW main.run_log AS SELECT now() AS began_at")
    run = run_in_process(project.definitions(), instance, now="2025-01-12T00:30:00")
    ((_, error),) = run.failed.items()
    assert "RunFailedError: `before_all` in SQLMesh's config failed, so that no model" in error
    assert "run_log" in error and "Model `" not in error


def test_nothing_leaks_in_a_process_that_runs_again_and_again(project: Project) -> None:
    """Promise: after fifty runs of every ending, a process holds what it held after the first ones."""
    audited = "kind FULL, cron '@hourly', audits (not_null(columns := (id)))"
    project.model("good", "SELECT 1::INT AS id", audited)
    project.model("bad", "SELECT error('boom')::TEXT AS id", "kind FULL, cron '@hourly'")
    project.write(
        "models/stopped.py",
        f"""
        import os
        import signal
        import typing as t
        import pandas as pd
        from sqlmesh import ExecutionContext, model

        @model("demo.stopped", columns={{"n": "bigint"}}, kind="FULL", cron="@hourly")
        def execute(context: ExecutionContext, **kwargs: t.Any) -> pd.DataFrame:
            os.kill(os.getpid(), signal.SIGINT)  # as if somebody stopped the run
            return context.fetchdf({_SLOW_QUERY!r})
        """,
    )
    definitions = project.definitions()
    check = dg.AssetCheckKey(dg.AssetKey(["warehouse", "demo", "good"]), "not_null_id")

    def succeed(now: str, instance: dg.DagsterInstance) -> None:
        assert run_in_process(definitions, instance, "good", now=now).materialized == ["good"]

    def fail(now: str, instance: dg.DagsterInstance) -> None:
        assert "boom" in str(run_in_process(definitions, instance, "bad", now=now).failed)

    def be_stopped(now: str, instance: dg.DagsterInstance) -> None:
        stopped = run_in_process(definitions, instance, "stopped", now=now)
        assert "DagsterExecutionInterruptedError" in str(stopped.failed)

    def only_check(now: str, instance: dg.DagsterInstance) -> None:
        assert run_in_process(definitions, instance, checks=[check], now=now).passed

    endings = (succeed, fail, be_stopped, only_check)
    held = {}
    for number in range(50):
        now = f"2025-01-{10 + number // 24}T{number % 24:02}:30:00"
        with dg.DagsterInstance.ephemeral() as instance:
            endings[number % len(endings)](now, instance)
        if number in (7, 49):  # to look through all objects takes longer than a run
            held[number] = _held_by_this_process(project)
    after_each_ending_twice, at_the_end = held[7], held[49]
    assert at_the_end.contexts <= 1
    assert at_the_end.database_handles == 0
    assert at_the_end.threads <= after_each_ending_twice.threads
    assert at_the_end.handles <= after_each_ending_twice.handles + 2
    grown = at_the_end.memory - after_each_ending_twice.memory
    assert grown / 42 < _MEMORY_PER_RUN, f"{grown / 42 / 2**20:.2f} MiB for each run"


_MEMORY_PER_RUN = 2**20
"""Bytes: what Dagster, SQLMesh and the allocator keep; a context that leaks costs several times that."""


@dataclass(frozen=True)
class _Held:
    threads: int
    handles: int
    database_handles: int
    contexts: int
    memory: int


def _held_by_this_process(project: Project) -> _Held:
    gc.collect()
    handles = []
    for handle in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            handles.append(str(handle.readlink()))
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return _Held(
        threads=threading.active_count(),
        handles=len(handles),
        database_handles=sum(str(project.root) in handle for handle in handles),
        contexts=sum(isinstance(thing, Context) for thing in gc.get_objects()),
        memory=pages * os.sysconf("SC_PAGE_SIZE"),
    )
