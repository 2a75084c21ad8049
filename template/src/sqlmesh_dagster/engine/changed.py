"""The manifest after files of some SQL models were saved: only these and the models that they affect are read.

What depends on them is read, too, where their columns have changed; else it gets its new fingerprint alone.

Importing this module imports SQLMesh.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from sqlmesh_dagster import errors
from sqlmesh_dagster.definition.nodes import (
    NodeRecord,
    Nodes,
    fixed_starts,
    in_files,
    nodes_as_text,
    nodes_of_text,
    readers_of,
)
from sqlmesh_dagster.definition.records import ExternalRecord, Manifest, ModelRecord
from sqlmesh_dagster.engine.context import (
    WRITTEN_TEXTS,
    CaptureContext,
    load_files,
    open_context,
)
from sqlmesh_dagster.engine.dbt import DbtNotes
from sqlmesh_dagster.engine.reader import (
    ReadModel,
    code_digests,
    columns_of,
    external_record,
    fingerprint_text,
    fingerprints_of,
    first_interval,
    node_record,
    record_maker,
    unit_tests_by_model,
)
from sqlmesh_dagster.gateways import only_definitions
from sqlmesh_dagster.guard.secrets import masked_texts
from sqlmesh_dagster.settings import ProjectSettings
from sqlmesh_dagster.upstream.internals import (
    DAG,
    IntervalUnit,
    Model,
    Node,
    SnapshotFingerprint,
    SQLMeshError,
)
from sqlmesh_dagster.upstream.sqlmesh import loader_of, stand_in

_log = logging.getLogger(__name__)
_MOST = 0.5
"""Of the project's models: to read more of them this way costs as much as to read all."""


class _AllMustBeLoadedError(Exception):
    """What was saved may concern more than can be told."""


@dataclass(frozen=True)
class _Known:
    """A node that was not loaded, with what SQLMesh's fingerprints are made of."""

    fqn: str
    depends_on: tuple[str, ...]
    data_hash: str
    metadata_hash: str


@dataclass
class _Reading:
    """What is loaded: files, more of them each time, and what stands in for the models above.

    Attributes:
        paths: Files of models, relative to the project's folder.
    """

    last: Manifest
    nodes: Nodes
    paths: set[str]
    records: Mapping[str, ModelRecord] = field(default_factory=dict)

    def files(self, project: Path) -> list[Path]:
        """Where the files are."""
        return [project / path for path in self.paths]

    def above(self, loaded: Mapping[str, Model]) -> dict[str, Model]:
        """What stands in for the models that the loaded ones read."""
        names = {
            name for model in loaded.values() for name in model.depends_on or ()
        } - loaded.keys()
        return {name: self._stand_in(name) for name in names if self._is_left_out(name)}

    def _is_left_out(self, name: str) -> bool:
        node = self.nodes.get(name)
        return node is not None and node.kind != "external"

    def _stand_in(self, name: str) -> Model:
        record, node = self.records.get(name), self.nodes[name]
        if record is None or node.kind != "model" or not node.is_typed or node.path in self.paths:
            raise _AllMustBeLoadedError(name)
        return stand_in(name, record.dialect, columns_of(record, node))


def load_changed(
    settings: ProjectSettings, read_model: ReadModel, last: Manifest, changed: Collection[str]
) -> Manifest | None:
    """The manifest, made of the last one and of some files; None where all must be loaded.

    Whatever goes wrong is such a case, too: then a load of everything says it.

    Args:
        last: Of the same project, in which nothing else has another content.
        changed: Files of SQL models that have, relative to the project's folder.
    """
    reading = _Reading(
        last, nodes_of_text(last.nodes), set(changed), {m.fqn: m for m in last.models}
    )
    loader = loader_of(reading.files, reading.above)
    try:
        with (
            only_definitions(),
            open_context(
                settings, load=False, load_state=False, opens_database=False, loader=loader
            ) as context,
        ):
            return _read(context, settings, reading, read_model)
    except (_AllMustBeLoadedError, errors.ProjectLoadError, SQLMeshError) as error:
        _log.debug("All models are loaded: %s", error)
        return None


def _read(
    context: CaptureContext, settings: ProjectSettings, reading: _Reading, read_model: ReadModel
) -> Manifest:
    nodes = _loaded_nodes(context, settings, reading)
    models = {fqn: node for fqn, node in nodes.items() if node.kind != "audit"}
    order = DAG({fqn: set(node.depends_on) for fqn, node in models.items()}).sorted
    fingerprints = _fingerprints(context, reading, nodes, order)
    starts = fixed_starts(nodes, order)
    taken = in_files(nodes, reading.paths)
    record = record_maker(
        context,
        {fqn: context.models[fqn] for fqn in taken},
        {fqn: fingerprints[fqn] for fqn in context.models},
        starts,
        read_model,
        DbtNotes(),
        models,
    )
    before = fixed_starts(reading.nodes, order)
    digests = code_digests(context, fingerprints, unit_tests_by_model(context, models))

    def again(fqn: str) -> ModelRecord:
        if fqn in taken:
            return masked_texts(record(fqn), WRITTEN_TEXTS)
        new: dict[str, Any] = {
            "fingerprint": fingerprint_text(fingerprints[fqn]),
            "code_digest": digests[fqn],
        }
        if starts.get(fqn) != before.get(fqn):
            unit = reading.records[fqn].interval_unit
            interval_unit = IntervalUnit(unit) if unit else None
            new["first_interval"] = first_interval(interval_unit, starts.get(fqn))
        return replace(reading.records[fqn], **new)

    records = tuple(again(fqn) for fqn in order if fqn in reading.records)
    return replace(
        reading.last,
        models=records,
        externals=tuple(_externals(context, reading, nodes, records)),
        fingerprints=tuple(sorted((n, fingerprint_text(f)) for n, f in fingerprints.items())),
        former=(),
        problem=None,
        nodes=nodes_as_text(nodes.values()),
    )


def _loaded_nodes(
    context: CaptureContext, settings: ProjectSettings, reading: _Reading
) -> dict[str, NodeRecord]:
    """All nodes as they are now, once the files of everybody are loaded whose columns may have changed.

    Raises:
        _AllMustBeLoadedError: It would be too many, or not only SQL models that were there before.
    """
    while True:
        taken = in_files(reading.nodes, reading.paths)
        _check(reading, taken)
        load_files(context, settings)
        root = Path(context.path)
        loaded = {
            fqn: node
            for fqn, model in context.models.items()
            if (node := node_record(model, root)).path in reading.paths
        }
        if loaded.keys() != taken.keys():
            raise _AllMustBeLoadedError("Other models are in these files than before.")
        nodes = {**reading.nodes, **loaded}
        _check(reading, loaded, nodes)
        others = {
            nodes[name].path
            for name in readers_of(nodes, set(_with_other_columns(context, reading, loaded)))
        }
        if others <= reading.paths:
            return nodes
        reading.paths |= {path or "" for path in others}


def _check(reading: _Reading, taken: Nodes, nodes: Nodes | None = None) -> None:
    """That these are models in SQL which read no embedded ones: their columns come from beyond."""
    known = nodes or reading.nodes
    above = (known[n].kind for node in taken.values() for n in node.depends_on if n in known)
    if (
        {node.path for node in taken.values()} != reading.paths
        or any(node.kind != "model" for node in taken.values())
        or "embedded" in above
        or not all(path.endswith(".sql") for path in reading.paths)
        or len(taken) > max(1, _MOST * len(reading.records))
    ):
        raise _AllMustBeLoadedError("These files are not read alone.")


def _with_other_columns(context: CaptureContext, reading: _Reading, loaded: Nodes) -> Iterator[str]:
    for fqn, node in loaded.items():
        was, now = reading.nodes[fqn], context.models[fqn].columns_to_types
        is_known = was.is_typed and node.is_typed
        if not is_known or _listed(columns_of(reading.records[fqn], was)) != _listed(now):
            yield fqn


def _listed(columns: Mapping[str, Any] | None) -> list[tuple[str, Any]]:
    """In their order, which `SELECT *` keeps."""
    return list((columns or {}).items())


def _fingerprints(
    context: CaptureContext, reading: _Reading, nodes: Nodes, order: Collection[str]
) -> dict[str, SnapshotFingerprint]:
    hashes = {name: text.split("-") for name, text in reading.last.fingerprints}
    taken = in_files(nodes, reading.paths)

    def node(fqn: str) -> Node:
        if fqn in taken:
            return context.models[fqn]
        data, metadata, *_ = hashes[fqn]
        return cast(Node, _Known(fqn, nodes[fqn].depends_on, data, metadata))

    placed = [fqn for fqn in order if fqn in nodes]  # upstream first, or Python nests too deep
    audits = [fqn for fqn in nodes if nodes[fqn].kind == "audit"]
    return fingerprints_of({fqn: node(fqn) for fqn in (*placed, *audits)})


def _externals(
    context: CaptureContext,
    reading: _Reading,
    nodes: Nodes,
    records: Collection[ModelRecord],
) -> Iterator[ExternalRecord]:
    last = {external.fqn: external for external in reading.last.externals}
    read = {fqn for model in records for fqn in model.depends_on}
    read |= {fqn for audit in reading.last.standalone_audits for fqn in audit.depends_on}
    declared = {fqn for fqn, node in nodes.items() if node.kind == "external"}
    for fqn in sorted((read | declared) - {model.fqn for model in records}):
        if fqn in last:
            yield last[fqn]
        else:
            new = external_record(fqn, context.models.get(fqn), None)
            yield masked_texts(new, WRITTEN_TEXTS)
