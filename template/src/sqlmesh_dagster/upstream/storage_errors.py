"""Errors of Dagster's files on SQLite, in words: which file it is, what is wrong, and what to do."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

from sqlalchemy import Engine, ExceptionContext, event
from sqlalchemy.exc import DatabaseError, OperationalError

_homes: set[Path] = set()
_LITTLE = 2**20
"""Bytes; a write-ahead log grows in steps that are smaller."""
_ELSEWHERE = "SQLMesh's own records are elsewhere, and say what is still missing."


class StorageError(Exception):
    """Dagster's records cannot be read or written; also an error of SQLAlchemy, as Dagster looks for those."""

    def __str__(self) -> str:
        return str(getattr(self, "statement", ""))


class StorageUnusableError(StorageError, OperationalError):
    """The disk is full, the file is locked, or may not be written."""


class StorageDamagedError(StorageError, DatabaseError):
    """The file is no database, or is not whole."""


def explain_errors_of(home: Path) -> None:
    """Has errors of files below a folder say more from now on."""
    _homes.add(home.resolve())
    _explain_errors()


@cache
def _explain_errors() -> None:
    """Also of Dagster's own files of runs and ticks, whose engines are made again all the time."""
    event.listen(Engine, "handle_error", _with_place, retval=True)


def _with_place(context: ExceptionContext) -> BaseException | None:
    """The error to raise in place of one that does not say which file it is; None for any other."""
    if context.engine is None:
        return None
    return explained(Path(context.engine.url.database or ""), context.original_exception)


def explained(
    place: Path, error: BaseException
) -> StorageUnusableError | StorageDamagedError | None:
    """The same for an error of the driver at a file or folder."""
    said = str(error)
    home = next((home for home in _homes if place.resolve().is_relative_to(home)), None)
    if home is None:
        return None
    for words, explain in _EXPLANATIONS:
        if any(known in said for known in words):
            return explain(home, place, said, error)
    return None


def _unwritable(home: Path, _: Path, said: str, error: BaseException) -> StorageUnusableError:
    is_full = shutil.disk_usage(home).free < _LITTLE
    remedy = "Make room on its disk" if is_full else "Make room on its disk, or let this user write"
    text = f"{_records(home)} cannot be written: {said}. {remedy}; then run again. {_ELSEWHERE}"
    return StorageUnusableError(text, None, error)


def _locked(home: Path, place: Path, said: str, error: BaseException) -> StorageUnusableError:
    text = (
        f"{_records(home)} are held by another program: {said}, `{place}`. End it, such as a backup or a"
        f" `sqlite3` that is open; then run again. {_ELSEWHERE}"
    )
    return StorageUnusableError(text, None, error)


def _damaged(home: Path, place: Path, said: str, error: BaseException) -> StorageDamagedError:
    away = shlex.quote(str(home / "damaged"))
    files = f"{shlex.quote(str(place))}*" if place.is_file() else "the file"
    text = (
        f"{_records(home)} are damaged: {said}, `{place}`. End what has it open, and bring back a copy or"
        f" move it away, by `mkdir -p {away} && mv {files} {away}`; then run again, and Dagster begins"
        f" that file anew. {_ELSEWHERE}"
    )
    return StorageDamagedError(text, None, error)


def _records(home: Path) -> str:
    return f"Dagster's records in `{home}` (`DAGSTER_HOME`)"


_Explain = Callable[[Path, Path, str, BaseException], "StorageUnusableError | StorageDamagedError"]
_EXPLANATIONS: tuple[tuple[tuple[str, ...], _Explain], ...] = (
    (
        (
            "disk is full",
            "disk I/O error",
            "unable to open database file",
            "readonly database",
        ),
        _unwritable,
    ),
    (("database is locked", "database table is locked"), _locked),
    (("file is not a database", "is malformed", "malformed database", "no such table"), _damaged),
)
"""What SQLite says, without the name of the file, and what it means."""
