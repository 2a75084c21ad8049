"""What a move copies, leaves and refuses, and when two tables are the same: pure."""

from __future__ import annotations

from datetime import date, datetime, timezone
from decimal import Decimal
from typing import Any

import pytest
from click.testing import CliRunner

from sqlmesh_dagster.engine import moving
from sqlmesh_dagster.facts.moving import (
    MovedModel,
    OtherTable,
    Source,
    Totals,
    difference,
    is_rebuilt,
    keys_that_end,
    missing_or_more,
    plain_type,
    refused,
    uncopyable,
)

_DONE = ((0, 86_400_000),)


def model(kind: str, **columns: str) -> MovedModel:
    """A model that is done for a day."""
    return MovedModel('"s"."m"', "s.m", kind, "1", _DONE, '"c"."s"."m"', columns)


def source(*models: MovedModel, tables: tuple[OtherTable, ...] = ()) -> Source:
    """A file with these."""
    return Source("prod", {"c": "/c.duckdb"}, models, tables)


@pytest.mark.parametrize(
    ("here", "there", "same"),
    [
        (1, Decimal("1.00"), True),
        (Decimal("0.10"), 0.1, True),
        (Decimal("0.10"), Decimal("0.11"), False),
        (0.1 + 0.2, 0.3, True),
        (0.3, 0.31, False),
        (1e12, 1e12 + 1, True),
        (1.0, 1.000001, False),
        (0.10000000149011612, 0.1, False),  # one `FLOAT`, of two drivers: see below
        (1e-12, 2e-12, False),
        (float("nan"), float("nan"), True),
        (float("nan"), 1.0, False),
        (None, None, True),
        (None, 0, False),
        (None, 0.0, False),
        (date(2025, 1, 1), datetime(2025, 1, 1), True),
        (datetime(2025, 1, 1), datetime(2025, 1, 1, tzinfo=timezone.utc), True),
        (datetime(2025, 1, 1), datetime(2025, 1, 1, 0, 0, 0, 1), False),
        ("a", "b", False),
    ],
)
def test_figures_are_compared_by_value(here: Any, there: Any, same: bool) -> None:
    """Promise: what two drivers give for one value is the same, and nothing else is."""
    found = difference(Totals(1, {"a": (here,)}), Totals(1, {"a": (there,)}))
    assert (found == "") is same and (same or "column `a`" in found)


@pytest.mark.parametrize(("kind", "same"), [("FLOAT", True), ("DOUBLE", False)])
def test_a_float_is_compared_by_its_own_digits(kind: str, same: bool) -> None:
    """Promise: engines that keep its 24 bits in 53 have moved it; a `DOUBLE` that differs as much has not."""
    here, there = Totals(1, {"a": (0.10000000149011612,)}, {"a": kind}), Totals(1, {"a": (0.1,)})
    assert (difference(here, there) == "") is same
    assert difference(Totals(1, {"a": (1.0,)}, {"a": kind}), Totals(1, {"a": (1.000001,)}))


def test_rows_are_compared_first() -> None:
    """Promise: the difference that a person understands at once."""
    assert difference(Totals(1000, {}), Totals(1, {})) == "1,000 rows in the file, 1 there"


def test_a_column_that_did_not_arrive_is_named() -> None:
    """Promise: a difference, and no crash; so are figures that are missing."""
    here = Totals(1, {"a": (1, 2), "b": (3,)})
    assert difference(here, Totals(1, {"b": (3,)})) == "column `a` is not there"
    assert difference(here, Totals(1, {"a": (1,), "b": (3,)})) == "column `a` is not there"
    assert difference(here, Totals(1, {"a": (1, 5), "b": (4,)})) == (
        "column `a`: 2 in the file, 5 there"
    )
    assert difference(here, Totals(1, {"a": (1, 2), "b": (3,), "c": (9,)})) == ""


@pytest.mark.parametrize(
    ("kind", "on_duckdb", "on_postgres", "on_others"),
    [
        ("VARCHAR", True, True, True),
        ("DECIMAL(18,3)", True, True, True),
        ("BLOB", True, True, False),
        ("INTEGER[]", True, False, False),
        ("VARCHAR[3]", True, False, False),
        ("STRUCT(a INTEGER)", True, False, False),
        ("MAP(VARCHAR, INTEGER)", True, False, False),
        ("BIT", True, False, False),
        ("BIGNUM", True, False, False),
        ("TIME_NS", True, False, False),
        ("BIGINT", True, True, True),
    ],
)
def test_what_a_text_cannot_carry_is_known_before(
    kind: str, on_duckdb: bool, on_postgres: bool, on_others: bool
) -> None:
    """Promise: each engine is asked for what it takes."""
    for dialect, can in (("duckdb", on_duckdb), ("postgres", on_postgres), ("mysql", on_others)):
        assert (uncopyable({"a": kind}, dialect) == []) is can


def test_what_cannot_be_copied_is_built_again_or_refused() -> None:
    """Promise: a full model is left to the next run; what is only there stops the move, by name."""
    full, only = model("FULL", a="INTEGER[]"), model("SCD_TYPE_2_BY_COLUMN", a="INTEGER[]")
    assert is_rebuilt(full, "postgres", is_wanted=False)
    assert not is_rebuilt(full, "duckdb", is_wanted=False)
    assert not is_rebuilt(only, "postgres", is_wanted=True)
    raw = OtherTable("raw", "t", {"b": "MAP(INTEGER, INTEGER)", "c": "DATE"})
    assert refused(source(full), "postgres") == []
    assert refused(source(full, only, tables=(raw,)), "postgres") == [
        "`s.m.a` (INTEGER[])",
        "`raw.t.b` (MAP(INTEGER, INTEGER))",
    ]
    blob = OtherTable("raw", "files", {"content": "BLOB"})
    assert refused(source(tables=(blob,)), "postgres") == []
    assert refused(source(tables=(blob,)), "snowflake") == ["`raw.files.content` (BLOB)"]


def test_loaded_tables_have_the_names_that_models_ask_for() -> None:
    """Promise: DuckDB takes a name in any case, of ASCII's letters; where an engine does not, it is SQLMesh's."""
    table = OtherTable("Raw", "Orders", {"Id": "INTEGER", "ÄB": "DATE"})
    there = table.known_to_models("postgres")
    assert (there.title, dict(there.columns)) == ("raw.orders", {"id": "INTEGER", "Äb": "DATE"})
    assert table.known_to_models("duckdb") == table


@pytest.mark.parametrize(
    "kind", ["INCREMENTAL_BY_TIME_RANGE", "INCREMENTAL_UNMANAGED", "SCD_TYPE_2_BY_TIME", "CUSTOM"]
)
def test_what_keeps_rows_is_never_left_to_a_run(kind: str) -> None:
    """Promise: `--rebuild` takes only what is whole again whatever is gone upstream."""
    assert not is_rebuilt(model(kind, a="DATE"), "postgres", is_wanted=True)
    assert is_rebuilt(model("SEED", a="DATE"), "postgres", is_wanted=True)


def test_a_type_that_others_lack_becomes_a_wider_one() -> None:
    """Promise: no value is cut off."""
    given = {"UBIGINT": "DECIMAL(20, 0)", "ENUM('a', 'b')": "VARCHAR", "DATE": "DATE"}
    assert {kind: plain_type(kind, "postgres") for kind in given} == given
    assert plain_type("UBIGINT", "duckdb") == "UBIGINT"


def test_another_record_of_what_is_done_is_named() -> None:
    """Promise: more is as wrong as less, unless the model is left to the next run."""
    found = source(model("FULL"))
    assert list(missing_or_more(found, {'"s"."m"': _DONE}, ())) == []
    assert list(missing_or_more(found, {}, ())) == ["s.m"]
    assert list(missing_or_more(found, {'"s"."m"': ((0, 1),)}, ())) == ["s.m"]
    assert list(missing_or_more(found, {}, ['"s"."m"'])) == []


def test_a_history_that_would_stay_with_old_keys_is_told_before_anything_is_copied() -> None:
    """Bug: a project whose keys begin with the catalog lost its history in Dagster by a move, without a word."""
    moved = source(model("FULL"))
    said = keys_that_end([["c", "s", "m"], ["c", "raw", "x"], ["s", "m"]], moved, "analytics")
    assert "`c/s/m` is `analytics/s/m`" in said and "1 asset)" in said and "named `c`" in said
    assert not keys_that_end([["c", "s", "m"]], moved, "c")  # the same catalog there
    assert not keys_that_end([["s", "m"]], moved, "analytics")  # keys without it


def test_a_move_that_is_stopped_says_how_it_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Promise: Ctrl-C is no failure of the move's, and what it has copied is not lost."""
    caplog.set_level("ERROR", "sqlmesh")  # as the command does; it is as before after the test

    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(moving, "move", stopped)
    result = CliRunner().invoke(moving.main, [])
    assert result.exit_code == 130
    assert "The same command goes on from here" in result.output
