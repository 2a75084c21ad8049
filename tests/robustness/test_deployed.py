"""A deployed platform as processes, started from exactly what `compose.yaml` says: `pytest -m storm` on this file.

Code server, webserver, daemon and a real Postgres; days pass, and each process is killed once. Places and
ports of the files are those of this machine, and the daemon's clock jumps; the rest is as it is generated.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from tests.answers import EXAMPLE
from tests.conftest import Render
from tests.postgres import Server, postgres
from tests.robustness.test_days import _pay

pytestmark = pytest.mark.storm
pytest.importorskip("dagster_postgres")
_PATIENCE = 240
_CLOCK = """\
import os, sys, time
from datetime import datetime, timedelta, timezone

def ahead():
    with open(os.environ["CLOCK"]) as file:
        return float(file.read() or 0)

command = " ".join(sys.orig_argv)
if "dagster-daemon" in command:  # the names that Dagster's own tests use
    from dagster import _time
    _time._mockable_get_current_timestamp = lambda: time.time() + ahead()
    _time._mockable_get_current_datetime = (
        lambda: datetime.now(timezone.utc) + timedelta(seconds=ahead())
    )
elif "multiprocessing.spawn" in command:  # the process of a run
    import time_machine  # which SQLMesh requires
    time_machine.travel(datetime.now(timezone.utc) + timedelta(seconds=ahead()), tick=True).start()
"""
"""Python starts with it. The servers keep the time, from which gRPC counts its deadlines."""
_VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])((?:[^{}]|\$\{[^{}]*\})*))?\}")


def interpolated(value: str, variables: Mapping[str, str]) -> str:
    """As Compose does it: `${NAME}`, `${NAME:-default}`, `${NAME:?message}`."""

    def replaced(found: re.Match[str]) -> str:
        name, way, text = found.groups()
        if variables.get(name):
            return variables[name]
        assert way != "?", text
        return interpolated(text or "", variables)

    return _VARIABLE.sub(replaced, value)


@dataclass
class Stack:
    """The services of a Compose file as processes of this machine."""

    root: Path
    services: dict[str, Any]
    variables: Mapping[str, str]
    ports: Mapping[str, str]
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def environment(self, name: str) -> dict[str, str]:
        """What the service's processes see."""
        given = self.services[name]["environment"]
        passed = {
            n: self.variables[n] for n, v in given.items() if v is None and n in self.variables
        }
        written = {
            n: interpolated(str(v), self.variables) for n, v in given.items() if v is not None
        }
        return {**_own_environment(self.root), **passed, **written}

    def start(self, name: str) -> None:
        """Start a service, or start it again."""
        command = [self.ports.get(word, word) for word in self.services[name]["command"]]
        with (self.root / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                command,
                cwd=self.root,
                env=self.environment(name),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait_until_healthy(self, name: str) -> None:
        """By the check of the Compose file."""
        check = [*self.services[name]["healthcheck"]["test"][1:]]
        if check[0] == "python":
            check += [self.ports["4000" if name == "code" else "3000"]]
        deadline = time.monotonic() + _PATIENCE
        while subprocess.run(
            check, cwd=self.root, env=self.environment(name), capture_output=True, check=False
        ).returncode:
            if time.monotonic() > deadline or self.processes[name].poll() is not None:
                pytest.fail((self.root / f"{name}.log").read_text()[-5000:])
            time.sleep(1)

    def kill(self, name: str) -> None:
        """As a container ends: all its processes at once."""
        process = self.processes.pop(name)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def stop(self) -> dict[str, int]:
        """As `docker compose stop`; exit statuses of services."""
        for process in self.processes.values():
            process.terminate()
        found = {}
        for name in [*self.processes]:
            with suppress(subprocess.TimeoutExpired):
                found[name] = self.processes[name].wait(timeout=60)
            self.kill(name)
        return found


def _own_environment(root: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join(
            [str(root / "clock"), str(root / "src"), os.environ.get("PYTHONPATH", "")]
        ),
        "DAGSTER_HOME": str(root / "dagster_home"),
        "CLOCK": str(root / "clock/ahead"),
        "MAX_FORK_WORKERS": "1",
    }


def _free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@contextmanager
def _stack(root: Path, server: Server) -> Iterator[Stack]:
    """The stack, with places and ports of this machine."""
    ports = {"4000": _free_port(), "3000": _free_port(), "0.0.0.0": "127.0.0.1"}
    (root / "clock").mkdir()
    (root / "clock/sitecustomize.py").write_text(_CLOCK)
    (root / "clock/ahead").write_text("0")
    settings = (root / "deploy/dagster.yaml").read_text()
    (root / "dagster_home/dagster.yaml").write_text(
        settings.replace("/var/lib/dagster", str(root / "volume"))
    )
    workspace = root / "deploy/workspace.yaml"
    workspace.write_text(workspace.read_text().replace("4000", ports["4000"]))
    text = (root / "compose.yaml").read_text().replace("CODE_HOST: code", "CODE_HOST: 127.0.0.1")
    place = {"HOST": "127.0.0.1", "PORT": str(server.port), "USER": "postgres"}
    place |= {"PASSWORD": "correct-horse-battery"}
    variables = {f"{of}_{n}": v for of in ("POSTGRES", "WAREHOUSE") for n, v in place.items()}
    variables |= {"POSTGRES_DB": "platform", "WAREHOUSE_DATABASE": "analytics"}
    variables |= {"SQLMESH_GATEWAY": "postgres", "SQLMESH_ENVIRONMENT": "dev"}
    stack = Stack(root, yaml.safe_load(text)["services"], variables, ports)
    try:
        yield stack
    finally:
        stack.stop()


def _run_of(stack: Stack, before: set[str], *statuses: dg.DagsterRunStatus) -> dg.DagsterRun:
    """The newest run that is new, once it has one of these statuses."""
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        runs = _runs(stack)
        found = [run for run in runs if run.run_id not in before and run.status in statuses]
        if found:
            return found[0]
        time.sleep(0.5)
    listed = [(run.run_id[:8], run.status.value) for run in _runs(stack)]
    pytest.fail(f"{listed}\n" + (stack.root / "daemon.log").read_text()[-4000:])


def _runs(stack: Stack) -> list[dg.DagsterRun]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in stack.environment("code").items():
            patch.setenv(name, value)
        with dg.DagsterInstance.from_config(str(stack.root / "dagster_home")) as instance:
            return list(instance.get_runs(limit=20))


def test_days_pass_and_each_process_is_killed_once(render: Render, tmp_path: Path) -> None:
    """Promise: whichever process dies in the middle of a run, each day's revenue is there once."""
    answers = {**EXAMPLE, "warehouse": "postgres", "deployment": "docker-compose"}
    root = Path(shutil.copytree(render(**answers), tmp_path / "project"))
    today = datetime.now(timezone.utc).replace(hour=0, minute=0, second=0, microsecond=0)
    first = today + timedelta(days=1)
    running, done = dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.SUCCESS

    def set_clock(moment: datetime) -> None:
        ahead = (moment - datetime.now(timezone.utc)).total_seconds()
        (root / "clock/ahead").write_text(str(ahead))

    with postgres() as server:
        for name in ("platform", "analytics"):
            server.create_database(name)
        with _stack(root, server) as stack:
            set_clock(first + timedelta(hours=23))
            for service in ("code", "webserver", "daemon"):
                stack.start(service)
                stack.wait_until_healthy(service)
            time.sleep(30)  # the daemon knows the schedule from here on
            for number, victim in enumerate(("", "webserver", "daemon", "code", ""), start=1):
                midnight = first + timedelta(days=number)
                before = {run.run_id for run in _runs(stack)}
                _pay(root, number, midnight - timedelta(days=1))
                set_clock(midnight + timedelta(seconds=5))
                if victim:
                    _run_of(stack, before, running, done)
                    stack.kill(victim)
                    stack.start(victim)
                    stack.wait_until_healthy(victim)
                if (
                    victim != "code"
                ):  # its runs died with it: the next day's tick ends and repeats them
                    _run_of(stack, before, done)
            # the tick's own run, and that which repeats the one that was cut off
            deadline = time.monotonic() + _PATIENCE
            while time.monotonic() < deadline and not all(r.is_finished for r in _runs(stack)):
                time.sleep(1)
            statuses = {run.status for run in _runs(stack)}
            assert statuses <= {done, dg.DagsterRunStatus.FAILURE}, _runs(stack)
            days = server.query(
                "analytics",
                "SELECT revenue_date, count(*), sum(revenue) FROM marts__dev.daily_revenue"
                f" WHERE revenue_date >= '{first:%Y-%m-%d}' GROUP BY 1 ORDER BY 1",
            )
            assert [(day, count, float(sum_)) for day, count, sum_ in days] == [
                ((first + timedelta(days=n)).date(), 1, 1.0) for n in range(5)
            ]
            assert set(stack.stop()) == {"code", "webserver", "daemon"}  # by SIGTERM, in a minute
