"""SQLMesh's unit tests and linter as a job, and as asset checks of their models."""

# No `from __future__ import annotations`: Dagster reads the type of an op's `context` unquoted.

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import dagster as dg

from sqlmesh_dagster.definition.project import DagsterProject
from sqlmesh_dagster.facts.verification import Verification
from sqlmesh_dagster.run.jobs import in_session, one_op_job, resource_of
from sqlmesh_dagster.run.verification_results import report_verification, verification_results

if TYPE_CHECKING:
    from sqlmesh_dagster.engine.session import Session


def verify_job(project: DagsterProject) -> dg.JobDefinition:
    """The job `<name>_verify_job`; it also reports the asset checks, if they are switched on."""

    def verify(context: dg.OpExecutionContext) -> Iterator[dg.Output[None]]:
        from sqlmesh_dagster.engine.verification import refuse_errors  # imports SQLMesh

        found = _verify(context, project, None)
        report_verification(context.instance, project.verification_checks, found)
        facts: dict[str, Any] = {
            "sqlmesh/verification": dg.MetadataValue.md(found.markdown),
            "sqlmesh/unit_tests": found.test_count,
            "sqlmesh/failed_unit_tests": len(found.failures),
            "sqlmesh/violations": len(found.violations),
        }
        context.log.info(found.markdown)
        try:
            refuse_errors(found)
        except dg.Failure as error:
            raise type(error)(error.description, metadata=facts) from error
        yield dg.Output(None, metadata=facts)

    return one_op_job(
        project,
        "verify",
        verify,
        "Runs SQLMesh's unit tests and linter on the project's files; builds nothing.",
    )


def verification_checks(
    project: DagsterProject,
    op_tags: Mapping[str, str],
    resource_defs: Mapping[str, dg.ResourceDefinition],
) -> list[dg.AssetsDefinition]:
    """One op for all checks of the project's code, because loading the project is slow; or none."""
    if not project.verification_checks:
        return []

    def execute(context: dg.OpExecutionContext, inputs: object) -> Iterator[dg.AssetCheckResult]:
        selected = context.selected_asset_check_keys
        checks = [check for check in project.verification_checks if check.spec.key in selected]
        found = _verify(context, project, {check.model.fqn for check in checks})
        yield from verification_results(checks, found)

    # by hand: what looks at code need not wait for the assets, nor fail with one of them
    outputs = {f"check_{number}": c.spec for number, c in enumerate(project.verification_checks)}
    op = dg.OpDefinition(
        execute,
        f"{project.name}_verification_checks",
        outs=dict.fromkeys(outputs, dg.Out(is_required=False)),
        required_resource_keys={project.name, *resource_defs},
        tags=dict(op_tags),
    )
    return [
        dg.AssetsDefinition(
            node_def=op,
            keys_by_input_name={},
            keys_by_output_name={},
            check_specs_by_output_name=outputs,
            resource_defs=resource_defs,
            can_subset=True,
        )
    ]


def _verify(
    context: dg.OpExecutionContext, project: DagsterProject, fqns: Collection[str] | None
) -> Verification:
    """Neither unit tests nor the linter use the warehouse, so no lock on the project is needed."""

    def work(session: "Session") -> Verification:
        from sqlmesh_dagster.engine.verification import verify  # imports SQLMesh

        with session.opened(load=True, is_locked=False) as loaded:
            return verify(loaded, session.cancel, fqns)

    resource = resource_of(context, project)
    return in_session(context, resource, resource.settings, work)
