"""What `poe check` asks SQLMesh, in one process: `python -m sqlmesh_dagster.engine.checking`."""

from __future__ import annotations

import sys
from pathlib import Path

from sqlmesh_dagster.engine import formatting, program
from sqlmesh_dagster.guard.secrets import learn_of_project, masked_output
from sqlmesh_dagster.layout import project_folder
from sqlmesh_dagster.upstream.sqlmesh import own_cache_entries


def main() -> int:
    """Says what `sqlmesh lint` and `sqlmesh test` say, and whether the SQL is formatted.

    Returns:
        The exit status of the first that fails; the others are not asked.
    """
    return _sqlmesh("lint") or _sqlmesh("test") or formatting.main(["--check"])


def _sqlmesh(command: str) -> int:
    """A command of SQLMesh, as its program runs it."""
    learn_of_project(Path(project_folder()).resolve())
    with masked_output(), own_cache_entries(anew=False):
        return program.main([command])


if __name__ == "__main__":
    sys.exit(main())
