"""Databases that are locked, missing, read-only, full or of another version: one message, and nothing lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import dagster as dg
import pytest
from tests.sqlmesh_dagster.projects import Project, held_by_another_process, run_in_process

pytestmark = pytest.mark.slow

_LATER = "2025-01-12T00:30:00"
_CONNECTIONS = {
    "one-file": "connection: {{type: duckdb, database: {file}}}",
    "attached": "connection: {{type: duckdb, catalogs: {{warehouse: {file}}}}}",
    "state-elsewhere": (
        "connection: {{type: duckdb, catalogs: {{warehouse: {file}}}}},"
        " state_connection: {{type: duckdb, database: {file}.state}}"
    ),
}


def _connect(project: Project, connections: str) -> None:
    gateway = _CONNECTIONS[connections].format(file=project.database)
    project.write(
        "config.yaml",
        f"""
        gateways: {{local: {{{gateway}}}}}
        model_defaults: {{dialect: duckdb, start: 2025-01-01, cron: '@daily'}}
        """,
    )


@pytest.mark.parametrize("connections", _CONNECTIONS)
def test_a_run_waits_for_whoever_holds_the_file_again_and_again(
    project: Project, instance: dg.DagsterInstance, connections: str
) -> None:
    """Promise: a process that gave up once waits the next time, and goes on when the file is free.

    SQLMesh keeps a connection whose file could not be attached, and takes it for open.
    """
    _connect(project, connections)
    project.model("full", "SELECT 1::INT AS id")
    assert run_in_process(project.definitions(), instance).success
    for _ in range(2):
        with held_by_another_process(project.database):
            hasty = run_in_process(project.definitions(wait_timeout=0.6), instance, now=_LATER)
        ((_, error),) = hasty.failed.items()
        assert "DuckDB file is in use" in error
    with held_by_another_process(project.database) as holder:
        threading.Timer(1, lambda: holder.communicate(b"\n")).start()
        patient = run_in_process(project.definitions(), instance, now=_LATER)
    assert patient.materialized == ["full"]
    assert project.query("SELECT id FROM demo__dev.full") == [(1,)]


@pytest.mark.parametrize("gone", ["file", "folder"])
def test_a_database_that_is_gone_is_built_anew_in_development(
    project: Project, instance: dg.DagsterInstance, gone: str
) -> None:
    """Promise: the next run deploys and builds everything, as the first one did."""
    file = project.root / "data/warehouse.duckdb"
    file.parent.mkdir()
    config = (project.root / "config.yaml").read_text()
    project.write("config.yaml", config.replace(str(project.database), str(file)))
    project.model("full", "SELECT 1::INT AS id")
    assert run_in_process(project.definitions(), instance).success
    file.unlink()
    if gone == "folder":
        file.parent.rmdir()
        ((_, error),) = run_in_process(project.definitions(), instance).failed.items()
        assert "DuckDB cannot work on its file. Create its folder" in error
        file.parent.mkdir()
    again = run_in_process(project.definitions(), instance)
    assert again.materialized == ["full"], again.failed


def test_a_database_that_is_gone_is_told_in_production(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: the message names the environment and the command, and nothing is created."""
    project.model("full", "SELECT 1::INT AS id")
    project.settings = {"environment": "prod"}
    assert run_in_process(project.definitions(undeployed_changes="apply"), instance).success
    project.database.unlink()
    run = run_in_process(project.definitions(), instance)
    ((_, error),) = run.failed.items()
    assert "Environment `prod` does not exist yet. Run `cd " in error and "&& sqlmesh " in error
    assert not project.query("SELECT 1 FROM duckdb_schemas() WHERE schema_name = 'sqlmesh'")
    assert run_in_process(project.definitions(undeployed_changes="apply"), instance).success


@pytest.mark.parametrize(("path", "mode"), [("warehouse.duckdb", 0o444), (".", 0o555)])
def test_a_database_that_may_not_be_written_is_told(
    project: Project, instance: dg.DagsterInstance, path: str, mode: int
) -> None:
    """Promise: the file's rights, or those of the folder where its log goes, and what to do."""
    project.model("full", "SELECT 1::INT AS id")
    assert run_in_process(project.definitions(), instance).success
    place = project.root / path
    before = place.stat().st_mode
    place.chmod(mode)
    told = _run_in_another_process(project)
    place.chmod(before)
    assert "DuckDB cannot work on its file. Let the user that runs Dagster write" in told
    assert run_in_process(project.definitions(), instance, now=_LATER).materialized == ["full"]


def test_a_disk_that_is_full_is_told_and_nothing_is_lost(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: the model that did not fit fails, and is built whole once there is room."""
    project.model("small", "SELECT 1::INT AS id")
    project.model("big", "SELECT hash(i)::TEXT AS id FROM range(200000) AS t(i), demo.small")
    assert run_in_process(project.definitions(), instance, "small").success
    told = _run_in_another_process(project, most_bytes=project.database.stat().st_size + 400_000)
    assert "DuckDB cannot work on its file. Make room on its disk." in told
    rest = run_in_process(project.definitions(), instance, now=_LATER)
    assert (rest.unchanged, rest.materialized) == (["small"], ["big"])
    assert project.query("SELECT count(DISTINCT id) FROM demo__dev.big") == [(200000,)]


def test_a_file_that_is_no_database_is_told(project: Project, instance: dg.DagsterInstance) -> None:
    """Promise: it is left as it is, and the message says how to go on without it."""
    project.model("full", "SELECT 1::INT AS id")
    project.database.write_bytes(b"no database" * 1000)
    ((_, error),) = run_in_process(project.definitions(), instance).failed.items()
    assert "Restore it from a backup; or move it away" in error
    assert project.database.read_bytes() == b"no database" * 1000
    project.database.rename(project.root / "away")
    assert run_in_process(project.definitions(), instance).success


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("schema_version", "schema_version - 1", "an older SQLMesh. Run `cd "),
        ("sqlmesh_version", "'0.1.0'", "an older SQLMesh. Run `cd "),
        ("schema_version", "schema_version + 1", "a newer SQLMesh. Upgrade SQLMesh"),
        ("sqlmesh_version", "'99.0.0'", "a newer SQLMesh. Upgrade SQLMesh"),
    ],
)
def test_a_state_of_another_version_is_told_and_left_alone(
    project: Project, instance: dg.DagsterInstance, column: str, value: str, words: str
) -> None:
    """Promise: one message with the command; the state is what it was, and works again after it."""
    project.model("full", "SELECT 1::INT AS id")
    assert run_in_process(project.definitions(), instance).success
    ((before,),) = project.query(f"SELECT {column} FROM sqlmesh._versions")
    project.execute(f"UPDATE sqlmesh._versions SET {column} = {value}")
    changed = project.query("SELECT * FROM sqlmesh._versions")
    ((_, error),) = run_in_process(project.definitions(), instance, now=_LATER).failed.items()
    assert words in error
    assert project.query("SELECT * FROM sqlmesh._versions") == changed
    project.execute(f"UPDATE sqlmesh._versions SET {column} = '{before}'")
    assert run_in_process(project.definitions(), instance, now=_LATER).materialized == ["full"]


def _run_in_another_process(project: Project, most_bytes: int = 0) -> str:
    """What a run says that obeys file rights even for root, or a limit on the size of files."""
    code = f"""
    import json, resource, sys
    from pathlib import Path
    import dagster as dg
    from tests.sqlmesh_dagster.projects import Project, run_in_process

    project = Project.__new__(Project)
    project.root, project.settings = Path({str(project.root)!r}), {project.settings!r}
    if {most_bytes}:
        resource.setrlimit(resource.RLIMIT_FSIZE, ({most_bytes}, {most_bytes}))
    with dg.DagsterInstance.ephemeral() as instance:
        run = run_in_process(project.definitions(), instance, now={_LATER!r})
    print(json.dumps(list(run.failed.values())))
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    if os.geteuid() == 0:
        mortal = "-dac_override,-dac_read_search"
        command = ["setpriv", "--bounding-set", mortal, "--inh-caps", mortal, *command]
    done = subprocess.run(
        command,
        cwd=Path.cwd(),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (told,) = json.loads(done.stdout.splitlines()[-1])
    return str(told)
