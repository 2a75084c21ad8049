"""Records the versions of production next to SQLMesh's state, which keeps only the current one.

The record is where the state is, so that every host has it, whoever promoted. Importing this module
imports SQLMesh.
"""

from __future__ import annotations

import base64
import json
import logging
import zlib
from collections.abc import Callable, Iterable
from dataclasses import replace

from sqlglot import exp
from sqlmesh import Context

from sqlmesh_dagster.engine.reader import fingerprint_text
from sqlmesh_dagster.facts.versions import ProductionVersion
from sqlmesh_dagster.production import PRODUCTION
from sqlmesh_dagster.upstream.internals import (
    EngineAdapter,
    Environment,
    EnvironmentStatements,
    SnapshotFingerprint,
    SnapshotId,
    now_timestamp,
)
from sqlmesh_dagster.upstream.sqlmesh import state_tables

_TABLE = "_dagster_production"
_KEPT = 100
"""Versions; SQLMesh drops the tables of older ones sooner, as a rule."""


def remember(
    context: Context,
    log: Callable[[int, str], None],
    run: str | None = None,
    commit: str | None = None,
    environment: Environment | None = None,
) -> ProductionVersion | None:
    """Records what production runs, unless it is recorded; never fails what it is done for.

    Args:
        run: The Dagster run that has just applied the plan, and the commit of its files.
        environment: Production, if it is read already.

    Returns:
        The record; None where there is none.
    """
    try:
        found = environment or context.state_reader.get_environment(PRODUCTION)
        if found is None or not found.finalized_ts:
            return None
        records = _Records.of(context)
        known = records.read_one(found.plan_id)
        if known is not None and (run is None or known.run is not None):
            return known
        new = known or replace(version_of(context, found), at=now_timestamp())
        new = replace(new, run=run, commit=commit)
        records.write(new)
        return new
    except Exception as error:  # drivers raise whatever they like
        log(
            logging.WARNING,
            "What production runs could not be recorded next to SQLMesh's state, so that a rollback to it is"
            f" not known: {error}",
        )
        return None


def begin_rollback(context: Context, version: ProductionVersion) -> None:
    """Records a rollback before it is done: one that is killed is known for what it is."""
    _Records.of(context).write(replace(version, at=now_timestamp()))


def known_versions(context: Context) -> dict[str, ProductionVersion]:
    """All that is recorded, by the id of the plan."""
    return {version.plan: version for version in _Records.of(context).read()}


def version_of(context: Context, environment: Environment) -> ProductionVersion:
    """What an environment runs."""
    statements = context.state_reader.get_environment_statements(environment.name)
    told = [statement.model_dump(mode="json") for statement in statements]
    return ProductionVersion(
        plan=environment.plan_id,
        previous=environment.previous_plan_id,
        nodes=tuple(
            sorted((s.name, fingerprint_text(s.fingerprint)) for s in environment.snapshots)
        ),
        statements=json.dumps(told, sort_keys=True) if told else "",
        requirements=tuple(sorted(environment.requirements.items())),
    )


def snapshot_ids(version: ProductionVersion) -> dict[str, SnapshotId]:
    """The snapshots of a version, by name."""
    return {
        name: SnapshotId(name=name, identifier=_fingerprint(text).to_identifier())
        for name, text in version.nodes
    }


def statements_of(version: ProductionVersion) -> list[EnvironmentStatements]:
    """Its statements before and after runs."""
    given = json.loads(version.statements) if version.statements else []
    return [EnvironmentStatements.model_validate(each) for each in given]


def _fingerprint(text: str) -> SnapshotFingerprint:
    data, metadata, parent_data, parent_metadata = text.split("-")
    return SnapshotFingerprint(
        data_hash=data,
        metadata_hash=metadata,
        parent_data_hash=parent_data,
        parent_metadata_hash=parent_metadata,
    )


class _Records:
    """The table; made when it is first asked for."""

    def __init__(self, adapter: EngineAdapter, schema: str | None) -> None:
        self._adapter = adapter
        self._table = exp.table_(_TABLE, db=schema)
        kind = exp.DataType.build("LONGTEXT" if adapter.DIALECT == "mysql" else "TEXT")
        columns = {
            "plan_id": exp.DataType.build("VARCHAR(100)"),
            "seen_at": exp.DataType.build("BIGINT"),
            "facts": kind,
        }
        adapter.create_state_table(self._table.sql(dialect=adapter.DIALECT), columns)

    @classmethod
    def of(cls, context: Context) -> _Records:
        return cls(*state_tables(context))

    def read_one(self, plan: str) -> ProductionVersion | None:
        return next(iter(self._read(_is("plan_id", plan))), None)

    def read(self) -> Iterable[ProductionVersion]:
        return self._read(None)

    def write(self, version: ProductionVersion) -> None:
        facts = json.dumps(version.as_json()).encode()
        text = base64.b64encode(zlib.compress(facts, 9)).decode()
        values = [exp.convert(version.plan), exp.convert(version.at), exp.convert(text)]
        with self._adapter.transaction():
            self._adapter.delete_from(self._table, _is("plan_id", version.plan))
            self._adapter.execute(
                exp.insert(
                    exp.select(*values), self._table, columns=["plan_id", "seen_at", "facts"]
                )
            )
            self._forget_the_oldest()

    def _forget_the_oldest(self) -> None:
        times = exp.select("seen_at").from_(self._table).order_by("seen_at DESC")
        found = [row[0] for row in self._adapter.fetchall(times)]
        if len(found) > _KEPT:
            old = exp.column("seen_at") < exp.convert(found[_KEPT - 1])
            self._adapter.delete_from(self._table, old)

    def _read(self, where: exp.Expr | None) -> Iterable[ProductionVersion]:
        query = exp.select("facts").from_(self._table)
        rows = self._adapter.fetchall(query.where(where) if where is not None else query)
        for (text,) in rows:
            facts = json.loads(zlib.decompress(base64.b64decode(text)))
            yield ProductionVersion.from_json(facts)


def _is(column: str, value: str) -> exp.Expr:
    return exp.column(column).eq(exp.convert(value))
