"""What a project imports of its own code ends with its context."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path

import pytest

from sqlmesh_dagster.guard.modules import ModuleChanges


def _imported(folder: Path, *names: str) -> list[object]:
    """Values of these modules, as a project in the folder gets them."""
    changes = ModuleChanges([folder])
    sys.path.insert(0, str(folder))
    try:
        return [importlib.import_module(name).VALUE for name in names]
    finally:
        sys.path.remove(str(folder))
        changes.undo()


@pytest.mark.parametrize("package", [True, False], ids=["package", "folder"])
def test_each_project_has_its_own_modules_of_a_name(tmp_path: Path, package: bool) -> None:
    """Promise: also where they are edited, and whether or not a folder has an `__init__.py`."""
    for who in ("one", "two"):
        inner = tmp_path / who / "own_helpers"
        inner.mkdir(parents=True)
        for file in (inner / "deep.py", tmp_path / who / "own_flat.py"):
            file.write_text(f"VALUE = {who!r}\n")
        if package:
            (inner / "__init__.py").write_text("")
    names = ("own_helpers.deep", "own_flat")
    for who in ("one", "two", "one"):
        assert _imported(tmp_path / who, *names) == [who, who]
    (tmp_path / "one/own_flat.py").write_text("VALUE = 'edited'\n")
    assert _imported(tmp_path / "one", *names) == ["one", "edited"]
    assert not {"own_helpers", *names} & sys.modules.keys()


def test_what_others_have_imported_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: also from a folder inside the project's, such as its virtual environment or `src`."""
    project = tmp_path / "project"
    for folder in (project, project / "src", tmp_path / "added"):
        folder.mkdir(parents=True)
    (project / "own_before.py").write_text("VALUE = 1\n")
    (project / "src" / "own_meanwhile.py").write_text("VALUE = 2\n")
    (tmp_path / "added" / "own_added.py").write_text("VALUE = 3\n")
    monkeypatch.syspath_prepend(str(project))
    monkeypatch.syspath_prepend(str(project / "src"))
    before = importlib.import_module("own_before")
    changes = ModuleChanges([project])
    del sys.modules["own_before"]  # as SQLMesh does before it imports a file of this name
    assert importlib.import_module("own_before") is not before
    meanwhile = importlib.import_module("own_meanwhile")
    sys.path.insert(0, str(tmp_path / "added"))  # as a `config.py` may
    importlib.import_module("own_added")
    changes.undo()
    assert sys.modules.pop("own_before") is before
    assert sys.modules.pop("own_meanwhile") is meanwhile
    assert "own_added" not in sys.modules
    assert str(tmp_path / "added") not in sys.path


def test_a_module_that_is_only_named_is_found_until_the_context_is_closed(tmp_path: Path) -> None:
    """Promise: SQLMesh imports some when it renders a model; a folder without Python is none, and nobody's is hidden."""
    (tmp_path / "own_named.py").write_text("VALUE = 1\n")
    (tmp_path / "own_folder").mkdir()
    (tmp_path / "textwrap.py").write_text("VALUE = 1\n")
    changes = ModuleChanges([tmp_path])
    assert importlib.import_module("own_named").VALUE == 1
    assert importlib.util.find_spec("own_folder") is None
    changes.undo()
    changes.undo()
    assert importlib.util.find_spec("own_named") is None
    assert not hasattr(importlib.import_module("textwrap"), "VALUE")
