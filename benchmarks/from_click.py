"""Seconds from a click on *Materialize* to the start of the first model, next to `sqlmesh run` in a shell.

`python -m benchmarks.from_click --models 100 500 --rounds 3` starts `dagster dev` on a project of that many
trivial models, whose environment was planned before, and launches its job as the UI does. The first model
writes down when it starts. Both ways take turns, on copies of the same database.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from benchmarks.project import write_project
from benchmarks.run import ENVIRONMENT
from tests.webserver import (
    Ask,
    answering,
    asking,
    location_of,
    start,
    status_of,
    terminate,
    wait_until,
)

ROOT = Path(__file__).resolve().parents[1]
SQLMESH = str(Path(sys.executable).with_name("sqlmesh"))
DATABASE = "warehouse.duckdb"
MACRO = '''\
import os
import time
from pathlib import Path

from sqlmesh import macro


@macro()
def started(evaluator):
    """Writes down when the model starts, once."""
    file = os.environ.get("BENCHMARK_STARTED")
    if evaluator.runtime_stage == "evaluating" and file and not Path(file).exists():
        Path(file).write_text(str(time.time()))
    return None
'''
DEFINITIONS = """\
import dagster as dg

from sqlmesh_dagster import sqlmesh_definitions_factory

defs = dg.Definitions.merge(
    sqlmesh_definitions_factory(project_dir={project!r}, environment="prod"),
    dg.Definitions(executor=dg.in_process_executor),
)
"""


def main() -> None:
    """Prints a line for each number of models."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, nargs="+", default=[100])
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    print("| models | click | `sqlmesh run` | ratio | of the click: in the queue |")
    print("| --- | --- | --- | --- | --- |")
    for models in arguments.models:
        with tempfile.TemporaryDirectory() as folder:
            print(compare(Path(folder), models, arguments.rounds), flush=True)


def compare(folder: Path, models: int, rounds: int) -> str:
    """Measures both ways in turn.

    Returns:
        A row of the table, in seconds: medians of the rounds.
    """
    project, stamp = folder / "project", folder / "started"
    environment = environment_of(folder, stamp)
    write_project(project, models, is_trivial=True)
    watch_first(project)
    sqlmesh(project, environment, "plan", "prod", "--skip-backfill", "--auto-apply", "--no-prompts")
    shutil.copy(project / DATABASE, folder / "planned.duckdb")
    clicks: list[tuple[float, float]] = []
    shells: list[float] = []
    with served(folder, project, environment) as ask:
        location = location_of(ask)
        for _ in range(rounds):
            renew(folder, project, stamp)
            shells.append(seconds_of_shell(project, environment, stamp))
            renew(folder, project, stamp)
            clicks.append(seconds_of_click(ask, location, stamp))
    click, shell = median(total for total, _ in clicks), median(shells)
    queue = median(queue for _, queue in clicks)
    return f"| {models} | {click:.1f} | {shell:.1f} | {click / shell:.2f} | {queue:.1f} |"


def environment_of(folder: Path, stamp: Path) -> dict[str, str]:
    """What both ways run in."""
    return {
        **ENVIRONMENT,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "DAGSTER_HOME": str(folder / "home"),
        "BENCHMARK_STARTED": str(stamp),
    }


def watch_first(project: Path) -> None:
    """The model that all others read writes down when it starts."""
    (project / "macros").mkdir()
    (project / "macros" / "started.py").write_text(MACRO)
    first = project / "models" / "m_0000.sql"
    first.write_text(first.read_text().replace("\n);\n", "\n);\n\n@started();\n", 1))


def renew(folder: Path, project: Path, stamp: Path) -> None:
    """Everything is planned, and nothing is built."""
    stamp.unlink(missing_ok=True)
    (project / f"{DATABASE}.wal").unlink(missing_ok=True)
    shutil.copy(folder / "planned.duckdb", project / DATABASE)


def sqlmesh(project: Path, environment: Mapping[str, str], *arguments: str) -> None:
    """A command of SQLMesh's, to its end."""
    command = [SQLMESH, "-p", str(project), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)


def seconds_of_shell(project: Path, environment: Mapping[str, str], stamp: Path) -> float:
    """From the start of `sqlmesh run` to that of the first model."""
    command = [SQLMESH, "-p", str(project), "run", "prod"]
    since = time.time()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    wait_until(stamp.exists, 300)
    process.kill()
    process.wait()
    return float(stamp.read_text()) - since


def seconds_of_click(ask: Ask, location: str, stamp: Path) -> tuple[float, float]:
    """From the click to the start of the first model; and how much of it the run was in the queue."""
    since = time.time()
    run_id = start(ask, location, "__ASSET_JOB")
    wait_until(lambda: status_of(ask, run_id) not in {"QUEUED", "NOT_STARTED"}, 300, every=0.05)
    queue = time.time() - since
    wait_until(stamp.exists, 300)
    total = float(stamp.read_text()) - since
    terminate(ask, run_id)
    wait_until(lambda: status_of(ask, run_id) in {"SUCCESS", "FAILURE", "CANCELED"}, 300)
    return total, queue


@contextmanager
def served(folder: Path, project: Path, environment: Mapping[str, str]) -> Iterator[Ask]:
    """`dagster dev` with the instance of a generated project."""
    home, code = folder / "home", folder / "definitions.py"
    home.mkdir()
    shutil.copy(ROOT / "template" / "dagster_home" / "dagster.yaml", home)
    code.write_text(DEFINITIONS.format(project=str(project)))
    command = [sys.executable, "-m", "dagster", "dev", "-f", str(code), "-p"]
    with answering(command, cwd=folder, environment=environment) as address:
        yield asking(address)


if __name__ == "__main__":
    main()
