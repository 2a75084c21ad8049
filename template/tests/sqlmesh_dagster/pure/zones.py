"""This process in another time zone, for tests of what must not depend on it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def time_zone(monkeypatch: pytest.MonkeyPatch, name: str) -> Iterator[None]:
    """A zone, until the block ends; on Windows, where Python cannot change it, the one that is."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", name)
        _reread()
        try:
            yield
        finally:
            patch.undo()
            _reread()


def _reread() -> None:
    if hasattr(time, "tzset"):
        time.tzset()
