"""Checks of the models' code in runs that do not select them: their last result once more, or a new one.

Dagster takes a check for not evaluated once its asset has a newer materialization of another run. But unit
tests and linter look at the model's text, not at its data: while that is the same, so is what they say.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

import dagster as dg

from sqlmesh_dagster.checks import FoundResults, kept, runless_check
from sqlmesh_dagster.definition.project import VerificationCheck
from sqlmesh_dagster.errors import SQLMeshDagsterError
from sqlmesh_dagster.facts.reported import Found
from sqlmesh_dagster.guard.cancel import CancelToken
from sqlmesh_dagster.run.reported import last_results
from sqlmesh_dagster.run.verification_results import verification_results
from sqlmesh_dagster.run.work import session_of

if TYPE_CHECKING:
    from sqlmesh_dagster.run.step import Step


def kept_code_results(
    checks: Collection[VerificationCheck], found: FoundResults, run_id: str | None = None
) -> Iterator[dg.AssetCheckEvaluation]:
    """The last result of each check whose model, tests and rules are as they were.

    Args:
        run_id: The Dagster run that asks; results of this run itself are left out.
    """
    for check in checks:
        last = found.get(check.spec.key)
        if last is not None and is_current(check, last) and last.run_id != (run_id or ""):
            yield kept(last)


def is_current(check: VerificationCheck, last: Found) -> bool:
    """Whether a result is one of what unit tests and linter would look at now."""
    fact = last.evaluation.metadata.get("sqlmesh/definition")
    return isinstance(fact, dg.TextMetadataValue) and fact.text == check.definition


def report_kept(instance: dg.DagsterInstance, checks: Collection[VerificationCheck]) -> None:
    """The same, where an asset was materialized though no step of a Dagster run says so."""
    if checks:
        found = last_results(instance, [check.spec.key for check in checks])
        for evaluation in kept_code_results(checks, found):
            instance.report_runless_asset_event(evaluation)


def changed_code(step: Step, fqns: Collection[str]) -> list[VerificationCheck]:
    """The checks of these models whose text unit tests and linter have not seen yet."""
    if not step.project.verification_checks:
        return []
    found = step.reports.checks
    return [
        check
        for check in step.code_checks(fqns)
        if (last := found.get(check.spec.key)) is None or not is_current(check, last)
    ]


def verify_changed(step: Step, changed: Collection[VerificationCheck], cancel: CancelToken) -> None:
    """Runs unit tests and linter for these checks; the results wait for a step of this process.

    Call it in the worker thread, before anything is built: it loads the project's files, which takes
    seconds, once for each change.
    """
    if not changed:
        return
    from sqlmesh_dagster.engine.verification import verify  # imports SQLMesh

    session = session_of(step.resource, step.resource.settings, cancel, has_project_lock=True)
    try:
        with session.opened(load=True, is_locked=False) as loaded:
            found = verify(loaded, cancel, {check.model.fqn for check in changed})
    except SQLMeshDagsterError as error:
        step.resource.say(
            logging.WARNING, f"Unit tests and linter did not run: {error.description}"
        )
        return
    results = verification_results(changed, found)
    step.store.put_verified(step.context.run_id, map(runless_check, results))
