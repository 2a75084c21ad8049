"""A plan that has begun to change an environment, and has not ended: it works, or it failed or died on its way."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from sqlmesh_dagster import errors
from sqlmesh_dagster.engine.context import CaptureContext
from sqlmesh_dagster.engine.explanation import unfinished
from sqlmesh_dagster.settings import ProjectSettings
from sqlmesh_dagster.upstream.internals import Environment
from sqlmesh_dagster.upstream.sqlmesh import is_duckdb_on_this_host, state_connection

_PATIENCE = 60.0
"""Seconds for a plan of somebody else's, before a run that deploys by itself finishes it."""
_PAUSE = 1.0
"""Seconds between two looks at the state."""


def is_unfinished(environment: Environment | None) -> bool:
    """Whether the last plan of an environment has not ended; a run of it would wait for that."""
    return environment is not None and environment.finalized_ts is None


def await_plan(
    context: CaptureContext,
    settings: ProjectSettings,
    log: Callable[[int, str], None],
    *,
    may_finish: bool,
) -> Environment | None:
    """Waits until the last plan of the environment has ended, and says so.

    Who has opened the state in a DuckDB file is alone with it, so that the plan is dead, and nothing is waited for.

    Args:
        may_finish: Whether a plan of the files may be applied, which finishes a dead one.

    Returns:
        The environment, which is unfinished still if the plan is dead.

    Raises:
        EnvironmentNotFinalizedError: It has not ended, and may not be finished here.
    """
    patience = min(settings.wait_timeout, _PATIENCE) if may_finish else settings.wait_timeout
    if is_duckdb_on_this_host(state_connection(context)):
        patience = 0.0
    end, is_told = time.monotonic() + patience, False
    while is_unfinished(found := context.state_reader.get_environment(settings.environment)):
        if time.monotonic() >= end:
            break
        if not is_told:
            log(logging.WARNING, _told(settings, patience, may_finish=may_finish))
        is_told = True
        time.sleep(_PAUSE)
        context.cancel_token.check()
    if may_finish or not is_unfinished(found):
        return found
    raise errors.EnvironmentNotFinalizedError(unfinished(settings))


def _told(settings: ProjectSettings, patience: float, *, may_finish: bool) -> str:
    then = (
        "Then this run applies the project's files, which finishes it."
        if may_finish
        else f"If no plan is at work, stop this run. {settings.plan_hint}"
    )
    return (
        f"Environment `{settings.environment}` is being changed by a plan, or a plan of it died. Waiting for"
        f" it to end, up to {patience:g} s. {then}"
    )
