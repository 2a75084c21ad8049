"""A generated project on a real Postgres, by answers and environment alone, and what may happen to it there.

By hand: `pytest tests/robustness/test_postgres.py -m storm`.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from tests.answers import EXAMPLE
from tests.conftest import Render
from tests.postgres import Server, postgres
from tests.robustness.rivals import Platform, sqlmesh_cli, wait_until
from tests.robustness.test_state_locks import pgbouncer

pytestmark = pytest.mark.storm
_SECONDS = 240
"""How long something may take before it counts as hanging."""
_MODELS = {
    "daily.sql": """
        MODEL (
          name demo.daily, dialect postgres, start '@SINCE',
          kind INCREMENTAL_BY_TIME_RANGE (time_column day, batch_size 1, batch_concurrency 1),
          description 'A second a day.', owner team
        );

        SELECT @start_ds::DATE AS day, i::INT AS id, pg_sleep(0.05)::TEXT AS waited
        FROM generate_series(1, 20) AS t(i);
    """,
    "appended.sql": """
        MODEL (
          name demo.appended, dialect postgres, start '@SINCE', kind INCREMENTAL_UNMANAGED,
          audits (slowly), description 'Only ever appended to.', owner team
        );

        SELECT @start_ds::DATE AS day, 1::INT AS id;
    """,
    "total.sql": """
        MODEL (
          name demo.total, dialect postgres, kind FULL, description 'Both.', owner team
        );

        SELECT count(*)::INT AS rows FROM demo.daily CROSS JOIN (SELECT DISTINCT id FROM demo.appended) AS a;
    """,
}
_AUDIT = """
AUDIT (name slowly, dialect postgres);
SELECT 1 AS found FROM (SELECT pg_sleep(3)::TEXT AS waited) AS t WHERE waited = 'never';
"""
_DAILY, _AUDITED = "%pg_sleep(0.05%", "%never%"
_VIEWS = ("daily", "appended", "total")


@dataclass
class OnPostgres:
    """The project on a database of its own."""

    platform: Platform
    server: Server
    database: str
    more: Mapping[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """Of each process: the answers are in the files, and this is the rest."""
        place = {"HOST": "127.0.0.1", "PORT": str(self.server.port), "USER": "postgres"}
        place |= {"PASSWORD": "correct-horse-battery", "DATABASE": self.database}
        chosen = {f"WAREHOUSE_{name}": value for name, value in place.items()}
        home = str(self.platform.root / "homes" / self.database)
        return {
            **self.platform.environment,
            **chosen,
            "SQLMESH_GATEWAY": "postgres",
            "DAGSTER_HOME": home,
            **self.more,
        }

    def start(self, *command: str) -> subprocess.Popen[str]:
        """A command of the project, in a process group of its own."""
        executable = shutil.which(command[0], path=self.environment["PATH"])
        assert executable
        return subprocess.Popen(
            [executable, *command[1:]],
            cwd=self.platform.root,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *command: str) -> str:
        """What a command says; it succeeds."""
        status, said = ended(self.start(*command))
        assert status == 0, said
        return said

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Rows of the warehouse."""
        return self.server.query(self.database, sql)

    def works_on(self, pattern: str) -> bool:
        """Whether the server executes a statement of this kind for the project."""
        return bool(
            self.query(
                f"SELECT 1 FROM pg_stat_activity WHERE query ILIKE '{pattern}' AND state = 'active'"
                " AND pid <> pg_backend_pid() AND datname = current_database()"
            )
        )

    def wait_for(self, pattern: str, run: subprocess.Popen[str]) -> None:
        """Returns in the middle of a statement of this kind."""
        wait_until(lambda: self.works_on(pattern) or run.poll() is not None, pattern, _SECONDS)
        assert run.poll() is None, ended(run)

    def rows(self) -> dict[str, list[tuple[Any, ...]]]:
        """Every row of each model."""
        return {
            name: sorted(self.query(f"SELECT * FROM demo__dev.{name}"), key=str) for name in _VIEWS
        }

    def intervals(self) -> list[tuple[Any, ...]]:
        """What is done, an entry for each interval that was recorded."""
        return self.query(
            "SELECT split_part(name, '.', 3), start_ts, end_ts FROM sqlmesh._intervals WHERE NOT is_removed"
            " AND name NOT LIKE '%total%' ORDER BY 1, 2, 3"
        )


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Its exit status and what it said; nothing of it is left."""
    try:
        said, _ = process.communicate(timeout=_SECONDS)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, said


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """One server for all tests."""
    with postgres() as running:
        yield running


@pytest.fixture(scope="module")
def platform(render: Render, tmp_path_factory: pytest.TempPathFactory) -> Platform:
    """A project whose answers are those of the example: its warehouse is `postgres`."""
    assert EXAMPLE["warehouse"] == "postgres"
    made = Platform.of(
        render(**EXAMPLE), tmp_path_factory.mktemp("postgres") / "project", "daily.sql"
    )
    sqlmesh = made.root / "sqlmesh_project"
    since = time.strftime("%Y-%m-%d", time.gmtime(time.time() - 5 * 86_400))
    for name, text in _MODELS.items():
        (sqlmesh / "models" / name).write_text(dedent(text).lstrip().replace("@SINCE", since))
    (sqlmesh / "audits/held.sql").unlink()
    (sqlmesh / "audits/slowly.sql").write_text(_AUDIT.lstrip())
    shutil.rmtree(sqlmesh / "macros")
    return made


@pytest.fixture
def on(platform: Platform, server: Server, tmp_path: Path) -> OnPostgres:
    """The project on an empty database, with a history of its own."""
    return made(platform, server, re.sub(r"\W", "_", tmp_path.name).lower()[-60:])


def made(platform: Platform, server: Server, name: str, **more: str) -> OnPostgres:
    """The project on an empty database."""
    server.create_database(name)
    home = platform.root / "homes" / name
    shutil.copytree(platform.root / "home", home)
    return OnPostgres(platform, server, name, more)


@pytest.fixture(scope="module")
def calm(platform: Platform, server: Server) -> OnPostgres:
    """What nobody has disturbed."""
    undisturbed = made(platform, server, "calm")
    undisturbed.run("poe", "run")
    assert len(undisturbed.rows()["daily"]) == 100
    return undisturbed


def assert_as(calm: OnPostgres, on: OnPostgres) -> None:
    """Rows and intervals are those of an undisturbed project."""
    for name, rows in calm.rows().items():
        assert on.rows()[name] == rows, name
    assert on.intervals() == calm.intervals()


def test_a_run_that_is_canceled_stops_its_query_on_the_server(
    on: OnPostgres, calm: OnPostgres
) -> None:
    """Promise: Ctrl-C ends the query, not only the wait for it; the next run builds the rest."""
    run = on.start("poe", "run")
    on.wait_for(_DAILY, run)
    os.killpg(run.pid, signal.SIGINT)
    status, said = ended(run)
    assert status != 0, said
    assert not on.works_on("%pg_sleep%")
    assert on.query("SELECT 1 FROM pg_locks WHERE locktype = 'advisory'") == []
    on.run("poe", "run")
    assert_as(calm, on)


def test_two_runs_at_once_build_each_interval_once(on: OnPostgres, calm: OnPostgres) -> None:
    """Promise: the second waits for the first, and finds nothing to do."""
    both = [on.start("poe", "run") for _ in range(2)]
    for status, said in [ended(run) for run in both]:
        assert status == 0, said
    assert_as(calm, on)


def test_two_runs_of_two_hosts_build_each_interval_once(
    on: OnPostgres, calm: OnPostgres, platform: Platform, tmp_path: Path
) -> None:
    """Promise: two that share no folder meet in the state's lock."""
    there = Platform(Path(shutil.copytree(platform.root, tmp_path / "there")), platform.package)
    other = OnPostgres(there, on.server, on.database)
    both = [host.start("poe", "run") for host in (on, other)]
    for status, said in [ended(run) for run in both]:
        assert status == 0, said
    assert_as(calm, on)


@pytest.mark.parametrize("middle", [_DAILY, _AUDITED], ids=["a query", "rows and their record"])
def test_what_was_killed_is_completed_by_the_next_run(
    on: OnPostgres, calm: OnPostgres, middle: str
) -> None:
    """Promise: `kill -9` of the process that leads, also between rows that are appended and their record."""
    run = on.start("poe", "run")
    on.wait_for(middle, run)
    leader = on.platform.leader()
    assert leader
    os.kill(leader, signal.SIGKILL)
    ended(run)
    said = on.run("poe", "run")
    assert "failed" not in said, said
    assert_as(calm, on)


def test_a_restart_of_the_server_is_told_and_the_next_run_completes(
    on: OnPostgres, calm: OnPostgres
) -> None:
    """Promise: one message that the server has ended the connection; no row is lost or there twice."""
    run = on.start("poe", "run")
    on.wait_for(_DAILY, run)
    on.server.restart()
    status, said = ended(run)
    assert status != 0
    assert "lock on SQLMesh's state was lost" in said or "has ended the" in said, said
    on.run("poe", "run")
    assert_as(calm, on)


def test_a_lock_that_is_lost_ends_the_run(on: OnPostgres, calm: OnPostgres) -> None:
    """Promise: `pg_terminate_backend` of the lock's connection is told at once."""
    run = on.start("poe", "run")
    on.wait_for(_DAILY, run)
    on.query("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'")
    status, said = ended(run)
    assert status != 0 and "lock on SQLMesh's state was lost" in said, said
    on.run("poe", "run")
    assert_as(calm, on)


def test_sqlmeshs_own_command_at_the_same_time_is_told_with_the_models(
    on: OnPostgres, calm: OnPostgres
) -> None:
    """Promise: it takes no lock; what both have built is named, and the command that is named replaces it."""
    on.run("poe", "sqlmesh", "plan", "dev", "--auto-apply", "--no-prompts", "--skip-backfill")
    run = on.start("poe", "run")
    wait_until(lambda: bool(on.query("SELECT 1 FROM pg_locks WHERE locktype = 'advisory'")), "lock")
    rival = sqlmesh_cli(
        Platform(on.platform.root, on.platform.package), "run", "dev", environment=on.environment
    )
    status, said = ended(run)
    _, theirs = ended(rival)
    rows, days = on.query("SELECT count(*), count(DISTINCT (day, id)) FROM demo__dev.daily")[0]
    print(status, rows, days, said, theirs)
    again = on.run("poe", "run")
    told = re.search(r"Two processes have built the same days[^\n]*", said + again)
    if rows > days:
        assert told and "demo.daily" in told[0], said + again
        on.run("poe", "rebuild", "demo.daily", "--no-downstream")
        assert on.rows()["daily"] == calm.rows()["daily"]


@pytest.mark.skipif(not shutil.which("pgbouncer"), reason="PgBouncer is not installed")
@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_the_doctor_knows_a_pooler(platform: Platform, server: Server, mode: str) -> None:
    """Promise: in transaction mode it is refused, with the variables that help; in session mode all is well."""
    with pgbouncer(server, mode) as port:
        behind = made(platform, server, f"behind_{mode}", WAREHOUSE_PORT=str(port))
        status, said = ended(behind.start("poe", "doctor"))
        print(said)
        if mode == "session":
            assert status == 0 and "ok   lock" in said, said
            assert "3 built" in behind.run("poe", "run")
            return
        assert status == 1, said
        (line,) = [line for line in said.splitlines() if line.startswith("FAIL")]
        assert "pooler in transaction mode" in line and "`STATE_PORT`" in line, said
        status, said = ended(behind.start("poe", "run"))
        assert status != 0 and "pooler in transaction mode" in said, said
        assert behind.query("SELECT 1 FROM pg_tables WHERE schemaname = 'sqlmesh'") == []
    direct = {**behind.more, "WAREHOUSE_PORT": str(server.port)}
    assert (
        ended(OnPostgres(platform, server, behind.database, direct).start("poe", "doctor"))[0] == 0
    )
