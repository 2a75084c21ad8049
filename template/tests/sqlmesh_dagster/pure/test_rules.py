"""`review.toml`: what the owner says of reviews; pure."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest

from sqlmesh_dagster.errors import InvalidSettingError, PromotionStoppedError
from sqlmesh_dagster.facts.gates import Gates, Stop
from sqlmesh_dagster.facts.rules import (
    Consumer,
    Measure,
    Rules,
    consumed,
    parse_rules,
    read_rules,
    unknown_reads,
)
from sqlmesh_dagster.run.overrides import Override, obey, override_of

MODELS = ("db.marts.orders", "db.marts.cities", "db.staging.orders")


def test_a_project_without_the_file_has_the_defaults(tmp_path: Path) -> None:
    """Projects of before go on as they are."""
    assert read_rules(tmp_path) == Rules()


def test_every_table_is_read_and_what_is_off_is_off() -> None:
    """`false` switches a limit off."""
    rules = parse_rules(
        """
        [gates]
        fewer_rows_percent = false
        cost_minutes = 30
        override_by = ["ada"]
        [measure]
        max_rows = 7
        masked = ["*.email"]
        [promotion]
        drop_environment = false
        [[consumers]]
        name = "board"
        reads = ["marts.orders.amount"]
        """
    )
    assert rules.gates == Gates(fewer_rows_percent=None, cost_minutes=30.0, override_by=("ada",))
    assert rules.measure == Measure(max_rows=7, masked=("*.email",))
    assert not rules.promotion.drop_environment
    assert rules.consumers == (Consumer("board", ("marts.orders.amount",)),)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[gate]", "`gate` is not known as a table. Known are `gates`"),
        ("[gates]\nrows = 1", "`rows` is not known in `gates`"),
        (
            "[gates]\nfewer_rows_percent = true",
            "`fewer_rows_percent` in `gates` is a number, or `false`",
        ),
        ("[gates]\nfailing_checks = 1", "`failing_checks` in `gates` is to be `true` or `false`"),
        ("[measure]\nmax_rows = -1", "`max_rows` in `measure` is negative"),
        ("[measure]\nmax_rows = true", "`max_rows` in `measure` is to be a whole number"),
        ("[gates]\noverride_by = 'ada'", "`override_by` in `gates` is a list of texts"),
        ("[consumers]\nname = 'a'", "write each consumer below a line `[[consumers]]`"),
        ("[[consumers]]\nname = 'a'", "`reads` is missing in `consumers`"),
        ("[[consumers]]\nname = ''\nreads = ['a']", "a consumer needs a `name`"),
        ("[measure]\nmasked = 'email'", "`masked` in `measure` is a list of texts"),
        ("[promotion]\ncost_factor = false", "`cost_factor` in `promotion` is a number."),
        ("[promotion]\ncost_factor = -0.1", "`cost_factor` in `promotion` is a number."),
        ("gates = 1", "`gates` is no table."),
        (
            "[promotion]\ncosts = 1",
            "`costs` is not known in `promotion`. Known are `drop_environment`, `cost_factor`.",
        ),
        (
            "[rules]",
            "`rules` is not known as a table. Known are `gates`, `measure`, `promotion`, `consumers`.",
        ),
        ("gates = ", "cannot be read"),
    ],
)
def test_what_nobody_knows_is_refused_and_named(tmp_path: Path, text: str, told: str) -> None:
    """A slip must not switch a rule off in silence."""
    (tmp_path / "review.toml").write_text(text)
    with pytest.raises(InvalidSettingError) as caught:
        read_rules(tmp_path)
    assert told in str(caught.value.description)
    assert "review.toml" in str(caught.value.description)


def test_nothing_is_a_number_too() -> None:
    """No row may be lost, and no estimate differ."""
    rules = parse_rules("[gates]\nfewer_rows_percent = 0\n[promotion]\ncost_factor = 0.5")
    assert (rules.gates.fewer_rows_percent, rules.promotion.cost_factor) == (0.0, 0.5)


def test_the_file_is_utf_8_whatever_the_system_says(tmp_path: Path) -> None:
    """As TOML is."""
    (tmp_path / "review.toml").write_bytes(
        '[[consumers]]\nname = "Übersicht"\nreads = ["a"]'.encode()
    )
    assert read_rules(tmp_path).consumers[0].name == "Übersicht"
    (tmp_path / "review.toml").write_bytes(b'x = "\xff"')
    with pytest.raises(InvalidSettingError, match=r"review\.toml` cannot be read: .*utf-8"):
        read_rules(tmp_path)


def test_a_consumer_reads_models_or_columns_of_them() -> None:
    """A name is the end of a model's; whatever is no model's is a column's."""
    consumer = Consumer("c", ("marts.orders.amount", "Marts.Orders.id", "cities", "nowhere.at_all"))
    assert consumed(consumer, MODELS) == {
        "db.marts.orders": frozenset({"amount", "id"}),
        "db.marts.cities": None,
    }
    later = Consumer("c", ("cities", "marts.orders.id"))
    assert consumed(later, MODELS)["db.marts.orders"] == frozenset({"id"})
    assert unknown_reads(consumer, MODELS) == ("nowhere.at_all",)


def test_all_of_a_model_is_more_than_one_of_its_columns() -> None:
    """In whatever order they are named."""
    for reads in (("marts.orders", "marts.orders.id"), ("marts.orders.id", "marts.orders")):
        assert consumed(Consumer("c", reads), MODELS) == {"db.marts.orders": None}


@pytest.mark.parametrize(
    ("pattern", "is_masked"),
    [
        ("email", True),
        ("EMAIL", True),
        ("*.email", True),
        ("orders.email", True),
        ("marts.orders.email", True),
        ("db.marts.*", True),
        ("staging.orders.email", False),
        ("mail", False),
    ],
)
def test_masked_columns_are_named_as_short_as_one_likes(pattern: str, is_masked: bool) -> None:
    """Patterns of a column, or of a model's name from its end and the column."""
    assert Measure(masked=(pattern,)).is_masked("db.marts.orders", "email") is is_masked


def test_only_who_may_overrides_and_says_why() -> None:
    """Both are kept; neither alone is enough."""
    gates = Gates(override_by=("ada",))
    assert override_of(gates, None, None) is None
    assert override_of(gates, "agreed", "ada") == Override("ada", "agreed")
    for reason, by, told in [
        ("agreed", None, "give both"),
        (None, "ada", "give both"),
        ("agreed", "bob", "`bob` may not override"),
    ]:
        with pytest.raises(InvalidSettingError, match=told):
            override_of(gates, reason, by)


@pytest.mark.parametrize("kind", ["ConversionException", "NumericValueOutOfRange", "ValueError"])
def test_an_error_that_may_repeat_a_value_is_named_by_its_kind_where_columns_are_masked(
    kind: str,
) -> None:
    """Promise: as in `invalid input syntax for type integer: "ada@example.com"`."""
    told = Measure(masked=("email",)).shown_error([kind], "value 'ada@example.com'")
    assert told == (
        f"{kind}. The text of the error is not shown: it may have values of columns that"
        " `review.toml` masks."
    )
    assert Measure().shown_error([kind], "the text") == "the text"
    assert Measure(masked=("email",)).shown_error(["BinderException"], "the text") == "the text"


def test_who_may_not_override_is_told_who_may() -> None:
    """Promise: whole sentences; an empty list is nobody."""
    for names, may in ((("ada", "jo"), "`ada`, `jo`"), ((), "nobody")):
        with pytest.raises(InvalidSettingError) as raised:
            override_of(Gates(override_by=names), "agreed", "bob")
        assert raised.value.description == (
            f"`bob` may not override the rules of `review.toml`; its `override_by` names {may}."
        )
    with pytest.raises(InvalidSettingError) as raised:
        override_of(Gates(override_by=("ada",)), "", "ada")
    assert raised.value.description == (
        "`override` needs the reason, and `override_by` the name; give both."
    )


def test_a_broken_rule_stops_unless_it_is_overridden(capfd: pytest.CaptureFixture[str]) -> None:
    """Promise: each rule is named; an override is logged with what it overrides."""
    broken = [
        Stop("removed_columns", "`a.x` is removed."),
        Stop("failing_checks", "`b` fails."),
    ]
    lines = "".join(f"\n- {stop}" for stop in broken)
    with dg.build_op_context() as context:
        obey(context, [], None)
        with pytest.raises(PromotionStoppedError) as raised:
            obey(context, broken, None)
        assert raised.value.description == (
            f"`review.toml` stops the promotion of this change:{lines}\nChange the models, or let"
            " somebody who may override it do so: `override` with the reason, `override_by` with the name."
        )
        obey(context, broken, Override("ada", "agreed."))
    said = f"ada overrides the rules of `review.toml`: agreed. What is overridden:{lines}"
    assert said in capfd.readouterr().err
