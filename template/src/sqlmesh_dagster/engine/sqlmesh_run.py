"""One `sqlmesh run`, or the audits of one table: from a prepared environment to reported outcomes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone

from sqlmesh_dagster.console import CaptureConsole, as_error
from sqlmesh_dagster.definition.records import Manifest
from sqlmesh_dagster.engine.applying import Refused
from sqlmesh_dagster.engine.auditing import audit_alone, evaluate_audits, upstream_of_audits
from sqlmesh_dagster.engine.built import tables_of
from sqlmesh_dagster.engine.context import CaptureContext
from sqlmesh_dagster.engine.deployment import deployed_snapshots, prepare_environment
from sqlmesh_dagster.engine.gaps import Upstream, find_upstream
from sqlmesh_dagster.engine.once import Marks, Once, run_after_all
from sqlmesh_dagster.engine.rebuild import Freshness
from sqlmesh_dagster.engine.restatement import Restatement, plan_restatement
from sqlmesh_dagster.engine.rivals import rivals_warning
from sqlmesh_dagster.engine.session import Session
from sqlmesh_dagster.facts.ledger import CANCELLED
from sqlmesh_dagster.facts.outcomes import ErrorOutcome, ModelOutcome
from sqlmesh_dagster.facts.staleness import Known
from sqlmesh_dagster.guard.garbage import freeze_models, rare_collection
from sqlmesh_dagster.guard.locks import RivalStep
from sqlmesh_dagster.options import CheckedRunOptions
from sqlmesh_dagster.production import PRODUCTION
from sqlmesh_dagster.settings import ProjectSettings
from sqlmesh_dagster.upstream.dagster import is_process_of_run
from sqlmesh_dagster.upstream.internals import (
    CompletionStatus,
    DeployabilityIndex,
    Snapshot,
    SQLMeshError,
    missing_intervals,
)


@dataclass(frozen=True)
class SQLMeshRun:
    """SQLMesh's part of a Dagster run.

    Attributes:
        manifest: The project's files, to see local changes.
        known: What is known of the models' inputs; without it no model is stale.
        marks: Where each step runs SQLMesh alone: what the steps tell each other.
    """

    session: Session
    options: CheckedRunOptions
    manifest: Manifest
    known: Known | None = None
    marks: Marks | None = None

    def run_models(
        self,
        fqns: Collection[str],
        report: Callable[[ModelOutcome], None],
        held: Collection[str] = (),
    ) -> None:
        """One `sqlmesh run` of these models, and of what they lack upstream; reports the outcome of each.

        Deploys local changes first, or refuses, as `settings.undeployed_changes` says. Returns
        normally whatever happens to the models; an error of the whole run is reported for every model.

        Args:
            held: Models that must not be built now, though one of these may read them.
        """
        session, options = self.session, self.options
        settings, cancel = session.settings, session.cancel
        freshness: Freshness | None = None

        def complete(outcome: ModelOutcome) -> None:
            report(freshness.with_reason(outcome) if freshness is not None else outcome)

        console = CaptureConsole(fqns, complete, session.log, cancel)
        try:
            with self._prepared(console, fqns, held) as (context, refused):
                _limit_environment_wait(context, settings)
                with rare_collection():
                    snapshots, plan = deployed_snapshots(context, settings)
                    console.ledger.refused(refused.errors, refused.below)
                    fqns = [name for name in fqns if name not in refused.names]
                    held = {*held, *refused.names}
                    execution_time = options.now or datetime.now(timezone.utc)
                    restated = self._restatement(snapshots, fqns, execution_time)
                    upstream = self._upstream(snapshots, fqns, restated, held)
                    if self.known is not None:
                        freshness = Freshness(
                            self.known, snapshots, settings, options, execution_time
                        )
                    begun = console.begin(
                        snapshots,
                        execution_time,
                        settings.plan_hint,
                        plan,
                        restated.below if restated else None,
                        upstream.above,
                        tables_of(settings, snapshots),
                        holds_last=_has_after_all(context, settings),
                    )
                if is_process_of_run():
                    freeze_models()
                deployed = [name for name in begun if name not in refused.names]
                status: CompletionStatus | None = None
                if deployed:
                    context.selected = {*deployed, *upstream.along}
                    context.upstream = upstream
                    context.restatement = restated
                    if freshness is not None and restated is None:
                        context.rebuild = freshness.rebuild(session.log)
                    # in this thread, only `before_all` and `after_all` run queries
                    with (
                        cancel.watching(context.interrupter()),
                        self._cleaned_up(context),
                    ):
                        status = context.run(
                            settings.environment,
                            start=restated.start if restated else options.start,
                            end=restated.end if restated else options.end,
                            execution_time=execution_time,
                            # its span is of what is done or was asked for, whatever the cron
                            ignore_cron=options.ignore_cron or restated is not None,
                            skip_janitor=True,  # it would run first, and fail each model
                        )
                        cancel.now_does("")
                        self._look_for_rivals(context, {n: snapshots[n] for n in deployed})
                self._end(context, console, snapshots, status, execution_time)
        except RivalStep:
            raise
        except (
            BaseException
        ) as error:  # a macro may call `sys.exit`; no signal raises in this thread
            self._note_failure()
            if not cancel.is_cancelled:
                if not console.fail(as_error(error)):
                    session.log(logging.ERROR, f"The sqlmesh run failed after its models: {error}")
                return
        if cancel.reason:
            console.fail(ErrorOutcome("StateLockError", cancel.reason))
        else:
            console.finish(CANCELLED if cancel.is_cancelled else None)

    def _end(
        self,
        context: CaptureContext,
        console: CaptureConsole,
        snapshots: Mapping[str, Snapshot],
        status: CompletionStatus | None,
        execution_time: datetime,
    ) -> None:
        """What the last step of a Dagster run does, where each runs SQLMesh alone."""
        if context.once is None:
            return
        name, options = self.session.settings.environment, self.options
        with self.session.cancel.watching(context.interrupter()):
            failure = context.once.after(
                lambda: run_after_all(
                    context, name, snapshots, options.start, options.end, execution_time
                ),
                lambda: self._clean_up(context),
                is_success=status is not None and not status.is_failure,
            )
        if failure is not None:
            console.ledger.failed_besides(as_error(failure))

    def _look_for_rivals(self, context: CaptureContext, snapshots: Mapping[str, Snapshot]) -> None:
        """Before the janitor, which makes one entry of many."""
        said = "" if self.session.cancel.is_cancelled else rivals_warning(context, snapshots)
        if said:
            self.session.log(logging.WARNING, said)

    def _note_failure(self) -> None:
        """So that other steps don't wait for this one to be done."""
        if self.marks is not None:
            self.marks.finish(is_success=False)

    @contextmanager
    def _cleaned_up(self, context: CaptureContext) -> Iterator[None]:
        """The janitor follows, also after an `after_all` that fails."""
        failure: SQLMeshError | None = None
        try:
            yield
        except SQLMeshError as error:
            failure = error
        if context.once is None:
            self._clean_up(context)
        if failure is not None:
            raise failure

    def _clean_up(self, context: CaptureContext) -> None:
        """SQLMesh's janitor, as `sqlmesh run` of production does it, with the run's own materializations.

        What it cannot drop is a warning: the models are built, and the next run tries again.
        """
        session = self.session
        is_wanted = session.settings.environment == PRODUCTION and not self.options.skip_janitor
        if not is_wanted or session.cancel.is_cancelled:
            return
        context.config.janitor.warn_on_delete_failure = False  # an error is a warning here
        try:
            context.run_janitor(ignore_ttl=False)
        except Exception as error:
            session.log(
                logging.WARNING,
                "SQLMesh's janitor could not drop all that has expired; the models are not affected,"
                f" and the next run tries again. {error}",
            )

    def audit(
        self,
        name: str,
        report: Callable[[ModelOutcome], None] = lambda outcome: None,
        coming: Collection[str] = (),
        held: Collection[str] = (),
    ) -> ModelOutcome:
        """Runs the audits of one deployed model, external table or standalone audit; rebuilds nothing.

        What is due of an external table or a standalone audit is evaluated and recorded as done, as
        `sqlmesh run` does. Otherwise every interval that is recorded as done is covered, unless the
        options narrow it.

        Args:
            name: A model's FQN, or a standalone audit's name.
            report: Receives the outcomes of external tables that are audited with it.
            coming: Models that this Dagster run builds afterwards.
            held: As in `run_models`; without any that comes, the models of which this run has said what became.

        Raises:
            SQLMeshDagsterError: The environment or the database is not available.
        """
        outcomes: dict[str, ModelOutcome] = {}
        session, options, settings = self.session, self.options, self.session.settings

        def keep(outcome: ModelOutcome) -> None:
            outcomes[outcome.fqn] = outcome

        console = CaptureConsole([name], keep, session.log, session.cancel, audit_only=True)
        with self._prepared(console, coming or None, held, audited=name) as (context, _):
            snapshots, plan = deployed_snapshots(context, settings)
            execution_time = options.now or datetime.now(timezone.utc)
            upstream = None if options.is_restatement else upstream_of_audits(name, snapshots)
            above = upstream.above if upstream else None
            if not console.begin(snapshots, execution_time, settings.plan_hint, plan, above=above):
                return outcomes[name]
            if upstream:
                evaluate_audits(context, settings, name, upstream, options, execution_time)
            if not console.ledger.is_reported(name) and not audit_alone(
                context, settings, name, snapshots, options, execution_time
            ):
                return ModelOutcome(name, "up_to_date", reason="it has never been built")
        console.finish(("up_to_date", "SQLMesh found nothing to audit"))
        for other in outcomes.values():
            if other.fqn != name:
                report(other)
        return outcomes[name]

    def _restatement(
        self, snapshots: Mapping[str, Snapshot], fqns: Collection[str], execution_time: datetime
    ) -> Restatement | None:
        wanted = [name for name in fqns if name in snapshots]
        if not self.options.is_restatement or not wanted:
            return None
        return plan_restatement(
            snapshots,
            wanted,
            self.options,
            execution_time,
            self.session.log,
            is_production=self.session.settings.environment == PRODUCTION,
        )

    def _with_missing(
        self, context: CaptureContext, fqns: Collection[str], held: Collection[str]
    ) -> set[str]:
        """These models, and those that a run of them builds first: as few as can be are locked."""
        settings, options = self.session.settings, self.options
        snapshots, _ = deployed_snapshots(context, settings)
        upstream = self._upstream(snapshots, fqns, None, held)
        is_production = settings.environment == PRODUCTION
        above = [snapshots[name] for name in upstream.order]
        missing = missing_intervals(
            above,
            execution_time=options.now,
            deployability_index=None if is_production else DeployabilityIndex.create(above),
            ignore_cron=options.ignore_cron or options.is_restatement,
        )
        return {*fqns, *(upstream.along & {snapshot.name for snapshot in missing})}

    def _upstream(
        self,
        snapshots: Mapping[str, Snapshot],
        fqns: Collection[str],
        restated: Restatement | None,
        held: Collection[str],
    ) -> Upstream:
        below = restated.unselected if restated else set()
        taken = {name for name in (*fqns, *below) if name in snapshots}
        return find_upstream(snapshots, taken, held, self.session.settings.upstream_policy)

    @contextmanager
    def _prepared(
        self,
        console: CaptureConsole,
        fqns: Collection[str] | None,
        held: Collection[str],
        audited: str = "",
    ) -> Iterator[tuple[CaptureContext, Refused]]:
        """A context whose environment is prepared, and what could not be deployed; with all locks.

        Args:
            fqns: Models that are built, now or afterwards; None if only audits run.
            held: As in `audit`.
            audited: What is audited alone, now.
        """
        session, settings = self.session, self.session.settings
        with session.opened(console) as context, session.state_locked(context) as lock:
            refused = prepare_environment(
                context,
                settings,
                self.options,
                self.manifest,
                console,
                session.log,
                lock,
                fqns,
                held,
            )
            context.once = Once(self.marks, lock.once) if self.marks else None
            with (
                lock.alone()
                if settings.execution == "shared"
                else lock.on_models(
                    [audited] if audited else self._with_missing(context, fqns or (), held)
                )
            ):
                yield context, refused


def _has_after_all(context: CaptureContext, settings: ProjectSettings) -> bool:
    """Whether the environment has statements that run after its models."""
    statements = context.state_reader.get_environment_statements(settings.environment)
    return any(statement.after_all for statement in statements)


def _limit_environment_wait(context: CaptureContext, settings: ProjectSettings) -> None:
    """Caps SQLMesh's wait for an environment that a plan is updating: its own default is six hours."""
    run = context.config.run
    run.environment_check_max_wait = int(min(run.environment_check_max_wait, settings.wait_timeout))
    run.environment_check_interval = min(run.environment_check_interval, 5)
