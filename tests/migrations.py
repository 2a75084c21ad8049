"""The migrations of Dagster's tables, read once in a process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory


@contextmanager
def read_once() -> Iterator[None]:
    """Dagster reads all of them for each storage of each instance, which is half of what a new one costs."""
    read = ScriptDirectory.from_config
    kept: dict[str | None, ScriptDirectory] = {}

    def from_config(config: Config) -> ScriptDirectory:
        folder = config.get_main_option("script_location")
        if folder not in kept:
            kept[folder] = read(config)
        return kept[folder]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ScriptDirectory, "from_config", from_config)
        yield


def read_migrations() -> None:
    """Reads them now, those of files and those of instances in memory."""
    import dagster as dg  # what only patches needs none

    dg.DagsterInstance.ephemeral().dispose()
    with dg.DagsterInstance.local_temp():
        pass
