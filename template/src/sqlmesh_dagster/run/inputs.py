"""What Dagster knows about the inputs of a run's models: their versions when the models were built, and now."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import date, datetime, time, timedelta, timezone
from typing import Any

import dagster as dg

from sqlmesh_dagster.definition.partitions import Interval
from sqlmesh_dagster.definition.project import DagsterProject, ModelAsset
from sqlmesh_dagster.events import INPUTS
from sqlmesh_dagster.facts.outcomes import ModelOutcome
from sqlmesh_dagster.facts.staleness import Input, Known, Load, Recorded, Subject, contents
from sqlmesh_dagster.options import Build
from sqlmesh_dagster.settings import WithoutRange
from sqlmesh_dagster.translator import SQLMeshTranslator

LOADED_RANGE = "sqlmesh/loaded_range"
"""The metadata in which an asset names the time of the rows that it loaded:
`{"start": …, "end": …}`, ISO 8601, the times of the oldest and of the newest of them."""
_LONGEST_HISTORY = 200
_log = logging.getLogger(__name__)


def known_inputs(
    instance: dg.DagsterInstance,
    project: DagsterProject,
    translator: SQLMeshTranslator,
    fqns: Collection[str],
    *,
    run_id: str,
    build: Build,
    without_range: WithoutRange,
    outcomes: Mapping[str, ModelOutcome],
) -> Known:
    """Looks up everything at once, and again for each input whose metadata names a range.

    Args:
        fqns: The models that one sqlmesh run takes.
        outcomes: What this Dagster run knows of its models so far.
    """
    reads = Reads(project)
    taken = {*fqns, *(s for fqn in fqns for s in reads.sources(fqn) if s in reads.assets)}
    subjects = {
        asset.spec.key.to_user_string(): _subject(asset, reads, translator)
        for asset in project.assets
        if asset.model.fqn in taken
    }
    outside = {label for s in subjects.values() for label in s.sources} & reads.outside.keys()
    keys = [reads.assets[fqn].spec.key for fqn in taken] + [reads.outside[each] for each in outside]
    records = {r.asset_entry.asset_key: r.asset_entry for r in instance.get_asset_records(keys)}
    for label, subject in subjects.items():
        entry = records.get(reads.assets[subject.fqn].spec.key)
        recorded = _told(outcomes.get(subject.fqn)) or _recorded(entry)
        subjects[label] = replace(subject, recorded=recorded)
    found = {
        label: _built_elsewhere(records.get(key))
        if (key := reads.outside[label]) in project.others
        else _load(instance, records.get(key))
        for label in sorted(outside)
    }
    loads = {label: load for label, load in found.items() if load is not None}
    for label in _unrecorded(subjects.values(), loads):
        loads[label] = replace(
            loads[label], since=_since(instance, reads.outside[label], loads[label])
        )
    return Known(
        subjects=subjects,
        selected=frozenset(reads.assets[fqn].spec.key.to_user_string() for fqn in fqns),
        loads=loads,
        history=dict(_histories(instance, subjects.values(), loads, reads)),
        run_id=run_id,
        build=build,
        without_range=without_range,
    )


class Reads:
    """Which tables each model reads; a view is replaced by the tables that it reads."""

    def __init__(self, project: DagsterProject) -> None:
        self.assets = project.assets_by_fqn
        self.outside: dict[str, dg.AssetKey] = {}
        self._fqns = project.fqns_by_key
        self._sources: dict[str, tuple[str, ...]] = {}

    def sources(self, fqn: str) -> tuple[str, ...]:
        """FQNs of models and labels of assets outside SQLMesh."""
        if fqn not in self._sources:
            self._sources[fqn] = ()  # a model that reads itself
            self._sources[fqn] = tuple(dict.fromkeys(self._found(fqn)))
        return self._sources[fqn]

    def labels(self, fqn: str) -> tuple[str, ...]:
        """The same, all as labels."""
        return tuple(
            self.assets[s].spec.key.to_user_string() if s in self.assets else s
            for s in self.sources(fqn)
        )

    def _found(self, fqn: str) -> Iterator[str]:
        for dep in self.assets[fqn].spec.deps:
            upstream = self._fqns.get(dep.asset_key)
            if upstream is None:
                label = dep.asset_key.to_user_string()
                self.outside[label] = dep.asset_key
                yield label
            elif self.assets[upstream].model.is_view:
                yield from self.sources(upstream)
            elif upstream != fqn and not self.assets[upstream].model.is_seed:
                yield upstream


def _subject(asset: ModelAsset, reads: Reads, translator: SQLMeshTranslator) -> Subject:
    model = asset.model
    return Subject(
        label=asset.spec.key.to_user_string(),
        fqn=model.fqn,
        kind=model.kind,
        sources=reads.labels(model.fqn),
        policy=translator.get_new_data_policy(model),
        unit=model.interval_unit,
        is_view=model.is_view,
    )


def _told(outcome: ModelOutcome | None) -> Recorded | None:
    """From a sqlmesh run of this Dagster run, which Dagster may not have recorded yet."""
    if outcome is None or outcome.inputs is None:
        return None
    inputs = {label: Input(version, pointer) for label, version, pointer in outcome.inputs}
    now = datetime.now(timezone.utc).timestamp()
    return Recorded(inputs, outcome.version, round(now * 1000))


def _recorded(entry: Any) -> Recorded | None:
    """What a model's newest materialization records."""
    event = entry.last_materialization if entry is not None else None
    if event is None or event.asset_materialization is None:
        return None
    metadata = event.asset_materialization.metadata
    stored = metadata.get(INPUTS)
    if not isinstance(stored, dg.JsonMetadataValue) or not isinstance(stored.data, dict):
        return None
    try:
        inputs = {
            str(label): Input(str(v), int(place)) for label, (v, place) in stored.data.items()
        }
    except (TypeError, ValueError):  # of another version; then the time decides
        return None
    table, built_at = metadata.get("sqlmesh/version"), metadata.get("sqlmesh/built_at")
    # a model with nothing due is reported again, later than it was built
    at = built_at.value if isinstance(built_at, dg.TimestampMetadataValue) else None
    return Recorded(
        inputs,
        str(table.value) if table is not None else None,
        round((at or event.timestamp) * 1000),
    )


def _load(instance: dg.DagsterInstance, entry: Any) -> Load | None:
    """The asset as it is now; an observation counts if the asset was never materialized."""
    if entry is None:
        return None
    if entry.last_materialization_record is not None:
        return _of_record(entry.last_materialization_record)
    observed = instance.fetch_observations(entry.asset_key, limit=1).records
    return _of_record(observed[0]) if observed else None


def _built_elsewhere(entry: Any) -> Load | None:
    """A model of another project: like one of this project, its version changes when its inputs change."""
    recorded = _recorded(entry)
    load = _of_record(entry.last_materialization_record) if recorded and recorded.inputs else None
    if recorded is None or load is None:
        return None
    return replace(load, version=contents(recorded.inputs), span=None)


def _of_record(record: dg.EventLogRecord) -> Load | None:
    event = record.asset_materialization or record.event_log_entry.asset_observation
    if event is None:
        return None
    tags = event.tags or {}
    version = tags.get("dagster/data_version", f"event {record.storage_id}")
    return Load(
        version=f"{event.partition}={version}" if event.partition else version,
        pointer=record.storage_id,
        at=round(record.timestamp * 1000),
        run_id=record.run_id,
        span=loaded_range(event.metadata),
    )


def _unrecorded(subjects: Iterable[Subject], loads: Mapping[str, Load]) -> set[str]:
    """Inputs of models that were not built from just this, as far as Dagster knows."""
    return {
        label
        for subject in subjects
        for label in subject.sources
        if label in loads
        and (
            subject.recorded is None
            or (made_of := subject.recorded.inputs.get(label)) is None
            or made_of.version != loads[label].version
        )
    }


def _since(instance: dg.DagsterInstance, key: dg.AssetKey, load: Load) -> int:
    """When the version of a load was first loaded: the same file is often loaded again."""
    since = load.at
    found = instance.fetch_materializations(dg.AssetRecordsFilter(key), limit=_LONGEST_HISTORY)
    for record in found.records:  # the newest first
        earlier = _of_record(record)
        if earlier is None or earlier.version != load.version:
            break
        since = min(since, earlier.at)
    return since


def _histories(
    instance: dg.DagsterInstance,
    subjects: Iterable[Subject],
    loads: Mapping[str, Load],
    reads: Reads,
) -> Iterator[tuple[str, tuple[Load, ...]]]:
    """The loads since a model was built, of inputs that name a time range."""
    oldest: dict[str, int] = {}
    for subject in subjects:
        for label, made_of in subject.recorded.inputs.items() if subject.recorded else ():
            load = loads.get(label)
            if load is not None and load.span is not None and load.version != made_of.version:
                oldest[label] = min(made_of.pointer, oldest.get(label, made_of.pointer))
    for label, pointer in oldest.items():
        chosen = dg.AssetRecordsFilter(reads.outside[label], after_storage_id=pointer)
        found = instance.fetch_materializations(chosen, limit=_LONGEST_HISTORY, ascending=True)
        history = [load for record in found.records if (load := _of_record(record))]
        if found.has_more:  # too many to read: as of any time
            history.append(replace(loads[label], span=None))
        yield label, tuple(history)


def loaded_range(metadata: Mapping[str, Any]) -> Interval | None:
    """The time that an asset's metadata names, its end exclusive; None if it names none."""
    value = metadata.get(LOADED_RANGE)
    if value is None:
        return None
    stored: Any = value.data if isinstance(value, dg.JsonMetadataValue) else value.value
    try:
        start, _ = _moments(str(stored["start"]))
        _, end = _moments(str(stored["end"]))
    except (KeyError, TypeError, ValueError):
        _log.warning("`%s` is %s, which names no time. It is ignored.", LOADED_RANGE, stored)
        return None
    return (start, end) if start < end else None


def _moments(text: str) -> Interval:
    """Begin and end of a day, or of a millisecond; UTC where no time zone is named."""
    if len(text) == len("2025-01-31"):
        begin = datetime.combine(date.fromisoformat(text), time(), timezone.utc)
        return _milliseconds(begin), _milliseconds(begin + timedelta(days=1))
    moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    at = _milliseconds(moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc))
    return at, at + 1


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)
