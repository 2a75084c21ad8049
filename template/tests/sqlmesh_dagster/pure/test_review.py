"""The page of a review, and the rules that stop a promotion: pure."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sqlmesh_dagster.facts.gates import Gates, stops
from sqlmesh_dagster.facts.plan_summary import PlannedChange, PlanSummary
from sqlmesh_dagster.facts.review import (
    Basis,
    CheckReview,
    ColumnChange,
    ColumnEquality,
    ColumnProfile,
    ModelReview,
    Past,
    Profile,
    Reader,
    Review,
    RowComparison,
    cost,
    estimate_is_off,
    touched,
)
from sqlmesh_dagster.facts.review_page import MARK, page

_COMPARED = RowComparison(
    key=("id",),
    compared_before=100,
    compared_after=90,
    only_before=20,
    only_after=10,
    equal=40,
    columns=(
        ColumnEquality("same", 80, 80),
        ColumnEquality("little", 80, 79),
        ColumnEquality("much", 80, 40),
    ),
)
_MODEL = ModelReview(
    name="w.s.orders",
    change="modified",
    category="breaking",
    columns=(
        ColumnChange("email", "removed", "TEXT"),
        ColumnChange("amount", "retyped", "INT", "BIGINT"),
        ColumnChange("new", "added", None, "INT"),
    ),
    rows_before=100,
    rows_after=90,
    comparison=_COMPARED,
)
_REVIEW = Review(
    environment="pr_1",
    against="prod",
    plan=PlanSummary(
        "prod",
        "p",
        is_new=False,
        is_empty=False,
        create_from=None,
        changes=(PlannedChange("w.s.orders", "modified", "breaking", "-a\n+b"),),
        unit_tests=2,
    ),
    basis=Basis((("a", "1"),), "plan", "before", (("a", "0"),)),
    models=(_MODEL,),
    readers=(
        Reader("w.s.below", "model", {"w.s.orders": frozenset({"same"})}, True, False),
        Reader("mailing", "consumer", {"w.s.orders": frozenset({"EMAIL"})}, owner="ada"),
        Reader("export", "asset", {"w.s.orders": None}),
    ),
    checks=(
        CheckReview("w.s.orders", "not_null", 0, 3),
        CheckReview("w.s.orders", "unique", 2, 0),
        CheckReview("w.s.orders", "positive", 0, 0),
    ),
    costs=(cost("w.s.orders", "2025-01-01", 2, Past(30.0, 10)),),
    reused=7,
)


def test_per_cents_are_of_what_both_sides_have() -> None:
    """Equal rows of all rows that either side has; equal values of the rows with the same key."""
    assert _COMPARED.matched == 80
    assert _COMPARED.equal_percent == pytest.approx(100 * 40 / 110)
    assert [(c.name, c.percent) for c in _COMPARED.moved] == [("much", 50.0), ("little", 98.75)]


def test_the_page_says_every_number_once_and_what_moved_most_first() -> None:
    """One look is enough."""
    text = page(_REVIEW, ())
    assert text.startswith(MARK)
    assert "| w.s.orders | 100 | 90 | 20 | 10 | 36.36 % |" in text
    assert text.index("| much | 50 % | 40 |".replace("50 %", "50.00 %")) < text.index(
        "| little | 98.75 % | 1 |"
    )
    assert "| same |" not in text
    assert "| email | removed | TEXT |  |" in text
    assert "| amount | retyped | INT | BIGINT |" in text
    assert "| w.s.orders | not_null | newly failing | 0 | 3 |" in text
    assert "1 audit passes as before. 2 unit tests passed" in text
    assert "| w.s.orders | 2025-01-01 | 2 | 20 | 60.0 |" in text
    assert "7 models are used as they are" in text
    assert "**Nothing stops a promotion.**" in text


def test_almost_equal_is_never_shown_as_equal() -> None:
    """One row of a million."""
    column = ColumnEquality("c", 1_000_000, 999_999)
    compared = RowComparison(("id",), 1_000_000, 1_000_000, 0, 0, 999_999, (column,))
    model = replace(_MODEL, columns=(), rows_before=10**6, rows_after=10**6, comparison=compared)
    assert "| c | 99.99 % | 1 |" in page(replace(_REVIEW, models=(model,)), ())


def test_who_reads_what_is_lost_comes_first_and_who_is_spared_last() -> None:
    """By column, whatever its case; who says no column may read any."""
    found = _REVIEW.touched
    assert [t.reader.name for t in found] == ["export", "mailing", "w.s.below"]
    assert found[1].lost == ("w.s.orders.email",)
    assert found[0].lost == ("w.s.orders.email", "w.s.orders.amount") and not found[0].is_certain
    assert not found[2].is_touched
    text = page(_REVIEW, ())
    assert "Downstream of the change, and not touched: model `w.s.below`." in text
    assert "| mailing | consumer, ada | w.s.orders.email |" in text


def test_rows_that_come_or_go_touch_whoever_reads_any_column() -> None:
    """A reader of columns that are equal still sees other rows."""
    reader = Reader("board", "consumer", {"w.s.orders": frozenset({"same"})})
    (found,) = touched((_MODEL,), (reader,))
    assert found.is_touched and found.changed == ("w.s.orders",)
    still = replace(
        _COMPARED, compared_after=100, only_before=0, only_after=0, columns=_COMPARED.columns[:2]
    )
    same_rows = replace(_MODEL, columns=(), rows_after=100, comparison=still)
    (found,) = touched((same_rows,), (reader,))
    assert not found.is_touched


def test_a_model_without_a_key_shows_both_sides_of_each_column() -> None:
    """Only what differs has an arrow."""
    profile = ColumnProfile("city", Profile(1, 7, "1", "9"), Profile(2, 7, "1", "8"))
    text = page(replace(_REVIEW, models=(replace(_MODEL, profiles=(profile,)),)), ())
    assert "| city | 1 → 2 | 7 | 1 | 9 → 8 |" in text


@pytest.mark.parametrize(
    ("gates", "rules"),
    [
        (Gates(), ["removed_columns", "fewer_rows_percent", "failing_checks"]),
        (Gates(removed_columns=False), ["fewer_rows_percent", "failing_checks"]),
        (Gates(fewer_rows_percent=10), ["removed_columns", "failing_checks"]),
        (
            Gates(fewer_rows_percent=None, failing_checks=False, retyped_columns=True),
            ["removed_columns", "retyped_columns"],
        ),
        (
            Gates(False, False, None, False, cost_minutes=0.5),
            ["cost_minutes"],
        ),
        (Gates(False, False, None, False, cost_minutes=1), []),
    ],
)
def test_a_promotion_is_stopped_by_the_rules_that_are_broken(
    gates: Gates, rules: list[str]
) -> None:
    """In the order of the file; what is exactly at the limit passes."""
    assert [stop.rule for stop in stops(gates, _REVIEW)] == rules


def test_a_stop_names_the_line_and_whom_it_concerns() -> None:
    """The reader need not look for it."""
    first = str(stops(Gates(), _REVIEW)[0])
    assert first.startswith("`removed_columns`: `w.s.orders.email` is removed, and ")
    assert "asset `export`" in first and "consumer `mailing`" in first
    assert first in page(_REVIEW, stops(Gates(), _REVIEW))


def test_a_removed_column_that_nobody_reads_stops_nothing() -> None:
    """It is the readers that count."""
    assert (
        stops(Gates(fewer_rows_percent=None, failing_checks=False), replace(_REVIEW, readers=()))
        == ()
    )


def test_a_removed_model_that_somebody_reads_stops_a_promotion() -> None:
    """It is all of its columns."""
    gone = ModelReview("w.s.orders", "removed", rows_before=3)
    found = stops(Gates(failing_checks=False), replace(_REVIEW, models=(gone,)))
    assert [stop.rule for stop in found] == ["removed_columns"]


def test_what_moved_since_the_review_is_named() -> None:
    """Files, the environment, production."""
    basis = _REVIEW.basis
    assert basis.moved_since(basis) == ()
    assert basis.moved_since(replace(basis, files=(("a", "2"),))) == (
        "The project's files have changed: `a`.",
    )
    assert basis.moved_since(replace(basis, plan="")) == ("The reviewed environment is gone.",)
    assert basis.moved_since(replace(basis, plan="x")) == (
        "The reviewed environment was planned again.",
    )
    assert basis.moved_since(replace(basis, other="x")) == (
        "The statements before or after runs, or the requirements, have changed.",
    )
    five = tuple((f'"db"."m{n}"', "1") for n in range(5))
    shown = "`db.m0`, `db.m1`, `db.m2`, `db.m3`, `db.m4`"
    empty = replace(basis, files=())
    assert empty.moved_since(replace(empty, files=five)) == (
        f"The project's files have changed: {shown}.",
    )
    assert empty.moved_since(replace(empty, files=(*five, ("x", "1"), ("y", "1")))) == (
        f"The project's files have changed: {shown} and 2 more.",
    )
    moved = basis.moved_since(replace(basis, production_plan="x", production=(("b", "0"),)))
    assert moved == ("Production has moved: `a`, `b`.",)
    assert basis.moved_since(replace(basis, production_plan="x")) == (
        "Production has moved: it was planned again.",
    )


def test_a_check_that_never_ran_is_not_called_passing() -> None:
    """Nor one that went with its model."""
    fates = [
        CheckReview("m", "c", before, after).fate
        for before, after in [(None, None), (0, None), (None, 1), (1, 1), (None, 0)]
    ]
    assert fates == ["unknown", "removed", "newly failing", "still failing", "passing"]


def test_what_nobody_has_measured_is_not_called_free() -> None:
    """The sum is of what is known, and says what is not."""
    unknown = replace(_REVIEW, costs=(cost("m", "full refresh", None, Past()),))
    assert unknown.seconds is None
    assert "How long it takes is not known" in page(unknown, ())
    assert stops(Gates(False, False, None, False, cost_minutes=0.01), unknown) == ()
    assert replace(_REVIEW, costs=()).seconds == 0


@pytest.mark.parametrize(
    ("estimate", "seconds", "is_off"),
    [
        (None, 500.0, False),
        (100.0, 300.0, False),
        (100.0, 300.1, True),
        (300.0, 100.0, False),
        (300.1, 100.0, True),
        (0.0, 9.9, False),
        (0.0, 10.1, True),
        (9.0, 1.0, False),
    ],
)
def test_an_estimate_is_off_by_more_than_a_factor_and_some_seconds(
    estimate: float | None, seconds: float, is_off: bool
) -> None:
    """Promise: both ways; what nobody would wait for says nothing."""
    told = estimate_is_off(estimate, seconds, 3.0)
    assert (told is not None) == is_off
    if told and estimate == 100.0:
        assert told.startswith(
            "The promotion built for 300.1 seconds; the review had estimated 100.0"
        )


def test_what_a_promotion_still_builds_is_not_missed() -> None:
    """Promise: an environment of some days has fewer rows than production, and loses none."""
    model = ModelReview("m", "modified", rows_before=1000, rows_after=90, comparison=_COMPARED)
    assert model.fewer_rows_percent == pytest.approx(91)
    part = replace(model, scope="some days", is_partial=True)
    assert part.fewer_rows_percent == pytest.approx(10)
