"""Local changes: compared with the environment before a run, then deployed, reported or refused."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from sqlmesh_dagster import errors
from sqlmesh_dagster.console import CaptureConsole
from sqlmesh_dagster.definition.records import Manifest
from sqlmesh_dagster.engine.context import CaptureContext, load_files, wait_for_database
from sqlmesh_dagster.engine.ownership import (
    Difference,
    compare,
    endangerment,
    loaded_difference,
    refuse_endangering,
)
from sqlmesh_dagster.engine.reader import fingerprint_text
from sqlmesh_dagster.engine.state_lock import StateLock
from sqlmesh_dagster.engine.verification import verify
from sqlmesh_dagster.engine.versions import known_versions, remember
from sqlmesh_dagster.facts.outcomes import ErrorOutcome
from sqlmesh_dagster.facts.versions import (
    ProductionVersion,
    held_back,
    own_differences,
    undone,
)
from sqlmesh_dagster.guard.throw_away import throw_away_folder
from sqlmesh_dagster.options import CheckedRunOptions
from sqlmesh_dagster.settings import PRODUCTION, ProjectSettings
from sqlmesh_dagster.upstream.internals import Environment, Snapshot, SQLMeshError
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


def prepare_environment(
    context: CaptureContext,
    settings: ProjectSettings,
    options: CheckedRunOptions,
    manifest: Manifest,
    console: CaptureConsole,
    log: Callable[[int, str], None],
    lock: StateLock,
    taken: Collection[str] = (),
    held: Collection[str] = (),
) -> Refused:
    """Compares the files with the environment, and deploys, warns or refuses, by the settings.

    Args:
        taken: Models that are built afterwards.
        held: Models that must not be built yet; a new environment begins without them.

    Returns:
        What could not be deployed, where the settings say `apply`.

    Raises:
        EnvironmentMissingError: There is none, and the settings don't let a run create it.
        UndeployedChangesError: The files differ, and the settings forbid that.
        PlanFailedError: They were to be deployed, and cannot be.
    """
    environment, difference = _compared(context, settings, manifest)
    policy = settings.deployment_policy if throw_away_folder() is None else "apply"
    recorded: ProductionVersion | None = None
    if environment is not None and settings.environment == PRODUCTION:
        recorded = remember(context, log, environment=environment)
    if environment is not None and not difference.names:
        if difference.endangered:
            log(logging.WARNING, endangerment(settings, difference.endangered))
        is_broken = policy == "apply" and manifest.problem is not None
        return unreadable(manifest, manifest.problem or "") if is_broken else Refused()
    if recorded is not None and environment is not None and recorded.restores:
        back = _rolled_back(context, recorded, environment, manifest, difference)
        is_all = back == _changed_themselves(environment, manifest, difference)
        if back and (policy == "apply" or is_all):
            log(logging.WARNING, _told_rollback(recorded, back))
            return Refused()
    if policy == "apply":
        with lock.comparing():
            environment, difference = _compared(context, settings, manifest)
            if environment is not None and not difference.names:
                return Refused()  # another step deployed it meanwhile
            refuse_endangering(settings, difference.endangered)
            with lock.alone():
                wait_for_database(context, settings, log)
                what = _told_difference(settings, environment, difference)
                log(logging.INFO, f"{what} Deploying the project's files.")
                return _deploy(
                    context,
                    settings,
                    options,
                    manifest,
                    environment,
                    difference,
                    taken,
                    held,
                    console,
                    log,
                )
    what = _told_difference(settings, environment, difference)
    if environment is None:
        raise errors.EnvironmentMissingError(f"{what} {settings.plan_hint}")
    if policy == "fail":
        refuse_endangering(settings, difference.endangered)
        raise errors.UndeployedChangesError(f"{what} {settings.plan_hint}")
    hint = (
        endangerment(settings, difference.endangered)
        if difference.endangered
        else settings.plan_hint
    )
    log(logging.WARNING, f"{what} This run uses the deployed versions. {hint}")
    return Refused()


def deployed_snapshots(
    context: CaptureContext, settings: ProjectSettings
) -> tuple[dict[str, Snapshot], str]:
    """What the environment runs, by snapshot name, and the id of the plan that last changed it.

    Raises:
        EnvironmentMissingError: It was never planned, or invalidated a moment ago.
    """
    stored = context.state_reader.get_environment(settings.environment)
    if stored is None:
        raise errors.EnvironmentMissingError(
            f"Environment `{settings.environment}` does not exist. {settings.plan_hint}"
        )
    snapshots = context.state_reader.get_snapshots(stored.snapshots)
    return {snapshot.name: snapshot for snapshot in snapshots.values()}, stored.plan_id


def _environment(context: CaptureContext, settings: ProjectSettings) -> Environment | None:
    """The environment; in a database without a state, no state is created."""
    if not has_state(context):
        return None
    return context.state_reader.get_environment(settings.environment)


def _compared(
    context: CaptureContext, settings: ProjectSettings, manifest: Manifest
) -> tuple[Environment | None, Difference]:
    """What is deployed, and how the files differ from it; a database without a state is left as it is."""
    if not has_state(context):
        return None, compare(manifest, None, None)
    state = context.state_reader
    environment = state.get_environment(settings.environment)
    return environment, compare(manifest, environment, state)


def _rolled_back(
    context: CaptureContext,
    recorded: ProductionVersion,
    environment: Environment,
    manifest: Manifest,
    difference: Difference,
) -> frozenset[str]:
    """What of the local changes production was rolled back from: no run deploys that again by itself."""
    versions = undone(recorded, known_versions(context))
    found = held_back(dict(manifest.fingerprints), _deployed(environment), versions)
    return found & difference.names


def _changed_themselves(
    environment: Environment, manifest: Manifest, difference: Difference
) -> frozenset[str]:
    """What differs by its own text, and not by what it reads."""
    local = dict(manifest.fingerprints)
    found = own_differences(local, _deployed(environment))
    return found & difference.names


def _deployed(environment: Environment) -> dict[str, str]:
    return {s.name: fingerprint_text(s.fingerprint) for s in environment.snapshots}


def _told_rollback(recorded: ProductionVersion, names: Collection[str]) -> str:
    run = f" by Dagster run `{recorded.run}`" if recorded.run else ""
    return (
        f"Production was rolled back{run} from what the project's files say of"
        f" {_shortened(sorted(names))}. This run builds what production runs, and deploys nothing. Take"
        " the change out of the files; or `poe promote` deploys it again."
    )


def _told_difference(
    settings: ProjectSettings, environment: Environment | None, difference: Difference
) -> str:
    if environment is None:
        return f"Environment `{settings.environment}` does not exist yet."
    return (
        f"Local changes of {_shortened(sorted(difference.names))} are not deployed to environment"
        f" `{settings.environment}`."
    )


def _deploy(
    context: CaptureContext,
    settings: ProjectSettings,
    options: CheckedRunOptions,
    manifest: Manifest,
    environment: Environment | None,
    difference: Difference,
    taken: Collection[str],
    held: Collection[str],
    console: CaptureConsole,
    log: Callable[[int, str], None],
) -> Refused:
    """Plans and applies without prompts; the run afterwards builds the selected models.

    A model that cannot be deployed is left out with what is downstream of it, and the rest is planned
    again. Production is backfilled by the plan before it is promoted, as its readers must never see an
    empty table. A new development environment is planned without a backfill, so that each step ends
    with its model. In one that exists, the plan builds what is changed and selected before its views
    move, so that one that fails goes on showing what it had; models that are not selected are not
    built. The setting `promotion` says otherwise. Previews are off: with them, one forward-only model
    makes SQLMesh build every model since yesterday only.

    Raises:
        PlanFailedError: Nothing can be deployed.
        ProjectLoadError: As above, because the files cannot be loaded.
    """
    try:
        load_files(context, settings)
    except errors.ProjectLoadError as error:
        refused = unreadable(manifest, str(error.description))
        if environment is None or not refused.errors:
            raise
        log(logging.WARNING, f"{error.description} Other models run as they are deployed.")
        return refused
    context.cancel_token.check()
    changed = loaded_difference(context, environment, difference)
    scope = _scope(context, settings, options, environment, changed, taken, held)
    changed = scope.changed
    if scope.is_partial and not changed:
        return Refused()
    found = _findings(context, changed)
    while True:
        refused = _refused(context, settings, environment, found)
        left = changed - refused.names
        # SQLMesh's selection takes models alone; a changed audit is deployed with the next plan of all
        rest = sorted(left - _standalone_audits(context)) if found else sorted(left)
        said, cause = console.errors, ""
        if found and not rest:
            cause = "\n".join(error.message for error in found.values())
        else:
            try:
                names = rest if refused.errors or scope.is_partial else None
                built = scope.built
                _plan(context, settings, options, environment, console, rest, names, built, refused)
                if environment is not None and built is not None:
                    _tell_unbuilt(context, settings, {*rest} & scope.unasked, log)
                return refused
            except SQLMeshError as error:
                new = _culprits(context, console, changed - refused.names, error)
                new = new or _uncategorized(context, settings, changed - refused.names)
                if new:
                    found.update(new)
                    continue
                cause = console.errors.removeprefix(said).strip() or str(error)
        if not found or not _is_whole(context, settings):
            raise errors.PlanFailedError(_told(settings, cause))
        if rest:
            log(
                logging.WARNING,
                f"SQLMesh cannot deploy the other local changes either, so that these models run as"
                f" they are deployed. {cause.strip()}",
            )
        return refused


def _is_whole(context: CaptureContext, settings: ProjectSettings) -> bool:
    """Whether the environment exists, and its last plan was completed."""
    environment = _environment(context, settings)
    return environment is not None and environment.finalized_ts is not None


def _plan(
    context: CaptureContext,
    settings: ProjectSettings,
    options: CheckedRunOptions,
    environment: Environment | None,
    console: CaptureConsole,
    names: Sequence[str],
    selected: Sequence[str] | None,
    built: Collection[str] | None,
    refused: Refused,
) -> None:
    """Applies a plan of all local changes; if some are refused, of those of the other models.

    Args:
        built: As in `_Scope`. What is downstream of both is built here with these: its new version
            would be an empty table.
    """
    below = refused.below.keys() & context.models.keys()
    between = {n for n in below if not context.dag.upstream(n).isdisjoint(names)}
    is_mixed = bool(between) and environment is not None
    first = {*names} if built is None else {*names} & {*built}
    chosen = sorted({*first, *between}) if is_mixed or (built is not None and first) else None
    with console.planning():
        context.plan(
            settings.environment,
            auto_apply=True,
            no_prompts=True,
            skip_tests=True,  # they ran already, for each model
            skip_linter=True,
            select_models=selected,
            backfill_models=chosen,
            skip_backfill=not (chosen or built is None),
            enable_preview=False,
            # without it, SQLMesh refuses a new environment that equals production
            include_unmodified=True if environment is None else None,
            execution_time=options.now,
        )


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


def _scope(
    context: CaptureContext,
    settings: ProjectSettings,
    options: CheckedRunOptions,
    environment: Environment | None,
    changed: set[str],
    taken: Collection[str],
    held: Collection[str],
) -> _Scope:
    """A plan that builds leaves out what reads something that the Dagster run still loads.

    Where another change is read with that, SQLMesh would promote the reader all the same: then, what is
    not built first is promoted first.
    """
    built = _built_first(settings, options, environment, taken)
    later = {*held, *(below for name in held for below in context.dag.downstream(name))} & changed
    unasked = changed - later - {*taken} if settings.execution == "shared" else set()
    if not later or (built is not None and not built):
        return _Scope(changed, built, unasked)
    rest = changed - later
    if environment is None or all(later.isdisjoint(context.dag.downstream(n)) for n in rest):
        return _Scope(rest, built, unasked, is_partial=True)
    return _Scope(changed, None if built is None else (), unasked)


def _built_first(
    settings: ProjectSettings,
    options: CheckedRunOptions,
    environment: Environment | None,
    taken: Collection[str],
) -> Collection[str] | None:
    """As `_Scope.built`, whatever the Dagster run still loads."""
    if settings.builds_before_promotion:
        return None
    if environment is None or settings.builds_after_promotion or options.is_narrowed:
        return ()
    return taken if settings.execution == "shared" else ()


def _tell_unbuilt(
    context: CaptureContext,
    settings: ProjectSettings,
    names: Collection[str],
    log: Callable[[int, str], None],
) -> None:
    """Says which tables are empty until a run selects their models."""
    versions = [context.get_snapshot(name) for name in sorted(names) if name in context.models]
    empty = [s.name for s in versions if s and s.is_model and s.evaluatable and not s.intervals]
    if empty:
        log(
            logging.WARNING,
            f"{_shortened(empty)} changed, too, and this run does not select them: environment"
            f" `{settings.environment}` shows their new versions empty until a run builds them.",
        )


def _findings(context: CaptureContext, changed: set[str]) -> dict[str, ErrorOutcome]:
    """The errors of SQLMesh's unit tests and linter in the changed models."""
    names = changed & context.models.keys()
    texts: dict[str, list[str]] = {}
    for finding in verify(context, context.cancel_token, names).errors if names else ():
        name = context.models[finding.model].name
        texts.setdefault(finding.model, []).append(f"`{name}`: {finding.rule}: {finding.text}")
    return {fqn: ErrorOutcome("PlanFailedError", "\n".join(lines)) for fqn, lines in texts.items()}


def _culprits(
    context: CaptureContext, console: CaptureConsole, changed: set[str], error: SQLMeshError
) -> dict[str, ErrorOutcome]:
    """The changed models that made a plan fail: SQLMesh could not build them, or names them."""
    failed = {name: failure for name, failure in console.failures.items() if name in changed}
    if failed:
        return failed
    text = str(error)
    named = {
        fqn: ErrorOutcome("PlanFailedError", text)
        for fqn in changed & context.models.keys()
        if fqn in text
        or re.search(rf"(?<![\w.]){re.escape(context.models[fqn].name)}(?![\w.])", text)
    }
    return named


def _uncategorized(
    context: CaptureContext, settings: ProjectSettings, changed: set[str]
) -> dict[str, ErrorOutcome]:
    """The changed models of which a person has to say whether their change is breaking."""
    try:
        plan = context.plan_builder(
            settings.environment, skip_tests=True, skip_linter=True, enable_preview=False
        ).build()
    except SQLMeshError:
        return {}  # it failed for another reason
    text = (
        "The project's `auto_categorize_changes` leaves it to a person to say whether this change is"
        " breaking."
    )
    names = {snapshot.name for snapshot in plan.uncategorized}
    return {name: ErrorOutcome("PlanFailedError", text) for name in sorted(names & changed)}


def _refused(
    context: CaptureContext,
    settings: ProjectSettings,
    environment: Environment | None,
    found: Mapping[str, ErrorOutcome],
) -> Refused:
    """With an environment that exists, the message says what stays; in a new one, only what failed."""
    below: dict[str, str] = {}
    for name in found:
        models = context.dag.downstream(name)
        read = {name, *models}
        audits = [a.name for a in context.standalone_audits.values() if a.depends_on & read]
        below.update(dict.fromkeys([*models, *audits], name))
    return Refused(
        {
            name: error
            if environment is None and error.kind != "PlanFailedError"
            else replace(error, kind="PlanFailedError", message=_told(settings, error.message))
            for name, error in found.items()
        },
        {name: culprit for name, culprit in below.items() if name not in found},
    )


def _standalone_audits(context: CaptureContext) -> set[str]:
    return {audit.name for audit in context.standalone_audits.values()}


def _told(settings: ProjectSettings, cause: str) -> str:
    return (
        f"Could not deploy the local changes to environment `{settings.environment}`:"
        f" {cause.strip()}\nFix it, or run `{settings.plan_command(settings.environment)}` to see more."
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


def _shortened(names: list[str], most: int = 5) -> str:
    shown = ", ".join(name.replace('"', "") for name in names[:most])
    return f"{shown}, …" if len(names) > most else shown
