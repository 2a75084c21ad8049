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

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any, NoReturn

import dagster as dg

from sqlmesh_dagster import errors
from sqlmesh_dagster.definition.markdown import sql_block
from sqlmesh_dagster.definition.names import digest
from sqlmesh_dagster.definition.partitions import keys_within, merged
from sqlmesh_dagster.definition.project import Checks, ModelAsset
from sqlmesh_dagster.facts.outcomes import AuditOutcome, ModelOutcome, RowSample

INPUTS = "sqlmesh/inputs"
"""The metadata in which a materialization says what the model was built from; see `staleness`."""
_SHOWN_SPANS = 20
_SHOWN_QUERY_LENGTH = 4000
"""Characters of SQL in an error's text; the whole query is in its metadata."""


def materialization(asset: ModelAsset, outcome: ModelOutcome) -> dg.MaterializeResult[None]:
    """What an executed model's asset gets.

    The data version changes with each execution: SQLMesh executes only what has to change.
    """
    return dg.MaterializeResult(
        asset_key=asset.spec.key,
        metadata=metadata(outcome),
        data_version=dg.DataVersion(_data_version(outcome)),
    )


def partition_materializations(
    asset: ModelAsset, outcome: ModelOutcome
) -> Iterator[dg.AssetMaterialization]:
    """One for each partition that was built; what is known of the whole run stands on the newest.

    An interval that fills no partition gives one that belongs to none.
    """
    partitions = asset.partitions
    built = list(keys_within(partitions, outcome.intervals)) if partitions else []
    tags = version_tags(_data_version(outcome), asset.spec.code_version)
    table = table_facts(outcome.snapshot, outcome.version, outcome.built_at)
    for key, interval in built[:-1]:
        yield dg.AssetMaterialization(
            asset.spec.key, partition=key, metadata={**interval_facts(interval), **table}, tags=tags
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


def runless_materializations(
    asset: ModelAsset, outcome: ModelOutcome
) -> Iterator[dg.AssetMaterialization]:
    """What an executed model's asset gets where no step of its own reports it."""
    if asset.partitions:
        yield from partition_materializations(asset, outcome)
        return
    yield dg.AssetMaterialization(
        asset.spec.key,
        description=outcome.reason,
        metadata=metadata(outcome),
        tags=version_tags(_data_version(outcome), asset.spec.code_version),
    )


def version_tags(data_version: str, code_version: str | None) -> dict[str, str]:
    """The tags by which Dagster knows what a materialization is made of, and of which code."""
    tags = {"dagster/data_version": data_version, "dagster/code_version": code_version}
    return {key: value for key, value in tags.items() if value}


def observation(asset: ModelAsset, outcome: ModelOutcome) -> dg.AssetObservation:
    """What an asset gets whose model was not executed, because nothing was due or not yet ready."""
    return dg.AssetObservation(
        asset_key=asset.spec.key,
        description=outcome.reason,
        metadata={
            "sqlmesh/status": outcome.status.replace("_", " "),
            **({"sqlmesh/reason": outcome.reason} if outcome.reason else {}),
            **_next_due(outcome),
            **input_facts(outcome),
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
                    **({"sqlmesh/arguments": dict(audit.arguments)} if audit.arguments else {}),
                    **({"sqlmesh/sample": _table(audit.sample)} if audit.sample else {}),
                    **({"sqlmesh/query": sql_block(audit.query)} if audit.query else {}),
                },
            )


def check_evaluations(checks: Checks, outcome: ModelOutcome) -> Iterator[dg.AssetCheckEvaluation]:
    """The same for a model of which no step of the Dagster run reports."""
    return map(runless_check, check_results(checks, outcome))


def runless_check(result: dg.AssetCheckResult) -> dg.AssetCheckEvaluation:
    """A check's result where no step of its own reports it."""
    assert result.asset_key is not None and result.check_name is not None
    return dg.AssetCheckEvaluation(
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
        "sqlmesh/audits_failed": sum(1 for audit in outcome.audits if audit.failing_rows),
        **_next_due(outcome),
    }
    if outcome.intervals:
        spans = merged(outcome.intervals)
        facts.update(interval_facts((spans[0][0], spans[-1][1])))
        facts["sqlmesh/intervals"] = [
            [_utc(bound).isoformat() for bound in span] for span in spans[:_SHOWN_SPANS]
        ]
    if outcome.rows_processed is not None:
        facts["sqlmesh/rows_processed"] = outcome.rows_processed
    if outcome.bytes_processed is not None:
        facts["sqlmesh/bytes_processed"] = outcome.bytes_processed
    if outcome.row_count is not None:
        facts["dagster/row_count"] = outcome.row_count
    if outcome.plan:
        facts["sqlmesh/plan"] = outcome.plan
    table = table_facts(outcome.snapshot, outcome.version, outcome.built_at)
    return {**facts, **table, **input_facts(outcome)}


def input_facts(outcome: ModelOutcome) -> dict[str, Any]:
    """What the model's data is made of, and what became of new data; for every materialization of it."""
    facts: dict[str, Any] = {}
    if outcome.inputs is not None:
        facts[INPUTS] = {label: [version, place] for label, version, place in outcome.inputs}
    if outcome.renewed:
        facts["sqlmesh/new_data_in"] = list(outcome.renewed)
    if outcome.stale:
        facts["sqlmesh/stale"] = outcome.stale
    return facts


def interval_facts(interval: tuple[int, int]) -> dict[str, dg.TimestampMetadataValue]:
    """Of which time the data is that was built."""
    return {
        "sqlmesh/interval_start": moment(interval[0]),
        "sqlmesh/interval_end": moment(interval[1]),
    }


def table_facts(
    snapshot: str | None, version: str | None, built_at: int | None
) -> dict[str, str | dg.TimestampMetadataValue]:
    """Which table a materialization is of, and when its data last changed.

    Args:
        built_at: Epoch milliseconds.
    """
    facts: dict[str, str | dg.TimestampMetadataValue | None] = {
        "sqlmesh/snapshot": snapshot,
        "sqlmesh/version": version,
        "sqlmesh/built_at": moment(built_at) if built_at else None,
    }
    return {key: value for key, value in facts.items() if value}


def _data_version(outcome: ModelOutcome) -> str:
    return digest(f"{outcome.snapshot}|{outcome.intervals}|{outcome.execution_time}", 16)


def _next_due(outcome: ModelOutcome) -> dict[str, dg.TimestampMetadataValue]:
    if not outcome.next_due:
        return {}
    return {
        "sqlmesh/next_due": dg.MetadataValue.timestamp(datetime.fromisoformat(outcome.next_due))
    }


def moment(milliseconds: int) -> dg.TimestampMetadataValue:
    """Epoch milliseconds as the UI shows a time."""
    return dg.MetadataValue.timestamp(_utc(milliseconds))


def _utc(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, timezone.utc)


def _table(sample: RowSample) -> dg.TableMetadataValue:
    return dg.MetadataValue.table(
        records=[
            dg.TableRecord(dict(zip(sample.columns, row, strict=True))) for row in sample.rows
        ],
        schema=dg.TableSchema([dg.TableColumn(name) for name in sample.columns]),
    )


def _audit_description(audit: AuditOutcome) -> str:
    return f"found {_rows(audit)}" if audit.failing_rows else "found no rows"


def _rows(audit: AuditOutcome) -> str:
    return "1 row" if audit.failing_rows == 1 else f"{audit.failing_rows} rows"
