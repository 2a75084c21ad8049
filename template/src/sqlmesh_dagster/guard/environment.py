"""Environment variables that a project sets, which are reset when its context is closed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


class EnvironmentChanges:
    """Variables that loading a project has set, such as those of its `.env`; undone when it is closed.

    Only these, and only if nobody else has set them since: other steps use the same process.
    """

    def __init__(self) -> None:
        self._before: dict[str, str | None] = {}
        self._after: dict[str, str | None] = {}

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Records the variables that change while it is open."""
        before = dict(os.environ)
        try:
            yield
        finally:
            after = dict(os.environ)
            for name in before.keys() | after.keys():
                if before.get(name) != after.get(name):
                    self._before.setdefault(name, before.get(name))
                    self._after[name] = after.get(name)

    def undo(self) -> None:
        """Sets the variables to what they were before."""
        for name, value in self._before.items():
            if os.environ.get(name) != self._after[name]:
                continue
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        self._before, self._after = {}, {}
