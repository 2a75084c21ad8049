"""SQLMesh in Dagster: each model its own asset, one `sqlmesh run` for each Dagster run.

The data flows through the folders in this order:

    definition/  SQLMesh project → records (manifest) → specs (translator) → one translated project
    loading      the records as they were stored, or from a load when something changed
    factories    translated project → assets, checks, job, schedule, `Definitions`
    component    the same from a `defs.yaml`
    execution/   Dagster step → selection → session (sqlmesh run) → console → results → events
    schedule     tick → due → run request
    plans        job → plan → shown, and applied if told to → materializations
    code_checks  job or check → unit tests and linter → check results
    sync         tick → built outside Dagster → materializations
    upstream     the few things that public APIs of Dagster and SQLMesh don't give
"""

from sqlmesh_dagster.component import SQLMeshProjectComponent
from sqlmesh_dagster.definition.records import (
    AuditRecord,
    ColumnRecord,
    ExternalRecord,
    ModelRecord,
    StandaloneAuditRecord,
)
from sqlmesh_dagster.definition.translator import SQLMeshTranslator, TranslatorSettings
from sqlmesh_dagster.errors import (
    AuditFailedError,
    DatabaseLockedError,
    DatabaseUnavailableError,
    DuplicateAssetKeyError,
    EnvironmentBusyError,
    EnvironmentMissingError,
    EnvironmentNotFinalizedError,
    InvalidSettingError,
    ModelFailedError,
    ModelSkippedError,
    PlanFailedError,
    ProjectLoadError,
    RestatementRefusedError,
    SQLMeshDagsterError,
    StateVersionError,
    UndeployedChangesError,
    VerificationFailedError,
)
from sqlmesh_dagster.execution.resource import SQLMeshResource, SQLMeshRunOptions
from sqlmesh_dagster.execution.results import SQLMeshResultsResource
from sqlmesh_dagster.factories import (
    sqlmesh_adaptive_schedule_factory,
    sqlmesh_assets_factory,
    sqlmesh_definitions_factory,
    sqlmesh_invalidate_job_factory,
    sqlmesh_plan_job_factory,
    sqlmesh_resources,
    sqlmesh_sync_sensor_factory,
    sqlmesh_verify_job_factory,
)
from sqlmesh_dagster.plans import SQLMeshInvalidateOptions, SQLMeshPlanOptions

__all__ = [
    "AuditFailedError",
    "AuditRecord",
    "ColumnRecord",
    "DatabaseLockedError",
    "DatabaseUnavailableError",
    "DuplicateAssetKeyError",
    "EnvironmentBusyError",
    "EnvironmentMissingError",
    "EnvironmentNotFinalizedError",
    "ExternalRecord",
    "InvalidSettingError",
    "ModelFailedError",
    "ModelRecord",
    "ModelSkippedError",
    "PlanFailedError",
    "ProjectLoadError",
    "RestatementRefusedError",
    "SQLMeshDagsterError",
    "SQLMeshInvalidateOptions",
    "SQLMeshPlanOptions",
    "SQLMeshProjectComponent",
    "SQLMeshResource",
    "SQLMeshResultsResource",
    "SQLMeshRunOptions",
    "SQLMeshTranslator",
    "StandaloneAuditRecord",
    "StateVersionError",
    "TranslatorSettings",
    "UndeployedChangesError",
    "VerificationFailedError",
    "sqlmesh_adaptive_schedule_factory",
    "sqlmesh_assets_factory",
    "sqlmesh_definitions_factory",
    "sqlmesh_invalidate_job_factory",
    "sqlmesh_plan_job_factory",
    "sqlmesh_resources",
    "sqlmesh_sync_sensor_factory",
    "sqlmesh_verify_job_factory",
]
