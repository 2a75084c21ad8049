"""A CSV file becomes a table, on whatever engine the warehouse is: for assets that load raw data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlmesh.core.engine_adapter.base import EngineAdapter


@dataclass(frozen=True)
class LoadedFile:
    """What a load did.

    Attributes:
        rows: In the table now.
        changed: The first and the last time of the rows that the load added, changed or dropped; None
            where nothing of that is known.
    """

    rows: int
    changed: tuple[date, date] | None = None

    @property
    def metadata(self) -> dict[str, Any]:
        """For `dg.MaterializeResult`; models that are built by time range are built again for that time."""
        if self.changed is None:
            return {"dagster/row_count": self.rows}
        start, end = (time.isoformat() for time in self.changed)
        loaded = {"start": start, "end": end}
        return {"dagster/row_count": self.rows, "sqlmesh/loaded_range": loaded}


def load_csv(
    engine_adapter: EngineAdapter,
    path: Path,
    table: tuple[str, str],
    *,
    types: Mapping[str, str] | None = None,
    time: str | None = None,
) -> LoadedFile:
    """Replaces a table by the rows of a file, in one transaction; views on it keep working.

    Args:
        engine_adapter: Of `SQLMeshResource.connection`.
        table: Its schema and name.
        types: Of columns, in DuckDB's words, as `declared_tables` has them; those of other columns are found in the file.
        time: The column that says of which time a row is; without it, nothing is known of times.

    Raises:
        UnreadableFileError: The file cannot be read, with its line and what to do; the table is as it was.
    """
    from sqlmesh_dagster.engine.csv_files import load  # imports SQLMesh

    rows, changed = load(engine_adapter, path, table, types or {}, time)
    return LoadedFile(rows, changed)
