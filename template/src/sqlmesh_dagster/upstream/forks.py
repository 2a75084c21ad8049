"""The exception on Dagster's side that a step's process leans on: its definitions are loaded once.

A contract test fails clearly when Dagster does so itself. Verified on Dagster 1.13.27.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dagster._core.definitions.reconstruct import ReconstructableJob, ReconstructableRepository


def load_definitions_once() -> None:
    """Lets a job that came from another process find the definitions that this one has loaded for it.

    Dagster keeps them by the job's hash, and sends that hash along with the job; the hash of a text is
    another in each process. So a copy that is made here is not found equal, and each step of the
    multiprocess executor loads its definitions twice.
    """
    for kept in (ReconstructableJob, ReconstructableRepository):
        if "__setstate__" not in vars(kept):
            kept.__setstate__ = _without_hash  # type: ignore[union-attr]


def _without_hash(self: Any, state: Mapping[str, Any]) -> None:
    vars(self).update({name: value for name, value in state.items() if name != "_hash"})
