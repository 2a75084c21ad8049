"""Where a relative DuckDB path leads: to the file that `sqlmesh` made, wherever Dagster was started.

Importing this module imports SQLMesh.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from sqlmesh import Config

from sqlmesh_dagster.errors import ProjectLoadError
from sqlmesh_dagster.guard.folder import started_in, up_to_root
from sqlmesh_dagster.upstream.sqlmesh import on_new_context, relocate_databases


def anchor_databases(config: Config, project: Path, *, may_guess: bool) -> None:
    """Makes the relative paths of a config's DuckDB files absolute.

    SQLMesh takes them from the working directory, and Dagster's processes have others than a person who
    types `sqlmesh`: a path that leads nowhere would be a new, empty database. It is that of a file that
    is there, in the project's folder or at the repository's root; else, as `sqlmesh` in the project's
    folder would have it.

    Args:
        may_guess: Whether the first of several files will do, as for definitions, which open none.

    Raises:
        ProjectLoadError: There are several.
    """

    def located(path: str) -> str:
        places = list(dict.fromkeys(folder / path for folder in _folders(project)))
        found = [place for place in places if place.exists()] or places[:1]
        if len(found) > 1 and not may_guess:
            raise ProjectLoadError(
                f"The DuckDB path `{path}` is relative, and there are two such files: `{found[0]}` and"
                f" `{found[1]}`. Write the whole path into SQLMesh's config, or remove the one that you"
                " don't use."
            )
        return str(found[0])

    relocate_databases(config, located)


def anchor_new_contexts(project: Path) -> None:
    """From now on each SQLMesh context of this process finds the databases that runs use."""

    def anchored(configs: Mapping[Path, Config]) -> Mapping[Path, Config]:
        for config in configs.values():
            anchor_databases(config, project, may_guess=False)
        return configs

    on_new_context(anchored)


def _folders(project: Path) -> Iterator[Path]:
    """Where `sqlmesh` may have been started: in the project, here, or up to the repository's root."""
    yield project
    yield started_in()
    yield from up_to_root(project)
