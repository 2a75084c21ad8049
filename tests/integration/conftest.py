"""The fixtures of the tests that an owner gets, for those that stay here."""

from tests.sqlmesh_dagster.conftest import instance, own_process, project

__all__ = ["instance", "own_process", "project"]
