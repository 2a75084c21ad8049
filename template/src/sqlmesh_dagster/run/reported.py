"""What was reported to Dagster last of all models of a run: read at once, not for each step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import dagster as dg

from sqlmesh_dagster.definition.project import DagsterProject, VerificationCheck
from sqlmesh_dagster.facts.reported import Found, Reported, Reports, reported
from sqlmesh_dagster.upstream.dagster import (
    CheckResult,
    RunPlan,
    last_check_results,
    last_partition_results,
)


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
        *(spec.key for asset in assets for _, spec in asset.checks),
        *(key for found in beside.values() for key in found),
        *(each.spec.key for found in code.values() for each in found),
    ]
    return Reports(
        assets=last_materializations(instance, keys),
        checks=last_results(instance, checks),
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


def last_results_in(
    instance: dg.DagsterInstance, keys: Iterable[dg.AssetCheckKey], partition: str
) -> dict[dg.AssetCheckKey, Found]:
    """The last result of each check in one partition, where it has one."""
    return _found(last_partition_results(instance, list(keys), partition))


def _found(
    results: Mapping[dg.AssetCheckKey, CheckResult],
) -> dict[dg.AssetCheckKey, Found]:
    return {
        key: Found(evaluation, run_id or None, at)
        for key, (evaluation, run_id, at) in results.items()
    }
