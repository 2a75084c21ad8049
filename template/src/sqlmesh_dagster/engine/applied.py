"""Applies a plan, and knows whether it was applied although it ended in an error, as `after_all` comes last.

Importing this module imports SQLMesh.
"""

from __future__ import annotations

from sqlmesh import Context

from sqlmesh_dagster import errors
from sqlmesh_dagster.upstream.internals import Plan, SQLMeshError


def apply_plan(context: Context, plan: Plan) -> errors.PlanFailedError | None:
    """Applies a plan.

    Returns:
        What failed once the environment showed what the plan was to make of it.

    Raises:
        SQLMeshError: The plan failed before that.
    """
    try:
        context.apply(plan)
    except SQLMeshError as error:
        name = plan.environment.name
        if finished_plan(context, name) != plan.plan_id:
            raise
        failure = failed_late(name, error)
        failure.__cause__ = error
        return failure
    return None


def finished_plan(context: Context, environment: str) -> str | None:
    """The id of the plan that an environment shows, if it is finalized."""
    found = context.state_reader.get_environment(environment)
    return found.plan_id if found is not None and found.finalized_ts else None


def failed_late(environment: str, error: SQLMeshError) -> errors.PlanFailedError:
    """What to say of it: nothing has to be planned again."""
    return errors.PlanFailedError(
        f"Environment `{environment}` is as the plan was to make it, and nothing has to be planned again."
        f" What comes after a plan failed: {str(error).strip()}\nCorrect it: it runs again with the next"
        " plan, and with the next run that builds something."
    )
