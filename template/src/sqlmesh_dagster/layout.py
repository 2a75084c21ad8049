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
    """The root of the generated project whose `poe sqlmesh` works on this SQLMesh project; None without one."""
    folder = project.resolve()
    for root in (folder, *folder.parents):
        tasks = root / _TASKS
        if tasks.is_file():
            is_its_own = (root / project_folder()).resolve() == folder
            return root if is_its_own and _TASK in tasks.read_text("utf-8", "replace") else None
    return None
