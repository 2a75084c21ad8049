"""What is built again with a restated model: all that reads it, and nothing that must not be."""

from __future__ import annotations

from sqlmesh_dagster.run.selection import restated_below
from tests.sqlmesh_dagster.pure.records import fqn, model

A, B, C = fqn("a"), fqn("b"), fqn("c")


def names(*models: object, restated: str = A) -> list[str]:
    """Names of what is restated below one model."""
    return [m.view_name for m in restated_below(models, {restated})]  # type: ignore[arg-type]


def test_what_reads_it_directly_or_not_is_restated() -> None:
    """Promise: in order, the model itself and what is next to it left out."""
    chain = (model("a"), model("b", A), model("c", B), model("beside"))
    assert names(*chain) == ["b", "c"]
    assert names(*chain, restated=B) == ["c"]


def test_a_seed_and_what_must_not_be_restated_are_left_alone() -> None:
    """Promise: and so is what only they lead to."""
    disabled = model("b", A, is_restatable=False)
    assert names(model("a"), disabled, model("c", B)) == []
    assert names(model("a"), disabled, model("c", A, B)) == ["c"]
    assert names(model("a"), model("b", A, kind="SEED"), model("c", B)) == []


def test_two_that_are_selected_are_not_below_each_other() -> None:
    """Promise: only what nobody selected."""
    chain = (model("a"), model("b", A), model("c", B))
    assert [m.view_name for m in restated_below(chain, {A, B})] == ["c"]
