"""Updates of real projects from clones of this repository wait for `.ci/run`; what needs no clone does not."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.update.warm import serving

_CLONES = {"template", "project", "newest", "start"}


def pytest_itemcollected(item: pytest.Item) -> None:
    """Marks what works on a clone; a plain render is not one."""
    fixtures = set(item.fixturenames) if isinstance(item, pytest.Function) else set()
    if _CLONES & fixtures or ("source" in fixtures and "render" not in fixtures):
        item.add_marker(pytest.mark.slow)
        if isinstance(item, pytest.Function) and "warm_copier" not in item.fixturenames:
            item.fixturenames.insert(0, "warm_copier")


@pytest.fixture(scope="session")
def _tools(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a `copier` that is Copier, and starts at once."""
    if sys.platform != "linux":
        yield tmp_path_factory.mktemp("tools")
        return
    with serving(source, tmp_path_factory.mktemp("tools")) as tools:
        yield tools


@pytest.fixture(scope="module")
def warm_copier(_tools: Path) -> Iterator[None]:
    """Whatever runs `copier` finds that one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(_tools), prepend=os.pathsep)
        yield
