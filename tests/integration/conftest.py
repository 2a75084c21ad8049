"""The fixtures of the tests that an owner gets, for those that stay here."""

import pytest
from tests.sqlmesh_dagster.conftest import (
    installed_packages,
    instance,
    own_process,
    project,
)

from tests.conftest import with_warm_processes

__all__ = ["installed_packages", "instance", "own_process", "project"]


def pytest_itemcollected(item: pytest.Item) -> None:
    """What a slow test starts of Dagster starts warm."""
    with_warm_processes(item, "slow")
