"""Where tests work: while a variable names a folder, every SQLMesh project works on files in it alone."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "SQLMESH_DAGSTER_THROW_AWAY"
"""Set by `sqlmesh_dagster.pytest_plugin`; processes that a test starts inherit it."""


def throw_away_folder() -> Path | None:
    """The folder of the throw-away warehouse; None outside tests."""
    value = os.environ.get(VARIABLE)
    return Path(value) if value else None
