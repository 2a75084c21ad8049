"""The errors of the integration: each says what happened, to which name, and what to do next."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import dagster as dg

_LONGEST_WORD, _LONGEST_TEXT = 300, 6000
"""Characters of a message about a value: somebody may have pasted a whole file."""


class SQLMeshDagsterError(dg.Failure):
    """The base of all errors; a `dagster.Failure`, so the step fails with its message alone."""


class ProjectLoadError(SQLMeshDagsterError):
    """The SQLMesh project cannot be loaded: a model, macro or config is broken."""


class InvalidSettingError(SQLMeshDagsterError, ValueError):
    """A factory or resource was given a value it cannot work with; the message shortens one that is long."""

    def __init__(
        self,
        description: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        allow_retries: bool | None = None,
    ) -> None:
        text = description and _cut(description)
        super().__init__(text, metadata=metadata, allow_retries=allow_retries)


class DuplicateAssetKeyError(SQLMeshDagsterError):
    """Two models of one project are translated to the same asset key, or two audits to one check."""


class ModelDefinitionError(SQLMeshDagsterError):
    """A model or audit cannot be translated for Dagster; the rest of the project is loaded."""


class EnvironmentMissingError(SQLMeshDagsterError):
    """The SQLMesh environment has never been planned."""


class EnvironmentNotFinalizedError(SQLMeshDagsterError):
    """A plan of the environment is in progress, or died before it finished."""


class UndeployedChangesError(SQLMeshDagsterError):
    """The project's files differ from what the environment runs."""


class OtherProjectError(SQLMeshDagsterError):
    """What is asked for would drop models that another project has deployed to the same state."""


class PlanFailedError(SQLMeshDagsterError):
    """Deploying the local changes failed."""


class PromotionStoppedError(SQLMeshDagsterError):
    """A rule of the owner's stops a promotion, or it would not do what was reviewed."""


class RollbackRefusedError(SQLMeshDagsterError):
    """What production ran before is not known, or production cannot go back to it."""


class VerificationFailedError(SQLMeshDagsterError):
    """SQLMesh's unit tests fail, or its linter finds errors."""


class UnreadableFileError(SQLMeshDagsterError):
    """A file of raw data cannot be read as CSV; its table is as it was."""


class DatabaseLockedError(SQLMeshDagsterError):
    """Another process holds the DuckDB file."""


class DatabaseUnavailableError(SQLMeshDagsterError):
    """The DuckDB file cannot be opened or written: permissions, a full disk, a broken file; or a server is gone."""


class InstanceError(SQLMeshDagsterError):
    """Dagster's instance cannot be opened: its settings make no sense, or its records cannot be read."""


class StateVersionError(SQLMeshDagsterError):
    """The project's state was written by another version of SQLMesh."""


class EnvironmentBusyError(SQLMeshDagsterError):
    """Another run works on the same SQLMesh project, and waiting for it took too long."""


class StateLockError(SQLMeshDagsterError):
    """The lock on SQLMesh's state cannot be held, or was lost while a run worked."""


class ModelFailedError(SQLMeshDagsterError):
    """A model's evaluation failed in the engine or in Python."""


class AuditFailedError(SQLMeshDagsterError):
    """A blocking audit of a model found rows."""


class RunFailedError(SQLMeshDagsterError):
    """A part of the run failed that is of no model: `before_all`, or `after_all` once all is built."""


class ModelSkippedError(SQLMeshDagsterError):
    """SQLMesh did not build a model, or not all that was asked for: upstream failed, it waits, or the run was stopped."""


class RestatementRefusedError(SQLMeshDagsterError):
    """A model must not be restated, or the run does not say what happens to models downstream."""


class MoveRefusedError(SQLMeshDagsterError):
    """A project cannot be moved to another warehouse as it is; what a run sees was not changed."""


def _cut(text: str) -> str:
    """Without the middle of what is too long to be read."""
    text = re.sub(rf"\S{{{_LONGEST_WORD},}}", lambda word: f"{word[0][:100]}…{word[0][-20:]}", text)
    if len(text) <= _LONGEST_TEXT:
        return text
    half = _LONGEST_TEXT // 2
    return f"{text[:half]} … {text[-half:]}"
