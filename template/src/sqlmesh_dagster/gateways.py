"""Which warehouse SQLMesh works on: a laptop's DuckDB, or production's, made of environment variables.

SQLMesh's config calls `with_warehouse`. This module imports neither SQLMesh nor Dagster, as every
`sqlmesh` command imports it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from sqlmesh_dagster.guard.throw_away import throw_away_folder
from sqlmesh_dagster.warehouses import GATEWAY, half_set

if TYPE_CHECKING:
    from sqlmesh import Config


def with_warehouse(config: Config) -> Config:
    """A config whose default gateway is the one that `SQLMESH_GATEWAY` names: one line of `config.py`.

        config = with_warehouse(config)

    A name of `WAREHOUSES` is made of environment variables, unless the config has a gateway of that
    name; statements of `before_all` and `after_all` are translated for it. Without the variable, and in
    tests, the config is as it is.

    Raises:
        ConfigError: SQLMesh's own; with the names of all variables that are not set.
    """
    own = config.gateways if isinstance(config.gateways, dict) else {}
    name = os.environ.get(GATEWAY, "").strip().lower()
    if throw_away_folder() is not None and name not in own:
        return config  # a test works on the laptop's gateway
    if not name and not half_set(os.environ):
        return config
    from sqlmesh_dagster.engine.connections import chosen  # imports SQLMesh

    return chosen(config, name, tuple(own), reads_credentials=not _only_definitions.get())


def chosen_gateway() -> str | None:
    """The gateway that the environment names, as the `sqlmesh` command takes it; None in tests."""
    if throw_away_folder() is not None:
        return None
    return os.environ.get(GATEWAY, "").strip().lower() or None


@contextmanager
def only_definitions() -> Iterator[None]:
    """Meanwhile no gateway opens anything or needs credentials: what is loaded is only read."""
    token = _only_definitions.set(True)
    try:
        yield
    finally:
        _only_definitions.reset(token)


_only_definitions = ContextVar("only_definitions", default=False)
