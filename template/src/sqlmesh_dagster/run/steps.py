"""What a model's Dagster step does: it waits for its model's outcome, then reports it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import dagster as dg

from sqlmesh_dagster import events
from sqlmesh_dagster.checks import (
    FoundResults,
    as_result,
    check_results,
    kept,
    kept_results,
    runless_check,
)
from sqlmesh_dagster.definition.partitions import left_out
from sqlmesh_dagster.definition.project import Checks, DagsterProject, ModelAsset, TableCheck
from sqlmesh_dagster.errors import (
    ModelDefinitionError,
    ModelSkippedError,
    RestatementRefusedError,
)
from sqlmesh_dagster.facts.outcomes import ModelOutcome
from sqlmesh_dagster.facts.reported import has_moved
from sqlmesh_dagster.facts.tables import BuiltTable
from sqlmesh_dagster.guard.cancel import CancelToken
from sqlmesh_dagster.partition_checks import kept_partition_results, partitioned
from sqlmesh_dagster.run.code_checks import kept_code_results
from sqlmesh_dagster.run.leading import (
    left_to_build,
    own_outcome,
    shared_outcome,
    shares_nothing,
)
from sqlmesh_dagster.run.reported import last_audit_results, last_audit_results_in
from sqlmesh_dagster.run.selection import restated_below
from sqlmesh_dagster.run.step import Step
from sqlmesh_dagster.run.sync import report_partitions
from sqlmesh_dagster.run.work import record, results_of_partitions, run_work
from sqlmesh_dagster.upstream.dagster import (
    forget_plan,
    of_newest_materializations,
    output_without_materialization,
    partition_range,
    report_together,
    run_plan,
    run_start,
    without_missing_output_messages,
)

_SHOWN = 10
"""Partitions that a message names."""
_YIELDED = 50
"""Materializations of a model's partitions that are logged one by one; more are recorded together."""
StepEvent = (
    dg.MaterializeResult[None]
    | dg.AssetMaterialization
    | dg.AssetCheckResult
    | dg.AssetCheckEvaluation
    | dg.AssetObservation
    | dg.Output[None]
)


def materialize_model(
    context: dg.OpExecutionContext, project: DagsterProject, asset: ModelAsset
) -> Iterator[StepEvent]:
    """Yields what became of one model, or raises.

    When only checks are selected, the model is audited and not rebuilt.

    Raises:
        SQLMeshDagsterError: The model was not built; see `events`.
    """
    _refuse_problem(asset.model.name, asset.problem)
    step = Step.of(context, project)
    without_missing_output_messages(context)
    selected = tuple(c for c in asset.checks if c[1].key in context.selected_asset_check_keys)
    if asset.spec.key not in context.selected_asset_keys:
        yield from _audit(step, asset.model.name, asset.model.fqn, selected, asset)
        return
    _refuse_unclear_restatement(step)
    is_shared = step.resource.settings.execution == "shared"
    outcome, besides = (shared_outcome if is_shared else own_outcome)(step, asset.model.fqn)
    yield from step.store.take_verified(context.run_id)
    _refuse_failed_upstream(step, asset, outcome, besides)
    failed = [other for other in (outcome, *besides) if not other.is_success]
    held_back = "" if failed else _held_back(step, asset, outcome)
    if failed or held_back:
        _record_built(step, asset, outcome)
    elif outcome.status == "executed":
        yield from _built(step, asset, outcome)
    else:
        yield from _left_alone(step, asset, outcome, selected)
    if not failed and not held_back:
        checks = step.reports.code.get(asset.spec.key, ())
        yield from kept_code_results(checks, step.reports.checks, context.run_id)
    found = _found_before(step, asset, outcome)
    yield from _checked(step, asset, outcome, asset.checks, selected, found)
    for other in failed:
        events.raise_for(step.project.plain_name(other.fqn), other)
    if held_back:
        raise ModelSkippedError(held_back)


def _found_before(step: Step, asset: ModelAsset, outcome: ModelOutcome) -> FoundResults:
    """The last results of a model's checks.

    Of a model that failed, batches that were built later may have been recorded already.
    """
    if not (outcome.audits and step.remembers):
        return {}
    if outcome.is_success:
        return step.reports.checks
    return last_audit_results(step.context.instance, asset.checks)


def _held_back(step: Step, asset: ModelAsset, outcome: ModelOutcome) -> str:
    """Which of the partitions that the run was launched for were not built, and why; empty if all were."""
    wanted = step.options.partitions
    if wanted is None or asset.partitions is None or outcome.status == "up_to_date":
        return ""
    keys = left_out(asset.partitions, wanted, outcome.intervals)
    if not keys:
        return ""
    names = ", ".join(f"`{key}`" for key in keys[:_SHOWN])
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    rest = " What else was asked for is built." if outcome.intervals else ""
    why = outcome.reason or "a signal of a model upstream holds them back"
    return f"Partitions {names}{more} of `{asset.model.name}` were not built: {why}.{rest}"


def _refuse_problem(name: str, problem: str | None) -> None:
    if problem is not None:
        raise ModelDefinitionError(
            f"`{name}` could not be translated for Dagster, so that it is not built here: {problem}\n"
            "Fix it, and reload the code location."
        )


def _refuse_failed_upstream(
    step: Step, asset: ModelAsset, outcome: ModelOutcome, besides: Sequence[ModelOutcome]
) -> None:
    """Fails the step of a model if another one, which had to be built first, failed.

    Raises:
        ModelSkippedError: With the error of the other.
    """
    failed = [o for o in besides if o.fqn in outcome.above and not o.is_success]
    failed.sort(key=lambda other: other.status == "upstream_failed")  # the cause first
    for other in failed:
        name = step.project.plain_name(other.fqn)
        try:
            events.raise_for(name, other)
        except dg.Failure as error:
            raise ModelSkippedError(
                f"Model `{asset.model.name}` was not built, because `{name}` upstream had to be"
                f" built first. {error.description}",
                metadata=error.metadata,
            ) from error


def check_table(
    context: dg.OpExecutionContext, project: DagsterProject, check: TableCheck
) -> Iterator[StepEvent]:
    """Yields the result of a standalone audit, or of an external table's audits.

    Raises:
        ModelDefinitionError: They could not be translated.
    """
    _refuse_problem(check.snapshot, check.problem)
    step = Step.of(context, project)
    selected = tuple(c for c in check.checks if c[1].key in context.selected_asset_check_keys)
    known = step.results.latest().get(check.snapshot)
    if known is not None and known.audits:  # a model that reads the table had it audited first
        yield from _of_audits(step, None, known, selected)
    else:
        yield from _audit(step, check.snapshot, check.snapshot, selected)


def _built(step: Step, asset: ModelAsset, outcome: ModelOutcome) -> Iterator[StepEvent]:
    if not asset.partitions:
        yield events.materialization(asset, outcome)
        return
    built = events.built_partitions(asset, outcome)
    make, older = events.partition_event(asset, outcome), built[:-1]
    if len(older) > _YIELDED:
        report_together(step.context, make, older)
    else:
        yield from (make(key, interval) for key, interval in older)
    yield events.newest_partition_event(asset, outcome, built)
    yield _passed_on(step, asset)


def _record_built(step: Step, asset: ModelAsset, outcome: ModelOutcome) -> None:
    """Records what was built of a model whose step fails, without a run.

    A retry from asset failure takes what the run has not materialized: a model that is materialized
    before its step fails would be left out, and models that read it would be built on the gap.
    """
    record(step.context.instance, asset, outcome, (), step.context.run_id)
    step.report_code_checks(asset)


def _checked(
    step: Step,
    asset: ModelAsset | None,
    outcome: ModelOutcome,
    checks: Checks,
    selected: Checks,
    found: FoundResults,
) -> Iterator[StepEvent]:
    """The results of the audits that ran: of the model, and of its partitions; selected or not.

    Args:
        selected: Those that have an output.
    """
    outputs = {spec.key for _, spec in selected}
    placed = results_of_partitions(step.context.instance, asset, checks, outcome, found)
    own = partition_range(step.context) if step.context.has_partition_key else None
    of_partitions = {spec.key for _, spec in partitioned(asset, checks)} if own else set()
    for result in check_results(checks, outcome, found):
        evaluation = runless_check(result)
        if not result.passed and result.severity is dg.AssetCheckSeverity.WARN:
            step.context.log.warning(f"check {result.check_name}: {result.description}")
        has_output = evaluation.asset_check_key in outputs - of_partitions
        yield result if has_output else evaluation
    for evaluation in placed:
        # Dagster takes what a run of one partition gives as an output for that partition's
        has_output = own is not None and evaluation.partition == own[0]
        yield (
            as_result(evaluation)
            if has_output and evaluation.asset_check_key in outputs
            else evaluation
        )


def _left_alone(
    step: Step, asset: ModelAsset, outcome: ModelOutcome, selected: Checks
) -> Iterator[StepEvent]:
    """Reports a model that was not executed: the table as it is, and the last result of each check."""
    reports, key, table = step.reports, asset.spec.key, outcome.table
    last = reports.assets.get(key)
    is_new = table is not None and has_moved(table, last)
    is_others = is_new and table is not None and _was_built_meanwhile(step, table)
    event = None
    if not step.is_observed(asset, outcome):
        now_in = step.context.run_id if is_others else None
        event = events.unchanged(asset, outcome, last, now_in)
    if table is not None and is_new and event is not None and asset.partitions:
        for _ in report_partitions(step.context.instance, step.project, [table]):
            pass
    yield event or events.observation(asset, outcome)
    if event is None:
        forget_plan(step.context.instance, key)
    if key in reports.awaited:
        yield _passed_on(step, asset)
    if table is None:
        return
    if is_others and selected:
        yield from _audit(step, asset.model.name, asset.model.fqn, selected, asset)
    own = () if is_new else kept_results(asset.checks, outcome, reports.checks)
    beside = (kept(reports.checks[k]) for k in reports.beside.get(key, ()) if k in reports.checks)
    yield from _with_outputs((*own, *beside), selected)
    if event is not None and event.partition is not None and not is_new:
        yield from _kept_in_partitions(step, asset, outcome, event.partition)


def _kept_in_partitions(
    step: Step, asset: ModelAsset, outcome: ModelOutcome, newest: str
) -> Iterator[dg.AssetCheckEvaluation]:
    """The last results of the newest partition, which was just materialized as it was before."""
    checks = partitioned(asset, asset.checks)
    instance, found = step.context.instance, step.reports.checks
    before = last_audit_results_in(instance, checks, newest)
    if asset.partitions is not None:
        kept_ones = kept_partition_results(
            checks, asset.partitions, outcome, found if step.remembers else {}, before
        )
        yield from of_newest_materializations(instance, list(kept_ones))


def _was_built_meanwhile(step: Step, table: BuiltTable) -> bool:
    """Whether a table was built since the Dagster run has begun, by a step of it that is not known here."""
    if step.settings.execution != "shared":
        return False
    begun = run_start(step.context.instance, step.context.run_id)
    is_recent = begun is not None and (table.built_at or 0) >= begun[1] * 1000
    return is_recent and shares_nothing(step)  # which reads all events of the run


def _with_outputs(
    results: Iterable[dg.AssetCheckEvaluation], selected: Checks
) -> Iterator[StepEvent]:
    """A blocking check of the owner's has an output, on which steps downstream depend."""
    waited_for = {spec.key for _, spec in selected if spec.blocking}
    for result in results:
        yield as_result(result) if result.asset_check_key in waited_for else result


def _passed_on(step: Step, asset: ModelAsset) -> dg.Output[None]:
    """Lets the steps downstream start."""
    return output_without_materialization(step.context.output_for_asset_key(asset.spec.key))


def _refuse_unclear_restatement(step: Step) -> None:
    """Refuses a restatement, before anything changes, if it would build models that were not named.

    Raises:
        RestatementRefusedError: A selected model must not be built again, or others read one, and
            the run does not say whether they are built again.
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


def _audit(
    step: Step, name: str, snapshot: str, checks: Checks, asset: ModelAsset | None = None
) -> Iterator[StepEvent]:
    """Runs audits alone, in this step, when nothing else works on the project.

    Where it comes before the run's models, it deploys for them, as the first of their steps would.
    """
    outcomes: list[ModelOutcome] = []
    left = left_to_build(step)
    held = left.held if left.taken else step.results.latest().keys()

    def report(outcome: ModelOutcome) -> None:
        step.results.append(outcome)
        step.report_besides(outcome, [snapshot])

    def work(cancel: CancelToken) -> None:
        outcomes.append(step.sqlmesh_run(cancel).audit(snapshot, report, left.taken, held))

    run_work(step.context, step.resource, work)
    (outcome,) = outcomes
    if outcome.is_success or outcome.status == "upstream_failed":
        step.context.log.warning(f"The audits of {name} did not run: {outcome.reason}.")
    elif outcome.status in ("audited", "audit_failed"):
        yield from _of_audits(step, asset, outcome, checks)
    else:
        events.raise_for(name, outcome)


def _of_audits(
    step: Step, asset: ModelAsset | None, outcome: ModelOutcome, checks: Checks
) -> Iterator[StepEvent]:
    """The results of audits that ran without a build."""
    found = last_audit_results(step.context.instance, checks)
    audited = replace(outcome, intervals=())
    yield from _checked(step, asset, audited, checks, checks, found if step.remembers else {})
