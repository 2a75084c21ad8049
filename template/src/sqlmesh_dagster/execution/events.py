"""Outcome → Dagster events: the table of what each outcome becomes, as pure functions.

| SQLMesh says              | Dagster gets                                                              |
|---------------------------|---------------------------------------------------------------------------|
| executed                  | `MaterializeResult`, and a check result for each audit that ran           |
| … of a partitioned model  | an `AssetMaterialization` for each partition that was built, and the same  |
| nothing due, not ready    | `AssetObservation`; an output, so that downstream goes on; no check result |
| failed                    | `ModelFailedError` with the engine's error and the SQL                    |
| blocking audit failed     | the check results (ERROR), then `AuditFailedError`                        |
| non-blocking audit failed | a failed check result (WARN); the asset materializes                      |
| upstream failed, cancelled| `ModelSkippedError`; Dagster usually skips the step before                |
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any, NoReturn

import dagster as dg

from sqlmesh_dagster import errors
from sqlmesh_dagster.definition.markdown import sql_block
from sqlmesh_dagster.definition.names import digest
from sqlmesh_dagster.definition.partitions import keys_within
from sqlmesh_dagster.definition.project import Checks, ModelAsset
from sqlmesh_dagster.execution.outcomes import AuditOutcome, ModelOutcome
from sqlmesh_dagster.upstream import version_tags

_SHOWN_QUERY_LENGTH = 4000
"""Characters of SQL in an error's text; the whole query is in its metadata."""


def materialization(asset: ModelAsset, outcome: ModelOutcome) -> dg.MaterializeResult[None]:
    """What an executed model's asset gets.

    The data version changes with each execution: SQLMesh executes only what has to change.
    """
    version = f"{outcome.snapshot}|{outcome.intervals}|{outcome.execution_time}"
    return dg.MaterializeResult(
        asset_key=asset.spec.key,
        metadata=metadata(outcome),
        data_version=dg.DataVersion(digest(version, 16)),
    )


def materialization_besides(asset: ModelAsset, outcome: ModelOutcome) -> dg.AssetMaterialization:
    """What a model gets that was executed although no step of the Dagster run stands for it."""
    return dg.AssetMaterialization(
        asset.spec.key, description=outcome.reason, metadata=metadata(outcome)
    )


def partition_materializations(
    asset: ModelAsset, outcome: ModelOutcome
) -> Iterator[dg.AssetMaterialization]:
    """One for each partition that was built; what is known of the whole run stands on the newest.

    An interval that fills no partition gives one that belongs to none.
    """
    partitions = asset.partitions
    built = list(keys_within(partitions, outcome.intervals)) if partitions else []
    version = f"{outcome.snapshot}|{outcome.execution_time}"
    tags = version_tags(digest(version, 16), asset.spec.code_version)
    for key, interval in built[:-1]:
        yield dg.AssetMaterialization(
            asset.spec.key, partition=key, metadata=where(outcome.snapshot, [interval]), tags=tags
        )
    newest = built[-1] if built else None
    whole = replace(outcome, intervals=(newest[1],)) if newest else outcome
    yield dg.AssetMaterialization(
        asset.spec.key,
        description=outcome.reason,
        partition=newest[0] if newest else None,
        metadata={**metadata(whole), **({"sqlmesh/partitions": len(built)} if built else {})},
        tags=tags,
    )


def observation(asset: ModelAsset, outcome: ModelOutcome) -> dg.AssetObservation:
    """What an asset gets whose model was not executed, because nothing was due or not yet ready."""
    return dg.AssetObservation(
        asset_key=asset.spec.key,
        description=outcome.reason,
        metadata={
            "sqlmesh/status": outcome.status.replace("_", " "),
            **({"sqlmesh/reason": outcome.reason} if outcome.reason else {}),
            **_next_due(outcome),
        },
    )


def check_results(checks: Checks, outcome: ModelOutcome) -> Iterator[dg.AssetCheckResult]:
    """One result for each audit that ran; an audit that did not run has none."""
    ran = {audit.check_name: audit for audit in outcome.audits}
    for record, spec in checks:
        audit = ran.get(record.check_name)
        if audit is not None:
            yield dg.AssetCheckResult(
                asset_key=spec.asset_key,
                check_name=spec.name,
                passed=audit.failing_rows == 0,
                severity=dg.AssetCheckSeverity.ERROR
                if audit.blocking
                else dg.AssetCheckSeverity.WARN,
                description=_audit_description(audit),
                metadata={
                    "sqlmesh/failing_rows": audit.failing_rows,
                    "sqlmesh/blocking": audit.blocking,
                    "sqlmesh/audit": audit.identity,
                    **({"sqlmesh/query": sql_block(audit.query)} if audit.query else {}),
                },
            )


def check_evaluations(checks: Checks, outcome: ModelOutcome) -> Iterator[dg.AssetCheckEvaluation]:
    """The same for a model of which no step of the Dagster run reports."""
    for result in check_results(checks, outcome):
        if result.asset_key is not None and result.check_name is not None:
            yield dg.AssetCheckEvaluation(
                asset_key=result.asset_key,
                check_name=result.check_name,
                passed=bool(result.passed),
                severity=result.severity,
                description=result.description,
                metadata=result.metadata,
            )


def raise_for(name: str, outcome: ModelOutcome) -> NoReturn:
    """Fails the step of a model that was not built.

    Args:
        name: The model's name, for the message.

    Raises:
        SQLMeshDagsterError: Always; of the kind that fits the outcome.
    """
    error = outcome.error
    if outcome.status == "audit_failed":
        failed = [a for a in outcome.audits if a.blocking and a.failing_rows]
        raise errors.AuditFailedError(
            f"Model `{name}`: "
            + "; ".join(f"blocking audit `{a.identity}` found {_rows(a)}" for a in failed)
            + ". Its interval is not recorded as done; mend the data and run it again.",
            metadata={f"sqlmesh/{a.check_name}": sql_block(a.query) for a in failed if a.query},
        )
    if outcome.status == "failed" and error is not None:
        if error.kind in _WHOLE_RUN_ERRORS:
            raise _WHOLE_RUN_ERRORS[error.kind](error.message)
        metadata: dict[str, Any] = {"sqlmesh/error": error.message}
        if error.query:
            metadata["sqlmesh/query"] = sql_block(error.query)
        if error.traceback:
            metadata["sqlmesh/traceback"] = dg.MetadataValue.md(f"```\n{error.traceback}\n```")
        query = f"\n\nSQL:\n{error.query[:_SHOWN_QUERY_LENGTH]}" if error.query else ""
        raise errors.ModelFailedError(
            f"Model `{name}` failed with {error.kind}: {error.message}{query}", metadata=metadata
        )
    if outcome.status == "not_deployed":
        raise errors.UndeployedChangesError(
            f"Model `{name}` is not deployed. {outcome.reason or ''}".strip()
        )
    raise errors.ModelSkippedError(
        f"Model `{name}` was not built: {outcome.reason or outcome.status}."
    )


_WHOLE_RUN_ERRORS: Mapping[str, type[errors.SQLMeshDagsterError]] = {
    kind.__name__: kind
    for kind in (
        errors.ProjectLoadError,
        errors.EnvironmentMissingError,
        errors.EnvironmentNotFinalizedError,
        errors.EnvironmentBusyError,
        errors.UndeployedChangesError,
        errors.PlanFailedError,
        errors.RestatementRefusedError,
        errors.DatabaseLockedError,
        errors.DatabaseUnavailableError,
        errors.StateVersionError,
    )
}


def metadata(outcome: ModelOutcome) -> dict[str, Any]:
    """What a materialization says of an execution."""
    facts: dict[str, Any] = {
        "sqlmesh/batches": outcome.batches,
        "sqlmesh/duration_seconds": outcome.duration_ms / 1000,
        "sqlmesh/audits": len(outcome.audits),
        **_next_due(outcome),
    }
    facts.update(where(outcome.snapshot, outcome.intervals))
    if outcome.rows_processed is not None:
        facts["sqlmesh/rows_processed"] = outcome.rows_processed
    if outcome.bytes_processed is not None:
        facts["sqlmesh/bytes_processed"] = outcome.bytes_processed
    return facts


def where(snapshot: str | None, intervals: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """Which version of a model was built, and of which time."""
    facts: dict[str, Any] = {"sqlmesh/snapshot": snapshot} if snapshot else {}
    if intervals:
        facts["sqlmesh/interval_start"] = _moment(min(low for low, _ in intervals))
        facts["sqlmesh/interval_end"] = _moment(max(high for _, high in intervals))
    return facts


def _next_due(outcome: ModelOutcome) -> dict[str, dg.TimestampMetadataValue]:
    if not outcome.next_due:
        return {}
    return {
        "sqlmesh/next_due": dg.MetadataValue.timestamp(datetime.fromisoformat(outcome.next_due))
    }


def _moment(milliseconds: int) -> dg.TimestampMetadataValue:
    return dg.MetadataValue.timestamp(datetime.fromtimestamp(milliseconds / 1000, timezone.utc))


def _audit_description(audit: AuditOutcome) -> str:
    return f"found {_rows(audit)}" if audit.failing_rows else "found no rows"


def _rows(audit: AuditOutcome) -> str:
    return "1 row" if audit.failing_rows == 1 else f"{audit.failing_rows} rows"
