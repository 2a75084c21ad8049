"""Errors outside any model, or of every model: one clear message with what to do next."""

from __future__ import annotations

import os
import re

import duckdb

from sqlmesh_dagster import errors
from sqlmesh_dagster.engine.refusals import refusal_of
from sqlmesh_dagster.facts.reaching import Server, failed, has_remedy
from sqlmesh_dagster.guard.packages import addition
from sqlmesh_dagster.guard.secrets import mask, masked_message
from sqlmesh_dagster.settings import ProjectSettings
from sqlmesh_dagster.upstream.internals import SQLMeshError
from sqlmesh_dagster.upstream.reading import causes

_REMEDIES = (
    (
        ("Permission denied", "Read-only file system", "read-only mode"),
        "Let the user that runs Dagster write to the file and to its folder.",
    ),
    (("No such file or directory",), "Create its folder, or correct its path in SQLMesh's config."),
    (("No space left", "File too large", "quota exceeded"), "Make room on its disk."),
    (
        ("not a valid DuckDB database", "Serialization Error", "corrupt"),
        "Restore it from a backup; or move it away and apply a plan, which builds it again.",
    ),
)
"""DuckDB's messages, and what to do."""
_REMOTE = re.compile(r"motherduck|\bmd:|ducklake|jwt|MotherDuck", re.IGNORECASE)
"""What DuckDB says of servers that it works with."""
_HELD = re.compile(r"Could not set lock|Conflicting lock|used by another process", re.IGNORECASE)
"""On Linux and macOS, and on Windows."""
_BEFORE_ALL = re.compile(r"^An error occurred during .* 'before_all' statement", re.MULTILINE)
"""SQLMesh's words, of rendering or of running it."""
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_NODE = re.compile(r"SnapshotId<(.+): \d+>")
"""How SQLMesh writes a model whose view it could not make."""


def explained(error: Exception, settings: ProjectSettings) -> Exception:
    """One clear message for an error of a whole run; the error itself if it is clear."""
    message = str(error).strip()
    if is_of_a_lock(error):
        return errors.DatabaseLockedError(
            f"The DuckDB file is in use by another process, and stayed so for"
            f" {settings.wait_timeout:g} s. Close that process, or raise `wait_timeout`. {message}"
        )
    if isinstance(error, duckdb.Error) and _REMOTE.search(message):
        warehouse = Server("The warehouse", None, None, (), _login(), "WAREHOUSE_")
        return errors.DatabaseUnavailableError(failed(warehouse, mask(message)).message)
    if isinstance(error, duckdb.IOException):
        return _unavailable(message)
    if isinstance(error, SQLMeshError) and "maximum wait time for environment" in message:
        return errors.EnvironmentNotFinalizedError(unfinished(settings))
    if isinstance(error, SQLMeshError) and "SQLMesh (local)" in message:
        is_older = "migrate" in message
        remedy = f"Run `{settings.command} migrate`" if is_older else "Upgrade SQLMesh"
        return errors.StateVersionError(
            f"The project's state was written by {'an older' if is_older else 'a newer'} SQLMesh."
            f" {remedy}, and run again; nothing was changed. {message}"
        )
    unavailable = unavailable_database(error)
    if unavailable is None and isinstance(error, SQLMeshError) and _BEFORE_ALL.search(message):
        return errors.RunFailedError(
            "`before_all` in SQLMesh's config failed, so that no model was built. Correct it, and run"
            f" again: what was due still is. {message}"
        )
    return unavailable or _of_postgres(error) or error


def _of_postgres(error: BaseException) -> errors.DatabaseUnavailableError | None:
    """What its driver raised itself, and is no model's: SQLMesh gives those another error."""
    if type(error).__module__.startswith("pandas"):  # whose text begins with the whole query
        error = error.__cause__ or error
    if not type(error).__module__.startswith("psycopg2") or not has_remedy(str(error)):
        return None
    servers = Server("The warehouse, or SQLMesh's state,", None, None, (), _login(), "WAREHOUSE_")
    said = failed(servers, masked_message(error))
    return errors.DatabaseUnavailableError(said.message)


def is_of_a_lock(error: BaseException) -> bool:
    """Whether another process holds the DuckDB file, in DuckDB's words; a path may have "lock" in it, too."""
    return isinstance(error, duckdb.IOException) and bool(_HELD.search(str(error)))


def unfinished(settings: ProjectSettings) -> str:
    """What is wrong with an environment whose last plan has not ended, and what ends it."""
    return (
        f"Environment `{settings.environment}` is being changed by a plan, or a plan of it died."
        f" {settings.plan_hint}"
    )


def without_colors(text: str) -> str:
    """SQLGlot underlines in a terminal's way what it cannot parse; pages show that as signs."""
    return _ANSI.sub("", text)


def reason_of(error: BaseException) -> str:
    """With what SQLMesh keeps behind `Execution failed for node …`, and the model's name as people write it."""
    said = _NODE.sub(lambda found: found[1].replace('"', ""), str(error))
    cause = error.__cause__
    return said if cause is None else f"{said}: {type(cause).__name__}: {cause}"


def unavailable_database(error: BaseException) -> errors.DatabaseUnavailableError | None:
    """The error to show if DuckDB could not write to its own file, or a server is gone; None for any other error.

    An error of a file that a model reads is the model's own.
    """
    told = refusal_of(error)
    if told is not None:
        return told
    for cause in causes(error):
        if _is_gone(cause):
            return errors.DatabaseUnavailableError(
                "The server of the warehouse, or of SQLMesh's state, cannot be reached, or has ended the"
                " connection. Start it, or correct what SQLMesh's config says of it; then run again: what"
                f" was not finished is not recorded as done. {str(cause).strip()}"
            )
        if type(cause).__name__ == _REFUSED:
            return errors.DatabaseUnavailableError(
                "The server refused a statement before this one, such as the making of a schema."
                f" `poe doctor` says which right is missing. {str(cause).strip()}"
            )
        text = str(cause)
        is_write = "Failed to commit" in text and ("Cannot open" in text or "Could not" in text)
        if isinstance(cause, duckdb.Error) and (is_write or "has been invalidated" in text):
            return _unavailable(text)
    return None


def _unavailable(message: str) -> errors.DatabaseUnavailableError:
    helps = [remedy for words, remedy in _REMEDIES if any(word in message for word in words)]
    return errors.DatabaseUnavailableError(
        f"DuckDB cannot work on its file. {' '.join(helps) or 'Fix what it says.'} Then run again:"
        f" what was not finished is not recorded as done. {message.strip()}"
    )


def _login() -> tuple[str, ...]:
    names = ("WAREHOUSE_USER", "WAREHOUSE_PASSWORD", "WAREHOUSE_TOKEN", "WAREHOUSE_DATABASE")
    return tuple(name for name in names if os.environ.get(name))


def _is_gone(error: BaseException) -> bool:
    """Whether a driver lost its server, or never found it; by name, as any driver may be the one."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & _OF_A_CONNECTION) and any(words in str(error) for words in _GONE)


_OF_A_CONNECTION = {"OperationalError", "InterfaceError", "DatabaseError"}
"""What the drivers of DB-API call these errors."""
_REFUSED = "InFailedSqlTransaction"
"""Postgres' word for all that follows an error; SQLMesh logs the error itself, and goes on."""
_GONE = (
    "Connection refused",
    "Connection timed out",
    "timeout expired",
    "connection to server at",
    "could not connect to server",
    "could not translate host name",
    "server closed the connection",
    "terminating connection",
    "connection already closed",
    "the database system is",
    "Can't connect to MySQL server",
    "MySQL server has gone away",
    "Lost connection to MySQL server",
    "Adaptive Server is unavailable",
)
_WHEELS = {"postgres": "psycopg2-binary", "risingwave": "psycopg2-binary"}
"""Drivers that need no compiler, where those of SQLMesh's extra do."""
_EXTRA = re.compile(r'pip install "?sqlmesh\[(\w+)\]"?')


def with_wheel(message: str) -> str:
    """SQLMesh's message of a missing driver, with a command for this project and a package that is no source build."""

    def better(found: re.Match[str]) -> str:
        return addition(_WHEELS.get(found[1], f"sqlmesh[{found[1]}]"))

    return _EXTRA.sub(better, message)
