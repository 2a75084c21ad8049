"""An instance that an older Dagster made, migrated by its command with our event log: `-m storm`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.storm

_OLD = "1.9.13"
_SOURCE = Path(__file__).parents[2] / "template/src"
_MATERIALIZE = """
import json, sys
import dagster as dg

@dg.asset(check_specs=[dg.AssetCheckSpec("good", asset="days")], partitions_def=dg.StaticPartitionsDefinition(["x", "y"]))
def days():
    yield dg.Output(1)
    yield dg.AssetCheckResult(passed=True, check_name="good")

key = dg.AssetKey("days")
with dg.DagsterInstance.get() as instance:
    for partition in sys.argv[1:]:
        assert dg.materialize([days], instance=instance, partition_key=partition).success
    runs = [len(instance.all_logs(run.run_id)) > 5 for run in instance.get_runs()]
    print(json.dumps([dg.__version__, runs, sorted(instance.get_materialized_partitions(key))]))
"""
_SETTINGS = """
storage:
  custom:
    module: sqlmesh_dagster.event_log
    class: PooledSqliteStorage
    config: {base_dir: {env: DAGSTER_HOME}}
"""


def test_an_instance_of_an_older_dagster_goes_on_with_our_log(tmp_path: Path) -> None:
    """Promise: `dagster instance migrate` brings it to the newest schema; old runs stay, new ones are added."""
    home = tmp_path / "home"
    home.mkdir()
    old = _old_dagster(tmp_path / "old")
    assert _run(old, home, "x") == [_OLD, [True], ["x"]]
    (home / "dagster.yaml").write_text(_SETTINGS)
    assert _run(sys.executable, home)[1:] == [[True], ["x"]]
    migrated = _command(home, "-m", "dagster", "instance", "migrate")
    revisions = [line.split(": ")[1] for line in migrated.splitlines() if ": " in line][-6:]
    assert len(set(revisions)) == 1, migrated
    assert _run(sys.executable, home, "y")[1:] == [[True, True], ["x", "y"]]


def _old_dagster(folder: Path) -> str:
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = str(folder / "bin/python")
    done = subprocess.run(
        [python, "-m", "pip", "install", "-q", f"dagster=={_OLD}"], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip(f"Dagster {_OLD} cannot be installed here")
    return python


def _run(python: str, home: Path, *partitions: str) -> list[object]:
    text = _command(home, "-c", _MATERIALIZE, *partitions, python=python)
    found: list[object] = json.loads(text.splitlines()[-1])
    return found


def _command(home: Path, *arguments: str, python: str = sys.executable) -> str:
    ours = {"PYTHONPATH": str(_SOURCE)} if python == sys.executable else {"PYTHONPATH": ""}
    done = subprocess.run(
        [python, *arguments],
        env={**os.environ, **ours, "DAGSTER_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
