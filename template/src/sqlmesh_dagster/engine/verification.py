"""SQLMesh's unit tests and linter, run on a loaded project; neither needs the warehouse or the state.

Importing this module imports SQLMesh.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from sqlmesh import Context

from sqlmesh_dagster import errors
from sqlmesh_dagster.definition.markdown import counted
from sqlmesh_dagster.engine.reader import unit_tests_by_model
from sqlmesh_dagster.facts.verification import Finding, Verification, shown
from sqlmesh_dagster.guard.cancel import CancelToken
from sqlmesh_dagster.guard.secrets import mask
from sqlmesh_dagster.upstream.internals import SQLMeshError


def verify(
    context: Context, cancel: CancelToken, fqns: Collection[str] | None = None
) -> Verification:
    """Runs the unit tests, on SQLMesh's test connection, and the linter.

    Args:
        context: Loaded.
        fqns: Only of these models.

    Raises:
        RunCancelled: Cancelled between two models.
    """
    tests = {
        fqn: names
        for fqn, names in sorted(unit_tests_by_model(context).items())
        if fqns is None or fqn in fqns
    }
    failures = [
        failure
        for fqn, names in tests.items()
        for failure in _failures(context, cancel, fqn, names)
    ]
    models = [fqn for fqn in context.models if fqns is None or fqn in fqns]
    return Verification(
        tests=tuple((fqn, len(names)) for fqn, names in tests.items()),
        failures=tuple(failures),
        violations=tuple(_violations(context, cancel, models)),
    )


def refuse_errors(verification: Verification) -> None:
    """Raises if there are errors.

    Raises:
        VerificationFailedError: With each failing test, or each violation of the linter.
    """
    if not verification.errors:
        return
    of_linter = counted(len(verification.errors) - len(verification.failures), "error")
    raise errors.VerificationFailedError(
        f"{len(verification.failures)} of {verification.test_count} unit tests fail, and the linter"
        f" finds {of_linter}. Fix the models or the tests.\n{shown(verification.errors)}"
    )


def _failures(
    context: Context, cancel: CancelToken, fqn: str, names: Collection[str]
) -> Iterator[Finding]:
    cancel.check()
    cancel.now_does(f"the unit tests of `{context.models[fqn].name}`")
    try:
        result = context.test(tests=list(names))
    except SQLMeshError as error:  # a test that cannot be loaded from its file
        yield Finding(fqn, "unit tests", mask(str(error).strip()))
        return
    finally:
        cancel.now_does("")
    for test, text in (*result.failures, *result.errors):
        yield Finding(fqn, str(getattr(test, "test_name", test)), mask(text.strip()))


def _violations(context: Context, cancel: CancelToken, fqns: Collection[str]) -> Iterator[Finding]:
    cancel.check()
    # for no models `lint_models` takes all
    found = context.lint_models(list(fqns), raise_on_error=False) if fqns else []
    for violation in found:
        place = violation.violation_range
        yield Finding(
            model=violation.model.fqn,
            rule=violation.rule.name,
            text=mask(violation.violation_msg.strip()),
            is_error=violation.violation_type == "error",
            line=place.start.line + 1 if place else None,
        )
