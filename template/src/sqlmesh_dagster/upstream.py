"""The exceptions: what the integration needs of Dagster and SQLMesh and their public APIs don't give.

Each function says what it leans on; `tests/sqlmesh_dagster/test_upstream_contract.py` fails clearly
when one of them moves. Verified on Dagster 1.13.27 and SQLMesh 0.236.4.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from dagster._core.definitions.assets.graph.asset_graph import AssetGraph
from dagster._core.definitions.assets.job.asset_job import build_asset_job, get_asset_graph_for_job
from dagster._core.definitions.source_asset import SYSTEM_METADATA_KEY_SOURCE_ASSET_OBSERVATION
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition
from dagster._core.execution.stats import StepEventStatus
from dagster._core.storage.tags import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    PARTITION_NAME_TAG,
)
from dagster._utils.interrupts import check_captured_interrupt

if TYPE_CHECKING:
    from sqlmesh import Context
    from sqlmesh.core.config.connection import ConnectionConfig
    from sqlmesh.core.engine_adapter.base import EngineAdapter
    from sqlmesh.core.model import Model
    from sqlmesh.core.snapshot import SnapshotEvaluator

# ---------------------------------------------------------------------------- Dagster

AssetJob = UnresolvedAssetJobDefinition
"""What `dagster.define_asset_job` returns; Dagster exports no name for it."""


class PartitionedAsset(dg.AssetsDefinition):
    """An asset with partitions that is also built by runs without a partition.

    Before each step Dagster looks up the versions of what it reads, and for that asks the definition
    for its partitions, and then the run for its partition: a run without one fails, wherever a
    partitioned asset reads another. A definition that names none is one that reads all of them.
    Everything else takes the partitions from the spec.
    """

    @property
    def partitions_def(self) -> dg.PartitionsDefinition[str] | None:
        """None; the specs have them."""
        return None

    def get_partition_mapping_for_dep(self, dep_key: dg.AssetKey) -> dg.PartitionMapping | None:
        """None; the specs have them."""
        return None


class _MixedAssetJob(UnresolvedAssetJobDefinition):
    """A job of assets with different partitions, as Dagster's own job of all assets is."""

    def resolve(
        self,
        asset_graph: AssetGraph,
        default_executor_def: dg.ExecutorDefinition | None = None,
        resource_defs: Mapping[str, dg.ResourceDefinition] | None = None,
    ) -> dg.JobDefinition:
        """As the original, but that it allows the difference."""
        graph = get_asset_graph_for_job(
            asset_graph, self.selection, allow_different_partitions_defs=True
        )
        return build_asset_job(
            self.name,
            asset_graph=graph,
            description=self.description,
            tags=self.tags,
            run_tags=self.run_tags,
            metadata=self.metadata,
            executor_def=self.executor_def or default_executor_def,
            resource_defs=resource_defs,
            allow_different_partitions_defs=True,
        )


def mixed_asset_job(name: str, selection: dg.AssetSelection, description: str) -> AssetJob:
    """As `dagster.define_asset_job`, which refuses assets with different partitions."""
    return _MixedAssetJob(name, selection, description=description)


@dataclass(frozen=True)
class RunPlan:
    """The steps of one Dagster run, seen from one of them.

    Attributes:
        own_step: Key of the step that asks.
        upstream: The steps that this run executes, each with the keys of its direct upstream steps
            in this run; blocking checks are steps, too.
        assets: Selected asset keys, each with the key of its step.
    """

    own_step: str
    upstream: Mapping[str, frozenset[str]]
    assets: Mapping[dg.AssetKey, str]


def run_plan(context: dg.OpExecutionContext) -> RunPlan:
    """What this Dagster run executes, whichever executor runs its steps.

    `context.selected_asset_keys` holds the op's own asset alone; the whole selection is on the
    job's asset layer, narrowed by the run's `step_keys_to_execute` on a re-execution.
    """
    step_context = context.get_step_execution_context()
    deps = step_context.execution_plan.get_all_step_deps()
    executed = set(context.run.step_keys_to_execute or deps)
    layer = context.job_def.asset_layer
    assets = {
        key: str(layer.get_op_output_handle(key).node_handle) for key in layer.selected_asset_keys
    }
    return RunPlan(
        own_step=step_context.step.key,
        upstream={key: frozenset(deps[key] & executed) for key in deps if key in executed},
        assets={key: step for key, step in assets.items() if step in executed},
    )


def succeeded_steps(instance: dg.DagsterInstance, run_id: str) -> frozenset[str]:
    """Keys of the steps of a run that have succeeded so far, in whichever process."""
    return frozenset(
        step.step_key
        for step in instance.get_run_step_stats(run_id)
        if step.status is StepEventStatus.SUCCESS
    )


def output_without_materialization(output_name: str) -> dg.Output[None]:
    """A step output that lets downstream steps go on and records no materialization.

    Dagster writes none for an output whose metadata carries this key; it made the key for
    observable source assets.
    """
    return dg.Output(
        None, output_name=output_name, metadata={SYSTEM_METADATA_KEY_SOURCE_ASSET_OBSERVATION: True}
    )


def partition_range(context: dg.OpExecutionContext) -> tuple[str, str] | None:
    """First and last partition that a run was launched for; None for a run without partitions.

    `context.partition_key_range` raises for a `PartitionedAsset`.
    """
    tags = context.run.tags
    if PARTITION_NAME_TAG in tags:
        return tags[PARTITION_NAME_TAG], tags[PARTITION_NAME_TAG]
    if ASSET_PARTITION_RANGE_START_TAG in tags:
        return tags[ASSET_PARTITION_RANGE_START_TAG], tags[ASSET_PARTITION_RANGE_END_TAG]
    return None


def is_interrupted() -> bool:
    """Whether this process was asked to stop while Dagster holds signals back, as in a teardown."""
    return check_captured_interrupt()


# ---------------------------------------------------------------------------- SQLMesh


@contextmanager
def single_process_loading() -> Iterator[None]:
    """Keeps SQLMesh from forking to load a project: unsafe in Dagster's threaded processes.

    The constant is read each time; forking is also slower on two cores or fewer.
    """
    from sqlmesh.core import constants

    before = constants.MAX_FORK_WORKERS
    constants.MAX_FORK_WORKERS = 1
    try:
        yield
    finally:
        constants.MAX_FORK_WORKERS = before


def model_path(model: Model) -> Path | None:
    """The file that defines a model; `Model` has it under a private name only."""
    return model._path


def on_audit(
    evaluator: SnapshotEvaluator,
    seen: Callable[[Any, list[Any]], None],
    around: Callable[[Any], AbstractContextManager[None]] = nullcontext,
) -> None:
    """Calls `seen(snapshot, audit_results)` after each model's audits, which run in `around(snapshot)`.

    A console hears only how many failed, and nothing of a blocking failure; the results themselves
    are what `SnapshotEvaluator.audit` returns. Evaluators are cloned for each run, and wrapped once.
    """
    if "audit" in vars(evaluator):
        return
    audit = evaluator.audit

    def audit_and_tell(snapshot: Any, *args: Any, **kwargs: Any) -> list[Any]:
        with around(snapshot):
            results = (
                audit(snapshot, *args, **kwargs) if args else audit(snapshot=snapshot, **kwargs)
            )
        seen(snapshot, results)
        return results

    evaluator.audit = audit_and_tell  # type: ignore[method-assign]


def opened_adapter(context: Context) -> EngineAdapter | None:
    """The context's own engine adapter if it was used; the public property would create one."""
    return context._engine_adapter


def has_state(context: Context) -> bool:
    """Whether the project has a state; unlike `Context.state_sync` it creates none, nor a file.

    A DuckDB file with a state stays open, for the context to go on with; `Context.close` releases it.

    Raises:
        duckdb.IOException: Another process holds the state's file.
    """
    files = duckdb_files(state_connection(context))
    if any(not path.exists() for path in files):
        return False
    open_duckdb_state(context)
    state = context.config.get_scheduler(context.gateway).create_state_sync(context)
    is_there = state.get_versions(validate=False).schema_version != 0
    if not (files and is_there):  # elsewhere the connection is one of its own
        state.close()
    return is_there


def open_duckdb_state(context: Context) -> None:
    """Opens the state's DuckDB file, so that a lock on it is an error here.

    SQLMesh takes a file that it cannot open for one without tables, and goes on to create them; its
    context then keeps a state that it never validated. Adapters are shared by path, so that this
    is the connection that the state uses.

    Raises:
        duckdb.IOException: Another process holds the file.
    """
    connection = state_connection(context)
    if duckdb_files(connection):
        open_whole(connection.create_engine_adapter())


def close_duckdb_state(context: Context) -> None:
    """Closes what `open_duckdb_state` opened, also where the context never came to use it."""
    connection = state_connection(context)
    if duckdb_files(connection):
        connection.create_engine_adapter().close()


def open_whole(adapter: EngineAdapter) -> None:
    """Opens an adapter's connection whole, or not at all.

    SQLMesh keeps a DuckDB cursor to which it could not attach the databases: it is taken for open
    from then on, by every context of the process, and works on an empty database in memory.
    """
    try:
        adapter.cursor  # noqa: B018
    except Exception:
        adapter.close()
        raise


def has_state_beside_data(context: Context) -> bool:
    """Whether SQLMesh writes data and state to one DuckDB file, through one connection.

    With a second database this is False: DuckDB writes to one only in a transaction.
    """
    from sqlmesh.core.config.connection import BaseDuckDBConnectionConfig

    connection = context.connection_config
    if context.config.get_state_connection(context.gateway) is not None:
        return False
    if not isinstance(connection, BaseDuckDBConnectionConfig):
        return False
    databases = [name for name in (connection.database, *(connection.catalogs or {})) if name]
    return len(databases) == 1 == len(duckdb_files(connection))


def state_connection(context: Context) -> ConnectionConfig:
    """Where the project's state is: the warehouse, unless the gateway names a place of its own."""
    return context.config.get_state_connection(context.gateway) or context.connection_config


def duckdb_files(connection: ConnectionConfig) -> list[Path]:
    """The database files of a DuckDB connection; none for other engines and in-memory databases."""
    from sqlmesh.core.config.connection import BaseDuckDBConnectionConfig, DuckDBAttachOptions

    if not isinstance(connection, BaseDuckDBConnectionConfig):
        return []
    attached = [connection.database, *(connection.catalogs or {}).values()]
    paths = [
        (item.path if item.type == "duckdb" else None)
        if isinstance(item, DuckDBAttachOptions)
        else item
        for item in attached
    ]
    return [
        Path(path)
        for path in paths
        if path and not path.startswith((":memory:", "md:", "motherduck:"))
    ]


def interrupt(cursor: Any) -> None:
    """Stops the query that a DB-API cursor runs, from another thread, where its driver can.

    DuckDB's cursor is a connection of its own and has `interrupt`; psycopg2's connection has
    `cancel`. Other drivers finish the query, and SQLMesh stops before the next model.
    """
    if hasattr(cursor, "interrupt"):
        cursor.interrupt()
    elif hasattr(getattr(cursor, "connection", None), "cancel"):
        cursor.connection.cancel()
