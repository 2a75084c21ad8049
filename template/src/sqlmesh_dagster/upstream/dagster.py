"""The exceptions on Dagster's side: what its public API doesn't give.

Each function says which private names it uses; the contract tests fail clearly when one of them
moves.
Verified on Dagster 1.13.27.
"""

from __future__ import annotations

import faulthandler
import logging
import multiprocessing
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import dagster as dg
from dagster._check import CheckError
from dagster._core.definitions.asset_checks.asset_check_evaluation import (
    AssetCheckEvaluationTargetMaterializationData,
)
from dagster._core.definitions.asset_selection import MaterializableAssetSelection
from dagster._core.definitions.assets.graph.asset_graph import AssetGraph
from dagster._core.definitions.assets.graph.base_asset_graph import BaseAssetGraph
from dagster._core.definitions.assets.job.asset_job import build_asset_job, get_asset_graph_for_job
from dagster._core.definitions.source_asset import SYSTEM_METADATA_KEY_SOURCE_ASSET_OBSERVATION
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition
from dagster._core.event_api import PartitionKeyFilter
from dagster._core.events import (
    AssetMaterializationPlannedData,
    DagsterEventBatchMetadata,
    StepMaterializationData,
)
from dagster._core.execution.context.system import StepExecutionContext
from dagster._core.execution.stats import StepEventStatus
from dagster._core.instance.utils import RUNLESS_JOB_NAME, RUNLESS_RUN_ID
from dagster._core.launcher.default_run_launcher import DefaultRunLauncher
from dagster._core.storage.asset_check_execution_record import (
    AssetCheckExecutionRecord,
    AssetCheckExecutionRecordStatus,
)
from dagster._core.storage.event_log.base import EventLogStorage
from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage
from dagster._core.storage.tags import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    PARTITION_NAME_TAG,
)
from dagster._utils.interrupts import check_captured_interrupt
from sqlalchemy import func, select

from sqlmesh_dagster.upstream.alike import Built, StoresAlike, alike

AssetJob = UnresolvedAssetJobDefinition
"""What `dagster.define_asset_job` returns; Dagster exports no name for it."""
_COMPLETED = {AssetCheckExecutionRecordStatus.SUCCEEDED, AssetCheckExecutionRecordStatus.FAILED}
_ROWS_PER_CHECK = 20
"""How far back most results are looked for: the table keeps a row for each check and run, for ever."""
_LAST_WORDS_SECONDS = 10.0
_last_words: list[IO[str]] = []
_KEYS_PER_STATEMENT = 900
"""SQLite before 3.32 takes 999 parameters in a statement."""


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
    """A job of assets with different partitions, as Dagster's own job of all assets."""

    def resolve(
        self,
        asset_graph: AssetGraph,
        default_executor_def: dg.ExecutorDefinition | None = None,
        resource_defs: Mapping[str, dg.ResourceDefinition] | None = None,
    ) -> dg.JobDefinition:
        """As the original, but different partitions are allowed."""
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


class _LoadableAssetSelection(MaterializableAssetSelection):
    """Those assets of a selection that a run without a partition can materialize."""

    def resolve_inner(
        self, asset_graph: BaseAssetGraph[Any], allow_missing: bool
    ) -> AbstractSet[dg.AssetKey]:
        """As the original, without partitioned assets: it is not known here which are partitioned."""
        return _loadable(asset_graph, self.child.resolve_inner(asset_graph, allow_missing))


def loadable(selection: dg.AssetSelection) -> dg.AssetSelection:
    """The assets of a selection that a schedule's run can load: without partitions."""
    return _LoadableAssetSelection(child=selection)


def loadable_upstream(
    repository: dg.RepositoryDefinition, keys: Iterable[dg.AssetKey], *, with_ancestors: bool
) -> set[dg.AssetKey]:
    """Those of these assets that a run without a partition can materialize.

    Args:
        with_ancestors: Whether assets upstream of them are included.
    """
    graph = repository.asset_graph
    found = set(keys)
    pending = list(found) if with_ancestors else []
    while pending:
        key = pending.pop()
        parents = graph.get(key).parent_keys - found if graph.has(key) else set()
        found |= parents
        pending.extend(parents)
    return _loadable(graph, found)


def checks_on(
    repository: dg.RepositoryDefinition, keys: Iterable[dg.AssetKey]
) -> set[dg.AssetCheckKey]:
    """All checks of these assets, which a run of them selects unless it names some."""
    return set(repository.asset_graph.get_check_keys_for_assets({*keys}))


def _loadable(graph: BaseAssetGraph[Any], keys: AbstractSet[dg.AssetKey]) -> set[dg.AssetKey]:
    """With all assets of the same op, which a run can only materialize together."""
    materializable = graph.materializable_asset_keys
    together = (graph.get(key).execution_set_asset_keys for key in keys & materializable)
    return {
        key
        for neighbors in together
        if not any(graph.get(neighbor).is_partitioned for neighbor in neighbors)
        for key in neighbors
    }


@dataclass(frozen=True)
class RunPlan:
    """The steps of one Dagster run, seen from one of them.

    Attributes:
        own_step: Key of the step that asks.
        upstream: The steps that this run executes, each with the keys of its direct upstream steps
            in this run; blocking checks are steps, too.
        assets: Selected asset keys, each with the key of its step.
        checks: Selected checks.
    """

    own_step: str
    upstream: Mapping[str, frozenset[str]]
    assets: Mapping[dg.AssetKey, str]
    checks: frozenset[dg.AssetCheckKey] = frozenset()


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
        checks=frozenset(
            key
            for data in layer.data
            if str(data.node_handle) in executed
            for key in data.assets_def.check_keys
        ),
    )


def succeeded_steps(instance: dg.DagsterInstance, run_id: str) -> frozenset[str]:
    """Keys of the steps of a run that have succeeded so far, in whichever process."""
    return frozenset(
        step.step_key
        for step in instance.get_run_step_stats(run_id)
        if step.status is StepEventStatus.SUCCESS
    )


def failed_steps(instance: dg.DagsterInstance, run_id: str) -> frozenset[str]:
    """Keys of the steps of a run that have failed so far, in whichever process."""
    return frozenset(
        step.step_key
        for step in instance.get_run_step_stats(run_id)
        if step.status is StepEventStatus.FAILURE
    )


def add_run_tag(instance: dg.DagsterInstance, run_id: str, tag: str, value: str) -> None:
    """Sets a tag of a run that goes on; public of the instance, but in no documentation."""
    instance.add_run_tags(run_id, {tag: value})


def output_without_materialization(output_name: str) -> dg.Output[None]:
    """A step output that lets downstream steps start, and records no materialization.

    Dagster writes none for an output whose metadata carries this key; it made the key for
    observable source assets.
    """
    return dg.Output(
        None, output_name=output_name, metadata={SYSTEM_METADATA_KEY_SOURCE_ASSET_OBSERVATION: True}
    )


def report_together(
    context: dg.OpExecutionContext,
    make: Callable[[str, tuple[int, int]], dg.AssetMaterialization],
    built: Sequence[Built],
) -> None:
    """Records materializations of partitions as events of this step, many in one transaction.

    What a step yields, Dagster logs one by one, each with a line on the terminal. It has batches for
    what it materializes itself, and no public name for them. The event log of this package takes them
    as one text with what differs.

    Args:
        make: Makes the materialization of a partition, which differs in nothing else.
    """
    step, now = context.get_step_execution_context(), time.time()

    def entry(key: str, interval: tuple[int, int]) -> dg.EventLogEntry:
        event = _materialized(step, make(key, interval))
        return dg.EventLogEntry(  # type: ignore[no-untyped-call]
            error_info=None,
            level=logging.DEBUG,
            user_message="",
            run_id=context.run_id,
            timestamp=now,
            step_key=event.step_key,
            job_name=event.job_name,
            dagster_event=event,
        )

    batch = f"{context.run_id} {step.step.key} {context.retry_number}"
    _record_together(context.instance, entry, built, batch)


def report_outside_together(
    instance: dg.DagsterInstance,
    make: Callable[[str, tuple[int, int]], dg.AssetMaterialization],
    built: Sequence[Built],
) -> None:
    """As `DagsterInstance.report_runless_asset_event` for each partition, many in one transaction.

    Args:
        make: Makes the materialization of a partition, which differs in nothing else.
    """
    now = time.time()

    def entry(key: str, interval: tuple[int, int]) -> dg.EventLogEntry:
        event = dg.DagsterEvent(
            event_type_value=dg.DagsterEventType.ASSET_MATERIALIZATION.value,
            event_specific_data=StepMaterializationData(make(key, interval)),
            job_name=RUNLESS_JOB_NAME,
        )
        return dg.EventLogEntry(  # type: ignore[no-untyped-call]
            error_info=None,
            level=logging.INFO,
            user_message="",
            run_id=RUNLESS_RUN_ID,
            timestamp=now,
            job_name=RUNLESS_JOB_NAME,
            dagster_event=event,
        )

    _record_together(instance, entry, built, f"{uuid.uuid4()}")


def _record_together(
    instance: dg.DagsterInstance,
    entry: Callable[[str, tuple[int, int]], dg.EventLogEntry],
    built: Sequence[Built],
    batch: str,
) -> None:
    log = instance.event_log_storage
    if built and isinstance(log, StoresAlike):
        found = alike(entry, built)
        if found is not None and log.store_alike(found):
            return
    for number, (key, interval) in enumerate(built, 1):
        instance.handle_new_event(
            entry(key, interval),
            batch_metadata=DagsterEventBatchMetadata(batch, is_end=number == len(built)),
        )


def _materialized(
    step: StepExecutionContext, materialization: dg.AssetMaterialization
) -> dg.DagsterEvent:
    return dg.DagsterEvent(
        event_type_value=dg.DagsterEventType.ASSET_MATERIALIZATION.value,
        job_name=step.job_name,
        step_handle=step.step.handle,
        node_handle=step.step.node_handle,
        step_kind_value=step.step.kind.value,
        logging_tags=step.event_tags,
        event_specific_data=StepMaterializationData(materialization),
        message=f"Materialized value {' '.join(materialization.asset_key.path)}.",
        pid=os.getpid(),
    )


def forget_plan(instance: dg.DagsterInstance, key: dg.AssetKey) -> None:
    """Lets an asset be as if the current run had not planned it, because there is nothing to materialize.

    Dagster shows what a run planned and did not materialize as failed, once anything in the run has. It
    asks for the run that planned the asset last: here none, as if that run had been deleted.
    """
    planned = dg.DagsterEvent.build_asset_materialization_planned_event(
        RUNLESS_JOB_NAME, "", AssetMaterializationPlannedData(key, None, None)
    )
    instance.report_dagster_event(planned, run_id=RUNLESS_RUN_ID)


def without_missing_output_messages(context: dg.OpExecutionContext) -> None:
    """Keeps Dagster's message that a step gave no output for a check out of the event log.

    It writes one for each step whose checks are reported without an output, though these are optional.
    """
    context.log.addFilter(_is_no_missing_output_message)


def _is_no_missing_output_message(record: logging.LogRecord) -> bool:
    return "did not yield or return expected outputs" not in record.getMessage()


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
    """Whether this process was asked to stop while Dagster delays signals, as in a teardown."""
    return check_captured_interrupt()


def is_process_of_run() -> bool:
    """Whether this process is there for one run, or one step of it: Dagster has started it for that alone."""
    is_child = multiprocessing.parent_process() is not None  # of the multiprocess executor
    return is_child or bool({"execute_run", "execute_step"} & set(sys.argv))


def end_process_soon() -> None:
    """Ends this process, whatever its threads do; see `is_process_of_run`.

    It waits until Dagster has recorded the end of the step and of the run. Dagster takes a process that
    is gone before that for a crash. The watchdog of `faulthandler` is no Python thread: it also ends an
    interpreter that hangs in its own end, where those stand still.
    """
    nowhere = Path(os.devnull).open("w")  # noqa: SIM115 # open until the process is gone
    _last_words.append(nowhere)
    faulthandler.dump_traceback_later(_LAST_WORDS_SECONDS, exit=True, file=nowhere)


def run_start(instance: dg.DagsterInstance, run_id: str) -> tuple[int, float] | None:
    """Number and epoch second of the process in which a run began; None before that."""
    for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.RUN_START):
        event = entry.dagster_event
        if event is not None and event.pid is not None:
            return event.pid, entry.timestamp
    return None


def launches_here(instance: dg.DagsterInstance) -> bool:
    """Whether runs are processes on the same host, as Dagster's default launcher starts them."""
    return isinstance(instance.run_launcher, DefaultRunLauncher)


def end_dead_run(instance: dg.DagsterInstance, run: dg.DagsterRun, message: str) -> None:
    """Ends a run as failed, as Dagster's run monitoring does."""
    instance.report_run_failed(run, message)


def begin_canceling(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    """Makes the interrupt that follows a cancellation, as Dagster's run launchers do, and no failure."""
    instance.report_run_canceling(run)


CheckResult = tuple[dg.AssetCheckEvaluation, str, float]
"""A result, the id of its run (empty where there is none), and when it was found, in epoch seconds."""


def last_check_results(
    instance: dg.DagsterInstance, keys: Sequence[dg.AssetCheckKey]
) -> dict[dg.AssetCheckKey, CheckResult]:
    """The last result of each check as a whole, in a few statements for all of them.

    A result of one partition is none of these, see `last_partition_results`.

    `instance.get_latest_asset_check_evaluation_record` asks for one check, and returns evaluations
    that the current run has only planned. If the event log is not a SQL database, each check is
    asked for.
    """
    storage = instance.event_log_storage
    if not isinstance(storage, SqlEventLogStorage):
        return _one_by_one(storage, keys)
    known: dict[dg.AssetCheckKey, CheckResult] = {}
    newest = _newest_check_row(storage) if keys else 0
    for after in (newest - _ROWS_PER_CHECK * len(keys), 0):  # most are among the newest rows
        missing = [key for key in keys if key not in known]
        for begin in range(0, len(missing), _KEYS_PER_STATEMENT):
            part = missing[begin : begin + _KEYS_PER_STATEMENT]
            known.update(_completed_checks(storage, part, after))
        if after <= 0:
            break
    return known


def _completed_checks(
    storage: SqlEventLogStorage, keys: Sequence[dg.AssetCheckKey], after: int
) -> Iterator[tuple[dg.AssetCheckKey, CheckResult]]:
    columns = AssetCheckExecutionsTable.c
    wanted = {(key.asset_key.to_string(), key.name): key for key in keys}
    latest = (
        select(func.max(columns.id))
        .where(
            columns.id > after,
            columns.partition.is_(None),
            columns.asset_key.in_({asset for asset, _ in wanted}),
            columns.execution_status.in_([status.value for status in _COMPLETED]),
        )
        .group_by(columns.asset_key, columns.check_name)
    )
    query = select(AssetCheckExecutionsTable).where(columns.id.in_(latest))
    with storage.index_connection() as connection:
        rows = connection.execute(query).mappings().all()
    for row in rows:
        key = wanted.get((row["asset_key"], row["check_name"]))
        if key is not None:
            yield from _results([AssetCheckExecutionRecord.from_db_row(row, key=key)])


def _newest_check_row(storage: SqlEventLogStorage) -> int:
    with storage.index_connection() as connection:
        newest = connection.execute(select(func.max(AssetCheckExecutionsTable.c.id))).scalar()
    return int(newest or 0)


def _one_by_one(
    storage: EventLogStorage, keys: Sequence[dg.AssetCheckKey]
) -> dict[dg.AssetCheckKey, CheckResult]:
    return {
        name: result
        for key in keys
        for name, result in _results(
            storage.get_asset_check_execution_history(
                key, limit=1, status=_COMPLETED, partition_filter=PartitionKeyFilter(key=None)
            )
        )
    }


def _results(
    records: Iterable[AssetCheckExecutionRecord],
) -> Iterator[tuple[dg.AssetCheckKey, CheckResult]]:
    for record in records:
        if record.evaluation is not None and record.event is not None:
            yield record.key, (record.evaluation, record.run_id, record.event.timestamp)


def last_partition_results(
    instance: dg.DagsterInstance, keys: Sequence[dg.AssetCheckKey], partition: str
) -> dict[dg.AssetCheckKey, CheckResult]:
    """The last result of each check in one partition, where it has one and no run has planned another."""
    records = instance.event_log_storage.get_latest_asset_check_execution_by_key(
        keys, partition_filter=PartitionKeyFilter(key=partition)
    )
    return dict(_results(r for r in records.values() if r.status in _COMPLETED))


def of_newest_materializations(
    instance: dg.DagsterInstance, results: Sequence[dg.AssetCheckEvaluation]
) -> Iterator[dg.AssetCheckEvaluation]:
    """Results of an asset's partitions, each as one of its partition's newest materialization.

    Dagster forgets a partition's result unless it names that materialization, and has no public name for
    the pointer.
    """
    if not results:
        return
    key = results[0].asset_key
    partitions = {result.partition for result in results if result.partition}
    targets = dict(_newest_materializations(instance, key, partitions))
    for result in results:
        yield dg.AssetCheckEvaluation(
            asset_key=key,
            check_name=result.check_name,
            passed=result.passed,
            severity=result.severity,
            description=result.description,
            metadata=result.metadata,
            target_materialization_data=targets.get(result.partition),
            partition=result.partition,
        )


def _newest_materializations(
    instance: dg.DagsterInstance, key: dg.AssetKey, partitions: set[str]
) -> Iterator[tuple[str | None, AssetCheckEvaluationTargetMaterializationData]]:
    ids = [
        *instance.event_log_storage.get_latest_storage_id_by_partition(
            key, dg.DagsterEventType.ASSET_MATERIALIZATION, partitions
        ).values()
    ]
    for begin in range(0, len(ids), _KEYS_PER_STATEMENT):
        part = ids[begin : begin + _KEYS_PER_STATEMENT]
        wanted = dg.AssetRecordsFilter(asset_key=key, storage_ids=part)
        for record in instance.fetch_materializations(wanted, limit=len(part)).records:
            yield (
                record.partition_key,
                AssetCheckEvaluationTargetMaterializationData(
                    storage_id=record.storage_id, run_id=record.run_id, timestamp=record.timestamp
                ),
            )


def assets_of_location(context: dg.OpExecutionContext) -> list[dg.AssetSpec]:
    """Every asset of the code location that a step runs in; none where a job runs without one.

    Without a repository Dagster raises an error of its checks, which is not public.
    """
    try:
        repository = context.repository_def
    except CheckError:
        return []
    definitions = {id(each): each for each in repository.assets_defs_by_key.values()}
    return [spec for each in definitions.values() for spec in each.specs]
