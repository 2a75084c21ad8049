"""A host loses its power, or its network: the lock that it had is free within a minute. Needs root and `ip netns`."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.sqlmesh_dagster.projects import Project

from tests.conftest import ROOT
from tests.integration.conftest import own_process, project
from tests.postgres import postgres

__all__ = ["own_process", "project"]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.storm,
    pytest.mark.skipif(
        os.getuid() != 0 or not shutil.which("ip"), reason="a network of its own needs root"
    ),
]

_HERE, _THERE, _NETWORK = "10.77.0.1", "10.77.0.2", "10.77.0.0/24"
_HOST = "vanishing"
_CONFIG = """
gateways: {{main: {{connection: {{type: postgres, host: {host}, port: {port}, user: postgres, password: '', database: one}}}}}}
model_defaults: {{dialect: postgres, start: 2025-01-01}}
disable_anonymized_analytics: true
"""
_ROWS = "CREATE ROLE platform LOGIN; CREATE TABLE rows (id INT); ALTER TABLE rows OWNER TO platform"
_HOLDING = """
import sys, tempfile
import psycopg2
tempfile.tempdir = sys.argv[2]
from sqlmesh_dagster.engine.session import Session
from sqlmesh_dagster.guard import locks
from sqlmesh_dagster.guard.cancel import CancelToken
from sqlmesh_dagster.settings import ProjectSettings

locks._FOLDER = sys.argv[2]
settings = ProjectSettings(project_dir=sys.argv[1], environment="dev", wait_timeout=180).checked()
session = Session(settings, sys.argv[3], lambda _, text: print(text, flush=True), CancelToken(), has_project_lock=True)
with session.opened() as context, session.state_locked(context) as state, state.alone():
    data = psycopg2.connect(sys.argv[4])
    data.cursor().execute("LOCK TABLE rows")
    print("held", flush=True)
    sys.stdin.readline()
"""


@contextmanager
def network() -> Iterator[None]:
    """A host of its own, by a cable to this one."""

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True)

    ip("netns", "add", _HOST)
    try:
        ip("link", "add", "cable", "type", "veth", "peer", "name", "plug", "netns", _HOST)
        ip("addr", "add", f"{_HERE}/24", "dev", "cable")
        ip("link", "set", "cable", "up")
        for words in (
            ("addr", "add", f"{_THERE}/24", "dev", "plug"),
            ("link", "set", "plug", "up"),
        ):
            ip("-n", _HOST, *words)
        yield
    finally:
        ip("netns", "del", _HOST)


def holding(
    project: Project, folder: Path, name: str, data: str, *before: str
) -> subprocess.Popen[str]:
    """A process that locks a table and the state, says so, and keeps both until it reads a line."""
    folder.mkdir()
    return subprocess.Popen(
        [*before, sys.executable, "-c", _HOLDING, str(project.root), str(folder), name, data],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def settings() -> list[str]:
    """The statements of the page."""
    page = (ROOT / "docs/production.md").read_text()
    found = re.findall(r"^ALTER ROLE platform SET tcp_[^;]*;", page, re.MULTILINE)
    assert len(found) == 4
    return found


def until_held(process: subprocess.Popen[str]) -> list[str]:
    """What was said before the lock was taken."""
    said: list[str] = []
    assert process.stdout is not None
    for line in process.stdout:
        if line == "held\n":
            return said
        said.append(line)
    raise AssertionError("".join(said))


def test_a_host_that_vanishes_keeps_its_lock_for_a_minute_at_most(
    project: Project, tmp_path: Path
) -> None:
    """Bug: the server kept the lock of a host without power for two hours, and every run waited in vain.

    What it has locked of the data is free as soon, by the settings of the role that a page says to paste.
    """
    with postgres(network=_NETWORK) as server, network():
        server.create_database("one")
        project.write("config.yaml", _CONFIG.format(host=_HERE, port=server.port))
        for statement in (_ROWS, *settings()):
            server.query("one", statement)
        data = f"host={_HERE} port={server.port} user=platform dbname=one"
        lost = holding(project, tmp_path / "a", "host a", data, "ip", "netns", "exec", _HOST)
        until_held(lost)
        subprocess.run(["ip", "-n", _HOST, "link", "set", "plug", "down"], check=True)
        lost.kill()
        begin = time.monotonic()
        other = holding(project, tmp_path / "b", "host b", data)
        said = until_held(other)
        seconds = time.monotonic() - begin
        other.communicate("\n")
    print(f"free after {seconds:.0f} s; said {said}")
    assert seconds < 60 and "host a" in "".join(said)
