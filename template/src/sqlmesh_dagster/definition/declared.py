"""What a project's YAML says of tables that SQLMesh reads and does not build, for the assets that load them."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg

_FILES = ("external_models.yaml", "external_models.yml", "external_models/*.y*ml")
"""Where SQLMesh looks for external models."""


@dataclass(frozen=True)
class DeclaredTable:
    """A table as `external_models` declares it.

    Attributes:
        name: As written there, such as `raw.payments`.
    """

    name: str
    description: str | None
    schema: dg.TableSchema

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Its columns, for an asset's page."""
        return {"dagster/column_schema": self.schema} if self.schema.columns else {}

    @property
    def types(self) -> Mapping[str, str]:
        """The type of each column."""
        return {column.name: column.type for column in self.schema.columns}


def declared_tables(project_dir: Path) -> dict[str, DeclaredTable]:
    """The external models of the SQLMesh project in a folder, by their names; imports no SQLMesh.

    A file that cannot be read is left out: the load of the project says what is wrong with it.
    """
    return {table.name: table for table in _tables(project_dir)}


def _tables(project_dir: Path) -> Iterator[DeclaredTable]:
    for pattern in _FILES:
        for path in sorted(project_dir.glob(pattern)):
            for entry in _entries(path):
                if isinstance(entry, dict) and isinstance(entry.get("name"), str):
                    yield _table(entry)


def _entries(path: Path) -> list[Any]:
    yaml: Any = importlib.import_module("yaml")  # Dagster needs it; it has no types
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return []
    return found if isinstance(found, list) else []


def _table(entry: Mapping[str, Any]) -> DeclaredTable:
    columns, told = entry.get("columns"), entry.get("column_descriptions")
    types = columns if isinstance(columns, dict) else {}
    texts = told if isinstance(told, dict) else {}
    return DeclaredTable(
        name=entry["name"],
        description=entry.get("description"),
        schema=dg.TableSchema(
            columns=[
                dg.TableColumn(str(name), str(type_), description=texts.get(name))
                for name, type_ in types.items()
            ]
        ),
    )
