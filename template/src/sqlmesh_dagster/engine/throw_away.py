"""A project's connections, replaced by DuckDB files in a folder that is thrown away: for tests.

Names of gateways and catalogs stay, and so do those of models and assets; SQLMesh writes their SQL in
DuckDB's dialect.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sqlmesh import Config

from sqlmesh_dagster.errors import InvalidSettingError
from sqlmesh_dagster.guard.throw_away import throw_away_folder
from sqlmesh_dagster.upstream.internals import (
    CatalogSupport,
    ConnectionConfig,
    DuckDBAttachOptions,
    DuckDBConnectionConfig,
    DuckDBEngineAdapter,
    GatewayConfig,
)
from sqlmesh_dagster.upstream.sqlmesh import duckdb_files, has_catalogs, on_new_context

_MEMORY = ":memory:"
_KEPT = ("extensions", "connector_config", "secrets", "filesystems")
"""What a DuckDB connection needs to read what it reads elsewhere."""


def redirect_contexts() -> None:
    """From now on each SQLMesh context of this process works on throw-away files, while there is a folder for them."""
    on_new_context(redirected)


def redirected(configs: Mapping[Path, Config]) -> Mapping[Path, Config]:
    """What `throw_away_config` makes of the configs of a context, while there is a folder for it."""
    folder = throw_away_folder()
    if folder is None:
        return configs
    return {path: throw_away_config(config, folder) for path, config in configs.items()}


def throw_away_config(config: Config, folder: Path) -> Config:
    """A copy of a config whose gateways all work on DuckDB files in `folder`, state included.

    A DuckDB file in the temporary folder that the folder is in is left as it is: it is a test's own.

    Raises:
        InvalidSettingError: A gateway cannot be redirected.
    """
    gateways = config.gateways
    if not isinstance(gateways, dict):
        gateways = {"": gateways}
    return config.model_copy(
        update={
            "gateways": {
                name: _gateway(name, gateway, config, folder) for name, gateway in gateways.items()
            },
            "default_test_connection_": _own(config.default_test_connection_, folder),
        }
    )


def _gateway(name: str, gateway: GatewayConfig, config: Config, folder: Path) -> GatewayConfig:
    connection = gateway.connection or config.default_connection
    if connection is None:  # SQLMesh says it better
        return gateway
    try:
        replaced = throw_away_connection(connection, folder)
    except Exception as error:
        raise InvalidSettingError(
            f"Gateway `{name}` cannot be replaced by a DuckDB file that is thrown away, so that this"
            f" test would write into the real warehouse. It was stopped before that. {error}"
        ) from error
    return gateway.model_copy(
        update={
            "connection": replaced,
            # without one, the state is in the database of the data
            "state_connection": _own(gateway.state_connection, folder),
            "test_connection": _own(gateway.test_connection, folder),
            "scheduler": None,
        }
    )


def throw_away_connection(connection: ConnectionConfig, folder: Path) -> ConnectionConfig:
    """The DuckDB connection with the catalogs of another one."""
    if _own(connection, folder) is not None:
        return connection
    folder.mkdir(parents=True, exist_ok=True)
    kept: dict[str, Any] = {}
    if isinstance(connection, DuckDBConnectionConfig):
        kept = {name: getattr(connection, name) for name in _KEPT}
    kind = DuckDBConnectionConfig if has_catalogs(connection) else _WithoutCatalogs
    return kind(catalogs=_files(connection, folder), **kept)


def _files(connection: ConnectionConfig, folder: Path) -> dict[str, str | DuckDBAttachOptions]:
    """A file for each catalog of a connection; all gateways that have the catalog share it."""
    attached = getattr(connection, "catalogs", None)
    if not isinstance(attached, dict) or not attached:
        attached = {connection.get_catalog() or "warehouse": None}
    return {
        str(name): _MEMORY if path == _MEMORY else str(folder / f"{_file_name(str(name))}.duckdb")
        for name, path in attached.items()
    }


def _own(connection: ConnectionConfig | None, folder: Path) -> ConnectionConfig | None:
    """The connection if all that it opens is a test's own, or is in memory."""
    if not isinstance(connection, DuckDBConnectionConfig):
        return None
    databases = [connection.database, *(connection.catalogs or {}).values()]
    opened = [database for database in databases if database and database != _MEMORY]
    files = duckdb_files(connection)
    is_own = len(files) == len(opened) and all(_is_own(file, folder) for file in files)
    return connection if is_own else None


def _is_own(file: Path, folder: Path) -> bool:
    return file.resolve().is_relative_to(folder.parents[1].resolve())


def _file_name(catalog: str) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in catalog)


class _WithoutCatalogsAdapter(DuckDBEngineAdapter):
    """DuckDB as an engine whose names have no catalog, such as MySQL's."""

    @property
    def catalog_support(self) -> CatalogSupport:
        return CatalogSupport.UNSUPPORTED


class _WithoutCatalogs(DuckDBConnectionConfig):
    @property
    def _engine_adapter(self) -> type[_WithoutCatalogsAdapter]:
        return _WithoutCatalogsAdapter
