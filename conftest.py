"""Which tests wait until they are asked for: the README's command leaves them to `.ci/run`. And what all tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.migrations import read_once

LATER = ("slow", "generated", "large")
"""Marks of what `.ci/run` runs after the README's command."""
NEVER = ("matrix", "storm")
"""Marks of what runs by hand alone."""
FIRST = ("test_generated_projects.py", "test_docs.py")
"""Files that take longest: begun last, they would keep one worker busy while the others have ended."""


@pytest.fixture(scope="session", autouse=True)
def migrations_are_read_once() -> Iterator[None]:
    """Those of Dagster's tables, in each process of tests."""
    with read_once():
        yield


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what was not asked for: with `-m`, by naming its file, or one of its tests."""
    asked = config.getoption("markexpr")
    files_are_named = any(".py" in argument for argument in config.args)
    later = () if asked or files_are_named else LATER
    waiting = [*later, *(mark for mark in NEVER if mark not in asked)]
    left_out = [item for item in items if any(map(item.get_closest_marker, waiting))]
    config.hook.pytest_deselected(items=left_out)
    kept = set(items) - set(left_out)
    items[:] = [item for item in items if item in kept]
    items.sort(key=lambda item: item.path.name not in FIRST)
