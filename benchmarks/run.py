"""Compares the integration with bare SQLMesh, as ratios: `python benchmarks/run.py --models 10 100`."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.postgres import Server

HERE = Path(__file__).resolve().parent
LAST = HERE / "last.json"
"""The ratios in CPU that were kept last, by number and kind of models, and by row."""
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(HERE.parent / "template" / "src"),
    "DAGSTER_DISABLE_TELEMETRY": "1",
    "SQLMESH__DISABLE_ANONYMIZED_ANALYTICS": "true",
    "MAX_FORK_WORKERS": os.environ.get("MAX_FORK_WORKERS", "1"),
}
ENVIRONMENT.pop("PYTHONDONTWRITEBYTECODE", None)


@dataclass(frozen=True)
class Sample:
    """One process: CPU and wall seconds of it and of its phases, peak memory in MiB, and what it says."""

    process: tuple[float, float]
    memory: float
    phases: Mapping[str, tuple[float, float]]
    facts: Mapping[str, str | int | float | bool]

    def seconds(self, phases: Sequence[str]) -> tuple[float, float]:
        """CPU and wall of these phases together; of the whole process if there are none."""
        parts = [self.phases.get(name, (0.0, 0.0)) for name in phases] or [self.process]
        return sum(cpu for cpu, _ in parts), sum(wall for _, wall in parts)


@dataclass(frozen=True)
class Task:
    """A worker's job, and what must be true of it.

    Attributes:
        remove: Paths of the project that are removed before.
        facts: What the worker must say; a number of models is given as `models`.
        fills: Whether every model's table must have rows afterwards.
        on: The engine that data and state are on.
    """

    label: str
    job: str
    remove: tuple[str, ...] = ()
    facts: Mapping[str, str | int | bool] = field(default_factory=dict)
    fills: bool = True
    on: str = "duckdb"


@dataclass(frozen=True)
class Row:
    """A ratio of two tasks, over some phases or the whole process."""

    title: str
    ours: str
    bare: str
    phases: tuple[str, ...] = ()


_STATE = ("warehouse.duckdb", "warehouse.duckdb.wal", "dagster_home")
_BUILT = {"outcome": "built"}
_IDLE = {"outcome": "nothing due"}
_ALL = {"models": "models"}
_LOADED: Mapping[str, str | bool] = {**_ALL, "sqlmesh": True}
_STORED_ONLY: Mapping[str, str | bool] = {**_ALL, "sqlmesh": False}
_STORED = ".cache/dagster"

_PLAN = Task("", "bare_plan", _STATE, {"outcome": "planned"}, fills=False)
WARM_UP = (
    Task("", "definitions_load", (), _ALL, fills=False),
    Task("", "bare_full", _STATE, _BUILT),
)
"""Not measured, before each group: fills SQLMesh's cache, and compiles Python's files."""

GROUPS: dict[str, Sequence[Sequence[Task]]] = {
    "load": (
        (
            Task("bare load, cold", "bare_load", (".cache",), _ALL, fills=False),
            Task("bare load, warm", "bare_load", (), _ALL, fills=False),
        ),
        (
            Task("definitions, cold", "definitions_load", (".cache",), _LOADED, fills=False),
            Task("definitions, changed", "definitions_load", (_STORED,), _LOADED, fills=False),
            Task("definitions, saved", "definitions_saved", (), _LOADED, fills=False),
            Task("definitions, warm", "definitions_load", (), _STORED_ONLY, fills=False),
        ),
        (Task("import dagster", "import_dagster", (), {}, fills=False),),
    ),
    "run": (
        (
            Task("bare full", "bare_full", _STATE, _BUILT),
            Task("bare idle", "bare_idle", (), _IDLE),
        ),
        (
            Task("template full", "dagster_template", _STATE, _BUILT),
            Task("template idle", "dagster_template", (), _IDLE),
        ),
        (_PLAN, Task("planned bare", "bare_idle", (), _BUILT)),
        (_PLAN, Task("planned template", "dagster_template", (), _BUILT)),
        (
            Task("sqlite full", "dagster_sqlite", _STATE, _BUILT),
            Task("sqlite idle", "dagster_sqlite", (), _IDLE),
        ),
        (
            Task("ephemeral full", "dagster_ephemeral", _STATE, _BUILT),
            Task("ephemeral idle", "dagster_ephemeral", (), _IDLE),
        ),
        (Task("dagster alone", "dagster_alone", ("dagster_home",), _BUILT),),
        (Task("dagster alone idle", "dagster_alone_idle", ("dagster_home",), _IDLE),),
    ),
    "tick": (
        (
            Task("tick built", "dagster_template", _STATE, _BUILT),
            Task("bare tick", "bare_tick", (), _ALL),
            Task("tick", "ticks", (), {**_ALL, "requests": 0}),
        ),
    ),
    "steps": (
        (Task("steps bare", "bare_full", _STATE, _BUILT),),
        (Task("in process", "steps_in_process", _STATE, _ALL),),
        (Task("spawned", "steps_spawned", _STATE, _ALL),),
        (Task("forked", "steps_forked", _STATE, _ALL),),
        (Task("forked alone", "steps_alone", ("dagster_home",), _ALL, fills=False),),
    ),
}
GROUPS["postgres"] = (
    *GROUPS["run"][:2],
    *(
        tuple(replace(task, label=f"{task.label}, postgres", on="postgres") for task in sequence)
        for sequence in GROUPS["run"][:2]
    ),
)
"""What is measured together: each round runs every sequence, every other round in reverse order."""

ROWS = (
    Row("definitions, stored manifest", "definitions, warm", "bare load, warm"),
    Row("the same, to `import dagster`", "definitions, warm", "import dagster"),
    Row("definitions, no cache at all", "definitions, cold", "bare load, cold"),
    Row("definitions, one model's file saved", "definitions, saved", "bare load, warm"),
    Row("definitions, something else changed", "definitions, changed", "bare load, warm"),
    Row("full run", "template full", "bare full", ("run",)),
    Row("full run, planned before", "planned template", "planned bare", ("run",)),
    Row("full run, stock SQLite", "sqlite full", "bare full", ("run",)),
    Row("full run, ephemeral", "ephemeral full", "bare full", ("run",)),
    Row("Dagster alone", "dagster alone", "bare full", ("run",)),
    Row("load and full run", "template full", "bare full", ("load", "resolve", "run")),
    Row("full run, whole process", "template full", "bare full"),
    Row("nothing due", "template idle", "bare idle", ("run",)),
    Row("nothing due, stock SQLite", "sqlite idle", "bare idle", ("run",)),
    Row("nothing due, ephemeral", "ephemeral idle", "bare idle", ("run",)),
    Row("load and nothing due", "template idle", "bare idle", ("load", "resolve", "run")),
    Row("nothing due, whole process", "template idle", "bare idle"),
    Row("Dagster alone, to nothing due", "dagster alone", "bare idle", ("run",)),
    Row("Dagster alone, same records", "dagster alone idle", "bare idle", ("run",)),
    Row("full run, Postgres", "template full, postgres", "bare full, postgres", ("run",)),
    Row("nothing due, Postgres", "template idle, postgres", "bare idle, postgres", ("run",)),
    Row("first tick, to SQLMesh's import and state", "tick", "bare tick", ("first",)),
    Row("in process", "in process", "steps bare", ("load", "run")),
    Row("multiprocess, spawn", "spawned", "steps bare", ("load", "run")),
    Row("multiprocess, forkserver", "forked", "steps bare", ("load", "run")),
    Row("Dagster alone, forkserver", "forked alone", "steps bare", ("load", "run")),
)
STEPS = Row("steps", "", "", ("load", "run"))
LOGS = ("template full", "template idle", "dagster alone", "dagster alone idle")

Samples = dict[str, list[Sample]]


def main() -> None:
    """Measures each size, and prints a table for it as soon as it is done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, nargs="+", default=[10, 100, 500], metavar="N")
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="rounds of each size")
    parser.add_argument("--only", choices=sorted(GROUPS), nargs="+", default=["load", "run"])
    parser.add_argument("--match", default="", metavar="TEXT", help="only what is named so")
    parser.add_argument("--trivial", action="store_true", help="models that do next to nothing")
    parser.add_argument(
        "--quick", action="store_true", help="trivial models, one round of 30, all groups: minutes"
    )
    parser.add_argument("--keep", action="store_true", help="keep the figures as the last ones")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.models, arguments.repeat, arguments.trivial = [30], 1, True
        arguments.only = [name for name in GROUPS if name != "postgres"]
    kept = json.loads(LAST.read_text()) if LAST.exists() else {}
    versions = [f"{name} {version(name)}" for name in ("dagster", "sqlmesh", "duckdb")]
    print(f"python {sys.version.split()[0]}", *versions, sep=", ", flush=True)
    for models in arguments.models:
        with (
            tempfile.TemporaryDirectory(prefix="benchmark-") as folder,
            _server(arguments) as server,
        ):
            samples = measure(Path(folder), models, arguments, server)
            shape = f"{models} trivial" if arguments.trivial else str(models)
            found = report(models, samples, kept.get(shape, {}))
            kept[shape] = {**kept.get(shape, {}), **found}
    if arguments.keep:
        LAST.write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n")


@contextmanager
def _server(arguments: argparse.Namespace) -> Iterator[Server | None]:
    """A Postgres of its own, where it is asked for; ends the program where none can be started."""
    if "postgres" not in arguments.only:
        yield None
        return
    sys.path.append(str(HERE.parent))
    try:
        from tests.postgres import postgres
    except ImportError as error:
        sys.exit(f"No Postgres can be started here: {error}. The development group brings one.")
    with postgres() as server:
        yield server


def measure(
    folder: Path, models: int, arguments: argparse.Namespace, server: Server | None
) -> Samples:
    """Every task of the chosen groups, as often as asked for, interleaved."""
    shape = ["--trivial"] if arguments.trivial else []
    _python("project.py", str(folder / "duckdb"), str(models), *shape)
    if server is not None:
        port = ["--port", str(server.port)]
        _python("project.py", str(folder / "postgres"), str(models), *shape, *port)
    samples: Samples = defaultdict(list)
    for group in arguments.only:
        engines = {task.on for sequence in GROUPS[group] for task in sequence}
        for task in WARM_UP[: 1 if group == "load" else None]:
            for engine in sorted(engines):
                perform(replace(task, on=engine), folder, models, server)
        for turn in range(arguments.repeat):
            for sequence in GROUPS[group][:: -1 if turn % 2 else 1]:
                if not any(arguments.match in task.label for task in sequence):
                    continue
                for task in sequence:
                    samples[task.label].append(perform(task, folder, models, server))
    return samples


def perform(task: Task, folder: Path, models: int, server: Server | None) -> Sample:
    """One task in a fresh process; ends the program when it did not do what it should."""
    project = folder / task.on
    for name in task.remove:
        path = project / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    if server is not None and task.on == "postgres" and _STATE[0] in task.remove:
        server.query("postgres", "DROP DATABASE IF EXISTS bench WITH (FORCE)")
        server.create_database("bench")
    sample = _python("worker.py", task.job, str(project))
    expected = {key: models if text == "models" else text for key, text in task.facts.items()}
    if not expected.items() <= sample.facts.items():
        sys.exit(f"`{task.job}` of {models} models says {sample.facts}, not {expected}.")
    if task.fills:
        filled = _python("worker.py", "count_filled", str(project)).facts["filled"]
        if filled != models:
            sys.exit(f"After `{task.job}`, {filled} of {models} tables have rows.")
    return sample


def report(models: int, samples: Samples, last: Mapping[str, float]) -> dict[str, float]:
    """A table of ratios, and a line on each log, as far as there are samples for them.

    Args:
        last: The ratio in CPU of each row, as it was kept last.

    Returns:
        The same of this time.
    """
    found: dict[str, float] = {}
    heads = f"{'CPU':>41}{'wall':>16}{'memory':>12}{'bare: CPU, wall':>18}{'last CPU':>10}"
    print(f"\n{models} models{heads}")
    print(f"{'median':>50}{'min':>8}{'median':>8}{'min':>8}")
    for row in ROWS:
        ours, bare = samples.get(row.ours), samples.get(row.bare)
        if ours and bare:
            memory = median(s.memory for s in ours) / median(s.memory for s in bare)
            cells = "".join(
                f"{_seconds(ours, row, clock, of) / _seconds(bare, row, clock, of):8.2f}"
                for clock in (0, 1)
                for of in (median, min)
            )
            spent = [f"{_seconds(bare, row, clock, median):7.2f} s" for clock in (0, 1)]
            ratio = _seconds(ours, row, 0, median) / _seconds(bare, row, 0, median)
            found[row.title] = round(ratio, 2)
            before = f"{last[row.title]:8.2f}" if row.title in last else ""
            worse = "  worse" if ratio > 1.1 * last.get(row.title, ratio) else ""
            print(f"{row.title:<42}{cells}{memory:12.2f}{''.join(spent)}{before}{worse}")
    if "tick" in samples:
        later = median(sample.phases["later"][0] for sample in samples["tick"]) / 2
        print(f"later ticks: {later * 1000 / models:.2f} CPU ms a model each")
    for label in ("in process", "spawned", "forked", "forked alone"):
        if label in samples:
            cpu, wall = (
                _seconds(samples[label], STEPS, clock, median)
                - _seconds(samples["steps bare"], STEPS, clock, median)
                for clock in (0, 1)
            )
            print(f"{label}: {cpu / models:.2f} CPU and {wall / models:.2f} s a step beyond bare")
            facts = samples[label][-1].facts
            if facts["waiting"]:
                print(
                    f"{label}: {facts['waiting_cpu']} CPU s in the process of a step that never"
                    f" imports SQLMesh; {facts['waiting']} of {models} steps"
                )
    for label in LOGS:
        if label in samples:
            facts = samples[label][-1].facts
            records, size = int(facts["records"]), int(facts["bytes"])
            print(
                f"{label}: {records} records in the event log, {records / models:.1f} a model;"
                f" the instance then has {size / 2**20:.2f} MiB"
            )
    sys.stdout.flush()
    return found


def _seconds(
    samples: Sequence[Sample], row: Row, clock: int, of: Callable[[Iterable[float]], float]
) -> float:
    return of([sample.seconds(row.phases)[clock] for sample in samples])


def _python(script: str, *arguments: str) -> Sample:
    """Runs a script of this folder in a fresh process, and measures that."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as log:
        began = time.perf_counter()
        command = [sys.executable, str(HERE / script), *arguments]
        process = subprocess.Popen(command, env=ENVIRONMENT, stdout=out, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)  # its usage counts the worker's children, too
        wall = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        log.seek(0)
        if process.returncode:
            sys.exit(f"{log.read()}\n`{' '.join(command)}` failed.")
        said = json.loads((out.read().splitlines() or ["{}"])[-1])
    return Sample(
        process=(usage.ru_utime + usage.ru_stime, wall),
        memory=usage.ru_maxrss / 1024,
        phases=said.get("phases", {}),
        facts=said.get("facts", {}),
    )


if __name__ == "__main__":
    main()
