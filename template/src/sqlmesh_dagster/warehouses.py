"""The warehouses that production can be on, and what the environment says of each: pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

GATEWAY = "SQLMESH_GATEWAY"
"""The variable that chooses; `sqlmesh` itself reads it, too."""
_WAREHOUSE = "WAREHOUSE_"
_STATE = "STATE_"
_NOWHERE = "warehouse"
"""The catalog of definitions where no variable names one."""


@dataclass(frozen=True)
class Variable:
    """An environment variable of a connection.

    Attributes:
        name: Without the prefix `WAREHOUSE_` or `STATE_`.
        option: Of SQLMesh's connection.
        names_models: Whether its value is part of the names of models.
        has_lines: Whether its value has line breaks, which an env file cannot have: there they are `\\n`.
    """

    name: str
    option: str
    is_required: bool = False
    default: str = ""
    names_models: bool = False
    has_lines: bool = False


@dataclass(frozen=True)
class Warehouse:
    """An engine that production can be on.

    Attributes:
        title: What people call it.
        type: Of SQLMesh's connection.
        logins: Ways to log in, each a group of names of which all must be set; one of them suffices.
        driver: Module that must be there, and the package that brings it.
        drivers: The same of what a variable needs, by its name.
        keeps_state: Whether SQLMesh's state may be in the warehouse itself.
    """

    title: str
    type: str
    dialect: str
    variables: tuple[Variable, ...]
    driver: tuple[str, str]
    drivers: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    logins: tuple[tuple[str, ...], ...] = ()
    keeps_state: bool = False

    def needed(self, options: Collection[str]) -> Iterator[tuple[str, str]]:
        """The modules, each with its package, that a connection with these options imports."""
        yield self.driver
        given = {variable.name for variable in self.variables if variable.option in options}
        yield from (driver for name, driver in self.drivers.items() if name in given)

    @property
    def catalog(self) -> Variable | None:
        """The variable that is part of the names of models."""
        return next((v for v in self.variables if v.names_models), None)


def _required(name: str, option: str | None = None, *, names_models: bool = False) -> Variable:
    return Variable(name, option or name.lower(), is_required=True, names_models=names_models)


def _optional(name: str, option: str | None = None, default: str = "") -> Variable:
    return Variable(name, option or name.lower(), default=default)


_SHARED = (_optional("CONCURRENT_TASKS"), _optional("OPTIONS"))
"""Of every warehouse; the second is JSON with further options of SQLMesh's connection."""
_POSTGRES = (
    _required("HOST"),
    _optional("PORT", default="5432"),
    _required("USER"),
    _required("PASSWORD"),
)
_SSL = _optional("SSLMODE")
STATE = Warehouse(
    title="SQLMesh's state on Postgres",
    type="postgres",
    dialect="postgres",
    variables=(*_POSTGRES, _required("DATABASE"), _SSL, _optional("ROLE"), _optional("SCHEMA")),
    driver=("psycopg2", "psycopg2-binary"),
)
WAREHOUSES: Mapping[str, Warehouse] = {
    "postgres": Warehouse(
        title="Postgres",
        type="postgres",
        dialect="postgres",
        variables=(
            *_POSTGRES,
            _required("DATABASE", names_models=True),
            _SSL,
            _optional("ROLE"),
            *_SHARED,
        ),
        driver=("psycopg2", "psycopg2-binary"),
        keeps_state=True,
    ),
    "ducklake": Warehouse(
        title="DuckLake",
        type="duckdb",
        dialect="duckdb",
        variables=(
            *_POSTGRES,
            _required("DATABASE"),
            _SSL,
            _required("DATA_PATH"),
            _optional("EXTENSION_DIRECTORY"),
            *_SHARED,
        ),
        driver=("duckdb", "duckdb"),
    ),
    "motherduck": Warehouse(
        title="MotherDuck",
        type="motherduck",
        dialect="duckdb",
        variables=(_required("DATABASE", names_models=True), _required("TOKEN"), *_SHARED),
        driver=("duckdb", "duckdb"),
    ),
    "snowflake": Warehouse(
        title="Snowflake",
        type="snowflake",
        dialect="snowflake",
        variables=(
            _required("ACCOUNT"),
            _required("USER"),
            _required("DATABASE", names_models=True),
            _optional("COMPUTE", "warehouse"),
            _optional("ROLE"),
            _optional("PASSWORD"),
            Variable("PRIVATE_KEY", "private_key", has_lines=True),
            _optional("PRIVATE_KEY_PATH"),
            _optional("PRIVATE_KEY_PASSPHRASE"),
            _optional("TOKEN"),
            _optional("AUTHENTICATOR"),
            *_SHARED,
        ),
        driver=("snowflake.connector", "snowflake-connector-python"),
        logins=(
            ("PRIVATE_KEY",),
            ("PRIVATE_KEY_PATH",),
            ("PASSWORD",),
            ("AUTHENTICATOR",),
        ),
    ),
    "bigquery": Warehouse(
        title="BigQuery",
        type="bigquery",
        dialect="bigquery",
        variables=(
            _required("PROJECT", names_models=True),
            _optional("LOCATION"),
            _optional("KEYFILE"),
            _optional("KEYFILE_JSON"),
            _optional("EXECUTION_PROJECT"),
            _optional("IMPERSONATED_SERVICE_ACCOUNT"),
            *_SHARED,
        ),
        driver=("google.cloud.bigquery", "google-cloud-bigquery"),
    ),
    "databricks": Warehouse(
        title="Databricks",
        type="databricks",
        dialect="databricks",
        variables=(
            _required("HOST", "server_hostname"),
            _required("HTTP_PATH"),
            _required("CATALOG", names_models=True),
            _optional("TOKEN", "access_token"),
            _optional("CLIENT_ID", "oauth_client_id"),
            _optional("CLIENT_SECRET", "oauth_client_secret"),
            *_SHARED,
        ),
        driver=("databricks.sql", "databricks-sql-connector"),
        drivers={"CLIENT_SECRET": ("databricks.sdk", "databricks-sdk")},
        logins=(("TOKEN",), ("CLIENT_ID", "CLIENT_SECRET")),
    ),
    "spark": Warehouse(
        title="Spark",
        type="spark",
        dialect="spark",
        variables=(
            Variable("CATALOG", "catalog", default="spark_catalog", names_models=True),
            _optional("MASTER"),
            _optional("CONFIG_DIR"),
            *_SHARED,
        ),
        driver=("pyspark", "pyspark"),
        logins=(("MASTER",), ("CONFIG_DIR",)),
    ),
    "trino": Warehouse(
        title="Trino",
        type="trino",
        dialect="trino",
        variables=(
            _required("HOST"),
            _optional("PORT"),
            _required("USER"),
            _required("CATALOG", names_models=True),
            _optional("PASSWORD"),
            _optional("TOKEN", "jwt_token"),
            _optional("HTTP_SCHEME"),
            *_SHARED,
        ),
        driver=("trino", "trino"),
    ),
}
"""By the answer to `warehouse`, which is also the name of the gateway; `duckdb` is the project's own."""


class UnsetVariablesError(Exception):
    """The environment says too little, or two things at once, of the warehouse."""


@dataclass(frozen=True)
class Connections:
    """What the environment says of a warehouse, as texts; secrets stay out of its `repr`.

    Attributes:
        catalog: The first part of the names of models.
        options: Of SQLMesh's connection, by their names there.
        state: The same of the state; None where it is in the warehouse.
    """

    gateway: str
    catalog: str
    options: Mapping[str, str] = field(default_factory=dict, repr=False)
    state: Mapping[str, str] | None = field(default=None, repr=False)


def connections(
    name: str, own: Collection[str], environ: Mapping[str, str], *, reads_credentials: bool
) -> Connections:
    """What the environment says of the warehouse `name`.

    Args:
        own: Gateways that the config has itself.
        reads_credentials: Whether all must be set that a connection needs; else only names count.

    Raises:
        UnsetVariablesError: With what is not set, and the next step.
    """
    warehouse = WAREHOUSES.get(name)
    if warehouse is None:
        raise UnsetVariablesError(_unknown(name, own, environ))
    given = environ if reads_credentials else {}
    catalog = _NOWHERE
    if warehouse.catalog is not None:
        named = value_of(f"{_WAREHOUSE}{warehouse.catalog.name}", environ)
        catalog = named or warehouse.catalog.default or _NOWHERE
    if not reads_credentials:
        return Connections(name, catalog)
    has_state = not warehouse.keeps_state or any(
        value_of(f"{_STATE}{variable.name}", given) for variable in STATE.variables
    )
    unset = list(_unset(warehouse, _WAREHOUSE, given))
    unset += _unset(STATE, _STATE, given) if has_state else ()
    if unset:
        raise UnsetVariablesError(
            f"`{GATEWAY}` is `{name}`, and these environment variables are not set:"
            f" {', '.join(unset)}. Set them where this is started, or in the project's `.env`; without"
            f" `{GATEWAY}`, SQLMesh works on the DuckDB file."
        )
    wrong = [*_wrong(warehouse, _WAREHOUSE, given)]
    wrong += _wrong(STATE, _STATE, given) if has_state else ()
    if wrong:
        raise UnsetVariablesError(" ".join(wrong))
    state = _options(STATE, _STATE, given) if has_state else None
    return Connections(name, catalog, _options(warehouse, _WAREHOUSE, given), state)


def value_of(name: str, environ: Mapping[str, str]) -> str:
    """What a variable says, or nothing: also where Kubernetes has set it.

    It sets variables for each Service of a namespace: one named `state` makes `STATE_PORT=tcp://10.0.0.1:5432`
    and `STATE_SERVICE_HOST`. https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
    """
    value = environ.get(name, "").strip()
    is_link = name.endswith("_PORT") and value.startswith(("tcp://", "udp://"))
    is_link = is_link and f"{name.removesuffix('_PORT')}_SERVICE_HOST" in environ
    return "" if is_link else value


def variables_of(warehouse: Warehouse, *, state: bool = False) -> Iterator[str]:
    """The full names of a warehouse's variables, or of the state's."""
    prefix = _STATE if state else _WAREHOUSE
    yield from (f"{prefix}{variable.name}" for variable in warehouse.variables)


def connecting_variables() -> frozenset[str]:
    """Names of all variables that say only how to connect: they change no model."""
    naming = {f"{_WAREHOUSE}{w.catalog.name}" for w in WAREHOUSES.values() if w.catalog}
    every = {name for warehouse in WAREHOUSES.values() for name in variables_of(warehouse)}
    return frozenset(every - naming) | frozenset(variables_of(STATE, state=True))


def blamed(found: Connections, message: str) -> str:
    """The variables that a message of SQLMesh's is about: whose option it names, else those of the login."""
    warehouse = WAREHOUSES[found.gateway]
    given = [v for v in warehouse.variables if v.option in found.options]
    named = [v for v in given if f"'{v.option}'" in message]
    login = {name for way in warehouse.logins for name in way} | {"KEYFILE", "KEYFILE_JSON"}
    most_likely = named or [v for v in given if v.name in login] or given
    return " or ".join(f"`{_WAREHOUSE}{v.name}`" for v in most_likely)


def half_set(environ: Mapping[str, str]) -> list[str]:
    """What is set of a warehouse that nothing names."""
    names = {name for warehouse in WAREHOUSES.values() for name in variables_of(warehouse)}
    return sorted(name for name in names if value_of(name, environ))


def _unknown(name: str, own: Collection[str], environ: Mapping[str, str]) -> str:
    choices = ", ".join(f"`{choice}`" for choice in dict.fromkeys([*own, *WAREHOUSES]))
    if name:
        return f"`{GATEWAY}` is `{name}`, which is no gateway. There are {choices}."
    return (
        f"{', '.join(half_set(environ))} is set, and `{GATEWAY}` is not, so that SQLMesh would work on"
        f" the DuckDB file of this machine. Set `{GATEWAY}` to the warehouse that is meant: {choices}."
    )


def _unset(warehouse: Warehouse, prefix: str, environ: Mapping[str, str]) -> Iterator[str]:
    def is_set(name: str) -> bool:
        return bool(value_of(f"{prefix}{name}", environ))

    yield from (
        f"`{prefix}{variable.name}`"
        for variable in warehouse.variables
        if variable.is_required and not is_set(variable.name)
    )
    if warehouse.logins and not any(all(map(is_set, login)) for login in warehouse.logins):
        ways = (" and ".join(f"`{prefix}{name}`" for name in login) for login in warehouse.logins)
        yield f"one of {' or '.join(ways)}"


def _wrong(warehouse: Warehouse, prefix: str, environ: Mapping[str, str]) -> Iterator[str]:
    """Values that no connection takes; drivers say something else of them, such as that a host is not known."""
    for variable in warehouse.variables:
        name = f"{prefix}{variable.name}"
        value = value_of(name, environ)
        most = {"PORT": 65535, "CONCURRENT_TASKS": 1000}.get(variable.name)
        if value and most and not (value.isascii() and value.isdigit() and 0 < int(value) <= most):
            shown = f"`{value}`" if len(value) <= len(str(most)) else "no number"  # a password?
            yield f"`{name}` is {shown}. Set it to a whole number from 1 to {most}."
        if variable.name == "HOST" and "://" in value:
            host = value.partition("://")[2].split("/")[0].rpartition("@")[2].strip()
            yield f"`{name}` must be the name of a host alone, such as `{host or 'db.example'}`."


def _options(warehouse: Warehouse, prefix: str, environ: Mapping[str, str]) -> dict[str, str]:
    """What is set, and defaults; an empty value is none, as Compose sets one for what is missing."""
    found: dict[str, str] = {}
    for variable in warehouse.variables:
        value = value_of(f"{prefix}{variable.name}", environ) or variable.default
        if value:
            found[variable.option] = value.replace("\\n", "\n") if variable.has_lines else value
    return found
