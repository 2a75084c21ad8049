"""The fixtures of the tests that an owner gets, for those that stay here."""

from tests.sqlmesh_dagster.conftest import (
    installed_packages,
    instance,
    own_process,
    project,
)

__all__ = ["installed_packages", "instance", "own_process", "project"]
