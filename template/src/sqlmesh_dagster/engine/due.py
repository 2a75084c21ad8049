"""What a schedule asks SQLMesh: which models are due, without changing anything."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from sqlmesh_dagster.engine.missing import missing_at, next_cron
from sqlmesh_dagster.engine.state import Deployed, Obstructed, find_deployed
from sqlmesh_dagster.engine.unread import without_unread
from sqlmesh_dagster.settings import ProjectSettings
from sqlmesh_dagster.upstream.internals import (
    Snapshot,
    apply_auto_restatements,
    to_datetime,
)
from sqlmesh_dagster.upstream.internals import constants as c


@dataclass(frozen=True)
class Due:
    """The answer for one moment.

    Attributes:
        models: FQNs of the models with missing intervals, sorted. Some may still wait for a signal.
        audits: The same of standalone audits, by name, and of external tables with audits.
        next_due: When the next of all is due, if none is now.
        obstacle: Why the question could not be answered.
        is_new: Whether the environment does not exist yet.
    """

    models: tuple[str, ...] = ()
    audits: tuple[str, ...] = ()
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
    if deployed.environment.name == c.PROD:
        snapshots = _with_auto_restatements(snapshots, at)
    # a tick may be for another time than now
    due = missing_at(snapshots, at, deployed.deployability)
    due = without_unread(due, deployed.deployability)
    found = [snapshot for snapshot, intervals in due.items() if intervals]
    return Due(
        models=tuple(sorted(s.name for s in found if _is_built(s))),
        audits=tuple(sorted(s.name for s in found if not _is_built(s))),
        next_due=None if found else _next_due(snapshots, at),
    )


def _with_auto_restatements(snapshots: list[Snapshot], at: datetime) -> list[Snapshot]:
    """As at the begin of a production run: what is to be restated is no longer done; on copies."""
    if not any(  # a run of other models leaves it pending
        s.pending_restatement_intervals or s.get_next_auto_restatement_interval(at)
        for s in snapshots
    ):
        return snapshots
    copies = {s.snapshot_id: s.copy(deep=True) for s in snapshots}
    apply_auto_restatements(copies, at)
    return list(copies.values())


def _next_due(snapshots: Iterable[Snapshot], at: datetime) -> datetime | None:
    again = [s for s in snapshots if s.evaluatable and not s.is_seed]
    restated = (s.next_auto_restatement_ts for s in again)
    return min(
        (*next_cron(again, at), *(to_datetime(ts) for ts in restated if ts)),
        default=None,
    )


def _is_built(snapshot: Snapshot) -> bool:
    return snapshot.is_model and not snapshot.is_symbolic
