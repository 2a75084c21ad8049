"""Where the project's definitions are, by the settings of `dg` in `pyproject.toml`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class NotInAProjectError(Exception):
    """A command was started outside every project."""


@dataclass(frozen=True)
class CodeLocation:
    """A project as Dagster loads it.

    Attributes:
        root: Folder of the `pyproject.toml`.
        module: Where Dagster finds the definitions.
        name: What the UI calls the location.
    """

    root: Path
    module: str
    name: str


def code_location(folder: Path) -> CodeLocation:
    """The project that a folder is in, as `dg` finds it.

    Raises:
        NotInAProjectError: There is no `pyproject.toml` of a `dg` project.
    """
    for root in (folder, *folder.parents):
        file = root / "pyproject.toml"
        if file.is_file():
            project = _parsed(file).get("tool", {}).get("dg", {})
            if "root_module" in project.get("project", {}):
                return _location(root, project["project"])
    raise NotInAProjectError(
        f"`{folder}` is in no project: no `pyproject.toml` has `root_module` under `[tool.dg.project]`."
        " Run the command in the project's folder."
    )


def _parsed(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # of TOML, or of another encoding
        raise NotInAProjectError(f"`{file}` cannot be read: {error}. Correct it.") from error


def _location(root: Path, project: dict[str, str]) -> CodeLocation:
    module = project["root_module"]
    return CodeLocation(
        root,
        project.get("code_location_target_module") or f"{module}.definitions",
        project.get("code_location_name") or root.name,
    )
