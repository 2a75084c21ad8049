"""Facts about models, sources and tests that are in dbt's files, but not in SQLMesh's models.

Importing this module imports SQLMesh; dbt is imported by SQLMesh, in a dbt project alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlglot.errors import SqlglotError
from sqlmesh import Context

from sqlmesh_dagster.definition.names import shown
from sqlmesh_dagster.definition.records import ColumnRecord, DbtRecord
from sqlmesh_dagster.upstream.internals import (
    Model,
    Node,
    SQLMeshError,
    StandaloneAudit,
    normalize_model_name,
)
from sqlmesh_dagster.upstream.sqlmesh import dbt_manifests

_META = "dagster"
"""`meta: {dagster: {group: …, owners: […], asset_key: […]}}`, as dagster-dbt reads it."""


@dataclass(frozen=True)
class DbtSource:
    """A source's table, as its YAML describes it."""

    description: str | None
    columns: tuple[ColumnRecord, ...]
    asset_key: tuple[str, ...]


@dataclass(frozen=True)
class DbtNotes:
    """What dbt knows of a context's projects; nothing of projects that are not dbt's.

    Attributes:
        nodes: dbt's nodes by their unique id.
        owners: Owners of each group.
        sources: Tables by their FQN.
        fqns: The FQN of each node that is a model of SQLMesh's.
    """

    nodes: Mapping[str, Any] = field(default_factory=dict)
    owners: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    sources: Mapping[str, DbtSource] = field(default_factory=dict)
    fqns: Mapping[str, str] = field(default_factory=dict)

    def of_model(self, model: Model) -> DbtRecord | None:
        """What dbt says of a model, a seed or a snapshot."""
        node = self._node(model)
        if node is None:
            return None
        own = _own_meta(node.meta)
        group = own.get("group") or node.group or _config(node, "group")
        owners = _texts(own.get("owners")) or _texts(node.meta.get("owner"))
        return DbtRecord(
            unique_id=node.unique_id,
            resource_type=str(getattr(node.resource_type, "value", node.resource_type)),
            group=shown(str(group)) if group else None,
            owners=owners or self.owners.get(node.group or "", ()),
            asset_key=_texts(own.get("asset_key")),
        )

    def of_audit(self, audit: StandaloneAudit) -> tuple[str | None, str | None]:
        """The FQN of the model at which a test stands in YAML, and its description."""
        node = self._node(audit)
        if node is None:
            return None, None
        attached = self.fqns.get(node.attached_node) if hasattr(node, "attached_node") else None
        return attached, shown(node.description) or None

    def _node(self, node: Node) -> Any:
        info = node.dbt_node_info
        return self.nodes.get(info.unique_id) if info else None


def dbt_notes(context: Context) -> DbtNotes:
    """Reads what dbt parsed for the load of a context."""
    manifests = dbt_manifests(context)
    if not manifests:
        return DbtNotes()
    return DbtNotes(
        nodes={name: node for found in manifests for name, node in found.nodes.items()},
        owners={
            group.name: _texts([getattr(group.owner, "email", None) or group.owner.name])
            for found in manifests
            for group in found.groups.values()
        },
        sources={fqn: source for found in manifests for fqn, source in _sources(found, context)},
        fqns={m.dbt_node_info.unique_id: f for f, m in context.models.items() if m.dbt_node_info},
    )


def _sources(found: Any, context: Context) -> Iterator[tuple[str, DbtSource]]:
    for source in found.sources.values():
        try:
            fqn = normalize_model_name(
                source.relation_name,
                default_catalog=context.default_catalog,
                dialect=context.default_dialect,
            )
        except (SqlglotError, SQLMeshError, ValueError):  # a file, such as `read_csv('…')`
            continue
        columns = tuple(
            ColumnRecord(c.name, c.data_type or "", shown(c.description) or None)
            for c in source.columns.values()
        )
        text = source.description or source.source_description
        key = _own_meta(source.meta).get("asset_key")
        yield fqn, DbtSource(shown(text) or None, columns, _texts(key))


def _own_meta(meta: Mapping[str, Any]) -> Mapping[str, Any]:
    own = meta.get(_META)
    return own if isinstance(own, Mapping) else {}


def _config(node: Any, name: str) -> Any:
    return node.config.get(name) if hasattr(node.config, "get") else None


def _texts(given: Any) -> tuple[str, ...]:
    """One text or several; anything else is none."""
    several = given if isinstance(given, (list, tuple)) else [given]
    return tuple(shown(text) for text in several if isinstance(text, str) and text)
