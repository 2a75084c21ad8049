"""What the integration leans on in Dagster and SQLMesh: an upgrade that moves it fails here, by name.

Whatever fails here names what has moved and who uses it; fix that module before any other test.
"""

# No `from __future__ import annotations`: Dagster reads the type of an op's `context` unquoted.

import importlib
import inspect
import json
import os
import pickle
import random
import re
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pytest
from dagster._core.definitions.reconstruct import ReconstructableJob, ReconstructableRepository
from dagster._core.definitions.utils import DISALLOWED_NAMES
from dagster._core.events import ASSET_CHECK_EVENTS, ASSET_EVENTS, StepMaterializationData
from dagster._core.instance import RUNLESS_RUN_ID
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage
from dagster._core.storage.event_log.sqlite.sqlite_event_log import (
    INDEX_SHARD_NAME,
    SqliteEventLogStorage,
)
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage
from dagster._serdes import serialize_value
from sqlmesh import Context
from sqlmesh.core import analytics
from sqlmesh.core.analytics.collector import AnalyticsCollector
from sqlmesh.core.analytics.dispatcher import EventDispatcher
from sqlmesh.core.config import Config, load_configs
from sqlmesh.core.config import loader as config_loader
from sqlmesh.core.config.connection import (
    DatabricksConnectionConfig,
    DuckDBAttachOptions,
    DuckDBConnectionConfig,
)
from sqlmesh.core.console import Console, NoopConsole, get_console, set_console
from sqlmesh.core.dialect import parse
from sqlmesh.core.engine_adapter.duckdb import DuckDBEngineAdapter
from sqlmesh.core.environment import Environment
from sqlmesh.core.model import Model, load_sql_based_model
from sqlmesh.core.scheduler import Scheduler
from sqlmesh.core.snapshot import Snapshot, SnapshotChangeCategory, SnapshotEvaluator
from sqlmesh.utils.connection_pool import SingletonConnectionPool, ThreadLocalConnectionPool
from sqlmesh.utils.errors import NodeAuditsErrors, SQLMeshError

from sqlmesh_dagster.console import CaptureConsole
from sqlmesh_dagster.definition.names import op_name
from sqlmesh_dagster.engine import missing
from sqlmesh_dagster.settings import environment_name
from sqlmesh_dagster.upstream import alike as in_alike
from sqlmesh_dagster.upstream import corrected as in_corrected
from sqlmesh_dagster.upstream import dagster as in_dagster
from sqlmesh_dagster.upstream import event_rows as in_rows
from sqlmesh_dagster.upstream import internals
from sqlmesh_dagster.upstream import launch as in_launch
from sqlmesh_dagster.upstream import sqlmesh as in_sqlmesh
from sqlmesh_dagster.upstream.event_log import (
    MADE_WITH,
    PooledSqliteEventLog,
    PooledSqliteStorage,
    knows_migrations,
)
from sqlmesh_dagster.upstream.forks import load_definitions_once
from sqlmesh_dagster.upstream.interrupting import Interrupter
from sqlmesh_dagster.upstream.reading import files_being_read
from tests.sqlmesh_dagster.projects import Project

# ---------------------------------------------------------------------------- signatures

_LOG = "dagster._core.storage.event_log.sqlite.sqlite_event_log:SqliteEventLogStorage"
_PARAMETERS = {
    "sqlmesh.core.context:Context.__init__": (
        "context.py opens contexts with it",
        "paths gateway load loader concurrent_tasks config config_loader_kwargs",
    ),
    "sqlmesh.core.loader:SqlMeshLoader._load_sql_models": (
        "upstream.sqlmesh.loader_of loads some files with it",
        "macros jinja_macros audits signals cache gateway selected_paths",
    ),
    "sqlmesh.core.loader:SqlMeshLoader._load_external_models": (
        "upstream.sqlmesh.loader_of calls it as `_load_models` does",
        "audits cache gateway",
    ),
    "sqlmesh.core.loader:SqlMeshLoader._load_models": (
        "upstream.sqlmesh.loader_of overrides it",
        "macros jinja_macros gateway audits signals",
    ),
    "sqlmesh.core.engine_adapter.base:EngineAdapter._execute": (
        "upstream.sqlmesh.hear_failing_statements wraps it",
        "sql",
    ),
    "sqlmesh.core.state_sync:CachingStateSync.__init__": (
        "upstream.sqlmesh.read_state_anew clears its cache",
        "state_sync",
    ),
    "sqlmesh.core.context_diff:ContextDiff.create": (
        "rollback.py plans what production ran before with it",
        "environment snapshots create_from state_reader provided_requirements infer_python_dependencies"
        " environment_statements gateway_managed_virtual_layer",
    ),
    "sqlmesh.core.plan:PlanBuilder.__init__": (
        "rollback.py plans what production ran before with it",
        "context_diff skip_backfill environment_suffix_target environment_catalog_mapping console",
    ),
    "sqlmesh.core.test:run_tests": (
        "code_reviews.py runs unit tests on production's models with it",
        "model_test_metadata models config selected_gateway dialect default_catalog"
        " default_catalog_dialect",
    ),
    "sqlmesh.core.snapshot:SnapshotEvaluator.demote": (
        "rollback.py drops views that a killed plan has left",
        "target_snapshots environment_naming_info",
    ),
    "sqlmesh.core.context:Context.run": (
        "session.py leads runs with it",
        "environment start end execution_time skip_janitor ignore_cron",
    ),
    "sqlmesh.core.context:Context.plan": (
        "deployment.py deploys local changes with it",
        "environment auto_apply no_prompts skip_backfill enable_preview execution_time",
    ),
    "sqlmesh.core.scheduler:Scheduler.run": (
        "context.py narrows it to the selected models, and restates with it",
        "self environment restatements end_bounded selected_snapshots",
    ),
    "sqlmesh.core.snapshot:Snapshot.get_removal_interval": (
        "restatement.py asks it what to build again",
        "start end execution_time strict",
    ),
    "sqlmesh.core.state_sync:StateSync.remove_intervals": (
        "restatement.py takes off what is built again",
        "snapshot_intervals remove_shared_versions",
    ),
    "sqlmesh.core.plan.common:identify_restatement_intervals_across_snapshot_versions": (
        "restatement.py asks it what environments must build again",
        "state_reader prod_restatements disable_restatement_models loaded_snapshots current_ts",
    ),
    "sqlmesh.core.context:Context.create_scheduler": (
        "context.py overrides it",
        "self snapshots snapshot_evaluator",
    ),
    "sqlmesh.core.context:Context.scheduler": (
        "session.py runs audits alone with it",
        "environment",
    ),
    "sqlmesh.core.scheduler:Scheduler.__init__": (
        "context.py makes schedulers as `Context.create_scheduler` does",
        "snapshots snapshot_evaluator state_sync default_catalog max_workers console"
        " notification_target_manager",
    ),
    "sqlmesh.core.scheduler:Scheduler.evaluate": (
        "context.py wraps it to learn why a model failed",
        "self snapshot start end execution_time deployability_index",
    ),
    "sqlmesh.core.scheduler:Scheduler.audit": (
        "session.py runs audits alone with it",
        "environment start end execution_time ignore_cron selected_snapshots",
    ),
    "sqlmesh.core.snapshot:SnapshotEvaluator.audit": (
        "upstream.sqlmesh.on_audit wraps it",
        "self snapshot",
    ),
    "sqlmesh.core.snapshot:SnapshotEvaluator.evaluate": (
        "upstream.sqlmesh.leave_as_it_is wraps it",
        "self snapshot",
    ),
    "sqlmesh.core.snapshot:SnapshotEvaluator.get_snapshots_to_create": (
        "upstream.sqlmesh.created_too wraps it",
        "self target_snapshots deployability_index",
    ),
    "sqlmesh.core.snapshot:SnapshotEvaluator._render_snapshot_for_evaluation": (
        "upstream.sqlmesh.checked_before_writing wraps it",
        "self snapshot snapshots deployability_index render_kwargs",
    ),
    "sqlmesh.core.snapshot:Snapshot.missing_intervals": (
        "rebuild.py asks it whether a stale model is due as well, missing.py for models that are alike",
        "start end execution_time deployability_index",
    ),
    "sqlmesh.core.snapshot:SnapshotEvaluator.get_adapter": (
        "context.py interrupts the adapter's cursor",
        "gateway",
    ),
    "sqlmesh.core.snapshot:fingerprint_from_node": (
        "manifest.py computes fingerprints without a state",
        "node nodes cache",
    ),
    "sqlmesh.core.snapshot:missing_intervals": (
        "missing.py gives its answers",
        "snapshots execution_time deployability_index",
    ),
    "sqlmesh.core.snapshot.definition:start_date": (
        "missing.py asks it where a model begins",
        "snapshot snapshots cache relative_to",
    ),
    "sqlmesh.core.snapshot:DeployabilityIndex.create": (
        "due.py counts a preview's intervals as `Scheduler.run` does",
        "snapshots",
    ),
    "sqlmesh.core.snapshot:DeployabilityIndex.all_deployable": ("due.py, for production", ""),
    "sqlmesh.core.state_sync:StateReader.get_environment": ("due.py reads it", "environment"),
    "sqlmesh.core.state_sync:StateReader.get_snapshots": ("due.py reads them", "snapshot_ids"),
    "sqlmesh.core.state_sync:StateReader.refresh_snapshot_intervals": (
        "due.py reads intervals with it",
        "snapshots",
    ),
    "sqlmesh.core.state_sync:StateReader.get_versions": (
        "upstream.sqlmesh.has_state tells a new state by it",
        "validate",
    ),
    "sqlmesh.core.config:Config.get_scheduler": ("upstream.sqlmesh.has_state", "gateway_name"),
    "sqlmesh.core.config:Config.get_connection": ("context.py limits tasks", "gateway_name"),
    "sqlmesh.core.config:Config.get_state_connection": ("upstream.py finds files", "gateway_name"),
    "sqlmesh.utils.cron:CroniterCache.__init__": ("manifest.py measures crons", "cron time tz"),
    "dagster:AssetsDefinition.__init__": (
        "factories.py puts assets together by hand",
        "node_def keys_by_input_name keys_by_output_name specs check_specs_by_output_name can_subset",
    ),
    "dagster:multi_asset_check": (
        "factories.py defines standalone audits with it",
        "name specs can_subset required_resource_keys op_tags",
    ),
    "dagster:DagsterInstance.get_run_step_stats": ("upstream.dagster.succeeded_steps", "run_id"),
    "dagster:DagsterInstance.add_run_tags": ("upstream.dagster.add_run_tag", "run_id new_tags"),
    "sqlmesh.core.scheduler:Scheduler.run_merged_intervals": (
        "context.py leaves out statements that another step runs",
        "environment_naming_info start end execution_time selected_models run_environment_statements",
    ),
    "sqlmesh.core.environment:execute_environment_statements": (
        "once.py runs `before_all` and `after_all` with it",
        "adapter environment_statements runtime_stage environment_naming_info default_catalog"
        " snapshots start end execution_time selected_models",
    ),
    "sqlmesh:Context.__init__": (
        "context.py opens several folders",
        "paths gateway load load_state",
    ),
    "dagster._core.storage.sqlite_storage:DagsterSqliteStorage.__init__": (
        "event_log.py overrides it",
        "base_dir inst_data",
    ),
    "dagster._core.storage.sqlite_storage:DagsterSqliteStorage.from_local": (
        "event_log.py is made with it",
        "base_dir inst_data",
    ),
    **{
        f"{_LOG}.{name}": ("event_log.py overrides or calls it", parameters)
        for name, parameters in {
            "run_connection": "run_id",
            "index_connection": "",
            "store_event": "event",
            "store_event_batch": "events",
            "has_table": "table_name",
            "has_secondary_index": "name",
            "_has_asset_key_col_on_connection": "conn column_name",
            "get_asset_records": "asset_keys",
            "_event_to_row": "event",
            "_tags_for_asset_event": "event",
            "watch": "run_id cursor callback",
            "end_watch": "run_id handler",
            "wipe": "",
            "dispose": "",
            "path_for_shard": "run_id",
            "conn_string_for_shard": "shard_name",
        }.items()
    },
    "dagster._core.storage.runs:SqliteRunStorage.has_execution_plan_snapshot": (
        "event_log.py overrides it with `has_job_snapshot`, which takes any snapshot's id",
        "execution_plan_snapshot_id",
    ),
    "dagster._core.storage.runs:SqliteRunStorage.has_job_snapshot": ("as above", "job_snapshot_id"),
    f"{_LOG}Watchdog.__init__": (
        "event_log.py overrides it",
        "event_log_storage run_id callback cursor",
    ),
    f"{_LOG}Watchdog._process_log": ("event_log.py calls it", ""),
}
"""What is called or overridden, where, and the parameters that are used by name."""

_LEADING = {
    "update_signal_progress": "snapshot signal_name signal_idx total_signals ready_intervals",
    "start_evaluation_progress": "batched_intervals",
    "update_snapshot_evaluation_progress": "snapshot interval batch_idx duration_ms",
    "log_skipped_models": "snapshot_names",
    "log_failed_models": "errors",
    "log_test_results": "result target_dialect",
    "log_warning": "short_message long_message",
    "log_error": "message",
}
"""The first parameters of each callback that console.py overrides: SQLMesh passes them by position."""


def _find(where: str) -> Callable[..., Any]:
    module, _, path = where.partition(":")
    found: Any = importlib.import_module(module)
    for name in path.split("."):
        assert hasattr(found, name), f"`{where}` is gone: {module} has no `{name}` any more."
        found = getattr(found, name)
    function: Callable[..., Any] = found
    return function


def _parameters(function: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(function).parameters)


@pytest.mark.parametrize("where", _PARAMETERS)
def test_what_is_called_by_name_still_takes_its_parameters(where: str) -> None:
    """Promise: a renamed parameter is named here, with the module that passes it."""
    used_by, names = _PARAMETERS[where]
    parameters = _parameters(_find(where))
    missing = [name for name in names.split() if name not in parameters]
    assert not missing, f"`{where}` has no {missing} any more ({used_by}); it has {parameters}."


@pytest.mark.parametrize("callback", _LEADING)
def test_the_consoles_callbacks_still_begin_with_the_same_parameters(callback: str) -> None:
    """Promise: capture never takes one argument for another."""
    expected = ["self", *_LEADING[callback].split()]
    actual = _parameters(_find(f"sqlmesh.core.console:Console.{callback}"))
    assert actual[: len(expected)] == expected, (
        f"`Console.{callback}` begins with {actual} instead of {expected} (console.py)."
    )


def test_a_batch_still_ends_with_its_execution_statistics() -> None:
    """Promise: rows and bytes are read from where SQLMesh puts them."""
    parameters = _parameters(Console.update_snapshot_evaluation_progress)
    assert "execution_stats" in parameters, "`execution_stats` has moved (console.py)."


@pytest.mark.parametrize("name", sorted(_LEADING))
def test_the_capture_takes_whatever_the_callbacks_declare(name: str) -> None:
    """Promise: a new parameter in SQLMesh does not break a run."""
    positional: list[object] = []
    keywords: dict[str, object] = {}
    for parameter in inspect.signature(getattr(Console, name)).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if parameter.default is parameter.empty:
            positional.append(object())
        else:
            keywords[parameter.name] = object()
    inspect.signature(getattr(CaptureConsole, name)).bind(*positional, **keywords)


def test_a_silent_console_has_every_method_of_a_console() -> None:
    """Promise: a callback that SQLMesh adds is silent, not missing (console.py subclasses it)."""
    missing: frozenset[str] = getattr(NoopConsole, "__abstractmethods__", frozenset())
    assert not missing, f"`NoopConsole` leaves {sorted(missing)} abstract."


def test_a_context_takes_the_console_of_the_process() -> None:
    """Promise: `set_console` reaches a new context (context.py sets it before it opens one)."""
    before, ours = get_console(), NoopConsole()
    set_console(ours)
    try:
        assert get_console() is ours
        assert "console" not in _parameters(Context.__init__)
    finally:
        set_console(before)


class _Kept(EventDispatcher):
    """Keeps the reports that SQLMesh would send."""

    def __init__(self) -> None:
        self.reports: list[dict[str, Any]] = []

    def add_event(self, event: dict[str, Any]) -> None:
        self.reports.append(event)

    def flush(self) -> None: ...

    def shutdown(self, flush: bool = True) -> None: ...


def test_use_is_reported_as_sqlmesh_does_and_costs_nothing_where_that_is_off(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise: who does not switch reports off sends them; who does, imports nothing for them."""

    @in_sqlmesh.without_usage_reports
    class Ours(Context): ...

    context = Ours(paths=str(project.root), load=False)
    monkeypatch.delitem(sys.modules, "sqlmesh.magics", raising=False)
    context.get_dag()
    assert "sqlmesh.magics" not in sys.modules
    kept = _Kept()
    monkeypatch.setattr(analytics, "collector", AnalyticsCollector(dispatcher=kept))
    context.get_dag()
    assert [json.loads(report["event"])["command_name"] for report in kept.reports] == ["get_dag"]
    context.close()


@pytest.mark.parametrize(
    ("where", "fields"),
    [
        (
            "sqlmesh.core.model.definition:AuditResult",
            "audit audit_args count query skipped blocking",
        ),
        (
            "sqlmesh.core.snapshot:SnapshotFingerprint",
            "data_hash metadata_hash parent_data_hash parent_metadata_hash",
        ),
        ("sqlmesh.core.snapshot:Snapshot", "intervals dev_intervals parents fingerprint"),
        ("sqlmesh.core.environment:Environment", "finalized_ts plan_id"),
        (
            "sqlmesh.core.config.run:RunConfig",
            "environment_check_interval environment_check_max_wait",
        ),
    ],
)
def test_the_records_that_are_read_still_have_their_fields(where: str, fields: str) -> None:
    """Promise: a field of SQLMesh's records that was renamed is named."""
    present: set[str] = set(getattr(_find(where), "model_fields", {}))
    gone = [name for name in fields.split() if name not in present]
    assert not gone, f"`{where}` has no field {gone} any more; it has {sorted(present)}."


# ---------------------------------------------------------------------------- SQLMesh's names

_USED = {
    "Audit": "",
    "BaseDuckDBConnectionConfig": "",
    "CatalogSupport": "UNSUPPORTED",
    "CompletionStatus": "__name__",
    "ConfigError": "",
    "ConnectionConfig": "",
    "Console": "plan",
    "DAG": "sorted",
    "ContextDiff": (
        "added create modified_snapshots new_snapshots removed_snapshots requirements snapshots"
    ),
    "CroniterCache": "get_next get_prev",
    "DeployabilityIndex": "all_deployable create is_deployable is_representative",
    "DuckDBAttachOptions": "",
    "DuckDBConnectionConfig": "",
    "DuckDBEngineAdapter": "catalog_support",
    "EngineAdapter": (
        "DIALECT SUPPORTS_TRANSACTIONS close columns connection create_state_table cursor "
        "default_catalog delete_from "
        "execute fetchall fetchdf fetchone get_data_object session transaction"
    ),
    "EngineAdapterStateSync": "add_interval refresh_snapshot_intervals",
    "Environment": (
        "expiration_ts finalized_ts gateway_managed name naming_info plan_id "
        "previous_finalized_snapshots previous_plan_id promoted_snapshots requirements snapshots "
        "suffix_target"
    ),
    "EnvironmentNamingInfo": "name",
    "EnvironmentStatements": "after_all before_all model_dump model_validate",
    "FormatConfig": "",
    "GatewayConfig": "",
    "IntervalUnit": "__name__",
    "Intervals": "",
    "JinjaQuery": "name",
    "Loader": "",
    "Model": "",
    "NoChangesPlanError": "",
    "Node": "",
    "NodeAuditsErrors": "",
    "NoopConsole": "plan",
    "Plan": (
        "context_diff deployability_index directly_modified effective_from end "
        "environment execution_time forward_only has_changes has_unmodified_unpromoted "
        "ignore_cron include_unmodified indirectly_modified missing_intervals "
        "modified_snapshots plan_id requires_backfill skip_backfill snapshots start "
        "uncategorized"
    ),
    "PlanBuilder": "build",
    "RuntimeStage": "EVALUATING __name__",
    "SQLMeshError": "",
    "Scheduler": "audit evaluate merged_missing_intervals run",
    "SeedModel": (
        "audits_with_args auto_restatement_cron catalog column_descriptions "
        "columns_to_types cron cron_floor cron_next cron_tz data_hash default_catalog "
        "depends_on description dialect disable_restatement end forward_only fqn gateway "
        "grains interval_unit is_model is_seed is_sql kind lookback metadata_hash name "
        "owner partitioned_by references render_query schema_name seed_path source_type "
        "start tags text_diff time_column view_name"
    ),
    "Snapshot": (
        "audit change_category copy depends_on_past dev_intervals dev_last_altered_ts "
        "disable_restatement effective_from evaluatable fingerprint forward_only "
        "get_next_auto_restatement_interval get_removal_interval identifier inclusive_exclusive intervals "
        "is_embedded is_external is_forward_only is_incremental is_incremental_unmanaged "
        "is_materialized is_materialized_view is_model is_paused is_seed is_symbolic "
        "is_view last_altered_ts missing_intervals model model_gateway name "
        "next_auto_restatement_ts node parents pending_restatement_intervals snapshot_id "
        "table_name unrestorable version"
    ),
    "SnapshotEvaluator": "audit close create demote evaluate get_adapter",
    "SnapshotFingerprint": (
        "data_hash metadata_hash parent_data_hash parent_metadata_hash to_identifier"
    ),
    "SnapshotIntervals": "name identifier version dev_version intervals last_altered_ts",
    "SnapshotNameVersion": "name version",
    "SnapshotId": "identifier name snapshot_id",
    "SnapshotToIntervals": "",
    "StandaloneAudit": (
        "audits_with_args blocking cron cron_floor cron_next cron_tz data_hash "
        "default_catalog depends_on description dialect end fqn interval_unit is_model "
        "metadata_hash name owner query skip source_type start tags text_diff"
    ),
    "StateReader": (
        "close get_environment get_environment_statements get_snapshots refresh_snapshot_intervals"
    ),
    "StateSync": (
        "close get_environment get_environment_statements get_snapshots "
        "invalidate_environment refresh_snapshot_intervals remove_intervals"
    ),
    "TimeLike": "",
    "ViewKind": (
        "is_embedded is_external is_incremental is_incremental_unmanaged is_materialized "
        "is_seed is_symbolic is_view materialized name"
    ),
    "apply_auto_restatements": "",
    "constants": "",
    "execute_environment_statements": "",
    "earliest_start_date": "",
    "expand_range": "",
    "fingerprint_from_node": "",
    "format_intervals": "",
    "identify_restatement_intervals_across_snapshot_versions": "",
    "is_date": "",
    "missing_intervals": "",
    "normalize_model_name": "",
    "now": "",
    "now_timestamp": "",
    "run_tests": "",
    "set_console": "",
    "snapshots_to_dag": "",
    "start_date": "",
    "to_datetime": "",
    "to_timestamp": "",
}
"""Each name of `upstream/internals.py`, with the members that `engine/` and `console.py` use of it."""


def test_every_name_of_sqlmesh_that_is_used_has_its_members() -> None:
    """Promise: what SQLMesh promises nobody is listed here, whole, and a member that moves is named."""
    assert sorted(_USED) == sorted(internals.__all__)
    for name, members in _USED.items():
        kind = getattr(internals, name)
        known = (
            {*dir(kind), *getattr(kind, "model_fields", {}), *vars(kind).get("__annotations__", {})}
            if members
            else set()
        )
        gone = [member for member in members.split() if member not in known]
        assert not gone, f"SQLMesh's `{name}` has no {gone} any more."


# ---------------------------------------------------------------------------- SQLMesh's behaviour


class _Heard(NoopConsole):
    """Hears the end of each batch."""

    def __init__(self) -> None:
        self.durations: list[int | None] = []
        self.failed: list[Any] = []
        self.skipped: list[set[str]] = []

    def update_snapshot_evaluation_progress(self, *args: Any, **kwargs: Any) -> None:
        self.durations.append(args[3])

    def log_failed_models(self, errors: list[Any]) -> None:
        self.failed = errors

    def log_skipped_models(self, snapshot_names: set[str]) -> None:
        self.skipped.append(snapshot_names)


class _Schedulers(Context):
    """Keeps the schedulers that it makes."""

    made: list[Scheduler]

    def create_scheduler(
        self, snapshots: Iterable[Snapshot], snapshot_evaluator: SnapshotEvaluator
    ) -> Scheduler:
        scheduler = super().create_scheduler(snapshots, snapshot_evaluator)
        self.made = [*getattr(self, "made", []), scheduler]
        return scheduler


@pytest.fixture
def heard() -> Iterator[_Heard]:
    """The console of the process, for one test."""
    before, console = get_console(), _Heard()
    set_console(console)
    yield console
    set_console(before)


def _planned(project: Project, **kwargs: Any) -> _Schedulers:
    context = _Schedulers(paths=str(project.root))
    context.plan("prod", auto_apply=True, no_prompts=True, **kwargs)
    return context


def test_runs_make_their_scheduler_with_create_scheduler(project: Project, heard: _Heard) -> None:
    """Promise: overriding `Context.create_scheduler` is enough to see every evaluation."""
    project.model("full", "SELECT 1::INT AS id")
    context = _planned(project, skip_backfill=True)
    before = len(getattr(context, "made", []))
    context.run("prod", execution_time="2025-01-10")
    after = len(context.made)
    context.close()
    assert after > before, "`Context.run` no longer goes through `Context.create_scheduler`."


_KINDS = (
    "FULL",
    "VIEW",
    "EMBEDDED",
    "INCREMENTAL_BY_TIME_RANGE (time_column day)",
    "INCREMENTAL_BY_TIME_RANGE (time_column day, lookback 2), allow_partials true",
)
_SPANS = (
    "",
    "",
    ", start '2025-01-02'",
    ", start '2025-01-05', end '2025-01-09'",
    ", start '3 days ago'",
)


def test_what_is_due_of_models_that_are_alike_is_what_sqlmesh_says_of_each() -> None:
    """Promise: `engine/missing.py` asks once for many, of crons, zones, starts, ends, kinds and spans."""
    chance = random.Random(20250110)
    for _ in range(25):
        snapshots = _snapshots_by_chance(chance, 40)
        at = datetime(2025, 1, 10, tzinfo=timezone.utc) + timedelta(
            minutes=chance.randrange(5 * 1440)
        )
        for index in (
            internals.DeployabilityIndex.all_deployable(),
            internals.DeployabilityIndex.none_deployable(),
        ):
            expected = internals.missing_intervals(
                snapshots, end=at, execution_time=at, deployability_index=index
            )
            found = missing.missing_at(snapshots, at, index)
            assert {s.name: list(spans) for s, spans in found.items()} == {
                s.name: list(spans) for s, spans in expected.items()
            }
        nodes = [s.node for s in snapshots]
        assert min(missing.next_cron(snapshots, at)) == min(node.cron_next(at) for node in nodes)


def _snapshots_by_chance(chance: random.Random, count: int) -> list[Snapshot]:
    nodes: dict[str, Any] = {}
    for number in range(count):
        cron = chance.choice(["@hourly", "@daily", "@weekly", "30 7 * * *", "*/20 * * * *"])
        zone = chance.choice([None, None, "America/Los_Angeles"])
        model = load_sql_based_model(
            parse(
                f"MODEL (name demo.m{number}, cron '{cron}', {f'cron_tz {zone!r},' if zone else ''}"
                f" kind {chance.choice(_KINDS)}{chance.choice(_SPANS)});"
                f" SELECT day::DATE AS day FROM {f'demo.m{chance.randrange(number)}' if number else 'raw.t'}"
            ),
            dialect="duckdb",
        )
        nodes[model.fqn] = model
    snapshots = [Snapshot.from_node(node, nodes=nodes) for node in nodes.values()]
    for snapshot in snapshots:
        snapshot.categorize_as(SnapshotChangeCategory.BREAKING)
        begin = datetime(2025, 1, chance.choice([2, 5]), tzinfo=timezone.utc)
        end = datetime(2025, 1, chance.choice([8, 10]), chance.choice([0, 7]), tzinfo=timezone.utc)
        if chance.random() < 0.8 and not snapshot.is_symbolic:
            snapshot.add_interval(begin, end, is_dev=chance.random() < 0.3)
    return snapshots


def test_a_run_of_selected_models_builds_those_alone(project: Project, heard: _Heard) -> None:
    """Promise: `selected_snapshots` takes FQNs, and neither parents nor children."""
    project.model("top", "SELECT 1::INT AS id")
    project.model("middle", "SELECT id FROM demo.top")
    project.model("bottom", "SELECT id FROM demo.middle")
    context = _planned(project, skip_backfill=True)
    context.scheduler("prod").run(
        "prod",
        execution_time="2025-01-10",
        selected_snapshots={'"warehouse"."demo"."middle"'},
    )
    context.close()
    assert len(heard.durations) == 1, "`Scheduler.run` built more or less than the selected model."


def test_an_evaluator_returns_what_each_audit_found(project: Project, heard: _Heard) -> None:
    """Promise: `SnapshotEvaluator.audit` says of each audit what console.py reads."""
    project.model(
        "bad",
        "SELECT NULL::INT AS id",
        "kind FULL, audits (not_null(columns := (id), blocking := false),"
        " number_of_rows(threshold := 0))",
    )
    context = _planned(project)
    found: list[Any] = []
    evaluator = context.snapshot_evaluator
    in_sqlmesh.on_audit(
        evaluator, lambda snapshot, results, span: found.append((snapshot, results))
    )
    (snapshot,) = context.snapshots.values()
    stored = context.state_reader.get_snapshots([snapshot.snapshot_id])[snapshot.snapshot_id]
    evaluator.audit(snapshot=stored, snapshots={}, execution_time="2025-01-10")
    context.close()
    ((told, (first, second)),) = found
    assert told.name == snapshot.name
    assert (first.audit.name, first.count, first.blocking) == ("not_null", 1, False)
    assert (second.audit.name, second.count, second.skipped) == ("number_of_rows", 0, False)
    assert "columns" in first.audit_args
    assert first.query is not None


def test_a_view_is_audited_and_not_created(project: Project) -> None:
    """Promise: `upstream.sqlmesh.leave_as_it_is` keeps a run from creating what it names."""
    project.execute("CREATE TABLE main.source AS SELECT 1 AS id")
    project.model("seen", "SELECT id::INT AS id FROM main.source", "kind VIEW")
    context = _planned(project)
    (name,) = (name for name, s in context.snapshots.items() if s.is_model and not s.is_external)
    stored = context.state_reader.get_snapshots([context.snapshots[name].snapshot_id])
    (snapshot,) = stored.values()
    table = snapshot.table_name()
    evaluator = context.snapshot_evaluator
    in_sqlmesh.leave_as_it_is(evaluator, [name])
    context.engine_adapter.drop_view(table)
    evaluator.evaluate(
        snapshot, start="2025-01-01", end="2025-01-09", execution_time="2025-01-10", snapshots={}
    )
    assert not context.engine_adapter.table_exists(table)
    context.close()


def test_a_blocking_audit_raises_the_errors_of_a_node(project: Project, heard: _Heard) -> None:
    """Promise: a blocking failure is a `NodeAuditsErrors` under the error of its node."""
    project.model("bad", "SELECT NULL::INT AS id", "kind FULL, audits (not_null(columns := (id)))")
    project.model("below", "SELECT id FROM demo.bad")
    context = _planned(project, skip_backfill=True)
    context.run("prod", execution_time="2025-01-10")
    context.close()
    (error,) = heard.failed
    assert error.node.snapshot_name == '"warehouse"."demo"."bad"'
    assert isinstance(error.__cause__, NodeAuditsErrors)
    assert error.__cause__.errors[0].audit_name == "not_null"
    assert heard.durations == [None], "a failed batch no longer ends with a duration of None."
    assert heard.skipped == [{'"warehouse"."demo"."below"'}]


def test_a_batch_is_evaluated_and_recorded_without_a_transaction(
    project: Project, heard: _Heard
) -> None:
    """`execution/appending.py` adds one; without it, rows of a batch that fails are appended again."""
    assert DuckDBEngineAdapter.SUPPORTS_TRANSACTIONS is False
    project.write("audits/no_day.sql", "AUDIT (name no_day); SELECT 1 FROM main.refused;")
    project.model(
        "appended", "SELECT @start_ds::DATE AS day", "kind INCREMENTAL_UNMANAGED, audits (no_day)"
    )
    project.execute("CREATE TABLE main.refused (day DATE)")
    context = _planned(project, execution_time="2025-01-10")
    context.close()
    project.execute("INSERT INTO main.refused VALUES (NULL)")
    for _ in range(2):
        context.run("prod", execution_time="2025-01-11")
        context.close()
    assert project.query("SELECT count(*) FROM demo.appended") == [(3,)]


def test_the_record_of_what_is_built_has_an_entry_for_each_batch(
    project: Project, heard: _Heard
) -> None:
    """Promise: `upstream.sqlmesh.interval_entries` reads what each batch and each restatement has written."""
    project.model(
        "daily",
        "SELECT @start_ds::DATE AS day",
        "kind INCREMENTAL_BY_TIME_RANGE (time_column day, batch_size 5), start '2025-01-01'",
    )
    context = _planned(project, execution_time="2025-01-11")
    (snapshot,) = context.snapshots.values()
    began = datetime.now(timezone.utc) - timedelta(hours=1)
    context.state_sync.remove_intervals([(snapshot, (0, 86_400_000))])
    found = in_sqlmesh.interval_entries(context, began)
    later = in_sqlmesh.interval_entries(context, began + timedelta(days=1))
    context.close()
    days = [(start // 86_400_000, end // 86_400_000) for _, _, _, start, end, *_ in found]
    assert sorted(days) == [(0, 1), (20089, 20094), (20094, 20099)] and later == []
    assert {entry[:3] for entry in found} == {(snapshot.name, snapshot.version, False)}
    assert sorted(entry[6:] for entry in found) == [(False, False)] * 2 + [(True, False)]


def test_the_mark_of_the_record_moves_with_each_change_of_it(
    project: Project, heard: _Heard
) -> None:
    """Promise: `upstream.sqlmesh.intervals_mark` differs after a build, a removal and SQLMesh's compaction."""
    project.model(
        "daily",
        "SELECT @start_ds::DATE AS day",
        "kind INCREMENTAL_BY_TIME_RANGE (time_column day), start '2025-01-01'",
    )
    context = _planned(project, execution_time="2025-01-08")
    (snapshot,) = context.snapshots.values()
    state = context.state_sync
    marks = [in_sqlmesh.intervals_mark(state), in_sqlmesh.intervals_mark(state)]
    for change in (
        lambda: context.run("prod", execution_time="2025-01-11"),
        lambda: state.remove_intervals([(snapshot, (0, 86_400_000))]),
        lambda: state.compact_intervals(),
    ):
        change()
        marks.append(in_sqlmesh.intervals_mark(state))
    context.close()
    assert len(set(marks)) == len(marks) - 1 and marks[0] == marks[1]


def test_a_plan_that_fails_raises_sqlmeshs_error(project: Project, heard: _Heard) -> None:
    """Promise: deployment.py knows a failed deployment by `SQLMeshError`."""
    project.model("bad", "SELECT error('boom')::TEXT AS id")
    with pytest.raises(SQLMeshError):
        _planned(project).close()


def test_an_environment_says_when_it_was_finalized(project: Project, heard: _Heard) -> None:
    """Promise: due.py and deployment.py recognize a plan in progress by these attributes."""
    project.model("full", "SELECT 1::INT AS id")
    context = _planned(project)
    environment = context.state_reader.get_environment("prod")
    context.close()
    assert environment is not None
    assert environment.finalized_ts
    assert environment.plan_id
    (entry,) = environment.snapshots
    assert entry.name == '"warehouse"."demo"."full"'
    assert entry.fingerprint.data_hash


def test_a_model_knows_its_file(project: Project) -> None:
    """Promise: `Model._path` is the file that `upstream.sqlmesh.model_path` shows."""
    project.model("full", "SELECT 1::INT AS id")
    context = Context(paths=str(project.root))
    (model,) = context.models.values()
    context.close()
    assert in_sqlmesh.model_path(model) == project.root / "models" / "demo_46_full.sql"


def test_a_context_keeps_its_adapter_where_it_is_looked_for(project: Project) -> None:
    """Promise: `upstream.sqlmesh.opened_adapter` sees an adapter only once it was used, and makes none."""
    context = Context(paths=str(project.root))
    assert in_sqlmesh.opened_adapter(context) is None
    adapter = context.engine_adapter
    assert in_sqlmesh.opened_adapter(context) is adapter
    context.close()


def test_a_state_is_looked_at_without_being_made(project: Project) -> None:
    """Promise: `upstream.sqlmesh.has_state` creates neither a file nor a table."""
    context = Context(paths=str(project.root), load=False)
    assert not in_sqlmesh.has_state(context)
    context.close()
    assert not project.database.exists()
    project.execute("CREATE TABLE main.mine AS SELECT 1 AS id")
    context = Context(paths=str(project.root), load=False)
    assert not in_sqlmesh.has_state(context)
    context.close()
    assert project.query("SELECT table_name FROM duckdb_tables()") == [("mine",)]


def test_a_deployed_state_is_found(project: Project, heard: _Heard) -> None:
    """Promise: `upstream.sqlmesh.has_state` sees what a plan wrote."""
    project.model("full", "SELECT 1::INT AS id")
    _planned(project).close()
    context = Context(paths=str(project.root), load=False)
    assert in_sqlmesh.has_state(context)
    assert context.state_reader.get_environment("prod") is not None
    context.close()


def test_a_state_is_read_without_being_writable_and_written_at_once(
    project: Project, heard: _Heard
) -> None:
    """Promise: `upstream.sqlmesh.only_read` and `in_one_transaction`, which `poe move` leans on."""
    project.model("full", "SELECT 1::INT AS id")
    _planned(project).close()
    context = Context(paths=str(project.root), load=False)
    with in_sqlmesh.only_read(context):
        assert in_sqlmesh.has_state(context)
        with pytest.raises(duckdb.InvalidInputException, match="read-only"):
            context.engine_adapter.execute("CREATE TABLE demo.mine AS SELECT 1 AS id")
    context.close()
    context = Context(paths=str(project.root), load=False)
    state = context.state_sync
    with pytest.raises(ZeroDivisionError), in_sqlmesh.in_one_transaction(state):
        state.invalidate_environment("prod", protect_prod=False)
        raise ZeroDivisionError
    context.close()
    assert project.query("SELECT count(*) FROM sqlmesh._environments WHERE name = 'prod'") == [(1,)]


def test_the_files_of_a_duckdb_connection_are_known(tmp_path: Path) -> None:
    """Promise: `upstream.sqlmesh.duckdb_files` finds the database and attached catalogs, and only files."""
    one, two = tmp_path / "one.duckdb", tmp_path / "two.duckdb"
    assert in_sqlmesh.duckdb_files(DuckDBConnectionConfig(database=str(one))) == [one]
    second = DuckDBAttachOptions(type="duckdb", path=str(two))
    attached = DuckDBConnectionConfig(catalogs={"a": str(one), "b": second})
    assert in_sqlmesh.duckdb_files(attached) == [one, two]
    assert in_sqlmesh.duckdb_files(DuckDBConnectionConfig()) == []
    assert in_sqlmesh.duckdb_files(DuckDBConnectionConfig(database=":memory:")) == []


@pytest.mark.parametrize(
    ("connections", "is_beside"),
    [
        ("connection: {type: duckdb, database: a.duckdb}", True),
        ("connection: {type: duckdb, catalogs: {a: a.duckdb}}", True),
        ("connection: {type: duckdb, catalogs: {a: a.duckdb, b: ':memory:'}}", False),
        ("connection: {type: duckdb}", False),
        (
            "connection: {type: duckdb, database: a.duckdb},"
            " state_connection: {type: duckdb, database: s.duckdb}",
            False,
        ),
    ],
)
def test_a_state_beside_the_data_is_known(
    project: Project, connections: str, is_beside: bool
) -> None:
    """`execution/appending.py` opens a transaction there: DuckDB writes to one database in it."""
    project.write(
        "config.yaml", f"gateways: {{g: {{{connections}}}}}\nmodel_defaults: {{dialect: duckdb}}"
    )
    context = Context(paths=str(project.root))
    assert in_sqlmesh.has_state_beside_data(context) is is_beside


def test_statements_of_a_context_are_those_that_its_plan_records(project: Project) -> None:
    """Promise: what `before_all` and `after_all` of the files are can be compared with the state."""
    config = (project.root / "config.yaml").read_text()
    project.write("config.yaml", f"{config}after_all:\n  - SELECT 1\n")
    project.model("m", "SELECT 1::INT AS id")
    context = Context(paths=str(project.root))
    context.plan("dev", auto_apply=True, no_prompts=True)
    loaded = in_sqlmesh.loaded_statements(context)
    assert loaded == context.state_reader.get_environment_statements("dev")
    assert loaded[0].after_all == ["SELECT 1"] and len(loaded[0].before_all) == 2
    context.close()


def test_an_interval_that_ends_before_it_begins_is_none() -> None:
    """upstream.corrected: once SQLMesh finds none itself, take `_without_reversed_intervals` out."""
    from sqlmesh.core.snapshot import definition

    in_corrected.correct_sqlmesh()
    in_corrected.correct_sqlmesh()
    weekly = "MODEL (name m, kind FULL, cron '@weekly', start '2025-01-08'); SELECT 1 AS id"
    snapshot = Snapshot.from_node(load_sql_based_model(parse(weekly)), nodes={})
    snapshot.categorize_as(SnapshotChangeCategory.BREAKING)
    first, before = (
        int(datetime(2025, 1, d, tzinfo=timezone.utc).timestamp()) * 1000 for d in (8, 5)
    )
    arguments = (snapshot.node.interval_unit, (), first, before, 0, None)
    corrected: Any = definition.compute_missing_intervals
    assert corrected.__wrapped__(*arguments) == [(first, before)] and corrected(*arguments) == []
    assert internals.missing_intervals([snapshot], execution_time="2025-01-10") == {}
    found = internals.missing_intervals([snapshot], execution_time="2025-01-13")
    assert [spans[0][0] for spans in found.values()] == [first]


def test_a_materialized_view_is_one_where_the_engine_has_them() -> None:
    """upstream.corrected: on Postgres it is no other view, and must not be dropped to be built again."""
    from sqlmesh.core import engine_adapter
    from sqlmesh.core.snapshot.evaluator import ViewStrategy

    in_corrected.correct_sqlmesh()
    view = "MODEL (name m, kind VIEW (materialized true)); SELECT 1 AS id"
    model = load_sql_based_model(parse(view))
    for engine, is_one in (("Postgres", False), ("Snowflake", True)):
        adapter = getattr(engine_adapter, f"{engine}EngineAdapter")
        strategy: Any = ViewStrategy(adapter(lambda: None))
        assert strategy._is_materialized_view(model) is is_one
        assert strategy._is_materialized_view.__wrapped__(strategy, model)


def test_loading_in_one_process_is_a_constant() -> None:
    """Promise: SQLMesh reads `constants.MAX_FORK_WORKERS` each time that it loads a project."""
    from sqlmesh.core import constants

    before = constants.MAX_FORK_WORKERS
    with in_sqlmesh.without_forks():
        assert constants.MAX_FORK_WORKERS == 1
    assert before == constants.MAX_FORK_WORKERS
    for module in ("sqlmesh.core.loader", "sqlmesh.core.model.cache"):
        names = vars(importlib.import_module(module))
        assert "MAX_FORK_WORKERS" not in names, f"`{module}` now copies MAX_FORK_WORKERS."


def test_a_config_is_read_without_a_moment_of_no_environment(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """upstream.sqlmesh.environment_kept: what SQLMesh's own `env_vars` does in the end, without emptying all of it."""
    monkeypatch.setenv("KEPT", "as it was")
    project.write(".env", "OF_DOTENV=1\n")
    emptied: list[bool] = []
    monkeypatch.setattr(type(os.environ), "clear", lambda environ: emptied.append(True))
    with in_sqlmesh.environment_kept():
        load_configs(None, Config, [project.root])
        assert os.environ.pop("OF_DOTENV") == "1"
        with vars(config_loader)["env_vars"]({"KEPT": "changed", "NEW": "x"}):
            assert (os.environ["KEPT"], os.environ["NEW"]) == ("changed", "x")
            os.environ["LATER"] = "x"
        assert not {"NEW", "LATER"} & os.environ.keys() and os.environ["KEPT"] == "as it was"
    assert not emptied
    load_configs(None, Config, [project.root])
    del os.environ["OF_DOTENV"]
    assert emptied, "SQLMesh empties the environment no more: `environment_kept` can go."


def test_a_running_duckdb_query_can_be_interrupted() -> None:
    """Promise: `Interrupter` ends a query of another thread with DuckDB's own exception."""
    cursor = duckdb.connect().cursor()
    stopper = threading.Timer(0.5, Interrupter(cursor))
    stopper.start()
    with pytest.raises(duckdb.InterruptException):
        cursor.execute("SELECT count(*) FROM range(100000000) AS a, range(100000) AS b")
    stopper.join()


@pytest.mark.parametrize(
    ("module", "kind", "members"),
    [
        ("psycopg2.extensions", "connection", "cancel"),
        ("pymysql.connections", "Connection", "thread_id"),
        ("snowflake.connector", "SnowflakeConnection", "session_id cursor"),
        ("databricks.sql.client", "Cursor", "cancel"),
        ("trino.dbapi", "Cursor", "cancel"),
        ("google.cloud.bigquery", "QueryJob", "cancel done"),
    ],
)
def test_a_driver_still_has_what_ends_its_queries(module: str, kind: str, members: str) -> None:
    """Promise: `upstream.interrupting` finds it, where the driver is installed."""
    found = getattr(pytest.importorskip(module), kind)
    assert [name for name in members.split() if not hasattr(found, name)] == []


def test_the_jobs_of_each_thread_are_with_the_connection_pool(tmp_path: Path) -> None:
    """Promise: where SQLMesh keeps BigQuery's last job of each thread, `Interrupter` finds and cancels it."""

    class Job:
        is_cancelled = False

        def done(self) -> bool:
            return self.is_cancelled

        def cancel(self) -> None:
            self.is_cancelled = True

    class Cursor:
        """As BigQuery's, whose queries are not its own."""

    Cursor.__module__ = "google.cloud.bigquery.dbapi.cursor"
    adapter = DuckDBConnectionConfig().create_engine_adapter()
    adapter.cursor  # noqa: B018
    job = Job()
    adapter._connection_pool.set_attribute("query_job", job)
    interrupter = Interrupter(Cursor(), adapter)
    interrupter()
    deadline = time.monotonic() + 30
    while not job.is_cancelled and time.monotonic() < deadline:
        time.sleep(0.01)
    assert job.is_cancelled and interrupter.is_able
    adapter.close()


def test_a_driver_without_a_way_is_known_as_one() -> None:
    """Promise: a run that is stopped then does not say that queries are interrupted."""
    assert not Interrupter(object()).is_able
    Interrupter(object())()


# ---------------------------------------------------------------------------- Dagster's behaviour


def test_an_output_without_materialization_lets_downstream_run(
    instance: dg.DagsterInstance,
) -> None:
    """Promise: the metadata key still suppresses the materialization, and nothing else."""

    @dg.multi_asset(specs=[dg.AssetSpec("up")])
    def up(context: dg.OpExecutionContext) -> Iterator[Any]:
        yield in_dagster.output_without_materialization(
            context.output_for_asset_key(dg.AssetKey("up"))
        )

    @dg.asset(deps=["up"])
    def down() -> None:
        return None

    result = dg.materialize([up, down], instance=instance)
    assert result.success
    materialized = [event.asset_key for event in result.get_asset_materialization_events()]
    assert materialized == [dg.AssetKey("down")], (
        "SYSTEM_METADATA_KEY_SOURCE_ASSET_OBSERVATION no longer suppresses a materialization."
    )


def test_a_step_sees_the_plan_of_its_whole_run(instance: dg.DagsterInstance) -> None:
    """Promise: `upstream.dagster.run_plan` knows every selected asset, its step and what it waits for."""
    seen: list[in_dagster.RunPlan] = []

    @dg.multi_asset(specs=[dg.AssetSpec("a")])
    def first(context: dg.OpExecutionContext) -> Iterator[Any]:
        seen.append(in_dagster.run_plan(context))
        yield dg.MaterializeResult(asset_key="a")

    @dg.asset(deps=["a"])
    def b() -> None:
        return None

    @dg.asset(deps=["b"])
    def unselected() -> None:
        return None

    dg.materialize([first, b, unselected], selection=["a", "b"], instance=instance)
    (plan,) = seen
    assert plan.own_step == "first"
    assert plan.upstream == {"first": frozenset(), "b": frozenset({"first"})}
    assert plan.assets == {dg.AssetKey("a"): "first", dg.AssetKey("b"): "b"}


def test_the_steps_that_have_succeeded_are_known_while_the_run_goes_on(
    instance: dg.DagsterInstance,
) -> None:
    """Promise: `succeeded_steps` holds finished steps, and no failed or running one; `failed_steps` these."""
    seen: list[frozenset[str]] = []

    @dg.asset
    def done() -> None:
        return None

    @dg.asset
    def broken() -> None:
        raise ValueError

    @dg.asset(deps=["done"])
    def last(context: dg.AssetExecutionContext) -> None:
        seen.append(in_dagster.succeeded_steps(context.instance, context.run_id))
        seen.append(in_dagster.failed_steps(context.instance, context.run_id))

    dg.materialize([done, broken, last], instance=instance, raise_on_error=False)
    assert seen == [frozenset({"done"}), frozenset({"broken"})]


class _Connects(SqliteEventLogStorage):
    """Notes which connections it is asked for."""

    def __init__(self, base_dir: str) -> None:
        self.asked: list[str] = []
        super().__init__(base_dir)

    def run_connection(self, run_id: str | None = None) -> Any:
        self.asked.append(str(run_id))
        return super().run_connection(run_id)

    def index_connection(self) -> Any:
        self.asked.append(INDEX_SHARD_NAME)
        return super().index_connection()


def test_the_event_log_connects_where_event_log_py_overrides_it(tmp_path: Path) -> None:
    """Promise: each record goes through `run_connection` and `index_connection`, and nowhere else."""
    storage = _Connects(str(tmp_path))
    storage.asked.clear()
    with dg.DagsterInstance.ephemeral() as instance:
        instance.report_runless_asset_event(dg.AssetMaterialization("table"))
        records = instance.fetch_materializations(dg.AssetKey("table"), limit=1).records
    storage.store_event(records[0].event_log_entry)
    assert set(storage.asked) == {RUNLESS_RUN_ID, INDEX_SHARD_NAME}, (
        f"`SqliteEventLogStorage.store_event` used {storage.asked} (event_log.py)."
    )
    storage.dispose()


def _entries() -> list[dg.EventLogEntry]:
    """What a run with assets, checks and partitions logs, and what is reported without a run."""
    days = dg.StaticPartitionsDefinition(["a", "b"])

    @dg.asset(check_specs=[dg.AssetCheckSpec("fine", asset="table")])
    def table(context: dg.AssetExecutionContext) -> Iterator[Any]:
        context.log.info("a message")
        yield dg.MaterializeResult(metadata={"rows": 3}, tags={"of": "mine"})
        yield dg.AssetCheckResult(passed=False, severity=dg.AssetCheckSeverity.WARN)
        yield dg.AssetCheckEvaluation(
            asset_key=dg.AssetKey("other"), check_name="not planned", passed=True, metadata={}
        )
        yield dg.AssetObservation("seen", tags={"dagster/data_version": "1"})

    @dg.asset(partitions_def=days)
    def parted() -> None: ...

    @dg.asset(deps=[table])
    def broken() -> None:
        raise ValueError

    found: list[dg.EventLogEntry] = []
    with dg.DagsterInstance.ephemeral() as instance:
        for turn in range(2):
            run = dg.materialize([table, broken], instance=instance, raise_on_error=False)
            found += instance.all_logs(run.run_id)
            ran = dg.materialize([parted], instance=instance, partition_key="ab"[turn])
            found += instance.all_logs(ran.run_id)
        for event in (
            dg.AssetMaterialization("parted", partition="a"),
            dg.AssetObservation("seen"),
            dg.AssetCheckEvaluation(
                asset_key=dg.AssetKey("table"), check_name="fine", passed=True, metadata={}
            ),
        ):
            instance.report_runless_asset_event(event)
        found += instance.all_logs("")
    return found


_OF_THE_MOMENT = {
    "id",
    "create_timestamp",
    "migration_completed",
    "wipe_timestamp",
    "asset_details",
}


def _all_rows(folder: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table of a log's files."""
    found = {}
    for path in sorted(folder.glob("*.db")):
        with closing(sqlite3.connect(path)) as connection:
            tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            schema = connection.execute("SELECT type, name, sql FROM sqlite_master")
            found[path.name] = [*schema.fetchall(), *connection.execute("PRAGMA journal_mode")]
            for (table,) in tables.fetchall():
                columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
                kept = ", ".join(f"`{c}`" for c in columns if c not in _OF_THE_MOMENT)
                rows = connection.execute(f"SELECT {kept or '1'} FROM {table}").fetchall()
                found[f"{path.name} {table}"] = sorted(rows, key=str)
    return found


def test_events_are_written_as_dagster_writes_them(tmp_path: Path) -> None:
    """Promise: row by row, in each table of each file, though the statements are not Dagster's."""
    assert in_rows.changed_methods({**in_rows.REPRODUCED, **MADE_WITH}) == (), (
        "Dagster's storage has changed, so that its own code is used, which is slower: compare these"
        " methods with event_rows.py and event_log.py, then write their digests there anew."
    )
    assert knows_migrations(), (
        "Dagster has other migrations, so that files are made by it, which is slower: write the newest"
        " and the digest into event_log.py."
    )
    entries = _entries()
    kinds = {entry.dagster_event_type for entry in entries if entry.is_dagster_event}
    assert {*in_rows._FOLLOWING} <= kinds
    assert all(in_rows.is_known(entry) for entry in entries)
    assert {*ASSET_EVENTS, *ASSET_CHECK_EVENTS} == {
        *in_rows._FOLLOWING,
        *in_rows._LEFT_TO_DAGSTER,
    }
    logs = (SqliteEventLogStorage(str(tmp_path / "0")), PooledSqliteEventLog(str(tmp_path / "1")))
    for log in logs:
        for entry in entries:
            log.store_event(entry)
        log.wipe_asset(dg.AssetKey("other"))
    planned = dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED
    keys = [dg.AssetKey(name) for name in ("table", "parted", "seen", "broken", "other", "none")]
    for asked in (keys, keys[:2], [], None):
        assert logs[1].get_asset_records(asked) == logs[0].get_asset_records(asked)
    later = time.time() + 60
    of_table = [e for e in entries if e.dagster_event and e.dagster_event.asset_key == keys[0]]
    for log in logs:
        log.wipe_asset(keys[0])  # planned again, it is there, and has no materialization
        again = next(e for e in of_table if e.dagster_event_type is planned)
        log.store_event(again._replace(timestamp=later))
        assert [r.asset_entry.last_materialization for r in log.get_asset_records(keys[:1])] == [
            None
        ]
        log.dispose()
    assert _all_rows(tmp_path / "1") == _all_rows(tmp_path / "0")


def test_the_event_log_knows_which_files_it_has_initialized(tmp_path: Path) -> None:
    """Promise: using a shard creates its file, and `_initialized_dbs` says so (event_log.py)."""
    storage = SqliteEventLogStorage(str(tmp_path))
    with storage.run_connection("some_run"):
        assert Path(storage.path_for_shard("some_run")).exists()
    assert "some_run" in storage._initialized_dbs
    storage.dispose()


def test_the_pooled_storage_uses_the_files_of_the_default_one(tmp_path: Path) -> None:
    """Promise: without its block in `dagster.yaml`, Dagster finds the same log."""
    ours, default = (
        kind.from_local(str(tmp_path)) for kind in (PooledSqliteStorage, DagsterSqliteStorage)
    )
    logs = [storage.event_log_storage for storage in (ours, default)]
    paths = {log.path_for_shard("x") for log in logs if isinstance(log, SqliteEventLogStorage)}
    assert len(paths) == 1
    assert isinstance(logs[0], PooledSqliteEventLog), (
        "`DagsterSqliteStorage` no longer keeps its log in `_event_log_storage` (event_log.py)."
    )
    again = PooledSqliteStorage.from_local(str(tmp_path))  # what is there, it opens by itself
    for name in ("run_storage", "schedule_storage"):
        texts = [getattr(each, name)._conn_string for each in (again, default)]
        assert texts[0] == texts[1], f"Dagster's {name} has another file (event_log.py)."
    again.dispose()
    ours.dispose()
    default.dispose()


def test_what_is_recorded_together_is_as_what_a_step_yields(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise: the same events, of the same step and run, whether a storage takes batches or not."""
    days = dg.StaticPartitionsDefinition([f"d{number}" for number in range(7)])
    together: list[bool] = []

    @dg.multi_asset(specs=[dg.AssetSpec("parted", partitions_def=days)], can_subset=True)
    def parted(context: dg.OpExecutionContext) -> Iterator[dg.AssetMaterialization]:
        keys = days.get_partition_keys()
        built = [(key, (number * 1000, number * 1000 + 500)) for number, key in enumerate(keys)]
        if together[-1]:
            in_dagster.report_together(context, _made, built[:-1])
        yield from (_made(*each) for each in (built[-1:] if together[-1] else built))

    seen = []
    for size, is_so in (("0", False), ("0", True), ("4", True)):
        together.append(is_so)
        monkeypatch.setenv("DAGSTER_EVENT_BATCH_SIZE", size)
        run = dg.materialize([parted], instance=instance, partition_key="d6")
        kind = dg.DagsterEventType.ASSET_MATERIALIZATION
        events = [entry.dagster_event for entry in instance.all_logs(run.run_id, of_type=kind)]
        assert {(e.logging_tags or {}).get("run_id") for e in events if e} == {run.run_id}
        seen.append([e._replace(logging_tags=None) for e in events if e])
    assert [a == b == c for a, b, c in zip(*seen, strict=True)] == [True] * 7
    assert len(seen[0]) == len(instance.get_materialized_partitions(dg.AssetKey("parted"))) == 7


def test_what_is_reported_together_is_as_dagster_reports_it_without_a_run(tmp_path: Path) -> None:
    """Promise: the same events, whether a storage takes them as one text or not."""
    built = [(f"p{number}", (number * 1000, number * 1000 + 500)) for number in range(5)]
    seen = []
    for place, kind in enumerate((DagsterSqliteStorage, PooledSqliteStorage, PooledSqliteStorage)):
        home = tmp_path / str(place)
        home.mkdir()
        storage = {"module": kind.__module__, "class": kind.__name__}
        with dg.instance_for_test(
            temp_dir=str(home),
            overrides={"storage": {"custom": {**storage, "config": {"base_dir": str(home)}}}},
        ) as instance:
            if place < 2:
                in_dagster.report_outside_together(instance, _made, built)
            else:
                for each in built:
                    instance.report_runless_asset_event(_made(*each))
            entries = instance.all_logs(RUNLESS_RUN_ID)
            assert instance.get_materialized_partitions(dg.AssetKey("parted")) == dict(built).keys()
        seen.append([entry._replace(timestamp=0.0) for entry in entries])
    assert [a == b == c for a, b, c in zip(*seen, strict=True)] == [True] * 5


def _made(key: str, time: tuple[int, int]) -> dg.AssetMaterialization:
    begin = dg.MetadataValue.timestamp(time[0] / 1000)
    metadata: dict[str, Any] = {"begin": begin, "end": time[1] / 1000, "said": 'ü "quoted"'}
    tags = {"dagster/data_version": "7", "other": "x"}
    return dg.AssetMaterialization("parted", partition=key, metadata=metadata, tags=tags)


def _entry_of(
    key: str, time: tuple[int, int], tags: Callable[[str], dict[str, str]] = lambda key: {}
) -> dg.EventLogEntry:
    made = _made(key, time)
    event = dg.DagsterEvent(
        dg.DagsterEventType.ASSET_MATERIALIZATION.value,
        "job",
        event_specific_data=StepMaterializationData(
            made._replace(tags={**(made.tags or {}), **tags(key)})
        ),
        logging_tags={"run_id": "run"},
    )
    return dg.EventLogEntry(  # type: ignore[no-untyped-call]
        None, 10, "", "run", 1736467200.25, "step", "job", event
    )


def test_alike_events_leave_the_rows_that_dagster_leaves_for_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise: of every table, in both files, whatever the keys; and few statements for many of them."""
    keys = [f"2025-01-{number:04}" for number in range(2500)] + ['a "quoted" \\ ü']
    built = [(key, (n * 3_600_000, n * 3_600_000 + 1500)) for n, key in enumerate(keys)]
    found = in_alike.alike(_entry_of, built)
    assert found is not None
    ours = PooledSqliteStorage.from_local(str(tmp_path / "0")).event_log_storage
    stock = DagsterSqliteStorage.from_local(str(tmp_path / "1")).event_log_storage
    assert isinstance(ours, PooledSqliteEventLog) and isinstance(ours, in_alike.StoresAlike)
    serialized: list[object] = []
    monkeypatch.setattr(SqlEventLogStorage, "_event_to_row", _counting(serialized))
    assert ours.store_alike(found)
    assert len(serialized) == 1, "an event of the range is serialized again"
    monkeypatch.undo()
    few = [*built[:3], *built[-1:]]
    again = in_alike.alike(_entry_of, few)
    assert again is not None
    for log in (ours, stock):
        log.wipe()
    assert ours.store_alike(again)
    for each in few:
        stock.store_event(_entry_of(*each))
    for log in (ours, stock):
        log.dispose()
    rows = [_all_rows(tmp_path / name / "history" / "runs") for name in "01"]
    assert rows[0]["index.db event_logs"] and sorted(rows[0]) == sorted(rows[1])
    assert [name for name, found in rows[0].items() if found != rows[1][name]] == []


def _counting(seen: list[object]) -> Callable[..., Any]:
    original = SqlEventLogStorage._event_to_row

    def count(self: SqlEventLogStorage, event: dg.EventLogEntry) -> Any:
        seen.append(event)
        return original(self, event)

    return count


def test_events_that_differ_in_more_are_stored_one_by_one() -> None:
    """Promise: the first and the last tell; what is stored is what Dagster serializes, or nothing."""
    built = [("a", (0, 1000)), ("b", (1000, 2000))]

    def differing(key: str, time: tuple[int, int]) -> dg.EventLogEntry:
        return _entry_of(key, time, lambda key: {key: "x"})

    def longer(key: str, time: tuple[int, int]) -> dg.EventLogEntry:
        return _entry_of(key, time, lambda key: {"n": str(len(key))})

    found = in_alike.alike(differing, built)
    assert found is None or [text for _, text in found.texts(0, 2)] == [
        serialize_value(differing(*each)) for each in built
    ]
    assert in_alike.alike(longer, built) is None


def test_the_words_that_dagster_reserves_are_known() -> None:
    """Promise: `names.op_name` never gives a name that Dagster refuses."""
    refused = {name for name in DISALLOWED_NAMES if op_name([name]) == name}
    assert not refused, f"Dagster now reserves {sorted(refused)}: add them to definition/names.py."


def test_nothing_is_interrupted_unless_asked() -> None:
    """Promise: `upstream.dagster.is_interrupted` reads Dagster's flag, and it is down by default."""
    assert not in_dagster.is_interrupted()


def test_an_asset_job_is_what_define_asset_job_returns() -> None:
    """Promise: `upstream.dagster.AssetJob` is the type of Dagster's asset jobs."""
    assert isinstance(dg.define_asset_job("any"), in_dagster.AssetJob)


@pytest.mark.parametrize("name", ["dev", "Dev", "my-Env", "PR 12", "x.y", "PROD", "ü", "a/b", "__"])
def test_environment_names_are_read_as_sqlmesh_reads_them(name: str) -> None:
    """Promise: `execution/settings.py` names the environment that SQLMesh runs."""
    assert environment_name(name) == Environment.sanitize_name(name)


def _by_hour_and_day(kind: type[dg.AssetsDefinition]) -> dg.Definitions:
    """Two assets with different partitions, of which one reads the other."""
    partitions: dict[str, dg.PartitionsDefinition[str]] = {
        "hours": dg.HourlyPartitionsDefinition(start_date="2025-01-01-00:00"),
        "days": dg.DailyPartitionsDefinition(start_date="2025-01-01"),
    }

    def asset(name: str, upstream: str | None) -> dg.AssetsDefinition:
        spec = dg.AssetSpec(
            name, partitions_def=partitions[name], deps=[upstream] if upstream else []
        )

        @dg.op(name=name, ins={"above": dg.In(dg.Nothing)} if upstream else {})
        def build() -> dg.MaterializeResult[None]:
            return dg.MaterializeResult()

        return kind(
            node_def=build,
            keys_by_input_name={"above": dg.AssetKey(upstream)} if upstream else {},
            keys_by_output_name={"result": spec.key},
            specs=[spec],
            can_subset=True,
        )

    return dg.Definitions(assets=[asset("hours", None), asset("days", "hours")])


def test_partitioned_assets_need_an_exception_to_be_built_by_a_run_without_a_partition(
    instance: dg.DagsterInstance,
) -> None:
    """Promise: `upstream.dagster.PartitionedAsset` is built where Dagster's own fails, and keeps its partitions.

    When the first part fails, Dagster can do without it.
    """

    def run(kind: type[dg.AssetsDefinition]) -> bool:
        job = _by_hour_and_day(kind).resolve_implicit_global_asset_job_def()
        return job.execute_in_process(instance=instance, raise_on_error=False).success

    assert not run(dg.AssetsDefinition)
    assert run(in_dagster.PartitionedAsset)
    graph = _by_hour_and_day(in_dagster.PartitionedAsset).resolve_asset_graph()
    assert isinstance(
        graph.get(dg.AssetKey("days")).partitions_def, dg.TimeWindowPartitionsDefinition
    )


def test_a_job_of_different_partitions_needs_an_exception() -> None:
    """Promise: `upstream.dagster.mixed_asset_job` resolves where `define_asset_job` does not.

    When the first part fails, Dagster can do without it.
    """
    everything = dg.AssetSelection.all()
    assets = _by_hour_and_day(in_dagster.PartitionedAsset)

    def resolved(job: in_dagster.AssetJob) -> dg.JobDefinition:
        return dg.Definitions.merge(assets, dg.Definitions(jobs=[job])).resolve_job_def("mixed")

    with pytest.raises(dg.DagsterInvalidDefinitionError):
        resolved(dg.define_asset_job("mixed", selection=everything))
    mixed = resolved(in_dagster.mixed_asset_job("mixed", everything, "all of it"))
    assert {node.name for node in mixed.nodes} == {"hours", "days"}


def test_what_has_partitions_is_known_when_a_job_is_resolved_and_not_before() -> None:
    """Promise: `upstream.dagster.loadable` leaves out what a run without a partition cannot load."""

    @dg.asset(partitions_def=dg.StaticPartitionsDefinition(["a"]))
    def parted() -> None: ...

    @dg.multi_asset(specs=[dg.AssetSpec("whole", deps=["outside"]), dg.AssetSpec("beside")])
    def both() -> Iterator[dg.MaterializeResult[None]]:
        yield from ()

    @dg.asset(deps=[parted, "whole"])
    def reader() -> None: ...

    upstream = dg.AssetSelection.assets("reader").upstream()
    job = dg.define_asset_job("load", selection=in_dagster.loadable(upstream))
    definitions = dg.Definitions([parted, both, reader], jobs=[job])
    assert {node.name for node in definitions.resolve_job_def("load").nodes} == {"both", "reader"}
    repository = definitions.get_repository_def()
    assert isinstance(repository, dg.RepositoryDefinition)
    keys = [dg.AssetKey("reader")]
    for with_ancestors, names in ((False, {"reader"}), (True, {"reader", "whole", "beside"})):
        found = in_dagster.loadable_upstream(repository, keys, with_ancestors=with_ancestors)
        assert {key.path[-1] for key in found} == names


def test_the_last_result_of_a_check_is_known_while_a_run_has_planned_another(
    tmp_path: Path,
) -> None:
    """`upstream.dagster.last_check_results` reads Dagster's table of check executions, in few statements."""
    seen: list[dict[dg.AssetCheckKey, in_dagster.CheckResult]] = []

    @dg.asset(check_specs=[dg.AssetCheckSpec(name, asset="a") for name in ("one", "two")])
    def a(context: dg.AssetExecutionContext) -> Iterator[Any]:
        keys = [dg.AssetCheckKey(dg.AssetKey("a"), name) for name in ("one", "two", "never")]
        seen.append(in_dagster.last_check_results(context.instance, keys))
        seen.append(in_dagster._one_by_one(context.instance.event_log_storage, keys))
        yield dg.MaterializeResult()
        for name in ("one", "two"):
            yield dg.AssetCheckResult(check_name=name, passed=name == "one", metadata={"n": 1})

    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        first = dg.materialize([a], instance=instance)
        dg.materialize([a], instance=instance)
    assert seen[:2] == [{}, {}]
    told = {key.name: (found[0].passed, found[1]) for key, found in seen[2].items()}
    assert told == {"one": (True, first.run_id), "two": (False, first.run_id)}, (
        "Dagster's table of check executions has moved (upstream/dagster.py, run/reported.py)."
    )
    assert seen[2] == seen[3]


def test_a_result_of_a_partition_names_the_partitions_newest_materialization(
    tmp_path: Path,
) -> None:
    """`upstream.dagster.of_newest_materializations` and `last_partition_results`: else Dagster forgets it."""
    days = dg.DailyPartitionsDefinition("2025-01-01", end_date="2025-01-04")
    asset = dg.AssetKey("a")
    key = dg.AssetCheckKey(asset, "one")

    def result(day: str) -> dg.AssetCheckEvaluation:
        return dg.AssetCheckEvaluation(
            asset_key=asset, check_name="one", passed=day == "2025-01-01", partition=day
        )

    def shown(instance: dg.DagsterInstance) -> dict[str, list[str]]:
        state = instance.event_log_storage.get_asset_check_state([(key, days)])[key]
        return {
            status.value: [*subset.subset_value.get_partition_keys()]
            for status, subset in state.subsets.items()
            if not subset.is_empty
        }

    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        for day in ("2025-01-01", "2025-01-02"):
            for _ in range(2):
                instance.report_runless_asset_event(dg.AssetMaterialization(asset, partition=day))
        results = [result("2025-01-01"), result("2025-01-02"), result("2025-01-03")]
        for placed in in_dagster.of_newest_materializations(instance, results):
            instance.report_runless_asset_event(placed)
        found = in_dagster.last_partition_results(instance, [key], "2025-01-02")
        whole = in_dagster.last_check_results(instance, [key])
        told = "Dagster's partitioned checks have moved (upstream/dagster.py, run/reported.py)."
        assert found[key][0].passed is False, told
        assert whole == {}, told
        both = {"SUCCEEDED": ["2025-01-01"], "FAILED": ["2025-01-02", "2025-01-03"]}
        assert shown(instance) == both, told
        instance.report_runless_asset_event(dg.AssetMaterialization(asset, partition="2025-01-02"))
        assert shown(instance) == {"SUCCEEDED": ["2025-01-01"], "FAILED": ["2025-01-03"]}, told
        instance.report_runless_asset_event(dg.AssetMaterialization(asset))
        assert shown(instance) == {}, (
            "Dagster no longer forgets the results of all partitions after a materialization of none:"
            " `events.unchanged` can report a partitioned model as any other."
        )


def test_the_names_of_config_files_are_sqlmeshs() -> None:
    """manifest/inputs.py knows which files a project's config, and a person's own, may be."""
    from sqlmesh.core.config.common import ALL_CONFIG_FILENAMES, YAML_CONFIG_FILENAMES

    from sqlmesh_dagster.manifest import inputs

    assert sorted(inputs.CONFIGS) == sorted(ALL_CONFIG_FILENAMES)
    assert sorted(inputs._OWN_CONFIG) == sorted(YAML_CONFIG_FILENAMES)


_CLEARS = """
import shutil
from pathlib import Path

from sqlmesh import macro


@macro()
def clears(evaluator):
    shutil.rmtree(Path(__file__).parents[1] / ".cache", ignore_errors=True)
    return 1
"""


@pytest.mark.parametrize("anew", [False, True])
def test_a_load_whose_cache_is_removed_meanwhile_has_every_model(
    project: Project, anew: bool
) -> None:
    """upstream.sqlmesh.own_cache_entries: without it, SQLMesh leaves out each model that it reads too late."""
    project.write("macros/__init__.py", "")
    project.write("macros/clears.py", _CLEARS)
    names = [f"m{number}" for number in range(4)]
    for name in names:
        project.model(name, "SELECT @clears()::INT AS id")
    context = Context(paths=str(project.root), load=False)
    with in_sqlmesh.without_forks(), in_sqlmesh.own_cache_entries(anew):
        context.load()
    assert sorted(model.name for model in context.models.values()) == [
        f"demo.{name}" for name in names
    ]
    context.close()


def test_a_load_anew_takes_nothing_from_the_cache_and_leaves_what_is_beside_it(
    project: Project,
) -> None:
    """upstream.sqlmesh.own_cache_entries: what a macro reads is in none of the cache's keys."""
    project.write("macros/__init__.py", "")
    project.write(
        "macros/tenant.py",
        "from pathlib import Path\nfrom sqlmesh import macro\n\n@macro()\ndef tenant(evaluator):\n"
        "    return (Path(__file__).parents[1] / 'tenant.txt').read_text()\n",
    )
    project.write(".cache/dagster/manifest.json", "{}")
    project.model("m", "SELECT @tenant() AS id")
    rendered = []
    for number, anew in ((1, False), (2, False), (2, True), (2, False)):
        project.write("tenant.txt", str(number))
        context = Context(paths=str(project.root), load=False)
        with in_sqlmesh.without_forks(), in_sqlmesh.own_cache_entries(anew):
            context.load()
        rendered.append(context.get_model("demo.m", raise_if_missing=True).render_query_or_raise())
        context.close()
    assert [query.sql() for query in rendered] == [
        f'SELECT {number} AS "id"' for number in (1, 1, 2, 2)
    ]
    assert (project.root / ".cache/dagster/manifest.json").exists()


def test_a_selection_takes_names_as_sqlmesh_has_them(project: Project) -> None:
    """upstream.sqlmesh.exact_selector: without it, SQLMesh finds neither of these, or cannot read it."""
    upper, odd = '"WAREHOUSE"."DEMO"."A"', '"warehouse"."odd (one)"."+ we-ird *"'
    project.model("a", "SELECT 1 AS id", "kind FULL, dialect snowflake")
    project.model('"odd (one)"."+ we-ird *"', "SELECT 1 AS id")
    project.model("b", "SELECT 1 AS id")
    context = Context(paths=str(project.root), selector=in_sqlmesh.exact_selector())
    try:
        plan = context.plan_builder("dev", select_models=[upper, odd, '"gone (one)"."x"']).build()
        assert {snapshot.name for snapshot in plan.new_snapshots} == {upper, odd}
        plan = context.plan_builder("dev", select_models=['"demo".b', "demo.no*"]).build()
        assert {s.name for s in plan.new_snapshots} == {'"warehouse"."demo"."b"'}
    finally:
        context.close()


def test_a_custom_materialization_is_found_anew(project: Project) -> None:
    """upstream.sqlmesh.forget_materializations: without it, a model of a custom kind is not stored again."""
    project.write(
        "materializations/own.py",
        "from sqlmesh import CustomKind, CustomMaterialization\n\n\nclass Kind(CustomKind): ...\n\n\n"
        "class Own(CustomMaterialization[Kind]):\n    NAME = 'own'\n",
    )
    for value in (1, 2):
        project.model("a", f"SELECT {value} AS id", "kind CUSTOM (materialization 'own')")
        Context(paths=str(project.root)).close()
        in_sqlmesh.forget_materializations()


def test_a_query_in_jinja_has_its_text(project: Project) -> None:
    """engine/reader.py shows it on the model's page, without SQLMesh's marks around it."""
    query = "SELECT {{ 1 }} AS id,\n  'it''s' AS text"
    project.model("m", f"JINJA_QUERY_BEGIN;\n{query}\nJINJA_END")
    context = Context(paths=str(project.root))
    written = getattr(context.get_model("demo.m"), "query", None)
    assert isinstance(written, internals.JinjaQuery) and written.name == query
    context.close()


def test_some_files_are_loaded_with_stand_ins_for_what_they_read(project: Project) -> None:
    """upstream.sqlmesh.loader_of and stand_in: columns come from there, and all else as ever."""
    project.model("above", "SELECT 1::INT AS id, 'x' AS \"Label\"")
    project.model("below", "SELECT * FROM demo.above")
    whole = Context(paths=str(project.root))
    (above, below) = sorted(whole.models)
    asked: list[set[str]] = []

    def stand_ins(loaded: Mapping[str, Model]) -> dict[str, Model]:
        asked.append(set(loaded))
        columns = whole.models[above].columns_to_types
        return {above: in_sqlmesh.stand_in(above, "duckdb", columns)}

    loader = in_sqlmesh.loader_of(
        lambda root: [path for path in root.glob("models/*") if "below" in path.name], stand_ins
    )
    part = Context(paths=str(project.root), loader=loader)
    assert asked == [{below}] and part.models[above].kind.is_external
    assert part.models[below].columns_to_types == whole.models[below].columns_to_types
    assert part.models[below].data_hash == whole.models[below].data_hash
    assert all(in_sqlmesh.is_plain_loader(config) for config in part.configs.values())


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("audits/broken.sql", "AUDIT (name broken); SELECT ("),
        ("tests/test_broken.yaml", "test_broken: ["),
        ("external_models.yaml", "- name: ["),
        ("config.yaml", "gateways: ["),
    ],
)
def test_the_file_that_a_load_has_failed_in_is_known(
    project: Project, name: str, text: str
) -> None:
    """Leans on what SQLMesh's loaders call the file that they read."""
    project.model("one", "SELECT 1::INT AS id")
    project.write(name, text)
    with pytest.raises(Exception) as failed:
        Context(paths=str(project.root))
    assert (project.root / name).resolve() in list(files_being_read(failed.value))


def test_databricks_still_asks_when_its_adapter_is_made() -> None:
    """upstream.sqlmesh.asks_when_made: a load that makes the adapter hung for minutes where the host was silent."""
    made = DatabricksConnectionConfig.model_construct
    assert in_sqlmesh.asks_when_made(made(oauth_client_secret="s"))
    assert not in_sqlmesh.asks_when_made(made(oauth_client_secret=None))
    assert not in_sqlmesh.asks_when_made(DuckDBConnectionConfig())
    source = inspect.getsource(DatabricksConnectionConfig)
    assert re.search(r"if self.oauth_client_secret:[^}]*config = Config\(", source)


@pytest.mark.parametrize("pool", [SingletonConnectionPool, ThreadLocalConnectionPool])
def test_an_error_of_a_connection_is_known_as_one(pool: type[SingletonConnectionPool]) -> None:
    """upstream.reading.files_being_read knows the module of SQLMesh's that opens connections."""

    def connect() -> None:
        raise ValueError("no server")

    def load(path: Path) -> None:
        pool(connect).get_cursor()

    with pytest.raises(ValueError, match="no server") as failed:
        load(Path(__file__))
    assert list(files_being_read(failed.value)) == []


def test_relative_paths_of_duckdb_files_can_be_replaced(project: Project) -> None:
    """upstream.sqlmesh.relocate_databases writes into the config before a connection is made of it."""
    config = (project.root / "config.yaml").read_text()
    project.write("config.yaml", config.replace(str(project.database), "some/own.db"))
    context = Context(paths=str(project.root), load=False)
    in_sqlmesh.relocate_databases(context.config, lambda path: str(project.root / path))
    assert in_sqlmesh.duckdb_files(context.connection_config) == [project.root / "some/own.db"]
    assert in_sqlmesh.duckdb_files(in_sqlmesh.state_connection(context)) == [
        project.root / "some/own.db"
    ]
    assert not in_sqlmesh.is_dbt_project(context)
    assert in_sqlmesh.dbt_manifests(context) == []
    context.close()


# ---------------------------------------------------------------------------- commands


def test_a_located_project_is_loaded_once_for_its_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dagster loads it three times more; where it no longer does, `_loaded_once` can go."""
    (tmp_path / "counted_shop.py").write_text(
        "import dagster as dg\nloads = []\n@dg.asset\ndef customers() -> int:\n    return 1\n"
        "@dg.definitions\ndef defs() -> dg.Definitions:\n"
        "    loads.append(1)\n"
        "    return dg.Definitions([customers], executor=dg.in_process_executor)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    project = in_launch.LocatedProject("counted_shop", str(tmp_path), "shop")
    loads = importlib.import_module("counted_shop").loads
    loaded = len(loads)
    with dg.instance_for_test() as instance:
        assert project.execute(instance, in_launch.ASSET_JOB, None, {}, {})
        assert len(loads) == loaded
        pointer = ReconstructableRepository.for_module("counted_shop", "defs", str(tmp_path))
        job = pointer.get_reconstructable_job(in_launch.ASSET_JOB)
        assert dg.execute_job(job, instance=instance).success
    assert len(loads) >= loaded + 2


def test_a_project_is_located_and_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, instance: dg.DagsterInstance
) -> None:
    """commands/ lean on it: Dagster's own job of all assets, run with tags that `dg launch` cannot give."""
    (tmp_path / "located_shop.py").write_text(
        "import dagster as dg\n"
        "@dg.asset\ndef raw() -> None: ...\n"
        "@dg.asset(deps=[raw])\ndef mart() -> None: ...\n"
        "@dg.job\ndef nightly() -> None: ...\n"
        "@dg.definitions\ndef defs() -> dg.Definitions:\n"
        "    return dg.Definitions(assets=[raw, mart], jobs=[nightly], executor=dg.in_process_executor)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    project = in_launch.LocatedProject("located_shop", str(tmp_path), "shop")
    raw, mart = dg.AssetKey("raw"), dg.AssetKey("mart")
    assert project.job_names == ("nightly",)
    assert {asset.key: asset.upstream for asset in project.assets} == {raw: set(), mart: {raw}}
    assert project.select(['key:"mart"']) == {mart}
    assert project.has_console_logger(in_launch.ASSET_JOB)
    assert project.execute(instance, in_launch.ASSET_JOB, [mart], {}, {"poe/launch": "x"})

    (run,) = instance.get_runs(filters=dg.RunsFilter(tags={"poe/launch": "x"}))
    assert run.tags[".dagster/repository"] == "__repository__@shop"
    entries, cursor = in_launch.run_events(instance, run.run_id, None)
    done = [
        e.dagster_event
        for e in entries
        if e.dagster_event and e.dagster_event.is_step_materialization
    ]
    assert [event.asset_key for event in done] == [mart]
    assert in_launch.run_events(instance, run.run_id, cursor) == ([], cursor)


def test_a_step_says_nothing_of_optional_outputs_that_it_did_not_give(
    instance: dg.DagsterInstance,
) -> None:
    """`upstream.dagster.without_missing_output_messages` drops Dagster's message, which is a record."""

    @dg.multi_asset(
        specs=[dg.AssetSpec("a")],
        check_specs=[dg.AssetCheckSpec("one", asset="a")],
        can_subset=True,
    )
    def a(context: dg.AssetExecutionContext) -> Iterator[Any]:
        if context.run.tags.get("quiet"):
            in_dagster.without_missing_output_messages(context.op_execution_context)
        context.log.info("said")
        yield dg.MaterializeResult()

    def said(**tags: str) -> list[str]:
        run = dg.materialize([a], instance=instance, tags=tags)
        entries = instance.all_logs(run.run_id)
        return [e.user_message for e in entries if e.dagster_event is None]

    assert said(quiet="yes") == ["said"], "Dagster's words have moved (upstream/dagster.py)."
    assert len(said()) == 2, "Dagster no longer says so; the filter can go."


def test_a_job_without_a_code_location_has_no_assets_around_it(
    instance: dg.DagsterInstance,
) -> None:
    """Promise: a review of a job that runs alone finds no reader outside, and does not fail."""
    seen: list[list[dg.AssetSpec]] = []

    @dg.op
    def look(context: dg.OpExecutionContext) -> None:
        seen.append(in_dagster.assets_of_location(context))

    @dg.job
    def alone() -> None:
        look()

    assert alone.execute_in_process(instance=instance).success
    assert seen == [[]]


def test_what_no_run_has_planned_is_not_failed_with_one(instance: dg.DagsterInstance) -> None:
    """`upstream.dagster.forget_plan` takes an asset out of a run that fails."""

    @dg.multi_asset(specs=[dg.AssetSpec("waits")], can_subset=True)
    def waits(context: dg.AssetExecutionContext) -> Iterator[dg.AssetObservation]:
        yield dg.AssetObservation("waits")
        in_dagster.forget_plan(context.instance, dg.AssetKey("waits"))

    @dg.asset
    def fails() -> None:
        raise ValueError

    run = dg.materialize([waits, fails], instance=instance, raise_on_error=False)
    keys = [dg.AssetKey("waits"), dg.AssetKey("fails")]
    planned = {
        r.asset_entry.asset_key: r.asset_entry.last_run_id for r in instance.get_asset_records(keys)
    }
    assert planned == {keys[0]: "", keys[1]: run.run_id}, (
        "Dagster no longer notes the last planned run of an asset (upstream/dagster.py)."
    )
    assert instance.get_run_by_id("") is None


def test_a_job_from_another_process_finds_what_is_loaded_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It brings its hash along, which is another here; the exception is needed as long as it does."""
    for name in (ReconstructableJob, ReconstructableRepository):
        monkeypatch.setattr(name, "__setstate__", None, raising=False)  # is as it was afterwards
        delattr(name, "__setstate__")
    job = ReconstructableRepository.for_module("m", "f").get_reconstructable_job("j")
    kept = vars(job), vars(job.repository)
    for state in kept:
        state["_hash"] = 1  # as the other process has computed it
    copied = pickle.dumps(job)

    def is_found() -> bool:
        came = pickle.loads(copied)
        return hash(came) == hash(came.with_repository_load_data(None))

    assert not is_found()
    load_definitions_once()
    assert is_found()
