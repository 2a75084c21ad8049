"""Random operations on twelve models: rows, intervals, materializations and checks are those of SQLMesh alone.

`OPERATIONS_SEED=7 OPERATIONS_CASES=20 OPERATIONS_STEPS=15 pytest -m storm tests/integration/test_random_operations.py`
tries others; with `-s` each case prints what it did.
"""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from sqlmesh import Context
from sqlmesh.core.console import NoopConsole, set_console
from tests.sqlmesh_dagster.projects import Project, Run, run_in_process

from tests.integration import alone

FIRST, CASES, STEPS = (
    int(os.environ.get(f"OPERATIONS_{name}", default))
    for name, default in (("SEED", "1"), ("CASES", "4"), ("STEPS", "12"))
)
_MODELS = 12
_BEGIN = datetime(2025, 1, 6, 0, 30, tzinfo=timezone.utc)
_FLAG = "SELECT 1 AS one FROM main.flags WHERE name = @model AND what = @what"
_FILES = {
    "audits/flag.sql": f"AUDIT (name flag); {_FLAG}",
    "audits/told.sql": f"AUDIT (name told, blocking false); {_FLAG}",
    "signals/__init__.py": "from sqlmesh import signal\n\n\n@signal()\ndef even_days(batch):\n"
    "    return [i for i in batch if i[0].day % 2 == 0]\n",
}
_RANGE = "INCREMENTAL_BY_TIME_RANGE (time_column at{})"
_RANGES = [
    _RANGE.format(more)
    for more in ("", ", batch_size 1", ", batch_size 2, lookback 1", ", forward_only true")
]
_CRONS = ["@daily", "@daily", "@hourly", "@weekly", "30 12 * * *"]
_KINDS = {
    "FULL": 3,
    "VIEW": 1,
    **dict(zip(_RANGES, (2, 2, 1, 1), strict=True)),
    "INCREMENTAL_BY_UNIQUE_KEY (unique_key (at, via))": 1,
    "INCREMENTAL_BY_PARTITION": 1,
    "SCD_TYPE_2_BY_COLUMN (unique_key (at, via), columns [n])": 1,
}
"""Kinds, and how often each is drawn."""


class _Heard(alone.Heard):
    """Also which models failed."""

    def __init__(self) -> None:
        super().__init__()
        self.failed: set[str] = set()

    def log_failed_models(self, errors: list[Any]) -> None:
        """Records them."""
        self.failed |= {error.node.snapshot_name.split(".")[-1].strip('"') for error in errors}


@dataclass
class _Pair:
    """A project through Dagster and its copy for SQLMesh alone, to which the same is done."""

    chance: random.Random
    ours: Project
    theirs: Project
    instance: dg.DagsterInstance
    moment: datetime = _BEGIN
    kinds: dict[str, str] = field(default_factory=dict)
    texts: dict[str, tuple[str, str]] = field(default_factory=dict)
    flags: set[tuple[str, str]] = field(default_factory=set)
    open: list[str] = field(default_factory=list)
    found: set[tuple[str, str]] = field(default_factory=set)
    """What audits of models found whose batches of that time are not built again."""
    has_dev: bool = False
    drawn: int = 0
    said: list[str] = field(default_factory=list)

    def begin(self) -> None:
        """Writes all models and deploys them."""
        for project in (self.ours, self.theirs):
            for path, text in _FILES.items():
                project.write(path, text)
            project.execute("CREATE TABLE main.flags (name TEXT, what TEXT)")
        for _ in range(_MODELS):
            self._draw()
        self.deploy()

    def _draw(self) -> None:
        self.drawn += 1
        name = f"m{self.drawn}"
        kind = self.chance.choices([*_KINDS], [*_KINDS.values()])[0]
        cron = self.chance.choice(_CRONS)
        parents = self.chance.sample(
            [*self.texts], k=min(len(self.texts), self.chance.randint(0, 2))
        )
        sources = [f"SELECT at, via, n FROM demo.{parent}" for parent in parents] or [
            "SELECT at, 'source' AS via, 1 AS n FROM (SELECT unnest(generate_series("
            "'2025-01-01'::TIMESTAMP, '2025-02-01'::TIMESTAMP, INTERVAL 6 HOUR)) AS at)"
        ]
        where = [] if kind == "VIEW" else [f"NOT {_broken(name)}"]
        if kind.startswith("INCREMENTAL_BY_TIME"):
            where.append("at BETWEEN @start_ts AND @end_ts")
        more = ", partitioned_by (via)" if kind.endswith("PARTITION") else ""
        if self.chance.random() < 0.15:
            more += ", signals (even_days())"
        audits = (
            f"flag(model := '{name}', what := 'blocking'), told(model := '{name}', what := 'told')"
        )
        self.kinds[name] = kind
        self.texts[name] = (
            f"SELECT DISTINCT at::TIMESTAMP AS at, (via || '>{name}')::TEXT AS via, (n + 0)::INT AS n"
            f" FROM ({' UNION ALL '.join(sources)}) {'WHERE ' if where else ''}{' AND '.join(where)}",
            f"kind {kind}, cron '{cron}', audits ({audits}){more}",
        )
        self._write(name)

    def _write(self, name: str) -> None:
        for project in (self.ours, self.theirs):
            project.model(name, *self.texts[name])

    # What may happen.

    def pass_time(self) -> None:
        """Hours or days."""
        self.moment += timedelta(hours=self.chance.choice([1, 5, 24, 24, 40]))
        self.run_all()

    def run_all(self) -> None:
        """Everything, as the schedule does."""
        self._both(lambda context: context.run("prod", execution_time=self.moment), "prod")

    def run_some(self) -> None:
        """A selection."""
        self._run_names(self.chance.sample([*self.texts], k=self.chance.randint(1, 4)))

    def retry(self) -> None:
        """What failed or was skipped in the last run, as a retry from failure takes it."""
        if self.open:
            self._run_names(self.open)

    def flag(self) -> None:
        """A model breaks, or one of its audits will find something."""
        name, what = (
            self.chance.choice([*self.texts]),
            self.chance.choice(["broken", "blocking", "told"]),
        )
        self._set({*self.flags, (name, what)})
        self.pass_time()

    def mend(self) -> None:
        """Nothing is broken any more."""
        self._set(set())
        self.run_all()

    def deploy(self) -> None:
        """An edited model, or those that `dev` has, reach production."""
        self.mend() if self.said else None
        if not self.has_dev and self.said:
            self._edit()
        self.has_dev = False
        self._plan("prod")

    def replace(self) -> None:
        """A model that nothing reads is deleted, and there is a new one."""
        self.mend()
        self._delete()
        self._draw()
        self.has_dev = False
        self._plan("prod")

    def develop(self) -> None:
        """An edited model is built in `dev`."""
        self.mend()
        self._edit()
        self.has_dev = True
        self._plan("dev")

    def restate(self) -> None:
        """A model and what reads it are built again for some days."""
        names = [n for n, kind in self.kinds.items() if "TIME_RANGE" in kind]
        if not names or self.has_dev:
            return
        self.mend()
        name, first = self.chance.choice(names), self.chance.randint(1, 3)
        span: dict[str, Any] = {
            "start": f"2025-01-0{first}",
            "end": f"2025-01-0{self.chance.randint(first, 4)}",
        }
        self._both(
            lambda context: context.plan(
                "prod",
                restate_models=[f"demo.{name}"],
                execution_time=self.moment,
                auto_apply=True,
                no_prompts=True,
                skip_tests=True,
                **span,
            ),
            "prod",
            [name],
            {"restate": True, "restate_downstream": True, **span},
        )

    def _edit(self) -> None:
        name, number = self.chance.choice([*self.texts]), self.chance.randint(1, 10**6)
        change = self.chance.choice([*_EDITS])
        pattern, options = _EDITS[change]
        new = self.chance.choice(options).replace("NUMBER", str(number))
        query, properties = self.texts[name]
        if change in ("value", "columns"):
            query = re.sub(pattern, new, query, count=1)
        else:
            properties = re.sub(pattern, new, properties, count=1)
        self.texts[name] = query, properties
        self._write(name)
        self.said.append(f"edited {change} of {name}: {new}")

    def _delete(self) -> None:
        read = " ".join(query for query, _ in self.texts.values())
        unread = [name for name in self.texts if not re.search(rf"demo\.{name}\b", read)]
        name = self.chance.choice(unread)
        for project in (self.ours, self.theirs):
            (project.root / f"models/demo_46_{name}.sql").unlink()
        del self.texts[name], self.kinds[name]
        self.said.append(f"deleted {name}")

    def _set(self, flags: set[tuple[str, str]]) -> None:
        self.flags = flags
        for project in (self.ours, self.theirs):
            rows = ", ".join(f"('{name}', '{what}')" for name, what in sorted(flags))
            project.execute("DELETE FROM main.flags")
            if rows:
                project.execute(f"INSERT INTO main.flags VALUES {rows}")

    def _run_names(self, names: Sequence[str]) -> None:
        select = [f"demo.{name}" for name in names]
        self._both(
            lambda context: context.run("prod", select_models=select, execution_time=self.moment),
            "prod",
            names,
        )

    def _plan(self, environment: str) -> None:
        self._both(
            lambda context: context.plan(
                environment,
                execution_time=self.moment,
                auto_apply=True,
                no_prompts=True,
                skip_tests=True,
                include_unmodified=True,
                enable_preview=False,  # as in Dagster
            ),
            environment,
            undeployed_changes="apply",
            is_plan=True,
        )

    # Both ways, and what must be equal.

    def _both(
        self,
        act: Callable[[Context], object],
        environment: str,
        names: Sequence[str] = (),
        options: dict[str, Any] | None = None,
        *,
        is_plan: bool = False,
        **settings: Any,
    ) -> None:
        heard = _Heard()
        set_console(heard)
        context = Context(paths=str(self.theirs.root), load=is_plan)
        try:
            act(context)
        finally:
            context.close()
            context.engine_adapter.close()
            set_console(NoopConsole())
        definitions = self.ours.definitions(
            **{"environment": environment, "undeployed_changes": "warn", **settings}
        )
        now = self.moment.isoformat()
        run = run_in_process(definitions, self.instance, *names, options=options, now=now)
        self.said.append(f"{self.moment:%d %H:%M} {environment} {names} {options} {self.flags}")
        story = "\n".join(self.said)
        assert alone.done(self.ours, environment) == alone.done(self.theirs, environment), story
        suffix = "" if environment == "prod" else f"__{environment}"
        for name in self.texts:
            rows = [_rows(project, f"demo{suffix}.{name}") for project in (self.ours, self.theirs)]
            assert rows[0] == rows[1], f"{name}\n{story}"
        self._assert_told(run, heard, story, is_whole=not names)

    def _assert_told(self, run: Run, heard: _Heard, story: str, *, is_whole: bool) -> None:
        failed = {key.split("__")[-1] for key in run.failed}
        assert failed == heard.failed, f"{run.failed}\n{story}"
        assert run.success is (not heard.failed), story
        built = {*heard.evaluated} - heard.failed
        told = {*run.materialized}
        # what a selection needs upstream, or restates downstream, is reported by the sync
        assert told == built if is_whole else told <= built, f"{told ^ built}\n{story}"
        for name in self.texts:
            for check, what in (("flag", "blocking"), ("told", "told")):
                found = run.passed.get(f"{name}:{check}")
                is_flagged = (name, what) in self.flags
                if name in told and (is_flagged or (name, what) not in self.found):
                    assert found == (not is_flagged), f"{name}:{check} {found}\n{story}"
                if found is False and "TIME_RANGE" in self.kinds[name]:
                    self.found.add((name, what))
                if (name, what) in self.flags and check == "flag" and name in failed:
                    assert found is False or (name, "broken") in self.flags, f"{name}\n{story}"
        steps = {key.split("__")[-1] for key in run.started}
        self.open = sorted(failed | ({*self.texts} - steps if is_whole else set()))


def _broken(name: str) -> str:
    flagged = f"(SELECT COUNT(*) FROM main.flags WHERE name = '{name}' AND what = 'broken') > 0"
    return f"IF({flagged}, error('{name} is broken'), FALSE)"


def _rows(project: Project, view: str) -> object:
    try:
        return sorted(map(repr, project.query(f"SELECT * FROM {view}")))
    except Exception as error:  # it was never built
        return type(error).__name__


_EDITS = {
    "value": (r"\(n \+ \d+\)", ["(n + NUMBER)"]),
    "columns": (r"::INT AS n\b", ["::INT AS n, NUMBER::INT AS more_NUMBER"]),
    "cron": (r"(?<=cron ')[^']*", _CRONS),
    "kind": (r"INCREMENTAL_BY_TIME_RANGE \([^)]*\)", _RANGES),
    "description": (r"(, description '[^']*')?\Z", [", description 'NUMBER'"]),
}
"""What of a model is edited: where it stands, and what may stand there then."""
_OPERATIONS = {
    _Pair.pass_time: 4,
    _Pair.run_some: 3,
    _Pair.flag: 4,
    _Pair.retry: 2,
    _Pair.mend: 1,
    _Pair.deploy: 2,
    _Pair.develop: 2,
    _Pair.replace: 1,
    _Pair.restate: 1,
}
"""What may happen, and how often."""


@pytest.mark.storm
@pytest.mark.parametrize("seed", range(FIRST, FIRST + CASES))
def test_whatever_happens_dagster_says_what_sqlmesh_did(
    seed: int, project: Project, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    """Promise: after each operation, of this seed or any other."""
    chance = random.Random(seed)
    copy = alone.copied(project, tmp_path / "copy")
    pair = _Pair(chance, project, copy, instance)
    pair.begin()
    for operation in chance.choices([*_OPERATIONS], [*_OPERATIONS.values()], k=STEPS):
        pair.said.append(operation.__name__)
        operation(pair)
    print("\n".join(pair.said))
