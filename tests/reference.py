"""Writes template/src/sqlmesh_dagster/README.md, mostly from the code: `python -m tests.reference`."""

import ast
import inspect
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from tests.conftest import ROOT

sys.path.append(str(ROOT / "template/src"))
import sqlmesh_dagster
from sqlmesh_dagster import errors
from sqlmesh_dagster.guard import locks
from sqlmesh_dagster.settings import DefinitionOptions, ProjectSettings

PACKAGE = ROOT / "template/src/sqlmesh_dagster"
PATH = PACKAGE / "README.md"
ROOMS = ("definition", "manifest", "run", "engine", "facts", "guard", "upstream")
HEAD = """# sqlmesh_dagster

SQLMesh in Dagster: each model its own asset, one `sqlmesh run` for each Dagster run. This is source code of your repository: read it, subclass it, change it. `poe update` brings fixes and merges them with your changes.

This page is written from the code (tables) and by hand (the next section); a test of the template compares them.

## I want to change …

| what | go to |
|---|---|
| keys, groups, owners, tags, descriptions, kinds of assets | a subclass of `SQLMeshTranslator` in your `defs/transform.py`; [its methods](#the-translator) |
| which checks, lineage, partitions, freshness policies there are | `TranslatorSettings`, given to the translator |
| what is kept of a model for the translator | `SQLMeshTranslator.read_model`, found in `ModelRecord.extra` |
| project folder, environment, gateway, waiting, policies | [the settings](#settings) of `sqlmesh_definitions_factory` |
| what one run does: time, cron, rebuilding | [the run options](#run-options), in the launchpad; `options.py` declares them |
| what an outcome becomes in Dagster: materialization, check, error | `events.py`, pure functions |
| when a model counts as built, failed, skipped | `facts/ledger.py`, pure |
| which models one `sqlmesh run` takes | `run/selection.py`, pure |
| what a step does, who leads, how others wait | `run/steps.py`, `run/leading.py` |
| when the schedule requests what | `run/schedule.py` asks `engine/due.py` |
| the plan and its summary | `run/plans.py`, `engine/plan.py`, `facts/plan_summary.py` |
| the words of an error of the database or of SQLMesh | `engine/explanation.py` |
| what makes definitions current or old | `manifest/inputs.py` |
| something that a new version of Dagster or SQLMesh moved | `upstream/`, where each private name is, with its test |

The code follows three rules, which `tests/sqlmesh_dagster/test_rooms.py` holds: imports point one way; only `engine/` and `console.py` import SQLMesh when they are imported; private names of Dagster and SQLMesh are in `upstream/` alone.
"""


def text() -> str:
    """The whole page."""
    return (
        "\n".join([HEAD, *_rooms(), *_options(), *_translator(), *_locks(), *_errors()]).rstrip()
        + "\n"
    )


def _rooms() -> Iterator[str]:
    yield "## The rooms\n"
    yield from _table(("module", "what it is for"), _doors())
    for room in ROOMS:
        yield f"\n**`{room}/`**: {_first_line(PACKAGE / room / '__init__.py')}\n"
        modules = sorted(p for p in (PACKAGE / room).glob("*.py") if p.stem != "__init__")
        yield from _table(
            ("module", "what it is for"), ((f"`{room}/{p.name}`", _first_line(p)) for p in modules)
        )
    yield ""


def _doors() -> Iterator[tuple[str, str]]:
    for path in sorted(PACKAGE.glob("*.py")):
        if path.stem != "__init__":
            yield f"`{path.name}`", _first_line(path)


def _options() -> Iterator[str]:
    yield "## Settings\n"
    yield "Of `SQLMeshResource`, of `sqlmesh_definitions_factory` and of `SQLMeshProjectComponent`:\n"
    yield from _fields(ProjectSettings)
    yield "\nThe factory and the component also have:\n"
    yield from _fields(DefinitionOptions, without=ProjectSettings)
    yield "\n## Run options\n"
    yield "In the launchpad, under `resources`, `sqlmesh_run_options`, `config`:\n"
    yield from _fields(sqlmesh_dagster.SQLMeshRunOptions)
    yield "\nOf `sqlmesh_plan_job`, under `ops`, `sqlmesh_plan`, `config`:\n"
    yield from _fields(sqlmesh_dagster.SQLMeshPlanOptions)
    yield "\nOf `sqlmesh_review_job`, under `ops`, `sqlmesh_review`, `config`:\n"
    yield from _fields(sqlmesh_dagster.SQLMeshReviewOptions)
    yield "\nOf `sqlmesh_rollback_job`, under `ops`, `sqlmesh_rollback`, `config`:\n"
    yield from _fields(sqlmesh_dagster.SQLMeshRollbackOptions)
    yield "\nOf `sqlmesh_invalidate_job`, under `ops`, `sqlmesh_invalidate`, `config`:\n"
    yield from _fields(sqlmesh_dagster.SQLMeshInvalidateOptions)
    yield ""


def _translator() -> Iterator[str]:
    yield "## The translator\n"
    methods = inspect.getmembers(sqlmesh_dagster.SQLMeshTranslator, inspect.isfunction)
    rows = (
        (f"`{name}`", (inspect.getdoc(method) or "").partition("\n")[0])
        for name, method in methods
        if not name.startswith("_")
    )
    yield from _table(("method", "what it gives"), rows)
    yield "\n`TranslatorSettings`:\n"
    yield from _table(("setting", "what it does"), _attributes(sqlmesh_dagster.TranslatorSettings))
    yield ""


def _locks() -> Iterator[str]:
    yield "## Locks\n"
    yield (inspect.getdoc(locks) or "").partition("\n\n")[2] + "\n"


def _errors() -> Iterator[str]:
    yield "## Errors\n"
    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and kind.__module__ == errors.__name__
    ]
    yield from _table(
        ("error", "when"),
        ((f"`{kind.__name__}`", (kind.__doc__ or "").partition("\n")[0]) for kind in kinds),
    )


def _table(head: tuple[str, str], rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    yield f"| {head[0]} | {head[1]} |"
    yield "|---|---|"
    for name, what in rows:
        yield f"| {name} | {what.replace('|', chr(92) + '|')} |"


def _fields(model: type[BaseModel], without: type[BaseModel] | None = None) -> Iterator[str]:
    known = without.model_fields if without else {}
    texts = _attribute_docstrings(model)
    rows = (
        (f"`{name}` ({_value(field.default)})", field.description or texts.get(name, ""))
        for name, field in model.model_fields.items()
        if name not in known
    )
    yield from _table(("name (default)", "what it does"), rows)


def _value(default: Any) -> str:
    return (
        "none"
        if default is None
        else f"`{str(default).lower() if default in (True, False) else default}`"
    )


def _attribute_docstrings(model: type[BaseModel]) -> dict[str, str]:
    (body,) = ast.parse(inspect.getsource(model)).body
    assert isinstance(body, ast.ClassDef)
    return {
        field.target.id: " ".join(after.value.value.split())
        for field, after in zip(body.body, body.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(after, ast.Expr)
        and isinstance(after.value, ast.Constant)
        and isinstance(after.value.value, str)
    }


def _attributes(kind: type) -> Iterator[tuple[str, str]]:
    """Of the `Attributes:` of a docstring."""
    lines = (inspect.getdoc(kind) or "").partition("Attributes:\n")[2]
    for name, what in re.findall(
        r"^    (\w+): ((?:.+\n?)(?:^        .+\n?)*)", lines, re.MULTILINE
    ):
        yield f"`{name}`", " ".join(what.split())


def _first_line(path: Path) -> str:
    return (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]


if __name__ == "__main__":
    PATH.write_text(text())
    print(f"Wrote {PATH.relative_to(ROOT)}.")
