"""The Dagster instance of a generated project, opened by a test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pytest


@contextmanager
def instance_of(root: Path) -> Iterator[dg.DagsterInstance]:
    """The instance in `dagster_home`, whose settings take the folder from `DAGSTER_HOME`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(root / "dagster_home"))
        with dg.DagsterInstance.get() as instance:
            yield instance
