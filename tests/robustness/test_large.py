"""A run of 500 models, one of which takes a minute: memory, waiting, and the event log."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import dagster as dg
import pytest
from tests.sqlmesh_dagster.projects import Project, last_run, multiprocess, start

from tests.conftest import ROOT, Render
from tests.robustness.large import MODELS, write_project

pytestmark = [
    pytest.mark.large,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks Linux"),
]
_PAUSE = 60
_IDLE = 0.003
"""Share of a core; looking once a second takes 0.0006, ten times a second 0.005 (measured)."""
_TICKS = os.sysconf("SC_CLK_TCK")


@pytest.fixture(scope="module")
def measured(
    render: Render, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Mapping[str, float]]:
    """What each side says, `ours` and `bare`, and what the process of `ours` used while it `slept`.

    Both run at once, each on a project and a database of its own; only ours has a slow model.
    """
    (package,) = (
        path.parent.name
        for path in render().glob("src/*/definitions.py")
        if path.parent.name != "sqlmesh_dagster"
    )
    pauses = {"ours": _PAUSE, "bare": 0}
    roots = {side: tmp_path_factory.mktemp(side) / "project" for side in pauses}
    processes = {}
    for side, root in roots.items():
        shutil.copytree(render(), root, ignore=shutil.ignore_patterns("sqlmesh_project"))
        write_project(root / "sqlmesh_project")
        with (root / "log").open("w") as log:
            processes[side] = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("large.py")), side, package],
                env={
                    **os.environ,
                    "DAGSTER_HOME": str(root / "dagster_home"),
                    "PAUSE": str(pauses[side]),
                    "PYTHONPATH": os.pathsep.join([str(root / "src"), str(ROOT)]),
                },
                cwd=root,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
    said = {side: process.communicate(timeout=900)[0] for side, process in processes.items()}
    for side, process in processes.items():
        assert process.returncode == 0, (roots[side] / "log").read_text()[-5000:]
    found = {side: json.loads(text.splitlines()[-1]) for side, text in said.items()}
    return {**found, "slept": json.loads((roots["ours"] / "slept.json").read_text())}


def test_500_models_are_built_in_one_run(measured: dict[str, Mapping[str, float]]) -> None:
    """Whatever is measured here is of runs that did all of their work."""
    assert measured["ours"]["built"] == measured["bare"]["built"] == MODELS


def test_a_run_needs_little_more_memory_than_bare_sqlmesh(
    measured: dict[str, Mapping[str, float]],
) -> None:
    """Beyond its imports, a run process needs at most a fifth more than a bare `sqlmesh run`."""
    ours, bare = (measured[side]["peak"] - measured[side]["imported"] for side in ("ours", "bare"))
    assert ours <= 1.2 * bare, measured


def test_a_long_run_keeps_its_memory(measured: dict[str, Mapping[str, float]]) -> None:
    """A process that only waits for a model does not grow meanwhile."""
    assert measured["slept"]["memory"] < 1, measured


def test_a_waiting_step_is_idle(measured: dict[str, Mapping[str, float]]) -> None:
    """A process whose step waits for one slow model looks about once a second."""
    assert measured["slept"]["cpu"] < _IDLE * _PAUSE / 2, measured


def test_the_event_log_gets_few_records_of_its_own(
    measured: dict[str, Mapping[str, float]],
) -> None:
    """At most 8 records a model beyond those of Dagster for the same assets and checks."""
    ours = measured["ours"]
    assert ours["records"] - ours["records_alone"] <= 8 * MODELS, ours


def test_waiting_processes_are_idle(tmp_path: Path) -> None:
    """Under the multiprocess executor, too, each waiting step soon looks about once a second."""
    project, home, names = Project(tmp_path / "project"), tmp_path / "home", ("one", "two", "three")
    for name in names:
        project.write(
            f"models/{name}.py",
            f"""
            import time
            import typing as t
            from pathlib import Path
            import pandas as pd
            from sqlmesh import ExecutionContext, model

            @model("demo.{name}", columns={{"id": "int"}}, kind="FULL")
            def execute(context: ExecutionContext, **kwargs: t.Any) -> pd.DataFrame:
                while not Path("{home / "go"}").exists():
                    time.sleep(1)
                return pd.DataFrame({{"id": [1]}})
            """,
        )
    run = start(project, home, executor=multiprocess(len(names)))
    deadline, seconds, used = time.monotonic() + 180, 5, [1.0]
    try:
        while len(used) < len(names) or max(used) > _IDLE * seconds:
            assert time.monotonic() < deadline, used
            before = _cpu_of_children(run.pid)
            time.sleep(seconds)
            after = _cpu_of_children(run.pid)
            started = _started_steps(home) == len(names)
            used = [after[pid] - before.get(pid, 0) for pid in after] if started else [1.0]
    finally:
        (home / "go").touch()
    assert run.wait(timeout=180) == 0
    assert last_run(home).success


def _cpu_of_children(session: int) -> dict[int, float]:
    """CPU seconds of the processes that a session's leader has started."""
    seconds = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        if int(fields[3]) == session != int(path.parent.name):
            seconds[int(path.parent.name)] = (int(fields[11]) + int(fields[12])) / _TICKS
    return seconds


def _started_steps(home: Path) -> int:
    with dg.DagsterInstance.from_config(str(home)) as instance:
        records = instance.get_run_records(limit=1)
        return len(instance.get_run_step_stats(records[0].dagster_run.run_id)) if records else 0
