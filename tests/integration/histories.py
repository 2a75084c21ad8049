"""Random projects and histories of runs: by the integration, and by SQLMesh alone, on copies."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import dagster as dg
from sqlmesh import Context
from sqlmesh.core.console import NoopConsole, set_console
from tests.sqlmesh_dagster.projects import Project, run_in_process

from sqlmesh_dagster.upstream.sqlmesh import without_forks

BEGIN = datetime(2025, 1, 1, tzinfo=timezone.utc)
_SIGNAL = """
from sqlmesh import signal

@signal()
def on_even_days(batch):
    return [interval for interval in batch if interval[0].day % 2 == 0]
"""


@dataclass(frozen=True)
class Launch:
    """One run of some models.

    Attributes:
        names: Of the selected models.
        options: `start`, `end` and `ignore_cron`, as both sides know them.
    """

    at: datetime
    names: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """A project's models, by name with query and properties, and what is launched, in order."""

    models: Mapping[str, tuple[str, str]]
    launches: Sequence[Launch]


def random_case(seed: int) -> Case:
    """Models of every kind that run on DuckDB, in a random graph; some fail for some days."""
    chance = random.Random(seed)
    models: dict[str, tuple[str, str]] = {}
    for place in range(chance.randint(3, 6)):
        parents = chance.sample(sorted(models), k=min(len(models), chance.choice([0, 1, 1, 2, 2])))
        models[f"m{place}"] = _model(chance, f"m{place}", parents)
    shown = [name for name, (_, properties) in models.items() if "EMBEDDED" not in properties]
    moment, launches = BEGIN, []
    for _ in range(chance.randint(2, 4)):
        moment += timedelta(hours=chance.randint(3, 80))
        names = tuple(chance.sample(shown, k=chance.randint(1, max(1, len(shown) // 2))))
        launches.append(Launch(moment, names, _options(chance, moment)))
    return Case(models, launches)


def _options(chance: random.Random, moment: datetime) -> dict[str, Any]:
    options: dict[str, Any] = {}
    days = (moment - BEGIN).days
    if days > 2 and chance.random() < 0.2:
        first = chance.randint(0, days - 1)
        options["start"] = f"{BEGIN + timedelta(days=first):%Y-%m-%d}"
        options["end"] = f"{BEGIN + timedelta(days=chance.randint(first, days - 1)):%Y-%m-%d}"
    if chance.random() < 0.2:
        options["ignore_cron"] = True
    return options


def _model(chance: random.Random, name: str, parents: Sequence[str]) -> tuple[str, str]:
    series = "SELECT unnest(generate_series('2025-01-01'::TIMESTAMP, '2025-01-20'::TIMESTAMP, INTERVAL 6 HOUR))"
    sources = [f"SELECT at, via FROM demo.{parent}" for parent in parents] or [
        f"SELECT at, 'source' AS via FROM ({series} AS at)"
    ]
    kind = chance.choice(_KINDS)
    cron = chance.choice(["@daily", "@daily", "@hourly", "@weekly", "30 12 * * *"])
    properties = f"kind {kind}, cron '{cron}'"
    if "@weekly" in properties and chance.random() < 0.5:
        properties += ", interval_unit 'day'"
    where = "WHERE at BETWEEN @start_ts AND @end_ts" if "TIME_RANGE" in kind else ""
    if chance.random() < 0.15:
        properties += ", signals (on_even_days())"
    if chance.random() < 0.15 and "VIEW" not in kind and "EMBEDDED" not in kind:
        day = f"{BEGIN + timedelta(days=chance.randint(2, 9)):%Y-%m-%d}"
        where += (
            f" {'AND' if where else 'WHERE'} IF(@execution_ds < '{day}', error('not yet'), TRUE)"
        )
    query = " UNION ALL ".join(sources)
    return (
        f"SELECT DISTINCT at::TIMESTAMP AS at, (via || '>{name}')::TEXT AS via FROM ({query}) {where}",
        properties,
    )


_KINDS = (
    "FULL",
    "FULL",
    "VIEW",
    "EMBEDDED",
    "INCREMENTAL_BY_TIME_RANGE (time_column at)",
    "INCREMENTAL_BY_TIME_RANGE (time_column at)",
    "INCREMENTAL_BY_TIME_RANGE (time_column at, batch_size 2)",
    "INCREMENTAL_BY_TIME_RANGE (time_column at, lookback 2)",
    "INCREMENTAL_BY_UNIQUE_KEY (unique_key (at, via))",
    "SCD_TYPE_2_BY_COLUMN (unique_key (at, via), columns [via])",
)


def planned_twice(case: Case, folder: Path) -> tuple[Project, Project]:
    """Two projects with one state, planned by SQLMesh alone, in which nothing has been built."""
    ours = Project(folder / "ours", {"environment": "prod"})
    ours.write("signals/__init__.py", _SIGNAL)
    config = ours.root / "config.yaml"
    config.write_text(f"{config.read_text()}infer_python_dependencies: false\n")  # saves 1 s a plan
    for name, (query, properties) in case.models.items():
        ours.model(name, query, properties)
    with alone(ours, load=True) as context:
        context.plan(auto_apply=True, no_prompts=True, skip_backfill=True, skip_tests=True)
    theirs = Project(folder / "theirs")
    for path in ("models", "signals"):
        shutil.copytree(ours.root / path, theirs.root / path)
    shutil.copy(ours.database, theirs.database)
    return ours, theirs


def run_alone(project: Project, launch: Launch) -> bool:
    """As `sqlmesh run --select-model` does; whether it did not fail."""
    with alone(project) as context:
        status = context.run(
            "prod",
            select_models=[f"demo.{name}" for name in launch.names],
            execution_time=launch.at,
            skip_janitor=True,
            **launch.options,
        )
        return not status.is_failure


def run_in_dagster(
    definitions: dg.Definitions, instance: dg.DagsterInstance, launch: Launch
) -> bool:
    """The same by the integration; whether the Dagster run succeeded."""
    options = {**launch.options, "skip_janitor": True}
    return run_in_process(
        definitions, instance, *launch.names, options=options, now=launch.at.isoformat()
    ).success


def warehouse(project: Project, names: Sequence[str]) -> dict[str, tuple[object, object]]:
    """Of each model: its recorded intervals, and its rows as its view shows them, if there is one."""
    with alone(project) as context:
        stored = context.state_reader.get_environment("prod")
        assert stored is not None
        snapshots = context.state_reader.get_snapshots(stored.snapshots).values()
        intervals = {s.name.split(".")[-1].strip('"'): s.intervals for s in snapshots}
    return {name: (intervals[name], _rows(project, name)) for name in names}


def _rows(project: Project, name: str) -> object:
    try:
        return sorted(project.query(f"SELECT * FROM demo.{name}"), key=str)
    except Exception as error:  # nothing was built, so that its table is not there
        return type(error).__name__


@contextmanager
def alone(project: Project, *, load: bool = False) -> Iterator[Context]:
    """SQLMesh's own context."""
    set_console(NoopConsole())
    with without_forks():
        context = Context(paths=str(project.root), load=load)
    try:
        yield context
    finally:
        context.close()
        context.engine_adapter.close()
