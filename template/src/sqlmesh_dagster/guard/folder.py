"""Relative paths in a project's files: they lead where they lead for `sqlmesh`, wherever Dagster was started."""

from __future__ import annotations

import glob
import os
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

ROOTS = (".git", "pyproject.toml")
"""What the root of a repository has."""
_TEXTS = (".py", ".sql", ".yaml", ".yml")
_CONFIGS = ("config.yaml", "config.yml", "config.py", "dbt_project.yml")
_OF_DBT = ("packages.yml", "dependencies.yml")
_NO_FILES = ("__pycache__", "node_modules", "site-packages", "logs", "target")
_LEFT_OUT = re.compile(
    r"""(?:^|\s)(?:\#|--)[^\n]* | /\*.*?\*/ | \"\"\".*?\"\"\" | \bSEED\s*\([^)]*\) | \bdescription:?\s*(?:'[^']*'|"[^"]*")""",
    re.MULTILINE | re.IGNORECASE | re.DOTALL | re.VERBOSE,
)
"""Comments, descriptions, and the paths of seeds, which SQLMesh takes from the model's file."""
_QUOTED = re.compile(r"'([^'\n]{3,200})'|\"([^\"\n]{3,200})\"")
_BARE = re.compile(r"[^\s'\"`()\[\]{},;=<>|]+/[^\s'\"`()\[\]{},;=<>|]+")
_IS_PATH = re.compile(r"/|\.\w{1,8}$")
_change = threading.Condition()
_started: list[Path] = []
"""Where the process was, once for each thread that works in the other folder now."""


def started_in() -> Path:
    """The working directory that the process has for everybody else."""
    return _started[0] if _started else Path.cwd()


def with_config(folders: Iterable[Path]) -> list[Path]:
    """Those that are projects: a wrong setting may name a whole home folder, which is not searched."""
    return [f for f in folders if any((f / name).is_file() for name in _CONFIGS)]


@contextmanager
def at_home(projects: Sequence[Path]) -> Iterator[None]:
    """Works in the folder from which the projects' relative paths lead to files, if they do not from here.

    SQLMesh leaves such paths to Python and DuckDB, which take them from the working directory. That is
    the whole process's: what else runs in it sees the other folder meanwhile, so that a project that
    needs none stays here. Where the projects' own code goes elsewhere meanwhile, it is undone afterwards.
    """
    here = started_in()
    home = home_of(with_config(projects), here)
    if home is None:
        try:
            yield
        finally:
            _come_back(here)
        return
    _enter(home)
    try:
        yield
    finally:
        _leave()


def _enter(home: Path) -> None:
    """Several threads may work in one folder at once; for another one, it waits until they have left."""
    with _change:
        _change.wait_for(lambda: not _started or Path.cwd() == home)
        _started.append(started_in())
        os.chdir(home)


def _leave() -> None:
    with _change:
        before = _started.pop()
        if not _started:
            with suppress(FileNotFoundError):  # it was removed meanwhile
                os.chdir(before)
        _change.notify_all()


def _come_back(here: Path) -> None:
    """To where the process was; not while another thread works in the folder of its project."""
    with _change, suppress(FileNotFoundError):  # it was removed meanwhile
        if not _started and not Path(os.curdir).samefile(here):
            os.chdir(here)


def home_of(projects: Sequence[Path], here: Path) -> Path | None:
    """The folder from which a path in the projects' files leads to something that is not there from here."""
    if any(project.samefile(here) for project in projects if project.is_dir()):
        return None
    named = {path for project in projects for path in _named(project)}
    lost = sorted(path for path in named if not _leads_from(here, path))
    folders = (folder for project in projects for folder in up_to_root(project))
    return next(
        (f for f in folders if f != here and any(_leads_from(f, path) for path in lost)), None
    )


def up_to_root(project: Path) -> Iterator[Path]:
    """Where `sqlmesh` may have been started: in the project, or above it, up to the repository's root."""
    yield project
    parents = list(project.parents)
    roots = [n for n, p in enumerate(parents) if any((p / name).exists() for name in ROOTS)]
    yield from parents[: roots[0] + 1] if roots else ()


def _named(project: Path) -> Iterator[str]:
    """What looks like a relative path in the texts of a project."""
    for text in _texts(project):
        code = _LEFT_OUT.sub("", text)
        for match in (*_QUOTED.finditer(code), *_BARE.finditer(code)):
            word = match[match.lastindex or 0]
            if _IS_PATH.search(word) and not word.startswith(("/", "~", "..")):
                yield word


def _texts(project: Path) -> Iterator[str]:
    for folder, folders, files in os.walk(project):
        folders[:] = [f for f in folders if f not in _NO_FILES and not f.startswith(".")]
        for file in files:
            path = Path(folder, file)
            if file.endswith(_TEXTS) and file not in _OF_DBT:
                with suppress(OSError):  # what cannot be read names no path; a load says so
                    if path.is_file():  # reading a pipe would never end
                        yield path.read_text(encoding="utf-8", errors="replace")


def _leads_from(folder: Path, path: str) -> bool:
    """Whether a path, or a pattern of paths, leads to something below a folder."""
    place = os.path.normpath(Path(folder, path))
    if not place.startswith(f"{folder}{os.sep}"):
        return False
    if glob.has_magic(path):
        found = glob.iglob(place)  # noqa: PTH207 - `Path.glob` takes no whole path
        return next(found, None) is not None
    return os.path.lexists(place)
