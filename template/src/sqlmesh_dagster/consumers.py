"""What reads models outside of SQLMesh and Dagster, as assets: dashboards, exports."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import dagster as dg

from sqlmesh_dagster.definition.names import op_name
from sqlmesh_dagster.definition.project import DagsterProject
from sqlmesh_dagster.facts.rules import FILE, Consumer, Rules, consumed, unknown_reads

_GROUP = "consumers"


def consumer_key(consumer: Consumer) -> dg.AssetKey:
    """`consumers / <name>`."""
    return dg.AssetKey([_GROUP, op_name([consumer.name])])


def consumer_specs(project: DagsterProject, rules: Rules) -> Iterator[dg.AssetSpec]:
    """One asset for each consumer, below the models that it reads; nothing builds it."""
    keys = project.keys_by_plain_name
    for consumer in rules.consumers:
        for name in unknown_reads(consumer, keys):
            warnings.warn(
                f"The consumer `{consumer.name}` of `{FILE}` reads `{name}`, and no model has that name.",
                UserWarning,
                stacklevel=2,
            )
        yield dg.AssetSpec(
            consumer_key(consumer),
            deps=[keys[name] for name in consumed(consumer, keys)],
            description=consumer.description or None,
            group_name=_GROUP,
            kinds={consumer.kind} if consumer.kind else set(),
            owners=[_owner(consumer.owner)] if consumer.owner else [],
            metadata={
                "sqlmesh/reads": list(consumer.reads),
                **({"sqlmesh/url": dg.MetadataValue.url(consumer.url)} if consumer.url else {}),
            },
        )


def _owner(text: str) -> str:
    return text if "@" in text or text.startswith("team:") else f"team:{op_name([text])}"
