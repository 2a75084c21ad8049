"""Module paths of 0.1 and 0.2 go on working, with a warning that names the new path."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_PACKAGE = "sqlmesh_dagster"
_OLD_PACKAGES = ("execution",)
MOVED = {
    "code_checks": "run.verification",
    "definition.inputs": "manifest.inputs",
    "definition.lineage": "engine.lineage",
    "definition.manifest": "engine.reader",
    "definition.source": "engine.source",
    "definition.store": "manifest.store",
    "definition.translator": "translator",
    "due": "engine.due",
    "execution.appending": "engine.appending",
    "execution.built": "engine.built",
    "execution.cancel": "guard.cancel",
    "execution.console": "console",
    "execution.context": "engine.context",
    "execution.deployed": "engine.state",
    "execution.deployment": "engine.deployment",
    "execution.events": "events",
    "execution.explanation": "engine.explanation",
    "execution.findings": "facts.verification",
    "execution.locks": "guard.locks",
    "execution.outcomes": "facts.outcomes",
    "execution.plan_summary": "facts.plan_summary",
    "execution.planning": "engine.plan",
    "execution.probes": "engine.probes",
    "execution.resource": "resource",
    "execution.restatement": "engine.restatement",
    "execution.results": "run.results",
    "execution.selection": "run.selection",
    "execution.session": "engine.sqlmesh_run",
    "execution.settings": "settings",
    "execution.state_lock": "engine.state_lock",
    "execution.steps": "run.steps",
    "execution.tables": "facts.tables",
    "execution.verification": "engine.verification",
    "execution.work": "run.work",
    "garbage": "guard.garbage",
    "loading": "manifest.loading",
    "plans": "run.plans",
    "run.summary": "commands.newest",
    "schedule": "run.schedule",
    "summary": "commands.newest",
    "sync": "run.sync",
}
"""Old module → new module, below `sqlmesh_dagster`."""


def warn_of_old_path(old: str, new: str) -> None:
    """Warns who imports `old`, and names the new path; the old path works until 1.0."""
    warnings.warn(f"`{old}` has moved to `{new}`.", DeprecationWarning, stacklevel=3)


def install_old_paths() -> None:
    """Makes the old paths importable, for modules that Python does not find otherwise."""
    if not any(isinstance(finder, _OldPaths) for finder in sys.meta_path):
        sys.meta_path.append(_OldPaths())


class _OldPaths(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, name = fullname.partition(".")
        if package != _PACKAGE:
            return None
        if name in _OLD_PACKAGES:
            return ModuleSpec(fullname, _OldPackage(), is_package=True)
        if name in MOVED:
            return ModuleSpec(fullname, _OldModule(f"{_PACKAGE}.{MOVED[name]}"))
        return None


class _OldPackage(Loader):
    def exec_module(self, module: ModuleType) -> None:
        """Nothing: it is there for the modules below it."""


class _OldModule(Loader):
    """Returns the new module for the old name, so that its classes exist only once."""

    def __init__(self, new: str) -> None:
        self._new = new

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        warn_of_old_path(spec.name, self._new)
        module = import_module(self._new)
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Restores the module's spec, which the import system has just replaced."""
        module.__spec__ = self._spec
