"""Names that Dagster accepts: readable, stable, and two names never become one."""

from __future__ import annotations

import itertools
import re

import dagster as dg
import pytest

from sqlmesh_dagster.definition.names import (
    audit_identity,
    check_names,
    dagster_tags,
    group_name,
    key_segment,
    long_check_name,
    nearest,
    op_name,
    other_check_names,
    tag_key,
    view_in,
)

ODD_NAMES = ["a-b", "a.b", "a b", "a_b", 'a"b', "a/b", "ä_b", "a__b", "_a_b", "a_b_", "1", "", "😀"]


def test_a_plain_name_stays_as_it_is() -> None:
    """Promise: asset keys and op names of ordinary models can be written down without looking."""
    assert key_segment("stg_orders2") == "stg_orders2"
    assert op_name(["warehouse", "staging", "stg_orders"]) == "warehouse__staging__stg_orders"


def test_two_odd_names_never_become_one_key_segment() -> None:
    """Promise: a name that has to be altered keeps a digest of the original."""
    segments = [key_segment(name) for name in ODD_NAMES]
    assert len(set(segments)) == len(ODD_NAMES)
    assert all(re.fullmatch(r"[A-Za-z0-9_]+", segment) for segment in segments)


def test_a_name_gives_the_same_segment_in_every_process() -> None:
    """Promise: no key depends on Python's seeded hashes; Dagster's history hangs on it."""
    assert key_segment("order-items") == "order_items__89455f"


def test_two_key_paths_never_become_one_op() -> None:
    """Promise: `a / b_c` next to `a_b / c`, and anything that a translator may return, have an op each."""
    parts = ["a", "b", "a_b", "a__b", "_a", "a_", "a-b", "b/a"]
    paths = [path for n in (1, 2, 3) for path in itertools.product(parts, repeat=n)]
    names = [op_name(path) for path in paths]
    assert len(set(names)) == len(paths)
    assert all(re.fullmatch(r"[A-Za-z0-9_]+", name) for name in names)


@pytest.mark.parametrize("name", ["context", "config", "input", "output", "type", "class", "None"])
def test_a_word_that_dagster_reserves_is_a_valid_op_name(name: str) -> None:
    """Promise: a translator that returns keys of one segment may use any word."""

    @dg.op(name=op_name([name]))
    def _op() -> None:
        return None

    assert _op.name.startswith(name)


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        (["finance"], {"finance": "true"}),
        (["finance team"], {"finance_team": "true"}),
        (["domain:sales"], {"domain": "sales"}),
        (["domain:sales:eu"], {"domain": "sales_eu"}),
        (["a=b"], {"a_b": "true"}),
        (["'quoted'"], {"quoted": "true"}),
        (["größe"], {"gro_e": "true"}),
        (["domain:"], {"domain": "true"}),
        ([], {}),
    ],
)
def test_a_tag_reads_like_the_original(tags: list[str], expected: dict[str, str]) -> None:
    """Promise: people find their SQLMesh tags again in Dagster."""
    assert dagster_tags(tags) == expected


def test_tags_that_look_alike_are_all_kept() -> None:
    """Promise: no tag swallows another, whatever their order."""
    tags = ["a b", "a_b", "a=b", "domain:x", "domain:y", "domain", "é", "e", "日", "本", "x" * 200]
    result = dagster_tags(tags)
    assert len(result) == len(tags)
    assert dagster_tags(list(reversed(tags))) == result


def test_every_tag_is_one_that_dagster_takes() -> None:
    """Promise: a tag never keeps a project from loading."""
    tags = [*ODD_NAMES, *(f"{a}:{b}" for a, b in itertools.product(ODD_NAMES, ODD_NAMES))]
    tags += ["x" * 200, "x" * 200 + "y", "k:" + "v" * 200, "k" * 200 + ":v", ".-_", "-x-"]
    spec = dg.AssetSpec("any", tags=dagster_tags(tags))
    assert spec.tags


def test_a_long_tag_is_cut_and_told_from_its_like() -> None:
    """Promise: 63 characters at most, with a digest of the rest."""
    one, other = tag_key("x" * 200), tag_key("x" * 201)
    assert len(one) == len(other) == 63
    assert one != other


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("marts", "marts"),
        ("marts/finance", "marts/finance"),
        ("my marts-1", "my_marts_1"),
        ("/a//b/", "a/b"),
    ],
)
def test_a_group_name_is_one_that_dagster_takes(text: str, expected: str) -> None:
    """Promise: a group keeps its hierarchy, and loses only what Dagster refuses."""
    assert group_name(text) == expected
    assert dg.AssetSpec("any", group_name=group_name(text)).group_name == expected


def test_a_check_is_named_after_its_audit_and_columns() -> None:
    """Promise: a check name says what is checked, and is short."""
    calls = [
        ("not_null", {"columns": "[id, name]"}),
        ("accepted_values", {"column": "status", "is_in": "['open', 'paid']"}),
        ("no_arguments", {}),
        ("with-hyphen", {"n": "1.5"}),
        ("number_of_rows", {"threshold": "0"}),
        ("forall", {"criteria": "(paid >= 0, LOWER(state) <> 'a paid one' AND cost IS NULL)"}),
        ("mutually_exclusive_ranges", {"lower_bound_column": "a", "upper_bound_column": "b"}),
    ]
    assert check_names(calls) == [
        "not_null_id_name",
        "accepted_values_status",
        "no_arguments",
        "with_hyphen",
        "number_of_rows",
        "forall_paid_state_cost",
        "mutually_exclusive_ranges_a_b",
    ]


@pytest.mark.parametrize(
    ("audit", "before", "after"),
    [
        ("accepted_range", {"column": "n", "max_v": "100"}, {"column": "n", "max_v": "1000"}),
        ("accepted_values", {"column": "n", "is_in": "[1]"}, {"column": "n", "is_in": "[1, 2]"}),
        ("number_of_rows", {"threshold": "1"}, {"threshold": "10"}),
        ("forall", {"criteria": "(n > 1)"}, {"criteria": "(n > 2)"}),
        ("above", {"column": "n" * 90, "n": "1"}, {"column": "n" * 90, "n": "2"}),
        ("any", {"column": "n", "note": "'old'"}, {"column": "n"}),
    ],
)
def test_a_check_keeps_its_name_when_a_threshold_changes(
    audit: str, before: dict[str, str], after: dict[str, str]
) -> None:
    """Promise: its history in Dagster goes on; once the name ended with the number."""
    assert check_names([(audit, before)]) == check_names([(audit, after)])


def test_two_uses_of_an_audit_are_told_apart_by_as_little_as_it_takes() -> None:
    """Promise: by the arguments that only one has; by numbers where nothing else differs."""
    low = ("accepted_range", {"column": "n", "min_v": "0", "inclusive": "FALSE"})
    high = ("accepted_range", {"column": "n", "max_v": "9"})
    higher = ("accepted_range", {"column": "n", "max_v": "99"})
    assert check_names([low, high]) == ["accepted_range_n_min_v", "accepted_range_n_max_v"]
    assert check_names([high, higher]) == ["accepted_range_n_max_v_9", "accepted_range_n_max_v_99"]
    only_open = ("unique_values", {"columns": "[id]", "condition": "closed IS NULL"})
    every = ("unique_values", {"columns": "[id]"})
    assert check_names([only_open, every]) == ["unique_values_id_condition", "unique_values_id"]


def test_an_audit_of_columns_alone_has_the_name_that_it_always_had() -> None:
    """Promise: most checks of older projects keep their history; others find their last result."""
    for columns in ("[id, name]", "[" + ", ".join(f"column_{i}" for i in range(20)) + "]"):
        call = ("not_null", {"columns": columns})
        assert check_names([call]) == [long_check_name(*call)]
    call = ("accepted_range", {"column": "n", "max_v": "9"})
    assert other_check_names(*call) == (
        "accepted_range_n",
        "accepted_range_n_max_v",
        "accepted_range_n_max_v_9",
    )


def test_check_names_do_not_depend_on_the_order_or_on_other_audits() -> None:
    """Promise: adding, removing or reordering audits of other columns renames no check."""
    calls = [("not_null", {"columns": f"[c{i}]"}) for i in range(6)]
    calls += [("above", {"column": f"c{i}", "n": str(i)}) for i in range(6)]
    alone = [check_names([call])[0] for call in calls]
    assert check_names(calls) == alone
    assert check_names(calls[::-1]) == alone[::-1]
    alike = [("above", {"c": "a", "n": str(i)}) for i in range(6)]
    assert check_names(alike[::-1]) == check_names(alike)[::-1]


def test_calls_that_read_the_same_get_names_of_their_own() -> None:
    """Promise: columns `a, b` next to column `a_b` are two checks, whichever stands first."""
    calls = [("not_null", {"columns": "[a, b]"}), ("not_null", {"columns": "[a_b]"})]
    names = check_names(calls)
    assert len(set(names)) == 2
    assert check_names(calls[::-1]) == names[::-1]


def test_exact_repetitions_are_numbered() -> None:
    """Promise: the same call three times is three checks, and no other audit takes their names."""
    call = ("not_null", {"columns": "[id]"})
    other = ("not_null", {"columns": "[id, 2]"})
    names = check_names([call, call, other, call])
    assert names == ["not_null_id", "not_null_id__2", "not_null_id_2", "not_null_id__3"]


def test_an_audit_of_odd_characters_only_has_a_valid_check_name() -> None:
    """Promise: whatever an audit is called, its check can be defined."""
    names = check_names([("日本", {}), ("-", {}), ("x" * 300, {}), ("x" * 300, {"n": "1"})])
    assert len(set(names)) == 4
    for name in names:
        assert len(name) <= 80
        assert re.fullmatch(r"[A-Za-z0-9_]+", name)


def test_an_audits_identity_does_not_depend_on_the_order_of_its_arguments() -> None:
    """Promise: a run's results find their check, however SQLMesh sorts the arguments."""
    assert audit_identity("a", {"x": "1", "b": "2"}) == audit_identity("a", {"b": "2", "x": "1"})
    assert audit_identity("a", {}) == "a"


@pytest.mark.parametrize(
    ("environment", "suffix", "expected"),
    [
        ("prod", "schema", "db.marts.orders"),
        ("dev", "schema", "db.marts__dev.orders"),
        ("dev", "table", "db.marts.orders__dev"),
        ("dev", "catalog", "db__dev.marts.orders"),
        ("dev", None, "db.marts.orders"),
    ],
)
def test_a_view_is_named_as_in_its_environment(
    environment: str, suffix: str | None, expected: str
) -> None:
    """Promise: the table on an asset's page can be pasted into a query."""
    assert view_in(environment, suffix, "db", "marts", "orders") == expected
    assert view_in("dev", "schema", "", "MARTS", "ORDERS") == "MARTS__DEV.ORDERS"


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("marts.part_sale", "marts.part_sales"),
        ("mart.part_sales", "marts.part_sales"),
        ("part_sale", "part_sales"),
        ("marts.customer_value", None),
        ("staging.things", None),
    ],
)
def test_a_name_is_near_another_by_more_than_its_schema(name: str, meant: str | None) -> None:
    """Promise: nobody is asked whether they meant a name that only begins as theirs does.

    Bug: for a deleted `marts.customer_value`, the message asked whether `marts.part_sales` was meant.
    """
    assert nearest(name, ["marts.part_sales", "part_sales", "staging.parts"]) == meant
