"""What each step's process needs, made once: for `preload_modules` of Dagster's forkserver.

A process that is forked from it has imported Dagster and this package, but no SQLMesh: of the steps of
a run, the one that leads imports it, and those that wait for it never do. With
`execution: per_step`, where each step runs SQLMesh, preload `sqlmesh_dagster.engine.sqlmesh_run`, too.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import dagster as dg

from sqlmesh_dagster import (
    component,  # noqa: F401
    event_log,  # noqa: F401
    factories,  # noqa: F401
)
from sqlmesh_dagster.guard.garbage import freeze_imports
from sqlmesh_dagster.upstream.forks import load_definitions_once

_log = logging.getLogger(__name__)
_SILENT = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


def _import_what_a_step_does() -> None:
    """Runs one empty step in this process: Dagster imports much of itself, and of others, when it is used."""

    @dg.asset(check_specs=[dg.AssetCheckSpec("right", asset="nothing")])
    def nothing() -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
        yield dg.MaterializeResult()
        yield dg.AssetCheckResult(passed=True)

    with dg.DagsterInstance.ephemeral() as instance:
        dg.materialize([nothing], instance=instance, run_config=_SILENT)


try:
    _import_what_a_step_does()
except Exception:  # then each step imports what it needs; a server that ends would fail the run
    _log.warning("Steps start slower than they could.", exc_info=True)
load_definitions_once()
freeze_imports()
