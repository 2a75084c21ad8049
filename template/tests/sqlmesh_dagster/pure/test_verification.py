"""What unit tests and linter found, as people read it."""

from __future__ import annotations

from sqlmesh_dagster.facts.verification import Finding, Verification, shown, texts

TEST = Finding('"db"."demo"."m"', "test_m", "1 != 2\n| a | b |")
RULE = Finding('"db"."demo"."n"', "noselectstar", "Query uses |*|", line=3)
WARNING = Finding('"db"."demo"."n"', "nomissingowner", "No owner", is_error=False)


def test_nothing_found_says_what_ran() -> None:
    """Promise: counts of tests and models, and no empty table."""
    verification = Verification(tests=(("a", 2), ("b", 1)))
    assert verification.test_count == 3 and verification.errors == ()
    assert verification.markdown == (
        "3 unit tests of 2 models ran.\n\nUnit tests and linter found nothing."
    )


def test_a_table_names_each_finding_and_details_follow_for_unit_tests() -> None:
    """Promise: model, who found it, the rule, and what it says; warnings are distinguished."""
    verification = Verification((("m", 1),), (TEST,), (RULE, WARNING))
    assert verification.errors == (TEST, RULE)
    assert verification.markdown == "\n\n".join(
        [
            "1 unit test of 1 model ran.",
            "| model | found by | rule or test |  |\n|---|---|---|---|\n"
            "| db.demo.m | unit test | `test_m` |  |\n"
            "| db.demo.n | linter | `noselectstar` | Query uses \\|*\\| |\n"
            "| db.demo.n | linter | `nomissingowner` | warning |",
            "`db.demo.m`: `test_m`",
            "```\n1 != 2\n| a | b |\n```",
        ]
    )


def test_a_finding_has_its_line_where_it_is_known() -> None:
    """Promise: the place to look at."""
    (text,) = texts([RULE])
    assert text == "`db.demo.n`, line 3: `noselectstar`\n\n```\nQuery uses |*|\n```"


def test_findings_are_plain_in_an_errors_message() -> None:
    """Promise: one line for each, names without quotes."""
    assert shown([TEST, WARNING]) == (
        "`db.demo.m`: `test_m`: 1 != 2\n| a | b |\n`db.demo.n`: `nomissingowner`: No owner"
    )
