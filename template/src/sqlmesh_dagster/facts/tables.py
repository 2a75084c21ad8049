"""The tables behind an environment's views, as plain data."""

from __future__ import annotations

from dataclasses import dataclass

from sqlmesh_dagster.definition.partitions import Interval


@dataclass(frozen=True)
class BuiltTable:
    """The table behind a model's view.

    Attributes:
        version: What SQLMesh calls its version; several snapshots may share it.
        code_version: SQLMesh's data hash of the deployed model.
        built_at: When its data last changed, in epoch milliseconds; None where SQLMesh does not know.
        start: Begin of what is recorded as done, in epoch milliseconds.
        end: Its end, exclusive.
        done: All that the next run need not build, pairs of epoch milliseconds, end exclusive.
    """

    fqn: str
    snapshot: str
    version: str
    code_version: str
    built_at: int | None
    start: int
    end: int
    done: tuple[Interval, ...] = ()


@dataclass(frozen=True)
class BuiltTables:
    """The tables of an environment, or why they cannot be read now."""

    tables: tuple[BuiltTable, ...] = ()
    obstacle: str | None = None
