"""What a manifest is made of, by content: files, environment variables, versions. Imports no SQLMesh."""

from __future__ import annotations

import ast
import hashlib
import os
import sys
import sysconfig
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib.machinery import PathFinder
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any

from dotenv import dotenv_values

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
_FILES = (
    ".env",
    "config.py",
    "config.yaml",
    "config.yml",
    "external_models.yaml",
    "schema.yaml",
    "sqlmesh-requirements.lock",
)
_OWN_CONFIG = ("config.yaml", "config.yml")
_SETTINGS_PREFIX = "sqlmesh__"
"""Environment variables `SQLMESH__…` override SQLMesh's config, in either case."""
_PACKAGE = f"{Path(__file__).resolve().parents[1]}{os.sep}"
"""The integration reads all variables, to set them back; the project does not read these."""
_LIBRARIES = tuple(
    str(Path(sysconfig.get_path(name)).resolve())
    for name in ("stdlib", "platstdlib", "purelib", "platlib")
)
_HERE = Path(__file__).resolve().parent
_YAML_READER = str(Path("sqlmesh", "utils", "yaml.py"))
"""Where `{{ env_var('…') }}` in a YAML file reads its variable."""


@dataclass(frozen=True)
class Inputs:
    """What a load of a project read in addition to SQLMesh's own files and folders.

    Attributes:
        variables: Names of environment variables that the project's code or config read.
        files: Modules and seeds elsewhere, relative to the project's folder.
    """

    variables: tuple[str, ...] = ()
    files: tuple[str, ...] = ()

    def digest(
        self,
        project: Path,
        gateway: str | None,
        environ: Mapping[str, str],
        reader: Path | None = None,
    ) -> str:
        """Changes when SQLMesh, or this package, might read something else; 64 hexadecimal digits.

        The place of the project and the times of its files don't count: a clone or a copy agrees.

        Args:
            environ: The environment variables before SQLMesh let `.env` override them.
            reader: The file of a `read_model` that is not this package's own.
        """
        digest = hashlib.sha256()

        def add(*parts: str | bytes | None) -> None:
            for part in parts:
                data = b"" if part is None else part.encode() if isinstance(part, str) else part
                digest.update(b"-" if part is None else b"%d:" % len(data))
                digest.update(data)

        add(*_versions(), gateway, reader.read_bytes() if reader else None)
        for path in sorted(_HERE.glob("*.py")):
            add(path.name, path.read_bytes())
        for name, value in self._values(project, environ):
            add(name, value)
        for name, path in sorted((*_project_files(project), *self._named(project))):
            with suppress(FileNotFoundError):
                add(name, path.read_bytes())
        return digest.hexdigest()

    def _named(self, project: Path) -> Iterator[tuple[str, Path]]:
        yield from ((name, project / name) for name in self.files)
        home = Path(os.environ.get("SQLMESH_HOME") or Path.home() / ".sqlmesh")
        yield from ((f"~/{name}", home / name) for name in _OWN_CONFIG)

    def _values(
        self, project: Path, environ: Mapping[str, str]
    ) -> Iterator[tuple[str, str | None]]:
        """What SQLMesh would find: it lets the project's `.env` override the environment."""
        overrides = dotenv_values(project / ".env") if (project / ".env").is_file() else {}
        settings = {name for name in environ if name.lower().startswith(_SETTINGS_PREFIX)}
        for name in sorted(settings | set(self.variables)):
            yield name, overrides.get(name, environ.get(name))


@contextmanager
def recorded_variables() -> Iterator[set[str]]:
    """Adds the names of the environment variables that a project's own code or config reads meanwhile.

    What libraries read is left out: `PATH` is no input of a model.
    """
    read: set[str] = set()
    with _lock:
        _recordings.append(read)
        os.environ.__class__ = _Recorder
    try:
        yield read
    finally:
        with _lock:
            _recordings[:] = [other for other in _recordings if other is not read]
            if not _recordings:
                os.environ.__class__ = _Environ


_Environ: Any = type(os.environ)
_recordings: list[set[str]] = []
_lock = threading.Lock()
"""`os.environ` is the process's: threads that record at once share the recorder."""


class _Recorder(_Environ):  # type: ignore[misc]
    def __getitem__(self, key: str) -> str:
        if _is_of_project(sys._getframe(1)):
            for read in list(_recordings):
                read.add(key)
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


def is_elsewhere(path: Path, project: Path) -> bool:
    """Whether a file is in none of the folders that SQLMesh loads."""
    folders = [project / name for name in FOLDERS]
    return not any(path.is_relative_to(folder) for folder in folders)


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
                if entry.is_dir():
                    pending.append(path)
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
    """The files that `import name` runs, packages first; none of a library's."""
    files: list[Path] = []
    search: list[str] | None = [*roots, *sys.path]
    for end in range(1, name.count(".") + 2):
        spec = PathFinder.find_spec(name.split(".")[end - 1], search)
        if spec is None:
            break
        origin = Path(spec.origin).resolve() if spec.origin and spec.has_location else None
        if origin is not None:
            if origin.suffix != ".py" or _is_library(str(origin)):
                break
            files.append(origin)
        if not spec.submodule_search_locations:
            break
        search = list(spec.submodule_search_locations)
    return tuple(files)


def _is_of_project(frame: FrameType | None) -> bool:
    while frame is not None and frame.f_globals.get("__name__") in {"os", "collections.abc"}:
        frame = frame.f_back
    if frame is None:
        return False
    file = frame.f_code.co_filename
    if file.endswith(_YAML_READER) or file == "<string>":  # SQLMesh's `exec` of macros and models
        return True
    return not (file.startswith("<") or _is_library(file) or _is_library(os.path.realpath(file)))


def _is_library(file: str) -> bool:
    return file.startswith((*_LIBRARIES, _PACKAGE)) or "site-packages" in file


def _versions() -> Iterable[str]:
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return python, version("sqlmesh"), version("sqlglot")
