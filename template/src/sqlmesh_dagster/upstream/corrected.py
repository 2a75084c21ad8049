"""Faults of SQLMesh that would lose something: corrected in this process, without a change of its files."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any


def correct_sqlmesh() -> None:
    """From now on, for every context of this process; asked again, it changes nothing.

    Leans on `compute_missing_intervals` and on `ViewStrategy`.
    """
    _without_reversed_intervals()
    _without_views_that_are_dropped()


def _without_reversed_intervals() -> None:
    """A model whose cron has not come since its start has nothing to build.

    SQLMesh, where the interval's unit is shorter than the time between two crons, finds an interval that
    ends before it begins, on which the model fails until its cron has come.
    """
    from sqlmesh.core.snapshot import definition

    def corrected(original: Any) -> Any:
        def compute(unit: Any, done: Any, start_ts: int, end_ts: int, *more: Any) -> Any:
            return original(unit, done, start_ts, end_ts, *more) if start_ts < end_ts else []

        return compute

    _replace(definition, "compute_missing_intervals", corrected)


def _without_views_that_are_dropped() -> None:
    """A materialized view is a plain one where SQLMesh makes a plain one of it, as on Postgres.

    As a materialized one it would be dropped to be built again, and with it, by the engine, the views that
    people read and all that is below; nothing makes those again.
    """
    from sqlmesh.core.snapshot.evaluator import ViewStrategy

    def corrected(original: Any) -> Any:
        def is_materialized(self: Any, model: Any) -> bool:
            return bool(self.adapter.SUPPORTS_MATERIALIZED_VIEWS and original(self, model))

        return is_materialized

    _replace(ViewStrategy, "_is_materialized_view", corrected)


def _replace(owner: Any, name: str, corrected: Callable[[Any], Any]) -> None:
    """Once; the original stays at `__wrapped__`."""
    original = getattr(owner, name)
    if original.__module__ != __name__:
        new = functools.wraps(original)(corrected(original))
        new.__module__ = __name__
        setattr(owner, name, new)
