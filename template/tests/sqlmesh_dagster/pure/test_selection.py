"""Which models one sqlmesh run takes, on graphs of a few words each."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import dagster as dg
import pytest

from sqlmesh_dagster.facts.outcomes import ErrorOutcome, ModelOutcome, Status
from sqlmesh_dagster.run.selection import open_again, select_models, with_unselected

DIAMOND = {"top": [], "left": ["top"], "right": ["top"], "bottom": ["left", "right"]}


def _select(
    graph: Mapping[str, Collection[str]],
    own: str,
    *,
    others: Collection[str] = (),
    succeeded: Collection[str] = (),
    attempted: Collection[str] = (),
    failed: Collection[str] = (),
) -> list[str]:
    """Step names of the models taken; every step is a model but `others`."""
    selected = select_models(
        models={step: f'"{step}"' for step in graph if step not in others},
        upstream=graph,
        succeeded=succeeded,
        own_step=own,
        attempted={f'"{step}"' for step in attempted},
        failed={f'"{step}"' for step in failed},
    )
    return [fqn.strip('"') for fqn in selected.taken]


def test_models_alone_are_taken_all_at_once() -> None:
    """Promise: one sqlmesh run for all, when nothing outside SQLMesh is in the way."""
    assert _select(DIAMOND, "top") == ["bottom", "left", "right", "top"]


def test_a_model_whose_ingest_is_still_running_is_left_for_later() -> None:
    """Promise: no model is built on the data of before."""
    graph = {"ingest": [], "staged": ["ingest"], "unrelated": []}
    assert _select(graph, "unrelated", others=["ingest"]) == ["unrelated"]


def test_a_model_whose_ingest_has_succeeded_is_taken() -> None:
    """Promise: a finished ingest holds nothing back."""
    graph = {"ingest": [], "staged": ["ingest"], "unrelated": []}
    taken = _select(graph, "unrelated", others=["ingest"], succeeded=["ingest"])
    assert taken == ["staged", "unrelated"]


def test_waiting_for_an_ingest_goes_on_through_models() -> None:
    """Promise: what reads a model that waits, waits too, however far below."""
    graph = {"ingest": [], "a": ["ingest"], "b": ["a"], "c": ["b"], "free": []}
    assert _select(graph, "free", others=["ingest"]) == ["free"]
    taken = _select(graph, "a", others=["ingest"], succeeded=["ingest"], attempted=["free"])
    assert taken == ["a", "b", "c"]


def test_one_of_two_ingests_that_is_not_done_is_enough_to_wait() -> None:
    """Promise: every step that a model depends on must have succeeded."""
    graph = {"one": [], "two": [], "both": ["one", "two"], "first": ["one"]}
    taken = _select(graph, "first", others=["one", "two"], succeeded=["one"])
    assert taken == ["first"]


def test_a_python_asset_between_two_models_splits_the_run() -> None:
    """Promise: model → Python → model are two sqlmesh runs, in this order."""
    graph = {"first": [], "python": ["first"], "last": ["python"], "side": ["first"]}
    assert _select(graph, "first", others=["python"]) == ["first", "side"]
    later = _select(
        graph,
        "last",
        others=["python"],
        succeeded=["first", "side", "python"],
        attempted=["first", "side"],
    )
    assert later == ["last"]


def test_the_children_of_a_failed_model_are_not_taken() -> None:
    """Promise: what Dagster skips, SQLMesh does not build; what does not depend on it is built."""
    graph = {"failed": [], "child": ["failed"], "grandchild": ["child"], "own": [], "beside": []}
    assert _select(graph, "own", attempted=["failed"], failed=["failed"]) == ["beside", "own"]


def test_the_children_of_a_model_that_has_succeeded_are_taken() -> None:
    """Promise: models of an earlier sqlmesh run are not built again, and hold nothing back."""
    taken = _select(DIAMOND, "left", succeeded=["top"], attempted=["top"])
    assert taken == ["bottom", "left", "right"]


def test_a_retry_takes_the_failed_model_again_and_what_waited_for_it() -> None:
    """Promise: a retried step leads a run for its model, and for those below that were not tried."""
    graph = {"shaky": [], "child": ["shaky"], "done": []}
    taken = _select(graph, "shaky", attempted=["shaky", "done"], failed=["shaky"])
    assert taken == ["child", "shaky"]


def test_the_asking_model_is_taken_whatever_else_is_known() -> None:
    """Promise: Dagster started the step, so that all that it needs is done."""
    graph = {"parent": [], "own": ["parent"]}
    assert _select(graph, "own", others=["parent"]) == ["own"]
    assert _select(graph, "own", attempted=["own", "parent"], failed=["own", "parent"]) == ["own"]


def test_a_diamond_with_one_failed_side_leaves_its_bottom() -> None:
    """Promise: one failed parent is enough to be skipped."""
    taken = _select(DIAMOND, "right", succeeded=["top"], attempted=["top", "left"], failed=["left"])
    assert taken == ["right"]


def test_an_upstream_step_that_this_run_does_not_execute_holds_nothing_back() -> None:
    """Promise: a model selected without its parents is taken."""
    assert _select({"lone": [], "own": []}, "own") == ["lone", "own"]


def test_a_chain_of_two_thousand_models_is_one_selection() -> None:
    """Promise: depth costs no recursion."""
    chain = {f"m{i:04}": [f"m{i - 1:04}"] if i else [] for i in range(2000)}
    reversed_chain = dict(reversed(chain.items()))
    assert len(_select(reversed_chain, "m0000")) == 2000
    held = {**reversed_chain, "m0000": ["ingest"], "ingest": [], "free": []}
    assert _select(held, "free", others=["ingest"]) == ["free"]


def _held(
    run: Mapping[str, Collection[str]],
    reads: Mapping[str, Collection[str]],
    own: str,
    *,
    others: Collection[str] = (),
    succeeded: Collection[str] = (),
    failed: Collection[str] = (),
) -> list[str]:
    """Models that must not be built now, when the run leaves out some models of `reads`."""
    keys = {name: dg.AssetKey(name) for name in {*run, *reads}}
    fqns = {keys[name]: f'"{name}"' for name in reads}
    graph = with_unselected(
        run,
        {keys[name]: name for name in run},
        fqns,
        {keys[name]: [keys[other] for other in read] for name, read in reads.items()},
    )
    selected = select_models(
        models={step: f'"{step}"' for step in run if step not in others},
        upstream=graph,
        succeeded=succeeded,
        own_step=own,
        attempted=(),
        failed={f'"{step}"' for step in failed},
        unselected={f'"{name}"': f'"{name}"' for name in reads if name not in run},
    )
    return sorted(fqn.strip('"') for fqn in selected.held)


def test_a_model_that_nobody_selected_is_not_built_early_either() -> None:
    """Promise: what reads an asset that is still running waits for it, selected or not."""
    reads = {"middle": ["ingest"], "own": ["middle"], "free": []}
    run: dict[str, list[str]] = {"ingest": [], "own": []}
    assert _held(run, reads, "own", others=["ingest"]) == ["middle"]
    assert _held(run, reads, "own", others=["ingest"], succeeded=["ingest"]) == []


def test_a_selected_model_waits_through_one_that_nobody_selected() -> None:
    """Promise: a run without the model between two others keeps their order."""
    reads = {"top": ["ingest"], "middle": ["top"], "bottom": ["middle"], "own": []}
    run = {"ingest": [], "top": ["ingest"], "bottom": [], "own": []}
    assert _held(run, reads, "own", others=["ingest"]) == ["bottom", "middle", "top"]


def test_what_failed_in_this_run_is_not_tried_again_for_a_model_below() -> None:
    """Promise: a failure is one failure."""
    reads = {"top": [], "middle": ["top"], "own": ["middle"]}
    assert _held({"own": []}, reads, "own", failed=["top"]) == ["middle", "top"]


_WHAT: Mapping[str, Status] = {
    "built": "executed",
    "failed": "failed",
    "skipped": "upstream_failed",
}


@pytest.mark.parametrize(
    ("outcomes", "retried", "expected"),
    [
        ({"top": "failed", "left": "skipped", "bottom": "skipped"}, None, ""),
        ({"top": "failed", "left": "skipped", "bottom": "skipped"}, "top", "bottom left"),
        ({"top": "failed built", "left": "skipped", "bottom": "skipped"}, None, "bottom left"),
        ({"top": "failed built", "left": "skipped built", "bottom": "skipped"}, None, "bottom"),
        ({"top": "failed built", "right": "failed", "bottom": "skipped"}, None, ""),
        ({"top": "failed built", "right": "failed", "left": "skipped"}, None, "left"),
        ({"left": "failed", "right": "failed", "bottom": "skipped"}, "left", ""),
        ({"left": "failed built", "right": "failed built", "bottom": "skipped"}, None, "bottom"),
        ({"top": "built", "left": "built", "bottom": "skipped"}, None, ""),
        ({"top": "failed failed", "left": "skipped"}, None, ""),
        ({"bottom": "failed built", "left": "skipped"}, None, ""),
    ],
)
def test_what_was_skipped_is_open_again_once_its_causes_have_succeeded(
    outcomes: Mapping[str, str], retried: str | None, expected: str
) -> None:
    """Promise: after a retry upstream, and only if nothing else upstream has failed."""
    found = {
        name: [ModelOutcome(name, _WHAT[word], error=_error(word)) for word in words.split()]
        for name, words in outcomes.items()
    }
    assert sorted(open_again(found, DIAMOND, retried)) == expected.split()


def _error(word: str) -> ErrorOutcome | None:
    return ErrorOutcome("E", "m") if word == "failed" else None
