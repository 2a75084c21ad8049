"""What a review was based on, and whether that has changed before the promotion.

Importing this module imports SQLMesh.
"""

from __future__ import annotations

from sqlmesh import Context

from sqlmesh_dagster.definition.names import digest
from sqlmesh_dagster.engine.reader import fingerprint_text
from sqlmesh_dagster.facts.review import Basis
from sqlmesh_dagster.production import PRODUCTION
from sqlmesh_dagster.upstream.internals import Environment, Plan, now_timestamp


def basis_of(context: Context, plan: Plan, environment: str) -> Basis:
    """What a plan of production, and the environment in which it was reviewed, stand on now."""
    state = context.state_reader
    reviewed, production = state.get_environment(environment), state.get_environment(PRODUCTION)
    diff = plan.context_diff
    return Basis(
        files=tuple(
            sorted((s.name, fingerprint_text(s.fingerprint)) for s in plan.snapshots.values())
        ),
        plan=reviewed.plan_id if reviewed is not None and is_there(reviewed) else "",
        production_plan=production.plan_id if production else None,
        production=deployed(production),
        other=digest(repr((sorted(diff.requirements.items()), diff.environment_statements)), 16),
    )


def deployed(environment: Environment | None) -> tuple[tuple[str, str], ...]:
    """Pairs of name and identifier of all that an environment runs."""
    found = environment.snapshots if environment else []
    return tuple(sorted((s.name, s.identifier) for s in found))


def is_there(environment: Environment) -> bool:
    """Whether an environment has not expired."""
    return environment.expiration_ts is None or environment.expiration_ts > now_timestamp()
