"""The storage that `dagster.yaml` names. This path never moves: the file that names it is the owner's."""

from __future__ import annotations

import logging

__all__ = ["PooledSqliteStorage"]

try:
    from sqlmesh_dagster.upstream.event_log import PooledSqliteStorage
except Exception as error:  # a private name of Dagster has moved: use Dagster's own, slower log
    from dagster._core.storage.sqlite_storage import (  # type: ignore[assignment]
        DagsterSqliteStorage as PooledSqliteStorage,
    )

    logging.getLogger(__name__).warning(
        "The faster event log does not fit this version of Dagster (%s). Dagster's own is used, with"
        " the same files. Run `poe update`, or remove the block `storage:` from `dagster.yaml`.",
        error,
    )
