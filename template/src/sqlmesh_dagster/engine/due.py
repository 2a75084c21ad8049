"""What a schedule asks SQLMesh: which models are due, without changing anything."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from sqlmesh.core.snapshot import Snapshot, missing_intervals

from sqlmesh_dagster.engine.state import Deployed, Obstructed, find_deployed
from sqlmesh_dagster.settings import ProjectSettings


@dataclass(frozen=True)
class Due:
    """The answer for one moment.

    Attributes:
        models: FQNs of the models with missing intervals, sorted. A signal may still hold some back.
        next_due: When the next model is due, if none is now.
        obstacle: Why the question could not be answered.
        is_new: Whether the environment does not exist yet.
    """

    models: tuple[str, ...] = ()
    next_due: datetime | None = None
    obstacle: str | None = None
    is_new: bool = False


def find_due(settings: ProjectSettings, at: datetime) -> Due:
    """Asks the deployed environment; opens the state alone, and releases it.

    Raises:
        ProjectLoadError: The project's config is broken.
    """
    try:
        deployed = find_deployed(settings, "a schedule's tick")
    except Obstructed as obstacle:
        return Due(obstacle=str(obstacle))
    return _answer(deployed, at) if deployed else Due(is_new=True)


def _answer(deployed: Deployed, at: datetime) -> Due:
    snapshots = deployed.snapshots
    due = missing_intervals(
        snapshots, execution_time=at, deployability_index=deployed.deployability
    )
    models = sorted(s.name for s, intervals in due.items() if intervals and _is_built(s))
    return Due(models=tuple(models), next_due=None if models else _next_due(snapshots, at))


def _next_due(snapshots: Iterable[Snapshot], at: datetime) -> datetime | None:
    return min(
        (s.node.cron_next(at) for s in snapshots if _is_built(s) and not s.is_seed), default=None
    )


def _is_built(snapshot: Snapshot) -> bool:
    return snapshot.is_model and not snapshot.is_symbolic
