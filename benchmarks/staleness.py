"""What it costs to find out which models are stale: `python benchmarks/staleness.py [models]`.

The share of a run's CPU, of a full run and of one with nothing due, in one process.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SPENT: dict[str, float] = {}


def timed(owner: Any, name: str) -> None:
    """Counts the CPU of a function's thread while it works."""
    function: Callable[..., Any] = getattr(owner, name)

    def counted(*arguments: Any, **named: Any) -> Any:
        began = time.thread_time()
        try:
            return function(*arguments, **named)
        finally:
            SPENT[name] = SPENT.get(name, 0.0) + time.thread_time() - began

    setattr(owner, name, counted)


def main(models: str = "100") -> None:
    """Two runs, and a line for each."""
    sys.path[:0] = [str(ROOT), str(ROOT / "template/src")]
    os.environ.setdefault("MAX_FORK_WORKERS", "1")
    from benchmarks import worker
    from sqlmesh_dagster.engine import rebuild
    from sqlmesh_dagster.run import step

    timed(step, "known_inputs")
    for name in ("__init__", "rebuild", "with_reason"):
        timed(rebuild.Freshness, name)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        project = Path(folder, "project")
        command = [sys.executable, str(ROOT / "benchmarks/project.py"), str(project), models]
        subprocess.run(command, check=True)
        os.chdir(project)
        for title in ("full run", "nothing due"):
            SPENT.clear()
            worker.PHASES.clear()
            worker.dagster_template(project)
            run, own = worker.PHASES["run"][0], sum(SPENT.values())
            print(f"{title}: {own:.3f} of {run:.2f} CPU s, {100 * own / run:.2f} %", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
