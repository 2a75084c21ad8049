"""Steps and runs on several hosts: nothing is shared but the SQLMesh state on Postgres."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.sqlmesh_dagster.projects import Project, Run, last_run, multiprocess, start

from tests.postgres import Server, postgres

pytestmark = pytest.mark.slow

_CONFIG = """
gateways:
  postgres:
    connection:
      type: postgres
      host: 127.0.0.1
      port: {port}
      user: postgres
      password: ''
      database: {database}
default_gateway: postgres
model_defaults:
  dialect: postgres
  start: 2025-01-01
  cron: '@daily'
disable_anonymized_analytics: true
before_all:
  - CREATE TABLE IF NOT EXISTS public.run_log (began_at TIMESTAMP)
  - INSERT INTO public.run_log VALUES (now())
"""
_HOST = """
import os
import tempfile

os.environ["TMPDIR"] = {folder}
tempfile.tempdir = None
"""
"""A host has a folder for temporary files of its own."""
_EXECUTIONS = ["shared", "per_step"]


@dataclass
class Platform:
    """A project on a Postgres database of its own."""

    project: Project
    server: Server
    database: str

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Rows of a query."""
        return self.server.query(self.database, sql)

    def start(self, home: Path, *, concurrency: int = 4, **more: Any) -> subprocess.Popen[str]:
        """A Dagster run on a host of its own; or each of its steps, with no folder for results."""
        folder = repr(str(home))
        home.mkdir()
        if self.project.settings["execution"] == "per_step":
            folder = "tempfile.mkdtemp(prefix='host-')"
            (home / "storage").mkdir()
            (home / "storage" / "sqlmesh").write_text("no folder: nobody can share anything here")
        executor = multiprocess(concurrency)
        body = _HOST.format(folder=folder)
        return start(self.project, home, executor=executor, body=body, **more)

    def run(self, home: Path, **more: Any) -> Run:
        """As `start`, and what it recorded."""
        self.start(home, **more).wait(timeout=300)
        return last_run(home)


NewPlatform = Callable[..., Platform]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """One server for all tests."""
    with postgres() as running:
        yield running


@pytest.fixture
def platform(server: Server, tmp_path: Path) -> NewPlatform:
    """`platform("per_step")` is a project on an empty database."""

    def new(execution: str, **settings: Any) -> Platform:
        name = re.sub(r"\W", "_", f"{tmp_path.name}_{execution}").lower()[-60:]
        server.create_database(name)
        project = Project(
            tmp_path / execution, {"environment": "dev", "execution": execution, **settings}
        )
        project.write("config.yaml", _CONFIG.format(port=server.port, database=name))
        return Platform(project, server, name)

    return new


def _write_models(project: Project) -> None:
    unique = "audits (not_null(columns := (id)), unique_values(columns := (id)))"
    project.model("first", "SELECT 1::INT AS id", f"kind FULL, {unique}")
    project.model("second", "SELECT 2::INT AS id", f"kind FULL, {unique}")
    project.model("both", "SELECT id FROM demo.first UNION ALL SELECT id FROM demo.second")
    project.model(
        "daily",
        "SELECT @start_ds::DATE AS day, id FROM demo.both WHERE @start_ds::DATE >= '2025-01-01'",
        "kind INCREMENTAL_BY_TIME_RANGE (time_column day, batch_size 1)",
    )
    project.model(
        "warned",
        "SELECT id FROM demo.both UNION ALL SELECT id FROM demo.both",
        "kind FULL, audits (unique_values(columns := (id), blocking := false))",
    )
    project.model("broken", "SELECT 1 / (id - id) AS id FROM demo.first")
    project.model("below_broken", "SELECT id FROM demo.broken")


def _facts(run: Run) -> dict[str, object]:
    return {
        "materialized": sorted(run.materialized),
        "failed": [step.rpartition("__")[2] for step in sorted(run.failed)],
        "passed": run.passed,
        "success": run.success,
    }


def test_steps_that_share_no_folder_give_the_same_results(
    platform: NewPlatform, tmp_path: Path
) -> None:
    """Promise: each step runs its own model only, and assets, checks, failures and rows are the same."""
    runs, rows = {}, {}
    tables = ("first", "second", "both", "daily", "warned")
    for execution in _EXECUTIONS:
        own = platform(execution)
        _write_models(own.project)
        runs[execution] = own.run(tmp_path / f"home_{execution}")
        rows[execution] = {
            name: own.rows(f"SELECT * FROM demo__dev.{name} ORDER BY 1, 2")
            if name == "daily"
            else own.rows(f"SELECT * FROM demo__dev.{name} ORDER BY 1")
            for name in tables
        }
        ((begun,),) = own.rows("SELECT count(*) FROM public.run_log")
        plan, run = 1, 1  # `before_all` is executed once in a run, however many steps it has
        assert begun == plan + run, runs[execution].failed
    assert _facts(runs["per_step"]) == _facts(runs["shared"])
    assert sorted(runs["shared"].materialized) == sorted(tables)
    assert rows["per_step"] == rows["shared"]
    assert len(rows["shared"]["daily"]) == 9 * 2


def test_steps_of_different_models_do_not_wait_for_each_other(
    platform: NewPlatform, tmp_path: Path
) -> None:
    """Promise: the lock of a step is on its own model; two that meet in the middle both succeed."""
    own = platform("per_step")
    for name, other in (("left", "right"), ("right", "left")):
        own.project.write(
            f"models/{name}.py",
            f"""
            import time
            import typing as t
            from pathlib import Path
            import pandas as pd
            from sqlmesh import ExecutionContext, model

            @model("demo.{name}", columns={{"n": "int"}}, kind="FULL")
            def execute(context: ExecutionContext, **kwargs: t.Any) -> pd.DataFrame:
                Path("{tmp_path}/{name}").touch()
                deadline = time.monotonic() + 120
                while not Path("{tmp_path}/{other}").exists():
                    if time.monotonic() > deadline:
                        raise TimeoutError("{other} has not begun")
                    time.sleep(0.1)
                return pd.DataFrame({{"n": [1]}})
            """,
        )
    run = own.run(tmp_path / "home", concurrency=2)
    assert run.success, run.failed
    assert sorted(run.materialized) == ["left", "right"]


@pytest.mark.parametrize("execution", _EXECUTIONS)
def test_runs_of_two_hosts_are_kept_apart_by_postgres(
    platform: NewPlatform, tmp_path: Path, execution: str
) -> None:
    """Promise: SQLMesh has no run lock, and two hosts see no file of each other; no row is doubled."""
    own = platform(execution)
    own.project.model(
        "appended",
        "SELECT @start_ds::DATE AS day, pg_sleep(3)::TEXT AS waited",
        "kind INCREMENTAL_UNMANAGED, start '2025-01-09'",
    )
    assert own.run(tmp_path / "before").success
    before = own.rows("SELECT count(*) FROM demo__dev.appended")[0][0]
    homes = [tmp_path / "one", tmp_path / "two"]
    later = {"execution_time": "2025-01-12T00:30:00"}
    runs = [own.start(home, options=later) for home in homes]
    for run in runs:
        run.wait(timeout=120)
    recorded = [last_run(home) for home in homes]
    assert [run.success for run in recorded] == [True, True], [run.failed for run in recorded]
    assert sorted(len(run.materialized) for run in recorded) == [0, 1]
    assert own.rows("SELECT count(*) FROM demo__dev.appended")[0][0] == before + 1


@pytest.mark.parametrize("execution", _EXECUTIONS)
def test_a_run_says_which_run_of_another_host_it_waits_for_and_gives_up(
    platform: NewPlatform, tmp_path: Path, execution: str
) -> None:
    """Promise: the limit is `wait_timeout`; the message names the other Dagster run."""
    own = platform(execution, wait_timeout=2)
    own.project.model("slow", "SELECT pg_sleep(60)::TEXT AS waited", "kind FULL")
    first = own.start(tmp_path / "one")
    _wait_until(lambda: _is_sleeping(own))
    run = own.run(tmp_path / "two")
    first.send_signal(signal.SIGINT)
    first.wait(timeout=60)
    waited_for = f"Dagster run {last_run(tmp_path / 'one').run_id}"
    ((_, error),) = run.failed.items()
    assert f"Waited 2 s for {waited_for}" in error
    assert f"Waiting for {waited_for}" in (tmp_path / "two" / "run.log").read_text()


def test_a_run_that_waits_for_another_host_can_be_stopped(
    platform: NewPlatform, tmp_path: Path
) -> None:
    """Promise: waiting for Postgres's lock does not hold a cancelled run back, and leaves no lock."""
    own = platform("shared")
    own.project.model("slow", "SELECT pg_sleep(60)::TEXT AS waited", "kind FULL")
    first = own.start(tmp_path / "one")
    _wait_until(lambda: _is_sleeping(own))
    second = own.start(tmp_path / "two")
    log = tmp_path / "two" / "run.log"
    _wait_until(lambda: "Waiting for Dagster run" in log.read_text())
    second.send_signal(signal.SIGINT)
    asked = time.monotonic()
    second.wait(timeout=60)
    assert time.monotonic() - asked < 10
    first.send_signal(signal.SIGINT)
    first.wait(timeout=60)
    _wait_until(lambda: own.rows("SELECT * FROM pg_locks WHERE locktype = 'advisory'") == [])
    assert not _is_sleeping(own)


def _is_sleeping(platform: Platform) -> bool:
    return bool(
        platform.rows(
            "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
            " AND datname = current_database()"
        )
    )


def _wait_until(condition: Callable[[], bool], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)
