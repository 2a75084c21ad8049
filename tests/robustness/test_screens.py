"""What Dagster's webserver shows of models with nothing due: the states that its UI draws."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.screens import ACTS, IDLE, STAGES, Shown, Stage, staged

pytestmark = pytest.mark.generated


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, dict[str, Shown]]]:
    """What the UI shows of each asset after each stage."""
    with staged(tmp_path_factory.mktemp("screens")) as stage:
        yield {name: _after(stage, name) for name in STAGES}


def _after(stage: Stage, name: str) -> dict[str, Shown]:
    ACTS[name](stage)
    return stage.shown()


States = dict[str, dict[str, Shown]]


def test_after_a_first_run_everything_is_built_and_checked(states: States) -> None:
    """Promise: nothing is failed, every check has its result."""
    shown = states["first-run"]
    assert {each.status for each in shown.values()} == {"built"}
    assert not any(each.is_failed for each in shown.values())
    assert {word for each in shown.values() for word in each.checks.values()} == {"passed"}


def test_when_nothing_is_due_everything_stays_as_it_is(states: States) -> None:
    """Promise: same data versions, and each check has its result still."""
    before, after = states["first-run"], states["nothing-due"]
    assert {each.status for each in after.values()} == {"up to date"}
    assert {name: each.data_version for name, each in after.items()} == {
        name: each.data_version for name, each in before.items()
    }
    assert {name: each.checks for name, each in after.items()} == {
        name: each.checks for name, each in before.items()
    }
    assert all(each.kept == each.checks.keys() for each in after.values())


def test_in_a_run_in_which_one_model_fails_only_that_is_red(states: States) -> None:
    """Promise: idle models are up to date, with their checks; what was due and did well is built."""
    shown = states["one-failure"]
    assert [name for name, each in shown.items() if each.is_failed] == ["orders"]
    assert {shown[name].status for name in IDLE} == {"up to date"}
    assert {word for name in IDLE for word in shown[name].checks.values()} == {"passed"}
    assert shown["stock"].status == "built"


def test_a_warning_is_still_there_when_nothing_is_due(states: States) -> None:
    """Promise: rows that were found have not gone."""
    stock = states["a-warning-then-nothing-due"]["stock"]
    assert (stock.status, list(stock.checks.values())) == ("up to date", ["warned"])
    assert stock.kept == stock.checks.keys()


def test_the_pages_say_so_in_a_browser(tmp_path: Path) -> None:
    """Promise: of the catalogue and the lineage after one failure, one asset says `Failed`, no more."""
    pytest.importorskip("playwright")
    from tests.screens import take

    pages = dict(take(tmp_path))
    for view in ("catalogue", "lineage"):
        assert pages["one-failure"][view].count("Failed") <= 1, pages["one-failure"][view]
        assert "Failed" not in pages["nothing-due"][view]
    assert len(list(tmp_path.glob("*.png"))) == 12
