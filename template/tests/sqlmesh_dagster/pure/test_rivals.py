"""What two processes have built at once is read from SQLMesh's record: what counts, and what is said."""

from __future__ import annotations

import pytest

from sqlmesh_dagster.facts.rivals import Entry, Rebuilt, built_twice, by_name, warning_about
from tests.sqlmesh_dagster.pure.zones import time_zone

_DAY = 86_400_000
_TABLE = ("demo.daily", "1", False)


def _built(first: int, last: int, at: int, **more: bool) -> Entry:
    return Entry(_TABLE, first * _DAY, last * _DAY, at, **more)


def _removed(first: int, last: int, at: int) -> Entry:
    return _built(first, last, at, is_removed=True)


@pytest.mark.parametrize(
    ("entries", "days"),
    [
        pytest.param([_built(0, 1, 1), _built(1, 2, 2)], None, id="one day after the other"),
        pytest.param([_built(0, 1, 1), _built(0, 1, 2)], (0, 1), id="a day twice"),
        pytest.param([_built(0, 1, 2), _built(0, 1, 2)], (0, 1), id="in one millisecond"),
        pytest.param([_built(0, 3, 1), _built(1, 2, 2)], (1, 2), id="a part of what was done"),
        pytest.param([_built(0, 3, 1), _built(1, 4, 2)], None, id="days that are looked back at"),
        pytest.param(
            [_built(0, 1, 1), _removed(0, 1, 2), _built(0, 1, 3)], None, id="a restatement"
        ),
        pytest.param(
            [_built(0, 1, 1), _built(0, 1, 2), _removed(0, 1, 3), _built(0, 1, 4)],
            None,
            id="twice, and then built again",
        ),
        pytest.param(
            [_built(0, 2, 1, is_summary=True), _built(1, 2, 2)], (1, 2), id="after a summary"
        ),
        pytest.param([_built(0, 2, 1), _built(0, 2, 2, is_summary=True)], None, id="its summary"),
    ],
)
def test_what_was_done_and_is_recorded_again_was_built_twice(
    entries: list[Entry], days: tuple[int, int] | None
) -> None:
    """In whichever order the database gives the entries."""
    expected = {"demo.daily": (days[0] * _DAY, days[1] * _DAY)} if days else {}
    assert built_twice(entries) == built_twice(reversed(entries)) == expected


def test_tables_of_other_versions_and_of_development_are_others() -> None:
    """The same days of each are no rival's."""
    tables = [("demo.daily", version, is_dev) for version in "12" for is_dev in (True, False)]
    assert built_twice([Entry(table, 0, _DAY, at) for at, table in enumerate(tables)]) == {}


def test_the_message_names_models_days_and_what_helps() -> None:
    """What replaces its rows is built again; what only appends is looked through."""
    said = warning_about(
        [Rebuilt("demo.kept", (0, _DAY), False), Rebuilt("demo.daily", (0, 3 * _DAY), True)]
    )
    assert said == (
        "Two processes have built the same days of these models at the same time, so that rows may be"
        " there twice: `demo.daily` (1970-01-01 to 1970-01-03), `demo.kept` (1970-01-01)."
        " `poe rebuild demo.daily` replaces them. Look through the rows of `demo.kept`: building again"
        " would not replace them. The `sqlmesh` command takes no lock of Dagster's runs: build with"
        " `poe run`, or while none is in progress."
    )


@pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati", "America/Adak"])
def test_days_are_those_of_utc_wherever_it_runs(monkeypatch: pytest.MonkeyPatch, zone: str) -> None:
    """As SQLMesh counts them."""
    with time_zone(monkeypatch, zone):
        said = warning_about([Rebuilt(name, (0, _DAY), True) for name in ("b", "a")])
        assert "`a` (1970-01-01), `b` (1970-01-01)." in said and "`poe rebuild a b`" in said


def test_days_beside_a_removed_one_stay_done() -> None:
    """A span ends before the next begins."""
    twice = [_built(0, 1, 1), _built(1, 2, 2), _removed(0, 1, 3), _built(1, 2, 4), _built(0, 1, 5)]
    assert built_twice(twice) == {"demo.daily": (_DAY, 2 * _DAY)}
    after = [_built(1, 2, 1), _removed(0, 1, 2), _removed(2, 3, 3), _built(1, 2, 4)]
    assert built_twice(after) == {"demo.daily": (_DAY, 2 * _DAY)}


def test_spans_of_one_model_are_told_as_one() -> None:
    """From the first day that is there twice to the last."""
    twice = [_built(0, 9, 1), _built(5, 6, 2), _built(2, 3, 3), _built(3, 4, 4)]
    assert built_twice(twice) == {"demo.daily": (2 * _DAY, 6 * _DAY)}


def test_only_models_whose_rows_can_be_doubled_are_told() -> None:
    """A view, and what is replaced as a whole, holds each row once."""
    spans = {"a": (0, _DAY), "view": (0, _DAY)}
    assert by_name(spans, {"a": ("s.a", True)}) == [Rebuilt("s.a", (0, _DAY), True)]
