"""A plan of an environment, shown and, when asked to, applied; and its invalidation.

Importing this module imports SQLMesh.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone

import duckdb
from sqlglot.errors import SqlglotError

from sqlmesh_dagster import errors
from sqlmesh_dagster.console import CaptureConsole
from sqlmesh_dagster.definition.names import nearest, split_fqn
from sqlmesh_dagster.engine.applied import apply_plan
from sqlmesh_dagster.engine.auditing import audit_alone
from sqlmesh_dagster.engine.basis import basis_of
from sqlmesh_dagster.engine.built import read_built
from sqlmesh_dagster.engine.context import CaptureContext
from sqlmesh_dagster.engine.deployment import deployed_snapshots
from sqlmesh_dagster.engine.explanation import reason_of
from sqlmesh_dagster.engine.ownership import refuse_dropping
from sqlmesh_dagster.engine.session import Session
from sqlmesh_dagster.engine.verification import refuse_errors, verify
from sqlmesh_dagster.engine.versions import remember
from sqlmesh_dagster.facts.outcomes import ModelOutcome
from sqlmesh_dagster.facts.plan_summary import (
    PlannedBackfill,
    PlannedChange,
    PlanSummary,
)
from sqlmesh_dagster.facts.review import Basis
from sqlmesh_dagster.facts.tables import BuiltTables
from sqlmesh_dagster.facts.verification import Verification
from sqlmesh_dagster.guard.secrets import masked_texts
from sqlmesh_dagster.options import CheckedRunOptions, PlanOptions
from sqlmesh_dagster.production import PRODUCTION
from sqlmesh_dagster.settings import ProjectSettings, environment_name
from sqlmesh_dagster.upstream.internals import (
    NoChangesPlanError,
    Plan,
    Snapshot,
    SQLMeshError,
    format_intervals,
)
from sqlmesh_dagster.upstream.sqlmesh import has_state

_PLAIN_NAME = re.compile(r"\+?[\w.]+\+?")
"""A selector that is a model's name, perhaps with what is upstream or downstream of it."""


@dataclass(frozen=True)
class Planning:
    """SQLMesh's part of a Dagster run that plans an environment, which its session names.

    Attributes:
        audited: Standalone audits and external tables whose audits run after an applied plan, too.
        former: Names that were in the project's files once, and are not now.
    """

    session: Session
    audited: Sequence[str] = ()
    former: Sequence[str] = ()

    def plan(
        self,
        options: PlanOptions,
        show: Callable[[PlanSummary], None],
        report: Callable[[ModelOutcome], None],
        applied: Callable[[BuiltTables], None],
        verified: Callable[[Verification], None] = lambda verification: None,
        approve: Callable[[Basis], None] = lambda basis: None,
        reviewed: str | None = None,
        run: str | None = None,
        commit: str | None = None,
    ) -> None:
        """Verifies the files, plans them, and applies the plan that was shown.

        Args:
            show: Receives the plan before anything is changed.
            report: Receives each model that was built, after the environment was changed.
            applied: Receives what the environment shows then.
            verified: Receives what unit tests and linter say of the files.
            approve: Receives what the plan stands on, before it is applied; may raise.
            reviewed: The environment in which it was reviewed.
            run: The Dagster run, and the commit of the files, for the record of what production ran.

        Raises:
            VerificationFailedError: A unit test fails, or the linter finds an error.
            PlanFailedError: SQLMesh cannot plan or apply it, in its words.
        """
        session = self.session
        console = CaptureConsole((), report, session.log, session.cancel)
        with self.opened(console, load=True) as context:
            verification = verify(context, session.cancel)
            verified(verification)
            refuse_errors(verification)
            with self.alone(context):
                _refuse_unknown_source(context, options)
                _refuse_unknown_models(context, session.settings.environment, options)
                plan = _build_even_unchanged(context, session.settings.environment, options)
                summary = summary_of(context, plan, verification.test_count)
                show(masked_texts(summary, ("diff", "other_diffs")))
                if not options.apply:
                    return
                refuse_uncategorized(plan, session.settings)
                self.refuse_dropping(context, plan)
                approve(basis_of(context, plan, reviewed or session.settings.environment))
                remember(context, session.log)
                console.begin({}, datetime.now(timezone.utc), session.settings.plan_hint)
                with console.planning(), session.cancel.watching(context.interrupter()):
                    failure = apply_plan(context, plan)
                    self._audit_the_rest(context, console)
                console.finish()
                if session.settings.environment == PRODUCTION:
                    remember(context, session.log, run, commit)
                applied(read_built(session.settings, context.state_reader))
                if failure is not None:
                    raise failure

    def refuse_dropping(self, context: CaptureContext, plan: Plan) -> None:
        """Refuses a plan that would drop another project's models.

        Raises:
            OtherProjectError: It would.
        """
        diff = plan.context_diff
        if diff.is_new_environment:  # it begins without them
            return
        removed = context.state_reader.get_snapshots(diff.removed_snapshots).values()
        # a model that is built again as it is has two snapshots, and its name stays
        gone = [s for s in removed if s.name not in {p.name for p in plan.snapshots.values()}]
        deployed = {s.name for s in gone} | {s.name for s in plan.snapshots.values()}
        deployed -= {s.name for s in diff.added}
        refuse_dropping(context, self.session.settings, self.former, deployed, gone)

    def _audit_the_rest(self, context: CaptureContext, console: CaptureConsole) -> None:
        """Runs the audits that the plan did not run, because it had nothing to build for them."""
        settings = self.session.settings
        snapshots, _ = deployed_snapshots(context, settings)
        at = datetime.now(timezone.utc)
        for name in self.audited:
            if name in snapshots and not console.ledger.has_audited(name):
                audit_alone(context, settings, name, snapshots, CheckedRunOptions(), at)

    def invalidate(self, *, is_dropped: bool) -> bool:
        """Invalidates an environment.

        Args:
            is_dropped: Whether its views and schemas go at once, and not with the next janitor.

        Returns:
            Whether it existed.
        """
        session = self.session
        console = CaptureConsole((), lambda outcome: None, session.log, session.cancel)
        with self.opened(console, load=False) as context, self.alone(context):
            name = session.settings.environment
            if not has_state(context) or context.state_reader.get_environment(name) is None:
                return False
            context.invalidate_environment(name, sync=is_dropped)
            return True

    @contextmanager
    def opened(self, console: CaptureConsole, *, load: bool) -> Iterator[CaptureContext]:
        """A context; clear errors come from the console, as SQLMesh's exception has no reason."""
        try:
            with self.session.opened(console, load=load) as context:
                yield context
        except (SQLMeshError, duckdb.Error) as error:
            cause = console.errors or reason_of(error)
            raise errors.PlanFailedError(
                f"The plan of environment `{self.session.settings.environment}` failed: {_told(cause)}"
            ) from error

    @contextmanager
    def alone(self, context: CaptureContext) -> Iterator[None]:
        """Meanwhile nobody else works on the state."""
        with self.session.state_locked(context) as lock, lock.alone():
            yield


def _told(cause: str) -> str:
    """Each line once, and a likely cause where audits failed: a new warehouse is empty."""
    lines = list(dict.fromkeys(cause.strip().splitlines()))
    if any("audit error" in line for line in lines):
        lines.append(
            "If the tables that these models read are not loaded yet, load them first: `poe load`."
        )
    return "\n".join(lines)


def build_plan(
    context: CaptureContext,
    environment: str,
    options: PlanOptions,
    *,
    backfill_models: Sequence[str] | None = None,
    preview_start: datetime | None = None,
    enable_preview: bool | None = None,
) -> Plan:
    """The plan of an environment; nothing is changed yet.

    Args:
        backfill_models: What is built of it; by default all.
        preview_start: From when on forward-only changes are built.
        enable_preview: Whether forward-only changes are built again; by default as the config says.
    """
    with _selection_told(options):
        return context.plan_builder(
            environment,
            start=options.start,
            end=options.end,
            execution_time=options.execution_time,
            create_from=options.create_from,
            select_models=options.select_models or None,
            skip_backfill=options.skip_backfill,
            forward_only=options.forward_only or None,
            effective_from=options.effective_from,
            include_unmodified=options.include_unmodified,
            preview_start=preview_start,
            enable_preview=enable_preview,
            backfill_models=backfill_models,
            skip_tests=True,
            skip_linter=True,
        ).build()


@contextmanager
def _selection_told(options: PlanOptions) -> Iterator[None]:
    """Names `select_models` where SQLMesh cannot read it, or finds nothing by it.

    Raises:
        InvalidSettingError: With the option and its value.
    """
    try:
        yield
    except (SqlglotError, RuntimeError, SQLMeshError) as error:
        is_of_selection = not isinstance(error, SQLMeshError) or "Selector" in str(error)
        if not options.select_models or not is_of_selection:
            raise
        raise errors.InvalidSettingError(
            f"`select_models` is `{' '.join(options.select_models)}`, with which SQLMesh selects nothing: {error}"
            " Use names of models, such as `marts.orders`, or SQLMesh's selectors, such as `+marts.orders` or"
            " `tag:daily`."
        ) from error


def _refuse_unknown_source(context: CaptureContext, options: PlanOptions) -> None:
    """SQLMesh begins with nothing then, and does not say so.

    Raises:
        InvalidSettingError: `create_from` is no environment.
    """
    source = options.create_from
    if source is None or source == PRODUCTION:
        return
    names = [found.name for found in context.state_reader.get_environments_summary()]
    if environment_name(source) not in names:
        raise errors.InvalidSettingError(
            f"`create_from` is `{source}`, which is no environment. Use one of:"
            f" {', '.join(sorted(names)) or 'none is there yet'}; or leave it out."
        )


def _refuse_unknown_models(context: CaptureContext, environment: str, options: PlanOptions) -> None:
    """SQLMesh leaves out a name that it does not know, if another one of the list selects something.

    Raises:
        InvalidSettingError: A name of `select_models` is that of no model, neither here nor in the environment.
    """
    asked = [name for name in options.select_models if _PLAIN_NAME.fullmatch(name)]
    if not asked:
        return
    deployed = context.state_reader.get_environment(environment)
    fqns = {*context.models, *(s.name for s in (deployed.snapshots if deployed else ()))}
    known = {
        ".".join(parts[place:]).lower()
        for parts in map(split_fqn, fqns)
        for place in range(max(len(parts) - 1, 1))
    }
    for name in asked:
        plain = name.strip("+").lower()
        if plain not in known:
            near = nearest(plain, known)
            hint = f" Did you mean `{near}`?" if near else ""
            raise errors.InvalidSettingError(
                f"`select_models` has `{name}`, which is the name of no model.{hint} Use names of models, such as"
                " `marts.orders`, or SQLMesh's selectors, such as `tag:daily`."
            )


def _build_even_unchanged(context: CaptureContext, environment: str, options: PlanOptions) -> Plan:
    """As `build_plan`; a new environment without any change shows what production does."""
    try:
        return build_plan(context, environment, options)
    except NoChangesPlanError:
        return build_plan(
            context, environment, options.model_copy(update={"include_unmodified": True})
        )


def refuse_uncategorized(plan: Plan, settings: ProjectSettings) -> None:
    """Refuses a plan with a change that a person has to categorize.

    Raises:
        PlanFailedError: There is one.
    """
    names = ", ".join(f"`{plain(snapshot.name)}`" for snapshot in plan.uncategorized)
    if names:
        raise errors.PlanFailedError(
            f"The project's `auto_categorize_changes` leaves it to a person to say whether the changes"
            f" of {names} are breaking. Run `{settings.plan_command(plan.environment.name)}`."
        )


def summary_of(context: CaptureContext, plan: Plan, unit_tests: int) -> PlanSummary:
    """What a plan would do, as plain data."""
    diff = plan.context_diff
    other = []
    if diff.has_requirement_changes:
        other.append(("Requirements", diff.requirements_diff()))
    if diff.has_environment_statements_changes:
        found = diff.environment_statements_diff(include_python_env=True)
        other += [("Environment statements", text) for _, text in found]
    return PlanSummary(
        environment=plan.environment.name,
        plan_id=plan.plan_id,
        is_new=diff.is_new_environment and not diff.previous_plan_id,
        is_recreated=diff.is_new_environment and bool(diff.previous_plan_id),
        is_empty=not (plan.has_changes or plan.requires_backfill or plan.has_unmodified_unpromoted),
        create_from=diff.create_from if diff.create_from_env_exists else None,
        changes=tuple(_changes(plan)),
        backfills=tuple(backfills_of(plan)) if plan.requires_backfill else (),
        other_diffs=tuple(other),
        unit_tests=unit_tests,
    )


def _changes(plan: Plan) -> Iterator[PlannedChange]:
    diff = plan.context_diff
    for snapshot_id in sorted(diff.added):
        snapshot = plan.snapshots[snapshot_id]
        yield PlannedChange(plain(snapshot.name), "added", _category(snapshot))
    for name, (snapshot, _) in sorted(diff.modified_snapshots.items()):
        if diff.directly_modified(name):
            kind = "modified"
        elif diff.indirectly_modified(name):
            kind = "modified indirectly"
        else:
            kind = "metadata"
        text = "" if kind == "modified indirectly" else _tidy(diff.text_diff(name))
        yield PlannedChange(plain(name), kind, _category(snapshot), text)
    for snapshot_id in sorted(diff.removed_snapshots):
        yield PlannedChange(plain(snapshot_id.name), "removed")


def _tidy(diff: str) -> str:
    """A diff without the names of its files, which are empty."""
    return "\n".join(
        line for line in diff.splitlines() if line.strip() and line.strip() not in ("---", "+++")
    )


def _category(snapshot: Snapshot) -> str:
    category = snapshot.change_category
    if category is None:
        return "not categorized"
    words = category.name.lower().split("_")
    text = " ".join(words).replace("non breaking", "non-breaking")
    is_forward_only = snapshot.is_forward_only and "forward" not in words
    return (
        f"forward-only, {text}" if is_forward_only else text.replace("forward only", "forward-only")
    )


def backfills_of(plan: Plan) -> Iterator[PlannedBackfill]:
    """What a plan builds."""
    for missing in plan.missing_intervals:
        snapshot = plan.snapshots[missing.snapshot_id]
        number: int | None = None
        if snapshot.is_incremental:
            what = format_intervals(missing.merged_intervals, snapshot.node.interval_unit)
            number = len(missing.intervals)
        else:
            what = "recreate view" if snapshot.is_view else "full refresh"
        yield PlannedBackfill(
            plain(snapshot.name),
            what,
            number,
            is_preview=not plan.deployability_index.is_deployable(snapshot),
        )


def plain(name: str) -> str:
    """A name without quotes."""
    return name.replace('"', "")
