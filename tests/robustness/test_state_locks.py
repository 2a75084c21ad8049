"""The lock on the state, on real servers: it is held, it is missed when it is lost, and it keeps rivals apart."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from tests.sqlmesh_dagster.projects import (
    Project,
    last_run,
    multiprocess,
    run_in_process,
    start,
)

from sqlmesh_dagster.engine.lock_sql import lock_sql
from tests.integration.conftest import instance, own_process, project
from tests.mariadb import MariaDB, is_installed, mariadb
from tests.postgres import Server, postgres

__all__ = ["instance", "own_process", "project"]
pytestmark = pytest.mark.slow

_CONFIG = """
gateways: {{main: {{connection: {data}, state_connection: {state}}}}}
model_defaults: {{dialect: {dialect}, start: 2025-01-01, cron: '@daily'}}
disable_anonymized_analytics: true
"""
_SLOW_BATCHES = (
    "kind INCREMENTAL_BY_TIME_RANGE (time_column day, batch_size 1, batch_concurrency 1)"
)
_HOST = """
import itertools
import tempfile

import dagster as dg
from sqlmesh_dagster.guard import locks

folder = tempfile.mkdtemp(prefix="host-")
dg.DagsterInstance.storage_directory = lambda self: folder
tempfile.tempdir = folder
locks._FOLDER = folder
"""
"""Each process has its own storage folder, temporary folder and folder of locks, as one on a host of its own."""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """One Postgres for all tests."""
    with postgres() as running:
        yield running


@pytest.fixture
def database(server: Server, tmp_path: Path) -> str:
    """An empty one."""
    name = re.sub(r"\W", "_", tmp_path.name).lower()[-60:]
    server.create_database(name)
    return name


def _place(port: int, database: str) -> dict[str, object]:
    place: dict[str, object] = {"type": "postgres", "host": "127.0.0.1", "port": port}
    return {**place, "user": "postgres", "password": "", "database": database}


def _on_postgres(project: Project, port: int, database: str, **more: str) -> None:
    place = _place(port, database)
    project.write("config.yaml", _CONFIG.format(data=place, state=place, dialect="postgres"))
    project.settings = {"environment": "dev", **more}


def _later(action: Callable[[], bool]) -> threading.Thread:
    """Tries it until it has done something, meanwhile."""

    def try_again() -> None:
        deadline = time.monotonic() + 60
        while not action() and time.monotonic() < deadline:
            time.sleep(0.05)

    thread = threading.Thread(target=try_again)
    thread.start()
    return thread


def _said(instance: dg.DagsterInstance, run_id: str) -> str:
    return "\n".join(entry.user_message for entry in instance.all_logs(run_id))


@pytest.mark.parametrize("execution", ["shared", pytest.param("per_step", marks=pytest.mark.storm)])
def test_a_lost_lock_stops_the_run_before_its_next_batch(
    project: Project,
    instance: dg.DagsterInstance,
    server: Server,
    database: str,
    execution: str,
) -> None:
    """Promise: the run fails at once and says why in its event log; the next one builds the rest, once each."""
    _on_postgres(project, server.port, database, execution=execution)
    project.model(
        "slow", "SELECT @start_ds::DATE AS day, pg_sleep(1)::TEXT AS waited", _SLOW_BATCHES
    )

    def end_connection_of_lock() -> bool:
        return bool(
            server.query(
                database,
                "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'"
                " AND EXISTS (SELECT 1 FROM pg_stat_activity WHERE query ILIKE '%pg_sleep(1)%'"
                " AND state = 'active' AND pid <> pg_backend_pid()) LIMIT 1",
            )
        )

    thread = _later(end_connection_of_lock)
    run = run_in_process(project.definitions(), instance)
    thread.join()
    ((_, error),) = run.failed.items()
    assert "held the lock on SQLMesh's state was lost" in error
    assert "held the lock on SQLMesh's state was lost" in _said(instance, run.run_id)
    ((built,),) = server.query(database, "SELECT count(*) FROM demo__dev.slow")
    assert built < 5
    again = run_in_process(project.definitions(), instance)
    assert again.success, again.failed
    rows = server.query(database, "SELECT count(*), count(DISTINCT day) FROM demo__dev.slow")
    assert rows == [(9, 9)]


def test_time_outs_of_the_server_cost_neither_the_lock_nor_a_row(
    project: Project, instance: dg.DagsterInstance, server: Server, database: str
) -> None:
    """Promise: a statement that takes too long is its model's failure alone; idle connections come back."""
    for name in ("idle_session_timeout", "idle_in_transaction_session_timeout"):
        server.query(database, f"ALTER DATABASE {database} SET {name} = '1s'")
    server.query(database, f"ALTER DATABASE {database} SET statement_timeout = '6s'")
    _on_postgres(project, server.port, database)
    project.model("slow", "SELECT 1::INT AS id, pg_sleep(4)::TEXT AS waited")
    project.model(
        "kept", "SELECT @start_ds::DATE AS day, id FROM demo.slow", "kind INCREMENTAL_UNMANAGED"
    )
    project.model("endless", "SELECT pg_sleep(60)::TEXT AS waited")
    run = run_in_process(project.definitions(), instance)
    assert sorted(run.materialized) == ["kept", "slow"], run.failed
    ((step, error),) = run.failed.items()
    assert step.endswith("endless") and "statement timeout" in error and "lock" not in error
    assert "was lost" not in _said(instance, run.run_id)
    before = server.query(database, "SELECT count(*) FROM demo__dev.kept")
    again = run_in_process(project.definitions(), instance)
    assert again.materialized == [] and list(again.failed) == [step]
    assert server.query(database, "SELECT count(*) FROM demo__dev.kept") == before


@pytest.mark.skipif(not shutil.which("pgbouncer"), reason="PgBouncer is not installed")
@pytest.mark.parametrize(("mode", "is_refused"), [("transaction", True), ("session", False)])
def test_a_pooler_in_transaction_mode_is_refused_with_the_remedy(
    project: Project,
    instance: dg.DagsterInstance,
    server: Server,
    database: str,
    tmp_path: Path,
    mode: str,
    is_refused: bool,
) -> None:
    """Promise: nothing is built without a lock that holds; a pool in session mode holds it."""
    with pgbouncer(server, mode) as port:
        _on_postgres(project, port, database)
        project.model("one", "SELECT 1::INT AS id")
        run = run_in_process(project.definitions(), instance)
    assert run.success is not is_refused, run.failed
    if is_refused:
        ((_, error),) = run.failed.items()
        assert "connection pooler in transaction mode" in error
        assert "`state_connection`" in error
        assert server.query(database, "SELECT 1 FROM pg_tables WHERE schemaname = 'sqlmesh'") == []


@contextmanager
def pgbouncer(server: Server, mode: str) -> Iterator[int]:
    """A pool in front of the server; its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = Path("/tmp") / f"pgbouncer-{port}"
    folder.mkdir()
    (folder / "users").write_text('"postgres" ""\n')
    (folder / "pgbouncer.ini").write_text(
        f"[databases]\n* = host=127.0.0.1 port={server.port}\n[pgbouncer]\n"
        f"listen_addr = 127.0.0.1\nlisten_port = {port}\nauth_type = trust\nunix_socket_dir =\n"
        f"auth_file = {folder}/users\npool_mode = {mode}\n"
    )
    user = ["-u", "nobody"] if os.getuid() == 0 else []
    with subprocess.Popen(["pgbouncer", "-q", *user, str(folder / "pgbouncer.ini")]) as process:
        try:
            for _ in range(100):
                with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                time.sleep(0.1)
            yield port
        finally:
            process.terminate()
            shutil.rmtree(folder)


@pytest.mark.storm
def test_shared_steps_of_several_hosts_go_on_by_themselves(
    project: Project, server: Server, database: str, tmp_path: Path
) -> None:
    """Promise: that another step of the run holds the lock is noticed, and no asset or check is lost."""
    _on_postgres(project, server.port, database)
    unique = "kind FULL, audits (unique_values(columns := (id), blocking := false))"
    project.model("slow", "SELECT 1::INT AS id, pg_sleep(4)::TEXT AS waited", unique)
    project.model("beside", "SELECT 2::INT AS id, pg_sleep(4)::TEXT AS waited", unique)
    project.model("below", "SELECT id FROM demo.slow UNION ALL SELECT id FROM demo.slow", unique)
    home = tmp_path / "home"
    start(project, home, body=_HOST, executor=multiprocess(2)).wait(timeout=300)
    run = last_run(home)
    assert run.success, run.failed
    assert sorted(run.materialized) == ["below", "beside", "slow"]
    names = {"slow": True, "beside": True, "below": False}
    assert run.passed == {f"{name}:unique_values_id": value for name, value in names.items()}
    with dg.DagsterInstance.from_config(str(home)) as instance:
        assert "Set `execution` to `per_step`" in _said(instance, run.run_id)


@pytest.fixture(scope="module")
def maria() -> Iterator[MariaDB]:
    """One MariaDB for all tests."""
    pytest.importorskip("pymysql")
    if not is_installed():
        pytest.skip("MariaDB is not installed")
    with mariadb() as running:
        yield running


def _on_mariadb(project: Project, maria: MariaDB, **more: Any) -> None:
    place = {"type": "mysql", "host": "127.0.0.1", "port": maria.port, "user": "sqlmesh"}
    place |= {"password": ""}
    project.write("config.yaml", _CONFIG.format(data=place, state=place, dialect="mysql"))
    project.settings = {"environment": "dev", **more}
    maria.query("DROP SCHEMA IF EXISTS sqlmesh")


@pytest.mark.parametrize("execution", ["shared", "per_step"])
def test_runs_of_two_hosts_are_kept_apart_by_mariadb(
    project: Project, maria: MariaDB, tmp_path: Path, execution: str
) -> None:
    """Promise: a state on MySQL or MariaDB has a lock that every host sees; no row is doubled."""
    _on_mariadb(project, maria, execution=execution)
    project.model(
        f"appended_{execution}",
        "SELECT @start_ds AS day, SLEEP(3) AS waited",
        "kind INCREMENTAL_UNMANAGED, start '2025-01-09'",
    )
    table = f"demo__dev.appended_{execution}"
    start(project, tmp_path / "before", body=_HOST).wait(timeout=120)
    assert last_run(tmp_path / "before").success, last_run(tmp_path / "before").failed
    before = maria.query(f"SELECT count(*) FROM {table}")[0][0]
    homes = [tmp_path / "one", tmp_path / "two"]
    later = {"execution_time": "2025-01-12T00:30:00"}
    for process in [start(project, home, body=_HOST, options=later) for home in homes]:
        process.wait(timeout=120)
    runs = [last_run(home) for home in homes]
    assert [run.success for run in runs] == [True, True], [run.failed for run in runs]
    assert sorted(len(run.materialized) for run in runs) == [0, 1]
    assert maria.query(f"SELECT count(*) FROM {table}")[0][0] == before + 1
    waited = "\n".join((home / "run.log").read_text() for home in homes)
    assert "Waiting for a connection of sqlmesh@" in waited


def test_a_lock_that_mariadb_lost_stops_the_run(
    project: Project, instance: dg.DagsterInstance, maria: MariaDB
) -> None:
    """Promise: as on Postgres."""
    _on_mariadb(project, maria)
    project.model(
        "lost", "SELECT CAST(@start_ds AS DATE) AS day, SLEEP(1) AS waited", _SLOW_BATCHES
    )

    locks = lock_sql("mysql")
    assert locks is not None
    (name,) = re.findall(r"'\w+'", locks.is_held("sqlmesh_dagster\0sqlmesh"))

    def kill_connection_of_lock() -> bool:
        running = "FROM information_schema.processlist WHERE info LIKE '%SLEEP(1)%'"
        if not maria.query(f"SELECT 1 {running} AND id <> CONNECTION_ID()"):
            return False
        ((connection,),) = maria.query(f"SELECT IS_USED_LOCK({name})")
        maria.query(f"KILL {connection}")
        return True

    thread = _later(kill_connection_of_lock)
    run = run_in_process(project.definitions(), instance)
    thread.join()
    ((_, error),) = run.failed.items()
    assert "held the lock on SQLMesh's state was lost" in error


def test_a_run_that_is_stopped_kills_its_query_on_mariadb(
    project: Project, maria: MariaDB, tmp_path: Path
) -> None:
    """Promise: the server ends the query, soon; nothing is recorded as done."""
    _on_mariadb(project, maria)
    project.model(
        "slow", "SELECT CAST('2025-01-01' AS DATE) AS day, SLEEP(300) AS waited", "kind FULL"
    )
    running = "SELECT count(*) FROM information_schema.processlist WHERE info LIKE '%SLEEP(300)%'"
    home = tmp_path / "home"
    run = start(project, home)

    def has_begun() -> bool:
        return maria.query(f"{running} AND id <> CONNECTION_ID()") != [(0,)]

    deadline = time.monotonic() + 120
    while not has_begun():
        assert time.monotonic() < deadline and run.poll() is None, (home / "run.log").read_text()
        time.sleep(0.1)
    run.send_signal(signal.SIGINT)
    try:
        run.wait(60)
    finally:
        run.kill()
    assert not has_begun() and not last_run(home).materialized
