"""What a manifest is made of, by content: files, environment variables, versions. Imports no SQLMesh."""

from __future__ import annotations

import ast
import hashlib
import os
import re
import sys
import threading
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib.machinery import PathFinder
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import FrameType
from typing import Any

from sqlmesh_dagster import gateways, warehouses
from sqlmesh_dagster.guard.texts import read_dotenv
from sqlmesh_dagster.manifest.credentials import connection_variables, is_connection_override
from sqlmesh_dagster.manifest.reads import Reads, is_library, is_project_code

FOLDERS = (
    "audits",
    "external_models",
    "linter",
    "macros",
    "materializations",
    "metrics",
    "models",
    "seeds",
    "signals",
    "tests",
)
"""Folders that SQLMesh loads."""
CONFIGS = ("config.py", "config.yml", "config.yaml", "sqlmesh.yml", "sqlmesh.yaml")
"""`sqlmesh.core.config.common.ALL_CONFIG_FILENAMES`; a contract test compares them."""
_DBT_PROJECT = "dbt_project.yml"
_DBT_FILES = (
    _DBT_PROJECT,
    "profiles.yml",
    "packages.yml",
    "dependencies.yml",
    "package-lock.yml",
    "selectors.yml",
)
_DOTENV = ".env"
_FILES = (
    _DOTENV,
    *CONFIGS,
    "external_models.yaml",
    "external_models.yml",
    "schema.yaml",
    "schema.yml",
    "sqlmesh-requirements.lock",
    *_DBT_FILES,
)
"""Files that SQLMesh, and dbt for it, look for by name: one that appears is an input, too."""
_MODELS = "models/"
_OWN_CONFIG = tuple(name for name in CONFIGS if not name.endswith(".py"))
_SETTINGS_PREFIX = "sqlmesh__"
"""Environment variables `SQLMESH__…` override SQLMesh's config, in either case."""
_DBT_PREFIX = "DBT_"
_HERE = Path(__file__).resolve().parent
_MAKERS = (
    *sorted(_HERE.glob("*.py")),
    *(_HERE.parent / name for name in ("gateways.py", "warehouses.py")),
    *(_HERE.parent / "definition" / name for name in ("names.py", "nodes.py", "records.py")),
    *(
        _HERE.parent / "engine" / name
        for name in ("changed.py", "connections.py", "lineage.py", "reader.py", "source.py")
    ),
)
"""What of this package decides what a manifest holds."""
_OUTPUTS = ("__pycache__", "logs", "target")
_OUTPUT_ENDINGS = (".log", ".wal", ".tmp")
"""What a run leaves next to the files; it is left out of listings."""
_ENV_VAR = re.compile(rb"""env_var\(\s*['"]([^'"]+)['"]""")
"""dbt reads these from a copy of the environment, which no recorder sees."""
_OF_WAREHOUSES = (gateways.__file__, warehouses.__file__)
"""Where the variables of production's warehouse are read for the project's config."""
_YAML_READER = str(Path("sqlmesh", "utils", "yaml.py"))
"""Where `{{ env_var('…') }}` in a YAML file reads its variable."""


@dataclass(frozen=True)
class Inputs:
    """What a load of a project read in addition to SQLMesh's own files and folders.

    Attributes:
        variables: Names of environment variables that the project's code or config read.
        files: Files elsewhere, as `portable` writes them; some may not be there.
        listings: Folders in which the project's code, or dbt, looked for files.
        looked_up: Those of both that the project's own code looked up: SQLMesh's cache, which may hold
            what a macro made of them, does not know of them.
        asked: What that code has asked whether it is there: whether it is counts, and not what is in it.
        reads_models: Whether that code has read the files of SQL models: any of them may be made of any.
    """

    variables: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    listings: tuple[str, ...] = ()
    looked_up: tuple[str, ...] = ()
    reads_models: bool = False
    asked: tuple[str, ...] = ()

    def digest(
        self,
        project: Path,
        gateway: str | None,
        environ: Mapping[str, str],
        reader: Path | None = None,
        without: Container[str] = (),
        files: Files | None = None,
    ) -> str:
        """Changes when SQLMesh, or this package, might read something else; 64 hexadecimal digits.

        The place of the project and the times of its files don't count: a clone or a copy agrees.

        Args:
            environ: The environment variables before SQLMesh let `.env` override them.
            reader: The file of a `read_model` that is not this package's own.
            without: Files whose content is left out, and only that they are there counts.
            files: As they are at the moment that is meant; as they are now if it is None.

        Raises:
            OSError: A file of SQLMesh's folders, or the reader, cannot be read.
        """
        files = files or Files()
        digest = _Digest()
        digest.add(*_versions(project), gateway, reader.read_bytes() if reader else None)
        for path in _MAKERS:
            digest.add(path.name, files.digest(path))
        for name, value in self._values(project, environ):
            digest.add(name, value)
        for name, path in sorted((*files.of(project), *self._named(project))):
            if name in without:
                digest.add(name)
            elif name != _DOTENV:  # of which the values that are read count
                digest.add_file(name, files.digest(path))
        for name in self.listings:
            digest.add(name, *_listed(located(name, project)))
        for name in self.asked:
            digest.add(name, _kind(located(name, project)))
        return digest.text

    def looked_up_digest(self, project: Path) -> str:
        """Changes when what the project's own code looked up does, which SQLMesh does not notice."""
        digest, files = _Digest(), Files()
        for name in self.looked_up:
            path = located(name, project)
            if name in self.listings:
                digest.add(name, *_listed(path))
            else:
                digest.add_file(name, files.digest(path))
        for name in self.asked:
            digest.add(name, _kind(located(name, project)))
        return digest.text

    def _named(self, project: Path) -> Iterator[tuple[str, Path]]:
        yield from ((name, located(name, project)) for name in self.files)
        home = sqlmesh_home()
        yield from ((f"~/{name}", home / name) for name in _OWN_CONFIG)
        if (project / _DBT_PROJECT).is_file():
            profiles = os.environ.get("DBT_PROFILES_DIR")
            folder = Path(profiles) if profiles else Path.home() / ".dbt"
            yield "~/.dbt/profiles.yml", folder / "profiles.yml"

    def _values(
        self, project: Path, environ: Mapping[str, str]
    ) -> Iterator[tuple[str, str | None]]:
        """What SQLMesh would find: it lets the project's `.env` override the environment."""
        overrides = read_dotenv(project / ".env") if (project / ".env").is_file() else {}
        settings = {
            name
            for name in (*environ, *overrides)
            if name.lower().startswith(_SETTINGS_PREFIX) and not is_connection_override(name)
        }
        if (project / _DBT_PROJECT).is_file():
            settings |= {name for name in (*environ, *overrides) if name.startswith(_DBT_PREFIX)}
        for name in sorted(settings | {warehouses.GATEWAY} | set(self.variables)):
            yield name, overrides.get(name, environ.get(name))


class Files:
    """A project's files as they are at one moment: each folder is listed once, and each file is read once."""

    def __init__(self) -> None:
        self._of: dict[Path, tuple[tuple[str, Path], ...]] = {}
        self._digests: dict[Path, bytes | None] = {}

    def of(self, project: Path) -> tuple[tuple[str, Path], ...]:
        """The files that SQLMesh finds by their names and folders, each with its name from the project on.

        Raises:
            OSError: A folder cannot be listed.
        """
        if project not in self._of:
            self._of[project] = tuple(_project_files(project))
        return self._of[project]

    def digest(self, path: Path) -> bytes | None:
        """32 bytes that change with the file's content; None for what is no file or cannot be read."""
        if path not in self._digests:
            self._digests[path] = _digest_of_file(path)
        return self._digests[path]

    def sql_models(self, project: Path) -> dict[str, str]:
        """The files of SQL models, relative to the project's folder, each with 32 digits of its digest.

        Raises:
            OSError: A folder cannot be listed.
        """
        return {
            name: digest.hex()[:32]
            for name, path in self.of(project)
            if name.startswith(_MODELS) and name.endswith(".sql") and (digest := self.digest(path))
        }


def _digest_of_file(path: Path) -> bytes | None:
    with suppress(OSError):
        if path.is_file():  # reading a pipe would never end
            return hashlib.sha256(path.read_bytes()).digest()
    return None


def digest_of_all(digests: Iterable[str]) -> str:
    """Of the folders of a project that has several; of one it is its own."""
    first, *more = digests
    return hashlib.sha256("".join([first, *more]).encode()).hexdigest() if more else first


@contextmanager
def recorded_variables(*projects: Path) -> Iterator[set[str]]:
    """Adds the names of the environment variables that a project's own code or config reads meanwhile.

    What libraries read is left out: `PATH` is no input of a model. So is what the config reads for its
    connections alone.

    Args:
        projects: Folders of the projects that are loaded.
    """
    recording = _Recording.of(projects)
    with _lock:
        _recordings.append(recording)
        os.environ.__class__ = _Recorder
    try:
        yield recording.read
    finally:
        with _lock:
            _recordings[:] = [other for other in _recordings if other is not recording]
            if not _recordings:
                os.environ.__class__ = _Environ


_Environ: Any = type(os.environ)


@dataclass(frozen=True)
class _Recording:
    """What is read, and what is left out: by file, and of all YAML files, whose reader is SQLMesh's."""

    read: set[str]
    of_connections: Mapping[str, frozenset[str]]
    of_yaml: frozenset[str]

    @classmethod
    def of(cls, projects: Iterable[Path]) -> _Recording:
        files = [project / name for project in projects for name in CONFIGS]
        found = {str(file): connection_variables(file) for file in files}
        found |= dict.fromkeys(_OF_WAREHOUSES, warehouses.connecting_variables())
        yaml = [names for file, names in found.items() if not file.endswith(".py")]
        return cls(set(), found, frozenset().union(*yaml))

    def add(self, name: str, file: str) -> None:
        """Notes what a file's code reads, unless that changes no model."""
        is_yaml = file.endswith(_YAML_READER)
        if name not in (self.of_yaml if is_yaml else self.of_connections.get(file, frozenset())):
            self.read.add(name)


_recordings: list[_Recording] = []
_lock = threading.Lock()
"""`os.environ` is the process's: threads that record at once share the recorder."""


class _Recorder(_Environ):  # type: ignore[misc]
    def __getitem__(self, key: str) -> str:
        file = _project_file(sys._getframe(1))
        if file is not None:
            for recording in list(_recordings):
                recording.add(key, file)
        value: str = _Environ.__getitem__(self, key)  # not `super()`: the class may just change
        return value


def local_modules(project: Path) -> Iterator[str]:
    """Modules outside SQLMesh's folders that the project's Python files import, and what these import.

    Found by reading the imports, without running anything; relative to the project's folder.
    """
    own = {path for _, path in _project_files(project)}
    pending = [path for path in own if path.suffix == ".py"]
    seen = set(own)
    while pending:
        for path in _imports(pending.pop(), project):
            if path not in seen:
                seen.add(path)
                pending.append(path)
    yield from sorted(os.path.relpath(path, project) for path in seen - own)


def portable(path: str, project: Path) -> str:
    """How an input is written down, so that a copy of the project agrees: from its folder, or from home."""
    home = str(Path.home())
    shared = os.path.commonpath([path, str(project)])
    if path.startswith(f"{home}{os.sep}") and not shared.startswith(f"{home}{os.sep}"):
        return f"~{path[len(home) :]}"
    if shared == os.sep:
        return path
    return os.path.relpath(path, project)


def located(name: str, project: Path) -> Path:
    """Where an input is; the reverse of `portable`."""
    return Path(name).expanduser() if name.startswith("~") else project / name


def sqlmesh_home() -> Path:
    """Where a user's own config of SQLMesh is."""
    return Path(os.environ.get("SQLMESH_HOME") or Path.home() / ".sqlmesh")


def inputs_of(
    reads: Reads, variables: Iterable[str], seeds: Iterable[str], known: Inputs, project: Path
) -> Inputs:
    """What a load has read, with what earlier loads have: SQLMesh's cache hides reads.

    Args:
        seeds: The models' seeds, relative to the project's folder.
    """
    by_name = {str(path) for _, path in _project_files(project)}
    read = {path for path in reads.files - by_name if not _is_kept_by_sqlmesh(path)}
    files = {portable(path, project) for path in read}
    files |= {name for name in seeds if _is_elsewhere(project / name, project)}
    files |= set(local_modules(project))
    listings = {portable(path, project) for path in reads.listed}
    looked_up = {
        portable(path, project) for path in (*(reads.own & read), *(reads.own & reads.listed))
    }
    asked = reads.asked - reads.opened - reads.listed - reads.written - by_name
    asked = {portable(path, project) for path in asked if not _is_kept_by_sqlmesh(path)}
    is_dbt = (project / _DBT_PROJECT).is_file()
    jinja = _variables_of_jinja(read | by_name) if is_dbt else ()
    return Inputs(
        variables=tuple(sorted({*variables, *jinja, *known.variables})),
        files=tuple(sorted(files.union(known.files))),
        listings=tuple(sorted(listings.union(known.listings))),
        looked_up=tuple(sorted(looked_up.union(known.looked_up))),
        reads_models=known.reads_models
        or any(_is_sql_model(path, project) for path in reads.own & reads.files),
        asked=tuple(sorted(asked.union(known.asked))),
    )


def _is_sql_model(path: str, project: Path) -> bool:
    return path.endswith(".sql") and Path(path).is_relative_to(project / _MODELS)


def may_hide_reads(project: Path) -> bool:
    """Whether SQLMesh's cache may hold what macros read: those in Python can read anything."""
    return any((project / "macros").rglob("*.py"))


def _variables_of_jinja(files: Iterable[str]) -> Iterator[str]:
    for file in files:
        if file.endswith((".sql", ".yml", ".yaml")):
            with suppress(OSError):
                for name in _ENV_VAR.findall(Path(file).read_bytes()):
                    yield name.decode(errors="replace")


def _is_kept_by_sqlmesh(path: str) -> bool:
    """Caches, and notes in a user's home: no inputs, and they change by themselves."""
    home = f"{sqlmesh_home().absolute()}{os.sep}"
    return f"{os.sep}.cache{os.sep}" in path or path.startswith(home) or path.endswith("/.user.yml")


def _is_elsewhere(path: Path, project: Path) -> bool:
    """Whether a file is in none of the folders that SQLMesh loads."""
    folders = [project / name for name in FOLDERS]
    return not any(path.is_relative_to(folder) for folder in folders)


class _Digest:
    """A digest of parts, each with its length, so that no two lists of them are alike."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, *parts: str | bytes | None) -> None:
        """Adds parts in their order; None is one, too."""
        for part in parts:
            data = b"" if part is None else part if isinstance(part, bytes) else os.fsencode(part)
            self._digest.update(b"-" if part is None else b"%d:" % len(data))
            self._digest.update(data)

    def add_file(self, name: str, digest: bytes | None) -> None:
        """Adds a file if it is there and can be read."""
        if digest is not None:
            self.add(name, digest)

    @property
    def text(self) -> str:
        """64 hexadecimal digits."""
        return self._digest.hexdigest()


def _listed(folder: Path) -> list[str]:
    """What a folder holds, without what a run leaves there."""
    with suppress(OSError):
        return sorted(
            name
            for name in os.listdir(folder)  # noqa: PTH208 - the names suffice
            if not name.startswith(".")
            and name not in _OUTPUTS
            and not name.endswith(_OUTPUT_ENDINGS)
        )
    return []


def _kind(path: Path) -> str:
    return "folder" if path.is_dir() else "file" if path.exists() else ""


def _project_files(project: Path) -> Iterator[tuple[str, Path]]:
    for name in _FILES:
        yield name, project / name
    pending = [project / name for name in FOLDERS]
    while pending:
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name == "__pycache__":
                    continue
                path = Path(entry.path)
                if entry.is_dir(follow_symlinks=False):  # as SQLMesh, which loops in no link
                    pending.append(path)
                elif entry.is_dir():
                    continue
                elif path.exists() and not entry.is_file():  # reading a pipe would never end
                    raise OSError(f"`{path}` is a pipe or a device")
                else:
                    yield path.relative_to(project).as_posix(), path


def _imports(file: Path, project: Path) -> Iterator[Path]:
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):  # a load says it better
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:
            yield from _relative(file, node)
            continue
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            yield from _module_files(name, str(project), str(file.parent))


def _relative(file: Path, node: ast.ImportFrom) -> Iterator[Path]:
    folder = file.parents[node.level - 1].joinpath(*(node.module or "").split("."))
    for name in ("", *(alias.name for alias in node.names)):
        for path in (folder / name / "__init__.py", (folder / name).with_suffix(".py")):
            if path.is_file():
                yield path.resolve()


@lru_cache(maxsize=4096)
def _module_files(name: str, *roots: str) -> tuple[Path, ...]:
    """The files that `import name` runs, packages first; none of a library's.

    Of a module that is nowhere, as of settings that some machines have, where it would be.
    """
    files: list[Path] = []
    search: list[str] | None = [*roots, *sys.path]
    top = name.partition(".")[0]
    if top not in sys.stdlib_module_names and PathFinder.find_spec(top, search) is None:
        places = (Path(root, top) for root in roots)
        return tuple(
            p for place in places for p in (place / "__init__.py", place.with_suffix(".py"))
        )
    for end in range(1, name.count(".") + 2):
        spec = PathFinder.find_spec(name.split(".")[end - 1], search)
        if spec is None:
            break
        origin = Path(spec.origin).resolve() if spec.origin and spec.has_location else None
        if origin is not None:
            if origin.suffix != ".py" or is_library(str(origin)):
                break
            files.append(origin)
        if not spec.submodule_search_locations:
            break
        search = list(spec.submodule_search_locations)
    return tuple(files)


def _project_file(frame: FrameType | None) -> str | None:
    """The file whose code reads a variable, if it is the project's, or the reader of its YAML files."""
    while frame is not None and frame.f_globals.get("__name__") in {"os", "collections.abc"}:
        frame = frame.f_back
    if frame is None:
        return None
    file = frame.f_code.co_filename
    is_read_for_project = file.endswith(_YAML_READER) or file in _OF_WAREHOUSES
    return file if is_read_for_project or is_project_code(file) else None


def _versions(project: Path) -> Iterable[str]:
    yield f"{sys.version_info.major}.{sys.version_info.minor}"
    yield from (_version("sqlmesh"), _version("sqlglot"))
    if (project / _DBT_PROJECT).is_file():
        with suppress(PackageNotFoundError):
            yield _version("dbt-core")


_version = lru_cache(version)
"""Of an installed package, looked up once: a process goes on with what it began with."""
