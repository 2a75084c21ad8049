"""A change built in an environment of its own, and measured against production.

Importing this module imports SQLMesh.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone

from sqlmesh_dagster.console import CaptureConsole
from sqlmesh_dagster.definition.markdown import counted
from sqlmesh_dagster.definition.names import check_names
from sqlmesh_dagster.definition.partitions import merged
from sqlmesh_dagster.engine.applied import apply_plan
from sqlmesh_dagster.engine.basis import basis_of
from sqlmesh_dagster.engine.built import read_built
from sqlmesh_dagster.engine.code_reviews import CodeReviewing
from sqlmesh_dagster.engine.context import CaptureContext
from sqlmesh_dagster.engine.measure import (
    Comparison,
    Limits,
    column_changes,
    rows_of,
    table_of,
)
from sqlmesh_dagster.engine.plan import (
    Planning,
    build_plan,
    plain,
    refuse_uncategorized,
    summary_of,
)
from sqlmesh_dagster.engine.reader import audit_arguments
from sqlmesh_dagster.engine.readers import check_readers, model_readers
from sqlmesh_dagster.engine.sides import Change, Sides, key_of
from sqlmesh_dagster.engine.verification import refuse_errors, verify
from sqlmesh_dagster.engine.versions import remember
from sqlmesh_dagster.errors import PlanFailedError, SQLMeshDagsterError
from sqlmesh_dagster.facts.outcomes import ModelOutcome
from sqlmesh_dagster.facts.review import (
    CheckReview,
    ModelReview,
    Past,
    Reader,
    Review,
    cost,
)
from sqlmesh_dagster.facts.rules import Rules
from sqlmesh_dagster.facts.tables import BuiltTables
from sqlmesh_dagster.facts.verification import Verification
from sqlmesh_dagster.guard.cancel import RunCancelled
from sqlmesh_dagster.guard.secrets import mask, masked_texts
from sqlmesh_dagster.options import PlanOptions
from sqlmesh_dagster.production import PRODUCTION
from sqlmesh_dagster.upstream.internals import (
    DeployabilityIndex,
    NoChangesPlanError,
    Plan,
    Snapshot,
    to_datetime,
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reviewing:
    """SQLMesh's part of a Dagster run that reviews a change, in the environment of its session.

    Attributes:
        pasts: What the last runs tell of each model, by its plain name.
        outside: What reads models outside of SQLMesh.
        commit: Of the files.
    """

    planning: Planning
    rules: Rules
    pasts: Callable[[Sequence[str]], Mapping[str, Past]]
    outside: Callable[[Sequence[str]], Sequence[Reader]]
    commit: str | None = None

    def review(
        self,
        options: PlanOptions,
        show: Callable[[Review], None],
        report: Callable[[ModelOutcome], None],
        applied: Callable[[BuiltTables], None],
        verified: Callable[[Verification], None] = lambda verification: None,
    ) -> None:
        """Verifies the files, plans them into the environment, builds it, and measures.

        Args:
            show: Receives the review; where the environment cannot be built, what is known by then.
            report: As in `Planning.plan`, and so are `applied` and `verified`.

        Raises:
            VerificationFailedError: A unit test fails, or the linter finds an error.
            PlanFailedError: SQLMesh cannot plan or build it, in its words.
        """
        session = self.planning.session
        outcomes: list[ModelOutcome] = []
        problems: list[str] = []

        def built(outcome: ModelOutcome) -> None:
            outcomes.append(outcome)
            if not problems:
                report(outcome)

        console = CaptureConsole((), built, self._log, session.cancel)
        with self.planning.opened(console, load=True) as context:
            verification = verify(context, session.cancel)
            verified(verification)
            with self.planning.alone(context):
                remember(context, session.log)
                try:
                    refuse_errors(verification)
                    late = self._build(context, console, options)
                except RunCancelled:
                    raise
                except Exception as error:
                    told = mask(console.errors or _told(error)).strip()
                    problems.append(self._shown_problem(console, error, told))
                    console.finish()
                    show(self._failed(context, options, verification, outcomes, problems[0]))
                    if problems[0] == told:
                        raise
                    name = session.settings.environment
                    text = f"Environment `{name}` could not be built: {problems[0]}"
                    raise PlanFailedError(text) from None
                applied(read_built(session.settings, context.state_reader))
                measured = self._measured(context, options, verification, outcomes)
                show(replace(measured, late_failure=late))

    def _log(self, level: int, message: str) -> None:
        """As the session's; an error of the database is on the page, where its values are masked."""
        is_told = level >= logging.ERROR and self.rules.measure.masked
        self.planning.session.log(level, "SQLMesh reports an error." if is_told else message)

    def _shown_problem(self, console: CaptureConsole, error: Exception, told: str) -> str:
        if isinstance(error, SQLMeshDagsterError):
            return told
        failures = {name: f.kind for name, f in console.failures.items()}
        text = self.rules.measure.shown_error(failures.values() or _kinds(error), told)
        names = ", ".join(f"`{plain(name)}`" for name in sorted(failures))
        return text if text == told or not names else f"{names}: {text}"

    def _build(
        self, context: CaptureContext, console: CaptureConsole, options: PlanOptions
    ) -> str | None:
        """Builds the environment; what failed once it was there, such as `after_all`."""
        session = self.planning.session
        late: str | None = None
        console.begin({}, datetime.now(timezone.utc), session.settings.plan_hint)
        try:
            for plan in self._plans(context, options):
                refuse_uncategorized(plan, session.settings)
                self.planning.refuse_dropping(context, plan)
                with console.planning(), session.cancel.watching(context.interrupter()):
                    failure = apply_plan(context, plan)
                if failure is not None:
                    told = mask(str(failure.__cause__)).strip()
                    late = self.rules.measure.shown_error(_kinds(failure), told)
        except NoChangesPlanError:
            pass  # a new environment that would equal production
        console.finish()
        return late

    def _plans(self, context: CaptureContext, options: PlanOptions) -> Iterator[Plan]:
        """One plan, or two: what is forward-only is built of some days, and all else whole.

        In one plan with previews, SQLMesh builds all that changed of the preview's days only.
        """
        environment = self.planning.session.settings.environment
        plan = build_plan(context, environment, options, enable_preview=False)
        new = [s for s in plan.new_snapshots if s.is_model and not s.is_symbolic]
        whole = [s.name for s in new if plan.deployability_index.is_deployable(s)]
        if len(whole) == len(new):
            yield plan
            return
        begin = self._preview_start(options)
        yield build_plan(
            context,
            environment,
            options.model_copy(update={"start": options.start or begin.isoformat()}),
            backfill_models=[s.name for s in new if s.name not in whole],
            preview_start=begin,
            enable_preview=True,
        )
        if whole:
            yield build_plan(
                context, environment, options, backfill_models=whole, enable_preview=False
            )

    def _preview_start(self, options: PlanOptions) -> datetime:
        now = to_datetime(options.execution_time) if options.execution_time else None
        began = (now or datetime.now(timezone.utc)) - timedelta(self.rules.measure.preview_days)
        return began.replace(hour=0, minute=0, second=0, microsecond=0)

    def _plan_of_production(self, context: CaptureContext, options: PlanOptions) -> Plan:
        return build_plan(context, PRODUCTION, PlanOptions(execution_time=options.execution_time))

    def _failed(
        self,
        context: CaptureContext,
        options: PlanOptions,
        verification: Verification,
        outcomes: Sequence[ModelOutcome],
        problem: str,
    ) -> Review:
        """What is known though the environment could not be built: changes, and which audits failed."""
        plan = self._plan_of_production(context, options)
        checks = tuple(
            CheckReview(plain(o.fqn), a.check_name, None, a.failing_rows, a.blocking)
            for o in outcomes
            for a in o.audits
            if a.failing_rows
        )
        code = self._code_checks(context, plan, verification)
        begun = self._begun(context, plan, verification.test_count)
        return replace(begun, checks=(*checks, *code), problem=problem)

    def _code_checks(
        self, context: CaptureContext, plan: Plan, verification: Verification
    ) -> tuple[CheckReview, ...]:
        cancel = self.planning.session.cancel
        return tuple(CodeReviewing(context, plan, verification, cancel).checks())

    def _begun(
        self,
        context: CaptureContext,
        plan: Plan,
        tests: int,
    ) -> Review:
        settings = self.planning.session.settings
        summary = masked_texts(summary_of(context, plan, tests), ("diff", "other_diffs"))
        return Review(
            environment=settings.environment,
            against=PRODUCTION,
            plan=summary,
            basis=basis_of(context, plan, settings.environment),
            commit=self.commit,
        )

    def _measured(
        self,
        context: CaptureContext,
        options: PlanOptions,
        verification: Verification,
        outcomes: Sequence[ModelOutcome],
    ) -> Review:
        plan = self._plan_of_production(context, options)
        begun = self._begun(context, plan, verification.test_count)
        sides = Sides(context, plan)
        measuring = _Measuring(sides, self.rules)
        models = []
        self.planning.session.log(
            logging.INFO,
            f"Environment `{begun.environment}` is built, and is compared with `{PRODUCTION}`:"
            f" {counted(len(sides.changes), 'model')}.",
        )
        with self.planning.session.cancel.watching(context.interrupter()):
            for change in sides.changes:
                self.planning.session.cancel.check()
                models.append(measuring.model(change))
            checks = tuple(c for change in sides.changes for c in measuring.checks(change))
        names = [model.name for model in models]
        readers = (*model_readers(sides, models), *check_readers(sides), *self.outside(names))
        to_build = [b for b in begun.plan.backfills if not b.is_preview]
        unfinished = {b.name for b in to_build}
        models = [replace(m, is_partial=bool(m.scope) and m.name in unfinished) for m in models]
        pasts = dict(self.pasts([b.name for b in to_build]))
        for outcome in outcomes:
            known = pasts.get(plain(outcome.fqn))
            if outcome.batches and (known is None or known.seconds is None):
                pasts[plain(outcome.fqn)] = _past(outcome, sides)
        costs = tuple(
            cost(b.name, b.what, b.intervals, pasts.get(b.name, Past())) for b in to_build
        )
        every = [s for s in plan.snapshots.values() if s.is_model and not s.is_symbolic]
        return replace(
            begun,
            models=tuple(models),
            readers=readers,
            checks=(*checks, *self._code_checks(context, plan, verification)),
            costs=costs,
            reused=len(every) - len(costs),
            built_seconds=sum(o.duration_ms for o in outcomes) / 1000 or None,
        )


def _told(error: Exception) -> str:
    return (error.description if isinstance(error, SQLMeshDagsterError) else None) or str(error)


def _kinds(error: BaseException) -> tuple[str, ...]:
    """The innermost of an error's causes: SQLMesh wraps what the database says."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (type(error).__name__,)


@dataclass(frozen=True)
class _Measuring:
    """What a change did, model by model."""

    sides: Sides
    rules: Rules

    def model(self, change: Change) -> ModelReview:
        """One model, measured; an error of the database is noted, and ends no review."""
        review = ModelReview(change.name, change.kind, change.category)
        if self.sides.is_same_table(change):
            return replace(review, is_same_table=True)
        try:
            return self._measured(change, review)
        except RunCancelled:
            raise
        except Exception as error:
            _log.info(
                "Could not measure `%s`.", change.name, exc_info=not self.rules.measure.masked
            )
            return replace(review, notes=(f"It could not be compared: {self._line_of(error)}",))

    def _measured(self, change: Change, review: ModelReview) -> ModelReview:
        snapshot = change.after or change.before
        assert snapshot is not None
        adapter = self.sides.context.snapshot_evaluator.get_adapter(snapshot.model_gateway)
        names = (self.sides.table_before(change), self.sides.table_after(change))
        before, after = (table_of(adapter, name) if name else None for name in names)
        if before is None or after is None:
            return replace(
                review,
                rows_before=rows_of(adapter, before) if before else None,
                rows_after=rows_of(adapter, after) if after else None,
            )
        measure = self.rules.measure
        comparison = Comparison(
            adapter,
            before,
            after,
            Limits(
                measure.max_rows,
                measure.sample_rows,
                lambda column: self._is_masked(change.name, column),
            ),
            key=key_of(snapshot),
            part=self.sides.common_part(change),
            newest=self.sides.newest_part(change),
        )
        found = comparison.measure()
        notes = [*found.notes, *self.sides.notes(change)]
        return replace(
            review,
            columns=tuple(column_changes(before, after)),
            rows_before=found.rows_before,
            rows_after=found.rows_after,
            comparison=found.comparison,
            profiles=found.profiles,
            scope=found.scope,
            notes=tuple(notes),
            samples=tuple(found.samples),
            is_preview=self.sides.is_preview(change),
        )

    def _is_masked(self, model: str, column: str) -> bool:
        """Also what is made of a masked column, as far as lineage tells; where it doesn't, all of it."""
        if not self.rules.measure.masked:
            return False
        return self.rules.measure.is_masked(model, column) or any(
            self.rules.measure.is_masked(*source) for source in self.sides.made_of(model, column)
        )

    def _line_of(self, error: Exception) -> str:
        lines = mask(str(error)).strip().splitlines() or [type(error).__name__]
        return self.rules.measure.shown_error(_kinds(error), lines[0])

    def checks(self, change: Change) -> Iterator[CheckReview]:
        """The audits of a model on both sides."""
        if self.sides.is_same_table(change) and change.kind == "modified indirectly":
            return  # the same rows, the same audits
        before = self._found(change.before, is_before=True)
        after = self._found(change.after, is_before=False)
        for name in dict.fromkeys([*before, *after]):
            was, is_now = before.get(name), after.get(name)
            blocking, problem = (is_now or was or (None, True, None))[1:]
            yield CheckReview(
                change.name,
                name,
                was[0] if was else None,
                is_now[0] if is_now else None,
                blocking,
                problem if is_now else None,
            )

    def _found(
        self, snapshot: Snapshot | None, *, is_before: bool
    ) -> dict[str, tuple[int | None, bool, str | None]]:
        """Rows that each audit finds, whether it blocks, and why it could not run."""
        if snapshot is None or not snapshot.model.audits_with_args:
            return {}
        sides = self.sides
        calls = [(audit.name, audit_arguments(a)) for audit, a in snapshot.model.audits_with_args]
        names = check_names(calls)
        done = sides.done(snapshot, is_before=is_before)
        if not done:
            return {}
        try:
            results = sides.context.snapshot_evaluator.audit(
                snapshot,
                snapshots=sides.before_by_name if is_before else sides.after_by_name,
                start=min(low for low, _ in done),
                end=max(high for _, high in done),
                deployability_index=DeployabilityIndex.all_deployable()
                if is_before
                else sides.index,
            )
        except RunCancelled:
            raise
        except Exception as error:
            _log.info(
                "Could not audit `%s`.", snapshot.name, exc_info=not self.rules.measure.masked
            )
            return dict.fromkeys(names, (None, True, self._line_of(error)))
        return {
            name: (None if r.skipped else r.count or 0, r.blocking, None)
            for name, r in zip(names, results, strict=True)
        }


def _past(outcome: ModelOutcome, sides: Sides) -> Past:
    snapshot = sides.after_by_name.get(outcome.fqn)
    intervals = 1
    if snapshot is not None and snapshot.is_incremental and outcome.intervals:
        unit = snapshot.node.interval_unit
        spent = sum(high - low for low, high in merged(outcome.intervals))
        intervals = max(1, spent // unit.milliseconds) if unit else 1
    rows = None if outcome.row_count is None else outcome.row_count // intervals
    return Past(outcome.duration_ms / 1000 / intervals, rows)
