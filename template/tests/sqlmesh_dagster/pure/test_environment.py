"""What a project does to the environment of its process ends with its context."""

from __future__ import annotations

import os

import pytest

from sqlmesh_dagster.guard.environment import EnvironmentChanges


@pytest.fixture(autouse=True)
def _variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """`KEPT` and `GONE` are set, `ADDED` is not."""
    monkeypatch.setenv("KEPT", "before")
    monkeypatch.setenv("GONE", "before")
    monkeypatch.setenv("ADDED", "")
    monkeypatch.delenv("ADDED")


def test_what_was_set_added_or_removed_is_as_before() -> None:
    """Promise: nothing of a project stays behind."""
    changes = EnvironmentChanges()
    with changes.noted():
        os.environ.update(KEPT="loaded", ADDED="loaded")
        del os.environ["GONE"]
    with changes.noted():
        os.environ["KEPT"] = "loaded again"
    assert os.environ["KEPT"] == "loaded again"
    changes.undo()
    assert (os.environ["KEPT"], os.environ["GONE"]) == ("before", "before")
    assert "ADDED" not in os.environ


def test_what_somebody_else_set_meanwhile_stays() -> None:
    """Promise: other steps of the process keep their own variables."""
    changes = EnvironmentChanges()
    with changes.noted():
        os.environ["KEPT"] = "loaded"
    os.environ.update(KEPT="another step's", ADDED="another step's")
    changes.undo()
    assert (os.environ["KEPT"], os.environ["ADDED"]) == ("another step's", "another step's")


def test_a_load_that_fails_leaves_nothing_behind() -> None:
    """Promise: a broken project is no exception."""
    changes = EnvironmentChanges()
    with pytest.raises(RuntimeError), changes.noted():
        os.environ["KEPT"] = "loaded"
        raise RuntimeError
    changes.undo()
    assert os.environ["KEPT"] == "before"


def test_one_variable_of_somebody_else_keeps_no_other() -> None:
    """Promise: all others are as before, in whatever order they were set."""
    names = [f"ADDED_{n}" for n in range(20)]
    changes = EnvironmentChanges()
    with changes.noted():
        os.environ.update(dict.fromkeys(names, "loaded"))
    os.environ["ADDED_7"] = "another step's"
    changes.undo()
    assert [name for name in names if name in os.environ] == ["ADDED_7"]
    del os.environ["ADDED_7"]


def test_a_variable_that_is_gone_by_then_stays_gone() -> None:
    """Promise: a step that removes it is no error, nor brings an undo it back."""
    changes = EnvironmentChanges()
    with changes.noted():
        os.environ["ADDED"] = "loaded"
    del os.environ["ADDED"]
    changes.undo()
    assert "ADDED" not in os.environ
