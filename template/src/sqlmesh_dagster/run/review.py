"""The job that reviews a change: it builds it in an environment of its own, and shows what it does."""

# No `from __future__ import annotations`: Dagster reads the types of an op's arguments unquoted.

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg

from sqlmesh_dagster.definition.project import DagsterProject
from sqlmesh_dagster.errors import InvalidSettingError
from sqlmesh_dagster.facts.gates import Stop, stops
from sqlmesh_dagster.facts.review import Review
from sqlmesh_dagster.facts.review_page import page
from sqlmesh_dagster.facts.rules import read_rules
from sqlmesh_dagster.facts.tables import BuiltTables
from sqlmesh_dagster.guard.secrets import mask
from sqlmesh_dagster.options import PlanOptions, ReviewOptions
from sqlmesh_dagster.production import PRODUCTION
from sqlmesh_dagster.run.commits import commit_of
from sqlmesh_dagster.run.jobs import in_session, one_op_job, resource_of
from sqlmesh_dagster.run.outside import outside_readers
from sqlmesh_dagster.run.overrides import Override, obey, override_of
from sqlmesh_dagster.run.past import pasts_of
from sqlmesh_dagster.run.recording import Recording
from sqlmesh_dagster.run.reviewed import BASIS, REVIEWED_TAG, basis_json
from sqlmesh_dagster.settings import checked_environment
from sqlmesh_dagster.upstream.dagster import add_run_tag

if TYPE_CHECKING:
    from sqlmesh_dagster.engine.session import Session


class SQLMeshReviewOptions(ReviewOptions, dg.Config):
    """How a change is reviewed; set in the launchpad."""


def review_job(project: DagsterProject) -> dg.JobDefinition:
    """The job `<name>_review_job`."""

    def review(
        context: dg.OpExecutionContext, config: SQLMeshReviewOptions
    ) -> Iterator[dg.Output[None]]:
        yield from _review(context, config, project)

    return one_op_job(
        project,
        "review",
        review,
        "Builds the project's files in an environment, and shows what they do to the data of production,"
        " who is touched, which checks fail and what a promotion costs; fails where a rule of"
        " `review.toml` stops it.",
    )


def _review(
    context: dg.OpExecutionContext, config: SQLMeshReviewOptions, project: DagsterProject
) -> Iterator[dg.Output[None]]:
    resource = resource_of(context, project)
    own = resource.settings
    name = checked_environment(
        "environment", own.environment if config.environment is None else config.environment
    )
    if name == PRODUCTION:
        raise InvalidSettingError(
            f"A change is reviewed before it is in `{PRODUCTION}`. Name another environment, which the"
            " review builds it in: `poe review --environment dev_ada`."
        )
    settings = own.model_copy(update={"environment": name})
    plan = _plan_of(config)
    rules = read_rules(settings.project_path)
    given = override_of(rules.gates, config.override, config.override_by)
    recording = Recording(context.instance, project, resource, name, context.run_id)
    found: list[Review] = []

    def applied(tables: BuiltTables) -> None:
        recording.applied(tables)

    def work(session: "Session") -> None:
        from sqlmesh_dagster.engine.plan import Planning  # imports SQLMesh
        from sqlmesh_dagster.engine.review import Reviewing

        Reviewing(
            Planning(session, former=project.manifest.former),
            rules,
            pasts=lambda names: pasts_of(context.instance, project, names),
            outside=lambda names: outside_readers(context, project, rules, names),
            commit=commit_of(settings.project_path),
        ).review(plan, found.append, recording.outcome, applied, recording.verified)

    try:
        in_session(context, resource, settings, work)
    except dg.Failure as error:
        if not found:
            raise
        broken = stops(rules.gates, found[-1])
        metadata = {
            **error.metadata,
            "sqlmesh/review": _shown(found[-1], broken),
        }
        raise type(error)(error.description, metadata=metadata) from error
    (review,) = found
    broken = stops(rules.gates, review)
    add_run_tag(context.instance, context.run_id, REVIEWED_TAG, project.name)
    yield dg.Output(None, metadata=review_metadata(review, broken, given))
    obey(context, broken, given)


def _plan_of(config: ReviewOptions) -> PlanOptions:
    options = PlanOptions(
        environment=config.environment,
        start=config.start,
        end=config.end,
        execution_time=config.execution_time,
        forward_only=config.forward_only,
    )
    options.check()
    return options


def _shown(review: Review, broken: Sequence[Stop]) -> dg.MarkdownMetadataValue:
    """The page. Rows and extremes of the data are on it, and a model may select what is secret."""
    return dg.MetadataValue.md(mask(page(review, broken)))


def review_metadata(
    review: Review, broken: Sequence[Stop], override: Override | None
) -> dict[str, Any]:
    """The page, and its facts for what comes after."""
    estimate = review.seconds
    return {
        "sqlmesh/review": _shown(review, broken),
        "sqlmesh/environment": review.environment,
        "sqlmesh/models_changed": len(review.plan.changes),
        "sqlmesh/models_touched": sum(model.is_touched for model in review.models),
        "sqlmesh/stopped_by": dg.MetadataValue.json([[s.rule, mask(s.text)] for s in broken]),
        BASIS: dg.MetadataValue.json(basis_json(review)),
        **({"sqlmesh/estimated_seconds": float(estimate)} if estimate is not None else {}),
        **({"sqlmesh/commit": review.commit} if review.commit else {}),
        **(override.metadata if override and broken else {}),
    }
