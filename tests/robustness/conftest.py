"""Processes of generated projects start warm."""

import pytest

from tests.conftest import with_warm_processes


def pytest_itemcollected(item: pytest.Item) -> None:
    """Not those of storms, nor those that are measured."""
    with_warm_processes(item, "generated")
