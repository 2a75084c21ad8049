"""500 models in one run, measured in a process of its own: `python large.py ours|bare PACKAGE` in a project.

Prints JSON. Imports stand where they are needed: what one side imports must not weigh on the other.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from benchmarks.project import CONFIG

MODELS = 500
QUICK = """
MODEL (name large.m_{number:03}, kind FULL{audits});
SELECT {number}::INT AS id
"""
SLOW = '''
import json
import os
import time
import typing as t
from pathlib import Path

import pandas as pd
from sqlmesh import ExecutionContext, model


@model("large.slow", columns={"id": "int"}, kind="FULL")
def execute(context: ExecutionContext, **kwargs: t.Any) -> pd.DataFrame:
    """Sleeps, and says what the process used in the second half, when the others have nothing to do."""
    pause = float(os.environ["PAUSE"])
    time.sleep(pause / 2)
    cpu, memory = time.process_time(), Path("/proc/self/status").read_text()
    time.sleep(pause / 2)
    cpu = time.process_time() - cpu
    held = [memory, Path("/proc/self/status").read_text()]
    before, after = (int(text.partition("VmRSS:")[2].split()[0]) / 1024 for text in held)
    Path("slept.json").write_text(json.dumps({"cpu": cpu, "memory": after - before}))
    return pd.DataFrame({"id": [1]})
'''


def write_project(folder: Path) -> None:
    """A SQLMesh project of `MODELS` models that read nothing; one sleeps for `PAUSE` seconds."""
    (folder / "models").mkdir(parents=True)
    connection = {"type": "duckdb", "database": str(folder / "warehouse.duckdb")}
    (folder / "config.yaml").write_text(CONFIG.format(connection=json.dumps(connection)))
    (folder / "models" / "slow.py").write_text(SLOW)
    for number in range(1, MODELS):
        audits = "" if number % 5 else ", audits (not_null(columns := (id)))"
        text = QUICK.format(number=number, audits=audits)
        (folder / "models" / f"m_{number:03}.sql").write_text(text)


def ours(package: str) -> dict[str, float]:
    """The project's job in process, on the project's instance; then the same assets with empty ops."""
    import importlib

    import dagster as dg

    import sqlmesh_dagster.engine.sqlmesh_run  # noqa: F401 - imports SQLMesh
    from benchmarks.worker import emptied

    imported = _memory("VmRSS")
    definitions = importlib.import_module(f"{package}.definitions").defs()
    job = definitions.resolve_job_def("sqlmesh_job")
    with dg.DagsterInstance.get() as instance:
        run = job.execute_in_process(instance=instance)
        peak = _memory()
        records = len(instance.all_logs(run.run_id))
    built = [event for event in run.all_events if event.is_step_materialization]
    originals = [a for a in definitions.assets or () if isinstance(a, dg.AssetsDefinition)]
    models = dg.Definitions(assets=[a for a in originals if a.keys <= {e.asset_key for e in built}])
    with dg.DagsterInstance.ephemeral() as instance:
        job = emptied(models).resolve_implicit_global_asset_job_def()
        alone = job.execute_in_process(instance=instance)
        records_alone = len(instance.all_logs(alone.run_id))
    return {
        "imported": imported,
        "peak": peak,
        "built": len(built),
        "records": records,
        "records_alone": records_alone,
    }


def bare(package: str) -> dict[str, float]:
    """`plan` without a backfill, and `run`: what the integration does for a new environment."""
    from sqlmesh import Context

    imported = _memory("VmRSS")
    context = Context(paths="sqlmesh_project")
    context.plan("dev", auto_apply=True, no_prompts=True, skip_backfill=True, enable_preview=False)
    status = context.run("dev")
    context.close()
    return {"imported": imported, "peak": _memory(), "built": MODELS * (not status.is_failure)}


def _memory(kind: str = "VmHWM") -> float:
    """What this process holds at most so far, or with `VmRSS` now, in MiB."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{kind}:")[2].split()[0]) / 1024


if __name__ == "__main__":
    side, package = sys.argv[1:]
    print(json.dumps({"ours": ours, "bare": bare}[side](package)))
