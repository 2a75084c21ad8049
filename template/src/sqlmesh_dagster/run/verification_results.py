"""The results of unit tests and linter for each model, as check results."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import dagster as dg

from sqlmesh_dagster.checks import runless_check
from sqlmesh_dagster.definition.markdown import cell, counted
from sqlmesh_dagster.definition.project import VerificationCheck
from sqlmesh_dagster.facts.verification import Finding, Verification, texts


def verification_results(
    checks: Collection[VerificationCheck], found: Verification
) -> Iterator[dg.AssetCheckResult]:
    """One for each model that has a check of its unit tests or of the linter."""
    counts = dict(found.tests)
    for check in checks:
        source = found.failures if check.kind == "unit_tests" else found.violations
        own = [finding for finding in source if finding.model == check.model.fqn]
        yield dg.AssetCheckResult(
            asset_key=check.spec.asset_key,
            check_name=check.spec.name,
            passed=not own,
            severity=dg.AssetCheckSeverity.ERROR
            if any(finding.is_error for finding in own)
            else dg.AssetCheckSeverity.WARN,
            description=_description(check, own, counts.get(check.model.fqn, 0)),
            metadata={
                **(
                    {"sqlmesh/unit_tests": counts.get(check.model.fqn, 0)}
                    if check.kind == "unit_tests"
                    else {}
                ),
                "sqlmesh/findings": len(own),
                "sqlmesh/definition": check.definition,
                **(
                    {"sqlmesh/details": dg.MetadataValue.md("\n\n".join(texts(own)))} if own else {}
                ),
            },
        )


def report_verification(
    instance: dg.DagsterInstance, checks: Collection[VerificationCheck], found: Verification
) -> None:
    """Reports the results to Dagster, from a job that has no step for them."""
    for result in verification_results(checks, found):
        instance.report_runless_asset_event(runless_check(result))


def _description(check: VerificationCheck, own: list[Finding], tests: int) -> str:
    rules = ", ".join(dict.fromkeys(cell(finding.rule) for finding in own))
    if check.kind == "lint":
        return f"the linter found: {rules}" if own else "the linter found nothing"
    failed = f"{len(own)} of {tests} unit tests failed: {rules}"
    return failed if own else f"{counted(tests, 'unit test')} passed"
