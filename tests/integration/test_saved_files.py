"""Files of models are saved: only they are loaded, and the manifest is that of a load of everything."""

from __future__ import annotations

import os
import random
import re
import shutil
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.sqlmesh_dagster.projects import Project

from sqlmesh_dagster import ProjectLoadError, SQLMeshResource
from sqlmesh_dagster.definition.records import Manifest
from sqlmesh_dagster.engine.context import load_manifest
from sqlmesh_dagster.manifest import inputs
from sqlmesh_dagster.manifest.loading import project_manifest

_IN_CACHE = re.compile(r"/\.cache/model_definition/.+__models__(\w+?)__\d")
_MODELS = 12
_opened: list[set[str]] = []
_installed = threading.Event()


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _opened and event == "open" and isinstance(arguments[0], (str, os.PathLike)):
        found = _IN_CACHE.search(str(arguments[0]))
        if found is not None:
            _opened[-1].add(found[1])


@contextmanager
def _loaded_files() -> Iterator[set[str]]:
    """Which files of models SQLMesh loads meanwhile: it looks each up in its cache."""
    if not _installed.is_set():
        sys.addaudithook(_hook)
        _installed.set()
    _opened.append(set())
    try:
        yield _opened[-1]
    finally:
        _opened.pop()


def _write(project: Project) -> None:
    """Models of each kind: chains with and without types, `*`, and what one file alone cannot tell."""
    project.write("seeds/places.csv", "id,name\n1,Bern\n")
    project.write(
        "models/places.sql", "MODEL (name demo.places, kind SEED (path '../seeds/places.csv'));"
    )
    project.write(
        "external_models.yaml",
        "- name: raw.orders\n  columns: {id: int, at: date, paid: double}\n",
    )
    project.write(
        "macros/twice.py",
        "from sqlmesh import macro\n\n\n@macro()\ndef twice(evaluator, x):\n    return f'{x} * 2'\n",
    )
    project.write(
        "audits/whole.sql",
        "AUDIT (name whole, standalone true);\nSELECT * FROM demo.stage WHERE id IS NULL;\n",
    )
    project.write(
        "tests/test_stage.yaml",
        "test_stage:\n  model: demo.stage\n  inputs:\n    raw.orders:\n      rows: [{id: 1}]\n"
        "  outputs:\n    query:\n      rows: [{id: 1}]\n",
    )
    _model(
        project,
        "stage",
        "SELECT id, at, @twice(paid) AS paid FROM raw.orders",
        "start '2025-02-01'",
    )
    _model(project, "starred", "SELECT * FROM demo.stage")
    _model(project, "days", "SELECT at, SUM(paid) AS paid FROM demo.starred GROUP BY at")
    _model(project, "joined", "SELECT d.at, p.name FROM demo.days AS d CROSS JOIN demo.places AS p")
    _model(project, "aside", "SELECT 1::INT AS id, 'x' AS label")
    _model(project, "below", "SELECT label, id FROM demo.aside")
    _model(project, "hidden", "SELECT id FROM demo.aside", "kind EMBEDDED")
    _model(project, "seen", "SELECT id FROM demo.hidden")
    project.write(
        "models/twins.sql",
        "MODEL (name demo.@name, kind FULL, blueprints ((name := one), (name := two)));\n"
        "SELECT id, label FROM demo.aside\n",
    )
    project.write(
        "models/python.py",
        "import typing as t\nfrom sqlmesh import ExecutionContext, model\n\n\n"
        "@model('demo.python', columns={'n': 'int'}, kind='FULL', depends_on=['demo.aside'])\n"
        "def execute(context: ExecutionContext, **kwargs: t.Any) -> t.Any:\n    return None\n",
    )


def _model(project: Project, name: str, query: str, more: str = "") -> None:
    kind = "" if "kind" in more else "kind FULL, "
    project.write(f"models/{name}.sql", f"MODEL (name demo.{name}, {kind}{more});\n{query}\n")


def _manifest(project: Project, *, afresh: bool = False) -> Manifest:
    """The manifest; of a load of everything without any cache, if it is wanted afresh."""
    settings = SQLMeshResource(project_dir=str(project.root))
    if not afresh:
        return project_manifest(settings)
    kept = project.root / ".cache"
    beside = kept.rename(project.root.parent / "kept") if kept.exists() else None
    try:
        return load_manifest(settings.settings)
    finally:
        shutil.rmtree(kept, ignore_errors=True)
        if beside is not None:
            beside.rename(kept)


def _same(project: Project) -> Manifest:
    """What is current, compared with a load of everything."""
    current, afresh = _manifest(project), _manifest(project, afresh=True)
    assert current == replace(afresh, former=current.former)
    return current


_CHANGES = (
    ("stage", "@twice(paid)", "@twice(paid) + 1"),
    ("stage", "@twice(paid)", "paid"),
    ("stage", "AS paid", "AS euro"),
    ("stage", "at,", "at, 1::INT AS more,"),
    ("stage", "start '2025-02-01'", "start '2025-03-01'"),
    ("stage", "start '2025-02-01'", "start '1 week ago'"),
    ("stage", "raw.orders", "raw.others"),
    ("starred", "demo.stage", "raw.orders"),
    ("starred", "SELECT *", "SELECT at, id, paid"),
    ("days", "SUM(paid)", "SUM(paid)::INT"),
    ("days", "demo.starred", "demo.stage"),
    ("joined", "p.name", "UPPER(p.name) AS name"),
    (
        "joined",
        "kind FULL",
        "kind FULL, owner ada, description 'Joined.', audits (not_null(columns := (at)))",
    ),
    ("joined", "kind FULL", "kind VIEW, cron '@hourly'"),
    ("aside", "1::INT", "1::BIGINT"),
    ("aside", "'x'", "'y'"),
    ("below", "label, id", "id, label"),
    ("below", "demo.aside", "demo.seen"),
    ("hidden", "id FROM", "id + 1 AS id FROM"),
    ("seen", "SELECT id", "SELECT id AS other"),
    ("twins", "name := two", "name := three"),
    ("twins", "SELECT id", "SELECT id + 1 AS id"),
    ("places", "kind SEED", "description 'Places.', kind SEED"),
    ("days", "kind FULL", "kind FULL, enabled false"),
)
"""A model, what is replaced in its file, and by what."""


def _edit(project: Project, change: tuple[str, str, str]) -> None:
    name, old, new = change
    file = project.root / f"models/{name}.sql"
    text = file.read_text()
    file.write_text(text.replace(new, old) if new in text else text.replace(old, new))


def test_what_was_saved_is_read_as_a_load_of_everything_reads_it(project: Project) -> None:
    """Promise: whatever is changed, alone or together, forth and back, nothing of the manifest is older."""
    _write(project)
    chance = random.Random(int(os.environ.get("SAVED_FILES_SEED", "1")))
    rounds = int(os.environ.get("SAVED_FILES_ROUNDS", "8"))
    order = chance.sample(_CHANGES, len(_CHANGES))
    _same(project)
    broken, few = 0, 0
    for turn in range(rounds):
        for _ in range(chance.choice((1, 1, 2, 3))):
            _edit(project, order[turn % len(order)] if _ == 0 else chance.choice(_CHANGES))
        try:
            with _loaded_files() as files:
                _manifest(project)
            few += len(files) < _MODELS / 2
            _same(project)
        except ProjectLoadError:  # some go together badly
            broken += 1
            with pytest.raises(ProjectLoadError):
                _manifest(project, afresh=True)
            _write(project)
    assert broken < rounds / 2 and few > rounds / 3


_CONCERNED = (
    (("aside", "'x'", "'y'"), {"aside"}),
    (("days", "SUM(paid)", "SUM(paid) * 1"), {"days"}),
    (("below", "label, id", "id, label"), {"below"}),
    (("starred", "SELECT *", "SELECT at, id, paid::INT AS paid"), {"starred", "days", "joined"}),
)
"""A change, and the files of models that are loaded for it."""


def test_only_what_was_saved_and_whom_it_concerns_is_loaded(project: Project) -> None:
    """Promise: a save costs what it changed; a column of another type loads who reads it."""
    _write(project)
    _manifest(project)
    for change, concerned in _CONCERNED:
        _edit(project, change)
        with _loaded_files() as files:
            _manifest(project)
        assert files == concerned, change
    with _loaded_files() as files:
        _same(project)
    assert len(files) > _MODELS / 2  # a load of everything is seen as one


def test_a_load_reads_each_file_as_often_as_it_must(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise: once while nothing has changed, and twice if something has: before the load, and after it."""
    _write(project)
    resource = SQLMeshResource(project_dir=str(project.root))
    read: Counter[str] = Counter()  # by the file's path

    def counted(path: Path) -> bytes | None:
        read[os.path.relpath(path, project.root)] += 1
        return digest_of_file(path)

    files = ("models/starred.sql", "models/days.sql", "config.yaml")
    digest_of_file = inputs._digest_of_file
    monkeypatch.setattr(inputs, "_digest_of_file", counted)
    project_manifest(resource)
    _model(project, "starred", "SELECT *, 1 AS one FROM demo.stage")
    read.clear()
    project_manifest(resource)
    saved = {read[name] for name in files}
    read.clear()
    project_manifest(resource)

    assert saved == {2}
    assert {read[name] for name in files} == {1}


def test_a_secret_in_a_saved_file_is_masked(project: Project) -> None:
    """Promise: also where the file is read alone."""
    _write(project)
    resource = SQLMeshResource(project_dir=str(project.root))
    project_manifest(resource)
    _model(project, "starred", "SELECT *, 'password=x7Kq9wZ2p' AS one FROM demo.stage")

    with _loaded_files() as files:
        manifest = project_manifest(resource)

    assert "stage" not in files
    assert "x7Kq9wZ2p" not in repr(manifest)
    assert "password=***" in repr(manifest)


def test_a_macro_that_reads_the_files_of_models_makes_all_of_them_be_loaded(
    project: Project,
) -> None:
    """Promise: what one file says is never shown as another's text of yesterday."""
    project.write(
        "macros/peek.py",
        "from pathlib import Path\nfrom sqlmesh import macro\n\n\n@macro()\ndef size_of(evaluator, name):\n"
        f"    return str(len((Path({str(project.root)!r}) / 'models' / name.name).read_text()))\n",
    )
    _model(project, "read", "SELECT 1::INT AS id")
    _model(project, "other", "SELECT 2::INT AS id")
    _model(project, "sized", "SELECT @size_of('read.sql')::INT AS size")
    _same(project)
    for _ in range(2):
        with (project.root / "models/read.sql").open("a") as file:
            file.write("-- more\n")
        with _loaded_files() as files:
            _manifest(project)
        assert files >= {"read", "other", "sized"}
