"""The newest review of a project, from Dagster's records: what it was based on, and its result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import dagster as dg

from sqlmesh_dagster.facts.gates import Stop
from sqlmesh_dagster.facts.review import Basis, Review

REVIEWED_TAG = "sqlmesh/review_of"
"""The tag of a run that has reviewed a change; the project's name."""
PROMOTED_TAG = "sqlmesh/promoted_in"
"""The tag that such a run gets when its change is promoted; the id of that run."""
BASIS = "sqlmesh/review_basis"


@dataclass(frozen=True)
class Reviewed:
    """A review that is over.

    Attributes:
        seconds: The estimate of what its promotion takes.
    """

    run_id: str
    environment: str
    basis: Basis
    stops: tuple[Stop, ...] = ()
    seconds: float | None = None
    commit: str | None = None


def newest_review(instance: dg.DagsterInstance, project_name: str) -> Reviewed | None:
    """The newest review, unless its change has been promoted."""
    runs = instance.get_run_records(dg.RunsFilter(tags={REVIEWED_TAG: project_name}), limit=1)
    if not runs or PROMOTED_TAG in runs[0].dagster_run.tags:
        return None
    run_id = runs[0].dagster_run.run_id
    metadata = output_metadata(instance, run_id)
    return _reviewed(run_id, metadata) if BASIS in metadata else None


def output_metadata(instance: dg.DagsterInstance, run_id: str) -> dict[str, dg.MetadataValue[Any]]:
    """What the only step of a run said at its end."""
    found: dict[str, dg.MetadataValue[Any]] = {}
    for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.STEP_OUTPUT):
        if entry.dagster_event is not None:
            found.update(entry.dagster_event.step_output_data.metadata)
    return found


def basis_json(review: Review) -> dict[str, Any]:
    """The basis of a review, as plain JSON."""
    basis = review.basis
    return {
        "files": [list(pair) for pair in basis.files],
        "plan": basis.plan,
        "production_plan": basis.production_plan,
        "production": [list(pair) for pair in basis.production],
        "other": basis.other,
    }


def _reviewed(run_id: str, metadata: dict[str, dg.MetadataValue[Any]]) -> Reviewed:
    given: Any = metadata[BASIS].value
    commit, seconds = metadata.get("sqlmesh/commit"), metadata.get("sqlmesh/estimated_seconds")
    stopped: Any = metadata["sqlmesh/stopped_by"].value
    return Reviewed(
        run_id,
        str(metadata["sqlmesh/environment"].value),
        Basis(
            files=pairs(given["files"]),
            plan=given["plan"],
            production_plan=given["production_plan"],
            production=pairs(given["production"]),
            other=given["other"],
        ),
        tuple(Stop(rule, text) for rule, text in stopped),
        None if seconds is None or seconds.value is None else float(seconds.value),
        None if commit is None else str(commit.value),
    )


def pairs(given: Any) -> tuple[tuple[str, str], ...]:
    """Pairs of texts that were JSON."""
    return tuple((str(a), str(b)) for a, b in given)
