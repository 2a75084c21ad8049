"""What stops a promotion, word by word: pure."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sqlmesh_dagster.facts.gates import Gates, Stop, stops
from sqlmesh_dagster.facts.plan_summary import PlanSummary
from sqlmesh_dagster.facts.review import (
    Basis,
    CheckReview,
    ColumnChange,
    Cost,
    ModelReview,
    Reader,
    Review,
)

_ALL_OFF = Gates(False, False, None, False)


def _review(
    *models: ModelReview,
    readers: tuple[Reader, ...] = (),
    checks: tuple[CheckReview, ...] = (),
    costs: tuple[Cost, ...] = (),
) -> Review:
    plan = PlanSummary("prod", "p", is_new=False, is_empty=False, create_from=None)
    basis = Basis((), "plan", None, ())
    return Review("dev", "prod", plan, basis, models, readers, checks, costs)


def _orders(*columns: ColumnChange) -> ModelReview:
    return ModelReview("s.orders", "modified", columns=columns, rows_before=9, rows_after=9)


def _reader(name: str, *columns: str) -> Reader:
    return Reader(name, "asset", {"s.orders": frozenset(columns) if columns else None})


_REMOVED = _orders(ColumnChange("email", "removed", "TEXT"))
_RETYPED = _orders(ColumnChange("id", "retyped", "INT", "TEXT"))


@pytest.mark.parametrize(
    ("readers", "told"),
    [
        ((_reader("a", "email"),), "asset `a` reads it."),
        ((_reader("a", "email"), _reader("b", "email")), "asset `a`, asset `b` read it."),
        ((_reader("a"),), "asset `a` may read it."),
        ((_reader("a"), _reader("b", "email")), "asset `a`, asset `b` read it."),
        (
            tuple(_reader(name, "email") for name in "abcdef"),
            "asset `a`, asset `b`, asset `c`, asset `d`, asset `e` and 1 more read it.",
        ),
    ],
)
def test_who_reads_a_removed_column_is_told(readers: tuple[Reader, ...], told: str) -> None:
    """Promise: five of them at most, and whether they surely do."""
    assert stops(Gates(), _review(_REMOVED, readers=readers)) == (
        Stop("removed_columns", f"`s.orders.email` is removed, and {told}"),
    )


def test_each_rule_is_for_its_own_kind_of_change() -> None:
    """Promise: a column with another type stops nothing unless the owner says so."""
    readers = (_reader("a", "id"),)
    assert stops(Gates(), _review(_RETYPED, readers=readers)) == ()
    (stop,) = stops(Gates(retyped_columns=True), _review(_RETYPED, readers=readers))
    assert str(stop) == "`retyped_columns`: `s.orders.id` is retyped, and asset `a` reads it."
    added = _orders(ColumnChange("new", "added", None, "INT"))
    assert stops(Gates(retyped_columns=True), _review(added, readers=(_reader("a"),))) == ()


def test_a_removed_model_names_five_of_its_readers() -> None:
    """Promise: all of its columns are gone."""
    gone = ModelReview("s.orders", "removed", rows_before=3)
    readers = tuple(_reader(name, "id") for name in "abcdef")
    found = stops(Gates(fewer_rows_percent=None), _review(gone, readers=readers))
    assert found == (
        Stop(
            "removed_columns",
            "`s.orders` is removed, and asset `a`, asset `b`, asset `c`, asset `d`, asset `e`"
            " and 1 more read it.",
        ),
    )
    other = Reader("x", "asset", {"s.other": None})
    assert stops(Gates(fewer_rows_percent=None), _review(gone, readers=(other,))) == ()
    assert stops(_ALL_OFF, _review(gone, readers=readers)) == ()
    added = ModelReview("s.orders", "added", rows_after=3)
    assert stops(Gates(), _review(added, readers=readers)) == ()


def test_fewer_rows_are_told_with_both_numbers() -> None:
    """Promise: what is allowed stands beside."""
    model = ModelReview("s.orders", "modified", rows_before=2000, rows_after=1500)
    assert stops(Gates(fewer_rows_percent=7.5), _review(model)) == (
        Stop(
            "fewer_rows_percent",
            "`s.orders` has 25.0 % fewer rows: 1,500 in place of 2,000; 7.5 % are allowed.",
        ),
    )


@pytest.mark.parametrize(
    ("check", "told"),
    [
        (CheckReview("m", "c", 0, 2), "finds 2 rows"),
        (CheckReview("m", "c", 0, 1), "finds 1 row"),
        (CheckReview("m", "c", 0, 1, kind="unit test"), "the unit test fails"),
        (CheckReview("m", "c", 0, 3, kind="linter"), "finds 3 places, as the linter says"),
        (CheckReview("m", "c", 0, None, problem="no such table"), "no such table"),
    ],
)
def test_a_check_that_newly_fails_says_what_it_finds(check: CheckReview, told: str) -> None:
    """Promise: each kind in its own words."""
    assert stops(Gates(), _review(checks=(check,))) == (
        Stop("failing_checks", f"`c` of `m` newly fails: {told}."),
    )
    assert stops(_ALL_OFF, _review(checks=(check,))) == ()


def test_what_fails_after_the_plan_stops_a_promotion_as_a_check_does() -> None:
    """Promise: its words are there, in one line."""
    late = replace(_review(), late_failure="Boom:\n  no `x`.")
    told = "What comes after a plan, such as `after_all`, fails: Boom: no `x`."
    assert stops(Gates(), late) == (Stop("failing_checks", told),)
    assert stops(_ALL_OFF, late) == ()


@pytest.mark.parametrize(
    "check",
    [
        CheckReview("m", "c", 2, 3),
        CheckReview("m", "c", 2, 0),
        CheckReview("m", "c", 0, 3, blocking=False, kind="linter"),
    ],
)
def test_what_failed_before_or_only_warns_stops_nothing(check: CheckReview) -> None:
    """Promise: nobody is stopped by what was there already."""
    assert stops(Gates(), _review(checks=(check,))) == ()


def test_an_estimate_stops_above_the_minutes() -> None:
    """Promise: minutes, not seconds; exactly at the limit passes."""
    gates = Gates(False, False, None, False, cost_minutes=2.5)
    assert stops(gates, _review(costs=(Cost("m", "full refresh", None, None, 150.0),))) == ()
    assert stops(gates, _review(costs=(Cost("m", "full refresh", None, None, 151.0),))) == (
        Stop("cost_minutes", "The promotion builds for about 2.5 minutes; 2.5 are allowed."),
    )
    assert stops(_ALL_OFF, _review(costs=(Cost("m", "full refresh", None, None, 1e6),))) == ()
