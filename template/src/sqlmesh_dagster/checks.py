"""Audits → check results: what an audit found, what it covered, and what it found before.

| SQLMesh says                              | the check gets                                            |
|-------------------------------------------|-----------------------------------------------------------|
| the audit ran                             | a result that says which intervals it covers              |
| … and an interval that failed before was not among them | a failed result that names that interval    |
| the audit did not run, nothing was due    | its last result again, with when and where it was found   |
| … and it never ran, or the data or the audit is another one now | nothing                             |
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import dagster as dg

from sqlmesh_dagster.definition.markdown import sql_block
from sqlmesh_dagster.definition.names import digest
from sqlmesh_dagster.definition.partitions import Interval, merged
from sqlmesh_dagster.definition.project import Checks
from sqlmesh_dagster.definition.records import AuditRecord
from sqlmesh_dagster.definition.spans import in_words, milliseconds, utc, without
from sqlmesh_dagster.facts.outcomes import AuditOutcome, ModelOutcome, RowSample
from sqlmesh_dagster.facts.reported import Found

FoundResults = Mapping[dg.AssetCheckKey, Found]
_KEPT = 200
"""How many failing intervals a check keeps: the newest ones."""


@dataclass(frozen=True)
class Failing:
    """Intervals in which an audit found rows.

    Attributes:
        span: Epoch milliseconds, end exclusive.
        run_id: The Dagster run that found them; None for the run that reports now.
    """

    span: Interval
    rows: int
    run_id: str | None = None


def check_results(
    checks: Checks, outcome: ModelOutcome, found: FoundResults | None = None
) -> Iterator[dg.AssetCheckResult]:
    """One result for each audit that ran; an audit that did not run has none.

    Args:
        found: The last results, if a check stays failed until the failed intervals pass.
    """
    ran = {audit.check_name: audit for audit in outcome.audits}
    for record, spec in checks:
        audit = ran.get(record.check_name)
        if audit is not None:
            before = _failing_before(record, audit, outcome, (found or {}).get(spec.key))
            yield _result(spec, record, audit, outcome, before)


def check_evaluations(
    checks: Checks, outcome: ModelOutcome, found: FoundResults | None = None
) -> Iterator[dg.AssetCheckEvaluation]:
    """The same for a model that no step of the Dagster run reports."""
    return map(runless_check, check_results(checks, outcome, found))


def runless_check(result: dg.AssetCheckResult) -> dg.AssetCheckEvaluation:
    """A check's result, if no step reports it."""
    assert result.asset_key is not None and result.check_name is not None
    return dg.AssetCheckEvaluation(
        asset_key=result.asset_key,
        check_name=result.check_name,
        passed=bool(result.passed),
        severity=result.severity,
        description=result.description,
        metadata=result.metadata,
    )


def as_result(evaluation: dg.AssetCheckEvaluation) -> dg.AssetCheckResult:
    """The reverse of `runless_check`: a result with an output, on which other steps depend."""
    return dg.AssetCheckResult(
        asset_key=evaluation.asset_key,
        check_name=evaluation.check_name,
        passed=evaluation.passed,
        severity=evaluation.severity,
        description=evaluation.description,
        metadata=evaluation.metadata,
    )


def kept_results(
    checks: Checks, outcome: ModelOutcome, found: FoundResults
) -> Iterator[dg.AssetCheckEvaluation]:
    """The last result of each audit of a model that was not built.

    Without audits that never ran, or that have changed since they ran.
    """
    for record, spec in checks:
        last = found.get(spec.key)
        if last is not None and is_of(last, record, outcome.version):
            yield kept(last)


def kept(last: Found) -> dg.AssetCheckEvaluation:
    """A result once more, with when and in which run it was found."""
    facts = last.evaluation.metadata
    first_found: dict[str, Any] = {"sqlmesh/found_at": dg.MetadataValue.timestamp(last.at)}
    if last.run_id:
        first_found["sqlmesh/found_in_run"] = dg.MetadataValue.dagster_run(last.run_id)
    return last.evaluation.with_metadata(
        {**facts, **(first_found if "sqlmesh/found_at" not in facts else {})}
    )


def definition_of(record: AuditRecord) -> str:
    """Changes when the audit changes."""
    return digest(f"{record.name}|{record.arguments}|{record.blocking}|{record.query}", 12)


def _result(
    spec: dg.AssetCheckSpec,
    record: AuditRecord,
    audit: AuditOutcome,
    outcome: ModelOutcome,
    before: tuple[Failing, ...],
) -> dg.AssetCheckResult:
    failing = (*before, *(Failing((low, high), rows) for low, high, rows in audit.failing))
    return dg.AssetCheckResult(
        asset_key=spec.asset_key,
        check_name=spec.name,
        passed=audit.failing_rows == 0 and not before,
        severity=dg.AssetCheckSeverity.ERROR if audit.blocking else dg.AssetCheckSeverity.WARN,
        description=_description(audit, before),
        metadata={
            "sqlmesh/failing_rows": audit.failing_rows,
            "sqlmesh/covers": in_words(audit.covered) or "the whole table",
            "sqlmesh/fails_model": audit.blocking,
            "sqlmesh/audit": audit.identity,
            "sqlmesh/definition": definition_of(record),
            **({"sqlmesh/version": outcome.version} if outcome.version else {}),
            **({"sqlmesh/failing_intervals": _as_json(failing)} if failing else {}),
            **({"sqlmesh/arguments": dict(audit.arguments)} if audit.arguments else {}),
            **({"sqlmesh/sample": _table(audit.sample)} if audit.sample else {}),
            **({"sqlmesh/query": sql_block(audit.query)} if audit.query else {}),
        },
    )


def _description(audit: AuditOutcome, before: tuple[Failing, ...]) -> str:
    covered = f" in {in_words(audit.covered)}" if audit.covered else ""
    text = f"found {rows_of(audit)}{covered}"
    if not before:
        return text
    spans = in_words(merged(failing.span for failing in before))
    return (
        f"{text}; an earlier run found rows in {spans}, and no later audit of that time has passed"
    )


def rows_of(audit: AuditOutcome) -> str:
    """A text with the number of rows that an audit found."""
    return rows_in_words(audit.failing_rows)


def failing_rows_of(audit: AuditOutcome) -> str:
    """The same, with the time of the batches in which it found them."""
    spans = in_words(merged((begin, end) for begin, end, _ in audit.failing))
    return f"{rows_of(audit)} in {spans}" if spans else rows_of(audit)


def rows_in_words(rows: int) -> str:
    """`no rows`, `1 row`, `2 rows`."""
    return "no rows" if rows == 0 else "1 row" if rows == 1 else f"{rows} rows"


def _failing_before(
    record: AuditRecord, audit: AuditOutcome, outcome: ModelOutcome, last: Found | None
) -> tuple[Failing, ...]:
    """What failed before in this table, and was not audited again now."""
    if last is None or not audit.covered or not is_of(last, record, outcome.version):
        return ()
    return tuple(
        replace(failing, span=span, run_id=failing.run_id or last.run_id)
        for failing in failing_of(last)
        for span in without(failing.span, audit.covered)
    )


def failing_of(last: Found) -> tuple[Failing, ...]:
    """The failing intervals that a result has."""
    return tuple(_from_json(last.evaluation.metadata.get("sqlmesh/failing_intervals")))


def is_of(last: Found, record: AuditRecord, version: str | None) -> bool:
    """Whether a result is of this audit and this table; results of 0.2 do not say that."""
    facts = last.evaluation.metadata
    wanted = {"sqlmesh/definition": definition_of(record), "sqlmesh/version": version}
    return all(
        not isinstance(fact := facts.get(key), dg.TextMetadataValue) or fact.text == value
        for key, value in wanted.items()
    )


def renamed(last: Found, record: AuditRecord, spec: dg.AssetCheckSpec) -> Found | None:
    """A result that was found under another name of the check; None if it is not of the same audit."""
    fact = last.evaluation.metadata.get("sqlmesh/definition")
    if not isinstance(fact, dg.TextMetadataValue) or fact.text != definition_of(record):
        return None
    found = last.evaluation
    evaluation = dg.AssetCheckEvaluation(
        asset_key=spec.asset_key,
        check_name=spec.name,
        passed=found.passed,
        severity=found.severity,
        description=found.description,
        metadata=found.metadata,
        partition=found.partition,
    )
    return replace(last, evaluation=evaluation)


def _as_json(failing: Iterable[Failing]) -> list[dict[str, Any]]:
    return [
        {
            "from": utc(f.span[0]).isoformat(),
            "to": utc(f.span[1]).isoformat(),
            "rows": f.rows,
            **({"run": f.run_id} if f.run_id else {}),
        }
        for f in list(failing)[-_KEPT:]
    ]


def _from_json(value: object) -> Iterator[Failing]:
    data = value.data if isinstance(value, dg.JsonMetadataValue) else None
    for item in data if isinstance(data, list) else ():
        span = [milliseconds(datetime.fromisoformat(item[key])) for key in ("from", "to")]
        yield Failing((span[0], span[1]), item["rows"], item.get("run"))


def _table(sample: RowSample) -> dg.TableMetadataValue:
    return dg.MetadataValue.table(
        records=[
            dg.TableRecord(dict(zip(sample.columns, row, strict=True))) for row in sample.rows
        ],
        schema=dg.TableSchema([dg.TableColumn(name) for name in sample.columns]),
    )
