"""What SQLMesh reads of a process's surroundings when it is imported, where it fails without the name of the variable."""

from __future__ import annotations

import os
from pathlib import Path

_WORKERS = "MAX_FORK_WORKERS"
"""SQLMesh's variable: how many processes load a project."""


def fault_of_surroundings() -> str | None:
    """What is wrong with them, and what to do; None if SQLMesh can be imported."""
    workers = os.environ.get(_WORKERS, "1")
    try:
        is_number = int(workers) > 0
    except ValueError:
        is_number = False
    if not is_number:
        return (
            f"The environment variable `{_WORKERS}` is `{workers}`. SQLMesh takes a whole number from 1:"
            " correct it, or remove it."
        )
    try:
        Path.home()
    except RuntimeError:
        return (
            "`HOME` is not set, and this user has no entry in the list of users. SQLMesh keeps settings there: set"
            " it to a folder that this user may write, such as `HOME=/tmp`."
        )
    return None
