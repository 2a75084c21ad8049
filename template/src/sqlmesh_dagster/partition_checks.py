"""Audits of a partitioned model → results of its checks' partitions.

| SQLMesh says                                     | the check's partition gets                                |
|--------------------------------------------------|-----------------------------------------------------------|
| the audit of a batch that has it found no rows    | a passed result                                           |
| … found rows                                     | a failed result that names the batch's time               |
| it was audited alone, and its result is as before | nothing: the last result stands                           |
| nothing was due                                  | the newest partition its last result again; see `events`  |

In addition, the check has a result of the model as a whole, of no partition, as in `checks`. Dagster shows
the partitions one by one, and takes the very last result for the asset's health: so failed results come
last, and a partition of an earlier run that has failed since comes once more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import dagster as dg

from sqlmesh_dagster.checks import (
    Failing,
    FoundResults,
    definition_of,
    failing_of,
    is_of,
    kept,
    rows_in_words,
)
from sqlmesh_dagster.definition.markdown import sql_block
from sqlmesh_dagster.definition.partitions import Interval, keys_within, merged
from sqlmesh_dagster.definition.project import Checks, ModelAsset
from sqlmesh_dagster.definition.records import AuditRecord
from sqlmesh_dagster.definition.spans import in_words, without
from sqlmesh_dagster.facts.outcomes import AuditOutcome, ModelOutcome

Partitions = dg.TimeWindowPartitionsDefinition


def partitioned(asset: ModelAsset | None, checks: Checks) -> Checks:
    """Those of an asset's checks that have its partitions."""
    if asset is None or asset.partitions is None:
        return ()
    return tuple(check for check in checks if check[1].partitions_def is not None)


def partition_results(
    checks: Checks, partitions: Partitions, outcome: ModelOutcome, found: FoundResults
) -> Iterator[dg.AssetCheckEvaluation]:
    """What each audit that ran found in each partition, per check, failed ones last.

    Args:
        checks: Those that have partitions.
        found: The last results of the checks as a whole.
    """
    ran = {audit.check_name: audit for audit in outcome.audits}
    for record, spec in checks:
        audit = ran.get(record.check_name)
        if audit is not None:
            last = found.get(spec.key)
            before = failing_of(last) if last and is_of(last, record, outcome.version) else ()
            yield from _results(spec, record, audit, outcome, before, partitions)


def kept_partition_results(
    checks: Checks,
    partitions: Partitions,
    outcome: ModelOutcome,
    found: FoundResults,
    newest: FoundResults,
) -> Iterator[dg.AssetCheckEvaluation]:
    """The last result of the newest partition of a model that was left as it is, and what still fails.

    Args:
        found: The last results of the checks as a whole.
        newest: Those of the newest partition.
    """
    for record, spec in checks:
        last, own = found.get(spec.key), newest.get(spec.key)
        if own is None or not is_of(own, record, outcome.version):
            continue
        again = kept(own)
        yield again
        if again.passed and last is not None and is_of(last, record, outcome.version):
            yield from _standing(spec, record, outcome, failing_of(last), partitions)


def _results(
    spec: dg.AssetCheckSpec,
    record: AuditRecord,
    audit: AuditOutcome,
    outcome: ModelOutcome,
    before: Sequence[Failing],
    partitions: Partitions,
) -> Iterator[dg.AssetCheckEvaluation]:
    failing = [Failing((low, high), rows) for low, high, rows in audit.failing]
    changed = merged((*outcome.intervals, *(f.span for f in (*failing, *before))))
    results = [
        _result(spec, record, outcome, key, window, failing, audit)
        for key, window in keys_within(partitions, audit.covered)
        if any(_overlap(window, span) for span in changed)
    ]
    yield from sorted(results, key=lambda result: not result.passed)
    if all(result.passed for result in results):
        yield from _standing(spec, record, outcome, _uncovered(before, audit), partitions)


def _result(
    spec: dg.AssetCheckSpec,
    record: AuditRecord,
    outcome: ModelOutcome,
    partition: str,
    window: Interval,
    failing: Iterable[Failing],
    audit: AuditOutcome | None = None,
) -> dg.AssetCheckEvaluation:
    own = [f for f in failing if _overlap(window, f.span)]
    rows = sum(f.rows for f in own)
    covers = in_words(merged([window, *(f.span for f in own)]))
    query = audit.query if audit is not None and rows else None
    blocking = audit.blocking if audit is not None else record.blocking
    facts: dict[str, Any] = {
        "sqlmesh/failing_rows": rows,
        "sqlmesh/covers": covers,
        "sqlmesh/fails_model": blocking,
        "sqlmesh/definition": definition_of(record),
        **({"sqlmesh/version": outcome.version} if outcome.version else {}),
        **({"sqlmesh/query": sql_block(query)} if query else {}),
    }
    return dg.AssetCheckEvaluation(
        asset_key=spec.asset_key,
        check_name=spec.name,
        passed=not own,
        severity=dg.AssetCheckSeverity.ERROR if blocking else dg.AssetCheckSeverity.WARN,
        description=f"found {rows_in_words(rows)} in {covers}",
        metadata=facts,
        partition=partition,
    )


def _standing(
    spec: dg.AssetCheckSpec,
    record: AuditRecord,
    outcome: ModelOutcome,
    failing: Sequence[Failing],
    partitions: Partitions,
) -> Iterator[dg.AssetCheckEvaluation]:
    """The newest partition that failed in an earlier run, and has not been audited well since."""
    keys = list(keys_within(partitions, [f.span for f in failing]))
    if keys:
        key, window = keys[-1]
        again = _result(spec, record, outcome, key, window, failing)
        run = next((f.run_id for f in failing if f.run_id and _overlap(window, f.span)), None)
        facts = {"sqlmesh/found_in_run": dg.MetadataValue.dagster_run(run)} if run else {}
        yield again.with_metadata({**again.metadata, **facts})


def _uncovered(failing: Iterable[Failing], audit: AuditOutcome) -> list[Failing]:
    return [replace(f, span=span) for f in failing for span in without(f.span, audit.covered)]


def _overlap(one: Interval, other: Interval) -> bool:
    return one[0] < other[1] and other[0] < one[1]
