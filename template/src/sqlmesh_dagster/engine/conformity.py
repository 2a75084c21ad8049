"""Builds a project with SQLMesh alone, and reads what the warehouse then contains: for `poe conform`.

Importing this module imports SQLMesh.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlmesh import Config, Context

from sqlmesh_dagster.engine.throw_away import throw_away_connection
from sqlmesh_dagster.facts.conformity import Held
from sqlmesh_dagster.production import PRODUCTION
from sqlmesh_dagster.upstream.internals import (
    ConnectionConfig,
    GatewayConfig,
    Snapshot,
    SQLMeshError,
    StandaloneAudit,
)
from sqlmesh_dagster.upstream.sqlmesh import (
    duckdb_files,
    keep_memory,
    on_new_context,
    relocate_duckdb,
)

_DIGITS = 9
"""Digits of a float that count: the order of a sum is the engine's."""


def work_on_copies(original: Path, sandbox: Path) -> None:
    """From now on no context of this process touches a database of the project's own.

    A DuckDB file is copied into the sandbox; another engine is a DuckDB file there, and SQLMesh writes
    its SQL in DuckDB's dialect.
    """
    sandbox.mkdir(parents=True, exist_ok=True)

    def change(configs: Mapping[Path, Config]) -> Mapping[Path, Config]:
        return {path: _moved(config, original, sandbox) for path, config in configs.items()}

    on_new_context(change)


def build_alone(projects: Sequence[str], at: datetime) -> str | None:
    """Plans and applies production as `sqlmesh plan --auto-apply` does.

    Returns:
        Why that failed, in SQLMesh's words.
    """
    context = Context(paths=list(projects))
    try:
        context.plan(PRODUCTION, auto_apply=True, no_prompts=True, execution_time=at)
    except SQLMeshError as error:
        return str(error)
    finally:
        context.close()
    return None


def held(projects: Sequence[str]) -> Held:
    """What production holds: rows of each view, intervals of each snapshot."""
    context = Context(paths=list(projects))
    try:
        environment = context.state_reader.get_environment(PRODUCTION)
        if environment is None:
            return Held({}, {}, len(context.models), 0)
        snapshots = context.state_reader.get_snapshots(environment.snapshots).values()
        adapter = context.engine_adapter
        models = [s for s in snapshots if s.is_model and not (s.is_symbolic or s.is_embedded)]
        names = {
            s.name: s.qualified_view_name.for_environment(environment.naming_info) for s in models
        }
        return Held(
            {name: _rows(adapter, view) for name, view in names.items()},
            {s.name: [list(span) for span in s.intervals] for s in snapshots if s.evaluatable},
            len(models),
            sum(_audits(snapshot) for snapshot in snapshots),
        )
    finally:
        context.close()


def _audits(snapshot: Snapshot) -> int:
    """Uses of audits that are not switched off."""
    if isinstance(snapshot.node, StandaloneAudit):
        return int(not snapshot.node.skip)
    return sum(1 for audit, _ in snapshot.model.audits_with_args if not audit.skip)


def _rows(adapter: Any, view: str) -> str:
    """How many rows there are, and a digest of them in any order."""
    try:
        rows = adapter.fetchall(f"SELECT * FROM {view}")
    except Exception as error:  # a view that is not there is a finding, too
        return f"{type(error).__name__}"
    texts = sorted(repr([_plain(value) for value in row]) for row in rows)
    return f"{len(rows)} {hashlib.sha256(repr(texts).encode()).hexdigest()[:12]}"


def _plain(value: object) -> object:
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else str(value)


def _moved(config: Config, original: Path, sandbox: Path) -> Config:
    gateways = config.gateways if isinstance(config.gateways, dict) else {"": config.gateways}
    return config.model_copy(
        update={
            "gateways": {
                name: _gateway(gateway, config, original, sandbox)
                for name, gateway in gateways.items()
            }
        }
    )


def _gateway(
    gateway: GatewayConfig, config: Config, original: Path, sandbox: Path
) -> GatewayConfig:
    connection = gateway.connection or config.default_connection
    return gateway.model_copy(
        update={
            "connection": _connection(connection, original, sandbox),
            "state_connection": _connection(gateway.state_connection, original, sandbox)
            if gateway.state_connection and duckdb_files(gateway.state_connection)
            else None,
            "scheduler": None,
        }
    )


def _connection(
    connection: ConnectionConfig | None, original: Path, sandbox: Path
) -> ConnectionConfig | None:
    if connection is None:
        return None
    copied = connection.model_copy(deep=True)
    keep_memory(copied, sandbox)
    if relocate_duckdb(copied, lambda path: str(_copied(original / path, sandbox))):
        return copied
    return throw_away_connection(connection, sandbox / "databases" / "other")


def _copied(file: Path, sandbox: Path) -> Path:
    """A copy of a database file, with what it has not merged yet; where there is none, only its place."""
    if file.is_relative_to(sandbox):
        return file
    place = sandbox / hashlib.sha256(str(file.parent).encode()).hexdigest()[:6] / file.name
    place.parent.mkdir(parents=True, exist_ok=True)
    for source in _with_wal(file):
        target = place.parent / source.name
        if source.is_file() and not target.exists() and source != target:
            shutil.copy2(source, target)
    return place


def _with_wal(file: Path) -> Iterator[Path]:
    yield file
    yield file.with_name(f"{file.name}.wal")
