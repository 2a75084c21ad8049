"""Python modules that a project's files import from its own folders, which leave the process with its context."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from functools import lru_cache
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

_LIBRARIES = ("site-packages", "dist-packages")


class ModuleChanges:
    """What loading a project imports of its own code, and puts on Python's path; undone when it is closed.

    Without it, a second project of the process gets the first one's `helpers.py` for its own, and an
    edited helper is the one of before. Libraries stay, and what others have imported meanwhile.
    """

    def __init__(self, folders: Iterable[str | os.PathLike[str]]) -> None:
        self._folders = {os.path.realpath(folder) for folder in folders}
        self._path = list(sys.path)
        self._before = dict(sys.modules)
        self._finder = _Finder(sorted(self._folders))
        sys.meta_path.append(self._finder)

    def undo(self) -> None:
        """Python's path, and the modules of these names, are what they were before."""
        if self._finder in sys.meta_path:
            sys.meta_path.remove(self._finder)
        added = [entry for entry in sys.path if entry not in self._path]
        roots = self._folders | {os.path.realpath(entry) for entry in added if _is_own(entry)}
        for name in _imported_from(roots, self._before):
            del sys.modules[name]
            if name in self._before:
                sys.modules[name] = self._before[name]
        for entry in added:
            sys.path.remove(entry)


class _Finder(MetaPathFinder):
    """Finds a project's modules where nobody else has one of that name.

    SQLMesh imports some by their name when it renders a model, such as the builtins that a loader gives to
    Jinja: they are there after a load, and must be there for a run, which loads nothing.
    """

    def __init__(self, folders: list[str]) -> None:
        self._folders = folders

    def find_spec(
        self, name: str, path: object, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module in one of the folders; a folder alone is none."""
        if path is not None:
            return None
        spec = PathFinder.find_spec(name, self._folders, target)
        return spec if spec is not None and spec.loader is not None else None


def _imported_from(roots: set[str], before: Mapping[str, ModuleType]) -> list[str]:
    return [
        name
        for name, module in list(sys.modules.items())
        if before.get(name) is not module and _root(name, module) in roots
    ]


def _root(name: str, module: ModuleType) -> str | None:
    """The folder in which Python found the module's outermost package, or the module itself."""
    file = getattr(module, "__file__", None)
    if file is None:  # a package without `__init__.py`
        places = list(getattr(module, "__path__", ()))
        return _above(places[0], name.count(".") + 1) if places else None
    is_package = os.path.basename(file) == "__init__.py"  # noqa: PTH119 - thousands of modules are asked
    return _above(file, name.count(".") + 1 + is_package)


@lru_cache(maxsize=4096)
def _above(path: str, levels: int) -> str:
    for _ in range(levels):
        path = os.path.dirname(path)  # noqa: PTH120
    return os.path.realpath(path)


def _is_own(entry: str) -> bool:
    return not any(library in entry for library in _LIBRARIES)
