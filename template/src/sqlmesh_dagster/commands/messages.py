"""What a run's process tells the command that started it: a line of JSON for each message, in a file.

A file and no pipe: what the process started itself may outlive it, and would hold a pipe open.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


class Outbox:
    """The end of the process that executes the run.

    Args:
        path: Of the file, which need not be there.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def put(self, kind: str, facts: Mapping[str, Any]) -> None:
        """Adds a message; what JSON has no type for goes as text."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": kind, **facts}, default=str) + "\n")

    def is_asked_to_stop(self) -> bool:
        """Whether the command wants the run to end."""
        return _stop_file(self._path).exists()


class Inbox:
    """The end of the command.

    Args:
        path: Of the file, which need not be there yet.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._position = path, 0

    def ask_to_stop(self) -> None:
        """For a process that has said that it is following its run."""
        _stop_file(self._path).touch()

    def take(self) -> Iterator[Mapping[str, Any]]:
        """Messages that have come since the last time; one that is half written waits."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._position)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._position += len(line)
                yield json.loads(line)


def _stop_file(path: Path) -> Path:
    return path.with_suffix(".stop")
