"""Which file SQLMesh was reading when a load of it failed, where its message names none.

Its loaders keep the path in a variable; the frames of a traceback have it. Verified on SQLMesh 0.236.4.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from pathlib import Path

_CONNECTIONS = "sqlmesh.utils.connection_pool"
"""Whose errors no file has made, although one is being read when SQLMesh first needs a connection."""
_VARIABLES = ("path", "yaml_file", "yaml_config_path", "file_path")
"""What the loaders call the file that they read."""


def files_being_read(error: BaseException) -> Iterator[Path]:
    """The likeliest first: of the first cause, and of the innermost call; none where a connection failed."""
    calls = [list(traceback.walk_tb(link.__traceback__)) for link in causes(error)]
    if any(frame.f_globals.get("__name__") == _CONNECTIONS for call in calls for frame, _ in call):
        return
    for call in reversed(calls):
        for frame, _ in reversed(call):
            known = frame.f_locals
            seed = getattr(known.get("self"), "seed_path", None)
            for found in (seed, *(known.get(name) for name in _VARIABLES)):
                if isinstance(found, Path) and found.is_file():
                    yield found.resolve()


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and those behind it, each once."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        yield error
        error = error.__cause__ or error.__context__
