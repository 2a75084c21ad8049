"""The errors of the integration: each says what happened, to which name, and what to do next."""

from __future__ import annotations

import dagster as dg


class SQLMeshDagsterError(dg.Failure):
    """Anything that the integration reports; a `dagster.Failure`, so that it fails a step cleanly."""


class ProjectLoadError(SQLMeshDagsterError):
    """The SQLMesh project cannot be loaded: a model, macro or config is broken."""


class InvalidSettingError(SQLMeshDagsterError, ValueError):
    """A factory or resource was given a value it cannot work with."""


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


class VerificationFailedError(SQLMeshDagsterError):
    """SQLMesh's unit tests fail, or its linter finds errors."""


class DatabaseLockedError(SQLMeshDagsterError):
    """Another process holds the DuckDB file."""


class DatabaseUnavailableError(SQLMeshDagsterError):
    """The DuckDB file cannot be opened or written: rights, a full disk, a broken file."""


class StateVersionError(SQLMeshDagsterError):
    """The project's state was written by another version of SQLMesh."""


class EnvironmentBusyError(SQLMeshDagsterError):
    """Another run works on the same SQLMesh project, and waiting for it took too long."""


class ModelFailedError(SQLMeshDagsterError):
    """A model's evaluation failed in the engine or in Python."""


class AuditFailedError(SQLMeshDagsterError):
    """A blocking audit of a model found rows that it must not find."""


class RunFailedError(SQLMeshDagsterError):
    """The models were built, and what the run does after them failed, such as `after_all`."""


class ModelSkippedError(SQLMeshDagsterError):
    """SQLMesh did not reach a model: an upstream model failed, or the run was stopped."""


class RestatementRefusedError(SQLMeshDagsterError):
    """A model must not be built again, or the run must say whether the models downstream are."""
