"""The Dagster instance of a generated project, opened by a test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pytest

POOLED_STORAGE = """
storage:
  custom:
    module: sqlmesh_dagster.event_log
    class: PooledSqliteStorage
    config:
      base_dir: {home}
"""
"""Settings of an instance with the project's event log, to be given its folder as `home`."""


@contextmanager
def instance_of(home: Path) -> Iterator[dg.DagsterInstance]:
    """The instance in this folder, whose settings name it by `DAGSTER_HOME`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(home))
        with dg.DagsterInstance.get() as instance:
            yield instance
