"""The last reports to Dagster about all models of a run: read once, and not for each step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import dagster as dg

from sqlmesh_dagster.checks import renamed
from sqlmesh_dagster.definition.project import DagsterProject, VerificationCheck
from sqlmesh_dagster.definition.records import AuditRecord
from sqlmesh_dagster.facts.reported import Found, Reported, Reports, reported
from sqlmesh_dagster.upstream.dagster import (
    CheckResult,
    RunPlan,
    last_check_results,
    last_partition_results,
)

Check = tuple[AuditRecord, dg.AssetCheckSpec]
"""An audit and its check."""


def last_reports(instance: dg.DagsterInstance, project: DagsterProject, plan: RunPlan) -> Reports:
    """The last materialization of each model that a run selects, and the last result of each of its checks."""
    assets = [asset for asset in project.assets if asset.spec.key in plan.assets]
    keys = {asset.spec.key for asset in assets}
    beside: dict[dg.AssetKey, tuple[dg.AssetCheckKey, ...]] = {}
    for check in project.checks_beside:
        if check.asset_key in keys and check not in plan.checks:
            beside[check.asset_key] = (*beside.get(check.asset_key, ()), check)
    code: dict[dg.AssetKey, tuple[VerificationCheck, ...]] = {}
    for verification in project.code_checks_of(keys):
        if verification.spec.key not in plan.checks:
            key = verification.spec.asset_key
            code[key] = (*code.get(key, ()), verification)
    checks = [
        *(key for found in beside.values() for key in found),
        *(each.spec.key for found in code.values() for each in found),
    ]
    audits = [check for asset in assets for check in asset.checks]
    return Reports(
        assets=last_materializations(instance, keys),
        checks=last_audit_results(instance, audits, checks),
        beside=beside,
        code=code,
        awaited=_awaited(plan),
    )


def _awaited(plan: RunPlan) -> frozenset[dg.AssetKey]:
    steps = frozenset().union(*plan.upstream.values())
    return frozenset(key for key, step in plan.assets.items() if step in steps)


def last_materializations(
    instance: dg.DagsterInstance, keys: Iterable[dg.AssetKey]
) -> dict[dg.AssetKey, Reported]:
    """The last materialization of each asset that has one."""
    wanted = list(keys)
    found = {}
    for record in instance.get_asset_records(wanted) if wanted else ():
        event = record.asset_entry.last_materialization
        if event is not None and event.asset_materialization is not None:
            found[record.asset_entry.asset_key] = reported(
                event.asset_materialization, event.run_id, event.timestamp
            )
    return found


def last_results(
    instance: dg.DagsterInstance, keys: Iterable[dg.AssetCheckKey]
) -> dict[dg.AssetCheckKey, Found]:
    """The last result of each check that has one; planned evaluations do not count."""
    return _found(last_check_results(instance, list(keys)))


def last_audit_results(
    instance: dg.DagsterInstance, checks: Iterable[Check], more: Iterable[dg.AssetCheckKey] = ()
) -> dict[dg.AssetCheckKey, Found]:
    """The last result of the check of each audit, under whatever name it was found.

    Args:
        more: Other checks, whose names never change.
    """
    return _under_any_name(list(checks), list(more), lambda keys: last_results(instance, keys))


def last_audit_results_in(
    instance: dg.DagsterInstance, checks: Iterable[Check], partition: str
) -> dict[dg.AssetCheckKey, Found]:
    """The same in one partition."""
    return _under_any_name(
        list(checks), [], lambda keys: _found(last_partition_results(instance, keys, partition))
    )


def _under_any_name(
    checks: list[Check],
    more: list[dg.AssetCheckKey],
    look: Callable[[list[dg.AssetCheckKey]], dict[dg.AssetCheckKey, Found]],
) -> dict[dg.AssetCheckKey, Found]:
    found = look([*(spec.key for _, spec in checks), *more])
    known = {spec.key for _, spec in checks}
    others = {
        dg.AssetCheckKey(spec.asset_key, name): (record, spec)
        for record, spec in checks
        if spec.key not in found
        for name in record.other_names
    }
    others = {key: check for key, check in others.items() if key not in known}
    for key, last in (look(list(others)) if others else {}).items():
        record, spec = others[key]
        same = renamed(last, record, spec)
        if same is not None:
            found.setdefault(spec.key, same)
    return found


def _found(
    results: Mapping[dg.AssetCheckKey, CheckResult],
) -> dict[dg.AssetCheckKey, Found]:
    return {
        key: Found(evaluation, run_id or None, at)
        for key, (evaluation, run_id, at) in results.items()
    }
