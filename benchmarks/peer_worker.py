"""One measured job of a peer, in the environment of that peer: `python benchmarks/peer_worker.py JOB FOLDER`.

Prints JSON: CPU seconds (children included) of the whole process, with imports, loading and the run, and of the
run alone; and how many assets it has materialized.
It imports nothing of `benchmarks`, as it runs in a peer's environment, which has none of this repository.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ENVIRONMENT = "prod"
OWN_INSTANCE = Path(__file__).parents[1] / "template" / "dagster_home" / "dagster.yaml"
STOCK = "telemetry: {enabled: false}\n"
Run = Callable[[], int]
"""Runs, and says how many assets were materialized."""


def bare_sqlmesh(project: Path) -> Run:
    """`sqlmesh run`."""
    from sqlmesh import Context

    context = Context(paths=str(project))

    def run() -> int:
        if context.run(ENVIRONMENT).is_failure:
            raise RuntimeError("The bare run failed.")
        return 0

    return run


def plan(project: Path) -> Run:
    """The environment, without rows: what is planned before a run."""
    from sqlmesh import Context

    context = Context(paths=str(project))

    def run() -> int:
        context.plan(
            ENVIRONMENT,
            auto_apply=True,
            no_prompts=True,
            skip_backfill=True,
            enable_preview=False,
        )
        return 0

    return run


def ours(project: Path) -> Run:
    """This integration, on the instance of a generated project."""
    return _in_process(_own_definitions(project), project, OWN_INSTANCE.read_text())


def ours_stock(project: Path) -> Run:
    """This integration, on Dagster's default instance."""
    return _in_process(_own_definitions(project), project)


def _own_definitions(project: Path) -> Any:
    from sqlmesh_dagster import sqlmesh_definitions_factory

    sys.argv.append("execute_run")  # as in the process that Dagster starts for a run
    return sqlmesh_definitions_factory(project_dir=project, environment=ENVIRONMENT)


def dg_sqlmesh(project: Path) -> Run:
    """Its factory, as its documentation shows it."""
    from dg_sqlmesh import sqlmesh_definitions_factory

    definitions = sqlmesh_definitions_factory(
        project_dir=str(project), gateway="local", environment=ENVIRONMENT
    )
    return _in_process(definitions, project)


def dagster_sqlmesh(project: Path) -> Run:
    """Its decorator, as its documentation shows it; it plans and runs each time."""
    import dagster as dg
    from dagster_sqlmesh import SQLMeshContextConfig, SQLMeshResource, sqlmesh_assets

    config = SQLMeshContextConfig(path=str(project), gateway="local")

    def models(context: dg.AssetExecutionContext, sqlmesh: Any) -> Iterator[object]:
        yield from sqlmesh.run(context, config=config, environment=ENVIRONMENT)

    models.__annotations__ = {"context": dg.AssetExecutionContext, "sqlmesh": SQLMeshResource}
    assets = sqlmesh_assets(environment=ENVIRONMENT, config=config)(models)
    definitions = dg.Definitions(assets=[assets], resources={"sqlmesh": SQLMeshResource()})
    return _in_process(definitions, project)


def bare_dbt(project: Path) -> Run:
    """`dbt build` in a process of its own, as `dagster-dbt` starts it."""
    import subprocess

    dbt = [str(Path(sys.executable).with_name("dbt")), "--quiet", "build"]

    def run() -> int:
        subprocess.run(dbt, cwd=project, check=True, capture_output=True)
        return 0

    return run


def dagster_dbt(project: Path) -> Run:
    """`dbt_assets`, as its documentation shows it; the manifest is there."""
    import dagster as dg
    from dagster_dbt import DbtCliResource, dbt_assets

    def models(context: dg.AssetExecutionContext, dbt: Any) -> Iterator[object]:
        yield from dbt.cli(["build"], context=context).stream()

    models.__annotations__ = {"context": dg.AssetExecutionContext, "dbt": DbtCliResource}
    assets = dbt_assets(manifest=project / "target" / "manifest.json")(models)
    resources = {"dbt": DbtCliResource(project_dir=str(project), dbt_executable=_dbt())}
    return _in_process(dg.Definitions(assets=[assets], resources=resources), project)


def _dbt() -> str:
    return str(Path(sys.executable).with_name("dbt"))


def _in_process(definitions: Any, project: Path, instance: str = STOCK) -> Run:
    """The implicit job, on an instance with this `dagster.yaml`."""
    from dagster import DagsterInstance

    home = project / "dagster_home"
    home.mkdir(exist_ok=True)
    (home / "dagster.yaml").write_text(instance)
    os.environ["DAGSTER_HOME"] = str(home)
    job = definitions.resolve_implicit_global_asset_job_def()

    def run() -> int:
        with DagsterInstance.get() as dagster:
            result = job.execute_in_process(instance=dagster, raise_on_error=False)
        if not result.success:
            errors = [e.event_specific_data for e in result.all_events if e.is_failure]
            raise RuntimeError(f"The run failed: {errors[:3]}")
        return sum(1 for event in result.all_events if event.is_step_materialization)

    return run


def _cpu() -> float:
    own, children = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def main() -> None:
    """Loads, then measures the run."""
    name, folder = sys.argv[1:]
    os.chdir(folder)
    run = globals()[name](Path(folder))
    before = _cpu()
    materialized = run()
    print(json.dumps({"cpu": _cpu(), "run": _cpu() - before, "materialized": materialized}))


if __name__ == "__main__":
    main()
