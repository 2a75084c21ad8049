"""Takes production back to an earlier version: by a plan of SQLMesh, of snapshots that it has kept.

No file of the project is loaded, so that it works though they are broken. Importing this module imports
SQLMesh.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timezone

from sqlglot import exp

from sqlmesh_dagster import errors
from sqlmesh_dagster.console import CaptureConsole
from sqlmesh_dagster.engine.applied import apply_plan
from sqlmesh_dagster.engine.built import read_built
from sqlmesh_dagster.engine.context import CaptureContext
from sqlmesh_dagster.engine.plan import Planning, backfills_of, plain, summary_of
from sqlmesh_dagster.engine.reader import project_names
from sqlmesh_dagster.engine.versions import (
    begin_rollback,
    known_versions,
    remember,
    snapshot_ids,
    statements_of,
    version_of,
)
from sqlmesh_dagster.facts.plan_summary import PlannedBackfill
from sqlmesh_dagster.facts.tables import BuiltTables
from sqlmesh_dagster.facts.versions import (
    ProductionVersion,
    Rollback,
    others_than,
    version_before,
    version_named,
)
from sqlmesh_dagster.guard.secrets import masked_texts
from sqlmesh_dagster.options import RollbackOptions
from sqlmesh_dagster.production import PRODUCTION
from sqlmesh_dagster.upstream.internals import (
    ContextDiff,
    DeployabilityIndex,
    Environment,
    Plan,
    PlanBuilder,
    Snapshot,
)

_BY_FILES = "The way that is left: the files of then, and `poe promote --without-review`, which builds them again."
_MOST_NAMES = 10


@dataclass(frozen=True)
class RollingBack:
    """SQLMesh's part of a Dagster run that rolls production back.

    Attributes:
        run: The id of the Dagster run.
    """

    planning: Planning
    run: str

    def roll_back(
        self,
        options: RollbackOptions,
        show: Callable[[Rollback], None],
        applied: Callable[[BuiltTables, Collection[str]], None],
    ) -> None:
        """Shows what production goes back to, and lets it.

        Args:
            show: Receives it before anything is changed.
            applied: Receives what production shows then, and the names of models that it no longer has.

        Raises:
            RollbackRefusedError: It is not known, or it cannot be undone; nothing is changed.
        """
        session = self.planning.session
        console = CaptureConsole((), lambda outcome: None, session.log, session.cancel)
        with self.planning.opened(console, load=False) as context, self.planning.alone(context):
            environment = context.state_reader.get_environment(PRODUCTION)
            if environment is None:
                raise errors.EnvironmentMissingError(
                    f"Environment `{PRODUCTION}` does not exist, so that there is nothing to roll back."
                )
            remember(context, session.log)
            rollback, plan = self._planned(context, environment, options)
            show(rollback)
            if not options.apply:
                return
            begin_rollback(context, self._begun(rollback, plan))
            console.begin({}, datetime.now(timezone.utc), session.settings.plan_hint)
            with console.planning(), session.cancel.watching(context.interrupter()):
                _recreate_views(context, plan)
                session.cancel.check()
                failure = apply_plan(context, plan)
                _drop_orphans(context, environment, plan)
            console.finish()
            gone = [s.name for s in plan.context_diff.removed_snapshots]
            applied(read_built(session.settings, context.state_reader), gone)
            if failure is not None:
                raise failure

    def _planned(
        self, context: CaptureContext, environment: Environment, options: RollbackOptions
    ) -> tuple[Rollback, Plan]:
        known = known_versions(context)
        found = version_of(context, environment)
        now = known.get(environment.plan_id, found)
        if options.of is not None and options.of != now.plan:
            raise errors.RollbackRefusedError(
                f"Production has moved since the plan was shown: from plan `{options.of}` to"
                f" `{now.plan}`. Look at it again."
            )
        is_finished = bool(environment.finalized_ts)
        if options.to is not None:
            target = version_named(options.to, now, known, is_finished=is_finished)
        elif now.restores and not is_finished:
            target = known.get(now.restores, now)  # a rollback that was killed goes on
        else:
            target = version_before(now, known)
        plan = _plan_of(context, environment, target)
        _refuse_what_cannot_be_undone(context, plan)
        summary = masked_texts(summary_of(context, plan, 0), ("diff", "other_diffs"))
        summary = replace(summary, backfills=tuple(_left_for_the_next_run(plan)))
        return Rollback(now, target, summary, others_than(now, target, known)), plan

    def _begun(self, rollback: Rollback, plan: Plan) -> ProductionVersion:
        return replace(
            rollback.target,
            plan=plan.plan_id,
            previous=rollback.now.plan,
            restores=rollback.restores,
            run=self.run,
        )


def _plan_of(context: CaptureContext, environment: Environment, target: ProductionVersion) -> Plan:
    """SQLMesh's plan of a version, as if the project's files were those of then; it builds nothing.

    Raises:
        RollbackRefusedError: SQLMesh has no record of some models any more.
    """
    wanted = snapshot_ids(target)
    found = {s.name: s for s in context.state_reader.get_snapshots(wanted.values()).values()}
    expired = wanted.keys() - found.keys()
    if expired:
        raise errors.RollbackRefusedError(
            f"SQLMesh has dropped what production ran then of {_names(expired)}: `snapshot_ttl` of its"
            f" config says for how long it is kept. {_BY_FILES}"
        )
    diff = ContextDiff.create(
        PRODUCTION,
        snapshots=found,
        create_from=PRODUCTION,
        state_reader=context.state_reader,
        provided_requirements=dict(target.requirements),
        infer_python_dependencies=False,
        environment_statements=statements_of(target),
        gateway_managed_virtual_layer=environment.gateway_managed,
    )
    context.state_reader.refresh_snapshot_intervals(diff.snapshots.values())
    return PlanBuilder(
        diff,
        skip_backfill=True,
        environment_suffix_target=environment.suffix_target,
        environment_catalog_mapping=context.config.environment_catalog_mapping,
        console=context.console,
    ).build()


def _refuse_what_cannot_be_undone(context: CaptureContext, plan: Plan) -> None:
    """Before anything is touched.

    Raises:
        RollbackRefusedError: Tables were written into by what is to be undone, or are gone.
        OtherProjectError: Another project's models have changed.
    """
    diff = plan.context_diff
    modified = diff.modified_snapshots.values()
    gone = context.state_reader.get_snapshots(diff.removed_snapshots).values()
    changed = [new for new, _ in modified] + [diff.snapshots[each] for each in diff.added]
    projects = project_names(context)
    others = {s.name for s in (*changed, *gone) if s.node.project not in projects}
    if others:
        raise errors.OtherProjectError(
            f"What production ran before differs in {_names(others)}, which another project has"
            " deployed to the same state. Roll back there, or name an older plan with `--to`."
        )
    written = {
        new.name
        for new, old in modified
        if _is_table(new) and _is_table(old) and _has_other_data_in_its_table(new, old)
    }
    if written:
        raise errors.RollbackRefusedError(
            f"The change of {_names(written)} was forward-only: it has gone on in the table of before, so"
            " that the rows that it wrote cannot be told from the others. Change the model back by a new"
            " change, and `poe promote`; rebuild what it wrote with `poe rebuild`."
        )
    lacking = {s.name for s in changed if _is_table_or_view(s) and not _is_there(context, s)}
    if lacking:
        raise errors.RollbackRefusedError(
            f"The tables that production had then of {_names(lacking)} are gone from the warehouse."
            f" {_BY_FILES}"
        )


def _has_other_data_in_its_table(new: Snapshot, old: Snapshot) -> bool:
    """Whether both have one table, into which other text of the model has written."""
    is_other = new.fingerprint.data_hash != old.fingerprint.data_hash or new.unrestorable
    return is_other and new.table_name() == old.table_name()


def _is_table(snapshot: Snapshot) -> bool:
    return _is_table_or_view(snapshot) and not _is_view(snapshot)


def _is_view(snapshot: Snapshot) -> bool:
    return snapshot.is_view and not snapshot.is_materialized_view


def _is_table_or_view(snapshot: Snapshot) -> bool:
    return snapshot.is_model and not snapshot.is_symbolic


def _is_there(context: CaptureContext, snapshot: Snapshot) -> bool:
    adapter = context.snapshot_evaluator.get_adapter(snapshot.model_gateway)
    return adapter.get_data_object(exp.to_table(snapshot.table_name())) is not None


def _recreate_views(context: CaptureContext, plan: Plan) -> None:
    """Lets views that both versions share read the tables of before.

    SQLMesh makes a view again where what it reads has changed without breaking it.
    """
    snapshots = {s.name: s for s in plan.snapshots.values()}
    at = datetime.now(timezone.utc)
    for new, old in plan.context_diff.modified_snapshots.values():
        if _is_table_or_view(new) and _is_view(new) and new.table_name() == old.table_name():
            context.snapshot_evaluator.evaluate(
                snapshots[new.name],
                start=at,
                end=at,
                execution_time=at,
                snapshots=snapshots,
                deployability_index=DeployabilityIndex.all_deployable(),
            )


def _drop_orphans(context: CaptureContext, environment: Environment, plan: Plan) -> None:
    """Drops views that a plan which was killed had left: SQLMesh's next plan forgets them."""
    kept = {s.name for s in plan.snapshots.values()}
    left = [s for s in environment.previous_finalized_snapshots or () if s.name not in kept]
    if environment.finalized_ts or not left:
        return
    found = context.state_reader.get_snapshots([s.snapshot_id for s in left]).values()
    context.snapshot_evaluator.demote(
        [s for s in found if _is_table_or_view(s)], environment.naming_info
    )


def _left_for_the_next_run(plan: Plan) -> Iterator[PlannedBackfill]:
    """What the models that go back lack."""
    diff = plan.context_diff
    names = {plain(name) for name in diff.modified_snapshots} | {plain(s.name) for s in diff.added}
    return (b for b in backfills_of(plan) if b.name in names and b.what != "recreate view")


def _names(found: Collection[str]) -> str:
    shown = ", ".join(f"`{plain(name)}`" for name in sorted(found)[:_MOST_NAMES])
    return shown + (f" and {len(found) - _MOST_NAMES} more" if len(found) > _MOST_NAMES else "")
