"""How the steps of a Dagster run share one sqlmesh run: the first leads it, the others wait for their model."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import replace

from sqlmesh_dagster.definition.project import DagsterProject
from sqlmesh_dagster.facts.outcomes import ErrorOutcome, ModelOutcome
from sqlmesh_dagster.guard.cancel import CancelToken
from sqlmesh_dagster.guard.locks import Lease, Patience, RivalStep
from sqlmesh_dagster.guard.secrets import mask
from sqlmesh_dagster.run.code_checks import changed_code, verify_changed
from sqlmesh_dagster.run.results import RunResults
from sqlmesh_dagster.run.selection import Selection, open_again, select_models, with_unselected
from sqlmesh_dagster.run.step import Step
from sqlmesh_dagster.run.work import pass_on_messages, run_work
from sqlmesh_dagster.upstream.dagster import RunPlan, run_plan, succeeded_steps

_log = logging.getLogger(__name__)
_POLL_SECONDS = 0.1
_SLOWEST_POLL_SECONDS = 1.0
Outcomes = tuple[ModelOutcome, list[ModelOutcome]]
"""The outcomes of a step's own model, and of unselected models that are built with it."""


def shared_outcome(step: Step, fqn: str) -> Outcomes:
    """The model's outcome in this attempt of the step; leads a sqlmesh run if no other step does.

    Raises:
        EnvironmentBusyError: Another run kept the project for longer than `wait_timeout`.
    """
    results = step.results
    look = _Look(step, results, fqn)
    patience = Patience(step.holder, step.resource.wait_timeout, step.context.log.info)
    pause = _POLL_SECONDS
    try:
        while (outcomes := look.found()) is None:
            lease = step.lock.take(step.holder)
            if lease is None:
                patience.check(step.lock.holder())
            elif look.found() is not None:  # it became known before the lock was taken
                lease.release()
            elif shares_nothing(step):
                lease.release()
                step.context.log.warning(_UNSHARED)
                return own_outcome(replace(step, is_alone=True), fqn)
            else:
                _lead(step, results, lease)
            results.wait(pause)
            pause = min(pause * 1.2, _SLOWEST_POLL_SECONDS)
            pass_on_messages(step.context, step.resource)
        return outcomes
    except BaseException as error:
        if not isinstance(error, Exception):  # the run is being stopped
            step.resource.cancel_work()
        raise
    finally:
        pass_on_messages(step.context, step.resource)


def own_outcome(step: Step, fqn: str) -> Outcomes:
    """As `shared_outcome`, from a sqlmesh run of this model alone."""
    step.context.log.info("Starting one sqlmesh run for this model alone.")
    outcomes: dict[str, ModelOutcome] = {}
    inputs = step.known_inputs([fqn])

    def report(outcome: ModelOutcome) -> None:
        if not outcome.is_late:
            outcomes[outcome.fqn] = outcome
        step.report_besides(outcome, [fqn])

    held = left_to_build(step).held
    marks = step.marks

    changed = changed_code(step, [fqn])

    def work(cancel: CancelToken) -> None:
        verify_changed(step, changed, cancel)
        step.sqlmesh_run(cancel, inputs, marks=marks).run_models([fqn], report, held)

    run_work(step.context, step.resource, work)
    return outcomes[fqn], [outcomes[name] for name in outcomes[fqn].besides]


_UNSHARED = (
    "Steps of this Dagster run share no folder, so that none knows what another has built: this one runs"
    " its own model alone. Set `execution` to `per_step`, or let all steps share the instance's storage"
    " folder."
)


def shares_nothing(step: Step) -> bool:
    """Whether other steps of this Dagster run have built models, or do so now, of which nothing is known here."""
    results = step.results
    if not results.is_unshared:
        fqns = step.project.fqns_by_key
        built = {s: fqns[key] for key, s in run_plan(step.context).assets.items() if key in fqns}
        done = succeeded_steps(step.context.instance, step.context.run_id)
        results.is_unshared = any(
            fqn not in results.latest() for s, fqn in built.items() if s in done
        )
    return results.is_unshared


class _Look:
    """Whether a model's outcome is known: what came before a retry of its step, or of one upstream, counts no more."""

    def __init__(self, step: Step, results: RunResults, fqn: str) -> None:
        self._results = results
        self._fqn = fqn
        is_again = bool(step.context.retry_number) or fqn in _open_again(step, results, fqn)
        self._before = {n: len(found) for n, found in results.every().items()} if is_again else {}

    def found(self) -> Outcomes | None:
        own = self._outcomes(self._fqn)
        if not own:
            return None
        last = own[-1]
        others = [found[-1] for name in last.besides if (found := self._outcomes(name))]
        return (last, others) if len(others) == len(last.besides) else None

    def _outcomes(self, name: str) -> list[ModelOutcome]:
        return self._results.of(name)[self._before.get(name, 0) :]


def _lead(step: Step, results: RunResults, lease: Lease) -> None:
    """Starts one sqlmesh run for every selected model that may be built now; its thread gets the lease."""
    try:
        selection = _select(step, results)
        inputs = step.known_inputs(selection.taken)
        changed = changed_code(step, selection.taken)
        step.store.forget_old_runs(step.context.instance)
    except BaseException:
        lease.release()
        raise
    known: set[str] = set()
    awaited = set(selection.taken)

    def report(outcome: ModelOutcome) -> None:
        if not outcome.is_late:
            known.add(outcome.fqn)
            awaited.update(outcome.besides)
            results.append(outcome)
        step.report_besides(outcome, selection.taken)

    def work(cancel: CancelToken) -> None:
        with lease:
            try:
                verify_changed(step, changed, cancel)
                step.sqlmesh_run(cancel, inputs, has_project_lock=True).run_models(
                    selection.taken, report, selection.held
                )
            except RivalStep:
                results.is_unshared = True
            except Exception as error:  # a step waits for each outcome, whatever happens
                _log.exception("The sqlmesh run ended unexpectedly.")
                failure = ErrorOutcome(type(error).__name__, mask(str(error)))
                for fqn in awaited - known:
                    results.append(ModelOutcome(fqn, "failed", error=failure))

    step.resource.start_work(work)


def _select(step: Step, results: RunResults) -> Selection:
    selection, of_how_many = _selection(step, results)
    if step.project.manifest.problem:
        step.context.log.warning(
            "The project's files cannot be loaded; this run uses the last good definitions."
            f" {step.project.manifest.problem}"
        )
    step.context.log.info(
        f"Starting one sqlmesh run for {len(selection.taken)} of {of_how_many} models."
    )
    return selection


def left_to_build(step: Step) -> Selection:
    """What a sqlmesh run could build now of this Dagster run's models."""
    return _selection(step, step.results)[0]


def _selection(step: Step, results: RunResults) -> tuple[Selection, int]:
    """Which models a sqlmesh run may build now, and how many the Dagster run has."""
    plan = run_plan(step.context)
    broken = {asset.spec.key for asset in step.project.assets if asset.problem}
    fqns = {key: f for key, f in step.project.fqns_by_key.items() if key not in broken}
    models = {s: fqns[key] for key, s in plan.assets.items() if key in fqns}
    again = _open_again(step, results, *models.values(), retried=models.get(plan.own_step))
    latest = {fqn: last for fqn, last in results.latest().items() if fqn not in again}
    selection = select_models(
        models=models,
        upstream=_with_unselected(step.project, plan),
        succeeded=succeeded_steps(step.context.instance, step.context.run_id),
        own_step=plan.own_step,
        attempted=latest.keys(),
        failed={fqn for fqn, outcome in latest.items() if not outcome.is_success},
        unselected={fqn: fqn for key, fqn in fqns.items() if key not in plan.assets},
    )
    return selection, len(models)


def _open_again(
    step: Step, results: RunResults, *fqns: str, retried: str | None = None
) -> frozenset[str]:
    """Whether some of these were skipped because of what has succeeded since; see `open_again`."""
    skipped = (o for fqn in fqns for o in results.of(fqn) if o.status == "upstream_failed")
    if next(skipped, None) is None:
        return frozenset()
    reads = {model.fqn: model.depends_on for model in step.project.manifest.models}
    return open_again(results.every(), reads, retried)


def _with_unselected(project: DagsterProject, plan: RunPlan) -> Mapping[str, Collection[str]]:
    """The run's steps, with the project's other models between them."""
    fqns = project.fqns_by_key
    if fqns.keys() <= plan.assets.keys():
        return plan.upstream
    reads = {a.spec.key: [dep.asset_key for dep in a.spec.deps] for a in project.assets}
    return with_unselected(plan.upstream, plan.assets, fqns, reads)
