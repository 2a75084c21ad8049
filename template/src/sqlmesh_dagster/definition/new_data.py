"""What is built again of a model when an input has new data: its policy, from kind and tag."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

Policy = Literal["all", "touched", "newest", "nothing"]
"""All of it is built again, or the time that the new data is of, or the newest intervals, or nothing."""
POLICIES: tuple[Policy, ...] = get_args(Policy)

_BY_KIND: Mapping[str, tuple[Policy, ...]] = {
    "VIEW": ("all", "nothing"),
    "FULL": ("all", "nothing"),
    "INCREMENTAL_BY_TIME_RANGE": ("touched", "newest", "all", "nothing"),
    "INCREMENTAL_UNMANAGED": ("nothing", "all"),
    "SEED": ("nothing",),
    "MANAGED": ("nothing",),
}
"""For each kind its default policy, then those that an owner may choose instead."""
_ANY_OTHER: tuple[Policy, ...] = ("nothing", "newest", "all")
"""Building these again may lose rows, or the history of rows; only the owner can decide."""


def policies_of(kind: str) -> tuple[Policy, ...]:
    """The policies that a model of this kind may have, its default first."""
    return _BY_KIND.get(kind, _ANY_OTHER)
