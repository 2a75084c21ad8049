"""Dagster's instance for a command: opened, or said why it cannot be."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
from sqlalchemy.exc import DBAPIError

from sqlmesh_dagster.errors import InstanceError
from sqlmesh_dagster.guard.secrets import mask
from sqlmesh_dagster.upstream.storage_errors import StorageError

HOME = "DAGSTER_HOME"
_BACK = "`git diff {0}` shows what was changed in it, `git checkout {0}` takes that back"

_UNSET = re.compile(r'environment variable "(\w+)" which is not set')
_UNSAID = re.compile(r" Expected: \"\{.*|Stack Trace:.*", re.DOTALL)


@contextmanager
def opened_instance() -> Iterator[dg.DagsterInstance]:
    """The instance that `DAGSTER_HOME` names.

    Raises:
        InstanceError: If its settings make no sense, or its records cannot be opened.
    """
    logging.disable(logging.WARNING)  # of each of Dagster's tries to reach its database
    try:
        instance = dg.DagsterInstance.get()
        _ask_each_part(instance)
    except Exception as error:
        raise InstanceError(mask(unreadable(error))) from error
    finally:
        logging.disable(logging.NOTSET)
    with instance:
        yield instance


def _ask_each_part(instance: dg.DagsterInstance) -> None:
    """A run that is created, and whose events cannot be written, would stay open."""
    instance.get_run_records(limit=1)
    instance.get_asset_keys(limit=1)
    instance.all_instigator_state()


def unreadable(error: Exception) -> str:
    """What is wrong with an instance, where, and what to do about it."""
    if isinstance(error, InstanceError):
        return str(error.description)
    if isinstance(error, StorageError):
        return str(error)
    return _unreadable(error, os.environ.get(HOME, ""))


def _unreadable(error: Exception, home: str) -> str:
    home = os.path.expanduser(home)  # noqa: PTH111 # as Dagster does; no error without a home
    if home and not os.path.isabs(home):  # noqa: PTH117 # as it is written
        whole = os.path.abspath(home)  # noqa: PTH100
        return f"`{HOME}` is `{home}`. Dagster takes a whole path alone: set it to `{whole}`."
    if not Path(home).is_dir():
        return (
            f"`{HOME}` is `{home}`, which is no folder. Make one that has a `dagster.yaml`, or let the"
            " variable name another."
        )
    file = Path(home, "dagster.yaml")
    unset = unset_variables(error)
    if unset:
        return (
            f"`{file}` reads environment variables that are not set: {unset}. Set them where this is"
            " started, or in the project's `.env`."
        )
    if _is_of_settings(error):
        return f"`{file}` makes no sense: {_said(error)}. {_BACK.format(file)}."
    return (
        f"The storage of Dagster's records, which `{file}` names, does not answer: {_said(error)}. See"
        " that it is there and answers; then run again."
    )


def unset_variables(error: BaseException | None) -> str:
    """Those that the settings of an instance read and that are not set, as text; empty for another error."""
    return ", ".join(f"`{name}`" for name in dict.fromkeys(_UNSET.findall(str(error))))


def _is_of_settings(error: Exception) -> bool:
    kinds = (UnicodeDecodeError, IsADirectoryError, PermissionError, dg.DagsterInvalidConfigError)
    return isinstance(error, kinds) or _is_of_reader(error)


def _is_of_reader(error: Exception) -> bool:
    """Of YAML, or of Dagster's own checks of what it reads, whose class is none of its API."""
    kind = type(error)
    return kind.__module__.partition(".")[0] == "yaml" or kind.__name__ == "CheckError"


def _said(error: Exception) -> str:
    """The first cause, in one paragraph, without a stack and without all that might have been."""
    cause: BaseException = error
    while isinstance(cause.__cause__, Exception):
        cause = cause.__cause__
    of_driver = cause.orig if isinstance(cause, DBAPIError) else None
    text = " ".join(_UNSAID.sub("", str(of_driver or cause)).split())
    text = text.removeprefix("Failure condition: ").rstrip(".")
    return text if " " in text else f"{type(cause).__name__}: {text}"
