"""`poe doctor` on a DuckDB file and on a real Postgres, up, down and half allowed."""

from __future__ import annotations

import re
import shutil
import socket
from pathlib import Path

import duckdb
import pytest

from sqlmesh_dagster.engine.diagnosis import diagnose
from sqlmesh_dagster.facts.diagnosis import Finding
from sqlmesh_dagster.settings import ProjectSettings
from tests.conftest import Render
from tests.postgres import Server, postgres


@pytest.fixture
def project(render: Render, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The minimal sample, its warehouse empty."""
    root = tmp_path / "project"
    shutil.copytree(render(sample="minimal", warehouse="postgres"), root)
    monkeypatch.delenv("SQLMESH_GATEWAY", raising=False)
    monkeypatch.setenv("WAREHOUSE_PATH", str(tmp_path / "file.duckdb"))
    return root / "sqlmesh_project"


def found(project: Path) -> dict[str, Finding]:
    """What was looked at, the last of each subject."""
    settings = ProjectSettings(project_dir=str(project), wait_timeout=0)
    return {finding.subject: finding for finding in diagnose(settings)}


def wrong(project: Path) -> dict[str, str]:
    """The remedies."""
    return {subject: f.remedy for subject, f in found(project).items() if f.remedy}


def pasted(remedy: str) -> str:
    """The statements in it."""
    return " ".join(re.findall(r"GRANT [^;]*;", remedy))


def set_postgres(patch: pytest.MonkeyPatch, server: Server, prefix: str, **more: str) -> None:
    """Sets the variables of a place on a server."""
    given = {"HOST": "127.0.0.1", "PORT": str(server.port), "USER": "postgres", "PASSWORD": "none"}
    for name, value in {**given, **more}.items():
        patch.setenv(f"{prefix}_{name}", value)


def test_a_duckdb_file_is_well_until_somebody_holds_it(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise: nothing to do on a new project, and nothing is left in its file."""
    monkeypatch.setenv("DAGSTER_HOME", str(project.parent / "dagster_home"))
    monkeypatch.setenv("STATE_HOST", "db.example.com")
    seen = found(project)
    # the state is in the file all the same, which is said
    assert "`STATE_HOST` count only for a warehouse, by `SQLMESH_GATEWAY`" in seen["gateway"].said
    assert list(seen) == [
        "versions",
        "records",
        "gateway",
        "runs",
        "warehouse",
        "privileges",
        "time",
        "state",
        "lock",
    ]
    assert not [finding for finding in seen.values() if finding.remedy]
    file = tmp_path / "file.duckdb"
    with duckdb.connect(str(file)) as connection:
        left = connection.execute(
            "SELECT count(*) FROM duckdb_schemas() WHERE schema_name LIKE 'sqlmesh%'"
        ).fetchone()
    assert left == (0,)


def test_a_config_that_says_too_little_is_the_only_finding(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise: with the names of what is not set."""
    monkeypatch.setenv("SQLMESH_GATEWAY", "postgres")
    seen = found(project)
    assert list(seen) == ["versions", "config"]
    assert "`WAREHOUSE_HOST`, `WAREHOUSE_USER`" in seen["config"].said and seen["config"].remedy


def test_a_server_that_is_not_there_is_told_with_its_variables(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise: in one line, soon, by the doctor and by a run, and nothing else is asked of it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    monkeypatch.setenv("SQLMESH_GATEWAY", "postgres")
    given = {"HOST": "127.0.0.1", "PORT": port, "USER": "ada", "PASSWORD": "x", "DATABASE": "d"}
    for name, value in given.items():
        monkeypatch.setenv(f"WAREHOUSE_{name}", value)
        monkeypatch.setenv(f"STATE_{name}", value)
    monkeypatch.setenv("STATE_HOST", "db.example.invalid")
    settings = ProjectSettings(project_dir=str(project), wait_timeout=0)
    warehouse, state = [finding for finding in diagnose(settings) if finding.remedy]
    assert warehouse.subject == "warehouse" and "Connection refused" in warehouse.said
    assert "correct `WAREHOUSE_HOST` and `WAREHOUSE_PORT`" in warehouse.remedy
    assert "`db.example.invalid` is not known" in state.said and "`STATE_HOST`" in state.remedy


@pytest.mark.slow
def test_a_postgres_is_told_up_down_and_half_allowed(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise: each fault has its own line, and what does not depend on it is looked at all the same."""
    monkeypatch.setenv("SQLMESH_GATEWAY", "postgres")
    with postgres() as server:
        server.create_database("analytics")
        server.create_database("state")
        server.query("postgres", "CREATE ROLE reader LOGIN PASSWORD 'none'")
        set_postgres(monkeypatch, server, "WAREHOUSE", DATABASE="analytics")
        assert wrong(project) == {}
        set_postgres(monkeypatch, server, "STATE", DATABASE="state")
        assert wrong(project) == {}
        schemas = (
            "SELECT count(*) FROM information_schema.schemata WHERE schema_name LIKE 'sqlmesh%'"
        )
        assert server.query("analytics", schemas) == server.query("state", schemas) == [(0,)]

        monkeypatch.setenv("WAREHOUSE_USER", "reader")
        settings = ProjectSettings(project_dir=str(project), wait_timeout=0)
        (denied,) = [finding for finding in diagnose(settings) if finding.remedy]
        assert denied.subject == "privileges"
        assert "the role `reader` may not make schemas in the database `ana" in denied.said
        server.query("postgres", pasted(denied.remedy))
        assert wrong(project) == {}
        server.query(
            "analytics", "CREATE SCHEMA sqlmesh__demo; CREATE SCHEMA demo; CREATE SCHEMA other"
        )
        (denied,) = [finding for finding in diagnose(settings) if finding.remedy]
        assert denied.subject == "privileges"
        assert denied.said.endswith("may not create in `demo`, `sqlmesh__demo`")
        server.query("analytics", pasted(denied.remedy))
        assert wrong(project) == {}
        monkeypatch.setenv("WAREHOUSE_USER", "postgres")
        monkeypatch.setenv("STATE_DATABASE", "nowhere")
        assert list(wrong(project)) == ["state"]
    assert {"warehouse", "state"} <= set(wrong(project))
