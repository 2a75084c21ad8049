"""Every private name of Dagster and SQLMesh that the integration needs, each with a contract test."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from sqlmesh_dagster.moved import warn_of_old_path


def __getattr__(name: str) -> Any:
    """What was in `sqlmesh_dagster/upstream.py` up to 0.2."""
    if not name.startswith("__"):
        for room in ("dagster", "sqlmesh"):
            new = f"{__name__}.{room}"
            found = vars(import_module(new)).get(name)
            if found is not None:
                warn_of_old_path(f"{__name__}.{name}", f"{new}.{name}")
                return found
    raise AttributeError(f"module `{__name__}` has no attribute `{name}`")
