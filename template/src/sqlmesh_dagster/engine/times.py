"""Times in SQLMesh's own forms, such as `3 days ago`."""

from __future__ import annotations

from datetime import datetime

from sqlmesh_dagster.upstream.internals import to_datetime


def read_moment(text: str) -> datetime:
    """In UTC.

    Raises:
        ValueError: SQLMesh cannot read it.
    """
    moment: datetime = to_datetime(text)
    return moment
