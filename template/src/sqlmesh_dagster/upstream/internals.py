"""SQLMesh's names outside of `from sqlmesh import …`: what `engine/` and `console.py` build on.

Importing this module imports SQLMesh (2 to 5 CPU seconds). The members that are used of each name
are in
`tests/sqlmesh_dagster/test_upstream_contract.py`. Verified on SQLMesh 0.236.4.
"""

from sqlmesh.core import constants as constants
from sqlmesh.core.audit import Audit as Audit
from sqlmesh.core.audit import StandaloneAudit as StandaloneAudit
from sqlmesh.core.config import DuckDBConnectionConfig as DuckDBConnectionConfig
from sqlmesh.core.config import GatewayConfig as GatewayConfig
from sqlmesh.core.config.connection import (
    BaseDuckDBConnectionConfig as BaseDuckDBConnectionConfig,
)
from sqlmesh.core.config.connection import ConnectionConfig as ConnectionConfig
from sqlmesh.core.config.connection import DuckDBAttachOptions as DuckDBAttachOptions
from sqlmesh.core.config.format import FormatConfig as FormatConfig
from sqlmesh.core.console import Console as Console
from sqlmesh.core.console import NoopConsole as NoopConsole
from sqlmesh.core.console import set_console as set_console
from sqlmesh.core.context_diff import ContextDiff as ContextDiff
from sqlmesh.core.dialect import JinjaQuery as JinjaQuery
from sqlmesh.core.dialect import normalize_model_name as normalize_model_name
from sqlmesh.core.engine_adapter.base import EngineAdapter as EngineAdapter
from sqlmesh.core.engine_adapter.duckdb import DuckDBEngineAdapter as DuckDBEngineAdapter
from sqlmesh.core.engine_adapter.shared import CatalogSupport as CatalogSupport
from sqlmesh.core.environment import Environment as Environment
from sqlmesh.core.environment import EnvironmentNamingInfo as EnvironmentNamingInfo
from sqlmesh.core.environment import EnvironmentStatements as EnvironmentStatements
from sqlmesh.core.environment import (
    execute_environment_statements as execute_environment_statements,
)
from sqlmesh.core.loader import Loader as Loader
from sqlmesh.core.macros import RuntimeStage as RuntimeStage
from sqlmesh.core.model import Model as Model
from sqlmesh.core.model import SeedModel as SeedModel
from sqlmesh.core.model import ViewKind as ViewKind
from sqlmesh.core.node import IntervalUnit as IntervalUnit
from sqlmesh.core.plan import Plan as Plan
from sqlmesh.core.plan import PlanBuilder as PlanBuilder
from sqlmesh.core.plan.common import (
    identify_restatement_intervals_across_snapshot_versions as identify_restatement_intervals_across_snapshot_versions,
)
from sqlmesh.core.scheduler import Scheduler as Scheduler
from sqlmesh.core.scheduler import SnapshotToIntervals as SnapshotToIntervals
from sqlmesh.core.snapshot import DeployabilityIndex as DeployabilityIndex
from sqlmesh.core.snapshot import Snapshot as Snapshot
from sqlmesh.core.snapshot import SnapshotEvaluator as SnapshotEvaluator
from sqlmesh.core.snapshot import SnapshotFingerprint as SnapshotFingerprint
from sqlmesh.core.snapshot import SnapshotId as SnapshotId
from sqlmesh.core.snapshot import SnapshotIntervals as SnapshotIntervals
from sqlmesh.core.snapshot import SnapshotNameVersion as SnapshotNameVersion
from sqlmesh.core.snapshot import earliest_start_date as earliest_start_date
from sqlmesh.core.snapshot import fingerprint_from_node as fingerprint_from_node
from sqlmesh.core.snapshot import missing_intervals as missing_intervals
from sqlmesh.core.snapshot.definition import Intervals as Intervals
from sqlmesh.core.snapshot.definition import Node as Node
from sqlmesh.core.snapshot.definition import apply_auto_restatements as apply_auto_restatements
from sqlmesh.core.snapshot.definition import expand_range as expand_range
from sqlmesh.core.snapshot.definition import format_intervals as format_intervals
from sqlmesh.core.snapshot.definition import snapshots_to_dag as snapshots_to_dag
from sqlmesh.core.snapshot.definition import start_date as start_date
from sqlmesh.core.state_sync import EngineAdapterStateSync as EngineAdapterStateSync
from sqlmesh.core.state_sync import StateReader as StateReader
from sqlmesh.core.state_sync import StateSync as StateSync
from sqlmesh.core.test import run_tests as run_tests
from sqlmesh.utils import CompletionStatus as CompletionStatus
from sqlmesh.utils.cron import CroniterCache as CroniterCache
from sqlmesh.utils.dag import DAG as DAG
from sqlmesh.utils.date import TimeLike as TimeLike
from sqlmesh.utils.date import is_date as is_date
from sqlmesh.utils.date import now as now
from sqlmesh.utils.date import now_timestamp as now_timestamp
from sqlmesh.utils.date import to_datetime as to_datetime
from sqlmesh.utils.date import to_timestamp as to_timestamp
from sqlmesh.utils.errors import ConfigError as ConfigError
from sqlmesh.utils.errors import NoChangesPlanError as NoChangesPlanError
from sqlmesh.utils.errors import NodeAuditsErrors as NodeAuditsErrors
from sqlmesh.utils.errors import SQLMeshError as SQLMeshError

__all__ = [
    "DAG",
    "Audit",
    "BaseDuckDBConnectionConfig",
    "CatalogSupport",
    "CompletionStatus",
    "ConfigError",
    "ConnectionConfig",
    "Console",
    "ContextDiff",
    "CroniterCache",
    "DeployabilityIndex",
    "DuckDBAttachOptions",
    "DuckDBConnectionConfig",
    "DuckDBEngineAdapter",
    "EngineAdapter",
    "EngineAdapterStateSync",
    "Environment",
    "EnvironmentNamingInfo",
    "EnvironmentStatements",
    "FormatConfig",
    "GatewayConfig",
    "IntervalUnit",
    "Intervals",
    "JinjaQuery",
    "Loader",
    "Model",
    "NoChangesPlanError",
    "Node",
    "NodeAuditsErrors",
    "NoopConsole",
    "Plan",
    "PlanBuilder",
    "RuntimeStage",
    "SQLMeshError",
    "Scheduler",
    "SeedModel",
    "Snapshot",
    "SnapshotEvaluator",
    "SnapshotFingerprint",
    "SnapshotId",
    "SnapshotIntervals",
    "SnapshotNameVersion",
    "SnapshotToIntervals",
    "StandaloneAudit",
    "StateReader",
    "StateSync",
    "TimeLike",
    "ViewKind",
    "apply_auto_restatements",
    "constants",
    "earliest_start_date",
    "execute_environment_statements",
    "expand_range",
    "fingerprint_from_node",
    "format_intervals",
    "identify_restatement_intervals_across_snapshot_versions",
    "is_date",
    "missing_intervals",
    "normalize_model_name",
    "now",
    "now_timestamp",
    "run_tests",
    "set_console",
    "snapshots_to_dag",
    "start_date",
    "to_datetime",
    "to_timestamp",
]
