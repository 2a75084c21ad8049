"""The process that a command starts: it loads the project and executes one Dagster run."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from sqlmesh_dagster.commands.following import followed
from sqlmesh_dagster.commands.location import code_location
from sqlmesh_dagster.commands.messages import Outbox
from sqlmesh_dagster.commands.request import LAUNCH_TAG, RunRequest
from sqlmesh_dagster.commands.selection import (
    is_model,
    loads,
    models_named,
    option_keys,
    selection_of,
)
from sqlmesh_dagster.commands.source import is_yours
from sqlmesh_dagster.errors import InstanceError, InvalidSettingError
from sqlmesh_dagster.guard.instance import opened_instance
from sqlmesh_dagster.guard.secrets import learn_of_project, mask, masked_output
from sqlmesh_dagster.layout import project_folder
from sqlmesh_dagster.upstream.launch import (
    ASSET_JOB,
    LocatedAsset,
    LocatedProject,
    interruptible,
)

_DEFAULT_PROJECT = "sqlmesh"
NOT_STARTED = 2
"""Exit code where there is no run, and a message says why."""


def main(arguments: Sequence[str]) -> int:
    """Executes the request, and says what becomes of it.

    Args:
        arguments: A `RunRequest` as JSON, and the file of the messages.
    """
    request, outbox = RunRequest.from_json(arguments[0]), Outbox(Path(arguments[1]))
    learn_of_project(Path(project_folder()))
    with masked_output():
        try:
            with opened_instance() as instance, interruptible():
                return _execute(request, outbox, instance)
        except InstanceError as error:
            return _refuse(outbox, error)


def _execute(request: RunRequest, outbox: Outbox, instance: dg.DagsterInstance) -> int:
    try:
        location = code_location(Path.cwd())
        project = LocatedProject(location.module, str(location.root), location.name)
        job, assets, config = _run_of(request, project)
        files = _files(project.assets, location.root)
    except Exception as error:
        return _refuse(outbox, error)
    tags = {LAUNCH_TAG: request.launch}
    level = "INFO" if request.is_verbose else "CRITICAL"
    if project.has_console_logger(job):
        config = {**config, "loggers": {"console": {"config": {"log_level": level}}}}
    with followed(outbox, request.launch, location.root, files):
        return int(not project.execute(instance, job, assets, config, tags))


def _refuse(outbox: Outbox, error: Exception) -> int:
    outbox.put("refused", {"error": mask(explained(error, Path.cwd()))})
    return NOT_STARTED


def _run_of(
    request: RunRequest, project: LocatedProject
) -> tuple[str, list[dg.AssetKey] | None, dict[str, Any]]:
    """The job, the assets of a run of assets, and the run's config."""
    if request.job_suffix:
        job = job_named(request.job_suffix, project.job_names)
        op = job.removesuffix("_job")
        return (
            job,
            None,
            {"ops": {op: {"config": dict(request.options)}}} if request.options else {},
        )
    assets = _assets(request, project)
    keys = [asset.key for asset in assets]
    config = {
        key: {"config": dict(request.options)} for key in option_keys(assets) if request.options
    }
    is_all = request.scope == "all"
    return ASSET_JOB, None if is_all else keys, {"resources": config} if config else {}


def job_named(suffix: str, names: Sequence[str]) -> str:
    """The job of the SQLMesh project; with several projects, of the one that has the default name."""
    found = [name for name in names if name.endswith(suffix)]
    found = [name for name in found if name == f"{_DEFAULT_PROJECT}{suffix}"] or found
    if len(found) == 1:
        return found[0]
    if found:
        these = " or ".join(f"`dg launch --job {name}`" for name in found)
        raise InvalidSettingError(f"The project has {len(found)} jobs `…{suffix}`. Use {these}.")
    raise InvalidSettingError(f"The project has no job `…{suffix}`.")


def _assets(request: RunRequest, project: LocatedProject) -> list[LocatedAsset]:
    assets = project.assets
    if request.scope == "models":
        return models_named(request.names, assets)
    if request.scope == "loads":
        found = loads(assets)
        if not found:
            raise InvalidSettingError("No model reads an asset that this project can load.")
        return found
    if request.scope == "selection":
        selected = _selected(request.names, project, assets)
        return [asset for asset in assets if asset.key in selected]
    return list(assets)


def _selected(
    names: Sequence[str], project: LocatedProject, assets: Sequence[LocatedAsset]
) -> set[dg.AssetKey]:
    shown = " ".join(names)
    try:
        selected = project.select(selection_of(names, assets))
    except dg.DagsterError as error:
        raise InvalidSettingError(
            f"`{shown}` is no selection of assets: {str(error).splitlines()[0]}. Name assets, such as"
            " `marts.part_sales` or `'marts.*'`, or use Dagster's syntax, such as `group:marts` or"
            " `'group:marts and not key:\"marts/part_sales\"'`."
        ) from error
    if not selected:
        raise InvalidSettingError(
            f"The selection `{shown}` takes no asset. `dg list defs` has all."
        )
    return selected


def _files(assets: Sequence[LocatedAsset], root: Path) -> dict[str, str]:
    """The file and line of each model that is known, below the project's folder where it is there."""
    return {
        asset.key.to_user_string(): place
        for asset in assets
        if is_model(asset)
        for place in _places(asset, root)
    }


def _places(asset: LocatedAsset, root: Path) -> Iterator[str]:
    found = asset.metadata.get("dagster/code_references")
    if isinstance(found, dg.CodeReferencesMetadataValue):
        for reference in found.code_references[:1]:
            if isinstance(reference, dg.LocalFileCodeReference):
                path = Path(reference.file_path)
                place = path.relative_to(root) if path.is_relative_to(root) else path
                yield f"{place}:{reference.line_number or 1}"


def explained(error: BaseException, root: Path) -> str:
    """What a person can act on: the first cause, and the line of theirs where it was raised."""
    cause = error
    while not isinstance(cause, dg.Failure) and (cause.__cause__ or cause.__context__):
        cause = cause.__cause__ or cause.__context__ or cause
    if isinstance(cause, dg.Failure) and cause.description:
        return cause.description
    lines = [
        f"{Path(frame.filename).relative_to(root)}:{frame.lineno}: "
        for frame in traceback.extract_tb(cause.__traceback__)
        if is_yours(frame.filename, root)
    ]
    if isinstance(cause, SyntaxError) and cause.filename and is_yours(cause.filename, root):
        lines.append(f"{Path(cause.filename).relative_to(root)}:{cause.lineno}: ")
    return f"{lines[-1] if lines else ''}{type(cause).__name__}: {cause}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
