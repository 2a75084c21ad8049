"""Who reads models outside of SQLMesh: Dagster's assets, and the consumers that the owner names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import dagster as dg

from sqlmesh_dagster.consumers import consumer_key
from sqlmesh_dagster.definition.project import DagsterProject
from sqlmesh_dagster.facts.review import Reader
from sqlmesh_dagster.facts.rules import Consumer, Rules, consumed
from sqlmesh_dagster.upstream.dagster import assets_of_location

_LINEAGE = "dagster/column_lineage"


def outside_readers(
    context: dg.OpExecutionContext, project: DagsterProject, rules: Rules, names: Sequence[str]
) -> tuple[Reader, ...]:
    """Whoever reads one of these models directly, with the columns where they are known.

    Args:
        names: The models, without quotes.
    """
    consumers = (_consumer(consumer, names) for consumer in rules.consumers)
    return (
        *(reader for reader in consumers if reader.reads),
        *asset_readers(assets_of_location(context), project, rules, names),
    )


def asset_readers(
    specs: Sequence[dg.AssetSpec],
    project: DagsterProject,
    rules: Rules,
    names: Sequence[str],
) -> Iterator[Reader]:
    """Assets that are no model and read one; the columns are those of their `dagster/column_lineage`."""
    by_key = {key: name for name, key in project.keys_by_plain_name.items() if name in set(names)}
    own = {*project.keys_by_fqn.values(), *(consumer_key(c) for c in rules.consumers)}
    for spec in specs:
        read = [dep.asset_key for dep in spec.deps if dep.asset_key in by_key]
        if spec.key in own or not read:
            continue
        columns = _columns(spec)
        yield Reader(
            spec.key.to_user_string(),
            "asset",
            {by_key[k]: None if columns is None else columns.get(k, frozenset()) for k in read},
            owner=", ".join(spec.owners),
        )


def _consumer(consumer: Consumer, names: Sequence[str]) -> Reader:
    return Reader(consumer.name, "consumer", consumed(consumer, names), owner=consumer.owner)


def _columns(spec: dg.AssetSpec) -> dict[dg.AssetKey, frozenset[str]] | None:
    found = spec.metadata.get(_LINEAGE)
    lineage = found.value if isinstance(found, dg.MetadataValue) else found
    if not isinstance(lineage, dg.TableColumnLineage):
        return None
    columns: dict[dg.AssetKey, frozenset[str]] = {}
    for deps in lineage.deps_by_column.values():
        for dep in deps:
            columns[dep.asset_key] = columns.get(dep.asset_key, frozenset()) | {dep.column_name}
    return columns
