"""What `poe check` asks SQLMesh, in one process: `python -m sqlmesh_dagster.engine.checking`."""

from __future__ import annotations

import sys
from importlib.metadata import entry_points
from pathlib import Path

from sqlmesh_dagster.engine import formatting
from sqlmesh_dagster.guard.folder import at_home, project_folder
from sqlmesh_dagster.guard.secrets import learn_of_project, masked_output
from sqlmesh_dagster.upstream.sqlmesh import own_cache_entries


def main() -> int:
    """Says what `sqlmesh lint` and `sqlmesh test` say, and whether the SQL is formatted.

    Returns:
        The exit status of the first that fails; the others are not asked.
    """
    return _sqlmesh("lint") or _sqlmesh("test") or formatting.main(["--check"])


def _sqlmesh(command: str) -> int:
    """A command of SQLMesh, as its program runs it."""
    (program,) = entry_points(group="console_scripts", name="sqlmesh")
    folder = Path(project_folder()).resolve()
    learn_of_project(folder)
    try:
        with masked_output(), at_home([folder]), own_cache_entries(anew=False):
            program.load()(["-p", str(folder), command], prog_name="sqlmesh")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


if __name__ == "__main__":
    sys.exit(main())
