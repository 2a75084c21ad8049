"""Which file of a project made a load of it fail, where SQLMesh's message does not say it. Pure."""

from __future__ import annotations

import traceback
from pathlib import Path


def is_of_project(error: BaseException, project: Path, *, is_stopped: bool) -> bool:
    """Whether a load failed because of a project's file; else the process itself is being stopped.

    A file may call `sys.exit`, or raise `KeyboardInterrupt` or another error that is no `Exception`: it
    must not end the process that loads it. Dagster stops its processes with such errors of its own.

    Args:
        is_stopped: Whether a signal to stop has come since the load began.
    """
    if isinstance(error, Exception):
        return True
    if isinstance(error, GeneratorExit):  # or of whoever leaves the load
        return _place(error, project) is not None
    is_of_dagster = type(error).__module__.partition(".")[0] == "dagster"
    return not is_of_dagster and not (isinstance(error, KeyboardInterrupt) and is_stopped)


def told(error: BaseException, message: str, project: Path) -> str:
    """The message, with the kind of error where it says little, and the file where it names none."""
    is_clear = isinstance(error, Exception) and not isinstance(error, RecursionError) and message
    text = message if is_clear else f"{type(error).__name__}: {message}".rstrip(": ")
    place = _place(error, project)
    return text if place is None or place.partition(",")[0] in text else f"{text}\nIn `{place}`."


def _place(error: BaseException, project: Path) -> str | None:
    """The last line of the project's own code that ran."""
    folder = project.resolve()
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path.is_absolute() and path.resolve().is_relative_to(folder):
            return f"{path.resolve().relative_to(folder)}, line {frame.lineno}"
    return None
