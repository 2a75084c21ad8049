"""A generated platform with models made for accidents, and processes that work on it at once."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any

import dagster as dg
import duckdb

from tests.conftest import PYTHON, ROOT
from tests.instance import instance_of
from tests.robustness.projects import processes_of

LIMIT = 90.0
"""Seconds after which a wait has failed: generous, as it only decides that something hangs."""

_MODELS = {
    "daily.sql": """
        MODEL (
          name demo.daily,
          kind INCREMENTAL_BY_TIME_RANGE (time_column day, batch_size 1),
          description 'Replaced day by day.', owner team, audits (not_null(columns := (day)))
        );

        SELECT @start_ds::DATE AS day, i::INT AS id, (i * 2)::INT AS amount
        FROM range(20) AS numbers(i);
    """,
    "appended.sql": """
        MODEL (
          name demo.appended,
          kind INCREMENTAL_UNMANAGED,
          description 'Only ever appended to.', owner team, audits (held)
        );

        SELECT day::DATE AS day, id::INT AS id
        FROM demo.daily WHERE day BETWEEN @start_ds AND @end_ds;
    """,
    "keyed.sql": """
        MODEL (
          name demo.keyed,
          kind INCREMENTAL_BY_UNIQUE_KEY (unique_key id),
          description 'The last of each id.', owner team, audits (not_null(columns := (id)))
        );

        @hold(gap);

        SELECT id::INT AS id, max(day)::DATE AS day, sum(amount)::INT AS amount
        FROM demo.daily GROUP BY id;
    """,
    "history.sql": """
        MODEL (
          name demo.history,
          kind SCD_TYPE_2_BY_COLUMN (unique_key id, columns [day]),
          description 'What each id was.', owner team, audits (not_null(columns := (id)))
        );

        SELECT id::INT AS id, day::DATE AS day FROM demo.keyed;
    """,
    "totals.py": """
        import os
        import time
        import typing as t
        from pathlib import Path

        import pandas as pd
        from sqlmesh import ExecutionContext, model


        @model(
            "demo.totals",
            kind="FULL",
            columns={"rows": "bigint"},
            depends_on=["demo.appended", "demo.history"],
            description="How many rows there are.",
            owner="team",
            audits=[("not_null", {"columns": ["rows"]})],
        )
        def execute(context: ExecutionContext, **kwargs: t.Any) -> pd.DataFrame:
            holds = Path(os.environ["HOLDS"])
            while (holds / "model").exists():
                (holds / "reached").touch()
                time.sleep(0.01)
            return context.fetchdf(
                f"SELECT count(*) AS rows FROM {context.resolve_table('demo.appended')}"
            )
    """,
    "unrelated.sql": """
        MODEL (
          name demo.unrelated, kind FULL,
          description 'Needs no other model.', owner team, audits (not_null(columns := (id)))
        );

        SELECT 1::INT AS id;

        ON_VIRTUAL_UPDATE_BEGIN;
        @hold(promotion);
        ON_VIRTUAL_UPDATE_END;
    """,
}
_AUDIT = """
AUDIT (name held);
SELECT day FROM @this_model WHERE day IS NULL AND @hold(audit);
"""
_HOLD = '''
"""Stops SQLMesh where a test wants it."""

import os
import time
from pathlib import Path

from sqlglot import exp
from sqlmesh import macro


@macro()
def hold(evaluator, name):
    """Waits while the file of this name exists, when SQLMesh works; then TRUE."""
    holds = Path(os.environ["HOLDS"])
    stages = ("evaluating", "auditing", "promoting")
    while evaluator.runtime_stage in stages and (holds / name.name).exists():
        (holds / "reached").touch()
        time.sleep(0.01)
    return exp.true() if evaluator.runtime_stage == "auditing" else None
'''


_NO_COMPUTE_LOGS = """\
compute_logs:
  module: dagster._core.storage.noop_compute_log_manager
  class: NoOpComputeLogManager
"""
"""Nobody reads them here, and each step would start four processes that outlive it by a second."""


def wait_until(condition: Callable[[], bool], what: str, seconds: float = LIMIT) -> None:
    """Returns once `condition` holds; fails with `what` was waited for."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        time.sleep(0.002)


@dataclass(frozen=True)
class Platform:
    """A generated project whose models are those above, on a warehouse and an instance of its own."""

    root: Path
    package: str

    @classmethod
    def of(cls, render: Path, root: Path, *models: str) -> Platform:
        """A copy of a rendered project, without its ingestion and with these models, or all.

        `WAIT_TIMEOUT` in the environment sets the factory's `wait_timeout`.
        """
        shutil.copytree(render, root)
        (definitions,) = root.glob("src/*/definitions.py")
        (definitions.parent / "defs/ingest.py").unlink()
        transform = definitions.parent / "defs/transform.py"
        wait = 'wait_timeout=float(os.getenv("WAIT_TIMEOUT", "600")), enable_schedule='
        transform.write_text(transform.read_text().replace("enable_schedule=", wait))
        sqlmesh = root / "sqlmesh_project"
        for folder in ("models", "audits", "external_models", "seeds", "tests", "macros"):
            shutil.rmtree(sqlmesh / folder, ignore_errors=True)
        for folder in ("models", "audits", "macros"):
            (sqlmesh / folder).mkdir()
        for name in models or _MODELS:
            text = _MODELS[name]
            (sqlmesh / "models" / name).write_text(dedent(text).lstrip())
        config = sqlmesh / "config.py"
        config.write_text(config.read_text().replace("enabled=True", "enabled=False"))  # the linter
        (sqlmesh / "audits/held.sql").write_text(_AUDIT)
        (sqlmesh / "macros/__init__.py").touch()
        (sqlmesh / "macros/hold.py").write_text(_HOLD)
        for folder in ("holds", "tmp", "home"):
            (root / folder).mkdir()
        settings = (root / "dagster_home/dagster.yaml").read_text()
        (root / "home/dagster.yaml").write_text(settings + _NO_COMPUTE_LOGS)
        return cls(root, definitions.parent.name)

    @property
    def warehouse(self) -> Path:
        """The DuckDB file, data and state."""
        return self.root / "warehouse.duckdb"

    @property
    def environment(self) -> dict[str, str]:
        """Of every process that works on it."""
        return {
            **os.environ,
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PYTHONPATH": os.pathsep.join([str(self.root / "src"), str(ROOT)]),
            "PLATFORM": self.package,
            "DAGSTER_HOME": str(self.root / "home"),
            "HOLDS": str(self.root / "holds"),
            "TMPDIR": str(self.root / "tmp"),
            "MAX_FORK_WORKERS": "1",
        }

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Rows of the warehouse; fails while anything holds it."""
        with contextlib.closing(duckdb.connect()) as connection:
            connection.execute(f"ATTACH '{self.warehouse}' AS warehouse")
            connection.execute("USE warehouse")
            return connection.execute(sql).fetchall()

    def rows(self) -> dict[str, list[tuple[Any, ...]]]:
        """Every row of every model."""
        views = self.query(
            "SELECT table_name FROM duckdb_tables() RIGHT JOIN"
            " (SELECT view_name AS table_name FROM duckdb_views() WHERE schema_name = 'demo__dev')"
            " USING (table_name)"
        )
        return {
            name: sorted(self.query(f"SELECT * FROM demo__dev.{name}"), key=str)
            for (name,) in sorted(views)
        }

    def intervals(self) -> dict[str, list[tuple[int, int]]]:
        """What SQLMesh has recorded as done, by name and version, merged; nothing of it twice."""
        merged: dict[str, list[tuple[int, int]]] = {}
        for name, start, end in self.query(
            "SELECT name || version, start_ts, end_ts FROM sqlmesh._intervals WHERE NOT is_removed ORDER BY ALL"
        ):
            done = merged.setdefault(name, [])
            if done and start < done[-1][1]:
                raise AssertionError(f"{name} was done twice: {done[-1]} and {(start, end)}")
            if done and start == done[-1][1]:
                done[-1] = (done[-1][0], end)
            else:
                done.append((start, end))
        return merged

    def leader(self) -> int | None:
        """The process that leads a sqlmesh run now or did last; None where none did."""
        for holder in self._holders():
            with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
                return int(json.loads(holder.read_text())["pid"])
        return None

    def _holders(self) -> list[Path]:
        """Records of who took the project's lock."""
        return [
            path
            for path in self.root.rglob(".cache/dagster/locks/*.json")
            if not path.stem.endswith("-sync")
        ]

    def forget_runs(self) -> None:
        """So that the next `leader` and the next `outcomes` are those of another run."""
        for holder in self._holders():
            holder.unlink()
        shutil.rmtree(self.root / "home/storage/sqlmesh", ignore_errors=True)

    def outcomes(self) -> int:
        """How many outcomes stand in the record of the Dagster run."""
        records = (self.root / "home").glob("storage/sqlmesh/*/*.jsonl")
        return sum(path.read_bytes().count(b"\n") for path in records)

    @contextlib.contextmanager
    def instance(self) -> Iterator[dg.DagsterInstance]:
        """Its Dagster instance."""
        with instance_of(self.root / "home") as instance:
            yield instance

    def run(self, tag: str) -> tuple[dg.DagsterRun, list[str]]:
        """The run with this tag, and all that its log says."""
        with self.instance() as instance:
            (run,) = instance.get_runs(dg.RunsFilter(tags={"trial": tag}))
            said = []
            for entry in instance.all_logs(run.run_id):
                event = entry.dagster_event
                said.append(entry.user_message or "")
                if event is not None:
                    said.append(f"{event.event_type_value} {event.step_key} {event.message}")
                    error = getattr(event.event_specific_data, "error", None)
                    while error is not None:
                        said.append(error.message)
                        error = error.cause
            return run, said


class Worker:
    """A process of `worker.py`, warm, in a process group of its own.

    Args:
        platform: What it works on.
        name: Of its log.
    """

    def __init__(self, platform: Platform, name: str, **environment: str) -> None:
        self._root = platform.root
        self.log = platform.root / f"{name}.log"
        with self.log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.robustness.worker"],
                cwd=platform.root,
                env={**platform.environment, **environment},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                bufsize=1,
                start_new_session=True,
            )

    def ask(self, do: str, **request: Any) -> None:
        """Sends a request; `answer` is its answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **request}) + "\n")
        self._process.stdin.flush()

    def answer(self, seconds: float = LIMIT) -> Any:
        """Waits for the answer to the oldest request."""
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], seconds)
        line = self._process.stdout.readline() if ready else ""
        assert line, f"no answer, or not within {seconds:g} s\n{self.log.read_text()[-3000:]}"
        return json.loads(line)

    def tell(self, do: str, seconds: float = LIMIT, **request: Any) -> Any:
        """Sends a request and waits for its answer."""
        self.ask(do, **request)
        return self.answer(seconds)

    def wait_for(self, child: int) -> None:
        """Returns when a forked child and all of its process group have ended."""
        wait_until(lambda: self.tell("reap", child=child), f"the end of {child}")
        wait_until(lambda: not living(child), f"the end of the group of {child}")

    @property
    def processes(self) -> set[int]:
        """All that work in the platform's folder."""
        return set(processes_of(self._root))

    def stop(self) -> None:
        """Ends it and all that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()


@contextlib.contextmanager
def workers(platform: Platform, *names: str, **environment: str) -> Iterator[list[Worker]]:
    """Warm workers, started together."""
    started = [Worker(platform, name, **environment) for name in names]
    try:
        for worker in started:
            assert worker.answer() == "ready"
        yield started
    finally:
        for worker in started:
            worker.stop()


def living(group: int) -> set[int]:
    """The processes of a process group that have not ended."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            state, _, member_of = entry.read_text().rpartition(")")[2].split()[:3]
            if int(member_of) == group and state != "Z":
                found.add(int(entry.parent.name))
    return found


def sqlmesh_cli(
    platform: Platform, *arguments: str, environment: dict[str, str] | None = None
) -> subprocess.Popen[str]:
    """Starts SQLMesh's own command in the project; what it returns is the process that works."""
    return subprocess.Popen(
        [PYTHON.with_name("sqlmesh"), *arguments],
        cwd=platform.root / "sqlmesh_project",
        env=environment or platform.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
