"""Small SQLMesh projects on DuckDB, run by real Dagster, for the integration's tests."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb

from sqlmesh_dagster import sqlmesh_definitions_factory

NOW = "2025-01-10T00:30:00"
"""The "now" of most runs: fixed, so that crons and intervals are."""
LEFT_ALONE = ("up to date", "not ready", "stale")
"""What a materialization says of a model that was not built."""

_CONFIG = """
gateways:
  local:
    connection:
      type: duckdb
      database: {database}
default_gateway: local
model_defaults:
  dialect: duckdb
  start: 2025-01-01
  cron: '@daily'
disable_anonymized_analytics: true
before_all:
  - CREATE TABLE IF NOT EXISTS main.run_log (began_at TIMESTAMP)
  - INSERT INTO main.run_log VALUES (now())
"""


@dataclass(frozen=True)
class Run:
    """What a Dagster run recorded."""

    success: bool
    run_id: str
    events: Sequence[dg.DagsterEvent]

    @property
    def materialized(self) -> list[str]:
        """Last part of each key that was materialized with new data, in order."""
        return [name for name, status in self._materializations() if status not in LEFT_ALONE]

    @property
    def unchanged(self) -> list[str]:
        """Last part of each key that was materialized as it was before, in order."""
        return [name for name, status in self._materializations() if status in LEFT_ALONE]

    @property
    def observed(self) -> list[str]:
        """Last part of each observed key, in order."""
        return [_name(e.asset_key) for e in self.events if e.is_asset_observation]

    @property
    def failed(self) -> dict[str, str]:
        """The error's text of each failed step."""
        return {
            str(e.step_key): _error_text(e)
            for e in self.events
            if e.event_type is dg.DagsterEventType.STEP_FAILURE
        }

    @property
    def started(self) -> list[str]:
        """Keys of the steps that Dagster started, in order."""
        return [
            str(e.step_key) for e in self.events if e.event_type is dg.DagsterEventType.STEP_START
        ]

    @property
    def checks(self) -> dict[str, dg.AssetCheckEvaluation]:
        """Check results by `<model>:<check>`, also those that are reported once more."""
        return {f"{_name(c.asset_key)}:{c.check_name}": c for c in self._evaluations()}

    @property
    def passed(self) -> dict[str, bool]:
        """Whether each check passed that was evaluated now."""
        return {
            name: check.passed
            for name, check in self.checks.items()
            if "sqlmesh/found_at" not in check.metadata
        }

    @property
    def kept(self) -> dict[str, bool]:
        """Whether each check passed whose last result is reported once more."""
        return {name: c.passed for name, c in self.checks.items() if name not in self.passed}

    def metadata(self, name: str) -> Mapping[str, Any]:
        """Metadata values of a model's materialization or observation."""
        for event in self.events:
            if event.is_step_materialization and _name(event.asset_key) == name:
                return {k: v.value for k, v in event.materialization.metadata.items()}
            if event.is_asset_observation and _name(event.asset_key) == name:
                observed = event.asset_observation_data.asset_observation
                return {k: v.value for k, v in observed.metadata.items()}
        raise KeyError(name)

    def _materializations(self) -> Iterator[tuple[str, str]]:
        for event in self.events:
            if event.is_step_materialization:
                status = event.materialization.metadata.get("sqlmesh/status")
                yield _name(event.asset_key), str(status.value) if status else ""

    def _evaluations(self) -> Iterator[dg.AssetCheckEvaluation]:
        for event in self.events:
            if event.event_type is dg.DagsterEventType.ASSET_CHECK_EVALUATION:
                evaluation = event.event_specific_data
                assert isinstance(evaluation, dg.AssetCheckEvaluation)
                yield evaluation


@dataclass
class Project:
    """A SQLMesh project in a folder of its own, with a DuckDB file next to it."""

    root: Path
    settings: dict[str, Any] = field(default_factory=lambda: {"environment": "dev"})

    def __post_init__(self) -> None:
        """Writes the config."""
        self.write("config.yaml", _CONFIG.format(database=self.database))

    @property
    def database(self) -> Path:
        """The DuckDB file."""
        return self.root / "warehouse.duckdb"

    def write(self, path: str, text: str) -> None:
        """Writes a file of the project."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text))

    def model(self, name: str, query: str, properties: str = "kind FULL") -> None:
        """Writes a SQL model `demo.<name>` unless `name` has a schema."""
        full = name if "." in name else f"demo.{name}"
        file = "".join(c if c.isalnum() else f"_{ord(c)}_" for c in full)
        self.write(f"models/{file}.sql", f"MODEL (name {full}, {properties});\n{query};\n")

    def definitions(self, **settings: Any) -> dg.Definitions:
        """The factory's definitions of this project, as it stands now."""
        return sqlmesh_definitions_factory(project_dir=self.root, **{**self.settings, **settings})

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Rows of a query; fails when anything still holds the file."""
        with contextlib.closing(duckdb.connect(str(self.database))) as connection:
            return connection.execute(sql).fetchall()

    def execute(self, sql: str) -> None:
        """A statement."""
        self.query(sql)

    def sqlmesh_runs(self) -> int:
        """How often SQLMesh has begun a run or applied a plan."""
        ((count,),) = self.query("SELECT count(*) FROM main.run_log")
        return int(count)


@contextlib.contextmanager
def held_by_another_process(database: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Meanwhile another process has the DuckDB file open."""
    code = "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print('held', flush=True); input()"
    command = [sys.executable, "-c", code, str(database)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n", "the file could not be opened"
        yield holder
        if holder.poll() is None:
            holder.communicate(b"\n")


def run_in_process(
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    *names: str,
    checks: Sequence[dg.AssetCheckKey] = (),
    options: Mapping[str, Any] | None = None,
    now: str | None = NOW,
) -> Run:
    """Materializes the assets with these last key parts, or all, and the named checks alone."""
    job = definitions.resolve_implicit_global_asset_job_def()
    keys = [k for k in definitions.resolve_asset_graph().executable_asset_keys if _name(k) in names]
    result = (
        job.execute_in_process(
            instance=instance,
            asset_selection=keys if names or checks else None,
            run_config=run_config(options, now),
            raise_on_error=False,
        )
        if not checks
        else _checks_alone(definitions, instance, keys, checks, run_config(options, now))
    )
    return Run(result.success, result.run_id, result.all_events)


def run_config(options: Mapping[str, Any] | None = None, now: str | None = NOW) -> dict[str, Any]:
    """Launchpad config with run options."""
    given = {**({"execution_time": now} if now else {}), **(options or {})}
    return {"resources": {"sqlmesh_run_options": {"config": given}}}


def _checks_alone(
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    keys: Sequence[dg.AssetKey],
    checks: Sequence[dg.AssetCheckKey],
    config: Mapping[str, Any],
) -> dg.ExecuteInProcessResult:
    selection: dg.AssetSelection = dg.AssetSelection.checks(*checks)
    if keys:
        selection = selection | dg.AssetSelection.assets(*keys).without_checks()
    return dg.materialize(
        list(definitions.assets or ()),  # type: ignore[arg-type]
        selection=selection,
        resources=dict(definitions.resources or {}),
        instance=instance,
        run_config=config,
        raise_on_error=False,
    )


def _name(key: dg.AssetKey | None) -> str:
    assert key is not None
    return key.path[-1]


def _error_text(event: dg.DagsterEvent) -> str:
    error = event.step_failure_data.error
    texts = []
    while error is not None:
        texts.append(error.message)
        error = error.cause
    return "\n".join(texts)


def start(
    project: Project,
    home: Path,
    *,
    select: str = "*",
    body: str = "",
    executor: str = "dg.in_process_executor",
    options: Mapping[str, Any] | None = None,
    job: str | None = None,
) -> subprocess.Popen[str]:
    """Starts the command that materializes assets or runs a job; its log is `run.log` in `home`.

    Args:
        home: Folder for `DAGSTER_HOME`.
        select: An asset selection.
        body: Python that may define `translator`, and lists `extra` of further assets and `jobs`.
        executor: Python of the executor.
        job: A job to run in place of `select`.
    """
    home.mkdir(parents=True, exist_ok=True)
    code = home / "defs.py"
    lines = [
        "import dagster as dg",
        "from sqlmesh_dagster import *",
        "extra, jobs, translator = [], [], None",
        textwrap.dedent(body),
        f"settings = {{'project_dir': {str(project.root)!r}, **{project.settings!r}}}",
        "defs = dg.Definitions.merge(",
        "    sqlmesh_definitions_factory(translator=translator, **settings),",
        f"    dg.Definitions(assets=extra, jobs=jobs, executor={executor}),",
        ")",
    ]
    code.write_text("\n".join(lines))
    (home / "config.json").write_text(json.dumps(run_config(options)))
    what = (
        ["asset", "materialize", "--select", select]
        if job is None
        else ["job", "execute", "-j", job]
    )
    command = [sys.executable, "-m", "dagster", *what, "-f", str(code)]
    command += ["-c", str(home / "config.json")]
    with (home / "run.log").open("w") as log:
        return subprocess.Popen(
            command,
            env={**os.environ, "DAGSTER_HOME": str(home), "PYTHONPATH": os.pathsep.join(sys.path)},
            cwd=home,
            stdout=log,
            stderr=log,
            text=True,
            start_new_session=True,
        )


def multiprocess(max_concurrent: int, *preloaded: str) -> str:
    """Python of the executor that starts a process for each step.

    Args:
        preloaded: Modules that one process imports for all, which are forked from it then.
    """
    config: dict[str, Any] = {"max_concurrent": max_concurrent}
    if preloaded:
        config["start_method"] = {"forkserver": {"preload_modules": list(preloaded)}}
    return f"dg.multiprocess_executor.configured({config!r})"


def run_multiprocess(project: Project, home: Path, *, max_concurrent: int = 2, **more: Any) -> Run:
    """Materializes assets with one process for each step; see `start`."""
    start(project, home, executor=multiprocess(max_concurrent), **more).wait(timeout=300)
    return last_run(home)


def run_forked(
    project: Project, home: Path, *, max_concurrent: int = 2, preloaded: str = "", **more: Any
) -> Run:
    """The same, some seconds of CPU a step faster: each has imported what every step needs.

    Args:
        preloaded: A further module that is imported once; one in `home` is found.
    """
    modules = ["sqlmesh_dagster.forkserver", *filter(None, [preloaded])]
    executor = multiprocess(max_concurrent, *modules)
    start(project, home, executor=executor, **more).wait(timeout=300)
    return last_run(home)


def last_run(home: Path) -> Run:
    """What the newest run of an instance on disk recorded."""
    with dg.DagsterInstance.from_config(str(home)) as instance:
        records = instance.get_run_records(limit=1)
        assert records, (home / "run.log").read_text()
        run = records[0].dagster_run
        log = instance.all_logs(run.run_id)
        events = [entry.dagster_event for entry in log if entry.dagster_event is not None]
        return Run(run.is_success, run.run_id, events)
