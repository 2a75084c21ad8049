"""What production goes back to: pure."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sqlmesh_dagster.errors import RollbackRefusedError
from sqlmesh_dagster.facts.plan_summary import PlannedBackfill, PlannedChange, PlanSummary
from sqlmesh_dagster.facts.versions import (
    ProductionVersion,
    Rollback,
    held_back,
    others_than,
    undone,
    version_before,
    version_named,
)
from tests.sqlmesh_dagster.pure.zones import time_zone


def _version(plan: str, previous: str | None, content: str, at: int = 0) -> ProductionVersion:
    return ProductionVersion(plan, previous, (("m", f"{content}-0-0-0"),), at=at)


FIRST = _version("p1", None, "a", 1)
SECOND = _version("p2", "p1", "b", 2)
RESTATED = _version("p3", "p2", "b", 3)
THIRD = _version("p4", "p3", "c", 4)
KNOWN = {v.plan: v for v in (FIRST, SECOND, RESTATED, THIRD)}
BACK = replace(_version("r1", "p4", "b", 5), restores="p3")
FURTHER = replace(_version("r2", "r1", "a", 6), restores="p1")
AFTER = {**KNOWN, "r1": BACK, "r2": FURTHER}


def test_what_was_before_is_past_plans_that_changed_nothing() -> None:
    """Promise: a restatement is a plan, and no change."""
    assert version_before(THIRD, KNOWN) == RESTATED
    assert version_before(RESTATED, KNOWN) == FIRST
    assert version_before(SECOND, KNOWN) == FIRST


def test_a_rollback_after_a_rollback_goes_further_back() -> None:
    """Promise: not back and forth."""
    assert version_before(BACK, AFTER) == FIRST
    later = _version("p5", "r1", "d", 7)
    assert version_before(later, {**AFTER, "p5": later}) == BACK
    with pytest.raises(RollbackRefusedError, match="`p1` is the first"):
        version_before(FURTHER, AFTER)


def test_what_is_not_recorded_is_refused() -> None:
    """Promise: with the plan that it was before, and the way that is left."""
    with pytest.raises(
        RollbackRefusedError, match=r"before plan `p4` was not recorded.*--without-review"
    ):
        version_before(THIRD, {"p4": THIRD})
    with pytest.raises(RollbackRefusedError, match="`p9` on was not recorded"):
        version_named("p9", THIRD, KNOWN)
    with pytest.raises(RollbackRefusedError, match="runs what it ran from plan `p2`"):
        version_named("p2", RESTATED, KNOWN)
    assert version_named("p2", RESTATED, KNOWN, is_finished=False) == SECOND


def test_what_production_was_rolled_back_from_is_known_until_it_is_there_again() -> None:
    """Promise: taking a rollback back is no rollback."""
    assert undone(THIRD, KNOWN) == ()
    assert undone(BACK, AFTER) == (THIRD,)
    assert undone(FURTHER, AFTER) == (THIRD, BACK)
    again = replace(_version("r3", "r1", "c", 8), restores="p4")
    assert undone(again, {**AFTER, "r3": again}) == (THIRD,)


def test_only_what_is_as_it_was_rolled_back_is_held_back() -> None:
    """Promise: a model that was changed since is a new change; one that only reads another is none."""
    bad = ProductionVersion("p", None, (("m", "x-0-1-0"), ("new", "n-0-0-0")))
    deployed = {"m": "a-0-0-0", "below": "b-0-1-0", "lost": "l-0-0-0"}
    local = {"m": "x-0-2-0", "below": "b-0-2-0", "new": "n-0-0-0"}
    assert held_back(local, deployed, [bad]) == {"m", "new", "lost"}
    assert held_back({**local, "m": "y-0-1-0"}, deployed, [bad]) == {"new", "lost"}
    assert held_back(local, deployed, []) == frozenset()


def test_a_version_survives_its_record() -> None:
    """Promise: also one that a newer version of the package has written."""
    version = replace(THIRD, statements='[{"a": 1}]', requirements=(("pandas", "2"),), commit="abc")
    assert ProductionVersion.from_json({**version.as_json(), "later": 1}) == version


def test_the_page_says_what_goes_what_comes_and_what_is_left_to_build() -> None:
    """Promise: before anything is changed."""
    changes = tuple(
        PlannedChange(name, kind)
        for name, kind in (("m", "modified"), ("old", "added"), ("new", "removed"))
    )
    plan = PlanSummary(
        "prod", "x", False, False, None, changes, (PlannedBackfill("m", "2025-01-09", 1),)
    )
    now = replace(THIRD, run="12345678-9", commit="abcdefabcdefabc")
    shown = Rollback(now, RESTATED, plan, others_than(now, RESTATED, KNOWN)).markdown
    assert (
        shown
        == """\
## Rollback of environment `prod`

Production runs plan `p4`, of Dagster run `12345678`, commit `abcdefabcdef`. It goes back to plan `p3`.\
 Nothing is built: its views show the tables of then again.

### Changes

| model |  |
|---|---|
| m | is as it was |
| old | comes back |
| new | goes |

### What the next run builds

It was not built while production ran something else.

| model | missing |
|---|---|
| m | 2025-01-09 |

### What else production can go back to

| plan, for `--to` | seen | Dagster run | commit |
|---|---|---|---|
| p1 | 1970-01-01 00:00 UTC |  |  |"""
    )
    assert "| p2 |" not in shown  # the same as p3


def test_what_has_nothing_to_say_is_left_out() -> None:
    """Promise: no empty section; ten other versions at most, the newest first."""
    plan = PlanSummary("prod", "x", False, False, None)
    shown = Rollback(THIRD, RESTATED, plan).markdown
    assert shown == (
        "## Rollback of environment `prod`\n\nProduction runs plan `p4`. It goes back to plan `p3`."
        " Nothing is built: its views show the tables of then again."
    )
    many = {f"v{n:02}": _version(f"v{n:02}", None, f"x{n}", n * 60_000) for n in range(12)}
    found = others_than(THIRD, RESTATED, many)
    assert [version.plan for version in found] == [f"v{n:02}" for n in reversed(range(12))]
    rows = Rollback(THIRD, RESTATED, plan, found).markdown.splitlines()[-10:]
    assert rows[0] == "| v11 | 1970-01-01 00:11 UTC |  |  |"
    assert rows[-1] == "| v02 | 1970-01-01 00:02 UTC |  |  |"


def test_a_version_that_nobody_has_dated_has_no_date(monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: times are UTC on each host, and no date is not 1970."""
    plan = PlanSummary("prod", "x", False, False, None)
    others = (
        replace(FIRST, at=0, run="abcdefgh-1", commit="0123456789abcdef"),
        _version("p9", None, "z", 3_600_000),
    )
    with time_zone(monkeypatch, "Asia/Tokyo"):
        rows = Rollback(THIRD, RESTATED, plan, others).markdown.splitlines()[-2:]
    assert rows == ["| p1 |  | abcdefgh | 0123456789ab |", "| p9 | 1970-01-01 01:00 UTC |  |  |"]


def test_a_record_from_json_holds_pairs_again() -> None:
    """Promise: so that versions can be compared, and kept in sets."""
    given = {
        "plan": "p",
        "previous": None,
        "nodes": [["m", "a"]],
        "requirements": [["pandas", "2"]],
    }
    made = ProductionVersion.from_json(given)
    assert (made.nodes, made.requirements) == ((("m", "a"),), (("pandas", "2"),))


def test_a_version_that_comes_from_nowhere_known_stands_for_itself() -> None:
    """Promise: a record that lacks what a rollback restored goes as far as it reaches."""
    lost = replace(_version("r9", "p4", "b", 5), restores="p77")
    assert version_before(lost, {**KNOWN, "r9": lost}) == THIRD
