"""Dagster's instance, as the commands open it."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
from sqlalchemy.exc import DBAPIError

from sqlmesh_dagster.guard.secrets import mask
from sqlmesh_dagster.upstream.reading import causes

_UNSET = re.compile(r'environment variable "(\w+)" which is not set')


class UnopenedInstanceError(Exception):
    """Dagster's instance does not open; says why, and where its settings are."""


@contextmanager
def opened_instance() -> Iterator[dg.DagsterInstance]:
    """The instance that `DAGSTER_HOME` names.

    Raises:
        UnopenedInstanceError: A variable of its settings is not set, or its database does not answer.
    """
    logging.disable(logging.WARNING)  # of each of Dagster's tries to reach its database
    try:
        found = dg.DagsterInstance.get()
    except Exception as error:  # of Dagster, YAML, a driver, a file, or a class that is named there
        raise UnopenedInstanceError(mask(_why(error))) from error
    finally:
        logging.disable(logging.NOTSET)
    with found as instance:
        yield instance


def _why(error: Exception) -> str:
    settings = Path(os.environ.get("DAGSTER_HOME", "."), "dagster.yaml")
    unset = ", ".join(f"`{name}`" for name in dict.fromkeys(_UNSET.findall(str(error))))
    if unset:
        return (
            f"`{settings}` reads environment variables that are not set: {unset}. Set them where this is"
            " started, or in the project's `.env`."
        )
    refusal = next((each for each in causes(error) if isinstance(each, DBAPIError)), None)
    if refusal is not None:
        said = str(refusal.orig).strip()
        return (
            f"The database of Dagster's history, which `{settings}` names, is out of reach: {said}"
        )
    return (
        f"Dagster's instance does not open. Correct `{settings}`: {type(error).__name__}: {error}"
    )
