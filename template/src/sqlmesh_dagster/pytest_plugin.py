"""Your tests touch no real database: each works on DuckDB files that are thrown away.

`-p sqlmesh_dagster.pytest_plugin` in pytest's `addopts` loads it. Whatever the environment and SQLMesh's
config say of warehouse and state, a SQLMesh context that a test opens, or a process that it starts, works
on files in a temporary folder. DuckDB files in pytest's own temporary folder are left to the test.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

from sqlmesh_dagster.guard.throw_away import VARIABLE
from sqlmesh_dagster.upstream.sqlmesh import on_new_context

if TYPE_CHECKING:
    from sqlmesh import Config

_CONTEXT = "sqlmesh.core.context"
_before: dict[str, str | None] = {}
_folders: list[str] = []


def pytest_configure() -> None:
    """Redirects what test modules do while they are collected."""
    folder = tempfile.mkdtemp(prefix="throw-away-")
    _folders.append(folder)
    for name, value in _variables(Path(folder, "collection")).items():
        _before.setdefault(name, os.environ.get(name))
        os.environ[name] = value
    if _CONTEXT in sys.modules:
        on_new_context(_redirected)
    else:
        sys.meta_path.insert(0, _WhenImported())


def pytest_unconfigure() -> None:
    """Sets the environment to what it was."""
    for name, value in _before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    _before.clear()
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _WhenImported)]
    while _folders:
        shutil.rmtree(_folders.pop(), ignore_errors=True)


def pytest_report_header() -> str:
    """Says so."""
    return "sqlmesh_dagster: SQLMesh works on DuckDB files that are thrown away"


@pytest.fixture(scope="session", autouse=True)
def wide_throw_away_warehouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of the warehouse that fixtures of a wider scope than a test fill."""
    with pytest.MonkeyPatch.context() as patch:
        yield _set(patch, tmp_path_factory)


@pytest.fixture(autouse=True)
def throw_away_warehouse(
    wide_throw_away_warehouse: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """The folder of this test's warehouse, an empty one unless a fixture of a wider scope has filled it."""
    if wide_throw_away_warehouse.exists():
        return wide_throw_away_warehouse
    return _set(monkeypatch, tmp_path_factory)


def _set(patch: pytest.MonkeyPatch, factory: pytest.TempPathFactory) -> Path:
    variables = _variables(factory.mktemp("throw-away"))
    for name, value in variables.items():
        patch.setenv(name, value)
    return Path(variables[VARIABLE])


def _variables(folder: Path) -> dict[str, str]:
    """The folder of the warehouse is made when a context is opened."""
    home = folder / "dagster_home"
    home.mkdir(parents=True)
    return {VARIABLE: str(folder / "warehouse"), "DAGSTER_HOME": str(home)}


def _redirected(configs: Mapping[Path, Config]) -> Mapping[Path, Config]:
    from sqlmesh_dagster.engine.throw_away import redirected  # imports SQLMesh

    return redirected(configs)


class _WhenImported(MetaPathFinder, Loader):
    """Redirects contexts as soon as somebody imports SQLMesh: tests that don't are not slowed down."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != _CONTEXT:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return None
        self._loader = spec.loader
        spec.loader = self
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        on_new_context(_redirected)
