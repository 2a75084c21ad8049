"""`poe move` is killed by `kill -9` at statements of its choice on the way to Postgres, and moved again."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.sqlmesh_dagster.projects import Project

from tests.integration.test_moving import (
    instance,
    living,
    own_process,
    patch,
    project,
    rows,
    server,
)
from tests.postgres import Server
from tests.robustness.proxy import proxy

__all__ = ["instance", "living", "own_process", "patch", "project", "server"]
pytestmark = [pytest.mark.slow, pytest.mark.storm]

_KILLS = int(os.environ.get("STORM_KILLS", "24"))
_DATABASE = "moved"
_SEED = int(os.environ.get("STORM_SEED", "1"))
_STATE = {
    "intervals": "SELECT name, version, start_ts, end_ts, is_dev, is_removed, is_pending_restatement FROM sqlmesh._intervals",
    "snapshots": "SELECT name, identifier, version, kind_name FROM sqlmesh._snapshots",
    "environments": "SELECT e.name, s->>'name', s->>'version', s->>'identifier', finalized_ts IS NOT NULL"
    " FROM sqlmesh._environments AS e, jsonb_array_elements(snapshots::jsonb) AS s",
    "restatements": "SELECT * FROM sqlmesh._auto_restatements",
    "tables": "SELECT table_schema, table_name FROM information_schema.tables"
    " WHERE table_schema NOT IN ('pg_catalog', 'information_schema')",
}
_PROCESSES = multiprocessing.get_context("forkserver")


def _move(root: Path, variables: Mapping[str, str], said: Path) -> None:
    """What `poe move --yes` starts."""
    from sqlmesh_dagster.engine.moving import main

    os.setsid()
    os.chdir(root)
    os.environ.update(variables)
    output = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    main(["--yes"])


class _Mover:
    """Moves one project into databases of a server."""

    def __init__(self, project: Project, server: Server) -> None:
        self._project = project
        self._server = server

    def move(self, *, kill_at: int | None = None) -> tuple[str, int, bool]:
        """What was said, how many messages were sent to the server, and whether it was killed."""
        sent = 0

        def count(_: bytes) -> None:
            nonlocal sent
            sent += 1
            if sent == kill_at and process.pid:
                os.killpg(process.pid, signal.SIGKILL)

        with proxy(self._server.port) as between:
            between.on_sent = count
            given = {"HOST": "127.0.0.1", "PORT": str(between.port), "USER": "postgres"}
            given |= {"PASSWORD": "none", "DATABASE": _DATABASE}
            variables = {f"WAREHOUSE_{name}": value for name, value in given.items()}
            variables |= {"SQLMESH_GATEWAY": "postgres", "SQLMESH_ENVIRONMENT": "prod"}
            variables |= {"SQLMESH_PROJECT_DIR": "."}
            said = self._project.root.parent / "said"
            process = _PROCESSES.Process(
                target=_move, args=(self._project.root, variables, said), daemon=True
            )
            process.start()
            process.join(120)
            assert process.exitcode is not None, said.read_text()
        return said.read_text(), sent, process.exitcode == -signal.SIGKILL

    def state(self) -> dict[str, list[Any]]:
        """What SQLMesh knows, and which tables there are."""
        return {
            name: sorted(self._server.query(_DATABASE, sql), key=repr)
            for name, sql in _STATE.items()
        }


def test_a_move_that_is_killed_at_any_statement_goes_on(living: Project, server: Server) -> None:
    """Promise: whichever message to the server is the last, the same command ends as an undisturbed move does."""
    _PROCESSES.set_forkserver_preload(["sqlmesh_dagster.engine.moving", __name__])
    mover = _Mover(living, server)
    server.create_database(_DATABASE)
    said, messages, _ = mover.move()
    assert "Moved: " in said, said
    calm = mover.state()
    assert calm["intervals"] and calm["environments"]
    choice = random.Random(_SEED)
    moments = sorted(choice.sample(range(1, messages), min(_KILLS, messages - 1)))
    phases: dict[str, int] = {}
    for moment in moments:
        server.query("postgres", f"DROP DATABASE {_DATABASE} WITH (FORCE)")
        server.create_database(_DATABASE)
        before, _, was_killed = mover.move(kill_at=moment)
        last = (before.splitlines() or ["nothing"])[-1].split(":")[0]
        phases[last] = phases.get(last, 0) + 1
        if not was_killed:
            assert "Moved: " in before, before
        again, _, _ = mover.move()
        assert "Moved: " in again or "Nothing was changed" in again, (moment, before, again)
        assert mover.state() == calm, (moment, before, again)
        for name, (here, there) in rows(living, server, _DATABASE).items():
            assert here == there, (moment, name, before, again)
    print(f"{len(moments)} kills of {messages} messages, seed {_SEED}; last said: {phases}")
