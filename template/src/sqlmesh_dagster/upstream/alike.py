"""Events that differ in their partition and its time alone: serialized once, the text filled in for each.

Serializing is more than half of what an event costs, and making its objects most of the rest. The texts of
the first and the last are compared with Dagster's own; where they differ, nobody uses these.
Verified on Dagster 1.13.27.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from dagster import EventLogEntry
from dagster._serdes import serialize_value

Built = tuple[str, tuple[int, int]]
"""A partition, and its time in epoch milliseconds."""
_KEY, _TIME = "a-partition-4f1d9a72", (4102444800123, 4102531200457)
"""A partition that nobody has."""


@dataclass(frozen=True)
class Alike:
    """Events of one moment, as many as there are partitions.

    Attributes:
        newest: The last of them.
        pieces: The text around what differs.
        slots: What comes between them: 0 for the key, 1 and 2 for begin and end of its time.
    """

    newest: EventLogEntry
    built: Sequence[Built]
    pieces: tuple[str, ...]
    slots: tuple[int, ...]

    def texts(self, begin: int, end: int) -> Iterator[tuple[str, str]]:
        """The partition and the serialized event of each in a range of them."""
        for key, (low, high) in self.built[begin:end]:
            yield key, self.text(key, low, high)

    def text(self, key: str, low: int, high: int) -> str:
        """As `serialize_value` of the event."""
        filled = (json.dumps(key)[1:-1], repr(low / 1000), repr(high / 1000))
        between = (filled[slot] for slot in self.slots)
        return "".join(
            piece + value for piece, value in zip(self.pieces, (*between, ""), strict=True)
        )


@runtime_checkable
class StoresAlike(Protocol):
    """An event log that takes them."""

    def store_alike(self, alike: Alike) -> bool:
        """Stores all; False where it cannot, and has stored none."""


def alike(
    make: Callable[[str, tuple[int, int]], EventLogEntry], built: Sequence[Built]
) -> Alike | None:
    """The events of partitions, each as `make` makes it; None where they differ in something else."""
    marks = (json.dumps(_KEY)[1:-1], *(repr(moment / 1000) for moment in _TIME))
    pieces = re.split(f"({'|'.join(map(re.escape, marks))})", serialize_value(make(_KEY, _TIME)))
    slots = tuple(marks.index(found) for found in pieces[1::2])
    first, last = make(*built[0]), make(*built[-1])
    found = Alike(last, built, tuple(pieces[::2]), slots)
    is_same = all(
        found.text(key, *time) == serialize_value(entry)
        for (key, time), entry in ((built[0], first), (built[-1], last))
    )
    return found if is_same else None
