"""The audits of one table on their own; nothing is built again.

Importing this module imports SQLMesh.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from sqlmesh_dagster.engine.context import CaptureContext
from sqlmesh_dagster.engine.gaps import Upstream, find_upstream
from sqlmesh_dagster.options import CheckedRunOptions
from sqlmesh_dagster.settings import ProjectSettings
from sqlmesh_dagster.upstream.internals import Snapshot, StandaloneAudit, TimeLike, to_datetime


def audit_alone(
    context: CaptureContext,
    settings: ProjectSettings,
    name: str,
    snapshots: Mapping[str, Snapshot],
    options: CheckedRunOptions,
    execution_time: datetime,
) -> bool:
    """Runs the audits of a model, external table or standalone audit; the console gets the results.

    They cover every interval that is recorded as done, unless the options limit it.

    Args:
        snapshots: What the environment runs, by name.

    Returns:
        False if there is nothing to audit yet.
    """
    span = _audited_span(snapshots[name], snapshots, options, execution_time)
    if span is None:
        return False
    start, end = span
    context.scheduler(environment=settings.environment).audit(
        settings.environment,
        start,
        end,
        execution_time=execution_time,
        ignore_cron=True,
        selected_snapshots={name},
    )
    return True


def upstream_of_audits(name: str, snapshots: Mapping[str, Snapshot]) -> Upstream | None:
    """What is upstream of a standalone audit or of an external table; None of a model.

    External tables go along, however many models are between; models do not.

    Args:
        snapshots: What the environment runs, by name.
    """
    snapshot = snapshots.get(name)
    if snapshot is None or not _has_audits_only(snapshot):
        return None
    order = find_upstream(snapshots, {name}, (), "wait").order
    tables = frozenset(n for n in order if snapshots[n].is_external and snapshots[n].evaluatable)
    along = tables - {name}
    return Upstream(order, along, {name: tuple(sorted(along))} if along else {})


def evaluate_audits(
    context: CaptureContext,
    settings: ProjectSettings,
    name: str,
    upstream: Upstream,
    options: CheckedRunOptions,
    execution_time: datetime,
) -> None:
    """Evaluates what is due of a standalone audit or of an external table, and records it as done.

    What is due of external tables upstream is evaluated first: a blocking audit of theirs holds it back.
    An interval that a model upstream lacks waits for it.
    """
    context.upstream = upstream
    context.scheduler(environment=settings.environment).run(
        settings.environment,
        options.start,
        options.end,
        execution_time=execution_time,
        ignore_cron=options.ignore_cron,
        selected_snapshots={name, *upstream.along},
    )
    context.upstream = None  # audits alone wait for nothing


def _has_audits_only(snapshot: Snapshot) -> bool:
    return isinstance(snapshot.node, StandaloneAudit) or snapshot.is_external


def _audited_span(
    snapshot: Snapshot,
    snapshots: Mapping[str, Snapshot],
    options: CheckedRunOptions,
    execution_time: datetime,
) -> tuple[TimeLike, TimeLike] | None:
    """The time span to audit: what the options say, else all that is recorded as done."""
    if options.partitions is not None:
        return options.partitions
    sources = [snapshot]
    if _has_audits_only(snapshot):
        sources = [snapshots[p.name] for p in snapshot.parents if p.name in snapshots]
        sources = [s for s in sources if not s.is_external]
        if not sources:
            # whole intervals: SQLMesh finds nothing to audit in a part of one
            unit = snapshot.node.interval_unit
            end = unit.cron_floor(execution_time) if unit else execution_time
            return options.start or end - timedelta(days=1), options.end or end
    intervals = [interval for s in sources for interval in (*s.intervals, *s.dev_intervals)]
    if not intervals:
        return None
    return (
        options.start or to_datetime(min(low for low, _ in intervals)),
        options.end or to_datetime(max(high for _, high in intervals)),
    )
