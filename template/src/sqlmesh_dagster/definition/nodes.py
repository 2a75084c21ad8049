"""What a manifest keeps of each node of the project, so that the next load reads only what changed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Literal

from pydantic import TypeAdapter

MOVES = "moves"
"""The start of a model that begins at another moment on each day, such as `1 week ago`."""


@dataclass(frozen=True)
class NodeRecord:
    """A model, an external table or a standalone audit: where it stands, and what others have of it.

    Attributes:
        depends_on: What it reads, embedded models among them.
        path: Its file, relative to the project's folder.
        start: Its own start, ISO 8601; `MOVES`; or None where it begins with what it reads.
        is_typed: Whether texts of its columns' types say all that SQLMesh knows of them: those of its
            record, in its dialect, or else `types`.
        types: In sqlglot's own dialect; empty where the record's say all.
    """

    fqn: str
    kind: Literal["model", "embedded", "external", "audit"]
    depends_on: tuple[str, ...]
    path: str | None = None
    start: str | None = None
    is_typed: bool = False
    types: tuple[str, ...] = ()


Nodes = Mapping[str, NodeRecord]


def nodes_as_text(nodes: Iterable[NodeRecord]) -> str:
    """A text, as most processes never look at it."""
    return _json().dump_json(tuple(sorted(nodes, key=lambda node: node.fqn))).decode()


def nodes_of_text(text: str) -> dict[str, NodeRecord]:
    """By FQN; none of an empty text."""
    return {node.fqn: node for node in _json().validate_json(text)} if text else {}


def in_files(nodes: Nodes, paths: Collection[str]) -> dict[str, NodeRecord]:
    """The nodes whose files these are."""
    return {fqn: node for fqn, node in nodes.items() if node.path in paths}


def readers_of(nodes: Nodes, names: Collection[str]) -> set[str]:
    """The models that read one of these themselves."""
    wanted = set(names)
    return {
        fqn
        for fqn, node in nodes.items()
        if node.kind != "audit" and not wanted.isdisjoint(node.depends_on)
    }


def fixed_starts(nodes: Nodes, order: Iterable[str]) -> dict[str, datetime | None]:
    """When each model begins: by its own start, or by the earliest of what it reads.

    As `sqlmesh.core.snapshot.start_date`; a start that moves with the clock is None.
    """
    starts: dict[str, datetime | None] = {}
    for fqn in order:
        node = nodes.get(fqn)
        if node is None or node.kind == "audit":
            continue
        if node.start is not None:
            starts[fqn] = None if node.start == MOVES else datetime.fromisoformat(node.start)
            continue
        above = [starts.get(name) for name in node.depends_on if _is_model(nodes, name)]
        known = [start for start in above if start is not None]
        starts[fqn] = min(known) if known and len(known) == len(above) else None
    return starts


def _is_model(nodes: Nodes, fqn: str) -> bool:
    node = nodes.get(fqn)
    return node is not None and node.kind != "audit"


@lru_cache(maxsize=1)
def _json() -> TypeAdapter[tuple[NodeRecord, ...]]:
    return TypeAdapter(tuple[NodeRecord, ...])
