"""A plan as Markdown: what changes, what is built, what the texts differ in."""

from __future__ import annotations

from sqlmesh_dagster.facts.plan_summary import PlannedBackfill, PlannedChange, PlanSummary


def plan(**changes: object) -> str:
    """The Markdown of a plan of `dev`."""
    given = {"is_new": False, "is_empty": False, "create_from": None, **changes}
    return PlanSummary("dev", "p", **given).markdown  # type: ignore[arg-type]


def test_an_empty_plan_says_so_and_nothing_else() -> None:
    """Promise: no table without rows."""
    assert plan(is_empty=True, unit_tests=3) == (
        "## Plan of environment `dev`\n\nIt exists. 3 unit tests passed. There is nothing to do."
    )


def test_a_new_environment_says_what_it_begins_as() -> None:
    """Promise: `prod`, or another; nothing if it begins empty; an old one has begun."""
    assert "It does not exist yet. 0" in plan(is_new=True)
    assert "It does not exist yet, and begins as `prod`. 0" in plan(is_new=True, create_from="prod")
    assert "It exists. 0" in plan(create_from="prod")


def test_an_environment_that_each_plan_makes_anew_exists_all_the_same() -> None:
    """Regression: with `always_recreate_environment`, it never seemed to exist."""
    text = plan(is_recreated=True, create_from="prod")
    assert (
        "It exists, and the project's `always_recreate_environment` makes it again from `prod`."
        in text
    )


def test_changes_and_what_is_to_be_built_are_tables() -> None:
    """Promise: one row for each, previews marked, numbers only where they mean something."""
    text = plan(
        changes=(PlannedChange("a", "modified", "breaking"), PlannedChange("b", "removed")),
        backfills=(
            PlannedBackfill("a", "2025-01-01", 3, True),
            PlannedBackfill("b", "full refresh"),
        ),
    )
    assert text.split("\n\n")[2:] == [
        "### Changes",
        "| model | change | category |\n|---|---|---|\n| a | modified | breaking |\n| b | removed |  |",
        "### To build",
        "| model | missing intervals | number |  |\n|---|---|---|---|\n"
        "| a | 2025-01-01 | 3 | preview |\n| b | full refresh |  |  |",
    ]


def test_differences_are_shown_for_models_and_the_rest() -> None:
    """Promise: each under its name, none for what SQLMesh has none of."""
    text = plan(
        changes=(PlannedChange("a", "modified", diff="\n-1\n+2\n"), PlannedChange("b", "added")),
        other_diffs=(("before_all", "+x"),),
    )
    assert text.split("\n\n")[4:] == [
        "### Text diffs",
        "`a`",
        "```diff\n-1\n+2\n```",
        "before_all",
        "```diff\n+x\n```",
    ]


def test_long_tables_and_diffs_are_cut_and_say_so() -> None:
    """Promise: 200 rows, 200 lines of a diff, 50 diffs; nothing is cut that fits."""

    def changes(number: int, lines: int = 1) -> tuple[PlannedChange, ...]:
        diff = "\n".join(f"+{n}" for n in range(lines))
        return tuple(PlannedChange(f"m{n}", "added", diff=diff) for n in range(number))

    fits = plan(changes=changes(50, 200))
    assert "more" not in fits and "| m49 |" in fits and "+199" in fits
    assert "… and 1 more diffs" in plan(changes=changes(51))
    assert "… and 1 more lines" in plan(changes=changes(1, 201))
    assert "+200\n" not in plan(changes=changes(1, 201))
    rows = tuple(PlannedChange(f"m{n}", "added") for n in range(201))
    assert "more" not in plan(changes=rows[:200])
    assert "\n\n… and 1 more" in plan(changes=rows) and "| m200 |" not in plan(changes=rows)
