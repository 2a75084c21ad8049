"""Whole pages of reviews, as people read them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sqlmesh_dagster.facts.gates import Gates, Stop, stops
from sqlmesh_dagster.facts.plan_summary import PlannedChange, PlanSummary
from sqlmesh_dagster.facts.review import (
    Basis,
    CheckReview,
    ColumnChange,
    ColumnEquality,
    ColumnProfile,
    Cost,
    ModelReview,
    Past,
    Profile,
    Reader,
    Review,
    RowComparison,
    Touched,
    cost,
)
from sqlmesh_dagster.facts.review_page import page

_PLAN = PlanSummary(
    "prod",
    "p",
    is_new=False,
    is_empty=False,
    create_from=None,
    changes=(
        PlannedChange("w.s.orders", "modified", "breaking", "-a\n+b"),
        PlannedChange("w.s.gone", "removed"),
    ),
    unit_tests=2,
)
_ORDERS = ModelReview(
    "w.s.orders",
    "modified",
    "breaking",
    columns=(
        ColumnChange("email", "removed", "TEXT"),
        ColumnChange("new", "added", None, "INT"),
    ),
    rows_before=12000,
    rows_after=9000,
    comparison=RowComparison(
        ("id", "day"),
        12000,
        9000,
        4000,
        1000,
        7999,
        (
            ColumnEquality("same", 8000, 8000),
            ColumnEquality("amount", 8000, 7999),
            ColumnEquality("place", 8000, 0),
        ),
    ),
    scope="rows of the last 7 days",
    notes=("The key is the model's grain.",),
    samples=({"id": "1", "amount": "2 → 3"}, {"id": "2"}),
)
_CITIES = ModelReview(
    "w.s.cities",
    "added",
    "breaking",
    rows_after=0,
    profiles=(
        ColumnProfile("city", Profile(1, 7, "1", "9"), Profile(2, 7, "1", "8")),
        ColumnProfile("code", None, Profile(0)),
        ColumnProfile("old", Profile(1234, 5), None),
    ),
)
_REVIEW = Review(
    "pr_1",
    "prod",
    _PLAN,
    Basis((), "plan", "x", ()),
    models=(
        _ORDERS,
        _CITIES,
        ModelReview("w.s.one", "modified indirectly", is_same_table=True),
        ModelReview("w.s.two", "modified indirectly", is_same_table=True),
    ),
    readers=(
        Reader("mailing", "consumer", {"w.s.orders": frozenset({"EMAIL"})}, owner="ada"),
        Reader("export", "asset", {"w.s.orders": None}),
        Reader("w.s.below", "model", {"w.s.orders": frozenset({"same"})}, True, False),
        Reader("w.s.other", "model", {"w.s.none": None}, True, False),
    ),
    checks=(
        CheckReview("w.s.orders", "not_null", 0, 3),
        CheckReview("w.s.orders", "unique", 2, 0),
        CheckReview("w.s.orders", "positive", 0, 0),
        CheckReview("w.s.orders", "range", 1, 4, blocking=False),
        CheckReview("w.s.orders", "gone", 1, None),
        CheckReview("w.s.orders", "new", None, None),
        CheckReview("w.s.orders", "broken", 0, None, problem="no column `email`\nin it."),
        CheckReview("w.s.orders", "test_orders", 0, 1, kind="unit test"),
        CheckReview("w.s.cities", "test_cities", None, 1, kind="unit test"),
        CheckReview("w.s.orders", "noselectstar", None, 2, kind="linter"),
        CheckReview("w.s.orders", "nomissingowner", None, 1, blocking=False, kind="linter"),
    ),
    costs=(
        cost("w.s.orders", "2025-01-01 to 2025-01-02", 2, Past(1800.25, 1000)),
        cost("w.s.cities", "recreate view", None, Past()),
        cost("w.s.big", "full refresh", None, Past()),
    ),
    reused=7,
    built_seconds=12.34,
    commit="0123456789abcdef",
)
_PAGE = """\
<!-- sqlmesh_dagster review -->

## Review of environment `pr_1`

4 models differ from `prod`; the data of 2 of them differ. 2 of 4 readers are touched. Commit `0123456789ab`.

**A promotion is stopped:**

- `removed_columns`: `w.s.orders.email` is removed, and asset `export`, consumer `mailing` read it.
- `fewer_rows_percent`: `w.s.orders` has 25.0 % fewer rows: 9,000 in place of 12,000; 5 % are allowed.
- `failing_checks`: `not_null` of `w.s.orders` newly fails: finds 3 rows.
- `failing_checks`: `broken` of `w.s.orders` newly fails: no column `email` in it.
- `failing_checks`: `test_orders` of `w.s.orders` newly fails: the unit test fails.
- `failing_checks`: `test_cities` of `w.s.cities` newly fails: the unit test fails.
- `failing_checks`: `noselectstar` of `w.s.orders` newly fails: finds 2 places, as the linter says.

### Changes

| model | change | category |
|---|---|---|
| w.s.orders | modified | breaking |
| w.s.gone | removed |  |

### Data

| model | rows before | after | only before | only after | equal rows |
|---|---|---|---|---|---|
| w.s.orders | 12,000 | 9,000 | 4,000 | 1,000 | 61.53 % |
| w.s.cities | - | 0 | - | - | - |

The same table as before, so that nothing of it differs: `w.s.one`, `w.s.two`.

#### `w.s.orders`

Compared: rows of the last 7 days.

| column | change | before | after |
|---|---|---|---|
| email | removed | TEXT |  |
| new | added |  | INT |

Values of rows with the same `id`, `day`; columns that are not named are equal.

| column | equal values | rows that differ |
|---|---|---|
| place | 0 % | 8,000 |
| amount | 99.99 % | 1 |

| id | amount |
|---|---|
| 1 | 2 → 3 |
| 2 |  |

The key is the model's grain.

#### `w.s.cities`

| column | nulls | distinct | minimum | maximum |
|---|---|---|---|---|
| city | 1 → 2 | 7 | 1 | 9 → 8 |
| code | - → 0 | - | - | - |
| old | 1,234 → - | 5 → - | - | - |

### Who is touched

| who |  | reads what is removed or retyped | reads what else changed |
|---|---|---|---|
| export | asset (?) | w.s.orders.email | w.s.orders.new, w.s.orders.place, w.s.orders.amount, w.s.orders |
| mailing | consumer, ada | w.s.orders.email | w.s.orders |

(?) Which columns it reads is not known, so that any of them may be meant.

Downstream of the change, and not touched: model `w.s.below`, model `w.s.other`.

### Checks

| model | check |  | found before | after |
|---|---|---|---|---|
| w.s.cities | unit test: test_cities | newly failing | - | fails |
| w.s.orders | broken | newly failing | 0 | no column `email` in it. |
| w.s.orders | not_null | newly failing | 0 | 3 |
| w.s.orders | linter: nomissingowner | newly failing, a warning | - | 1 |
| w.s.orders | linter: noselectstar | newly failing | - | 2 |
| w.s.orders | unit test: test_orders | newly failing | passes | fails |
| w.s.orders | unique | newly passing | 2 | 0 |
| w.s.orders | range | still failing, a warning | 1 | 4 |
| w.s.orders | new | unknown | - | - |
| w.s.orders | gone | removed | 1 | - |

1 audit passes as before. 2 of 2 unit tests fail, and the linter finds 2 errors.

### Cost of a promotion

| model | to build | intervals | rows, about | seconds, about |
|---|---|---|---|---|
| w.s.orders | 2025-01-01 to 2025-01-02 | 2 | 2,000 | 3,600.5 |
| w.s.cities | recreate view | - | 0 | 0.0 |
| w.s.big | full refresh | - | - | - |

About 3,600.5 seconds, and 1 model of which nothing is known; 7 models are used as they are. Building this environment took 12.3 seconds.

### Text diffs

`w.s.orders`

```diff
-a
+b
```"""


def test_a_whole_page_reads_well() -> None:
    """Promise: every section, in this order and in these words."""
    assert page(_REVIEW, stops(Gates(), _REVIEW)) == _PAGE


def test_an_environment_that_was_not_built_shows_why_and_no_cost() -> None:
    """Promise: the error stands at the top, as it is, before what is known of the files."""
    failed = replace(
        _REVIEW, problem="Model failed.\nNo table.", models=(), readers=(), checks=(), commit=None
    )
    text = page(replace(failed, plan=replace(_PLAN, unit_tests=0)), (Stop("a_rule", "It is so."),))
    assert text.split("\n\n")[2:] == [
        "2 models differ from `prod`. **The environment could not be built**, so that nothing is known"
        " of their data.",
        "- `a_rule`: It is so.",
        "```\nModel failed.\nNo table.\n```",
        "### Changes",
        "| model | change | category |\n|---|---|---|\n| w.s.orders | modified | breaking |\n"
        "| w.s.gone | removed |  |",
        "### Text diffs",
        "`w.s.orders`",
        "```diff\n-a\n+b\n```",
    ]


def test_what_failed_once_the_environment_was_built_stands_below_the_verdict() -> None:
    """Promise: with all that is known, and never as an environment that could not be built."""
    late = page(replace(_REVIEW, late_failure="Boom.\nNo table."), ()).split("\n\n")
    assert late[3:6] == [
        "**Nothing stops a promotion.**",
        "The environment is built. What comes after a plan, such as `after_all`, failed in it:",
        "```\nBoom.\nNo table.\n```",
    ]
    assert late[6:] == page(_REVIEW, ()).split("\n\n")[4:]


def test_nothing_that_differs_is_one_sentence() -> None:
    """Promise: and what a promotion would build, which is nothing."""
    empty = PlanSummary("prod", "p", is_new=False, is_empty=True, create_from=None)
    review = Review("dev", "prod", empty, _REVIEW.basis, commit="c" * 40, reused=1)
    assert page(review, ()).split("\n\n")[1:] == [
        "## Review of environment `dev`",
        "Nothing differs from `prod`. Commit `cccccccccccc`.",
        "### Cost of a promotion",
        "Nothing to build; 1 model is used as it is.",
    ]


@pytest.mark.parametrize(
    ("equal", "differing", "verdict"),
    [
        (1, 0, "1 model differs from `prod`; its data are equal."),
        (2, 0, "2 models differ from `prod`; their data are equal."),
        (0, 1, "1 model differs from `prod`, and so do its data."),
        (0, 2, "2 models differ from `prod`, and so do their data."),
        (2, 1, "3 models differ from `prod`; the data of 1 of them differs."),
        (1, 2, "3 models differ from `prod`; the data of 2 of them differ."),
    ],
)
def test_the_first_sentence_counts_what_differs(equal: int, differing: int, verdict: str) -> None:
    """Promise: it is a sentence, whatever it counts."""
    models = [ModelReview(f"w.e{n}", "modified", is_same_table=True) for n in range(equal)]
    models += [ModelReview(f"w.d{n}", "modified") for n in range(differing)]
    assert page(replace(_REVIEW, models=tuple(models)), ()).split("\n\n")[2].startswith(verdict)


def _section(review: Review, title: str) -> list[str]:
    """The paragraphs between a title and the next one of its level."""
    _, _, rest = page(review, ()).partition(f"### {title}\n\n")
    return rest.partition("\n\n### ")[0].split("\n\n")


def test_long_lists_are_cut_and_say_so() -> None:
    """Promise: at 30 columns, 20 equal models, 50 readers that are spared and 8 columns of one."""
    columns = tuple(ColumnEquality(f"c{n:02}", 10, 5) for n in range(31))
    compared = RowComparison(("id",), 10, 10, 0, 0, 5, columns)
    profiles = tuple(ColumnProfile(f"p{n:02}", Profile(0), Profile(0)) for n in range(31))
    long = ModelReview("w.long", "modified", rows_before=10, rows_after=10, comparison=compared)
    same = tuple(ModelReview(f"w.m{n:02}", "modified", is_same_table=True) for n in range(21))
    names = tuple(ColumnChange(f"r{n}", "removed", "INT") for n in range(9))
    lost = ModelReview("w.lost", "modified", columns=names)
    spared = [Reader(f"r{n:02}", "model", {"w.none": None}) for n in range(51)]
    review = replace(
        _REVIEW,
        models=(replace(long, profiles=profiles), lost, *same),
        readers=(Reader("all", "asset", {"w.lost": frozenset(c.name for c in names)}), *spared),
    )
    data, who = _section(review, "Data"), _section(review, "Who is touched")
    listed = ", ".join(f"`w.m{n:02}`" for n in range(20))
    assert data[1] == f"The same table as before, so that nothing of it differs: {listed}, …."
    assert data[4].count("\n") == 31 and "| c29 |" in data[4] and "| c30 |" not in data[4]
    assert data[5] == "… and 1 more column"
    assert "| p29 |" in data[6] and "| p30 |" not in data[6]
    first = ", ".join(f"w.lost.r{n}" for n in range(8))
    assert who[0].splitlines()[2] == f"| all | asset | {first} and 1 more | w.lost |"
    shown = ", ".join(f"model `r{n:02}`" for n in range(50))
    assert who[1] == f"Downstream of the change, and not touched: {shown} and 1 more."
    fits = replace(review, models=(long, *same[:20]), readers=tuple(spared[:50]))
    text = page(fits, ())
    assert "`w.m19`." in text and "`r49`." in text


def test_as_many_as_fit_are_not_cut() -> None:
    """Promise: nothing is said to be left out where nothing is."""
    columns = tuple(ColumnEquality(f"c{n:02}", 10, 5) for n in range(30))
    compared = RowComparison(("id",), 10, 10, 0, 0, 5, columns)
    model = ModelReview("w.m", "modified", rows_before=10, rows_after=10, comparison=compared)
    data = _section(replace(_REVIEW, models=(model,)), "Data")
    assert len(data) == 4 and "| c29 |" in data[3]


@pytest.mark.parametrize(
    ("checks", "tests", "said"),
    [
        ([], 1, "0 audits pass as before. 1 unit test passed, and the linter found no error."),
        (
            [CheckReview("m", "a", 0, 0), CheckReview("m", "b", 0, 0)],
            0,
            "2 audits pass as before. 0 unit tests passed, and the linter found no error.",
        ),
        (
            [CheckReview("m", "a", 0, 0), CheckReview("m", "t", 0, 1, kind="unit test")],
            3,
            "1 audit passes as before. 1 of 3 unit tests fail, and the linter found no error.",
        ),
        (
            [CheckReview("m", "rule", 0, 1, kind="linter")],
            0,
            "0 audits pass as before. 0 unit tests passed, and the linter finds 1 error.",
        ),
    ],
)
def test_what_passes_is_one_line(checks: list[CheckReview], tests: int, said: str) -> None:
    """Promise: audits, unit tests and the linter, each with its number."""
    plan = replace(_PLAN, unit_tests=tests)
    shown = _section(replace(_REVIEW, checks=tuple(checks), plan=plan), "Checks")
    assert shown[-1] == said


def test_neither_checks_nor_tests_is_no_section() -> None:
    """Promise: nothing is said of what is not there; nor of readers or models."""
    plan = replace(_PLAN, unit_tests=0, changes=())
    bare = replace(_REVIEW, checks=(), plan=plan, models=(), readers=())
    assert [line for line in page(bare, ()).splitlines() if line.startswith("###")] == [
        "### Cost of a promotion"
    ]


@pytest.mark.parametrize(
    ("costs", "built", "said"),
    [
        ([Cost("m", "a", 1, 1, 2.0)], None, "About 2.0 seconds; 7 models are used as they are."),
        (
            [Cost("m", "a", 1, 1, 2.0), Cost("n", "b"), Cost("o", "c")],
            None,
            "About 2.0 seconds, and 2 models of which nothing is known; 7 models are used as they are.",
        ),
        (
            [Cost("n", "b")],
            1000.0,
            "How long it takes is not known: nothing of it was built before; 7 models are used as they"
            " are. Building this environment took 1,000.0 seconds.",
        ),
    ],
)
def test_the_cost_says_what_it_does_not_know(
    costs: list[Cost], built: float | None, said: str
) -> None:
    """Promise: an estimate is never more certain than what it is made of."""
    review = replace(_REVIEW, costs=tuple(costs), built_seconds=built)
    assert _section(review, "Cost of a promotion")[1] == said


def test_who_is_certain_has_no_question_mark() -> None:
    """Promise: nor a line that explains one; an owner stands behind the kind."""
    certain = Reader("board", "consumer", {"w.s.orders": frozenset({"email"})})
    (rows,) = _section(replace(_REVIEW, readers=(certain,)), "Who is touched")
    assert rows.splitlines()[2] == "| board | consumer | w.s.orders.email | w.s.orders |"


def test_readers_are_in_order_of_what_reaches_them() -> None:
    """Promise: what is lost, what else changed, what is spared; then by kind and name."""

    def order(*names: str) -> list[str]:
        kinds = {"a": "model", "b": "asset", "c": "consumer", "d": "asset"}
        reads = {"a": {"email"}, "b": {"amount"}, "c": {"amount"}, "d": set[str]()}
        readers = [
            Reader(
                name,
                kinds[name],  # type: ignore[arg-type]
                {("w.s.none" if name == "d" else "w.s.orders"): frozenset(reads[name])},
            )
            for name in names
        ]
        return [t.reader.name for t in replace(_REVIEW, readers=tuple(readers)).touched]

    assert order("d", "c", "b", "a") == order("a", "b", "c", "d") == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("past", "intervals", "rows", "seconds"),
    [
        (Past(1.5, 10), 3, 30, 4.5),
        (Past(1.5, 10), None, 10, 1.5),
        (Past(1.5, 10), 0, 10, 1.5),
        (Past(None, 10), 3, 30, None),
        (Past(1.5, None), 3, None, 4.5),
    ],
)
def test_a_cost_is_of_as_many_intervals(
    past: Past, intervals: int | None, rows: int | None, seconds: float | None
) -> None:
    """Promise: what is built as a whole counts once; a view is free, whatever it took."""
    assert cost("m", "days", intervals, past) == Cost("m", "days", intervals, rows, seconds)
    assert cost("m", "recreate view", intervals, past) == Cost(
        "m", "recreate view", intervals, 0, 0.0
    )


def test_what_is_measured_counts_before_what_it_reads() -> None:
    """Promise: a model whose own data are the same is not touched, unless it reads what is lost."""
    reader = Reader("m", "model", {}, is_measured=True, is_touched=False)
    assert not Touched(reader, (), ("w.a",), is_certain=True).is_touched
    assert Touched(reader, ("w.a.b",), (), is_certain=True).is_touched
    assert Touched(replace(reader, is_touched=True), (), (), is_certain=True).is_touched
    assert Touched(replace(reader, is_measured=False), (), ("w.a",), is_certain=True).is_touched


def test_a_reader_of_several_models_is_told_of_each() -> None:
    """Promise: a model that is not touched ends no search, and each column is the model's own."""
    other = ModelReview(
        "w.s.parts", "modified", columns=(ColumnChange("Cost", "retyped", "INT", "TEXT"),)
    )
    same = ModelReview("w.s.a_same", "modified", is_same_table=True)
    review = replace(
        _REVIEW,
        models=(same, _ORDERS, other),
        readers=(
            Reader(
                "board",
                "consumer",
                {
                    "w.s.a_same": frozenset({"email"}),
                    "w.s.orders": frozenset({"EMAIL", "amount"}),
                    "w.s.parts": frozenset({"cost"}),
                },
            ),
        ),
    )
    (found,) = review.touched
    assert found.lost == ("w.s.orders.email", "w.s.parts.Cost")
    assert found.changed == ("w.s.orders.amount", "w.s.orders", "w.s.parts")


@pytest.mark.parametrize(
    ("columns", "is_measured", "is_touched", "lost"),
    [
        (None, True, False, ()),
        (None, True, True, ("w.s.orders.email",)),
        (None, False, False, ("w.s.orders.email",)),
        (frozenset({"email"}), True, False, ("w.s.orders.email",)),
    ],
)
def test_what_was_built_without_a_column_and_is_the_same_needs_it_not(
    columns: frozenset[str] | None, is_measured: bool, is_touched: bool, lost: tuple[str, ...]
) -> None:
    """Promise: of a reader whose columns are not known, its own data say whether it reads what is lost."""
    reader = Reader("m", "model", {"w.s.orders": columns}, is_measured, is_touched)
    (found,) = replace(_REVIEW, readers=(reader,)).touched
    assert found.lost == lost
