"""What two processes have built at once is read from SQLMesh's record: what counts, and what is said."""

from __future__ import annotations

import pytest

from sqlmesh_dagster.facts.rivals import Entry, Rebuilt, built_twice, told

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
    said = told(
        [Rebuilt("demo.kept", (0, _DAY), False), Rebuilt("demo.daily", (0, 3 * _DAY), True)]
    )
    assert "`demo.daily` (1970-01-01 to 1970-01-03), `demo.kept` (1970-01-01)." in said
    assert "`poe rebuild demo.daily` replaces" in said and "rows of `demo.kept`" in said
