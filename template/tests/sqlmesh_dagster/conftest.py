"""Fixtures of the integration's tests: an empty project, an instance, and a clean process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from itertools import count
from pathlib import Path

import dagster as dg
import pytest

from sqlmesh_dagster.guard.throw_away import VARIABLE
from tests.sqlmesh_dagster.projects import Project


def pytest_report_header() -> str:
    """Names what is being integrated."""
    from importlib.metadata import version

    return ", ".join(
        f"{name} {version(name)}" for name in ("dagster", "sqlmesh", "duckdb", "anyio")
    )


@pytest.fixture(scope="session", autouse=True)
def installed_packages() -> Iterator[None]:
    """SQLMesh lists them for each plan, which takes 0.4 s; here they stay as they are."""
    metadata = vars(import_module("sqlmesh.core.context_diff"))["metadata"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metadata, "packages_distributions", cache(metadata.packages_distributions))
        yield


@pytest.fixture
def throw_away_warehouse() -> None:
    """Not needed: each test here makes a project of its own, with a DuckDB file of its own."""


_folders = count()
"""Of tests; pytest looks through all folders for a number of its own, the longer the more tests there were."""


@pytest.fixture(autouse=True)
def own_process(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No analytics, no fork, no settings of the project around it, and a temp folder, where the locks are, of this test's own."""
    folder = tmp_path_factory.getbasetemp() / "t" / str(next(_folders))
    folder.mkdir(parents=True)
    temp = str(folder)  # short: Dagster's sockets are in it
    monkeypatch.setenv("TMPDIR", temp)
    monkeypatch.setattr("tempfile.tempdir", temp)
    monkeypatch.setenv("MAX_FORK_WORKERS", "1")
    monkeypatch.setenv("DAGSTER_DISABLE_TELEMETRY", "1")
    settings = [name for name in os.environ if name.upper().startswith("SQLMESH__")]
    for name in (*settings, "SQLMESH_ENVIRONMENT", "DAGSTER_HOME", VARIABLE):
        monkeypatch.delenv(name, raising=False)  # they would name a real warehouse, or state
    monkeypatch.setenv("SQLMESH__DISABLE_ANONYMIZED_ANALYTICS", "true")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A SQLMesh project without models."""
    return Project(tmp_path / "project")


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """An instance that is gone after the test."""
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral
