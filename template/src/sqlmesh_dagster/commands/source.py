"""Which lines of a stack trace are the project's own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

_FRAME = re.compile(r'File "(?P<file>.+?)", line (?P<line>\d+)')


def is_yours(file: str, root: Path) -> bool:
    """Whether a source file is the project's own, and no library's."""
    if not Path(file).is_relative_to(root):
        return False
    parts = Path(file).relative_to(root).parts
    return "site-packages" not in parts and parts[:2] != ("src", "sqlmesh_dagster")


def your_places(stack: str, root: Path) -> Iterator[str]:
    """File and line of each frame of the project in a stack trace, the innermost first."""
    for frame in reversed(list(_FRAME.finditer(stack))):
        if is_yours(frame["file"], root):
            yield f"{Path(frame['file']).relative_to(root)}:{frame['line']}"
