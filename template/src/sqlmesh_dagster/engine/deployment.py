"""Local changes are not deployed changes: compared before a run, then applied, told or refused."""

from __future__ import annotations

import logging
from collections.abc import Callable

from sqlmesh.core.environment import Environment
from sqlmesh.core.snapshot import Snapshot
from sqlmesh.utils.errors import SQLMeshError

from sqlmesh_dagster import errors
from sqlmesh_dagster.console import CaptureConsole
from sqlmesh_dagster.definition.records import Manifest
from sqlmesh_dagster.engine.context import CaptureContext, load_files, wait_for_database
from sqlmesh_dagster.engine.reader import fingerprint_text
from sqlmesh_dagster.engine.state_lock import StateLock
from sqlmesh_dagster.settings import ProjectSettings, RunOptions
from sqlmesh_dagster.upstream.sqlmesh import has_state


def prepare_environment(
    context: CaptureContext,
    settings: ProjectSettings,
    options: RunOptions,
    manifest: Manifest,
    console: CaptureConsole,
    log: Callable[[int, str], None],
    lock: StateLock,
) -> None:
    """Compares the files with what the environment runs, and does what the settings say.

    Raises:
        EnvironmentMissingError: There is none, and the settings don't let a run create it.
        UndeployedChangesError: The files differ, and the settings forbid that.
        PlanFailedError: They were to be deployed, and cannot be.
    """
    environment = _environment(context, settings)
    what = _difference(settings, manifest, environment)
    if what is None:
        return
    policy = settings.deployment_policy
    if policy == "apply":
        with lock.comparing():
            environment = _environment(context, settings)
            what = _difference(settings, manifest, environment)
            if what is None:  # another step deployed it meanwhile
                return
            with lock.alone():
                wait_for_database(context, settings, log)
                log(logging.INFO, f"{what} Deploying the project's files.")
                _deploy(context, settings, options, environment, console)
    elif environment is None:
        raise errors.EnvironmentMissingError(f"{what} {settings.plan_hint}")
    elif policy == "fail":
        raise errors.UndeployedChangesError(f"{what} {settings.plan_hint}")
    else:
        log(logging.WARNING, f"{what} This run uses the deployed versions. {settings.plan_hint}")


def changed_nodes(manifest: Manifest, environment: Environment | None) -> list[str]:
    """Names that differ between the files and an environment: added, changed and removed ones."""
    local = dict(manifest.fingerprints)
    deployed = (
        {s.name: fingerprint_text(s.fingerprint) for s in environment.snapshots}
        if environment
        else {}
    )
    return sorted(n for n in local.keys() | deployed.keys() if local.get(n) != deployed.get(n))


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
    """What is deployed; a database without a state is left as it is."""
    if not has_state(context):
        return None
    return context.state_reader.get_environment(settings.environment)


def _difference(
    settings: ProjectSettings, manifest: Manifest, environment: Environment | None
) -> str | None:
    if environment is None:
        return f"Environment `{settings.environment}` does not exist yet."
    changed = changed_nodes(manifest, environment)
    if not changed:
        return None
    return (
        f"Local changes of {_shortened(changed)} are not deployed to environment"
        f" `{settings.environment}`."
    )


def _deploy(
    context: CaptureContext,
    settings: ProjectSettings,
    options: RunOptions,
    environment: Environment | None,
    console: CaptureConsole,
) -> None:
    """Plans and applies without prompts; the run that follows builds the selected models.

    A development environment, and one that is new, is planned without a backfill, so that models
    that are not selected are not touched. An existing production environment is backfilled by the
    plan before it is promoted, as its readers must never see an empty table. Previews are off:
    with them, one forward-only model makes SQLMesh build every model since yesterday only.
    """
    is_production = settings.environment == "prod"
    load_files(context, settings)
    context.cancel_token.check()
    with console.planning():
        try:
            context.plan(
                settings.environment,
                auto_apply=True,
                no_prompts=True,
                skip_backfill=not is_production or environment is None,
                enable_preview=False,
                # without it, SQLMesh refuses a new environment that equals production
                include_unmodified=True if environment is None else None,
                execution_time=options.execution_time,
            )
        except SQLMeshError as error:
            cause = console.errors or str(error)
            raise errors.PlanFailedError(
                f"Could not deploy the local changes to environment `{settings.environment}`:"
                f" {cause.strip()}\nMend it, or run `sqlmesh plan {settings.environment}` to see more."
            ) from error


def _shortened(names: list[str], most: int = 5) -> str:
    shown = ", ".join(name.replace('"', "") for name in names[:most])
    return f"{shown}, …" if len(names) > most else shown
