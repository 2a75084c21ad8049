"""What goes wrong outside any model: one message with the next step, and no other error is dressed up."""

from __future__ import annotations

import duckdb
import pandas as pd  # type: ignore[import-untyped,unused-ignore]
import pytest
from sqlmesh.utils.errors import SQLMeshError

from sqlmesh_dagster import errors
from sqlmesh_dagster.engine.explanation import explained, is_of_a_lock, unavailable_database
from sqlmesh_dagster.settings import ProjectSettings

_OF_POSTGRES = {"__module__": "psycopg2.errors"}  # which not each project has
_TIMEOUT = "canceling statement due to statement timeout"
SETTINGS = ProjectSettings(project_dir="/p", environment="dev", wait_timeout=7)


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        *(
            (
                SQLMeshError(f"An error occurred during {what}:\n\nSELECT 1\n\nboom"),
                errors.RunFailedError,
                "so that no model was built. Correct it, and run again: what was due still is.",
            )
            for what in (
                "execution of the following 'before_all' statement",
                "rendering of the 'before_all' statements",
            )
        ),
        (
            duckdb.IOException("Could not set lock on file"),
            errors.DatabaseLockedError,
            "stayed so for 7 s. Close that process, or raise `wait_timeout`. Could not set lock",
        ),
        (
            duckdb.IOException("Cannot open: Permission denied"),
            errors.DatabaseUnavailableError,
            "Let the user that runs Dagster write to the file and to its folder. Then run again",
        ),
        (
            duckdb.IOException("Cannot open: No such file or directory"),
            errors.DatabaseUnavailableError,
            "Create its folder",
        ),
        (
            duckdb.IOException("write: No space left on device"),
            errors.DatabaseUnavailableError,
            "Make room on its disk",
        ),
        (
            duckdb.IOException("it is not a valid DuckDB database file"),
            errors.DatabaseUnavailableError,
            "Restore it from a backup",
        ),
        (
            duckdb.IOException("Permission denied, No space left"),
            errors.DatabaseUnavailableError,
            "to its folder. Make room on its disk. Then",
        ),
        (
            duckdb.IOException("something else"),
            errors.DatabaseUnavailableError,
            "Fix what it says. Then run again: what was not finished is not recorded as done."
            " something else",
        ),
        (
            SQLMeshError("Exceeded the maximum wait time for environment to be ready"),
            errors.EnvironmentNotFinalizedError,
            "Environment `dev` is being changed by a plan, or a plan of it died. Run `cd /p &&"
            " sqlmesh plan dev` to deploy.",
        ),
        (
            SQLMeshError("SQLMesh (local) is using version '2', please run a migrate"),
            errors.StateVersionError,
            "written by an older SQLMesh. Run `cd /p && sqlmesh migrate`, and run again",
        ),
        (
            SQLMeshError("SQLMesh (local) is using version '1', the state is ahead"),
            errors.StateVersionError,
            "written by a newer SQLMesh. Upgrade SQLMesh, and run again",
        ),
        (
            duckdb.FatalException("database has been invalidated because of a previous error"),
            errors.DatabaseUnavailableError,
            "has been invalidated",
        ),
    ],
)
def test_an_error_of_the_whole_run_says_what_to_do(
    error: Exception, kind: type[Exception], words: str
) -> None:
    """Promise: its kind is the integration's, its text ends with the engine's own."""
    told = explained(error, SETTINGS)
    assert type(told) is kind
    assert words in str(told)


def test_a_server_that_gives_too_little_time_is_one_message() -> None:
    """Promise: what a driver raises outside any model is told with what to do."""
    raised = type("QueryCanceled", (Exception,), _OF_POSTGRES)(_TIMEOUT)
    of_pandas = pd.errors.DatabaseError(f"Execution failed on sql 'SELECT 1': {_TIMEOUT}")
    of_pandas.__cause__ = raised
    for error in (raised, of_pandas):
        told = explained(error, SETTINGS)
        assert type(told) is errors.DatabaseUnavailableError
        assert f": QueryCanceled: {_TIMEOUT} → " in str(told)
        assert "SET statement_timeout = 0" in str(told)


@pytest.mark.parametrize("before", range(340, 400, 5))
def test_a_message_is_cut_after_its_secrets_are_masked(before: int) -> None:
    """Promise: where a long message ends in the middle of a password, none of it is shown."""
    text = f"{_TIMEOUT} {'x' * (before - len(_TIMEOUT))} SET PASSWORD 'canary-canary' {'y' * 400}"
    raised = type("QueryCanceled", (Exception,), _OF_POSTGRES)(text)
    told = str(explained(raised, SETTINGS))
    assert "y" * 400 not in told and "ca" not in told.partition("xxx ")[2].partition(" → ")[0]


@pytest.mark.parametrize(
    "error",
    [
        ValueError("Permission denied"),
        ValueError("canceling statement due to statement timeout"),  # of no server
        type("SyntaxError", (Exception,), _OF_POSTGRES)("syntax error at or near SELEC"),
        SQLMeshError("another"),
        duckdb.BinderException("no lock"),
        ValueError("SQLMesh (local)"),
        ValueError("maximum wait time for environment"),
    ],
)
def test_any_other_error_is_itself(error: Exception) -> None:
    """Promise: what needs no explanation keeps its own kind and words."""
    assert explained(error, SETTINGS) is error


@pytest.mark.parametrize(
    ("text", "is_told"),
    [
        ("Failed to commit: Cannot open file", True),
        ("Failed to commit: Could not write file", True),
        ("Failed to commit: constraint", False),
        ("Cannot open file 'a.csv': Permission denied", False),
        ("database has been invalidated", True),
    ],
)
def test_only_what_duckdb_cannot_write_is_the_databases_fault(text: str, is_told: bool) -> None:
    """Promise: an error of a file that a model reads is the model's own."""
    assert (unavailable_database(duckdb.Error(text)) is not None) is is_told
    assert unavailable_database(ValueError(text)) is None


def test_the_fault_is_found_below_other_errors() -> None:
    """Promise: SQLMesh wraps it, on purpose or while it handles another."""
    inner = duckdb.Error("Failed to commit: Could not write")
    for wrapped in (_raised_from(inner), _raised_while(inner)):
        assert unavailable_database(wrapped) is not None
        assert isinstance(explained(wrapped, SETTINGS), errors.DatabaseUnavailableError)


def _raised_from(inner: Exception) -> Exception:
    try:
        raise ValueError("outer") from inner
    except ValueError as error:
        return error


def _raised_while(inner: Exception) -> Exception:
    try:
        try:
            raise inner
        except duckdb.Error:
            raise ValueError("outer")  # noqa: B904
    except ValueError as error:
        return error


@pytest.mark.parametrize(
    ("text", "is_gone"),
    [
        ('connection to server at "db", port 5432 failed: Connection refused', True),
        ("server closed the connection unexpectedly", True),
        ("terminating connection due to administrator command", True),
        ("(2013, 'Lost connection to MySQL server during query')", True),
        ('relation "demo.one" does not exist', False),
        ("canceling statement due to statement timeout", False),
    ],
)
def test_a_server_that_is_gone_is_told_from_a_query_that_is_wrong(text: str, is_gone: bool) -> None:
    """Promise: whichever driver says it; its errors are known by their names."""

    class OperationalError(Exception):
        pass

    error = unavailable_database(OperationalError(text))
    assert (error is not None) is is_gone
    assert unavailable_database(ValueError(text)) is None


def test_a_statement_after_one_that_was_refused_is_told_as_such() -> None:
    """SQLMesh logs why a schema could not be made, and fails with what Postgres says of the next statement."""
    kind = type("InFailedSqlTransaction", (Exception,), {})
    found = unavailable_database(kind("current transaction is aborted"))
    assert found is not None and "`poe doctor` says which right is missing" in str(found)


@pytest.mark.parametrize(
    ("text", "is_held"),
    [
        ('IO Error: Could not set lock on file "/a/w.duckdb": Conflicting lock is held in python', True),
        ('IO Error: Cannot open file "C:/w.duckdb": The process cannot access the file because it is being used by another process.', True),
        ('IO Error: The file "/blocks/clock.duckdb" exists, but it is not a valid DuckDB database file!', False),
        ('IO Error: Cannot open file "/lock/w.duckdb": Permission denied', False),
    ],
)  # fmt: skip
def test_a_file_is_held_by_another_process_only_if_duckdb_says_so(text: str, is_held: bool) -> None:
    """Promise: nobody waits for a damaged file because its path has "lock" in it."""
    assert is_of_a_lock(duckdb.IOException(text)) is is_held
    assert not is_of_a_lock(ValueError(text))
