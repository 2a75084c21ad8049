"""Python's garbage collector: rare while definitions are made, and as before afterwards."""

from __future__ import annotations

import gc
import importlib.util
import sys
import threading
from collections.abc import Iterator
from types import ModuleType

import pytest

from sqlmesh_dagster.guard import garbage
from sqlmesh_dagster.guard.garbage import rare_collection


@pytest.fixture(autouse=True)
def _threshold() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)


def test_collections_are_rare_inside_and_as_before_afterwards() -> None:
    """Promise: nothing of what a process has set is changed for good."""
    before = gc.get_threshold()
    with rare_collection():
        inside = gc.get_threshold()
        with rare_collection():
            assert gc.get_threshold() == inside
        assert gc.get_threshold() == inside
    assert inside[0] > before[0]
    assert inside[1:] == before[1:]
    assert gc.get_threshold() == before


def test_collections_are_as_before_after_an_error() -> None:
    """Promise: neither by a load that fails."""
    before = gc.get_threshold()
    with pytest.raises(RuntimeError), rare_collection():
        raise RuntimeError
    assert gc.get_threshold() == before


@pytest.mark.parametrize("chosen", [0, 100_000, 5_000_000])
def test_what_a_process_has_chosen_stays(chosen: int) -> None:
    """Promise: who switched collections off, or made them rarer still, is left alone."""
    gc.set_threshold(chosen, 10, 10)
    with rare_collection():
        assert gc.get_threshold() == (chosen, 10, 10)
    assert gc.get_threshold() == (chosen, 10, 10)


def test_of_two_threads_the_last_one_ends_it() -> None:
    """Promise: a load that ends first does not make the other one slow."""
    before = gc.get_threshold()
    inside, leave = threading.Event(), threading.Event()

    def load() -> None:
        with rare_collection():
            inside.set()
            leave.wait(30)

    with rare_collection():
        other = threading.Thread(target=load)
        other.start()
        assert inside.wait(30)
    assert gc.get_threshold() > before
    leave.set()
    other.join()
    assert gc.get_threshold() == before


def _as_in_a_new_process() -> ModuleType:
    spec = importlib.util.spec_from_file_location("garbage_again", garbage.__file__)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def frozen(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Counts how often everything is frozen; nothing stays so."""
    calls: list[int] = []
    freeze = gc.freeze

    def count() -> None:
        freeze()
        calls.append(gc.get_freeze_count())

    monkeypatch.setattr(gc, "freeze", count)
    yield calls
    gc.unfreeze()


def test_the_first_definitions_are_frozen_and_no_others(
    frozen: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise: a process that loads again and again keeps no more than the first."""
    monkeypatch.delitem(sys.modules, "sqlmesh", raising=False)
    module = _as_in_a_new_process()
    module.freeze_definitions()
    module.freeze_definitions()
    assert len(frozen) == 1 and frozen[0] > 10_000


def test_what_a_load_of_the_project_leaves_behind_is_not_frozen(
    frozen: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise: SQLMesh's models are garbage once their definitions are made."""
    monkeypatch.setitem(sys.modules, "sqlmesh", ModuleType("sqlmesh"))
    _as_in_a_new_process().freeze_definitions()
    assert frozen == []
