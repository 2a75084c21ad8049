"""A process that has imported a whole platform, and materializes its models when it is asked to.

Started by `rivals.Worker`. It reads requests from its standard input, one JSON line each, and answers
each with one line on its standard output.
"""

from __future__ import annotations

import functools
import importlib
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import dagster as dg

_PRELOADED = ["tests.robustness.preloaded"]


@functools.cache
def definitions() -> dg.Definitions:
    """The platform's own, with a job for each executor."""
    platform = importlib.import_module(f"{os.environ['PLATFORM']}.definitions").defs()
    jobs = [
        dg.define_asset_job("one_process", executor_def=dg.in_process_executor),
        dg.define_asset_job("many_processes", executor_def=dg.multiprocess_executor),
    ]
    return dg.Definitions.merge(platform, dg.Definitions(jobs=jobs))


@functools.cache
def job(name: str) -> dg.JobDefinition:
    """One of those jobs."""
    return definitions().resolve_job_def(name)


def one_process() -> dg.JobDefinition:
    """All steps in the process that runs it."""
    return job("one_process")


def many_processes() -> dg.JobDefinition:
    """A process for each step, forked from one that has imported everything."""
    return job("many_processes")


def materialize(
    now: str, tag: str, processes: int = 1, parent: str = "", options: dict[str, Any] | None = None
) -> str:
    """Runs every model, or re-executes a run from its failure; the run's status.

    Args:
        now: The run's execution time.
        tag: Put on the run, to find it by.
        processes: How many steps run at once, each in a process of its own when more than one.
        parent: The failed run.
    """
    config: dict[str, Any] = {
        "resources": {"sqlmesh_run_options": {"config": {"execution_time": now, **(options or {})}}}
    }
    if processes > 1:
        config["execution"] = {
            "config": {
                "max_concurrent": processes,
                "start_method": {"forkserver": {"preload_modules": _PRELOADED}},
            }
        }
    with dg.DagsterInstance.get() as instance:
        result = dg.execute_job(
            dg.reconstructable(many_processes if processes > 1 else one_process),
            instance=instance,
            run_config=config,
            tags={"trial": tag},
            raise_on_error=False,
            reexecution_options=dg.ReexecutionOptions.from_failure(parent, instance)
            if parent
            else None,
        )
        return result.dagster_run.status.value


def materialize_at(moment: float, **request: Any) -> str:
    """As `materialize`, at a time that several processes share."""
    time.sleep(max(0.0, moment - time.time()))
    return materialize(**request)


def fork(**request: Any) -> int:
    """Materializes in a child that leads a process group of its own; its process id."""
    child = os.fork()
    if child:
        return child
    try:
        os.setsid()
        materialize(**request)
    finally:
        os._exit(0)


def reap(child: int) -> bool:
    """Whether a forked child has ended."""
    return os.waitpid(child, os.WNOHANG)[0] != 0


def _hold_where_asked(event: str, arguments: Sequence[Any]) -> None:
    """Stops where a result is about to be written, while the file `holds/results` exists.

    With `holds/torn` half a result is written before.
    """
    if event != "open" or not str(arguments[0]).endswith(".jsonl") or "a" not in str(arguments[1]):
        return
    holds = Path(os.environ["HOLDS"])
    if (holds / "torn").exists():
        record = os.open(arguments[0], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(record, b'{"fqn":"half a li')
    while any((holds / name).exists() for name in ("results", "torn")):
        (holds / "reached").touch()
        time.sleep(0.01)


def main() -> None:
    """Answers until its input ends."""
    requests: dict[str, Callable[..., object]] = {
        known.__name__: known for known in (materialize, materialize_at, fork, reap)
    }
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed goes to the log
    definitions()
    importlib.import_module("sqlmesh_dagster.engine.sqlmesh_run")
    print(json.dumps("ready"), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        answer = requests[request.pop("do")](**request)
        print(json.dumps(answer), file=answers, flush=True)


if multiprocessing.parent_process() is not None or "HOLDS" in os.environ:
    sys.addaudithook(_hold_where_asked)

if __name__ == "__main__":
    from tests.robustness import worker  # importable by this name in step processes

    worker.main()
