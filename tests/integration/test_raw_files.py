"""Names of files in `data/raw`, as the template's `ingest.py` takes them; the file is run as it is generated."""

from __future__ import annotations

import importlib.util
import unicodedata
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import dagster as dg
import pytest
from tests.sqlmesh_dagster.projects import Project

from sqlmesh_dagster import SQLMeshResource, SQLMeshTranslator

INGEST = Path(__file__).parents[2] / "template/src/{{package_name}}/defs/ingest.py.jinja"
NAMES = {
    "customers": "customers",
    "Suppliers": "suppliers",
    "my file": "my file",
    unicodedata.normalize("NFD", "größe"): "größe",
    "sales[1]": "sales[1]",
    "sales1": "sales1",
    "a*": "a*",
    "what?": "what?",
    "it's": "it's",
    'say "x"': 'say "x"',
    "a.b-c": "a.b-c",
    "2025": "2025",
    "select": "select",
    "🦆": "🦆",
}
"""The name of a file without its ending, and of its table."""


@pytest.fixture
def ingest(tmp_path: Path) -> ModuleType:
    """The module."""
    file = tmp_path / "ingest.py"
    file.write_text(INGEST.read_text().replace("{{ owner }}", "team:data"))
    spec = importlib.util.spec_from_file_location("ingest", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load(ingest: ModuleType, root: Path) -> dg.AssetsDefinition:
    """The asset of all files below a folder."""
    context: Any = SimpleNamespace(project_root=root)
    (asset,) = ingest.defs(context).assets
    assert isinstance(asset, dg.AssetsDefinition)
    return asset


def test_each_file_is_the_table_of_its_name(
    project: Project, instance: dg.DagsterInstance, ingest: ModuleType, tmp_path: Path
) -> None:
    """Promise: a space, an umlaut or a bracket is a name like others, and models that read it are downstream."""
    folder = tmp_path / "data" / "raw"
    folder.mkdir(parents=True)
    for number, name in enumerate(NAMES):
        (folder / f"{name}.csv").write_text(f"id\n{number}\n")
    asset = load(ingest, tmp_path)
    resource = SQLMeshResource(project_dir=str(project.root), environment="dev")
    assert dg.materialize([asset], resources={"sqlmesh": resource}, instance=instance).success
    for number, table in enumerate(NAMES.values()):
        quoted = table.replace('"', '""')
        assert project.query(f'SELECT id FROM raw."{quoted}"') == [(number,)]
        read = SQLMeshTranslator("raw/{node.name}").get_external_asset_key(
            f'"warehouse"."raw"."{quoted}"'
        )
        assert read in asset.keys
    assert len(asset.keys) == len(NAMES)


def test_two_files_of_one_table_and_a_broken_one_are_refused_and_the_others_are_loaded(
    project: Project, instance: dg.DagsterInstance, ingest: ModuleType, tmp_path: Path
) -> None:
    """Promise: each is named with what to do, and its table stays as it was."""
    folder = tmp_path / "data" / "raw"
    folder.mkdir(parents=True)
    for number, name in enumerate(("Customers", "broken", "customers", "orders")):
        (folder / f"{name}.csv").write_text(f"id\n{number}\n")
    (folder / "broken.csv").write_text("id,name\n1\n")
    project.execute("CREATE SCHEMA raw; CREATE TABLE raw.customers AS SELECT 9 AS id")
    asset = load(ingest, tmp_path)
    resource = SQLMeshResource(project_dir=str(project.root), environment="dev")
    result = dg.materialize(
        [asset], resources={"sqlmesh": resource}, instance=instance, raise_on_error=False
    )
    assert not result.success
    (failure,) = result.get_step_failure_events()
    told = failure.step_failure_data.error.message  # type: ignore[union-attr]
    assert "`Customers.csv`, `customers.csv`" in told
    assert f"The file `{folder / 'broken.csv'}` cannot be loaded: line 2: it has 1 fields" in told
    assert project.query("SELECT id FROM raw.customers") == [(9,)]
    assert project.query("SELECT id FROM raw.orders") == [(3,)]
