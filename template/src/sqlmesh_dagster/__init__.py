"""SQLMesh in Dagster: each model its own asset, one `sqlmesh run` for each Dagster run.

The modules that owners read and edit first, then the folders (rooms), in the order in which data
flows:

    factories     SQLMesh project → assets, checks, jobs, schedule, sensor: `Definitions`
    component     the same from a `defs.yaml`
    translator    how a model looks in Dagster: key, group, tags, metadata
    resource      one project: its settings, its context, its connection, its run options
    console       what SQLMesh reports while it works → outcomes (imports SQLMesh)
    alerts        messages when a run or a check fails
    automation    conditions for assets that read models
    checks        audit → check result: what it covers, what it found before
    events        outcome → Dagster events: the table of what each outcome becomes
    settings      a project and a run, as plain data
    times         times that a person gives: parsed and checked
    csv_files     a CSV file becomes a table, on any engine
    gateways      which warehouse SQLMesh works on, for its config
    warehouses    the warehouses that there are, and their environment variables
    errors        what can go wrong, each with what to do next

    manifest/     which definitions are current: what a load read, and where its records are kept
    definition/   records → specs, one translated project
    run/          what Dagster launches: model steps, plans, verification, schedule, sync
    engine/       SQLMesh at work: context, reader, sqlmesh run, plan, deployment, state
    facts/        what SQLMesh did, found or would do, as plain data
    guard/        locks, cancellation, the worker thread, garbage collection
    upstream/     every private name of Dagster and SQLMesh, each with a contract test

Only `engine/` and `console` import SQLMesh, which costs 2 to 5 CPU seconds in each process.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from sqlmesh_dagster.moved import install_old_paths

if TYPE_CHECKING:
    from sqlmesh_dagster.alerts import alert_sensors
    from sqlmesh_dagster.automation import on_new_data
    from sqlmesh_dagster.component import SQLMeshProjectComponent
    from sqlmesh_dagster.definition.declared import DeclaredTable, declared_tables
    from sqlmesh_dagster.definition.records import (
        AuditRecord,
        ColumnRecord,
        ExternalRecord,
        ModelRecord,
        StandaloneAuditRecord,
    )
    from sqlmesh_dagster.errors import (
        AuditFailedError,
        DatabaseLockedError,
        DatabaseUnavailableError,
        DuplicateAssetKeyError,
        EnvironmentBusyError,
        EnvironmentMissingError,
        EnvironmentNotFinalizedError,
        InvalidSettingError,
        ModelDefinitionError,
        ModelFailedError,
        ModelSkippedError,
        PlanFailedError,
        ProjectLoadError,
        PromotionStoppedError,
        RestatementRefusedError,
        RollbackRefusedError,
        RunFailedError,
        SQLMeshDagsterError,
        StateVersionError,
        UndeployedChangesError,
        UnreadableFileError,
        VerificationFailedError,
    )
    from sqlmesh_dagster.factories import (
        sqlmesh_adaptive_schedule_factory,
        sqlmesh_assets_factory,
        sqlmesh_definitions_factory,
        sqlmesh_invalidate_job_factory,
        sqlmesh_plan_job_factory,
        sqlmesh_resources,
        sqlmesh_review_job_factory,
        sqlmesh_rollback_job_factory,
        sqlmesh_sync_sensor_factory,
        sqlmesh_verify_job_factory,
    )
    from sqlmesh_dagster.resource import (
        SQLMeshResource,
        SQLMeshRunOptions,
    )
    from sqlmesh_dagster.run.plans import (
        SQLMeshInvalidateOptions,
        SQLMeshPlanOptions,
    )
    from sqlmesh_dagster.run.results import SQLMeshResultsResource
    from sqlmesh_dagster.run.review import SQLMeshReviewOptions
    from sqlmesh_dagster.run.rollback import SQLMeshRollbackOptions
    from sqlmesh_dagster.translator import (
        SQLMeshTranslator,
        TranslatorSettings,
    )

install_old_paths()

_HOMES = {
    "alerts": "alert_sensors",
    "automation": "on_new_data",
    "component": "SQLMeshProjectComponent",
    "definition.declared": "DeclaredTable declared_tables",
    "definition.records": """
        AuditRecord
        ColumnRecord
        ExternalRecord
        ModelRecord
        StandaloneAuditRecord
    """,
    "errors": """
        AuditFailedError
        DatabaseLockedError
        DatabaseUnavailableError
        DuplicateAssetKeyError
        EnvironmentBusyError
        EnvironmentMissingError
        EnvironmentNotFinalizedError
        InvalidSettingError
        ModelDefinitionError
        ModelFailedError
        ModelSkippedError
        PlanFailedError
        ProjectLoadError
        PromotionStoppedError
        RestatementRefusedError
        RollbackRefusedError
        RunFailedError
        SQLMeshDagsterError
        StateVersionError
        UndeployedChangesError
        UnreadableFileError
        VerificationFailedError
    """,
    "factories": """
        sqlmesh_adaptive_schedule_factory
        sqlmesh_assets_factory
        sqlmesh_definitions_factory
        sqlmesh_invalidate_job_factory
        sqlmesh_plan_job_factory
        sqlmesh_resources
        sqlmesh_review_job_factory
        sqlmesh_rollback_job_factory
        sqlmesh_sync_sensor_factory
        sqlmesh_verify_job_factory
    """,
    "resource": "SQLMeshResource SQLMeshRunOptions",
    "run.plans": "SQLMeshInvalidateOptions SQLMeshPlanOptions",
    "run.results": "SQLMeshResultsResource",
    "run.review": "SQLMeshReviewOptions",
    "run.rollback": "SQLMeshRollbackOptions",
    "translator": "SQLMeshTranslator TranslatorSettings",
}
"""Where each public name is: imported when it is asked for, as SQLMesh's config needs no Dagster."""
_HOME = {name: module for module, names in _HOMES.items() for name in names.split()}


def __getattr__(name: str) -> object:
    """The public name `name`, from its module."""
    if name not in _HOME:
        raise AttributeError(f"module `{__name__}` has no attribute `{name}`")
    found = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """All names, also those that nobody has asked for: `dg` looks for components among them."""
    return sorted({*globals(), *__all__})


__all__ = [
    "AuditFailedError",
    "AuditRecord",
    "ColumnRecord",
    "DatabaseLockedError",
    "DatabaseUnavailableError",
    "DeclaredTable",
    "DuplicateAssetKeyError",
    "EnvironmentBusyError",
    "EnvironmentMissingError",
    "EnvironmentNotFinalizedError",
    "ExternalRecord",
    "InvalidSettingError",
    "ModelDefinitionError",
    "ModelFailedError",
    "ModelRecord",
    "ModelSkippedError",
    "PlanFailedError",
    "ProjectLoadError",
    "PromotionStoppedError",
    "RestatementRefusedError",
    "RollbackRefusedError",
    "RunFailedError",
    "SQLMeshDagsterError",
    "SQLMeshInvalidateOptions",
    "SQLMeshPlanOptions",
    "SQLMeshProjectComponent",
    "SQLMeshResource",
    "SQLMeshResultsResource",
    "SQLMeshReviewOptions",
    "SQLMeshRollbackOptions",
    "SQLMeshRunOptions",
    "SQLMeshTranslator",
    "StandaloneAuditRecord",
    "StateVersionError",
    "TranslatorSettings",
    "UndeployedChangesError",
    "UnreadableFileError",
    "VerificationFailedError",
    "alert_sensors",
    "declared_tables",
    "on_new_data",
    "sqlmesh_adaptive_schedule_factory",
    "sqlmesh_assets_factory",
    "sqlmesh_definitions_factory",
    "sqlmesh_invalidate_job_factory",
    "sqlmesh_plan_job_factory",
    "sqlmesh_resources",
    "sqlmesh_review_job_factory",
    "sqlmesh_rollback_job_factory",
    "sqlmesh_sync_sensor_factory",
    "sqlmesh_verify_job_factory",
]
