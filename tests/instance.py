"""The Dagster instance of a generated project, opened by a test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pytest


@contextmanager
def instance_of(home: Path) -> Iterator[dg.DagsterInstance]:
    """The instance in this folder, whose settings name it by `DAGSTER_HOME`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(home))
        with dg.DagsterInstance.get() as instance:
            yield instance
