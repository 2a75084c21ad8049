"""Local changes: compared with the environment before a run, then deployed, reported or refused."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection

from sqlmesh_dagster import errors
from sqlmesh_dagster.console import CaptureConsole
from sqlmesh_dagster.definition.records import Manifest
from sqlmesh_dagster.engine.applying import LocalChanges, Refused, shortened, unreadable
from sqlmesh_dagster.engine.context import CaptureContext, wait_for_database
from sqlmesh_dagster.engine.ownership import (
    Difference,
    compare,
    endangerment,
    refuse_endangering,
)
from sqlmesh_dagster.engine.reader import fingerprint_text
from sqlmesh_dagster.engine.state_lock import StateLock
from sqlmesh_dagster.engine.unfinished import await_plan, is_unfinished
from sqlmesh_dagster.engine.versions import known_versions, remember
from sqlmesh_dagster.facts.versions import (
    ProductionVersion,
    held_back,
    own_differences,
    undone,
)
from sqlmesh_dagster.guard.throw_away import throw_away_folder
from sqlmesh_dagster.options import CheckedRunOptions
from sqlmesh_dagster.production import PRODUCTION
from sqlmesh_dagster.settings import ProjectSettings
from sqlmesh_dagster.upstream.internals import Environment, Snapshot
from sqlmesh_dagster.upstream.sqlmesh import has_state
from sqlmesh_dagster.warehouses import GATEWAY

_FILE = "duckdb"
"""The gateway of a project's own DuckDB file."""
_AUDITS_ALONE = (
    "Checks that run alone deploy no model: they audit what is deployed. A run of the models deploys the"
    " changes."
)


def prepare_environment(
    context: CaptureContext,
    settings: ProjectSettings,
    options: CheckedRunOptions,
    manifest: Manifest,
    console: CaptureConsole,
    log: Callable[[int, str], None],
    lock: StateLock,
    taken: Collection[str] | None = (),
    held: Collection[str] = (),
) -> Refused:
    """Compares the files with the environment, and deploys, warns or refuses, by the settings.

    Args:
        taken: Models that are built afterwards; None if only audits run, which change no model that is shown.
        held: Models that must not be built yet; a new environment begins without them. Where only audits
            run, models of which this Dagster run has said what became: it does not warn of them again.

    Returns:
        What could not be deployed, where the settings say `apply`.

    Raises:
        EnvironmentMissingError: There is none, and the settings don't let a run create it.
        UndeployedChangesError: The files differ, and the settings forbid that.
        PlanFailedError: They were to be deployed, and cannot be.
    """
    policy = settings.deployment_policy if throw_away_folder() is None else "apply"
    applies = policy == "apply"
    environment, difference = _compared(context, settings, manifest, applies)
    recorded: ProductionVersion | None = None
    if environment is not None and settings.environment == PRODUCTION:
        recorded = remember(context, log, environment=environment)
    if is_unfinished(environment) and not applies:
        await_plan(context, settings, log, may_finish=False)
        environment, difference = _compared(context, settings, manifest, applies)
    # a rollback brought back the statements, too
    deploys_statements = applies and not (recorded is not None and recorded.restores)
    if _is_as_the_files(environment, difference, deploys_statements):
        if difference.endangered:
            log(logging.WARNING, endangerment(settings, difference.endangered))
        is_broken = applies and manifest.problem is not None
        return unreadable(manifest, manifest.problem or "") if is_broken else Refused()
    if recorded is not None and environment is not None and recorded.restores:
        back = _rolled_back(context, recorded, environment, manifest, difference)
        is_all = back == _changed_themselves(environment, manifest, difference)
        if back and (applies or is_all):
            log(logging.WARNING, _told_rollback(recorded, back))
            return Refused()
    if applies:
        if taken is None and environment is not None and _has_models(manifest, difference):
            what = _told_difference(settings, environment, difference)
            is_news = not difference.names <= set(held)
            log(logging.WARNING if is_news else logging.INFO, f"{what} {_AUDITS_ALONE}")
            return Refused()
        with lock.comparing():
            environment, difference = _compared(context, settings, manifest, applies)
            if _is_as_the_files(environment, difference, deploys_statements):
                return Refused()  # another step deployed it meanwhile
            refuse_endangering(settings, difference.endangered)
            with lock.alone():
                wait_for_database(context, settings, log)
                if is_unfinished(environment):
                    environment = await_plan(context, settings, log, may_finish=True)
                what = _told_difference(settings, environment, difference)
                log(logging.INFO, f"{what} Deploying the project's files.")
                changes = LocalChanges(
                    context,
                    settings,
                    options,
                    manifest,
                    console,
                    log,
                    environment,
                    taken or (),
                    held,
                )
                refused = changes.apply(difference)
                _tell_removed(context, settings, environment, manifest, log)
                return refused
    what = _told_difference(settings, environment, difference)
    if environment is None:
        hint = settings.plan_hint + _told_move(settings)
        raise errors.EnvironmentMissingError(f"{what} {hint}")
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


def _tell_removed(
    context: CaptureContext,
    settings: ProjectSettings,
    before: Environment | None,
    manifest: Manifest,
    log: Callable[[int, str], None],
) -> None:
    """Whose views a deployment has taken away, because no file has the models any more."""
    deployed = before.snapshots if before else ()
    shown = {s.name for s in deployed if s.model_kind_name and not s.is_symbolic}
    gone = shown - dict(manifest.fingerprints).keys()
    if gone:
        now = context.state_reader.get_environment(settings.environment)
        gone -= {s.name for s in now.snapshots} if now else set()
    if gone:
        log(
            logging.WARNING,
            f"Removed from environment `{settings.environment}`, as no file has them any more:"
            f" {shortened(sorted(gone))}. Their tables are kept until SQLMesh's janitor drops them.",
        )


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


def _compared(
    context: CaptureContext, settings: ProjectSettings, manifest: Manifest, applies: bool
) -> tuple[Environment | None, Difference]:
    """What is deployed, and how the files differ from it; a database without a state is left as it is."""
    if not has_state(context):
        return None, compare(manifest, None, None)
    state = context.state_reader
    environment = state.get_environment(settings.environment)
    return environment, compare(manifest, environment, state, compares_statements=applies)


def _is_as_the_files(
    environment: Environment | None, difference: Difference, deploys_statements: bool
) -> bool:
    """Whether there is nothing to deploy, and no plan to finish."""
    is_whole = environment is not None and not is_unfinished(environment)
    has_other_statements = deploys_statements and difference.has_other_statements
    return is_whole and not (difference.names or has_other_statements)


def _has_models(manifest: Manifest, difference: Difference) -> bool:
    """Whether a model differs, and not only standalone audits or external tables."""
    audits = {record.audit.name for record in manifest.standalone_audits}
    return not difference.names <= {*audits, *(table.fqn for table in manifest.externals)}


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
        f" {shortened(sorted(names))}. This run builds what production runs, and deploys nothing. Take"
        " the change out of the files; or `poe promote` deploys it again."
    )


def _told_move(settings: ProjectSettings) -> str:
    """Production may be on the project's DuckDB file still, where a plan here would build all of it again."""
    is_chosen = os.environ.get(GATEWAY, "").strip() not in ("", _FILE)
    if not is_chosen or settings.environment != PRODUCTION:
        return ""
    return " If production is on the DuckDB file so far, `poe move` takes it along instead."


def _told_difference(
    settings: ProjectSettings, environment: Environment | None, difference: Difference
) -> str:
    if environment is None:
        return f"Environment `{settings.environment}` does not exist yet."
    if is_unfinished(environment) and not difference.names:
        return f"The last plan of environment `{settings.environment}` was not finished."
    what = (
        f"Local changes of {shortened(sorted(difference.names))}"
        if difference.names
        else "Changes of `before_all` or `after_all`"
    )
    return f"{what} are not deployed to environment `{settings.environment}`."
