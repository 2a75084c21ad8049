"""Which variables of a config change no model, told from its text."""

from __future__ import annotations

from pathlib import Path

import pytest

from sqlmesh_dagster.manifest.credentials import connection_variables, is_connection_override

PYTHON = """
import os
from os import environ, getenv
from pathlib import Path

PASSWORD = os.environ["PASSWORD"]
HOST: str = os.getenv("HOST", "localhost")
TARGET = os.environ.get("TARGET", "dev")
SHARED = os.environ["SHARED"]
BOTH = environ["BOTH"]


def place() -> Path:
    return Path(__file__).parent / (os.environ.get("PLACE") or "warehouse.duckdb")


def schema():
    return os.environ["SCHEMA"]


config = Config(
    gateways={
        "pg": GatewayConfig(
            connection=PostgresConnectionConfig(
                host=HOST,
                port=int(getenv("PORT", "5432")),
                user=f"{os.environ['NAME']}@{HOST}",
                password=PASSWORD or "",
                database=os.environ["DATABASE"],
                sslmode="require" if TARGET == "prod" else "disable",
                role=SHARED,
            ),
            state_schema=schema(),
        ),
        "lake": GatewayConfig(
            connection=DuckDBConnectionConfig(
                catalogs={"warehouse": str(place()), os.environ["CATALOG"]: "x.db"},
                secrets=[{"type": "s3", "key_id": environ["KEY"], "secret": environ["SECRET"]}],
            ),
        ),
        "raw": {"connection": {"type": os.environ["TYPE"], "password": os.environ["RAW_PASSWORD"]}},
    },
    variables={"shared": SHARED},
    model_defaults=ModelDefaultsConfig(start="2025-01-01" if BOTH else "2024-01-01"),
)
if os.environ.get("DEBUG"):
    print(os.environ["PRINTED"])
"""
YAML = """
gateways:
  pg:
    connection:
      type: "{{ env_var('TYPE') }}"
      host: {{ env_var('HOST') }}
      password: "{{ env_var('PASSWORD', 'none') }}"
      database: "{{ env_var('DATABASE') }}"
    state_connection:
      type: duckdb
      catalogs:
        state: "{{ env_var('PLACE') }}"
    state_schema: "{{ env_var('SCHEMA') }}"
    variables:
      password: "{{ env_var('VARIABLE') }}"
model_defaults:
  start: {{ env_var('START') }}
"""


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        (
            "config.py",
            PYTHON,
            {"PASSWORD", "HOST", "PORT", "NAME", "PLACE", "KEY", "SECRET", "RAW_PASSWORD"},
        ),
        ("config.yaml", YAML, {"HOST", "PASSWORD", "PLACE"}),
        ("config.py", "this is (no Python", set()),
    ],
)
def test_what_only_connects_changes_no_model(
    name: str, text: str, expected: set[str], tmp_path: Path
) -> None:
    """Promise: names, and whatever is compared or used elsewhere, count; a password, a host or a path doesn't."""
    (tmp_path / name).write_text(text)
    assert connection_variables(tmp_path / name) == expected


def test_a_config_that_is_not_there_has_none(tmp_path: Path) -> None:
    """A project has one of several files."""
    assert connection_variables(tmp_path / "config.py") == frozenset()


@pytest.mark.parametrize(
    ("variable", "is_detail"),
    [
        ("SQLMESH__GATEWAYS__PG__CONNECTION__PASSWORD", True),
        ("sqlmesh__gateways__pg__state_connection__host", True),
        ("SQLMESH__DEFAULT_CONNECTION__USER", True),
        ("SQLMESH__GATEWAYS__PG__CONNECTION__DATABASE", False),
        ("SQLMESH__GATEWAYS__PG__CONNECTION__TYPE", False),
        ("SQLMESH__DEFAULT_GATEWAY", False),
        ("SQLMESH__MODEL_DEFAULTS__START", False),
    ],
)
def test_overrides_of_connections_are_told_by_name(variable: str, is_detail: bool) -> None:
    """Promise: SQLMesh's own variables are treated as its config."""
    assert is_connection_override(variable) is is_detail
