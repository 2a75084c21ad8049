"""What two processes have built at the same time, found in SQLMesh's record of intervals: plain data, pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone

_COMMAND = "The `sqlmesh` command takes no lock of Dagster's runs: build with `poe run`, or while none is in progress."


@dataclass(frozen=True)
class Entry:
    """An entry of SQLMesh's record: a span of a table was built, or is to be built again.

    Attributes:
        table: What tells one table from another: the model's name for SQLMesh, version, development.
        start: In milliseconds, as `end` and `at`.
        at: When it was written.
        is_summary: Whether it stands for earlier entries.
    """

    table: tuple[str, str, bool]
    start: int
    end: int
    at: int
    is_removed: bool = False
    is_summary: bool = False


@dataclass(frozen=True)
class Rebuilt:
    """A model that may have rows twice, and what helps.

    Attributes:
        can_be_rebuilt: Whether its rows are replaced when it is built again.
    """

    name: str
    span: tuple[int, int]
    can_be_rebuilt: bool


def built_twice(entries: Iterable[Entry]) -> dict[str, tuple[int, int]]:
    """Spans that were built again though they were done and nobody wanted them again, by the model's name."""
    tables: defaultdict[tuple[str, str, bool], list[Entry]] = defaultdict(list)
    for entry in entries:
        tables[entry.table].append(entry)
    found: dict[str, tuple[int, int]] = {}
    for (name, _, _), entries_of_table in tables.items():
        for entry in _again(sorted(entries_of_table, key=lambda entry: entry.at)):
            start, end = found.get(name, (entry.start, entry.end))
            found[name] = (min(start, entry.start), max(end, entry.end))
    return found


def _again(entries: list[Entry]) -> list[Entry]:
    """Entries of a table whose whole span was done before; what is removed later is built again, and counts no more."""
    done: list[Entry] = []
    again: list[Entry] = []
    for entry in entries:
        if entry.is_removed:
            done = [other for other in done if not _meet(entry, other)]
            again = [other for other in again if not _meet(entry, other)]
            continue
        is_done = any(other.start <= entry.start and entry.end <= other.end for other in done)
        if is_done and not entry.is_summary:
            again.append(entry)
        done.append(entry)
    return again


def _meet(one: Entry, other: Entry) -> bool:
    return one.start < other.end and other.start < one.end


def warning_about(models: Iterable[Rebuilt]) -> str:
    """The message, with the models to look at."""
    models = sorted(models, key=lambda model: model.name)
    listed = ", ".join(f"`{model.name}` ({_span(model.span)})" for model in models)
    text = (
        "Two processes have built the same days of these models at the same time, so that rows may be"
        f" there twice: {listed}."
    )
    again = [model.name for model in models if model.can_be_rebuilt]
    kept = ", ".join(f"`{model.name}`" for model in models if not model.can_be_rebuilt)
    if again:
        text += f" `poe rebuild {' '.join(again)}` replaces them."
    if kept:
        text += f" Look through the rows of {kept}: building again would not replace them."
    return f"{text} {_COMMAND}"


def _span(span: tuple[int, int]) -> str:
    start, end = (datetime.fromtimestamp(at / 1000, timezone.utc) for at in (span[0], span[1] - 1))
    return (
        f"{start:%Y-%m-%d}" if start.date() == end.date() else f"{start:%Y-%m-%d} to {end:%Y-%m-%d}"
    )


def by_name(
    spans: Mapping[str, tuple[int, int]], kinds: Mapping[str, tuple[str, bool]]
) -> list[Rebuilt]:
    """The models among these whose rows can be there twice.

    Args:
        kinds: The name for people, and whether a build replaces rows, by the name for SQLMesh.
    """
    return [Rebuilt(kinds[n][0], span, kinds[n][1]) for n, span in spans.items() if n in kinds]
