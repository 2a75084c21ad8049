"""The rooms of the package: which may import SQLMesh, and which way imports point."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pytest
from pydantic import BaseModel

import sqlmesh_dagster
from sqlmesh_dagster import (
    SQLMeshInvalidateOptions,
    SQLMeshPlanOptions,
    SQLMeshProjectComponent,
    SQLMeshResource,
    SQLMeshReviewOptions,
    SQLMeshRollbackOptions,
    SQLMeshRunOptions,
    sqlmesh_definitions_factory,
)
from sqlmesh_dagster.moved import MOVED
from sqlmesh_dagster.options import (
    InvalidateOptions,
    PlanOptions,
    ReviewOptions,
    RollbackOptions,
    RunOptions,
)
from sqlmesh_dagster.settings import DefinitionOptions, ProjectSettings

PACKAGE = Path(sqlmesh_dagster.__file__).parent
NAME = PACKAGE.name
_DOORS = ("__init__", "factories", "component", "conform", "forkserver")
"""What only reaches in; nothing behind it reaches back."""
_MAY_IMPORT = {
    "errors": set(),
    "production": set(),
    "layout": set(),
    "argument_types": {"errors"},
    "surroundings": set(),
    "settings": {"argument_types", "errors", "layout", "production", "surroundings"},
    "times": {"errors"},
    "options": {"errors", "settings", "times"},
    "moved": set(),
    "facts": {"definition", "errors", "options", "settings"},
    "definition": {"errors", "production", "translator"},
    "translator": {"definition", "errors"},
    "upstream": {"moved"},
    "event_log": {"upstream"},
    "guard": {"errors", "upstream"},
    "pytest_plugin": {"guard", "upstream"},
    "warehouses": set(),
    "gateways": {"guard", "warehouses"},
    "csv_files": set(),
    "events": {"checks", "definition", "errors", "facts"},
    "checks": {"definition", "facts"},
    "partition_checks": {"checks", "definition", "facts"},
    "consumers": {"definition", "facts"},
    "automation": set(),
    "alerts": {"errors", "guard"},
    "commands": {
        "alerts",
        "definition",
        "errors",
        "guard",
        "layout",
        "production",
        "surroundings",
        "upstream",
    },
    "resource": {"errors", "guard", "options", "settings", "translator", "upstream"},
    "console": {"definition", "engine", "facts", "guard", "upstream"},
    "engine": {
        "console",
        "definition",
        "errors",
        "facts",
        "gateways",
        "guard",
        "layout",
        "options",
        "production",
        "settings",
        "upstream",
        "warehouses",
    },
    "manifest": {
        "definition",
        "errors",
        "gateways",
        "guard",
        "resource",
        "settings",
        "translator",
        "warehouses",
    },
    "run": {
        "checks",
        "consumers",
        "definition",
        "errors",
        "events",
        "facts",
        "guard",
        "options",
        "partition_checks",
        "production",
        "resource",
        "settings",
        "translator",
        "upstream",
    },
}
"""Each room, or module beside the rooms, and what it may import while it is imported itself."""
_SQLMESH = {"engine", "console"}
"""What imports SQLMesh when it is imported."""
_INTERNALS = "upstream.internals"
"""The names of SQLMesh that `engine/` and `console.py` use; it imports SQLMesh, too."""
_EAGER = {_INTERNALS, "upstream.spark"}
"""What of `upstream/` imports SQLMesh when it is imported itself."""
_LAZILY = {
    "resource": {"engine"},
    "times": {"engine"},
    "csv_files": {"engine"},
    "gateways": {"engine"},
    "run": {"engine"},
    "manifest": {"engine"},
    "pytest_plugin": {"engine"},
}
"""What may import these inside a function: only where SQLMesh is needed."""


@dataclass(frozen=True)
class Import:
    """One import of one module; `name` is None where a module is imported, and not a name of it."""

    importer: str
    module: str
    name: str | None
    is_lazy: bool
    is_for_types: bool

    @property
    def room(self) -> str:
        """Of the importer."""
        return self.importer.split(".")[0]

    def __str__(self) -> str:
        return f"{self.importer} imports {self.module}{f'.{self.name}' if self.name else ''}"


def modules() -> Iterator[tuple[str, ast.Module]]:
    """Every module of the package, named from it, with its tree."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)
        yield name, ast.parse(path.read_text())


def imports() -> Iterator[Import]:
    """Every import statement of the package."""
    for importer, tree in modules():
        yield from _imports(importer, tree, is_lazy=False, is_for_types=False)


def _imports(
    importer: str, node: ast.AST, *, is_lazy: bool, is_for_types: bool
) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        lazy = is_lazy or isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef))
        types = is_for_types or (
            isinstance(child, ast.If)
            and isinstance(child.test, ast.Name)
            and child.test.id == "TYPE_CHECKING"
        )
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(importer, alias.name, None, lazy, types)
        elif isinstance(child, ast.ImportFrom) and child.module:
            for alias in child.names:
                yield Import(importer, child.module, alias.name, lazy, types)
        else:
            yield from _imports(importer, child, is_lazy=lazy, is_for_types=types)


def own_room(found: Import) -> str | None:
    """The room of ours that is imported; None for others' modules."""
    parts = [part for part in (*found.module.split("."), found.name) if part]
    if parts[0] != NAME:
        return None
    return parts[1] if len(parts) > 1 else "__init__"


ALL = list(imports())


def test_production_is_named_in_one_place() -> None:
    """Promise: whoever looks for what is different there looks for `PRODUCTION`."""
    named = [
        name
        for name, tree in modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and node.value == "prod"
    ]
    assert named == ["production"]


def test_every_room_has_its_sentence() -> None:
    """A room, or a module next to them, says in one line what it is for; the list of rooms is whole."""
    known = {*_MAY_IMPORT, *_DOORS}
    found = {path.stem for path in PACKAGE.glob("*.py")}
    found |= {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert found == known
    for name, tree in modules():
        assert ast.get_docstring(tree), name


def test_imports_point_one_way() -> None:
    """Promise: a room imports only what the table above allows."""
    wrong = []
    for found in ALL:
        room = own_room(found)
        if room is None or room == found.room or found.room in _DOORS or found.is_for_types:
            continue
        allowed = _MAY_IMPORT[found.room]
        if found.is_lazy:
            allowed = allowed | _LAZILY.get(found.room, set())
        if room not in allowed:
            wrong.append(str(found))
    assert not wrong, "\n".join(wrong)


def test_no_module_imports_itself_through_others() -> None:
    """Promise: there is no import cycle, also not one that a function hides."""
    own = {name for name, _ in modules()}
    graph: dict[str, set[str]] = {}
    for found in ALL:
        if found.is_for_types or not found.module.startswith(f"{NAME}"):
            continue
        module = found.module.removeprefix(f"{NAME}").removeprefix(".")
        target = ".".join(part for part in (module, found.name) if part)
        graph.setdefault(found.importer, set()).add(target if target in own else module)
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " → ".join((*path, name))
        if name not in done:
            for child in sorted(graph.get(name, ())):
                visit(child, (*path, name))
            done.add(name)

    for name in sorted(graph):
        visit(name, ())


def test_only_the_engine_imports_sqlmesh() -> None:
    """Promise: nothing else imports SQLMesh or sqlglot when it is imported, as that costs seconds."""
    wrong = [
        str(found)
        for found in ALL
        if found.module.split(".")[0] in ("sqlmesh", "sqlglot")
        and not found.is_for_types
        and found.room not in _SQLMESH
        and found.importer not in _EAGER
        and not (found.is_lazy and found.room == "upstream")
    ]
    wrong += [
        str(found)
        for found in ALL
        if _INTERNALS in f"{found.module}.{found.name}" and found.room not in _SQLMESH
    ]
    assert not wrong, "\n".join(wrong)


def test_what_sqlmesh_promises_nobody_is_imported_in_one_place() -> None:
    """Promise: of SQLMesh's modules below the first level, the names stand in one list.

    `test_upstream_contract.py` says what is used of each.
    """
    wrong = [
        str(found)
        for found in ALL
        if found.module.startswith(("sqlmesh.core", "sqlmesh.utils"))
        and not found.is_for_types
        and found.room != "upstream"
    ]
    assert not wrong, "\n".join(wrong)


def test_importing_every_other_module_imports_no_sqlmesh() -> None:
    """The same, seen from outside: one process imports all of them."""
    rooms = {*_SQLMESH, *_EAGER}
    names = [n for n, _ in modules() if n not in rooms and n.split(".")[0] not in rooms]
    lines = [f"import {NAME}.{name}" for name in names if name != "__init__"]
    script = "\n".join([*lines, "import sys", "assert 'sqlmesh' not in sys.modules"])
    subprocess.run([sys.executable, "-c", script], check=True, cwd=PACKAGE.parent)


def test_private_names_are_in_one_room() -> None:
    """Promise: what Dagster and SQLMesh keep to themselves is used in `upstream/` alone."""
    wrong = [
        str(found)
        for found in ALL
        if found.module.startswith(("dagster.", "sqlmesh."))
        and any(part.startswith("_") for part in (*found.module.split("."), found.name or ""))
        and found.room not in ("upstream", "event_log")
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("old", sorted(MOVED))
def test_an_old_module_path_leads_to_the_new_one(old: str) -> None:
    """Promise: the paths of 0.1 and 0.2 give the very module, and name its new path."""
    new = importlib.import_module(f"{NAME}.{MOVED[old]}")
    before = new.__spec__
    sys.modules.pop(f"{NAME}.{old}", None)
    with pytest.warns(DeprecationWarning, match=f"moved to `{NAME}.{MOVED[old]}`"):
        assert importlib.import_module(f"{NAME}.{old}") is new
    assert new.__spec__ is before


def test_a_name_of_the_old_upstream_module_leads_to_the_new_one() -> None:
    """Promise: `from sqlmesh_dagster.upstream import run_plan` goes on working."""
    from sqlmesh_dagster import upstream
    from sqlmesh_dagster.upstream import dagster

    with pytest.warns(DeprecationWarning, match=r"upstream\.dagster\.run_plan"):
        assert upstream.run_plan is dagster.run_plan
    with pytest.raises(AttributeError, match="no attribute `nonsense`"):
        _ = upstream.nonsense


def test_a_setting_is_declared_once() -> None:
    """Promise: a new setting is one line; resource, factory and component take it from there."""
    resource = set(ProjectSettings.model_fields)
    every = resource | set(DefinitionOptions.model_fields)
    assert set(SQLMeshResource.model_fields) == resource | {"translator"}
    assert set(inspect.signature(sqlmesh_definitions_factory).parameters) == every | {"translator"}
    assert set(SQLMeshProjectComponent.model_fields) == every | {"translation", "defs_state"}
    for name, field in {**DefinitionOptions.model_fields}.items():
        assert field.description, name
        assert f"{name}: {field.description}" in (sqlmesh_definitions_factory.__doc__ or "")
    with pytest.raises(TypeError, match="enable_scedule"):
        sqlmesh_definitions_factory(enable_scedule=True)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("declared", "shown"),
    [
        (RunOptions, SQLMeshRunOptions),
        (PlanOptions, SQLMeshPlanOptions),
        (InvalidateOptions, SQLMeshInvalidateOptions),
        (ReviewOptions, SQLMeshReviewOptions),
        (RollbackOptions, SQLMeshRollbackOptions),
    ],
)
def test_an_option_of_the_launchpad_is_declared_once(
    declared: type[BaseModel], shown: type[dg.ConfigurableResource[None] | dg.Config]
) -> None:
    """Promise: a new option is one line; the launchpad and what does the work take it from there."""
    fields = shown.to_config_schema().as_field().config_type.fields  # type: ignore[attr-defined]
    assert {name: field.description for name, field in fields.items()} == {
        name: field.description for name, field in declared.model_fields.items()
    }
    assert all(field.description for field in fields.values())
    most = len(declared.model_fields) / 2
    found = [
        name
        for name, fields in _declarations().items()
        if len(fields & set(declared.model_fields)) > most
    ]
    assert found in [[each.__name__] for each in declared.__mro__]


def _declarations() -> dict[str, set[str]]:
    """The fields that each class of the package declares."""
    trees = (ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py"))
    return {
        node.name: {
            each.target.id
            for each in node.body
            if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)
        }
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }
