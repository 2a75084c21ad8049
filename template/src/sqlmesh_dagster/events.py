"""Outcome → Dagster events: the table of what each outcome becomes, as pure functions.

| SQLMesh says              | Dagster gets                                                              |
|---------------------------|---------------------------------------------------------------------------|
| executed                  | a materialization with a new data version                                 |
| … of a partitioned model  | one for each partition that was built                                     |
| nothing due, not ready    | a materialization with the *unchanged* data version, that says since when |
| … of a partitioned model with checks | the same, of the newest partition; see `unchanged`                |
| … and built outside Dagster since | one with the table's own data version, that says so               |
| … and built by a step of this run that shares no folder | the same; its audits run again for its checks |
| … and never built         | an observation: there is nothing that could be materialized               |
| failed                    | `ModelFailedError` with the engine's error and the SQL                    |
| … after some batches      | the same; what was built is recorded without a run, so that a retry takes the model |
| `before_all` failed       | `RunFailedError`, of each model that was to be built                      |
| built, then `after_all` failed | `RunFailedError`, in the step of the model that was built last      |
| blocking audit failed     | the check results (ERROR), then `AuditFailedError`                        |
| non-blocking audit failed | a failed check result (WARN); the asset materializes                      |
| upstream failed, cancelled| `ModelSkippedError`; Dagster usually skips the step before                |

For audits see `checks`. `docs/outcomes.md` names the test of each row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, NoReturn

import dagster as dg

from sqlmesh_dagster import errors
from sqlmesh_dagster.checks import failing_rows_of
from sqlmesh_dagster.definition.markdown import sql_block
from sqlmesh_dagster.definition.names import digest
from sqlmesh_dagster.definition.partitions import Interval, keys_within, merged, newest_within
from sqlmesh_dagster.definition.project import ModelAsset
from sqlmesh_dagster.definition.spans import utc
from sqlmesh_dagster.facts.outcomes import ModelOutcome
from sqlmesh_dagster.facts.reported import Reported, has_moved
from sqlmesh_dagster.facts.tables import BuiltTable

INPUTS = "sqlmesh/inputs"
"""The metadata in which a materialization says what the model was built from; see `staleness`."""
BUILT_MEANWHILE = (
    "Built in this run, by a step that shares no folder with this one. What its audits found is not known"
    " here, so that they run again."
)
_SHOWN_SPANS = 20
_OF_THE_TABLE = ("dagster/row_count", "sqlmesh/source", INPUTS)
"""Metadata that stays the same while a table is not built."""
_SHOWN_QUERY_LENGTH = 4000
"""Characters of SQL in an error's text; the whole query is in its metadata."""


def materialization(asset: ModelAsset, outcome: ModelOutcome) -> dg.MaterializeResult[None]:
    """The materialization of an executed model's asset.

    The data version changes with each execution: SQLMesh executes only what has to change.
    """
    return dg.MaterializeResult(
        asset_key=asset.spec.key,
        metadata=metadata(outcome),
        data_version=dg.DataVersion(_data_version(outcome)),
    )


Built = tuple[str, Interval]
"""A partition that was built, and its time."""


def built_partitions(asset: ModelAsset, outcome: ModelOutcome) -> list[Built]:
    """Those that were built wholly, oldest first."""
    return list(keys_within(asset.partitions, outcome.intervals)) if asset.partitions else []


def partition_event(
    asset: ModelAsset, outcome: ModelOutcome, more: Mapping[str, Any] | None = None
) -> Callable[[str, Interval], dg.AssetMaterialization]:
    """Makes the materialization of each partition but the newest; they differ in that alone.

    Args:
        more: Further metadata.
    """
    tags = version_tags(_data_version(outcome), asset.spec.code_version)
    table = table_facts(outcome.snapshot, outcome.version, outcome.built_at)
    return lambda key, interval: dg.AssetMaterialization(
        asset.spec.key,
        partition=key,
        metadata={"sqlmesh/status": "built", **interval_facts(interval), **table, **(more or {})},
        tags=tags,
    )


def newest_partition_event(
    asset: ModelAsset, outcome: ModelOutcome, built: Sequence[Built]
) -> dg.AssetMaterialization:
    """The materialization of the newest of them, with the metadata of the whole run.

    An interval that fills no partition gives a materialization without a partition.
    """
    newest = built[-1] if built else None
    whole = replace(outcome, intervals=(newest[1],)) if newest else outcome
    return dg.AssetMaterialization(
        asset.spec.key,
        description=outcome.reason,
        partition=newest[0] if newest else None,
        metadata={**metadata(whole), **({"sqlmesh/partitions": len(built)} if built else {})},
        tags=version_tags(_data_version(outcome), asset.spec.code_version),
    )


def built_in(run_id: str | None) -> dict[str, dg.MetadataValue[Any]]:
    """The Dagster run that built a model, as metadata of a materialization outside that run."""
    return {"sqlmesh/built_in_run": dg.MetadataValue.dagster_run(run_id)} if run_id else {}


def runless_materialization(
    asset: ModelAsset,
    outcome: ModelOutcome,
    built: Sequence[Built] = (),
    more: Mapping[str, Any] | None = None,
) -> dg.AssetMaterialization:
    """The materialization of an executed model that no step reports, or of its newest partition.

    Args:
        built: Its partitions; `partition_event` makes those of the others.
        more: Further metadata.
    """
    if asset.partitions:
        found = newest_partition_event(asset, outcome, built)
    else:
        found = _whole_materialization(asset, outcome)
    return found.with_metadata({**found.metadata, **(more or {})})


def _whole_materialization(asset: ModelAsset, outcome: ModelOutcome) -> dg.AssetMaterialization:
    return dg.AssetMaterialization(
        asset.spec.key,
        description=outcome.reason,
        metadata=metadata(outcome),
        tags=version_tags(_data_version(outcome), asset.spec.code_version),
    )


def version_tags(data_version: str, code_version: str | None) -> dict[str, str]:
    """The tags that tell Dagster which code and which inputs a materialization is made of."""
    tags = {"dagster/data_version": data_version, "dagster/code_version": code_version}
    return {key: value for key, value in tags.items() if value}


def unchanged(
    asset: ModelAsset, outcome: ModelOutcome, last: Reported | None, built_now_in: str | None = None
) -> dg.AssetMaterialization | None:
    """The materialization of an asset whose model was not executed: not due, or not ready.

    If something else in a run fails, Dagster shows each asset that the run did not materialize as
    failed. So the table is reported again, with the data version and the inputs of the data in it.
    If checks have partitions, the newest partition is reported: after a materialization without a
    partition, Dagster treats the checks' results of all partitions as outdated.

    Args:
        last: What the asset's last materialization says.
        built_now_in: The Dagster run during which the table was built, by what could not report it.

    Returns:
        None if the table holds no data.
    """
    table = outcome.table
    if table is None:
        return None
    idle: dict[str, Any] = {**_status(outcome), **_next_due(outcome), **input_facts(outcome)}
    partition, interval = _newest_partition(asset, table)
    if built_now_in is not None:
        return built_outside(
            asset,
            table,
            partition,
            interval,
            description=BUILT_MEANWHILE,
            source="another step",
            more={
                **_next_due(outcome),
                **input_facts(outcome),
                "sqlmesh/built_in_run": dg.MetadataValue.dagster_run(built_now_in),
            },
        )
    if last is None or has_moved(table, last):
        description = f"{_reason(outcome)}. Built outside Dagster, or before it knew the model."
        return built_outside(asset, table, partition, interval, description=description, more=idle)
    built_in = dg.MetadataValue.dagster_run(last.run_id) if last.run_id else None
    kept: dict[str, Any] = {k: v for k, v in last.metadata.items() if k in _OF_THE_TABLE}
    return dg.AssetMaterialization(
        asset.spec.key,
        description=f"{_reason(outcome)}. The data is the same as before.",
        partition=partition,
        metadata={
            **kept,
            **idle,
            **interval_facts(interval),
            **table_facts(outcome.snapshot, table.version, last.built_at),
            **({"sqlmesh/built_in_run": built_in} if built_in else {}),
            **({"sqlmesh/plan": outcome.plan} if outcome.plan else {}),
        },
        tags={**version_tags(_version_of(table), None), **last.tags},
    )


def _newest_partition(asset: ModelAsset, table: BuiltTable) -> tuple[str | None, Interval]:
    whole = (table.start, table.end)
    if asset.partitions is None or all(s.partitions_def is None for _, s in asset.checks):
        return None, whole
    return newest_within(asset.partitions, table.done) or (None, whole)


def built_outside(
    asset: ModelAsset,
    table: BuiltTable,
    partition: str | None = None,
    interval: Interval | None = None,
    *,
    description: str = "Built outside Dagster.",
    source: str = "outside Dagster",
    more: Mapping[str, Any] | None = None,
) -> dg.AssetMaterialization:
    """The materialization of a table that was not built by a Dagster run."""
    return dg.AssetMaterialization(
        asset.spec.key,
        description=description,
        partition=partition,
        metadata={
            **(more or {}),
            "sqlmesh/source": source,
            **interval_facts(interval or (table.start, table.end)),
            **table_facts(table.snapshot, table.version, table.built_at),
        },
        tags=version_tags(_version_of(table), table.code_version),
    )


def observation(asset: ModelAsset, outcome: ModelOutcome) -> dg.AssetObservation:
    """What an asset gets instead of `unchanged`, if there is no data or the settings say so."""
    return dg.AssetObservation(
        asset_key=asset.spec.key,
        description=outcome.reason,
        metadata={**_status(outcome), **_next_due(outcome), **input_facts(outcome)},
    )


def raise_for(name: str, outcome: ModelOutcome) -> NoReturn:
    """Fails the step of a model that was not built.

    Args:
        name: The model's name, for the message.

    Raises:
        SQLMeshDagsterError: Always; of the kind that fits the outcome.
    """
    error = outcome.error
    if outcome.status in ("executed", "up_to_date", "not_ready") and error is not None:
        became = "was built" if outcome.status == "executed" else "is as it was"
        raise errors.RunFailedError(
            f"`{name}` {became}, the last model of the sqlmesh run. What failed is of no model:"
            f" {error.message}",
            metadata={"sqlmesh/error": error.message},
        )
    if outcome.status == "audit_failed":
        failed = [a for a in outcome.audits if a.blocking and a.failing_rows]
        raise errors.AuditFailedError(
            f"Model `{name}`: "
            + "; ".join(f"blocking audit `{a.identity}` found {failing_rows_of(a)}" for a in failed)
            + ". Its interval is not recorded as done; fix the data and run it again.",
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
            f"Model `{name}` failed{error.when} with {error.kind}: {error.message}{query}",
            metadata=metadata,
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
        errors.StateLockError,
        errors.EnvironmentMissingError,
        errors.EnvironmentNotFinalizedError,
        errors.EnvironmentBusyError,
        errors.UndeployedChangesError,
        errors.PlanFailedError,
        errors.RestatementRefusedError,
        errors.DatabaseLockedError,
        errors.DatabaseUnavailableError,
        errors.StateVersionError,
        errors.RunFailedError,
    )
}


def metadata(outcome: ModelOutcome) -> dict[str, Any]:
    """The metadata of a materialization about an execution."""
    facts: dict[str, Any] = {
        **_status(outcome),
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
            [utc(bound).isoformat() for bound in span] for span in spans[:_SHOWN_SPANS]
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
    """Metadata about the inputs of a model and their new data, for each of its materializations."""
    facts: dict[str, Any] = {}
    if outcome.inputs is not None:
        facts[INPUTS] = {label: [version, place] for label, version, place in outcome.inputs}
    if outcome.renewed:
        facts["sqlmesh/new_data_in"] = list(outcome.renewed)
    if outcome.stale:
        facts["sqlmesh/stale"] = outcome.stale
    return facts


def interval_facts(interval: tuple[int, int]) -> dict[str, dg.TimestampMetadataValue]:
    """The time span of the data that was built."""
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


def _version_of(table: BuiltTable) -> str:
    """The data version of data that no Dagster run built; the same at any time and place."""
    return digest(f"{table.version}|{table.built_at}", 16)


def _status(outcome: ModelOutcome) -> dict[str, str]:
    if outcome.status == "executed" or outcome.intervals:
        return {"sqlmesh/status": "built"}
    return {
        "sqlmesh/status": "stale" if outcome.stale else outcome.status.replace("_", " "),
        **({"sqlmesh/reason": outcome.reason} if outcome.reason else {}),
    }


def _reason(outcome: ModelOutcome) -> str:
    """A sentence without its full stop."""
    reason = outcome.stale or outcome.reason or outcome.status.replace("_", " ")
    return reason[:1].upper() + reason[1:].rstrip(".")


def _next_due(outcome: ModelOutcome) -> dict[str, dg.TimestampMetadataValue]:
    if not outcome.next_due:
        return {}
    return {
        "sqlmesh/next_due": dg.MetadataValue.timestamp(datetime.fromisoformat(outcome.next_due))
    }


def moment(milliseconds: int) -> dg.TimestampMetadataValue:
    """Epoch milliseconds as a timestamp in the UI."""
    return dg.MetadataValue.timestamp(utc(milliseconds))
