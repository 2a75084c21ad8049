"""Partitions that SQLMesh built before Dagster knew of them, or outside it, become materialized, once each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import dagster as dg

from sqlmesh_dagster.definition.names import digest
from sqlmesh_dagster.definition.partitions import Interval, keys_within
from sqlmesh_dagster.definition.project import DagsterProject
from sqlmesh_dagster.execution import events
from sqlmesh_dagster.execution.settings import ProjectSettings
from sqlmesh_dagster.upstream import version_tags


@dataclass(frozen=True)
class DoneIntervals:
    """What SQLMesh has recorded of a model that an environment runs.

    Attributes:
        intervals: All that is done, pairs of epoch milliseconds, end exclusive.
        code_version: SQLMesh's data hash of the deployed model.
    """

    fqn: str
    snapshot: str
    code_version: str
    intervals: tuple[Interval, ...]


@dataclass(frozen=True)
class PartitionSync:
    """What a sync did.

    Attributes:
        reported: Number of partitions that got a materialization, by asset; those with none left out.
        obstacle: Why SQLMesh could not be asked; nothing is lost, the next sync will.
    """

    reported: Mapping[dg.AssetKey, int]
    obstacle: str | None = None


def synchronize_partitions(
    instance: dg.DagsterInstance, project: DagsterProject, settings: ProjectSettings
) -> PartitionSync:
    """Reports what Dagster does not know of; asks SQLMesh's state, and never waits for it.

    Call it while no run of the project is active: what that has built is its own to tell.
    """
    wanted = {asset.model.fqn for asset in project.assets if asset.partitions}
    if not wanted:
        return PartitionSync({})
    from sqlmesh_dagster.done import find_done  # imports SQLMesh

    done, obstacle = find_done(settings, wanted)
    counts: dict[dg.AssetKey, int] = {}
    for materialization in unknown_partitions(instance, project, done):
        instance.report_runless_asset_event(materialization)
        counts[materialization.asset_key] = counts.get(materialization.asset_key, 0) + 1
    return PartitionSync(counts, obstacle)


def unknown_partitions(
    instance: dg.DagsterInstance, project: DagsterProject, done: Sequence[DoneIntervals]
) -> Iterator[dg.AssetMaterialization]:
    """A materialization for each partition that SQLMesh has done and Dagster never saw built."""
    assets = project.assets_by_fqn
    for model in done:
        asset = assets.get(model.fqn)
        if asset is None or asset.partitions is None:
            continue
        known = instance.get_materialized_partitions(asset.spec.key)
        for key, interval in keys_within(asset.partitions, model.intervals):
            if key not in known:
                yield dg.AssetMaterialization(
                    asset.spec.key,
                    description="Built outside Dagster.",
                    partition=key,
                    metadata={
                        "sqlmesh/source": "outside Dagster",
                        **events.where(model.snapshot, [interval]),
                    },
                    tags=version_tags(digest(model.snapshot, 16), model.code_version),
                )
