"""SQLMesh's own program, on the databases that runs use: `python -m sqlmesh_dagster.engine.program COMMAND…`.

From another folder than the project's, a relative DuckDB path would lead it to a new, empty file.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path

from sqlmesh_dagster.engine.databases import anchor_new_contexts
from sqlmesh_dagster.errors import ProjectLoadError
from sqlmesh_dagster.guard.folder import at_home
from sqlmesh_dagster.layout import project_folder


def main(arguments: Sequence[str]) -> int:
    """A command of SQLMesh on the project of a generated platform; its exit status."""
    folder = Path(project_folder()).resolve()
    anchor_new_contexts(folder)
    (program,) = entry_points(group="console_scripts", name="sqlmesh")
    try:
        with at_home([folder]):
            program.load()(["-p", str(folder), *arguments], prog_name="sqlmesh")
    except ProjectLoadError as error:
        print(f"Error: {error.description}", file=sys.stderr)
        return 1
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
