"""The last reports to Dagster about an asset and its checks, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import dagster as dg

from sqlmesh_dagster.definition.project import VerificationCheck
from sqlmesh_dagster.facts.tables import BuiltTable

_OF_THE_DATA = ("dagster/data_version", "dagster/code_version", "dagster/input_")
"""Tags that say of which code and which inputs the data is."""


@dataclass(frozen=True)
class Reported:
    """The last materialization of an asset.

    Attributes:
        version: None in one of an earlier version of this package, or of another's.
        built_at: Epoch milliseconds; where it is not known, when it was reported.
        reported_at: Epoch seconds.
        run_id: The Dagster run that built the data; None where none did.
        tags: Those that say of which code and which inputs the data is.
        metadata: All of it.
    """

    version: str | None
    built_at: int
    reported_at: float = 0.0
    run_id: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict, hash=False)
    metadata: Mapping[str, dg.MetadataValue[Any]] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Found:
    """The last result of a check.

    Attributes:
        run_id: The Dagster run in which it was found; None where none was.
        at: Epoch seconds.
    """

    evaluation: dg.AssetCheckEvaluation
    run_id: str | None
    at: float


@dataclass(frozen=True)
class Reports:
    """The last materializations and check results of some assets; those that have none are left out.

    Attributes:
        beside: Checks of data that the step of an asset does not evaluate, and no other step of the
            run does.
        code: Checks of the models' code that no step of the run evaluates.
        awaited: Assets for whose step another step of the run waits.
    """

    assets: Mapping[dg.AssetKey, Reported] = field(default_factory=dict, hash=False)
    checks: Mapping[dg.AssetCheckKey, Found] = field(default_factory=dict, hash=False)
    beside: Mapping[dg.AssetKey, tuple[dg.AssetCheckKey, ...]] = field(
        default_factory=dict, hash=False
    )
    code: Mapping[dg.AssetKey, tuple[VerificationCheck, ...]] = field(
        default_factory=dict, hash=False
    )
    awaited: frozenset[dg.AssetKey] = frozenset()


def reported(materialization: dg.AssetMaterialization, run_id: str, at: float) -> Reported:
    """Reads a materialization that was logged at `at`, in epoch seconds; one without a run has no id."""
    facts = materialization.metadata
    version, built_at = facts.get("sqlmesh/version"), facts.get("sqlmesh/built_at")
    built_in = facts.get("sqlmesh/built_in_run")
    is_carried = built_in is not None or "sqlmesh/source" in facts
    seconds = built_at.value if isinstance(built_at, dg.TimestampMetadataValue) else at
    return Reported(
        version=version.text if isinstance(version, dg.TextMetadataValue) else None,
        built_at=round((seconds or at) * 1000),
        reported_at=at,
        run_id=_run_of(built_in) if is_carried else run_id or None,
        tags={
            key: value
            for key, value in (materialization.tags or {}).items()
            if key.startswith(_OF_THE_DATA)
        },
        metadata=facts,
    )


def has_moved(table: BuiltTable, last: Reported | None) -> bool:
    """Whether the table has changed since it was reported, or holds newer data.

    A change of metadata alone makes a new snapshot of the same version, and no new data.
    """
    if last is None:
        return True
    if last.version is not None and last.version != table.version:
        return True
    return table.built_at is not None and table.built_at > last.built_at


def _run_of(value: object) -> str | None:
    return value.run_id if isinstance(value, dg.DagsterRunMetadataValue) else None
