"""One sqlmesh run for each Dagster run, whichever assets are selected and whichever executor runs the steps."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest
from tests.sqlmesh_dagster.projects import (
    Project,
    Run,
    run_forked,
    run_in_process,
    run_multiprocess,
)

_TOP = """
import time
import typing as t
import pandas as pd
from sqlmesh import ExecutionContext, model

@model("demo.top", columns={"id": "int"}, kind="FULL", audits=[("not_null", {"columns": ["id"]})])
def execute(context: ExecutionContext, **kwargs: t.Any) -> pd.DataFrame:
    time.sleep(1)
    return pd.DataFrame({"id": [1]})
"""
"""Slow enough for its step to look, while its run goes on, whether somebody must lead one."""


def _diamond(project: Project) -> None:
    project.write("models/top.py", _TOP)
    project.model("left_side", "SELECT id FROM demo.top")
    project.model("right_side", "SELECT id FROM demo.top")
    project.model("bottom", "SELECT l.id FROM demo.left_side AS l, demo.right_side AS r")


_CONFIG = """
from pathlib import Path

from sqlmesh.core.config import Config, DuckDBConnectionConfig, GatewayConfig, ModelDefaultsConfig
from sqlmesh.core.notification_target import GenericNotificationTarget


class Begun(GenericNotificationTarget):
    def notify_run_start(self, *args, **kwargs):
        with Path({begun!r}).open("a") as file:
            file.write("begun\\n")


config = Config(
    gateways={{"": GatewayConfig(connection=DuckDBConnectionConfig(database={database!r}))}},
    model_defaults=ModelDefaultsConfig(dialect="duckdb", start="2025-01-01", cron="@daily"),
    disable_anonymized_analytics=True,
    notification_targets=[Begun(notify_on={{"run_start"}})],
)
"""

_IMPORTS_OF_A_WAITING_STEP = 25
"""Counted: 13, where 540 were imported before; a version of Dagster may have some more."""
_NOTES_IMPORTS = """
import json, os, sys
from multiprocessing import parent_process, util

def note(is_load):
    from preloaded import BEFORE
    imported = [] if is_load else sorted(set(sys.modules) - BEFORE)
    told = {{"process": os.getpid(), "is_load": is_load, "imported": imported}}
    with open({log!r}, "a") as file:
        file.write(json.dumps(told) + os.linesep)

if parent_process() is not None:
    note(True)
    util.Finalize(None, note, (False,), exitpriority=1)
"""
"""Says of each step's process when it loads its definitions and, when it ends, what it has imported."""


def _deployed(project: Project, instance: dg.DagsterInstance) -> None:
    """Creates the environment without building anything, and counts runs from then on.

    SQLMesh notifies of each run that begins, also of one with nothing to do, which leaves no other trace.
    """
    (project.root / "config.yaml").unlink()
    begun, database = str(_begun(project)), str(project.database)
    project.write("config.py", _CONFIG.format(begun=begun, database=database))
    project.model("bootstrap", "SELECT 1::INT AS id")
    run_in_process(project.definitions(), instance, "bootstrap")
    _begun(project).write_text("")


def _begun(project: Project) -> Path:
    return project.root / "begun.log"


def _sqlmesh_runs(project: Project) -> int:
    """How many `sqlmesh run`s have begun."""
    return len(_begun(project).read_text().splitlines())


def test_all_selected_models_share_one_sqlmesh_run_in_process(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: as many models, one run, also while the step that leads it waits for its own model."""
    _diamond(project)
    _deployed(project, instance)
    names = ("top", "left_side", "right_side", "bottom")
    run = run_in_process(project.definitions(), instance, *names)
    assert run.success
    assert sorted(run.materialized) == ["bottom", "left_side", "right_side", "top"]
    assert _sqlmesh_runs(project) == 1


@pytest.mark.slow
def test_all_selected_models_share_one_sqlmesh_run_in_many_processes(
    project: Project, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    """Promise: the multiprocess executor gives the same events, and one run."""
    _diamond(project)
    _deployed(project, instance)
    _is_one_run(project, run_multiprocess(project, tmp_path / "home", max_concurrent=1))


def _is_one_run(project: Project, run: Run) -> None:
    assert run.success, run.failed
    assert sorted(run.materialized) == ["bottom", "left_side", "right_side", "top"]
    assert run.unchanged == ["bootstrap"]
    assert run.passed == {"top:not_null_id": True}
    assert _sqlmesh_runs(project) == 1
    assert project.query("SELECT count(*) FROM demo__dev.bottom") == [(1,)]


@pytest.mark.slow
def test_a_forked_step_that_only_waits_imports_no_sqlmesh_and_loads_definitions_once(
    project: Project, instance: dg.DagsterInstance, tmp_path: Path, cold_processes: None
) -> None:
    """Promise: one run as above; what is preloaded is all that such a step needs, but for small modules."""
    _diamond(project)
    _deployed(project, instance)
    home, log = tmp_path / "home", tmp_path / "imported.jsonl"
    home.mkdir()
    (home / "preloaded.py").write_text("import sys\nBEFORE = frozenset(sys.modules)\n")
    body = _NOTES_IMPORTS.format(log=str(log))
    run = run_forked(project, home, preloaded="preloaded", body=body, max_concurrent=3)
    _is_one_run(project, run)
    steps = [json.loads(line) for line in log.read_text().splitlines()]
    loads = Counter(step["process"] for step in steps if step["is_load"])
    assert list(loads.values()) == [1] * 5
    imported = [set(step["imported"]) for step in steps if not step["is_load"]]
    waited = [names for names in imported if "sqlmesh" not in names]
    assert (len(imported), len(waited)) == (5, 4), "one step leads"
    assert not any("IPython" in names for names in imported), "SQLMesh's report of its use needs it"
    for names in waited:
        assert len(names) <= _IMPORTS_OF_A_WAITING_STEP, sorted(names)


def test_models_that_are_not_selected_are_not_touched(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: neither upstream nor downstream of the selection is built."""
    _diamond(project)
    definitions = project.definitions()
    first = run_in_process(definitions, instance, "top", "left_side")
    assert first.materialized == ["top", "left_side"]
    assert project.query("SELECT count(*) FROM demo__dev.right_side") == [(0,)]
    second = run_in_process(definitions, instance, "bottom", "right_side")
    assert second.materialized == ["right_side", "bottom"]


def test_neither_definitions_nor_a_run_fork_a_process(
    project: Project, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fork of Dagster's threaded processes can hang; SQLMesh forks where the machine has cores for it."""
    from sqlmesh.core import constants

    def refuse() -> int:
        raise AssertionError("forked")

    for name in ("a", "b"):
        project.model(name, "SELECT 1::INT AS id")
    monkeypatch.setattr(constants, "MAX_FORK_WORKERS", 4)
    monkeypatch.setattr("os.fork", refuse)
    definitions = project.definitions()
    assert run_in_process(definitions, instance).success
    project.model("b", "SELECT 2::INT AS id")
    assert run_in_process(project.definitions(), instance).success


def test_a_step_ends_when_its_model_has_and_not_when_the_run_ends(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: the first model's step is not held up by a slow one."""
    project.model("quick", "SELECT 1::INT AS id")
    project.write(
        "models/slow.py",
        """
        import time
        import typing as t
        import pandas as pd
        from sqlmesh import ExecutionContext, model

        @model("demo.slow", columns={"id": "int"}, kind="FULL", depends_on=["demo.quick"])
        def execute(context: ExecutionContext, **kwargs: t.Any) -> pd.DataFrame:
            time.sleep(4)
            return pd.DataFrame({"id": [1]})
        """,
    )
    run = run_in_process(project.definitions(), instance)
    assert run.success
    starts = {s.step_key: s for s in instance.get_run_step_stats(run.run_id)}
    quick, slow = starts["warehouse__demo__quick"], starts["warehouse__demo__slow"]
    assert quick.end_time is not None
    assert slow.end_time is not None
    assert slow.end_time - quick.end_time >= 3.5


_INGEST = """
import time
import duckdb

@dg.asset(key=["raw", "orders"])
def orders(sqlmesh: SQLMeshResource) -> None:
    time.sleep(6)
    with sqlmesh.connection() as adapter:
        adapter.execute("CREATE OR REPLACE TABLE raw.orders AS SELECT 2 AS id")

extra = [orders]

class Translator(SQLMeshTranslator):
    def get_external_asset_key(self, external_fqn):
        return dg.AssetKey(["raw", "orders"])

translator = Translator()
"""


def _reads_raw(project: Project, instance: dg.DagsterInstance) -> None:
    project.execute("CREATE SCHEMA raw")
    project.execute("CREATE TABLE raw.orders AS SELECT 1 AS id")
    project.model("staged", "SELECT id::INT AS id FROM raw.orders")
    project.model("mart", "SELECT id FROM demo.staged")
    project.model("unrelated", "SELECT 1::INT AS id")
    _deployed(project, instance)


def _ingest_in_process(project: Project, instance: dg.DagsterInstance, home: Path) -> Run:
    scope = {"dg": dg}
    exec("from sqlmesh_dagster import *", scope)
    exec(_INGEST, scope)
    merged = dg.Definitions.merge(
        project.definitions(translator=scope["translator"]),
        dg.Definitions(assets=scope["extra"]),  # type: ignore[arg-type]
    )
    return run_in_process(merged, instance)


def _ingest_in_processes(project: Project, instance: dg.DagsterInstance, home: Path) -> Run:
    return run_forked(project, home, body=_INGEST, max_concurrent=3)


@pytest.mark.parametrize(
    "execute",
    [_ingest_in_process, pytest.param(_ingest_in_processes, marks=pytest.mark.slow)],
)
def test_a_slow_ingest_asset_is_finished_before_the_models_that_read_it_are_built(
    project: Project,
    instance: dg.DagsterInstance,
    tmp_path: Path,
    execute: Callable[[Project, dg.DagsterInstance, Path], Run],
) -> None:
    """Promise: models are never built on the data of before; others are not wrong for waiting."""
    _reads_raw(project, instance)
    run = execute(project, instance, tmp_path / "home")
    assert run.success, run.failed
    assert set(run.materialized) == {"orders", "staged", "mart", "unrelated"}
    assert project.query("SELECT id FROM demo__dev.mart") == [(2,)]
    assert _sqlmesh_runs(project) <= 2


def test_a_failed_ingest_asset_leaves_the_models_that_read_it_alone(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: what Dagster skips, SQLMesh does not build; what does not depend on it is built."""
    project.execute("CREATE SCHEMA raw")
    project.execute("CREATE TABLE raw.orders AS SELECT 1 AS id")
    project.model("staged", "SELECT id::INT AS id FROM raw.orders")
    project.model("mart", "SELECT id FROM demo.staged")
    project.model("unrelated", "SELECT 1::INT AS id")

    @dg.asset(key=["raw", "orders"])
    def orders() -> None:
        raise RuntimeError("the supplier is closed")

    merged = dg.Definitions.merge(
        project.definitions(external_asset_mapping="{node.schema}/{node.name}"),
        dg.Definitions(assets=[orders]),
    )
    run = run_in_process(merged, instance)
    assert not run.success
    assert run.materialized == ["unrelated"]
    assert list(run.failed) == ["raw__orders"]
    assert project.query("SELECT count(*) FROM demo__dev.mart") == [(0,)]


def test_a_python_asset_between_two_models_is_run_between_them(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: model → Python → model in one Dagster run, each on what the one before it made."""
    project.execute("CREATE SCHEMA py")
    project.execute("CREATE TABLE py.scored AS SELECT 0 AS id")
    project.model("first", "SELECT 7::INT AS id")
    project.model("last_one", "SELECT id::INT AS id FROM py.scored")

    @dg.asset(key=["py", "scored"], deps=[["warehouse", "demo", "first"]])
    def scored() -> None:
        rows = project.query("SELECT id + 1 FROM demo__dev.first")
        project.execute(f"CREATE OR REPLACE TABLE py.scored AS SELECT {rows[0][0]} AS id")

    merged = dg.Definitions.merge(
        project.definitions(external_asset_mapping="{node.schema}/{node.name}"),
        dg.Definitions(assets=[scored]),
    )
    run = run_in_process(merged, instance)
    assert run.success, run.failed
    assert run.materialized == ["first", "scored", "last_one"]
    assert project.query("SELECT id FROM demo__dev.last_one") == [(8,)]


@pytest.mark.slow
def test_a_custom_translator_is_honoured_in_every_process(
    project: Project, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    """Promise: the keys of the events are the translator's, also in the step processes."""
    project.model("renamed", "SELECT 1::INT AS id", "kind FULL, audits (not_null(columns := (id)))")
    body = """
    class Translator(SQLMeshTranslator):
        def get_asset_key(self, model):
            return dg.AssetKey(["custom", model.view_name + "_mine"])

    translator = Translator()
    """
    run = run_multiprocess(project, tmp_path / "home", body=body)
    assert run.success, run.failed
    assert run.materialized == ["renamed_mine"]
    assert run.passed == {"renamed_mine:not_null_id": True}
