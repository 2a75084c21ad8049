"""Gateways of SQLMesh, made of what the environment says of a warehouse.

Importing this module imports SQLMesh.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field
from sqlglot import exp, parse
from sqlglot.errors import SqlglotError
from sqlglot.optimizer.normalize_identifiers import normalize_identifiers
from sqlmesh import Config

from sqlmesh_dagster.guard.packages import installation, is_named, missing
from sqlmesh_dagster.upstream.internals import (
    ConfigError,
    ConnectionConfig,
    DuckDBConnectionConfig,
    GatewayConfig,
)
from sqlmesh_dagster.warehouses import (
    GATEWAY,
    STATE,
    WAREHOUSES,
    Connections,
    UnsetVariablesError,
    Warehouse,
    blamed,
    connections,
)

_DUCKLAKE_CATALOG = "warehouse"
_MISSING = re.compile(r"Missing gateway with name '(\w+)'")
_FILES = ("KEYFILE", "PRIVATE_KEY_PATH")
"""Variables that name a file."""
_DEFAULT = "sqlmesh__default_gateway"
"""The variable, in either case, by which SQLMesh's config is overridden; it makes no gateway."""


class UnusableGatewayError(ConfigError):
    """The environment, and not the project, says something that makes no gateway; or a package is missing."""


class StandInConnection(DuckDBConnectionConfig):
    """A DuckDB in memory with the catalog of a warehouse, which definitions are read by.

    Attributes:
        stands_for: The engine of the warehouse.
    """

    stands_for: str = Field(default="", exclude=True)  # what is dumped counts as secret


def stands_for(connection: ConnectionConfig) -> str | None:
    """The engine that a connection stands for, if it does."""
    return connection.stands_for if isinstance(connection, StandInConnection) else None


def chosen(config: Config, name: str, own: Collection[str], *, reads_credentials: bool) -> Config:
    """The config with the gateway `name` as its default: its own, or the warehouse of that name.

    The warehouse takes the place of the gateway that was the default, and statements are translated
    from its dialect.

    Raises:
        UnusableGatewayError: The environment says too little, or a package is missing.
    """
    if name in own:
        return config.model_copy(update={"default_gateway": name})
    try:
        found = connections(name, own, os.environ, reads_credentials=reads_credentials)
    except UnsetVariablesError as error:
        raise UnusableGatewayError(str(error)) from None
    if reads_credentials:
        _refuse_other_case(found, _models_dialect(config))
    gateway = _gateway(found) if reads_credentials else _stand_in(found)
    default = config.default_gateway_name
    gateways = config.gateways if isinstance(config.gateways, dict) else {}
    others = {key: value for key, value in gateways.items() if key != default}
    read = _dialect(config)
    write = WAREHOUSES[name].dialect if reads_credentials else read  # the stand-in's own
    return config.model_copy(
        update={
            "gateways": {name: gateway, **others},
            "default_gateway": name,
            "before_all": [translated(each, read, write) for each in config.before_all or ()],
            "after_all": [translated(each, read, write) for each in config.after_all or ()],
        }
    )


def with_line(message: str) -> str:
    """What SQLMesh says of a gateway that is missing, with the line that makes it, or the variable that names it."""
    found = _MISSING.search(message)
    if found is None or found[1].lower() not in WAREHOUSES:
        return message
    variable = next((name for name in os.environ if name.lower() == _DEFAULT), None)
    if variable is not None:
        return (
            f"{message} The variable `{variable}` names it. Unset `{variable}`, and choose the warehouse by"
            f" `{GATEWAY}={found[1]}`; tests work on the gateway of `config.py`."
        )
    return (
        f"{message} Put at the end of `config.py`: `from sqlmesh_dagster.gateways import with_warehouse;"
        " config = with_warehouse(config)`"
    )


def translated(statement: str, read: str, write: str) -> str:
    """A statement in another dialect, every name as SQLMesh writes those of models: quoted, and in DuckDB's lower case.

    SQLMesh sends statements as they are written; what calls a macro, or is no SQL, stays so.
    """
    if "@" in statement or "{{" in statement or "{%" in statement:
        return statement
    try:
        expressions = [each for each in parse(statement, dialect=read) if each is not None]
    except SqlglotError:
        return statement
    named = (
        each if isinstance(each, exp.Grant) else normalize_identifiers(each, dialect=read)
        for each in expressions
    )
    return ";\n".join(each.sql(dialect=write, identify=True) for each in named)


def _dialect(config: Config) -> str:
    """In which the statements are written: that of the engine which they were sent to."""
    gateway = config.get_gateway(None)
    connection = gateway.connection or config.default_connection
    return connection.DIALECT if connection is not None else "duckdb"


def _models_dialect(config: Config) -> str:
    return config.model_defaults.dialect or ""


def _refuse_other_case(found: Connections, dialect: str) -> None:
    """SQLMesh writes the catalog in its names as the models' dialect does, and Postgres has one of another case."""
    name = found.catalog
    written = normalize_identifiers(exp.to_identifier(name), dialect=dialect).this
    if found.gateway != "postgres" or written == name:
        return
    raise UnusableGatewayError(
        f"`WAREHOUSE_DATABASE` is `{name}`, which SQLMesh writes as `{written}`, so that Postgres would refuse"
        f' every plan. Rename the database: ALTER DATABASE "{name}" RENAME TO "{written}"; or take another.'
    )


def _stand_in(found: Connections) -> GatewayConfig:
    connection = StandInConnection(catalogs={found.catalog: ":memory:"}, stands_for=found.gateway)
    return GatewayConfig().model_copy(update={"connection": connection})


def _gateway(found: Connections) -> GatewayConfig:
    warehouse = WAREHOUSES[found.gateway]
    parts: dict[str, Any] = {"connection": _typed(warehouse, found.gateway, _arguments(found))}
    if found.state is not None:
        state = dict(found.state)
        schema = state.pop("schema", None)
        parts["state_connection"] = _typed(STATE, found.gateway, state)
        parts |= {"state_schema": schema} if schema else {}
    try:
        gateway = GatewayConfig(**parts)
    except ConfigError as error:
        further = _further(found.options.get("options", "{}"))
        names = ", ".join(f"`{name}`" for name in further if f"'{name}" in str(error))
        where = f"{names} in `WAREHOUSE_OPTIONS`" if names else blamed(found, str(error))
        raise UnusableGatewayError(f"Correct {where}. {error}") from error
    if found.gateway == "spark":
        from sqlmesh_dagster.upstream.spark import SparkConnection  # imports pandas

        connection = SparkConnection(**parts["connection"])
        return gateway.model_copy(update={"connection": connection})
    return gateway


def _typed(warehouse: Warehouse, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    for module, package in warehouse.needed(arguments):
        wrong = missing(module)
        if wrong is None:
            continue
        way = f"`{installation()}`; an image is built again."
        answer = f"`poe update --data warehouse={name}`, which writes it into `pyproject.toml`. Then install"
        step = "Install" if is_named(package) else f"Take it by {answer}"
        raise UnusableGatewayError(
            f"{warehouse.title} needs the package `{package}`, which {wrong}. {step} the project again: {way}"
        )
    return {"type": warehouse.type, **arguments}


def _arguments(found: Connections) -> dict[str, Any]:
    """The options of SQLMesh's connection; some follow from which variables are set."""
    given: dict[str, Any] = dict(found.options)
    _refuse_absent_files(found)
    more = _further(given.pop("options", "{}"))
    _refuse_other_names(found.gateway, more)
    concurrent = given.pop("concurrent_tasks", None)
    special = _SPECIAL.get(found.gateway)
    made = special(given) if special else given
    tasks = {"concurrent_tasks": concurrent} if concurrent else {}
    return _merged({**made, **tasks}, more)


def _refuse_absent_files(found: Connections) -> None:
    """Drivers open these when they connect, which may be in the middle of a load, and name no variable."""
    for variable in WAREHOUSES[found.gateway].variables:
        path = found.options.get(variable.option)
        if variable.name in _FILES and path and not Path(path).is_file():
            raise UnusableGatewayError(
                f"`WAREHOUSE_{variable.name}` is `{path}`, and there is no such file here. Correct it, or bring the"
                " file to where this runs."
            )


def _refuse_other_names(name: str, more: Collection[str]) -> None:
    """Definitions are made without the options: one of these would have runs work on models of other names."""
    catalog = WAREHOUSES[name].catalog
    if "type" in more:
        raise UnusableGatewayError(f"Take `type` out of `WAREHOUSE_OPTIONS`: `{GATEWAY}` says it.")
    if catalog is not None and catalog.option in more:
        raise UnusableGatewayError(
            f"Take `{catalog.option}` out of `WAREHOUSE_OPTIONS`, and set `WAREHOUSE_{catalog.name}`: the names"
            " of models begin with it."
        )


def _merged(made: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """The options, those of a person last; a group of them, as Spark's `config` is, keeps what he leaves out."""
    return {
        **made,
        **{
            name: {**made[name], **value}
            if isinstance(value, dict) and isinstance(made.get(name), dict)
            else value
            for name, value in more.items()
        },
    }


def _further(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except json.JSONDecodeError:
        found = None
    if not isinstance(found, dict):
        raise UnusableGatewayError(
            "`WAREHOUSE_OPTIONS` must be a JSON object with options of SQLMesh's connection, such as"
            ' `{"pre_ping": true}`.'
        )
    return found


def _ducklake(given: dict[str, Any]) -> dict[str, Any]:
    names = {"host": "host", "port": "port", "user": "user", "password": "password"}
    names |= {"database": "dbname", "sslmode": "sslmode"}
    place = " ".join(
        f"{key}={_quoted(given[name])}" for name, key in names.items() if name in given
    )
    lake = {
        "type": "ducklake",
        "path": f"ducklake:postgres:{place}".replace("'", "''"),
        "data_path": given["data_path"].replace("'", "''"),
    }
    folder = given.get("extension_directory")
    settings = {"connector_config": {"extension_directory": folder}} if folder else {}
    return {"catalogs": {_DUCKLAKE_CATALOG: lake}, **settings}


def _quoted(value: str) -> str:
    """A value in a connection string of Postgres."""
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'" if not value.replace(".", "").replace("-", "").isalnum() else value


def _bigquery(given: dict[str, Any]) -> dict[str, Any]:
    if "keyfile_json" in given:
        return {**given, "method": "service-account-json"}
    return {**given, "method": "service-account"} if "keyfile" in given else given


def _databricks(given: dict[str, Any]) -> dict[str, Any]:
    login = {} if "access_token" in given else {"auth_type": "databricks-oauth"}
    # SQL alone; a Spark session of this machine is another engine
    return {**given, **login, "disable_spark_session": True, "disable_databricks_connect": True}


def _spark(given: dict[str, Any]) -> dict[str, Any]:
    master = given.pop("master", None)
    return {**given, "config": {"spark.master": master}} if master else given


def _trino(given: dict[str, Any]) -> dict[str, Any]:
    if "jwt_token" in given:
        return {**given, "method": "jwt"}
    if "password" in given:
        return {**given, "method": "basic"}
    return {"http_scheme": "http", **given}


_SPECIAL = {
    "ducklake": _ducklake,
    "bigquery": _bigquery,
    "databricks": _databricks,
    "spark": _spark,
    "trino": _trino,
}
