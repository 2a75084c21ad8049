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


def test_the_statements_for_postgres_are_those_that_servers_have_taken() -> None:
    """Promise: versions of the integration that work side by side, as in a rolling update, take the same locks."""
    locks = _locks("postgres")
    mine = (
        " FROM pg_locks AS locks JOIN pg_stat_activity AS activity USING (pid)"
        " WHERE locks.locktype = 'advisory' AND locks.granted AND locks.objsubid = 1"
        " AND locks.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        " AND locks.classid = 1595284625 AND locks.objid = 1233661454 AND locks.pid"
    )
    assert [
        locks.take("scope", "ada", is_shared=False),
        locks.take("scope", "ada", is_shared=True),
        locks.give_back("scope", "ada", is_shared=False),
        locks.give_back("scope", "ada", is_shared=True),
        locks.is_held("scope"),
        locks.holder("scope", "ada"),
    ] == [
        "SELECT pg_try_advisory_lock(6851695293420285454)",
        "SELECT pg_try_advisory_lock_shared(6851695293420285454)",
        "SELECT pg_advisory_unlock(6851695293420285454)",
        "SELECT pg_advisory_unlock_shared(6851695293420285454)",
        f"SELECT count(*){mine} = pg_backend_pid()",
        "SELECT CASE WHEN activity.application_name = 'ada' THEN 'ada' ELSE"
        f" activity.application_name END{mine} <> pg_backend_pid() LIMIT 1",
    ]


@pytest.mark.parametrize("is_shared", [True, False])
def test_the_statements_for_sql_server_are_those_that_servers_have_taken(is_shared: bool) -> None:
    """Promise: who shares a lock takes no second one; each is of the session, and waits for nobody."""
    locks = _locks("tsql")
    name = "'sqlmesh_dagster_5f161c9149882e0e10124bc5dd5c11f0fbe8ec452edd52bcec76b01e9252cb33'"
    own = "'sqlmesh_dagster_c44ba3e6cef8bdb631f60d01dca52f209be111562c12f6121758b1cadb20a5ba'"
    mode = "Shared" if is_shared else "Exclusive"
    take = (
        "SET NOCOUNT ON; DECLARE @taken INT, @own INT; EXEC @taken = sp_getapplock @Resource ="
        f" {name}, @LockMode = '{mode}', @LockOwner = 'Session', @LockTimeout = 0;"
    )
    give = "SET NOCOUNT ON; DECLARE @given INT, @own INT;"
    if not is_shared:
        take += (
            f" IF @taken >= 0 EXEC @own = sp_getapplock @Resource = {own}, @LockMode = 'Exclusive',"
            " @LockOwner = 'Session', @LockTimeout = 0;"
        )
        give += f" EXEC @own = sp_releaseapplock @Resource = {own}, @LockOwner = 'Session';"
    give += f" EXEC @given = sp_releaseapplock @Resource = {name}, @LockOwner = 'Session';"
    assert [
        locks.take("scope", "ada", is_shared=is_shared),
        locks.give_back("scope", "ada", is_shared=is_shared),
        locks.is_held("scope"),
        locks.holder("scope", "ada"),
    ] == [
        f"{take} SELECT CASE WHEN @taken >= 0 THEN 1 ELSE 0 END",
        f"{give} SELECT CASE WHEN @given >= 0 THEN 1 ELSE 0 END",
        f"SELECT CASE APPLOCK_MODE('public', {name}, 'Session') WHEN 'NoLock' THEN 0 ELSE 1 END",
        f"SELECT CASE APPLOCK_TEST('public', {own}, 'Exclusive', 'Session')"
        " WHEN 0 THEN 'ada' ELSE '' END",
    ]


def test_the_statements_for_mysql_are_those_that_servers_have_taken() -> None:
    """Promise: somebody else is named by user and host."""
    locks = _locks("mysql")
    name = "'sqlmesh_dagster_5f161c9149882e0e10124bc5dd5c11f0fbe8ec45'"
    own, hara = (
        "'sqlmesh_dagster_c44ba3e6cef8bdb631f60d01dca52f209be11156'",
        "'sqlmesh_dagster_80bd87acd4a2be842ae6f44e7fd7b30a52fea878'",
    )
    assert [
        locks.take("scope", "ada", is_shared=False),
        locks.give_back("scope", "ada", is_shared=False),
        locks.is_held("scope"),
        locks.holder("scope", "O'Hara"),
    ] == [
        f"SELECT IF(GET_LOCK({name}, 0) = 1, IF(GET_LOCK({own}, 0) = 1, 1, 1), 0)",
        f"SELECT IF(RELEASE_LOCK({own}) = 1, RELEASE_LOCK({name}), RELEASE_LOCK({name}))",
        f"SELECT IS_USED_LOCK({name}) = CONNECTION_ID()",
        f"SELECT IF(IS_USED_LOCK({name}) = IS_USED_LOCK({hara}), 'O''Hara',"
        " (SELECT CONCAT('a connection of ', user, '@', host) FROM information_schema.processlist"
        f" WHERE id = IS_USED_LOCK({name})))",
    ]


def test_a_holder_of_many_bytes_is_cut_between_letters() -> None:
    """Promise: Postgres keeps 63 bytes of a name, and takes no half letter."""
    name, *others = _locks("postgres").begin("é" * 40)
    assert name == f"SELECT set_config('application_name', '{'é' * 31}', false)"
    asked = _locks("postgres").holder("scope", "é" * 40)
    assert f"application_name = '{'é' * 31}' THEN '{'é' * 40}'" in asked
    assert others == [
        "SELECT count(set_config(name, '0', false)) FROM pg_settings WHERE name = 'idle_session_timeout'",
        "SELECT count(set_config(name, value, false)) FROM pg_settings JOIN (VALUES"
        " ('tcp_keepalives_idle', '20'), ('tcp_keepalives_interval', '5'), ('tcp_keepalives_count', '4'),"
        " ('tcp_user_timeout', '40000')) AS wanted (name, value) USING (name) WHERE version() ~ 'linux'",
    ]
