"""The generated project on each warehouse: definitions without network and credentials, and its gateway."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
from sqlmesh import Context
from sqlmesh.utils.errors import ConfigError

from sqlmesh_dagster import ProjectLoadError, SQLMeshResource
from sqlmesh_dagster.definition.records import Manifest
from sqlmesh_dagster.engine.connections import translated
from sqlmesh_dagster.guard.secrets import mask
from sqlmesh_dagster.manifest.loading import project_manifest
from sqlmesh_dagster.warehouses import GATEWAY, STATE, WAREHOUSES, variables_of
from tests.conftest import Render

_EVERY = {name for warehouse in WAREHOUSES.values() for name in variables_of(warehouse)}
_EVERY |= set(variables_of(STATE, state=True))
_SECRET = "correct-horse-battery"
_POSTGRES = {
    GATEWAY: "postgres",
    "WAREHOUSE_HOST": "db.example.invalid",
    "WAREHOUSE_USER": "sqlmesh",
    "WAREHOUSE_PASSWORD": _SECRET,
    "WAREHOUSE_DATABASE": "analytics",
}


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of this machine, and no network."""

    def refused(*_: object) -> None:
        raise AssertionError("a definition asks the network")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    for name in (GATEWAY, *_EVERY):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def project(render: Render, tmp_path: Path) -> Path:
    """The minimal sample."""
    root = tmp_path / "project"
    shutil.copytree(render(sample="minimal", warehouse="postgres"), root)
    return root / "sqlmesh_project"


def manifest(project: Path) -> Manifest:
    """What definitions are made of."""
    return project_manifest(SQLMeshResource(project_dir=str(project), environment="prod"))


def written(project: Path) -> int:
    """When the stored manifest was made."""
    (file,) = (project / ".cache" / "dagster").glob("manifest*")
    return file.stat().st_mtime_ns


def set_all(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    """Sets environment variables."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_definitions_of_each_warehouse_load_without_network_and_credentials(
    project: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Promise: what an image's build and a page need is the name of the gateway, and no package of it."""
    names: dict[str, set[str]] = {}
    for name in ("duckdb", *WAREHOUSES):
        monkeypatch.setenv(GATEWAY, name)
        found = manifest(project)
        assert {model.engine for model in found.models} == {name}
        assert found.gateway == name
        names[name] = {model.fqn for model in found.models}
        assert (
            mask(f"Warehouse `{name}`") == f"Warehouse `{name}`"
        )  # no secret, though in a connection
    assert not [r for r in caplog.records if "could not be semantically understood" in r.message]
    assert names["snowflake"] == names["duckdb"]
    assert names["spark"] == {fqn.replace("warehouse", "spark_catalog") for fqn in names["duckdb"]}


def test_a_stored_manifest_serves_whatever_the_credentials_are(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise: made in an image's build, it is used in each pod; what names models makes it anew."""
    monkeypatch.setenv(GATEWAY, "postgres")
    monkeypatch.setenv("WAREHOUSE_DATABASE", "analytics")
    baked = manifest(project)
    made = written(project)
    set_all(monkeypatch, {**_POSTGRES, "STATE_HOST": "elsewhere", "STATE_PASSWORD": _SECRET})
    assert manifest(project) == baked and written(project) == made
    monkeypatch.setenv("WAREHOUSE_DATABASE", "staging")
    anew = manifest(project)
    assert {model.catalog for model in anew.models} == {"staging"} and written(project) != made
    monkeypatch.setenv(GATEWAY, "duckdb")
    assert {model.catalog for model in manifest(project).models} == {"warehouse"}


def test_the_gateway_is_the_only_one_and_has_the_variables(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise: SQLMesh's own context works where the environment says, with statements in its dialect."""
    more = {"WAREHOUSE_CONCURRENT_TASKS": "7", "WAREHOUSE_OPTIONS": '{"connect_timeout": 3}'}
    set_all(monkeypatch, {**_POSTGRES, **more})
    config = _opened(project).config
    connection: Any = config.get_connection()
    assert isinstance(config.gateways, dict) and list(config.gateways) == ["postgres"]
    assert (connection.host, connection.port, connection.password) == (
        "db.example.invalid",
        5432,
        _SECRET,
    )
    assert (connection.concurrent_tasks, connection.connect_timeout) == (7, 3)
    assert config.get_state_connection() is None
    assert '"amount" DOUBLE PRECISION' in "".join(config.before_all or ())


@pytest.mark.parametrize(
    ("written", "there"),
    [
        (
            'CREATE TABLE raw.People (ID INT, "Two Words" TEXT)',
            '"raw"."people" ("id" INT, "two words"',
        ),
        ("INSERT INTO raw.T SELECT 'Ab' AS X", """ "raw"."t" SELECT 'Ab' AS "x" """),
        ('GRANT SELECT ON raw.t TO "Readers"', 'TO "Readers"'),
        ("CREATE TABLE raw.@name (ID INT)", "CREATE TABLE raw.@name (ID INT)"),
    ],
)
def test_statements_name_what_models_read(written: str, there: str) -> None:
    """Promise: a table that `before_all` makes is the one that models ask for, on each engine; roles stay."""
    assert there.strip() in translated(written, "duckdb", "postgres")


def test_the_state_is_apart_where_its_variables_are_set(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise: in its own database and schema."""
    state = {f"STATE_{n}": n.lower() for n in ("HOST", "USER", "PASSWORD", "DATABASE", "SCHEMA")}
    set_all(monkeypatch, {**_POSTGRES, **state})
    config = _opened(project).config
    found: Any = config.get_state_connection()
    assert (found.host, found.database, config.get_state_schema()) == ("host", "database", "schema")


def test_a_lake_has_its_catalogue_on_postgres(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise: a value with a space or a quote stays one value."""
    state = {f"STATE_{n}": n.lower() for n in ("HOST", "USER", "PASSWORD", "DATABASE")}
    lake = {"WAREHOUSE_DATA_PATH": "s3://lake/it's", "WAREHOUSE_PASSWORD": "it's mine"}
    lake |= {"WAREHOUSE_EXTENSION_DIRECTORY": "/extensions"}
    lake |= {"WAREHOUSE_OPTIONS": '{"connector_config": {"memory_limit": "1GB"}}'}
    set_all(monkeypatch, {**_POSTGRES, **state, **lake, GATEWAY: "ducklake"})
    connection: Any = _opened(project).config.get_connection()
    statement = connection.catalogs["warehouse"].to_sql("warehouse")
    assert connection.connector_config == {
        "extension_directory": "/extensions",
        "memory_limit": "1GB",
    }
    assert "password=''it\\''s mine''" in statement and "DATA_PATH 's3://lake/it''s'" in statement


def test_a_key_that_is_not_there_names_its_variable(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise: before a driver asks for the file in the middle of a load, and before it has to be there."""
    state = {f"STATE_{n}": n.lower() for n in ("HOST", "USER", "PASSWORD", "DATABASE")}
    key = {"WAREHOUSE_PROJECT": "p", "WAREHOUSE_KEYFILE": "/no/key.json"}
    set_all(monkeypatch, {GATEWAY: "bigquery", **state, **key})
    with pytest.raises(
        ConfigError, match=r"`WAREHOUSE_KEYFILE` is `/no/key.json`, and there is no"
    ):
        _opened(project)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"WAREHOUSE_USER": "", "WAREHOUSE_HOST": ""}, "`WAREHOUSE_HOST`, `WAREHOUSE_USER`. Set"),
        ({"WAREHOUSE_PORT": _SECRET}, "`WAREHOUSE_PORT` is no number. Set it to"),
        ({"WAREHOUSE_OPTIONS": "pre_ping"}, "`WAREHOUSE_OPTIONS` must be a JSON object"),
        ({"WAREHOUSE_OPTIONS": '{"pre_pin": true}'}, "Correct `pre_pin` in `WAREHOUSE_OPTIONS`. "),
        ({"WAREHOUSE_OPTIONS": '{"type": "mysql"}'}, "Take `type` out of `WAREHOUSE_OPTIONS`"),
        ({"WAREHOUSE_OPTIONS": '{"database": "b"}'}, "and set `WAREHOUSE_DATABASE`: the names of"),
        ({"WAREHOUSE_DATABASE": "Shop-A"}, 'ALTER DATABASE "Shop-A" RENAME TO "shop-a"'),
        ({"WAREHOUSE_OPTIONS": "null"}, "`WAREHOUSE_OPTIONS` must be a JSON object"),
        ({GATEWAY: "postgre"}, "`postgre`, which is no gateway"),
        ({GATEWAY: ""}, "WAREHOUSE_DATABASE, WAREHOUSE_HOST, WAREHOUSE_PASSWORD"),
    ],
)
def test_what_is_wrong_with_the_environment_is_said_without_its_values(
    project: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], message: str
) -> None:
    """Promise: one message, SQLMesh's own kind of error, and no secret in it."""
    set_all(monkeypatch, {**_POSTGRES, **variables})
    with pytest.raises(ConfigError) as error:
        _opened(project)
    assert message in str(error.value) and _SECRET not in str(error.value)
    resource = SQLMeshResource(project_dir=str(project), environment="prod")
    with pytest.raises(ProjectLoadError) as refused, resource.open_context(load=False):
        pass
    told = str(refused.value)
    assert message in told and "config.py" not in told and "reload" not in told


def test_a_config_without_the_line_is_refused_with_it(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise: production never works on a DuckDB file in silence, because a line is missing."""
    config = project / "config.py"
    config.write_text(config.read_text().replace("config = with_warehouse(config)", ""))
    set_all(monkeypatch, _POSTGRES)
    resource = SQLMeshResource(project_dir=str(project), environment="prod")
    told = pytest.raises(ProjectLoadError, match=r"config = with_warehouse\(config\)")
    with told, resource.open_context(load=False):
        pass


def test_a_variable_of_sqlmesh_that_names_a_missing_gateway_is_named(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise: the remedy is to unset it, not the line that is there."""
    monkeypatch.setenv("SQLMESH__DEFAULT_GATEWAY", "postgres")
    with pytest.raises(ProjectLoadError) as refused:
        project_manifest(SQLMeshResource(project_dir=str(project)))
    assert "Unset `SQLMESH__DEFAULT_GATEWAY`, and choose" in str(refused.value)
    assert "with_warehouse" not in str(refused.value)


def _opened(project: Path) -> Context:
    return Context(paths=[str(project)], load=False)
