"""Seconds and rows of each model in its last runs, to estimate the next one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import dagster as dg

from sqlmesh_dagster.definition.project import DagsterProject, ModelAsset
from sqlmesh_dagster.facts.review import Past

_MOST_RECORDS = 20
"""Of a model's newest materializations: most of them may say that nothing was due."""
_SECONDS = {
    "year": 365 * 86_400,
    "month": 30 * 86_400,
    "day": 86_400,
    "hour": 3_600,
    "half_hour": 1_800,
    "quarter_hour": 900,
    "five_minute": 300,
}
"""Seconds of each of SQLMesh's interval units."""


def pasts_of(
    instance: dg.DagsterInstance, project: DagsterProject, names: Sequence[str]
) -> dict[str, Past]:
    """By the model's plain name; models without a recorded run are left out."""
    by_name = {asset.model.fqn.replace('"', ""): asset for asset in project.assets}
    found = {name: _past(instance, by_name[name]) for name in names if name in by_name}
    return {name: past for name, past in found.items() if past is not None}


def _past(instance: dg.DagsterInstance, asset: ModelAsset) -> Past | None:
    records = instance.fetch_materializations(asset.spec.key, limit=_MOST_RECORDS).records
    for entry in records:
        event = entry.asset_materialization
        if event is not None and "sqlmesh/duration_seconds" in event.metadata:
            return past_of(asset.model.kind, asset.model.interval_unit, event.metadata)
    return None


def past_of(kind: str, interval_unit: str, metadata: Mapping[str, dg.MetadataValue[Any]]) -> Past:
    """What one materialization says: for one interval, or for the whole table of a model without intervals."""
    seconds = metadata["sqlmesh/duration_seconds"].value
    number = _intervals(metadata, interval_unit) if kind.startswith("INCREMENTAL") else 1
    processed = metadata.get("sqlmesh/rows_processed")
    if processed is None and not kind.startswith("INCREMENTAL"):
        processed = metadata.get("dagster/row_count")
    rows = processed.value if processed is not None else None
    return Past(
        float(seconds) / number if seconds is not None else None,
        int(rows) // number if rows is not None else None,
    )


def _intervals(metadata: Mapping[str, dg.MetadataValue[Any]], interval_unit: str) -> int:
    partitions = metadata.get("sqlmesh/partitions")
    if partitions is not None:
        return max(int(partitions.value or 1), 1)
    spans = metadata.get("sqlmesh/intervals")
    if spans is None:
        return 1
    bounds = [(datetime.fromisoformat(a), datetime.fromisoformat(b)) for a, b in spans.value]
    spent = sum((high - low).total_seconds() for low, high in bounds)
    return max(round(spent / _SECONDS.get(interval_unit.lower(), 86_400)), 1)
