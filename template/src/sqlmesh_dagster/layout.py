"""Where a generated project has what: SQLMesh's files, and the tasks of `poe`."""

from __future__ import annotations

import os
from pathlib import Path

_TASKS = "poe_tasks.toml"
_TASK = "[tasks.sqlmesh]"


def project_folder() -> str:
    """Where the commands of a generated project find SQLMesh's files, from its root."""
    return os.environ.get("SQLMESH_PROJECT_DIR", "sqlmesh_project")


def poe_root(project: Path) -> Path | None:
    """The root of the generated project around a SQLMesh project, if it has `poe sqlmesh`; None without one."""
    folder = project.resolve()
    for root in (folder, *folder.parents):
        tasks = root / _TASKS
        if tasks.is_file():
            return root if _TASK in tasks.read_text("utf-8", "replace") else None
    return None


def is_project_of(root: Path, project: Path) -> bool:
    """Whether `poe sqlmesh` works on this SQLMesh project if no other one is named."""
    return (root / project_folder()).resolve() == project.resolve()
