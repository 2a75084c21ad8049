"""What Dagster's webserver would show of assets and checks, by the functions that its GraphQL asks."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import dagster as dg
from dagster._core.definitions.asset_health.asset_materialization_health import (
    AssetMaterializationHealthState,
)
from dagster._core.loader import LoadingContextForTest
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecord

GREY = "not evaluated"
"""The UI's words for a check whose result is older than its asset's newest materialization."""


def shown_checks(instance: dg.DagsterInstance, keys: Iterable[dg.AssetCheckKey]) -> dict[str, str]:
    """The status of each check, by `<model>:<check>`."""
    return asyncio.run(_checks(LoadingContextForTest(instance), list(keys)))


async def _checks(loading: LoadingContextForTest, keys: list[dg.AssetCheckKey]) -> dict[str, str]:
    found = {}
    for key in keys:
        record = await AssetCheckExecutionRecord.gen(loading, key)
        is_shown = record is not None and await record.targets_latest_materialization(loading)
        status = (await record.resolve_status(loading)).value if record and is_shown else GREY
        found[f"{key.asset_key.path[-1]}:{key.name}"] = status
    return found


def health(instance: dg.DagsterInstance, keys: Iterable[dg.AssetKey]) -> dict[str, str]:
    """`HEALTHY`, `DEGRADED` or `UNKNOWN`, of each asset's materializations, by its name."""
    return asyncio.run(_health(LoadingContextForTest(instance), list(keys)))


async def _health(loading: LoadingContextForTest, keys: list[dg.AssetKey]) -> dict[str, str]:
    return {
        key.path[-1]: (
            await AssetMaterializationHealthState.compute_for_asset(key, None, loading)
        ).health_status.value
        for key in keys
    }
