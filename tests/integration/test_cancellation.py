"""Runs that are stopped while SQLMesh does something else than to build a model."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import duckdb
import pytest
from tests.sqlmesh_dagster.projects import (
    Project,
    last_run,
    multiprocess,
    run_config,
    run_in_process,
    start,
)

from sqlmesh_dagster import SQLMeshResource, SQLMeshTranslator, TranslatorSettings
from sqlmesh_dagster.guard.cancel import CancelToken
from sqlmesh_dagster.upstream.interrupting import Interrupter

pytestmark = pytest.mark.slow

_LIMIT = 10
"""Seconds from the signal until the process has ended."""
_MACROS = """
import time
from pathlib import Path

from sqlmesh import macro
from sqlmesh.core.macros import MacroEvaluator

BEGUN = {begun!r}
GO_ON = {go_on!r}


@macro()
def begins(evaluator: MacroEvaluator) -> str:
    if evaluator.runtime_stage in ("auditing", "before_all"):
        Path(BEGUN).touch()
    return "TRUE"


@macro()
def holds(evaluator: MacroEvaluator) -> str:
    if evaluator.runtime_stage == "before_all":
        Path(BEGUN).touch()
        while not Path(GO_ON).exists():
            time.sleep(0.05)
    return "TRUE"
"""
_SLOW = "SELECT count(*) AS n FROM range(100000000) AS a, main.width AS b"
"""One query, which takes hours when `main.width` has many rows."""
_HOURS_QUERY = "SELECT count(*) AS n FROM range(100000000) AS a, range(100000) AS b"


def _project(project: Project, before_all: str = "") -> Path:
    """Adds macros that make the returned file when they are rendered, before their query is run."""
    begun = project.root / "begun"
    project.write("macros/__init__.py", "")
    go_on = project.root / "go_on"
    project.write("macros/begin.py", _MACROS.format(begun=str(begun), go_on=str(go_on)))
    project.execute("CREATE TABLE main.width AS SELECT 1 AS n")
    if before_all:
        config = (project.root / "config.yaml").read_text()
        project.write("config.yaml", f"{config.rstrip()}\n  - {before_all}\n")
    return begun


def _widen(project: Project) -> None:
    project.execute("INSERT INTO main.width FROM range(100000)")


def _wait_until(condition: Callable[[], bool], home: Path) -> None:
    deadline = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < deadline, (home / "run.log").read_text()
        time.sleep(0.05)


def _write_slow_audit(project: Project) -> None:
    project.write(
        "audits/slow.sql",
        f"AUDIT (name slow); SELECT n FROM ({_SLOW}) AS s WHERE @begins() AND n < 0;\n",
    )


def _stop(run: subprocess.Popen[str], home: Path) -> None:
    asked = time.monotonic()
    run.send_signal(signal.SIGINT)
    try:
        run.wait(60)
    finally:
        run.kill()
    assert time.monotonic() - asked < _LIMIT, (home / "run.log").read_text()


def test_a_check_that_is_executed_alone_stops_in_its_query(
    project: Project, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    """Promise: as a model does, within ten seconds."""
    begun, home = _project(project), tmp_path / "home"
    _write_slow_audit(project)
    project.model("full", "SELECT 1::INT AS id", "kind FULL, audits (slow())")
    assert run_in_process(project.definitions(), instance).success
    begun.unlink()
    _widen(project)
    key = 'dg.AssetCheckKey(dg.AssetKey(["warehouse", "demo", "full"]), "slow")'
    body = f'jobs = [dg.define_asset_job("audit", selection=dg.AssetSelection.checks({key}))]'
    run = start(project, home, body=body, job="audit")
    _wait_until(begun.exists, home)
    _stop(run, home)
    assert last_run(home).checks == {}
    assert project.query("SELECT count(*) FROM demo__dev.full") == [(1,)]


def test_a_run_stops_in_a_statement_before_its_models(
    project: Project, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    """Promise: `before_all` is interrupted, and no model is built."""
    statement = f"CREATE OR REPLACE TABLE main.big AS SELECT n FROM ({_SLOW}) WHERE @begins()"
    begun, home = _project(project, statement), tmp_path / "home"
    project.model("full", "SELECT 1::INT AS id")
    assert run_in_process(project.definitions(), instance).success
    begun.unlink()
    _widen(project)
    run = start(project, home, options={"execution_time": "2025-01-12T00:30:00"})
    _wait_until(begun.exists, home)
    _stop(run, home)
    assert last_run(home).materialized == []


def test_a_plan_promotes_nothing_once_its_run_is_stopped(
    project: Project, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    """Promise: also a plan that builds nothing, such as the one of a new environment."""
    statement = "CREATE OR REPLACE TABLE main.held AS SELECT 1 AS n WHERE @holds()"
    begun, home = _project(project, statement), tmp_path / "home"
    project.model("full", "SELECT 1::INT AS id")
    run = start(project, home)
    _wait_until(begun.exists, home)
    run.send_signal(signal.SIGINT)
    _wait_until(lambda: "STEP_FAILURE" in (home / "run.log").read_text(), home)
    (project.root / "go_on").touch()
    _stop(run, home)
    assert project.query("SELECT count(*) FROM sqlmesh._environments") == [(0,)]
    assert run_in_process(project.definitions(), instance).materialized == ["full"]


def test_a_restatement_that_is_stopped_is_finished_by_the_next_run(
    project: Project, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    """Promise: it stops as any run does; what was not built again by then is, and nothing else."""
    begun, home = _project(project), tmp_path / "home"
    _write_slow_audit(project)
    project.model(
        "daily",
        "SELECT @start_ds::DATE AS day, @execution_ts::TEXT AS built_at",
        "kind INCREMENTAL_BY_TIME_RANGE (time_column day, batch_size 1, batch_concurrency 1),"
        " audits (slow())",
    )
    assert run_in_process(project.definitions(), instance).success
    begun.unlink()
    _widen(project)
    options = {"restate": True, "start": "2025-01-03", "end": "2025-01-05"}
    run = start(project, home, options={**options, "execution_time": "2025-01-10T05:00:00"})
    _wait_until(begun.exists, home)
    _stop(run, home)
    assert last_run(home).materialized == []
    project.execute("DELETE FROM main.width WHERE n > 1")
    after = run_in_process(project.definitions(), instance, now="2025-01-10T06:00:00")
    assert after.materialized == ["daily"]
    rows = project.query("SELECT day::TEXT FROM demo__dev.daily WHERE built_at LIKE '%06:00%'")
    assert sorted(rows) == [("2025-01-03",), ("2025-01-04",), ("2025-01-05",)]
    assert project.query("SELECT count(*) FROM demo__dev.daily") == [(9,)]


def _key(name: str) -> dg.AssetKey:
    return dg.AssetKey(["warehouse", "demo", name])


def _stopped_when(marker: str) -> Callable[[dg.InitLoggerContext], logging.Logger]:
    """A run's logger that stops this process once, when Dagster has stored the event of that text."""

    class Stops(logging.Handler):
        has_stopped = False

        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())
            if marker in said[-1] and not self.has_stopped:
                self.has_stopped = True
                os.kill(os.getpid(), signal.SIGINT)

    said: list[str] = []
    logger = logging.Logger("stops")
    logger.addHandler(Stops())
    return lambda context: logger


def test_what_a_stopped_run_has_built_and_not_promoted_is_not_recorded(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: Dagster says of each model what its view shows, also of partitions and of models beside the run."""
    daily = "kind INCREMENTAL_BY_TIME_RANGE (time_column day)"
    edits = {"days": ("SELECT @start_ds::DATE AS day, {0}::INT AS n", daily)}
    edits["below"] = ("SELECT count(*)::INT AS days, {0}::INT AS n FROM demo.days", "kind FULL")

    def edit(value: int) -> None:
        for name, (query, properties) in edits.items():
            project.model(name, query.format(value), properties)

    edit(1)
    translator = SQLMeshTranslator(settings=TranslatorSettings(partitions=True))
    assert run_in_process(project.definitions(translator=translator), instance).success
    keys = [_key(name) for name in edits]
    known = [instance.get_latest_materialization_event(key) for key in keys]
    edit(2)
    project.write("models/hours.py", _HOURS.replace("kind=", 'depends_on=["demo.days"], kind='))
    stops = dg.logger({})(_stopped_when("Built `demo.days`"))
    definitions = dg.Definitions.merge(
        project.definitions(translator=translator), dg.Definitions(loggers={"stops": stops})
    )
    job = definitions.resolve_implicit_global_asset_job_def()
    result = job.get_subset(asset_selection={keys[1], _key("hours")}).execute_in_process(
        instance=instance,
        run_config={**run_config(), "loggers": {"stops": {}}},
        raise_on_error=False,
    )
    assert not result.success
    assert project.query("SELECT DISTINCT n FROM demo__dev.days") == [(1,)]
    assert [instance.get_latest_materialization_event(key) for key in keys] == known
    (project.root / "models/hours.py").unlink()
    again = run_in_process(project.definitions(translator=translator), instance)
    assert again.success
    assert project.query("SELECT DISTINCT n FROM demo__dev.days") == [(2,)]
    newest = [instance.get_latest_materialization_event(key) for key in keys]
    assert all(event and event.run_id == again.run_id for event in newest)


@pytest.mark.parametrize("moment", ["ASSET_MATERIALIZATION", "STEP_OUTPUT", "STEP_SUCCESS"])
def test_a_signal_stops_the_run_in_whichever_moment_it_comes(
    project: Project, instance: dg.DagsterInstance, moment: str
) -> None:
    """Promise: also while the step that leads yields its result, or after; no model is then waited for.

    Dagster makes an error of it at its next border, where nobody waits for SQLMesh's work.
    """
    project.model("first", "SELECT 1::INT AS id")
    project.write("models/hours.py", _HOURS)
    stops = dg.logger({})(_stopped_when(moment))
    definitions = dg.Definitions.merge(
        project.definitions(), dg.Definitions(loggers={"stops": stops})
    )
    job = definitions.resolve_implicit_global_asset_job_def()
    began = time.monotonic()
    result = job.execute_in_process(
        instance=instance,
        run_config={**run_config(), "loggers": {"stops": {}}},
        raise_on_error=False,
    )
    log = " ".join(entry.user_message for entry in instance.all_logs(result.run_id))
    assert time.monotonic() - began < 60
    assert "waits for what is being built: `demo.hours`" in log
    stored = instance.get_run_by_id(result.run_id)
    assert stored is not None and stored.status is dg.DagsterRunStatus.FAILURE
    assert "interrupted" in log
    assert project.query("SELECT count(*) FROM demo__dev.first") == [(1,)]


@pytest.mark.parametrize("moment", ["STEP_SUCCESS", "teardown"])
def test_a_signal_at_the_end_of_the_leading_process_ends_no_model_in_the_middle(
    instance: dg.DagsterInstance, tmp_path: Path, moment: str
) -> None:
    """Promise: where each step has a process, the one that leads waits after its step; stopped there,
    it says for what, and waits on. It ended at once, and the model with it, or waited in silence.
    """
    resource = SQLMeshResource(project_dir=str(tmp_path))
    ended: list[float] = []
    begun = threading.Event()

    def work(cancel: CancelToken) -> None:
        with duckdb.connect() as cursor, cancel.watching(Interrupter(cursor), "demo.slow"):
            begun.set()
            while not cancel.is_cancelled:
                time.sleep(0.05)
            time.sleep(1)  # a Python model, which ends by itself
        ended.append(time.monotonic())

    def stop_later() -> None:
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGINT)

    @dg.op
    def leads(sqlmesh: SQLMeshResource) -> None:
        sqlmesh.start_work(work)
        assert begun.wait(5)
        if moment == "teardown":
            threading.Thread(target=stop_later).start()

    @dg.job(logger_defs={"stops": dg.logger({})(_stopped_when(moment))})
    def job() -> None:
        leads()

    with contextlib.suppress(dg.DagsterExecutionInterruptedError):
        job.execute_in_process(
            instance=instance,
            resources={"sqlmesh": resource},
            run_config={"loggers": {"stops": {}}},
        )
    assert ended and ended[0] <= time.monotonic()
    (run,) = instance.get_runs()
    log = " ".join(entry.user_message for entry in instance.all_logs(run.run_id))
    assert "waits for what is being built: `demo.slow`" in log


_STOPPED_IN = """
import os
import signal
import time
from pathlib import Path

def stop(where: str) -> None:
    place = Path({place!r})
    if place.exists() and place.read_text() == where:
        place.unlink()
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)
"""
_IN_A_STATEMENT = """
from sqlmesh import macro
from helpers import stop

@macro()
def stops(evaluator, stage):
    if evaluator.runtime_stage == stage.name:
        stop(stage.name)
    return "TRUE"
"""
_IN_A_SIGNAL = """
from sqlmesh import signal
from helpers import stop

@signal()
def stops(batch, **kwargs):
    stop("signal")
    return True
"""
_IN_A_TEST = """
import typing as t
import pandas as pd
from sqlmesh import ExecutionContext, model
from helpers import stop

@model("demo.tested", kind="FULL", columns={"n": "int"}, cron="@daily")
def entry(context: ExecutionContext, **kwargs: t.Any) -> pd.DataFrame:
    if type(context).__name__ == "TestExecutionContext":
        stop("test")
    return pd.DataFrame({"n": [1]})
"""


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("after_all", "`after_all`"),
        ("signal", "the signals of `demo.signalled`"),
        ("test", "the unit tests of `demo.tested`"),
    ],
)
def test_python_beside_the_models_is_named_by_a_run_that_is_stopped(
    project: Project, instance: dg.DagsterInstance, place: str, said: str
) -> None:
    """Promise: it says what it waits for, nothing begins afterwards, and the next run builds all."""
    stop = project.root / "stop"
    project.write("helpers.py", _STOPPED_IN.format(place=str(stop)))
    for folder, code in (("macros", _IN_A_STATEMENT), ("signals", _IN_A_SIGNAL)):
        project.write(f"{folder}/__init__.py", "")
        project.write(f"{folder}/stops.py", code)
    if place.endswith("all"):
        config = (project.root / "config.yaml").read_text().rstrip()
        statement = f"CREATE OR REPLACE TABLE main.x AS SELECT 1 AS n WHERE @stops({place})"
        head = "" if place == "before_all" else f"{place}:\n"
        project.write("config.yaml", f"{config}\n{head}  - {statement}\n")
    project.model("first", "SELECT 1::INT AS id")
    by_day = "kind INCREMENTAL_BY_TIME_RANGE (time_column day), signals (stops())"
    project.model("signalled", "SELECT @start_ds::DATE AS day", by_day)
    project.write("models/tested.py", _IN_A_TEST)
    project.write(
        "tests/test_it.yaml",
        "test_it:\n  model: demo.tested\n  outputs:\n    query:\n      rows: [{n: 1}]\n",
    )
    assert run_in_process(project.definitions(), instance).success
    if place == "test":  # they run for what has changed
        project.write("models/tested.py", _IN_A_TEST.replace("[1]", "[0 + 1]"))
    definitions, later = project.definitions(), "2025-01-12T00:30:00"
    stop.write_text(place)
    stopped = run_in_process(definitions, instance, now=later)
    log = " ".join(entry.user_message for entry in instance.all_logs(stopped.run_id))
    assert not stopped.success
    assert f"being stopped, and waits for {said}" in log, log
    assert ("first" in stopped.materialized) is (place == "after_all")
    after = run_in_process(definitions, instance, now=later)
    assert after.success
    assert {*after.materialized, *after.unchanged} == {"first", "signalled", "tested"}
    assert project.query("SELECT count(*) FROM demo__dev.signalled") == [(2,)]  # one a run


_SWALLOWS = f"""
import os
import signal
import threading
from pathlib import Path

import pandas as pd
from sqlmesh import model
from sqlmesh.core.model.kind import ModelKindName

@model(
    "demo.swallows",
    kind={{"name": ModelKindName.INCREMENTAL_BY_TIME_RANGE, "time_column": "day"}},
    columns={{"day": "date", "n": "bigint"}},
)
def entry(context, start, **kwargs):
    place, found = Path({{place!r}}), 1
    try:
        if place.exists():
            place.unlink()
            threading.Timer(0.5, os.kill, [os.getpid(), signal.SIGINT]).start()
            found = int(context.fetchdf("{_HOURS_QUERY}")["n"][0])
    except BaseException:
        found = -1
    return pd.DataFrame({{"day": [start.date()], "n": [found]}})
"""


def test_a_python_model_that_swallows_the_stop_records_nothing(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: what it returns in the place of an interrupted query is no data; the next run builds the day."""
    stop = project.root / "stop"
    code = _SWALLOWS.replace("{place!r}", repr(str(stop)))
    project.write("models/swallows.py", code)
    definitions = project.definitions()
    assert run_in_process(definitions, instance).success
    stop.touch()
    later = "2025-01-11T00:30:00"
    stopped = run_in_process(definitions, instance, now=later)
    assert not stopped.success and stopped.materialized == []
    rows = "SELECT n FROM demo__dev.swallows WHERE day = '2025-01-10'"
    assert project.query(rows) == []
    assert run_in_process(definitions, instance, now=later).materialized == ["swallows"]
    assert project.query(rows) == [(1,)]


_HOURS = f"""
from sqlmesh import model

@model("demo.hours", kind="FULL", columns={{"n": "bigint"}})
def entry(context, **kwargs):
    return context.fetchdf({_HOURS_QUERY!r})
"""
_SLEEPER = """
import time
from pathlib import Path
from sqlmesh import model

@model("demo.sleeper", kind="FULL", columns={{"id": "int"}}, depends_on=["demo.before"])
def entry(context, **kwargs):
    import pandas as pd

    if not Path({go_on!r}).exists():
        Path({begun!r}).touch()
        time.sleep(300)
    return pd.DataFrame({{"id": [1]}})
"""


def _has_started(home: Path, step: str) -> Callable[[], bool]:
    return lambda: any("STEP_START" in line and step in line for line in (home / "run.log").open())


def test_a_run_gives_up_on_a_python_model_that_sleeps(
    project: Project, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    """Promise: it says at once what it waits for; after the limit its process ends, and nothing is recorded."""
    begun, go_on, home = project.root / "begun", project.root / "go_on", tmp_path / "home"
    sleeper = _SLEEPER.format(go_on=str(go_on), begun=str(begun))
    project.write("models/sleeper.py", sleeper)
    project.model("before", "SELECT 1::INT AS id")
    project.settings["cancel_timeout"] = 2
    run = start(project, home, executor=multiprocess(2))
    _wait_until(begun.exists, home)
    _wait_until(_has_started(home, "demo__sleeper"), home)  # and who leads has reported its own
    asked = time.monotonic()
    run.send_signal(signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        run.wait(60)
    run.kill()
    log = (home / "run.log").read_text()
    assert time.monotonic() - asked < 30, log
    assert "waits for what is being built: `demo.sleeper`" in log, log
    assert "Gave up on `demo.sleeper`" in log, log
    ended = last_run(home)
    assert not ended.success and "sleeper" not in ended.materialized
    go_on.touch()
    again = run_in_process(project.definitions(), instance)
    assert again.success and "sleeper" in again.materialized
    assert project.query("SELECT count(*) FROM demo__dev.sleeper") == [(1,)]
