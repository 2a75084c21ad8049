"""SQLMesh configuration: one DuckDB file for data and state, or what `SQLMESH_GATEWAY` names."""

import os
from collections.abc import Iterator
from pathlib import Path

from sqlmesh.core.config import (
    Config,
    DuckDBConnectionConfig,
    GatewayConfig,
    LinterConfig,
    ModelDefaultsConfig,
    PlanConfig,
    RunConfig,
)
from sqlmesh.core.config.format import FormatConfig
from sqlmesh.utils import yaml

from sqlmesh_dagster.gateways import with_warehouse

SQLMESH_PROJECT = Path(__file__).resolve().parent
PROJECT = SQLMESH_PROJECT.parent


def locate_warehouse() -> Path:
    """A relative `WAREHOUSE_PATH` starts at the project's root, not at the working directory."""
    return PROJECT / (os.environ.get("WAREHOUSE_PATH") or "warehouse.duckdb")


def create_missing_raw_tables() -> Iterator[str]:
    """Yield statements that let a plan build the staging views before the first load.

    A table that was loaded is left alone. An empty one cannot pass unseen: each staging model has
    a blocking `number_of_rows` audit.
    """
    yield "CREATE SCHEMA IF NOT EXISTS raw"
    for path in sorted((SQLMESH_PROJECT / "external_models").glob("*.yaml")):
        for table in yaml.load(path):
            if table["name"].startswith("raw."):
                columns = ", ".join(f"{name} {type_}" for name, type_ in table["columns"].items())
                yield f"CREATE TABLE IF NOT EXISTS {table['name']} ({columns})"


config = Config(
    default_gateway="duckdb",
    gateways={
        "duckdb": GatewayConfig(
            # The name of the catalog stays the same whatever the file is called.
            connection=DuckDBConnectionConfig(catalogs={"warehouse": str(locate_warehouse())}),
        ),
    },
    model_defaults=ModelDefaultsConfig(dialect="duckdb", start="2025-01-01", cron="@daily"),
    before_all=list(create_missing_raw_tables()),
    linter=LinterConfig(
        enabled=True,
        rules={
            "ambiguousorinvalidcolumn",
            "invalidselectstarexpansion",
            "noambiguousprojections",
            "nomissingexternalmodels",
        },
        # House rules: a model that breaks one is deployed all the same. Move one up to make it strict.
        warn_rules={"nomissingaudits", "noselectstar", "nomissingowner", "nomissingdescription"},
    ),
    format=FormatConfig(append_newline=True),
    # With previews, one forward-only model (a slowly changing dimension) makes the first
    # `sqlmesh plan dev` build yesterday instead of all days since `start`.
    plan=PlanConfig(enable_preview=False),
    # A plan that died leaves its environment unfinished; the default is to wait six hours for it.
    run=RunConfig(environment_check_max_wait=60),
    disable_anonymized_analytics=True,
)
# Production's warehouse, and its state, from environment variables: see `.env.example`.
config = with_warehouse(config)
