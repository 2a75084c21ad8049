"""Generated projects with tiny SQLMesh projects of the tests' own, run as their owners run them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
from tests.sqlmesh_dagster.projects import Run, run_config

from tests.answers import EXAMPLE
from tests.conftest import Render
from tests.instance import instance_of

PACKAGE = EXAMPLE["package_name"]
IN_PROCESS = "dg.in_process_executor"
_HIDDEN = (
    "PYTHONPATH",
    "VIRTUAL_ENV",
    "DAGSTER_HOME",
    "WAREHOUSE_PATH",
    "SQLMESH_ENVIRONMENT",
    "PYTEST_CURRENT_TEST",
)
_CONFIG = """
gateways:
  duckdb:
    connection:
      type: duckdb
      catalogs:
        warehouse: {database}
      concurrent_tasks: 4
default_gateway: duckdb
model_defaults:
  dialect: duckdb
  start: 2025-01-01
  cron: '@daily'
disable_anonymized_analytics: true
before_all:
  - CREATE TABLE IF NOT EXISTS main.run_log (began_at TIMESTAMP)
  - INSERT INTO main.run_log VALUES (now())
"""


def multiprocess(max_concurrent: int, start_method: str = "spawn", preload: str = "") -> str:
    """Python of the executor that starts a process for each step.

    Args:
        preload: Modules for a forkserver to import once, separated by commas; Dagster's own choice
            if empty.
    """
    modules = [module for module in preload.split(",") if module]
    method = {start_method: {"preload_modules": modules} if modules else {}}
    config = {"max_concurrent": max_concurrent, "start_method": method}
    return f"dg.multiprocess_executor.configured({config!r})"


@dataclass(frozen=True)
class Generated:
    """A generated project whose models, assets and executor are the test's.

    Attributes:
        root: The project's folder.
        environment: What its commands run in: this environment's tools, the project's sources.
    """

    root: Path
    environment: Mapping[str, str]

    @classmethod
    def tiny(
        cls, render: Render, root: Path, before_all: Sequence[str] = (), **environment: str
    ) -> Generated:
        """A copy of the example project without its models, raw files and ingest asset.

        Args:
            before_all: Statements that SQLMesh runs before each run and plan.
        """
        shutil.copytree(render(**EXAMPLE), root)
        shutil.rmtree(root / "sqlmesh_project")
        shutil.rmtree(root / "data")
        project = cls(root, _with_tools(root, environment))
        project.write("sqlmesh_project/config.yaml", _CONFIG.format(database=project.database))
        with (root / "sqlmesh_project/config.yaml").open("a") as config:
            config.writelines(f"  - {statement}\n" for statement in before_all)
        (root / f"src/{PACKAGE}/defs/ingest.py").unlink()
        # no tick of its own while a test looks at its runs
        project.replace(f"src/{PACKAGE}/defs/transform.py", "=True", "=False")
        return project

    @property
    def database(self) -> Path:
        """The DuckDB file of data and state."""
        return self.root / "warehouse.duckdb"

    @property
    def home(self) -> Path:
        """`DAGSTER_HOME`."""
        return self.root / "dagster_home"

    @property
    def log(self) -> Path:
        """What the last started command printed."""
        return self.root / "run.log"

    # ------------------------------------------------------------ what the owner writes

    def write(self, path: str, text: str) -> None:
        """Writes a file of the project."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text))

    def replace(self, path: str, old: str, new: str) -> None:
        """Changes a file that was rendered; fails when it does not hold `old`."""
        text = (self.root / path).read_text()
        assert old in text, f"{path} holds no `{old}`"
        (self.root / path).write_text(text.replace(old, new))

    def model(self, name: str, query: str, properties: str = "kind FULL") -> None:
        """Writes the SQL model `demo.<name>`."""
        text = f"MODEL (name demo.{name}, {properties});\n{query};\n"
        self.write(f"sqlmesh_project/models/{name}.sql", text)

    def python_model(self, name: str, body: str, depends_on: Sequence[str] = ()) -> None:
        """Writes the Python model `demo.<name>` of one row, whose `n` the body returns.

        Args:
            body: Lines of a function that has SQLMesh's `context`.
        """
        head = f"""
        import os
        import time
        import typing as t
        from pathlib import Path

        import pandas as pd
        from sqlmesh import ExecutionContext, model


        @model("demo.{name}", columns={{"n": "bigint"}}, kind="FULL", depends_on={[*depends_on]!r})
        def execute(context: ExecutionContext, **kwargs: t.Any) -> pd.DataFrame:
            return pd.DataFrame({{"n": [number(context)]}})


        def number(context: ExecutionContext) -> int:
        """
        function = textwrap.indent(textwrap.dedent(body).strip("\n"), "    ")
        path = f"sqlmesh_project/models/{name}.py"
        self.write(path, f"{textwrap.dedent(head).strip()}\n{function}\n")

    def assets(self, code: str) -> None:
        """Writes assets next to the models: a module of `defs/`."""
        head = "import dagster as dg\nfrom sqlmesh_dagster import SQLMeshResource\n\n"
        self.write(f"src/{PACKAGE}/defs/own.py", head + textwrap.dedent(code))

    def use_executor(self, executor: str) -> None:
        """Changes the executor of a project that has still the template's."""
        self.replace(f"src/{PACKAGE}/definitions.py", IN_PROCESS, executor)

    # ------------------------------------------------------------ what the owner runs

    def start(
        self, select: str = "*", options: Mapping[str, Any] | None = None
    ) -> subprocess.Popen[str]:
        """Starts the command that materializes assets, in a process group of its own.

        Args:
            select: An asset selection.
            options: Launchpad config of the run, see `SQLMeshRunOptions`.
        """
        command = ["dagster", "asset", "materialize", "-m", f"{PACKAGE}.definitions"]
        command += ["--select", select, "--config-json", json.dumps(run_config(options))]
        with self.log.open("w") as log:
            return subprocess.Popen(
                # a shell's background jobs ignore Ctrl-C, and so would the run
                ["env", "--default-signal=INT,TERM", sys.executable, "-m", *command],
                cwd=self.root,
                env=dict(self.environment),
                stdout=log,
                stderr=log,
                text=True,
                start_new_session=True,
            )

    def run(self, select: str = "*", options: Mapping[str, Any] | None = None) -> Run:
        """Materializes assets in a process of its own; what Dagster recorded of it."""
        with self.start(select, options) as process:
            try:
                process.wait(timeout=300)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
        return self.recorded()

    def recorded(self, run_id: str | None = None) -> Run:
        """What Dagster recorded of a run, by default of the newest one."""
        with self.instance() as instance:
            if run_id is None:
                runs = instance.get_runs(limit=1)
                assert runs, self.log.read_text()
                (run,) = runs
            else:
                found = instance.get_run_by_id(run_id)
                assert found is not None
                run = found
            log = instance.all_logs(run.run_id)
            events = [entry.dagster_event for entry in log if entry.dagster_event is not None]
            return Run(run.is_success, run.run_id, events)

    def messages(self, run_id: str) -> list[str]:
        """What the steps of a run logged."""
        with self.instance() as instance:
            log = instance.all_logs(run_id)
            return [entry.user_message for entry in log if entry.dagster_event is None]

    def sqlmesh_runs(self, run_id: str) -> int:
        """How many sqlmesh runs a Dagster run has started."""
        said = self.messages(run_id)
        return sum(message.startswith("Starting one sqlmesh run") for message in said)

    @contextlib.contextmanager
    def instance(self) -> Iterator[dg.DagsterInstance]:
        """The project's Dagster instance."""
        with instance_of(self.home) as instance:
            yield instance

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Rows of a query; fails when another process holds the file."""
        with contextlib.closing(duckdb.connect()) as connection:
            connection.execute(f"ATTACH '{self.database}' AS warehouse")
            connection.execute("USE warehouse")
            return connection.execute(sql).fetchall()

    def is_released(self) -> bool:
        """Whether no process holds the DuckDB file."""
        try:
            self.query("SELECT 1")
        except duckdb.IOException:
            return False
        return True

    def tables(self) -> dict[str, list[tuple[Any, ...]]]:
        """The rows of every table of models, physical ones and views, by name."""
        names = self.query(
            "SELECT table_schema || '.' || table_name FROM information_schema.tables"
            " WHERE table_catalog = 'warehouse' AND table_schema LIKE '%demo%' ORDER BY 1"
        )
        quoted = {name: '"{}"."{}"'.format(*name.split(".", 1)) for (name,) in names}
        return {name: self.query(f"FROM {table} ORDER BY ALL") for name, table in quoted.items()}


def wait_until(condition: Callable[[], bool], log: Path, seconds: float = 60) -> None:
    """Waits for a condition; what was logged is the failure message."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


def processes_of(root: Path) -> dict[int, str]:
    """Living processes that work in a folder, each with its command line.

    Without those in which Python keeps track of what it shares between processes.
    """
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            if (entry / "cwd").resolve().is_relative_to(root):
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                if command and "resource_tracker" not in command:  # none: dead, and not yet reaped
                    found[int(entry.name)] = command
    return found


def _with_tools(root: Path, more: Mapping[str, str]) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if name not in _HIDDEN}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    home = str(root / "dagster_home")
    sources = str(root / "src")
    return {**inherited, "PATH": path, "PYTHONPATH": sources, "DAGSTER_HOME": home, **more}
