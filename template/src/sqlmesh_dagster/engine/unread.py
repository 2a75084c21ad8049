"""What SQLMesh would build again and again in a development environment, where nobody reads it.

A model that is only indirectly changed by a non-breaking change keeps its version: its view shows the table
that production builds. A run of the environment builds it into a table of its own, which no view shows, and
records that where it does not look for what is missing, so that each run builds it again. (Verified on
SQLMesh 0.236.4.)

Importing this module imports SQLMesh.
"""

from __future__ import annotations

from sqlmesh_dagster.definition.spans import without
from sqlmesh_dagster.upstream.internals import DeployabilityIndex, Intervals, SnapshotToIntervals

SHOWN_FROM_PRODUCTION = (
    "its view shows the table that production builds, as only a non-breaking change upstream makes it new"
    " here; what SQLMesh builds of it in this environment has been built, and no view shows it"
)


def without_unread(
    missing: SnapshotToIntervals, deployability: DeployabilityIndex
) -> SnapshotToIntervals:
    """Missing intervals, without those that were built once where nobody reads them."""
    found: dict[object, Intervals] = {}
    for snapshot, spans in missing.items():
        is_unread = deployability.is_representative(snapshot) and not deployability.is_deployable(
            snapshot
        )
        left = (
            [part for span in spans for part in without(span, snapshot.dev_intervals)]
            if is_unread
            else spans
        )
        if left:
            found[snapshot] = left
    return found  # type: ignore[return-value]
