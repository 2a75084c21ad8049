"""What a model's Dagster step does: lead the sqlmesh run or wait for it, then report its own model."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import dagster as dg

from sqlmesh_dagster.definition.project import Checks, DagsterProject, ModelAsset, TableCheck
from sqlmesh_dagster.execution import events
from sqlmesh_dagster.execution.cancel import CancelToken
from sqlmesh_dagster.execution.locks import Patience, ProjectLock
from sqlmesh_dagster.execution.outcomes import ErrorOutcome, ModelOutcome
from sqlmesh_dagster.execution.resource import SQLMeshResource, SQLMeshRunOptions
from sqlmesh_dagster.execution.results import RunResults, SQLMeshResultsResource
from sqlmesh_dagster.execution.selection import select_models
from sqlmesh_dagster.execution.settings import RunOptions
from sqlmesh_dagster.upstream import output_without_materialization, run_plan, succeeded_steps

if TYPE_CHECKING:
    from sqlmesh_dagster.execution.session import Session

_log = logging.getLogger(__name__)
StepEvent = (
    dg.MaterializeResult[None]
    | dg.AssetMaterialization
    | dg.AssetCheckResult
    | dg.AssetObservation
    | dg.Output[None]
)
_POLL_SECONDS = 0.1
_SLOWEST_POLL_SECONDS = 1.0
_SUCCESSES = ("executed", "up_to_date", "not_ready")


@dataclass(frozen=True)
class Step:
    """One step of a Dagster run, with what it needs of its resources."""

    context: dg.OpExecutionContext
    project: DagsterProject
    resource: SQLMeshResource
    store: SQLMeshResultsResource
    options: RunOptions
    lock: ProjectLock

    @classmethod
    def of(cls, context: dg.OpExecutionContext, project: DagsterProject) -> Step:
        """The step in which `context` is."""
        resource: SQLMeshResource = getattr(context.resources, project.name)
        options: SQLMeshRunOptions = getattr(context.resources, project.options_key)
        return cls(
            context=context,
            project=project,
            resource=resource,
            store=getattr(context.resources, project.results_key),
            options=options.resolve(),
            lock=ProjectLock(resource.settings.lock_name),
        )

    @property
    def results(self) -> RunResults:
        """What this Dagster run knows of its models so far."""
        return self.store.of_run(self.context.instance, self.context.run_id, self.project.name)

    @property
    def holder(self) -> str:
        """How this Dagster run names itself to those who wait for the lock."""
        return self.resource.holder


def materialize_model(
    context: dg.OpExecutionContext, project: DagsterProject, asset: ModelAsset
) -> Iterator[StepEvent]:
    """Yields what became of one model, or raises.

    When only checks are selected, the model is audited and not rebuilt.

    Raises:
        SQLMeshDagsterError: The model was not built; see `events`.
    """
    step = Step.of(context, project)
    selected = tuple(c for c in asset.checks if c[1].key in context.selected_asset_check_keys)
    if asset.spec.key not in context.selected_asset_keys:
        yield from _audit(step, asset.model.name, asset.model.fqn, selected)
        return
    is_shared = step.resource.settings.execution == "shared"
    outcome = (_wait_for if is_shared else _build_alone)(step, asset.model.fqn)
    if asset.partitions and outcome.intervals:  # also when a later batch failed
        yield from events.partition_materializations(asset, outcome)
        if outcome.status == "executed":
            yield output_without_materialization(context.output_for_asset_key(asset.spec.key))
    elif outcome.status == "executed":
        yield events.materialization(asset, outcome)
    elif outcome.status in _SUCCESSES:
        yield events.observation(asset, outcome)
        yield output_without_materialization(context.output_for_asset_key(asset.spec.key))
    yield from events.check_results(selected, outcome)
    if outcome.status not in _SUCCESSES:
        events.raise_for(asset.model.name, outcome)


def check_table(
    context: dg.OpExecutionContext, project: DagsterProject, check: TableCheck
) -> Iterator[StepEvent]:
    """Yields the result of a standalone audit, or of an external table's audits."""
    selected = tuple(c for c in check.checks if c[1].key in context.selected_asset_check_keys)
    yield from _audit(Step.of(context, project), check.snapshot, check.snapshot, selected)


def _wait_for(step: Step, fqn: str) -> ModelOutcome:
    """The model's outcome in this attempt of the step; leads a sqlmesh run if nobody does."""
    results = step.results
    before = len(results.of(fqn)) if step.context.retry_number else 0
    patience = Patience(step.holder, step.resource.wait_timeout, step.context.log.info)
    pause = _POLL_SECONDS
    try:
        while True:
            outcomes = results.of(fqn)
            if len(outcomes) > before:
                return outcomes[before]
            if not step.lock.try_acquire(step.holder):
                patience.check(step.lock.holder())
            elif len(results.of(fqn)) > before:  # told between the look and the lock
                step.lock.release()
            else:
                _lead(step, results)
            results.wait(pause)
            pause = min(pause * 1.2, _SLOWEST_POLL_SECONDS)
            _pass_on_messages(step)
    except BaseException as error:
        if not isinstance(error, Exception):  # the run is being stopped
            step.resource.cancel_work()
        raise
    finally:
        _pass_on_messages(step)


def _lead(step: Step, results: RunResults) -> None:
    """Starts one sqlmesh run for every selected model that may be built now.

    The lock is held, and is released when the run has ended.
    """
    try:
        selected = _select(step, results)
        step.store.forget_old_runs(step.context.instance)
    except BaseException:
        step.lock.release()
        raise
    told: set[str] = set()

    def tell(outcome: ModelOutcome) -> None:
        told.add(outcome.fqn)
        results.append(outcome)
        _report_besides(step, outcome, selected)

    def work(cancel: CancelToken) -> None:
        try:
            _session(step, cancel).run_models(selected, tell)
        except Exception as error:  # a step waits for each outcome, whatever happens
            _log.exception("The sqlmesh run ended unexpectedly.")
            failure = ErrorOutcome(type(error).__name__, str(error))
            for fqn in set(selected) - told:
                results.append(ModelOutcome(fqn, "failed", error=failure))
        finally:
            step.lock.release()

    step.resource.start_work(work)


def _select(step: Step, results: RunResults) -> tuple[str, ...]:
    plan = run_plan(step.context)
    fqns = step.project.fqns_by_key
    latest = results.latest()
    models = {s: fqns[key] for key, s in plan.assets.items() if key in fqns}
    selected = select_models(
        models=models,
        upstream=plan.upstream,
        succeeded=succeeded_steps(step.context.instance, step.context.run_id),
        own_step=plan.own_step,
        attempted=latest.keys(),
        failed={f for f, outcome in latest.items() if outcome.status not in _SUCCESSES},
    )
    if step.project.manifest.problem:
        step.context.log.warning(
            "The project's files cannot be loaded; this run uses the last good definitions."
            f" {step.project.manifest.problem}"
        )
    step.context.log.info(f"Starting one sqlmesh run for {len(selected)} of {len(models)} models.")
    return selected


def _build_alone(step: Step, fqn: str) -> ModelOutcome:
    """A sqlmesh run of this step's own model, which shares nothing with other steps."""
    step.context.log.info("Starting one sqlmesh run for this model alone.")
    told: dict[str, ModelOutcome] = {}

    def tell(outcome: ModelOutcome) -> None:
        told[outcome.fqn] = outcome
        _report_besides(step, outcome, [fqn])

    _run_work(step, lambda cancel: _session(step, cancel).run_models([fqn], tell))
    return told[fqn]


def _audit(step: Step, name: str, snapshot: str, checks: Checks) -> Iterator[dg.AssetCheckResult]:
    """Runs audits alone, in this step, when nothing else works on the project."""
    told: list[ModelOutcome] = []

    def work(cancel: CancelToken) -> None:
        session = _session(step, cancel)
        if session.settings.execution == "shared":
            with step.lock.held(
                step.holder,
                session.settings.wait_timeout,
                cancel,
                lambda text: step.resource.say(logging.INFO, text),
            ):
                told.append(session.audit(snapshot))
        else:
            told.append(session.audit(snapshot))

    _run_work(step, work)
    (outcome,) = told
    if outcome.status in _SUCCESSES:
        step.context.log.warning(f"The audits of {name} did not run: {outcome.reason}.")
    elif outcome.status in ("audited", "audit_failed"):
        yield from events.check_results(checks, outcome)
    else:
        events.raise_for(name, outcome)


def _report_besides(step: Step, outcome: ModelOutcome, selected: Collection[str]) -> None:
    """Records a model that a plan built although no step of this Dagster run stands for it."""
    asset = step.project.assets_by_fqn.get(outcome.fqn)
    if asset is None or outcome.fqn in selected or not outcome.intervals:
        return
    if asset.partitions:
        materializations = events.partition_materializations(asset, outcome)
    else:
        materializations = iter([events.materialization_besides(asset, outcome)])
    for materialization in materializations:
        step.context.instance.report_runless_asset_event(materialization)


def _session(step: Step, cancel: CancelToken) -> Session:
    """SQLMesh's part of this Dagster run; made in the worker thread, because SQLMesh is imported here."""
    from sqlmesh_dagster.execution.session import Session

    return Session(
        settings=step.resource.settings,
        options=step.options,
        manifest=step.project.manifest,
        holder=step.holder,
        log=step.resource.say,
        cancel=cancel,
    )


def _run_work(step: Step, work: Callable[[CancelToken], None]) -> None:
    """Waits for the end of `work`, and passes on meanwhile what it says."""
    try:
        step.resource.run_work(work, lambda: _pass_on_messages(step))
    finally:
        _pass_on_messages(step)


def _pass_on_messages(step: Step) -> None:
    for level, message in step.resource.heard():
        step.context.log.log(level, message)
