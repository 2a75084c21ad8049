"""Fixtures of the integration's tests: an empty project, an instance, and a clean process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from tests.sqlmesh_dagster.projects import Project


def pytest_report_header() -> str:
    """Names what is being integrated."""
    from importlib.metadata import version

    return ", ".join(
        f"{name} {version(name)}" for name in ("dagster", "sqlmesh", "duckdb", "anyio")
    )


@pytest.fixture(autouse=True)
def own_process(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No analytics, no fork, and a temp folder, where the locks are, of this test's own."""
    temp = str(tmp_path_factory.mktemp("tmp"))  # short: Dagster's sockets are in it
    monkeypatch.setenv("TMPDIR", temp)
    monkeypatch.setattr("tempfile.tempdir", temp)
    monkeypatch.setenv("SQLMESH__DISABLE_ANONYMIZED_ANALYTICS", "true")
    monkeypatch.setenv("MAX_FORK_WORKERS", "1")
    monkeypatch.setenv("DAGSTER_DISABLE_TELEMETRY", "1")
    monkeypatch.delenv("SQLMESH_ENVIRONMENT", raising=False)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A SQLMesh project without models."""
    return Project(tmp_path / "project")


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """An instance that is gone after the test."""
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral
