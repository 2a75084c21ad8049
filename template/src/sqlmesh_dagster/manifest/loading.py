"""The project's manifest: the stored one if it is still valid, else from a load of the project."""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from sqlmesh_dagster.definition.history import with_former, with_others_of
from sqlmesh_dagster.definition.records import Manifest
from sqlmesh_dagster.errors import ProjectLoadError
from sqlmesh_dagster.guard.folder import at_home
from sqlmesh_dagster.guard.garbage import rare_collection
from sqlmesh_dagster.guard.places import with_remedy
from sqlmesh_dagster.guard.throw_away import throw_away_folder
from sqlmesh_dagster.manifest.inputs import (
    Files,
    Inputs,
    digest_of_all,
    inputs_of,
    local_modules,
    may_hide_reads,
    recorded_variables,
)
from sqlmesh_dagster.manifest.reads import recorded_reads
from sqlmesh_dagster.manifest.store import DEFAULT_FOLDER, ManifestStore, StoredManifest
from sqlmesh_dagster.resource import SQLMeshResource
from sqlmesh_dagster.settings import ProjectSettings, folder_of
from sqlmesh_dagster.translator import SQLMeshTranslator

_log = logging.getLogger(__name__)
_OF_TESTS = "tests"


def project_manifest(resource: SQLMeshResource, *baked: Path) -> Manifest:
    """The manifest of the project's files as they are now.

    Reading the stored one imports no SQLMesh. It is made again when a file, an environment variable
    or a version that it was made of has another content; see `inputs`.

    Args:
        baked: Further files that may hold it, written by `bake_manifest`.

    Raises:
        ProjectLoadError: The project cannot be loaded, and `keep_last_good` is off or has nothing.
    """
    return _current(resource, baked).manifest


def bake_manifest(resource: SQLMeshResource, path: Path) -> None:
    """Writes the manifest of the project's files as they are now to `path`.

    Raises:
        ProjectLoadError: The project cannot be loaded, and `keep_last_good` is off or has nothing.
        OSError: The file cannot be written.
    """
    ManifestStore(path).write(_current(resource, ()))


def _current(resource: SQLMeshResource, baked: Iterable[Path]) -> StoredManifest:
    settings = resource.settings
    project = settings.project_path
    digests = _Digests.of(resource)
    store, *others = _stores(resource, baked)
    known = [stored for one in (store, *others) if (stored := one.read())]
    seen = known[0].inputs if known else Inputs()
    files = Files()
    try:
        for stored in known:
            if stored.digest == digests.of_inputs(stored.inputs, files):
                return _here(stored, settings)
        before = digests.of_inputs(seen, files)
        is_known = known and known[0].looked_up == seen.looked_up_digest(project)
        anew = not is_known and any(may_hide_reads(f) for f in settings.project_paths)
        sql = _sql_models(settings, files)
        change = _Change.since(known, sql, files, digests)
        manifest, inputs = _load(settings, resource.translator, seen, anew, change)
    except ProjectLoadError as error:
        good = next((stored for stored in known if _is_of(stored.manifest, project)), None)
        if not (resource.keep_last_good and good):
            raise
        _log.error("The definitions are those of the last good load. %s", error)
        last = _here(good, settings)
        return replace(last, manifest=replace(last.manifest, problem=str(error)))
    files = Files()
    manifest = _with_others(manifest, _last_of(known, settings))
    fresh = StoredManifest(
        inputs,
        digests.of_inputs(inputs, files),
        manifest,
        inputs.looked_up_digest(project),
        tuple(sorted(sql.items())),
        digests.of_inputs(inputs, files, without=sql),
    )
    is_whole = manifest.state_problem is None and not any(  # else it is read again
        model.problem for model in manifest.models
    )
    if is_whole and digests.of_inputs(seen, files) == before:  # nobody saved a file meanwhile
        _write(store, fresh)
    return fresh


def _stores(resource: SQLMeshResource, baked: Iterable[Path]) -> Iterator[ManifestStore]:
    """Where a manifest may be; the first is written."""
    settings = resource.settings
    project = settings.project_path
    given = resource.manifest_dir
    folder = folder_of("manifest_dir", given) if given else project / DEFAULT_FOLDER
    if throw_away_folder() is not None:  # its names may differ from those of the real warehouse
        folder, baked = folder / _OF_TESTS, ()
    yield ManifestStore.in_folder(folder, settings.gateway, settings.project_paths[1:], project)
    yield from (ManifestStore(path, project) for path in baked)


def _with_others(manifest: Manifest, last: Manifest | None) -> Manifest:
    """With what the last one knew: models that are gone, and other projects' if the state is away."""
    if manifest.state_problem:
        _log.warning(
            "The state could not be asked for the models of other projects; they are as they last"
            " were. %s",
            manifest.state_problem,
        )
        manifest = with_others_of(manifest, last)
    return with_former(manifest, last)


@dataclass(frozen=True)
class _Digests:
    """Digests of a project's inputs.

    Attributes:
        environ: The environment variables before a load: it lets the project's `.env` change them.
        reader: The file of an own `read_model`.
    """

    settings: ProjectSettings
    environ: Mapping[str, str]
    reader: Path | None

    @classmethod
    def of(cls, resource: SQLMeshResource) -> _Digests:
        """Those of a resource's project."""
        return cls(resource.settings, dict(os.environ), _reader(resource.translator))

    def of_inputs(self, inputs: Inputs, files: Files, without: Container[str] = ()) -> str:
        """Of all folders of the project; see `Inputs.digest`.

        Raises:
            ProjectLoadError: One of them cannot be read.
        """
        project, gateway = self.settings.project_path, self.settings.gateway
        try:
            return digest_of_all(
                inputs.digest(folder, gateway, self.environ, self.reader, without, files)
                for folder in self.settings.project_paths
            )
        except OSError as error:
            said = with_remedy(
                f"The SQLMesh project at `{project}` cannot be read: {error}", project
            )
            raise ProjectLoadError(f"{said}\nCorrect it, and reload the code location.") from error


@dataclass(frozen=True)
class _Change:
    """What was saved since a manifest was made: files of SQL models alone.

    Attributes:
        paths: Relative to the project's folder.
    """

    last: Manifest
    paths: frozenset[str]

    @classmethod
    def since(
        cls,
        known: Sequence[StoredManifest],
        sql: Mapping[str, str],
        files: Files,
        digests: _Digests,
    ) -> _Change | None:
        """None where something else was saved, came or went, or may depend on what was."""
        for stored in known[:1]:
            is_fit = stored.manifest.nodes and not stored.inputs.reads_models
            is_here = stored.manifest.project_dir == str(digests.settings.project_path)
            if is_fit and is_here and stored.rest == digests.of_inputs(stored.inputs, files, sql):
                before = dict(stored.sql_models)
                paths = frozenset(path for path in sql if sql[path] != before.get(path))
                return cls(stored.manifest, paths) if paths else None
        return None


def _sql_models(settings: ProjectSettings, files: Files) -> dict[str, str]:
    """Of a project of one folder: others have manifests of the whole alone."""
    if len(settings.project_paths) > 1:
        return {}
    with suppress(OSError):  # a load says it better
        return files.sql_models(settings.project_path)
    return {}


def _last_of(known: Iterable[StoredManifest], settings: ProjectSettings) -> Manifest | None:
    """The newest that was made of this folder: one of a copied folder knows of another project."""
    made = (stored.manifest for stored in known)
    return next((m for m in made if m.project_dir == str(settings.project_path)), None)


def _load(
    settings: ProjectSettings,
    translator: SQLMeshTranslator,
    known: Inputs,
    anew: bool,
    change: _Change | None,
) -> tuple[Manifest, Inputs]:
    project = settings.project_path
    with (
        at_home(settings.project_paths),  # before reads are recorded: it reads all files itself
        rare_collection(),
        recorded_variables(*settings.project_paths) as variables,
        recorded_reads() as reads,
    ):
        from sqlmesh_dagster.engine.changed import load_changed  # imports SQLMesh
        from sqlmesh_dagster.engine.context import load_manifest

        read = translator.read_model
        part = load_changed(settings, read, change.last, change.paths) if change else None
        manifest = part or load_manifest(settings, read, anew)
    seeds = {model.seed_path for model in manifest.models if model.seed_path}
    inputs = inputs_of(reads, variables, seeds, known, project)
    modules = {
        os.path.relpath(folder / module, project)
        for folder in settings.project_paths[1:]
        for module in local_modules(folder)
    }
    return manifest, replace(inputs, files=tuple(sorted({*inputs.files, *modules})))


def _write(store: ManifestStore, fresh: StoredManifest) -> None:
    try:
        store.write(fresh)
    except OSError as error:
        _log.warning(
            "The manifest `%s` cannot be written (%s), so that each process loads the project, which"
            " takes seconds. Run `dg check defs` where it can be written, such as when the image is"
            " built, or set `manifest_dir`.",
            store.path,
            error,
        )


def _is_of(manifest: Manifest, project: Path) -> bool:
    """Whether it was made of this project, or of a copy, and not of one that left its cache behind."""
    return manifest.project_dir == str(project) or any(
        (project / model.path).is_file() for model in manifest.models if model.path
    )


def _reader(translator: SQLMeshTranslator) -> Path | None:
    """The file of an own `read_model`."""
    function = type(translator).read_model
    if function is SQLMeshTranslator.read_model:
        return None
    return Path(inspect.getfile(function))


def _here(stored: StoredManifest, settings: ProjectSettings) -> StoredManifest:
    folder = str(settings.project_path)
    former = stored.manifest.former if stored.manifest.project_dir == folder else ()
    return replace(stored, manifest=replace(stored.manifest, project_dir=folder, former=former))
