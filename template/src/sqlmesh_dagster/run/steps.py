"""What a model's Dagster step does: lead the sqlmesh run or wait for it, then report its own model."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import dagster as dg

from sqlmesh_dagster import events
from sqlmesh_dagster.definition.partitions import window_of
from sqlmesh_dagster.definition.project import Checks, DagsterProject, ModelAsset, TableCheck
from sqlmesh_dagster.errors import RestatementRefusedError
from sqlmesh_dagster.facts.outcomes import ErrorOutcome, ModelOutcome
from sqlmesh_dagster.guard.cancel import CancelToken
from sqlmesh_dagster.guard.locks import Patience, ProjectLock
from sqlmesh_dagster.resource import SQLMeshResource, SQLMeshRunOptions
from sqlmesh_dagster.run.results import RunResults, SQLMeshResultsResource
from sqlmesh_dagster.run.selection import restated_below, select_models
from sqlmesh_dagster.run.work import locked, pass_on_messages, record, run_work
from sqlmesh_dagster.settings import RunOptions
from sqlmesh_dagster.upstream.dagster import (
    output_without_materialization,
    partition_range,
    run_plan,
    succeeded_steps,
)

if TYPE_CHECKING:
    from sqlmesh_dagster.engine.sqlmesh_run import Session

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
            options=replace(options.resolve(), partitions=_partitions(context, project)),
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
    _refuse_what_was_not_said(step)
    is_shared = step.resource.settings.execution == "shared"
    outcome, below = (_wait_for if is_shared else _build_alone)(step, asset.model.fqn)
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
    for other in below:
        if other.status not in _SUCCESSES:
            events.raise_for(step.project.assets_by_fqn[other.fqn].model.name, other)


def check_table(
    context: dg.OpExecutionContext, project: DagsterProject, check: TableCheck
) -> Iterator[StepEvent]:
    """Yields the result of a standalone audit, or of an external table's audits."""
    selected = tuple(c for c in check.checks if c[1].key in context.selected_asset_check_keys)
    yield from _audit(Step.of(context, project), check.snapshot, check.snapshot, selected)


def _partitions(context: dg.OpExecutionContext, project: DagsterProject) -> tuple[int, int] | None:
    """The time of the partitions that the Dagster run was launched for."""
    keys = partition_range(context)
    if keys is None:
        return None
    selected = run_plan(context).assets
    found = (a.partitions for a in project.assets if a.partitions and a.spec.key in selected)
    partitions = next(found, None)
    return window_of(partitions, *keys) if partitions else None


def _refuse_what_was_not_said(step: Step) -> None:
    """Stops a restatement before anything is touched, if it would do more than was said.

    Raises:
        RestatementRefusedError: A selected model must not be built again, or others read one, and
            nobody said what is to become of them.
    """
    if not step.options.restate:
        return
    fqns = step.project.fqns_by_key
    selected = {fqns[key] for key in run_plan(step.context).assets if key in fqns}
    models = step.project.manifest.models
    kept = [m.name for m in models if m.fqn in selected and not m.is_restatable]
    if kept:
        raise RestatementRefusedError(
            f"Nothing was restated: `disable_restatement` is on for {_quoted(kept)}, to prevent the"
            " loss of data. Select other models, or set it to `false` in the model, if its data can"
            " be built again."
        )
    below = [model.name for model in restated_below(models, selected)]
    if below and step.options.restate_downstream is None:
        raise RestatementRefusedError(
            f"Nothing was restated yet: {_quoted(below)} would be built again, too, as models"
            " downstream. Set the run option `restate_downstream` to `true` to do so, or to `false`"
            " to leave them as they are."
        )


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _wait_for(step: Step, fqn: str) -> tuple[ModelOutcome, list[ModelOutcome]]:
    """The model's outcome in this attempt of the step; leads a sqlmesh run if nobody does.

    Returns:
        It, and the outcomes of what is restated with it.
    """
    results = step.results
    models = step.project.keys_by_fqn
    before = {name: len(results.of(name)) for name in models} if step.context.retry_number else {}
    patience = Patience(step.holder, step.resource.wait_timeout, step.context.log.info)
    pause = _POLL_SECONDS

    def told(name: str) -> ModelOutcome | None:
        outcomes = results.of(name)[before.get(name, 0) :]
        return outcomes[0] if outcomes else None

    def found() -> tuple[ModelOutcome, list[ModelOutcome]] | None:
        outcome = told(fqn)
        if outcome is None:
            return None
        names = [name for name in outcome.below if name in models]
        below = [other for name in names if (other := told(name)) is not None]
        return (outcome, below) if len(below) == len(names) else None

    try:
        while True:
            outcomes = found()
            if outcomes is not None:
                return outcomes
            if not step.lock.try_acquire(step.holder):
                patience.check(step.lock.holder())
            elif found() is not None:  # told between the look and the lock
                step.lock.release()
            else:
                _lead(step, results)
            results.wait(pause)
            pause = min(pause * 1.2, _SLOWEST_POLL_SECONDS)
            pass_on_messages(step.context, step.resource)
    except BaseException as error:
        if not isinstance(error, Exception):  # the run is being stopped
            step.resource.cancel_work()
        raise
    finally:
        pass_on_messages(step.context, step.resource)


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


def _build_alone(step: Step, fqn: str) -> tuple[ModelOutcome, list[ModelOutcome]]:
    """A sqlmesh run of this step's own model, which shares nothing with other steps; see `_wait_for`."""
    step.context.log.info("Starting one sqlmesh run for this model alone.")
    told: dict[str, ModelOutcome] = {}

    def tell(outcome: ModelOutcome) -> None:
        told[outcome.fqn] = outcome
        _report_besides(step, outcome, [fqn])

    run_work(
        step.context,
        step.resource,
        lambda cancel: _session(step, cancel).run_models([fqn], tell),
    )
    models = step.project.keys_by_fqn
    return told[fqn], [told[name] for name in told[fqn].below if name in models]


def _audit(step: Step, name: str, snapshot: str, checks: Checks) -> Iterator[dg.AssetCheckResult]:
    """Runs audits alone, in this step, when nothing else works on the project."""
    told: list[ModelOutcome] = []

    def work(cancel: CancelToken) -> None:
        session = _session(step, cancel)
        with locked(step.resource, session.settings, cancel):
            told.append(session.audit(snapshot))

    run_work(step.context, step.resource, work)
    (outcome,) = told
    if outcome.status in _SUCCESSES:
        step.context.log.warning(f"The audits of {name} did not run: {outcome.reason}.")
    elif outcome.status in ("audited", "audit_failed"):
        yield from events.check_results(checks, outcome)
    else:
        events.raise_for(name, outcome)


def _report_besides(step: Step, outcome: ModelOutcome, selected: Collection[str]) -> None:
    """Records a model that was built although no step of this Dagster run stands for it.

    A plan that deploys local changes builds such models, and a restatement that goes downstream.
    """
    asset = step.project.assets_by_fqn.get(outcome.fqn)
    if asset is None or outcome.fqn in selected or not outcome.intervals:
        return
    checks = asset.checks if outcome.reason is None else ()
    record(step.context.instance, asset, outcome, checks)


def _session(step: Step, cancel: CancelToken) -> Session:
    """SQLMesh's part of this Dagster run; made in the worker thread, because SQLMesh is imported here."""
    from sqlmesh_dagster.engine.sqlmesh_run import Session

    return Session(
        settings=step.resource.settings,
        options=step.options,
        manifest=step.project.manifest,
        holder=step.holder,
        log=step.resource.say,
        cancel=cancel,
    )
