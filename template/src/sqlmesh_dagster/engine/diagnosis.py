"""What is reachable, and what is allowed: `python -m sqlmesh_dagster.engine.diagnosis`, for `poe doctor`.

Changes nothing but for a schema of its own, which it drops again. Importing this module imports SQLMesh.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from typing import Any
from uuid import uuid4

from sqlglot import exp

from sqlmesh_dagster.engine.context import CaptureContext, open_adapter, open_context
from sqlmesh_dagster.engine.reaching import look, state_of, warehouse_of
from sqlmesh_dagster.engine.refusals import found_missing, granted_schemas
from sqlmesh_dagster.engine.state_lock import state_lock
from sqlmesh_dagster.engine.unfinished import is_unfinished
from sqlmesh_dagster.errors import DatabaseLockedError, InstanceError, StateLockError
from sqlmesh_dagster.facts.diagnosis import Finding, clocks, exit_status, state_version
from sqlmesh_dagster.facts.reaching import Server, failed
from sqlmesh_dagster.guard.cancel import CancelToken
from sqlmesh_dagster.guard.instance import HOME, opened_instance, unset_variables
from sqlmesh_dagster.guard.locks import ProjectLock
from sqlmesh_dagster.guard.secrets import mask, masked_message
from sqlmesh_dagster.layout import project_folder
from sqlmesh_dagster.settings import ProjectSettings
from sqlmesh_dagster.upstream.internals import ConnectionConfig, EngineAdapter
from sqlmesh_dagster.upstream.sqlmesh import (
    duckdb_files,
    engine_name,
    has_state,
    is_state_apart,
    state_connection,
    state_writer,
)
from sqlmesh_dagster.warehouses import GATEWAY, STATE, WAREHOUSES, value_of, variables_of

_PACKAGES = ("dagster", "sqlmesh", "duckdb")
_NAME = "poe doctor"
_IN_POD = "KUBERNETES_SERVICE_HOST"
"""Kubernetes sets it in each pod."""
_GIVEN = "on Kubernetes, webserver and daemon have Dagster's settings, and give them to each run"
_PLACES = (
    "Let `WAREHOUSE_HOST` and `WAREHOUSE_PORT` lead to the server itself; or only the state, by"
    " `STATE_HOST`, `STATE_PORT` and the other variables of the state."
)
_CLOSED = r"""
SELECT nspname FROM pg_namespace
WHERE (nspname = 'sqlmesh' OR nspname LIKE 'sqlmesh\_\_%'
       OR 'sqlmesh__' || nspname IN (SELECT nspname FROM pg_namespace))
AND NOT (has_schema_privilege(oid, 'USAGE') AND has_schema_privilege(oid, 'CREATE'))
ORDER BY nspname
"""
"""Postgres' schemas that SQLMesh works in and that another user has made."""
_OPEN = "As the user that made them, or a superuser: "
_FREE = "End the process that holds the file, or wait for it."


def main() -> int:
    """Prints a line for each thing that it looks at.

    Returns:
        The exit status: 1 if something is to be done.
    """
    logging.disable(logging.ERROR)  # drivers log each attempt; what came of it is said below
    findings = []
    folder = project_folder()
    for finding in diagnose(ProjectSettings(project_dir=folder, wait_timeout=0)):
        findings.append(finding)
        print(mask(finding.line), flush=True)
    return exit_status(findings)


def diagnose(settings: ProjectSettings) -> Iterator[Finding]:
    """Looks at one thing after the other; what needs another that is not well is left out."""
    settings = settings.checked()
    yield Finding("versions", _versions())
    if os.environ.get(HOME):
        yield _records()
    try:
        opened = open_context(settings, load=False)
        context = opened.__enter__()
    except Exception as error:
        yield Finding(
            "config", str(error), "Repair this first: nothing else can be looked at until then."
        )
        return
    try:
        yield from _of_context(context, settings)
    finally:
        opened.__exit__(None, None, None)


def _of_context(context: CaptureContext, settings: ProjectSettings) -> Iterator[Finding]:
    chosen = os.environ.get(GATEWAY, "").strip()
    how = f"`{GATEWAY}`" if chosen else f"the project's own; `{GATEWAY}` is not set"
    gateway = context.gateway or context.config.default_gateway_name
    yield Finding("gateway", f"`{gateway}`, {how}{_unused(chosen)}")
    yield _project_lock(settings)
    server, _ = warehouse_of(context)
    warehouse = _looked("warehouse", lambda: _warehouse(context, settings), server)
    yield warehouse
    if not warehouse.remedy:
        adapter, connection = context.engine_adapter, context.connection_config
        yield _looked("privileges", lambda: _privileges(adapter, connection), server)
        yield _looked("time", lambda: _time(adapter), server)
    if is_state_apart(context) or not warehouse.remedy:
        yield from _of_state(context, settings)


def _unused(chosen: str) -> str:
    """That the state is not where its variables say: they count for the warehouses of the template alone."""
    given = [name for name in variables_of(STATE, state=True) if value_of(name, os.environ)]
    if not given or chosen.lower() in WAREHOUSES:
        return ""
    return (
        f"; {', '.join(f'`{name}`' for name in given)} count only for a warehouse, by `{GATEWAY}`"
    )


def _of_state(context: CaptureContext, settings: ProjectSettings) -> Iterator[Finding]:
    server, connection = state_of(context)
    state = _looked("state", lambda: _state(context, settings), server)
    yield state
    if "this is" not in state.said and state.remedy:
        return
    yield from _unfinished(context, settings)
    if is_state_apart(context):
        with closing(connection.create_engine_adapter(concurrent_tasks=1)) as adapter:
            yield _looked(
                "privileges", lambda: _privileges(adapter, connection, "of the state"), server
            )
    yield _looked("lock", lambda: _lock(context, settings), server)


def _looked(subject: str, look: Callable[[], Finding], server: Server) -> Finding:
    """What a look at a server has found; an error, with what to do about it."""
    try:
        return look()
    except DatabaseLockedError as error:
        return Finding(subject, str(error.description), _FREE)
    except Exception as error:
        right = found_missing(error)
        if right is not None:
            return Finding(subject, right.said, right.remedy)
        found = failed(server, masked_message(error))
        return Finding(subject, found.said, found.remedy)


def _reached(subject: str, side: tuple[Server, ConnectionConfig]) -> Finding | None:
    """What keeps a server from answering, if anything does."""
    found = look(*side)
    return Finding(subject, found.said, found.remedy) if found else None


def _versions() -> str:
    found = [f"Python {sys.version.split()[0]}"]
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            found.append(f"{package} {version(package)}")
    return ", ".join(found)


def _records() -> Finding:
    try:
        with opened_instance():
            return Finding("records", "Dagster's runs, assets and ticks can be read")
    except InstanceError as error:
        unset = unset_variables(error.__cause__)
        if unset and os.environ.get(_IN_POD):
            return Finding("records", f"not looked at: {_GIVEN}, and here {unset} is not set")
        return Finding(
            "records", str(error.description), "No run can start until this is repaired."
        )


def _project_lock(settings: ProjectSettings) -> Finding:
    lock = ProjectLock(settings.lock_name, settings.project_path)
    lease = lock.take(_NAME)
    if lease is None:
        return Finding("runs", f"{lock.holder() or 'another process'} works on the project now")
    lease.release()
    return Finding("runs", "none on this host works on the project now")


def _warehouse(context: CaptureContext, settings: ProjectSettings) -> Finding:
    unreachable = _reached("warehouse", warehouse_of(context))
    if unreachable is not None:
        return unreachable
    adapter = open_adapter(context, settings)
    adapter.fetchone("SELECT 1")
    return Finding("warehouse", f"{_place(context.connection_config)} answers")


def _place(connection: ConnectionConfig) -> str:
    files = ", ".join(str(file) for file in duckdb_files(connection))
    host = getattr(connection, "host", None) or getattr(connection, "server_hostname", None)
    return f"{engine_name(connection)}{f' at {files or host}' if files or host else ''}"


def _privileges(
    adapter: EngineAdapter, connection: ConnectionConfig, where: str = "of the warehouse"
) -> Finding:
    """Makes a schema, a table and a view, and drops them."""
    schema = f"sqlmesh_doctor_{uuid4().hex[:8]}"
    table = exp.table_("made", db=schema)
    adapter.create_schema(schema, warn_on_error=False)
    try:
        adapter.create_table(table, {"id": exp.DataType.build("int")})
        adapter.insert_append(table, exp.select(exp.cast(exp.Literal.number(1), "int").as_("id")))
        adapter.create_view(exp.table_("shown", db=schema), exp.select("id").from_(table))
    finally:
        adapter.drop_schema(schema, ignore_if_not_exists=True, cascade=True)
    closed = [str(row[0]) for row in adapter.fetchall(_CLOSED)] if _is_postgres(adapter) else []
    if closed:
        said = f"{where}: this user may not create in {', '.join(f'`{name}`' for name in closed)}"
        return Finding("privileges", said, _OPEN + granted_schemas(closed, connection))
    return Finding("privileges", f"{where}: schemas, tables and views can be made")


def _is_postgres(adapter: EngineAdapter) -> bool:
    return bool(adapter.dialect == "postgres")


def _time(adapter: EngineAdapter) -> Finding:
    """By the warehouse's own clock, as text, in UTC."""
    before = datetime.now(timezone.utc)
    row: Any = adapter.fetchone(exp.select(exp.CurrentTimestamp()))
    there = row[0]
    if not isinstance(there, datetime):
        return Finding("time", f"the warehouse says {there}")
    if there.tzinfo is None:
        there = there.replace(tzinfo=timezone.utc)
    return clocks(before, there)


def _state(context: CaptureContext, settings: ProjectSettings) -> Finding:
    unreachable = _reached("state", state_of(context))
    if unreachable is not None:
        return unreachable
    found = state_version(version("sqlmesh"), state_writer(context), settings.command)
    place = _place(state_connection(context))
    return Finding(found.subject, f"on {place}: {found.said}", found.remedy)


def _unfinished(context: CaptureContext, settings: ProjectSettings) -> Iterator[Finding]:
    """Environments for whose last plan a run would wait."""
    if not has_state(context):
        return
    for environment in context.state_reader.get_environments():
        if is_unfinished(environment):
            said = (
                f"environment `{environment.name}` is being changed, or a plan of it failed or died"
            )
            command = settings.plan_command(environment.name)
            yield Finding("plan", said, f"If none is at work, run `{command}`, which finishes it.")


def _lock(context: CaptureContext, settings: ProjectSettings) -> Finding:
    said: list[str] = []

    def log(_: int, text: str) -> None:
        said.append(text)

    try:
        with state_lock(context, settings, _NAME, CancelToken(), log) as lock, lock.alone():
            if any("no lock keeps" in text for text in said):
                return Finding("lock", said[0], "Let `STATE_HOST` and so on name a Postgres.")
    except StateLockError as error:
        fault, _, _ = str(error.description).partition(" Let ")  # the remedy for any config
        return Finding("lock", fault, _PLACES)
    return Finding("lock", "the one on the state can be taken, held and given back")


if __name__ == "__main__":
    sys.exit(main())
