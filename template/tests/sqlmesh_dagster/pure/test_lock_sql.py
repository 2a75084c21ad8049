"""The SQL of locks, without a server: names, lengths, and who is recognised."""

from __future__ import annotations

import re

import pytest

from sqlmesh_dagster.engine.lock_sql import LockSQL, lock_sql

ENGINES = ("postgres", "mysql", "tsql")
HOLDER = "Dagster run 0f6d3c1e-0b0c-4f3a-9d54-0f0a2b6f0c11 of O'Hara"


def _locks(dialect: str) -> LockSQL:
    found = lock_sql(dialect)
    assert found is not None
    return found


@pytest.mark.parametrize("dialect", ["duckdb", "bigquery", "snowflake", "redshift", "risingwave"])
def test_an_engine_without_locks_has_none(dialect: str) -> None:
    """Redshift and RisingWave speak Postgres, and have no advisory locks."""
    assert lock_sql(dialect) is None


@pytest.mark.parametrize("dialect", ENGINES)
def test_what_is_taken_is_what_is_given_back_and_asked_for(dialect: str) -> None:
    """Promise: one name gives one lock, and another name another one."""
    locks = _locks(dialect)
    names = []
    for name in ("scope", "scope\0model"):
        texts = [
            locks.take(name, HOLDER, is_shared=False),
            locks.give_back(name, HOLDER, is_shared=False),
        ]
        if dialect == "postgres":
            keys = [re.findall(r"-?\d{6,}", text) for text in texts]
        else:
            keys = [re.findall(r"'(sqlmesh_dagster_\w+)'", text) for text in texts]
        assert keys[0] and set(keys[0]) == set(keys[1])
        names.append(keys[0])
        if dialect != "postgres":
            assert keys[0][0] in locks.is_held(name)
    assert not set(names[0]) & set(names[1])


def test_names_fit_what_mysql_allows() -> None:
    """64 characters, or MySQL refuses the lock."""
    taken = _locks("mysql").take("a" * 500, HOLDER, is_shared=False)
    assert all(len(name) <= 64 for name in re.findall(r"'(\w+)'", taken))


@pytest.mark.parametrize("dialect", ENGINES)
def test_a_name_with_a_quote_does_not_end_the_text(dialect: str) -> None:
    """The holder is part of the SQL."""
    locks = _locks(dialect)
    for text in (locks.holder("scope", HOLDER), *locks.begin(HOLDER)):
        assert "O''Hara" in text or "O'Hara" not in text
        assert text.count("'") % 2 == 0
