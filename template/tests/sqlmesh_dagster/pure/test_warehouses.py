"""Which warehouse the environment says, for each that there is."""

from __future__ import annotations

import pytest

from sqlmesh_dagster.warehouses import (
    STATE,
    WAREHOUSES,
    Connections,
    UnsetVariablesError,
    Warehouse,
    blamed,
    connecting_variables,
    connections,
    half_set,
    variables_of,
)

_STATE = {
    "STATE_HOST": "state.example.com",
    "STATE_USER": "sqlmesh",
    "STATE_PASSWORD": "hunter22",
    "STATE_DATABASE": "state",
}


def least(warehouse: Warehouse) -> dict[str, str]:
    """The fewest variables that suffice, the state's apart."""
    names = [v.name for v in warehouse.variables if v.is_required]
    names += warehouse.logins[0] if warehouse.logins else ()
    return {f"WAREHOUSE_{name}": f"a {name.lower()}" for name in names}


def said(name: str, environ: dict[str, str], *, reads_credentials: bool = True) -> Connections:
    """What the environment says of the warehouse."""
    return connections(name, ["duckdb"], environ, reads_credentials=reads_credentials)


@pytest.mark.parametrize("name", WAREHOUSES)
def test_the_least_variables_suffice(name: str) -> None:
    """Promise: each option of SQLMesh gets its variable; the state is apart where the engine is no place for it."""
    warehouse = WAREHOUSES[name]
    needs = {} if warehouse.keeps_state else _STATE
    found = said(name, {**least(warehouse), **needs})
    given = {f"WAREHOUSE_{v.name}": v.option for v in warehouse.variables}
    for variable, value in least(warehouse).items():
        assert found.options[given[variable]] == value
    if warehouse.keeps_state:
        assert found.state is None
    else:
        assert found.state == {
            "host": "state.example.com",
            "port": "5432",
            "user": "sqlmesh",
            "password": "hunter22",
            "database": "state",
        }


@pytest.mark.parametrize("name", WAREHOUSES)
def test_all_that_is_not_set_is_named_at_once(name: str) -> None:
    """Promise: nobody starts a program five times to learn five names; an empty value is none."""
    warehouse = WAREHOUSES[name]
    with pytest.raises(UnsetVariablesError) as error:
        said(name, dict.fromkeys(variables_of(warehouse), " "))
    text = str(error.value)
    assert text.startswith(
        f"`SQLMESH_GATEWAY` is `{name}`, and these environment variables are not"
    )
    assert all(f"`{variable}`" in text for variable in least(warehouse))
    for variable in _STATE:
        assert (f"`{variable}`" in text) is not warehouse.keeps_state
    assert "`.env`" in text


def test_either_way_to_log_in_is_named_and_suffices() -> None:
    """Promise: of Snowflake's ways, and Databricks', one suffices, whole."""
    names = {f"WAREHOUSE_{n}": "x" for n in ("HOST", "HTTP_PATH", "CATALOG")}
    half = {**names, **_STATE, "WAREHOUSE_CLIENT_ID": "x"}
    with pytest.raises(UnsetVariablesError) as error:
        said("databricks", half)
    assert (
        "not set: one of `WAREHOUSE_TOKEN` or `WAREHOUSE_CLIENT_ID` and `WAREHOUSE_CLIENT_SECRET`."
        in str(error.value)
    )
    assert said("databricks", {**half, "WAREHOUSE_CLIENT_SECRET": "x"}).options
    assert said("databricks", {**names, **_STATE, "WAREHOUSE_TOKEN": "x"}).options


def test_postgres_keeps_the_state_unless_a_variable_says_otherwise() -> None:
    """Promise: state apart is asked for by any variable of it, and then whole."""
    warehouse = least(WAREHOUSES["postgres"])
    with pytest.raises(
        UnsetVariablesError, match="`STATE_USER`, `STATE_PASSWORD`, `STATE_DATABASE`"
    ):
        said("postgres", {**warehouse, "STATE_HOST": "elsewhere"})
    found = said("postgres", {**warehouse, **_STATE})
    assert found.state is not None and found.state["host"] == "state.example.com"


@pytest.mark.parametrize("name", WAREHOUSES)
def test_definitions_need_no_variable_at_all(name: str) -> None:
    """Promise: an image is built, and a page is looked at, without any credentials."""
    found = said(name, {}, reads_credentials=False)
    assert found.gateway == name
    assert found.catalog and not found.options and found.state is None
    variable = WAREHOUSES[name].catalog
    if variable is not None:
        named = {f"WAREHOUSE_{variable.name}": "analytics"}
        assert said(name, named, reads_credentials=False).catalog == "analytics"


def test_only_the_catalog_changes_models() -> None:
    """Promise: a manifest that was made in an image's build serves whatever the credentials are."""
    every = {name for warehouse in WAREHOUSES.values() for name in variables_of(warehouse)}
    every |= set(variables_of(STATE, state=True))
    assert every - connecting_variables() == {
        "WAREHOUSE_CATALOG",
        "WAREHOUSE_DATABASE",
        "WAREHOUSE_PROJECT",
    }


def test_a_gateway_that_there_is_not_is_named_with_those_that_there_are() -> None:
    """Promise: a typo gives the list; a warehouse that is half set is not taken for the DuckDB file."""
    with pytest.raises(UnsetVariablesError, match=r"is `postgre`, which is no gateway\. There are"):
        said("postgre", {})
    with pytest.raises(UnsetVariablesError) as error:
        said("", {"WAREHOUSE_HOST": "db.example.com", "WAREHOUSE_PATH": "warehouse.duckdb"})
    assert str(error.value).startswith("WAREHOUSE_HOST is set, and `SQLMESH_GATEWAY` is not")
    assert "`duckdb`, `postgres`, `ducklake`" in str(error.value)
    with pytest.raises(UnsetVariablesError, match=r"^WAREHOUSE_HOST, WAREHOUSE_USER is set"):
        said("", {"WAREHOUSE_USER": "x", "WAREHOUSE_HOST": "x"})


def test_secrets_are_not_shown() -> None:
    """Promise: what is logged of it by mistake holds no value."""
    assert "hunter22" not in repr(said("postgres", {**least(WAREHOUSES["postgres"]), **_STATE}))


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("WAREHOUSE_PORT", "abc", "`WAREHOUSE_PORT` is `abc`. Set it to a whole number"),
        ("WAREHOUSE_PORT", "-1", "`WAREHOUSE_PORT` is `-1`"),
        ("WAREHOUSE_PORT", "0", "`WAREHOUSE_PORT` is `0`"),
        ("WAREHOUSE_PORT", "99999", "from 1 to 65535"),
        ("WAREHOUSE_PORT", "65536", "from 1 to 65535"),
        ("WAREHOUSE_CONCURRENT_TASKS", "1001", "`1001`. Set it to a whole number from 1 to 1000."),
        ("WAREHOUSE_PORT", "\u0661\u0662", "from 1 to 65535"),
        ("WAREHOUSE_PORT", "sesame", "`WAREHOUSE_PORT` is no number. Set it to a whole number"),
        ("WAREHOUSE_CONCURRENT_TASKS", "many", "`WAREHOUSE_CONCURRENT_TASKS` is `many`"),
        ("WAREHOUSE_HOST", "http://db.example/x", "a host alone, such as `db.example`"),
        ("WAREHOUSE_HOST", "postgres://me:cnry@db.example", "a host alone, such as `db.example`"),
    ],
)
def test_a_value_that_no_connection_takes_names_its_variable(
    name: str, value: str, said: str
) -> None:
    """Promise: before a driver says something else of it; a password within an address is not shown."""
    given = {f"WAREHOUSE_{n}": "x" for n in ("HOST", "USER", "PASSWORD", "DATABASE")}
    with pytest.raises(UnsetVariablesError) as raised:
        connections("postgres", (), {**given, name: value}, reads_credentials=True)
    assert said in str(raised.value) and "cnry" not in str(raised.value)
    most = {**given, "WAREHOUSE_PORT": "65535", "WAREHOUSE_CONCURRENT_TASKS": "1000"}
    assert connections("postgres", (), most, reads_credentials=True).options["port"] == "65535"
    socket = {**given, "WAREHOUSE_HOST": "/var/run/postgresql"}  # a folder of sockets
    assert connections("postgres", (), socket, reads_credentials=True).gateway == "postgres"


def test_a_key_of_several_lines_may_stand_in_one() -> None:
    """An env file, a Secret made of one, and Compose take no line breaks; keys have some."""
    key = "-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----"
    given = {**least(WAREHOUSES["snowflake"]), **_STATE}
    for written in (key, key.replace("\n", r"\n")):
        assert said("snowflake", {**given, "WAREHOUSE_PRIVATE_KEY": written}).options[
            "private_key"
        ] == (key)
    tabs = {**given, "WAREHOUSE_PASSWORD": r"C:\new"}  # what has no lines stays as it is
    assert said("snowflake", tabs).options["password"] == r"C:\new"


def test_a_login_that_needs_a_package_of_its_own_names_it() -> None:
    """Bug: without `databricks-sdk`, a client's secret ended a load in SQLMesh's own words, at a file of the project."""
    databricks = WAREHOUSES["databricks"]
    assert list(databricks.needed({"access_token"})) == [databricks.driver]
    needed = list(databricks.needed({"oauth_client_id", "oauth_client_secret"}))
    assert needed == [databricks.driver, ("databricks.sdk", "databricks-sdk")]


@pytest.mark.parametrize(
    ("name", "options", "message", "variables"),
    [
        ("trino", {"http_scheme": "ftp"}, "Invalid field 'http_scheme'", "`WAREHOUSE_HTTP_SCHEME`"),
        (
            "snowflake",
            {"user": "u", "private_key": "k", "role": "r"},
            "Invalid 'snowflake' connection config: Could not deserialize key data.",
            "`WAREHOUSE_PRIVATE_KEY`",
        ),
        ("bigquery", {"project": "p", "keyfile_json": "{"}, "bad", "`WAREHOUSE_KEYFILE_JSON`"),
        ("bigquery", {"project": "p", "keyfile": "f"}, "bad", "`WAREHOUSE_KEYFILE`"),
        ("snowflake", {"role": "r", "token": "t"}, "Invalid field 'role'", "`WAREHOUSE_ROLE`"),
        (
            "databricks",
            {"oauth_client_id": "i", "oauth_client_secret": "s"},
            "bad",
            "`WAREHOUSE_CLIENT_ID` or `WAREHOUSE_CLIENT_SECRET`",
        ),
    ],
)
def test_what_sqlmesh_refuses_of_a_connection_is_told_by_its_variables(
    name: str, options: dict[str, str], message: str, variables: str
) -> None:
    """Promise: that of the option which it names; else those of the login, which it checks most."""
    assert blamed(Connections(name, "c", options), message) == variables


def test_what_kubernetes_sets_for_services_of_these_names_is_not_meant() -> None:
    """Bug: with a Service `state`, SQLMesh's state was asked for; with one `warehouse`, its port was no number."""
    links = {
        f"{name}_{rest}": value
        for name in ("STATE", "WAREHOUSE")
        for rest, value in {
            "PORT": "tcp://10.96.0.7:5432",
            "PORT_5432_TCP_ADDR": "10.96.0.7",
            "SERVICE_HOST": "10.96.0.7",
            "SERVICE_PORT": "5432",
        }.items()
    }
    given = {f"WAREHOUSE_{n}": "x" for n in ("HOST", "USER", "PASSWORD", "DATABASE")}
    assert said("postgres", {**links, **given}) == said("postgres", given)
    assert half_set(links) == []
    with pytest.raises(UnsetVariablesError, match="`WAREHOUSE_PORT` is no number"):
        said("postgres", {**given, "WAREHOUSE_PORT": "tcp://10.96.0.7:5432"})  # a person's


def test_each_value_that_no_connection_takes_is_named_in_one_message() -> None:
    """Promise: the warehouse's and the state's; a host that cannot be read gets an example."""
    given = {f"WAREHOUSE_{n}": "x" for n in ("USER", "PASSWORD", "DATABASE")}
    given |= {**_STATE, "WAREHOUSE_HOST": "https://", "STATE_PORT": "x1"}
    with pytest.raises(UnsetVariablesError) as raised:
        said("postgres", given)
    assert str(raised.value) == (
        "`WAREHOUSE_HOST` must be the name of a host alone, such as `db.example`."
        " `STATE_PORT` is `x1`. Set it to a whole number from 1 to 65535."
    )
    twice = {**given, "STATE_PORT": "1", "WAREHOUSE_HOST": "tcp://a@b:c@db.example/d://e"}
    with pytest.raises(UnsetVariablesError, match=r"such as `db\.example`"):
        said("postgres", twice)


def test_a_value_of_state_does_not_matter_where_the_state_is_in_the_warehouse() -> None:
    """Promise: a variable that Kubernetes sets for a Service named `state` refuses no run; nor is a text like it lost."""
    given = {f"WAREHOUSE_{n}": "x" for n in ("HOST", "USER", "PASSWORD", "DATABASE")}
    links = {"STATE_PORT": "udp://10.96.0.7:53", "STATE_SERVICE_HOST": "10.96.0.7"}
    assert said("postgres", {**given, **links}) == said("postgres", given)
    odd = {**given, "WAREHOUSE_PASSWORD": "tcp://x", "WAREHOUSE_PASS_SERVICE_HOST": "10.96.0.7"}
    assert said("postgres", odd).options["password"] == "tcp://x"
