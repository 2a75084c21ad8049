"""Updates of real projects from clones of this repository wait for `.ci/run`; what needs no clone does not."""

from __future__ import annotations

import pytest

_CLONES = {"template", "project", "newest", "start"}


def pytest_itemcollected(item: pytest.Item) -> None:
    """Marks what works on a clone; a plain render is not one."""
    fixtures = set(item.fixturenames) if isinstance(item, pytest.Function) else set()
    if _CLONES & fixtures or ("source" in fixtures and "render" not in fixtures):
        item.add_marker(pytest.mark.slow)
