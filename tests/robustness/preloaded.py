"""Imported by the server that step processes are forked from: what each needs, built once."""

import sqlmesh_dagster.engine.sqlmesh_run  # noqa: F401
from tests.robustness.worker import job

job("many_processes")
