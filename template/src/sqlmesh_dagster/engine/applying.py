"""Applies local changes by one plan; a model that cannot be deployed is left out, with what is downstream of it."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from sqlmesh_dagster import errors
from sqlmesh_dagster.console import CaptureConsole, as_error
from sqlmesh_dagster.definition.records import Manifest
from sqlmesh_dagster.engine.applied import failed_late, finished_plan
from sqlmesh_dagster.engine.context import CaptureContext, load_files
from sqlmesh_dagster.engine.explanation import reason_of
from sqlmesh_dagster.engine.ownership import Difference, loaded_difference
from sqlmesh_dagster.engine.refusals import refusal_of
from sqlmesh_dagster.engine.verification import verify
from sqlmesh_dagster.facts.outcomes import ErrorOutcome
from sqlmesh_dagster.options import CheckedRunOptions
from sqlmesh_dagster.settings import ProjectSettings
from sqlmesh_dagster.upstream.internals import Environment, SQLMeshError
from sqlmesh_dagster.upstream.sqlmesh import has_state


@dataclass(frozen=True)
class Refused:
    """What of the local changes could not be deployed.

    Attributes:
        errors: Why, for each model that is the cause.
        below: What is downstream of one of these, with its name.
    """

    errors: Mapping[str, ErrorOutcome] = field(default_factory=dict)
    below: Mapping[str, str] = field(default_factory=dict)

    @property
    def names(self) -> set[str]:
        """All these models: they stay as they are deployed, and are not built."""
        return {*self.errors, *self.below}


@dataclass(frozen=True)
class _Scope:
    """What of the local changes a plan deploys.

    Attributes:
        built: What it builds before people see it; None if that is all that it promotes.
        unasked: What the Dagster run does not select, as far as this step knows.
        is_partial: Whether the next part of the Dagster run deploys the rest.
    """

    changed: set[str]
    built: Collection[str] | None
    unasked: set[str]
    is_partial: bool = False


@dataclass(frozen=True)
class _Failure:
    """A plan that failed.

    Attributes:
        refused: What was left out of it.
        names: What it was of.
        cause: In SQLMesh's words.
        culprits: Why, for each model that made it fail, as far as that is known.
    """

    refused: Refused
    names: Sequence[str]
    cause: str
    culprits: Mapping[str, ErrorOutcome] = field(default_factory=dict)


@dataclass(frozen=True)
class LocalChanges:
    """The local changes of a project, to be deployed by a Dagster run.

    Attributes:
        environment: As it was before; None if there is none.
        taken: Models that the run builds afterwards.
        held: Models that must not be built yet; a new environment begins without them.
    """

    context: CaptureContext
    settings: ProjectSettings
    options: CheckedRunOptions
    manifest: Manifest
    console: CaptureConsole
    log: Callable[[int, str], None]
    environment: Environment | None
    taken: Collection[str]
    held: Collection[str]

    def apply(self, difference: Difference) -> Refused:
        """Plans and applies without prompts; the run afterwards builds the selected models.

        Where a model makes the plan fail, the rest is planned again without it. Production is backfilled
        by the plan before it is promoted, as its readers must never see an empty table. A new development
        environment is planned without a backfill, so that each step ends with its model. In one that
        exists, the plan builds what is changed and selected before its views move, so that one that fails
        goes on showing what it had; models that are not selected are not built. The setting `promotion`
        says otherwise. Previews are off: with them, one forward-only model makes SQLMesh build every
        model since yesterday only.

        Raises:
            PlanFailedError: Nothing can be deployed.
            ProjectLoadError: As above, because the files cannot be loaded.
        """
        try:
            load_files(self.context, self.settings)
        except errors.ProjectLoadError as error:
            return self._without_unreadable(error)
        self.context.cancel_token.check()
        scope = self._scope(loaded_difference(self.context, self.environment, difference))
        if scope.is_partial and not scope.changed:
            return Refused()
        found = self._findings(scope.changed)
        first = self._before_promotion(scope)
        if not first:
            return self._attempts(scope, found)
        refused = self._attempts(replace(scope, changed=first, is_partial=True), found)
        stored = self.context.state_reader.get_environment(self.settings.environment)
        rest = replace(scope, changed=scope.changed - first - refused.names, is_partial=True)
        return replace(self, environment=stored)._attempts(rest, found) if rest.changed else refused

    def _before_promotion(self, scope: _Scope) -> set[str]:
        """What of a new production SQLMesh builds before it promotes it, where it builds others afterwards.

        Forward-only models, to which those that add to their history belong, are built when SQLMesh has
        promoted them in its state: if one fails then, a further plan without it would show it empty.
        """
        models, dag = self.context.models, self.context.dag
        if self.environment is not None or scope.built is not None:
            return set()
        late = {
            name
            for name in scope.changed & models.keys()
            if models[name].forward_only or models[name].auto_restatement_cron
        }
        late |= {below for name in late for below in dag.downstream(name)}
        audits = self._standalone_audits()
        return scope.changed - late - audits if late else set()

    def _attempts(self, scope: _Scope, found: dict[str, ErrorOutcome]) -> Refused:
        """Plans of these changes, each without what made the ones before fail, which is added to what was found."""
        while isinstance(ended := self._attempt(scope, found), _Failure) and ended.culprits:
            found.update(ended.culprits)
        return ended if isinstance(ended, Refused) else self._without_all(ended, found)

    def _without_unreadable(self, error: errors.ProjectLoadError) -> Refused:
        refused = unreadable(self.manifest, str(error.description))
        if self.environment is None or not refused.errors:
            raise error
        self.log(logging.WARNING, f"{error.description} Other models run as they are deployed.")
        return refused

    def _attempt(self, scope: _Scope, found: Mapping[str, ErrorOutcome]) -> Refused | _Failure:
        """One plan, of all but what was found to be wrong."""
        refused = self._refused(found)
        left = scope.changed - refused.names
        # SQLMesh's selection takes models alone; a changed audit is deployed with the next plan of all
        names = sorted(left - self._standalone_audits()) if found else sorted(left)
        if found and not names:
            # a plan that failed may have left the state half promoted
            names = self._unchanged(scope)
        if found and not names:
            return _Failure(refused, names, "\n".join(error.message for error in found.values()))
        said = self.console.errors
        try:
            self._plan(scope, names, refused)
        except SQLMeshError as error:
            if self._is_applied():
                failure = as_error(failed_late(self.settings.environment, error))
                self.console.ledger.failed_besides(failure)
                return refused
            culprits = self._culprits(left, error) or self._uncategorized(left)
            told = refusal_of(error)
            cause = self.console.errors.removeprefix(said).strip() or reason_of(error)
            cause = cause if told is None else str(told.description)
            return _Failure(refused, names, cause, culprits)
        if self.environment is not None and scope.built is not None:
            self._tell_unbuilt({*names} & scope.unasked)
        return refused

    def _without_all(self, failure: _Failure, found: Mapping[str, ErrorOutcome]) -> Refused:
        """An environment that is whole runs as it is deployed, where the cause is not one of the models found."""
        if not found or not self._is_whole():
            raise errors.PlanFailedError(self._told(failure.cause))
        if failure.names:
            self.log(
                logging.WARNING,
                f"SQLMesh cannot deploy the other local changes either, so that these models run as"
                f" they are deployed. {failure.cause.strip()}",
            )
        return failure.refused

    def _unchanged(self, scope: _Scope) -> list[str]:
        """A model by which an environment that was whole is planned as it was, if it is no longer whole."""
        before = self.environment
        if before is None or not before.finalized_ts or self._is_whole():
            return []
        same = {s.name for s in before.snapshots} & self.context.models.keys() - scope.changed
        return sorted(same)[:1]

    @contextmanager
    def _since_it_was_whole(self, *, has_failed: bool) -> Iterator[None]:
        """Meanwhile plans compare with the environment as it was before a plan of this run failed."""
        plan = self.context.config.plan
        is_known = self.environment is not None and self.environment.finalized_ts
        if not (has_failed and is_known and self.context.config.virtual_environment_mode.is_full):
            yield
            return
        before, plan.use_finalized_state = plan.use_finalized_state, True
        try:
            yield
        finally:
            plan.use_finalized_state = before

    def _is_applied(self) -> bool:
        before = self.environment.plan_id if self.environment is not None else None
        return finished_plan(self.context, self.settings.environment) not in (None, before)

    def _is_whole(self) -> bool:
        """Whether the environment exists, and its last plan was completed."""
        if not has_state(self.context):  # asking would create it
            return False
        return finished_plan(self.context, self.settings.environment) is not None

    def _plan(self, scope: _Scope, names: Sequence[str], refused: Refused) -> None:
        """Applies a plan of all local changes; if some are refused, of those of the other models.

        What is downstream of both is built here with these: its new version would be an empty table.
        """
        context, built = self.context, scope.built
        below = refused.below.keys() & context.models.keys()
        between = {n for n in below if not context.dag.upstream(n).isdisjoint(names)}
        is_mixed = bool(between) and self.environment is not None
        first = {*names} if built is None else {*names} & {*built}
        chosen = sorted({*first, *between}) if is_mixed or (built is not None and first) else None
        has_failed = bool(refused.errors)
        with self.console.planning(), self._since_it_was_whole(has_failed=has_failed):
            context.plan(
                self.settings.environment,
                auto_apply=True,
                no_prompts=True,
                skip_tests=True,  # they ran already, for each model
                skip_linter=True,
                select_models=names if has_failed or scope.is_partial else None,
                backfill_models=chosen,
                skip_backfill=not (chosen or built is None),
                enable_preview=False,
                # without it, SQLMesh refuses a new environment that equals production
                include_unmodified=True if self.environment is None else None,
                execution_time=self.options.now,
            )

    def _scope(self, changed: set[str]) -> _Scope:
        """A plan that builds leaves out what reads something that the Dagster run still loads.

        Where another change is read with that, SQLMesh would promote the reader all the same: then, what is
        not built first is promoted first.
        """
        dag, built = self.context.dag, self._built_first()
        below = {name for held in self.held for name in dag.downstream(held)}
        later = {*self.held, *below} & changed
        unasked = changed - later - {*self.taken} if self.settings.execution == "shared" else set()
        if not later or (built is not None and not built):
            return _Scope(changed, built, unasked)
        rest = changed - later
        if self.environment is None or all(later.isdisjoint(dag.downstream(n)) for n in rest):
            return _Scope(rest, built, unasked, is_partial=True)
        return _Scope(changed, None if built is None else (), unasked)

    def _built_first(self) -> Collection[str] | None:
        """As `_Scope.built`, whatever the Dagster run still loads."""
        settings = self.settings
        if settings.builds_before_promotion:
            return None
        if self.environment is None or settings.builds_after_promotion or self.options.is_narrowed:
            return ()
        return self.taken if settings.execution == "shared" else ()

    def _tell_unbuilt(self, names: Collection[str]) -> None:
        """Says which tables are empty until a run selects their models."""
        context = self.context
        versions = [context.get_snapshot(name) for name in sorted(names) if name in context.models]
        empty = [s.name for s in versions if s and s.is_model and s.evaluatable and not s.intervals]
        if empty:
            self.log(
                logging.WARNING,
                f"{shortened(empty)} changed, too, and this run does not select them: environment"
                f" `{self.settings.environment}` shows their new versions empty until a run builds them.",
            )

    def _findings(self, changed: set[str]) -> dict[str, ErrorOutcome]:
        """The errors of SQLMesh's unit tests and linter in the changed models."""
        context = self.context
        names = changed & context.models.keys()
        texts: dict[str, list[str]] = {}
        for finding in verify(context, context.cancel_token, names).errors if names else ():
            name = context.models[finding.model].name
            texts.setdefault(finding.model, []).append(f"`{name}`: {finding.rule}: {finding.text}")
        return {
            fqn: ErrorOutcome("PlanFailedError", "\n".join(lines)) for fqn, lines in texts.items()
        }

    def _culprits(self, changed: set[str], error: SQLMeshError) -> dict[str, ErrorOutcome]:
        """The changed models that made a plan fail: SQLMesh could not build them, or names them."""
        failed = {
            name: failure for name, failure in self.console.failures.items() if name in changed
        }
        if failed:
            return failed
        text, models = str(error), self.context.models
        told = refusal_of(error)
        message = reason_of(error) if told is None else str(told.description)
        return {
            fqn: ErrorOutcome("PlanFailedError", message)
            for fqn in changed & models.keys()
            if fqn in text or re.search(rf"(?<![\w.]){re.escape(models[fqn].name)}(?![\w.])", text)
        }

    def _uncategorized(self, changed: set[str]) -> dict[str, ErrorOutcome]:
        """The changed models of which a person has to say whether their change is breaking."""
        try:
            plan = self.context.plan_builder(
                self.settings.environment, skip_tests=True, skip_linter=True, enable_preview=False
            ).build()
        except SQLMeshError:
            return {}  # it failed for another reason
        text = (
            "The project's `auto_categorize_changes` leaves it to a person to say whether this change is"
            " breaking."
        )
        names = {snapshot.name for snapshot in plan.uncategorized}
        return {name: ErrorOutcome("PlanFailedError", text) for name in sorted(names & changed)}

    def _refused(self, found: Mapping[str, ErrorOutcome]) -> Refused:
        """With an environment that exists, the message says what stays; in a new one, only what failed."""
        context = self.context
        below: dict[str, str] = {}
        for name in found:
            models = context.dag.downstream(name)
            read = {name, *models}
            audits = [a.name for a in context.standalone_audits.values() if a.depends_on & read]
            below.update(dict.fromkeys([*models, *audits], name))
        return Refused(
            {
                name: error
                if self.environment is None and error.kind != "PlanFailedError"
                else replace(error, kind="PlanFailedError", message=self._told(error.message))
                for name, error in found.items()
            },
            {name: culprit for name, culprit in below.items() if name not in found},
        )

    def _standalone_audits(self) -> set[str]:
        return {audit.name for audit in self.context.standalone_audits.values()}

    def _told(self, cause: str) -> str:
        environment = self.settings.environment
        return (
            f"Could not deploy the local changes to environment `{environment}`:"
            f" {cause.strip()}\nFix it, or run `{self.settings.plan_command(environment)}` to see more."
        )


def unreadable(manifest: Manifest, problem: str) -> Refused:
    """The last known models of a file that cannot be loaded, and the models downstream of them."""
    broken = {
        model.fqn: ErrorOutcome("ProjectLoadError", problem)
        for model in manifest.models
        if model.path and re.search(rf"(?<![\w.-]){re.escape(model.path)}(?![\w.-])", problem)
    }
    below: dict[str, str] = {}
    for model in manifest.models:  # upstream before downstream
        for parent in model.depends_on:
            if model.fqn not in broken and (parent in broken or parent in below):
                below[model.fqn] = below.get(parent, parent)
    return Refused(broken, below)


def shortened(names: list[str], most: int = 5) -> str:
    """The first of these names of models, without quotes."""
    shown = ", ".join(name.replace('"', "") for name in names[:most])
    return f"{shown}, …" if len(names) > most else shown
