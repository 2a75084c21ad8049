"""Several projects on one state: what differs between an environment and the files of its own project.

Importing this module imports SQLMesh.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from sqlmesh import Context

from sqlmesh_dagster import errors
from sqlmesh_dagster.definition.records import Manifest
from sqlmesh_dagster.engine.reader import (
    fingerprint_text,
    own_fingerprints,
    project_names,
    statements_digest,
)
from sqlmesh_dagster.production import PRODUCTION
from sqlmesh_dagster.settings import ProjectSettings
from sqlmesh_dagster.upstream.internals import Environment, Snapshot, SnapshotId, StateReader


@dataclass(frozen=True)
class Difference:
    """How the files of a project differ from what an environment runs.

    Attributes:
        names: What this project has added, changed or removed.
        endangered: What a plan would drop though another project has deployed it: names, each with
            that project's name, which is empty where it is not known.
        has_other_statements: Whether `before_all` or `after_all` differ.
    """

    names: frozenset[str] = frozenset()
    endangered: Mapping[str, str] = field(default_factory=dict)
    has_other_statements: bool = False


def compare(
    manifest: Manifest,
    environment: Environment | None,
    state: StateReader | None,
    *,
    compares_statements: bool = False,
) -> Difference:
    """Compares by what the files say; what is only new because another project was deployed is none.

    With a `project` in its config, SQLMesh takes the other projects' models from the state. Then a
    parent's new version, which is part of a model's fingerprint, may be another project's.

    Args:
        compares_statements: Whether the state is asked for `before_all` and `after_all`, too.
    """
    local = dict(manifest.fingerprints)
    if environment is None or state is None:
        return Difference(frozenset(local))
    deployed = {s.name: fingerprint_text(s.fingerprint) for s in environment.snapshots}
    shares = any(manifest.projects)
    changed = {
        name
        for name in local.keys() | deployed.keys()
        if _seen(local.get(name), shares) != _seen(deployed.get(name), shares)
    }
    gone = changed - local.keys()
    owners = {
        name: project
        for name, project in _owners(gone - dict(manifest.elsewhere).keys(), environment, state)
        if project not in manifest.projects
    }
    others = owners.keys() | (dict(manifest.elsewhere).keys() - local.keys())
    removed = gone - others
    return Difference(
        frozenset(changed - others),
        {
            **({} if shares else owners),
            **dict.fromkeys(never_ours(removed, local, deployed, manifest.former), ""),
        },
        has_other_statements=compares_statements
        and bool(manifest.statements)
        and manifest.statements != _deployed_statements(manifest, environment, state),
    )


def _deployed_statements(manifest: Manifest, environment: Environment, state: StateReader) -> str:
    deployed = state.get_environment_statements(environment.name)
    is_dbt = any(model.dbt for model in manifest.models)
    return statements_digest(deployed, manifest.projects, is_dbt)


def never_ours(
    removed: Collection[str],
    local: Collection[str],
    deployed: Collection[str],
    former: Collection[str],
) -> frozenset[str]:
    """What of the models that would be removed was most likely never this project's.

    SQLMesh takes all models of a state with the same `project`, or with none, for one project's. A
    project that never had most of what is deployed is another one, whose config was copied.

    Args:
        removed: Names that are deployed, and in no file.
        local: Names in the files.
        deployed: Names in the environment.
        former: Names that were in the files once.
    """
    unknown = frozenset(removed) - frozenset(former)
    common = frozenset(local) & frozenset(deployed)
    return unknown if len(unknown) > len(common) else frozenset()


def loaded_difference(
    context: Context, environment: Environment | None, difference: Difference
) -> set[str]:
    """The same names from loaded files, with what these make new downstream in this project."""
    local = {name: fingerprint_text(f) for name, f in own_fingerprints(context).items()}
    deployed = {
        s.name: fingerprint_text(s.fingerprint)
        for s in (environment.snapshots if environment else ())
    }
    changed = {name for name, text in local.items() if deployed.get(name) != text}
    return changed | {name for name in difference.names if name not in local}


def refuse_endangering(settings: ProjectSettings, endangered: Mapping[str, str]) -> None:
    """Stops what would drop another project's models.

    Raises:
        OtherProjectError: With their names, and what to do.
    """
    if endangered:
        raise errors.OtherProjectError(endangerment(settings, endangered))


def endangerment(settings: ProjectSettings, endangered: Mapping[str, str]) -> str:
    """What a plan would drop, whose it is, and the next step."""
    names = ", ".join(f"`{_plain(name)}`" for name in sorted(endangered))
    projects = sorted({project for project in endangered.values() if project})
    owner = f"project `{projects[0]}`" if projects else "another project"
    return (
        f"To deploy the project at `{settings.project_dir}` to environment `{settings.environment}`"
        f" would drop {names}, which {owner} has deployed to the same state. Give each project a"
        " `project: <name>` of its own in SQLMesh's config, so that each keeps to its own models, or a"
        " state of its own. If they are this project's, and no longer wanted, remove them with"
        f" `{settings.command} plan{_target(settings)}`."
    )


def refuse_dropping(
    context: Context,
    settings: ProjectSettings,
    former: Collection[str],
    deployed: Collection[str],
    removed: Collection[Snapshot],
) -> None:
    """As `refuse_endangering`, for a plan that is built.

    Args:
        former: Names that were in this project's files once.
        deployed: Names in the environment.
        removed: What the plan would drop.

    Raises:
        OtherProjectError: It would drop another project's models.
    """
    projects = project_names(context)
    owners = {s.name: s.node.project for s in removed if s.node.project not in projects}
    own = {s.name for s in removed} - owners.keys()
    unknown = never_ours(own, own_fingerprints(context), deployed, former)
    refuse_endangering(settings, {**owners, **dict.fromkeys(unknown, "")})


def _seen(fingerprint: str | None, shares: bool) -> str | None:
    """What of a fingerprint tells a change of the project's own files: its own hashes, or all."""
    if fingerprint is None or not shares:
        return fingerprint
    return "-".join(fingerprint.split("-")[:2])


def _owners(
    names: Collection[str], environment: Environment, state: StateReader
) -> list[tuple[str, str]]:
    """The project of each of these snapshots; the environment's own record of them doesn't say."""
    wanted: set[SnapshotId] = {s.snapshot_id for s in environment.snapshots if s.name in names}
    if not wanted:
        return []
    return [(s.name, s.node.project) for s in state.get_snapshots(wanted).values()]


def _target(settings: ProjectSettings) -> str:
    return "" if settings.environment == PRODUCTION else f" {settings.environment}"


def _plain(name: str) -> str:
    return name.replace('"', "")
