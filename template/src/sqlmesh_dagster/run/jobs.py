"""Jobs with one op that does SQLMesh work in a session."""

# No `from __future__ import annotations`: Dagster reads the types of an op's arguments unquoted.

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

import dagster as dg

from sqlmesh_dagster.definition.project import DagsterProject
from sqlmesh_dagster.guard.cancel import CancelToken
from sqlmesh_dagster.resource import SQLMeshResource
from sqlmesh_dagster.run.work import run_work, session_of
from sqlmesh_dagster.settings import ProjectSettings

if TYPE_CHECKING:
    from sqlmesh_dagster.engine.session import Session

_OP_TAGS = {"sqlmesh": "true"}
_Found = TypeVar("_Found")


def one_op_job(
    project: DagsterProject,
    verb: str,
    compute: Callable[..., Iterator[dg.Output[None]]],
    description: str,
) -> dg.JobDefinition:
    """The job `<name>_<verb>_job`, whose op is `<name>_<verb>`.

    Args:
        compute: Takes `context` and, where the launchpad has options, `config`, annotated.
    """
    op = dg.op(
        name=f"{project.name}_{verb}",
        out=dg.Out(dg.Nothing),
        required_resource_keys={project.name},
        tags=_OP_TAGS,
    )(compute)

    @dg.job(name=f"{project.name}_{verb}_job", description=description)
    def job() -> None:
        op()

    return job


def resource_of(context: dg.OpExecutionContext, project: DagsterProject) -> SQLMeshResource:
    """The project's resource in this run."""
    resource: SQLMeshResource = getattr(context.resources, project.name)
    return resource


def in_session(
    context: dg.OpExecutionContext,
    resource: SQLMeshResource,
    settings: ProjectSettings,
    work: Callable[["Session"], _Found],
) -> _Found:
    """What `work` returns; it runs in the worker thread, where SQLMesh is imported."""
    found: list[_Found] = []

    def run(cancel: CancelToken) -> None:
        found.append(work(session_of(resource, settings, cancel)))

    run_work(context, resource, run)
    return found[0]
