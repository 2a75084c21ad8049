"""One measured job in a process of its own: `python benchmarks/worker.py JOB FOLDER` prints JSON.

A job's phases are timed inside the process; `run.py` measures the process as a whole. Imports stand
in the jobs, because they are part of what is measured.
"""

from __future__ import annotations

import json
import os
import re
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import datetime
from functools import cache
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import dagster as dg

NOW = "2025-01-10T00:30:00+00:00"
"""The "now" of every run; the models start nine days before."""
ENVIRONMENT = "prod"
RUN_CONFIG = {"resources": {"sqlmesh_run_options": {"config": {"execution_time": NOW}}}}
TEMPLATE_INSTANCE = Path(__file__).parents[1] / "template" / "dagster_home" / "dagster.yaml"
FORKED: Mapping[str, Any] = {
    "multiprocess": {
        "max_concurrent": 2,
        "start_method": {"forkserver": {"preload_modules": ["sqlmesh_dagster.forkserver"]}},
    }
}
STEPS = "steps.jsonl"
"""File in which each step's process says what it took."""
PHASES: dict[str, tuple[float, float]] = {}
"""CPU (user and system, all threads, children included) and wall seconds of each phase."""

Facts = dict[str, str | int | float]
Job = Callable[[Path], Facts]
JOBS: dict[str, Job] = {}


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Times what is done inside."""
    cpu, wall = _cpu(), time.perf_counter()
    yield
    before = PHASES.get(name, (0.0, 0.0))
    PHASES[name] = (before[0] + _cpu() - cpu, before[1] + time.perf_counter() - wall)


def job(function: Job) -> Job:
    """Lets `run.py` call a function by its name."""
    JOBS[function.__name__] = function
    return function


@job
def bare_load(project: Path) -> Facts:
    """A SQLMesh context with the project's files."""
    with phase("import"):
        from sqlmesh import Context
    with phase("load"):
        context = Context(paths=str(project))
    return {"models": len(context.models)}


@job
def bare_full(project: Path) -> Facts:
    """Plan without a backfill, then run: what the integration does for a new environment."""
    return _bare_run(project, plan=True)


@job
def bare_plan(project: Path) -> Facts:
    """Plan without a backfill alone: tables without rows, which the next run fills."""
    return _bare_run(project, plan=True, run=False)


@job
def bare_idle(project: Path) -> Facts:
    """A run alone."""
    return _bare_run(project, plan=False)


@job
def bare_tick(project: Path) -> Facts:
    """What SQLMesh alone needs to know what is due: its import, and the environment from the state."""
    with phase("first"):
        from sqlmesh import Context

        context = Context(paths=str(project), load=False)
        environment = context.state_reader.get_environment(ENVIRONMENT)
        assert environment is not None
        snapshots = context.state_reader.get_snapshots(environment.snapshots)
        context.close()
    return {"models": len(snapshots)}


@job
def ticks(project: Path) -> Facts:
    """The first tick of the schedule in a process, and two later ones; nothing is due."""
    import dagster as dg

    definitions = _definitions(project, sqlmesh=False)
    with phase("resolve"):
        repository = definitions.get_repository_def()
    (schedule,) = repository.schedule_defs
    told = []
    with _instance(project / "dagster_home", "template") as instance:
        for name in ("first", "later", "later"):
            with (
                dg.build_schedule_context(
                    instance=instance,
                    scheduled_execution_time=datetime.fromisoformat(NOW),
                    repository_def=repository,
                ) as context,
                phase(name),
            ):
                told.append(schedule.evaluate_tick(context))
    requests = sum(len(tick.run_requests or ()) for tick in told)
    return {"models": len(definitions.resolve_all_asset_specs()), "requests": requests}


@job
def import_dagster(project: Path) -> Facts:
    """What every process of Dagster pays."""
    with phase("import"):
        import dagster  # noqa: F401
    return {}


@job
def definitions_load(project: Path) -> Facts:
    """The factory's definitions, and its job."""
    with phase("import"):
        import sqlmesh_dagster
    with phase("load"):
        definitions = sqlmesh_dagster.sqlmesh_definitions_factory(
            project_dir=project, environment=ENVIRONMENT, undeployed_changes="apply"
        )
    with phase("resolve"):
        job = definitions.resolve_implicit_global_asset_job_def()
    return {"models": len(list(job.nodes)), "sqlmesh": "sqlmesh" in sys.modules}


@job
def definitions_saved(project: Path) -> Facts:
    """As `definitions_load`, after the file of one model in the middle was saved with another query."""
    files = sorted((project / "models").glob("*.sql"))
    file = files[len(files) // 2]
    added = rf" + {time.time_ns() % 1000}::\1 AS amount"
    query = re.sub(r"(?: \+ \d+)?::(INT|DOUBLE) AS amount", added, file.read_text())
    file.write_text(query)
    return definitions_load(project)


@job
def dagster_template(project: Path) -> Facts:
    """The implicit job in process, on the instance of a generated project."""
    return _dagster_run(project, _definitions(project), "template")


@job
def dagster_sqlite(project: Path) -> Facts:
    """The implicit job in process, on Dagster's default instance."""
    return _dagster_run(project, _definitions(project), "sqlite")


@job
def dagster_ephemeral(project: Path) -> Facts:
    """The implicit job in process, on an instance in memory."""
    return _dagster_run(project, _definitions(project), "memory")


@job
def steps_in_process(project: Path) -> Facts:
    """As `dagster_template`, by `execute_job`, as the jobs below."""
    return _executed(project, {"in_process": {}})


@job
def steps_spawned(project: Path) -> Facts:
    """A process for each step, two at a time, each started from nothing: Dagster's default."""
    return _executed(project, {"multiprocess": {"max_concurrent": 2}})


@job
def steps_forked(project: Path) -> Facts:
    """A process for each step, two at a time, forked from a server that has imported what steps need."""
    return _executed(project, FORKED)


@job
def steps_alone(project: Path) -> Facts:
    """As `steps_forked`, with ops that do nothing: Dagster's part."""
    return _executed(project, FORKED, "empty_job", config={})


@job
def dagster_alone(project: Path) -> Facts:
    """The same assets and checks on the template's instance, with ops that do nothing: Dagster's part."""
    return _dagster_run(project, emptied(_definitions(project)), "template", config={})


@job
def dagster_alone_idle(project: Path) -> Facts:
    """Ops that only write the records of a run with nothing due: what no integration can be below."""
    import dagster as dg

    from sqlmesh_dagster import factories
    from sqlmesh_dagster.definition.project import DagsterProject, ModelAsset
    from sqlmesh_dagster.upstream.dagster import (
        output_without_materialization,
        without_missing_output_messages,
    )

    definitions = _definitions(project, sqlmesh=False)
    specs = definitions.resolve_all_asset_specs()
    read = {dep.asset_key for spec in specs for dep in spec.deps}

    def records(
        context: dg.OpExecutionContext, project: DagsterProject, asset: ModelAsset
    ) -> Iterator[object]:
        key = asset.spec.key
        without_missing_output_messages(context)
        yield dg.AssetMaterialization(key, metadata={"sqlmesh/status": "up to date"})
        if key in read:
            yield output_without_materialization(context.output_for_asset_key(key))
        for _, check in asset.checks:
            yield dg.AssetCheckEvaluation(
                asset_key=key, check_name=check.name, passed=True, metadata={}
            )

    vars(factories)["materialize_model"] = records  # its steps look it up when they run
    return _dagster_run(project, definitions, "template")


@job
def count_filled(project: Path) -> Facts:
    """How many of the project's tables have rows."""
    import yaml

    config = yaml.safe_load((project / "config.yaml").read_text())
    with _asking(config["gateways"]["local"]["connection"]) as ask:
        tables = ask(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = 'bench'"
        )
        counts = [ask(f"SELECT count(*) FROM bench.{name}") for (name,) in tables]
    return {"filled": sum(1 for ((count,),) in counts if count)}


@contextmanager
def _asking(place: Mapping[str, Any]) -> Iterator[Callable[[str], list[Any]]]:
    """A function that gives the rows of a query in the project's database."""
    if place["type"] == "duckdb":
        import duckdb

        with duckdb.connect(place["database"]) as connection:
            yield lambda query: connection.execute(query).fetchall()
    else:
        import psycopg2

        with (
            closing(
                psycopg2.connect(
                    host=place["host"],
                    port=place["port"],
                    user=place["user"],
                    dbname=place["database"],
                )
            ) as server,
            server.cursor() as cursor,
        ):

            def ask(query: str) -> list[Any]:
                cursor.execute(query)
                return list(cursor.fetchall())

            yield ask


def _bare_run(project: Path, *, plan: bool, run: bool = True) -> Facts:
    with phase("import"):
        from sqlmesh import Context
    with phase("load"):
        context = Context(paths=str(project))
    with phase("run"):
        if plan:
            context.plan(
                ENVIRONMENT,
                auto_apply=True,
                no_prompts=True,
                skip_backfill=True,
                enable_preview=False,
                execution_time=NOW,
            )
        if not run:
            return {"outcome": "planned"}
        status = context.run(ENVIRONMENT, execution_time=NOW)
        context.close()
    if status.is_failure:
        raise RuntimeError("The bare run failed.")
    return {"outcome": "nothing due" if status.is_nothing_to_do else "built"}


def _definitions(project: Path, *, sqlmesh: bool = True) -> dg.Definitions:
    with phase("import"):
        import sqlmesh_dagster
    with phase("load"):
        definitions = sqlmesh_dagster.sqlmesh_definitions_factory(
            project_dir=project, environment=ENVIRONMENT, undeployed_changes="apply"
        )
    if sqlmesh:  # as in the process that Dagster starts for a run, which imports it then
        sys.argv.append("execute_run")
        with phase("import"):
            import sqlmesh_dagster.engine.sqlmesh_run
    return definitions


def _dagster_run(
    project: Path,
    definitions: dg.Definitions,
    storage: str,
    *,
    config: Mapping[str, Any] = RUN_CONFIG,
) -> Facts:
    home = project / "dagster_home"
    with phase("resolve"):
        job = definitions.resolve_implicit_global_asset_job_def()
    with _instance(home, storage) as instance:
        with phase("run"):
            result = job.execute_in_process(instance=instance, run_config=dict(config))
        records = len(instance.all_logs(result.run_id))
    assets = len(list(job.nodes))
    told = [
        event.materialization.metadata.get("sqlmesh/status")
        for event in result.all_events
        if event.is_step_materialization
    ]
    idle = sum(1 for status in told if status is not None and status.value == "up to date")
    materialized = len(told) - idle
    outcomes = {(assets, 0): "built", (0, assets): "nothing due"}
    return {
        "outcome": outcomes.get((materialized, idle), f"{materialized} of {assets} built"),
        "records": records,
        "bytes": sum(file.stat().st_size for file in home.rglob("*.db*")),
    }


def project_job() -> dg.JobDefinition:
    """The job of the project in `BENCHMARK_PROJECT`, for every process of a run."""
    _tell_what_a_step_takes()
    return _definitions(_project(), sqlmesh=False).resolve_job_def("sqlmesh_job")


def empty_job() -> dg.JobDefinition:
    """A job of the same assets and checks, with ops that do nothing."""
    import dagster as dg

    _tell_what_a_step_takes()
    definitions = emptied(_definitions(_project(), sqlmesh=False))
    job = dg.Definitions(jobs=[dg.define_asset_job("empty_job", selection="*")])
    return dg.Definitions.merge(definitions, job).resolve_job_def("empty_job")


def _project() -> Path:
    return Path(os.environ["BENCHMARK_PROJECT"])


@cache
def _tell_what_a_step_takes() -> None:
    """Once, when this process ends, if it is that of a step."""
    from multiprocessing import parent_process, util

    def tell() -> None:
        told = {"cpu": time.process_time(), "sqlmesh": "sqlmesh" in sys.modules}
        with (_project() / STEPS).open("a") as file:
            file.write(json.dumps(told) + "\n")

    if parent_process() is not None:
        util.Finalize(None, tell, exitpriority=1)


def _executed(
    project: Path,
    executor: Mapping[str, Any],
    job: str = "project_job",
    config: Mapping[str, Any] = RUN_CONFIG,
) -> Facts:
    from multiprocessing import forkserver

    import dagster as dg

    os.environ["BENCHMARK_PROJECT"] = str(project)
    log = project / STEPS
    log.unlink(missing_ok=True)
    with (
        _instance(project / "dagster_home", "template") as instance,
        phase("run"),
        dg.execute_job(
            dg.reconstructable(globals()[job]),
            instance,
            {**config, "execution": {"config": executor}},
        ) as result,
    ):
        events = [e.dagster_event for e in instance.all_logs(result.run_id)]
        forkserver._forkserver._stop()  # type: ignore[attr-defined] # then its CPU counts
    steps = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    waited = [step["cpu"] for step in steps if not step["sqlmesh"]]
    return {
        "models": len([e for e in events if e and e.is_step_materialization]),
        "waiting": len(waited),
        "waiting_cpu": round(median(waited), 3) if waited else 0.0,
    }


def _instance(home: Path, storage: str) -> dg.DagsterInstance:
    from dagster import DagsterInstance

    if storage == "memory":
        return DagsterInstance.ephemeral()
    home.mkdir(exist_ok=True)
    settings = (
        TEMPLATE_INSTANCE.read_text() if storage == "template" else "telemetry: {enabled: false}"
    )
    (home / "dagster.yaml").write_text(settings)
    os.environ["DAGSTER_HOME"] = str(home)
    return DagsterInstance.get()


def emptied(definitions: dg.Definitions) -> dg.Definitions:
    """The same assets and checks, with ops that do nothing."""
    import dagster as dg

    def empty(number: int, original: dg.AssetsDefinition) -> dg.AssetsDefinition:
        checks = list(original.check_specs)

        @dg.multi_asset(name=f"empty_{number}", specs=list(original.specs), check_specs=checks)
        def materialize() -> Iterator[object]:
            for spec in original.specs:
                yield dg.MaterializeResult(asset_key=spec.key)
            for check in checks:
                yield dg.AssetCheckResult(
                    passed=True, asset_key=check.asset_key, check_name=check.name
                )

        return materialize

    originals = [a for a in definitions.assets or () if isinstance(a, dg.AssetsDefinition)]
    return dg.Definitions(assets=[empty(n, original) for n, original in enumerate(originals)])


def _cpu() -> float:
    own, children = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


if __name__ == "__main__":
    name, folder = sys.argv[1:]
    os.chdir(folder)  # SQLMesh writes its logs there
    facts = JOBS[name](Path(folder))
    print(json.dumps({"phases": PHASES, "facts": facts}))
