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
    """A command of SQLMesh on the project of a generated platform, or on those that `-p` names first; its exit status."""
    named, rest = _named_first(arguments)
    folders = [Path(folder).resolve() for folder in named or [project_folder()]]
    anchor_new_contexts(folders[0])
    (program,) = entry_points(group="console_scripts", name="sqlmesh")
    paths = [argument for folder in folders for argument in ("-p", str(folder))]
    try:
        with at_home(folders):
            program.load()([*paths, *rest], prog_name="sqlmesh")
    except ProjectLoadError as error:
        print(f"Error: {error.description}", file=sys.stderr)
        return 1
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def _named_first(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The folders of the `-p` at the beginning, and what follows them."""
    folders, rest = [], list(arguments)
    while len(rest) > 1 and rest[0] in ("-p", "--paths"):
        folders.append(rest[1])
        rest = rest[2:]
    return folders, rest


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
