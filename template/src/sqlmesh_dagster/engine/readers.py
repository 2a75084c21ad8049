"""Who reads a changed model inside SQLMesh, and which of its columns.

Importing this module imports SQLMesh.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sqlglot import exp

from sqlmesh_dagster.definition.names import check_names
from sqlmesh_dagster.engine.lineage import columns_read
from sqlmesh_dagster.engine.plan import plain
from sqlmesh_dagster.engine.reader import audit_arguments
from sqlmesh_dagster.engine.sides import Change, Sides
from sqlmesh_dagster.facts.review import ModelReview, Reader
from sqlmesh_dagster.guard.secrets import mask
from sqlmesh_dagster.upstream.internals import Model


def model_readers(sides: Sides, models: Sequence[ModelReview]) -> Iterator[Reader]:
    """Every model that reads a changed one: what it reads, and whether its own data differ."""
    changed = {model.name: model for model in models}
    for fqn, model in sides.context.models.items():
        upstream = {name: plain(name) for name in model.depends_on or () if plain(name) in changed}
        if not upstream or model.kind.is_embedded:
            continue
        read = _read(model)
        own = changed.get(plain(fqn))
        yield Reader(
            plain(fqn),
            "model",
            {shown: None if read is None else read.get(name) for name, shown in upstream.items()},
            is_measured=own is not None and (own.is_same_table or own.comparison is not None),
            is_touched=own is None or own.is_touched,
            owner=mask(model.owner or ""),
        )


def check_readers(sides: Sides) -> Iterator[Reader]:
    """The audits of changed models, and standalone audits that read one."""
    changed = {c.after.name: c for c in sides.changes if c.after is not None}
    for change in changed.values():
        assert change.after is not None
        calls = change.after.model.audits_with_args
        names = check_names([(audit.name, audit_arguments(given)) for audit, given in calls])
        for name, (audit, given) in zip(names, calls, strict=True):
            texts = (*given.values(), audit.query)
            columns = {c.name for text in texts for c in text.find_all(exp.Column)}
            known = columns & {*(change.after.model.columns_to_types or ()), *_lost(change)}
            yield Reader(f"{change.name}: {name}", "check", {change.name: frozenset(known)})
    for audit in sides.context.standalone_audits.values():
        read = {plain(name): None for name in audit.depends_on if name in changed}
        if read:
            yield Reader(audit.name, "check", read, owner=mask(audit.owner or ""))


def _lost(change: Change) -> set[str]:
    return set(change.before.model.columns_to_types or ()) if change.before else set()


def _read(model: Model) -> dict[str, frozenset[str]] | None:
    return columns_read(model.render_query()) if model.is_sql else None
