"""Which values of a config are secrets, and which are not: pure."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from sqlmesh_dagster.guard.secret_values import (
    secrets_of_config,
    secrets_of_pgpass,
    secrets_of_python,
    secrets_of_variables,
    secrets_of_yaml,
)

_VARIABLES: Mapping[str, str | None] = {"PG_PASSWORD": "from-the-environment", "EMPTY": None}


@pytest.mark.parametrize(
    ("key", "value", "found"),
    [
        ("connection", {"type": "postgres", "password": "s1"}, ["s1"]),
        ("connection", {"type": "postgres", "pasword": "s1"}, ["s1"]),  # a slip is no known key
        ("connection", {"host": "db", "passsword_": "s1", "unheard_of": "s2"}, ["s1", "s2"]),
        ("state_connection", {"unheard_of": ["s1", b"s2"]}, ["s1", "s2"]),
        ("secrets", {"s3": {"type": "s3", "unheard_of": "s1", "region": "eu"}}, ["s1"]),
        ("variables", {"unheard_of": "open", "api_key": "s1"}, ["s1"]),
        ("gateway", {"connection": {"catalogs": {"HOST": "db"}, "Unheard": "s1"}}, ["s1"]),
        ("connection", {"catalogs": {"w": "a/b.duckdb", "tokens": "t.duckdb"}}, []),
        (
            "connection",
            {"catalogs": {"w": {"path": "host=h password=s1", "unheard_of": "s2"}}},
            ["s1", "s2"],
        ),
        ("connection", "s0", []),
        ("x", {"tokens": {"s1"}}, ["s1"]),
        ("x", {"token": b"\xffs1"}, ["�s1"]),
        ("x", {"password": 5, "token": None}, []),
    ],
)
def test_of_a_config(key: str, value: object, found: list[str]) -> None:
    """Promise: what has a secret's name; in a connection, whatever is not known to be open."""
    assert set(secrets_of_config(key, value)) == set(found)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("password: s1", ["s1"]),
        ("password: s1 # of the database", ["s1", "s1 # of the database"]),
        ("password: 's1 # is part of it'", ["s1 # is part of it"]),
        ('password: "s1"', ["s1"]),
        ("host: db", []),
        ("unheard_of: open", []),
        ("connection:\n  unheard_of: s1\n  host: db", ["s1"]),
        ("connection:\n  host: db\nunheard_of: open", []),
        ("connection:\n  user: ada\n  options:\n    x: s1\nother:\n  x: open", ["s1"]),
        ("connection: {type: postgres, unheard_of: s1, host: db}", ["s1"]),
        ("connection: {a: s1}", ["s1"]),
        ("connection: {token: \"{{ env_var('PG_PASSWORD') }}\"}", ["from-the-environment"]),
        ("password: \"{{ env_var('PG_PASSWORD') }}\"", ["from-the-environment"]),
        ("password: {{ env_var('PG_PASSWORD') }}", ["from-the-environment"]),
        ("password: {{ env_var('EMPTY') }}", []),
        ("password: \"{{ env_var('EMPTY', 's1') }}\"", ["s1"]),
        ('token: \'{{ env_var("PG_PASSWORD", "s1") }}\'', ["from-the-environment", "s1"]),
        ("shop:\n  outputs:\n    dev:\n      pass: s1\n      user: ada", ["s1"]),  # dbt's
        ("private_key: |\n  line one\n  line two\nhost: db", ["line one", "line two"]),
        ("private_key: >-\n  line one", ["line one"]),
        ("private_key: |-\n  line one", ["line one"]),
        ("private_key: >\n  line one", ["line one"]),
        ("tokens:\n  - s1\n  - s2\nhost:\n  - db", ["s1", "s2"]),
        ("a line\npassword: s1", ["s1"]),
        ("password:\nhost: db", []),
        ("connection:\n  catalogs:\n    w: a/b.duckdb\n    tokens: t.duckdb\n  x: s1", ["s1"]),
        ("connection:\n  catalogs: {w: a/b.duckdb}\n  x: s1", ["s1"]),
    ],
)
def test_of_a_yaml_config_that_may_be_broken(text: str, found: list[str]) -> None:
    """Promise: line by line, with what is above; an open value is not masked."""
    assert set(secrets_of_yaml(text, _VARIABLES)) == set(found)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("PostgresConnectionConfig(password='s1', host='db')", ["s1"]),
        ("config.PostgresConnectionConfig(unheard_of='s1')", ["s1"]),
        ("PostgresConnectionConfig(**more)", []),
        ("Other(unheard_of='open', token='s1')", ["s1"]),
        ("a.b(unheard_of='open')", []),
        ("calls[0](unheard_of='open')", []),
        ("x = {'api_key': 's1', 'host': 'db', **more}", ["s1"]),
        ("x = {name: 'open', 'a': 'open'}", []),
        ("PASSWORD = 's1'\nHOST = 'db'", ["s1"]),
        ("PASSWORD: str = 's1'\nHOST: str = 'db'", ["s1"]),
        ("PASSWORD: str", []),
        ("a.password, b = 's1', 's2'", []),
        ("password = os.environ['PG_PASSWORD']", ["from-the-environment"]),
        ("password = 's1' +", ["s1"]),
        ("host = 'db' +", []),
    ],
)
def test_of_a_python_config_that_may_be_broken(text: str, found: list[str]) -> None:
    """Promise: arguments, keys and variables by their names; a connection's by what is not known."""
    assert set(secrets_of_python(text, _VARIABLES)) == set(found)


@pytest.mark.parametrize(
    ("name", "is_secret"),
    [
        ("PG_PASSWORD", True),
        ("PWD", False),
        ("POSTGRES_PWD", True),
        ("SQLMESH__GATEWAYS__PG__CONNECTION__HOST", False),
        ("SQLMESH__GATEWAYS__PG__CONNECTION__UNHEARD_OF", True),
        ("SQLMESH__GATEWAYS__PG__CONNECTION__PASSWORD", True),
        ("PARTITION_KEY", False),
        ("PRIVATE_KEY_PATH", False),
        ("SLACK_WEBHOOK_URL", True),
    ],
)
def test_of_variables(name: str, is_secret: bool) -> None:
    """Promise: by the last part of SQLMesh's own variables."""
    assert list(secrets_of_variables({name: "value"})) == (["value"] if is_secret else [])
    assert list(secrets_of_variables({name: ""})) == []


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("db:5432:wh:ada:s1", ["s1"]),
        ("*:*:*:*:s1", ["s1"]),
        ("db:5432:w\\:h:ada:s\\:1:2\\\\", ["s:1:2\\"]),
        ("# db:5432:wh:ada:s1", []),
        ("db:5432:wh:ada", []),
        ("", []),
    ],
)
def test_of_postgres_password_file(line: str, found: list[str]) -> None:
    """Promise: as libpq reads it, where a backslash is before a colon that is part of a value."""
    assert list(secrets_of_pgpass(f"x:1:a:b:s0\n{line}\n", {})) == ["s0", *found]
