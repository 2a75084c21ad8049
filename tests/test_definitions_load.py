"""How a generated project's definitions load: as a component, after a change, and while a model is broken."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.answers import EXAMPLE
from tests.conftest import Render
from tests.test_generated_projects import Project, with_tools_of
from tests.webserver import Ask, location_of, served

pytestmark = pytest.mark.generated

_MODEL = "sqlmesh_project/models/staging/payments.sql"
_RELOAD = """
mutation ($name: String!) {
  reloadRepositoryLocation(repositoryLocationName: $name) {
    __typename
    ... on WorkspaceLocationEntry { locationOrLoadError { __typename ... on PythonError { message } } }
  }
}
"""
_ASSETS = """
query { assetNodes { assetKey { path } description
  metadataEntries { label ... on MarkdownMetadataEntry { mdStr } } } }
"""


@pytest.fixture
def project(render: Render, tmp_path: Path, warm_python: Path) -> Project:
    """The example project, on the tests' own environment, warm."""
    root = tmp_path / "project"
    shutil.copytree(render(**EXAMPLE), root)
    tools = with_tools_of(Path(sys.executable), warm_python, PYTHONPATH=str(root / "src"))
    return Project(root, tools)


def test_the_component_works_with_every_command_of_dg(project: Project) -> None:
    """Scaffold, check, list, refresh and launch; the same assets and checks as the factory gives."""
    (transform,) = project.root.glob("src/*/defs/transform.py")
    by_factory = _listed(project)
    transform.unlink()
    project.run(
        "dg", "scaffold", "defs", "sqlmesh_dagster.SQLMeshProjectComponent", "transform",
        "--project-dir", "sqlmesh_project", "--environment", "dev",
    )  # fmt: skip
    (file,) = project.root.glob("src/*/defs/transform/defs.yaml")
    defs = yaml.safe_load(file.read_text())
    defs["attributes"]["external_asset_mapping"] = "raw/{node.name}"
    key = "{{ model.schema_name }}/{{ model.view_name }}"
    defs["attributes"]["translation"] = {"key": key}
    file.write_text(yaml.safe_dump(defs))
    project.run("dg", "check", "yaml")
    project.run("dg", "check", "defs")
    refreshed = project.run("dg", "utils", "refresh-defs-state")
    assert "1 components refreshed successfully" in refreshed
    assert _listed(project) == by_factory
    project.run("dg", "launch", "--assets", "*")


def test_a_change_is_in_the_ui_after_a_reload(project: Project) -> None:
    """Of a file and of a new file; a broken one leaves the last good definitions, and says so."""
    model = project.root / _MODEL
    new = project.root / "sqlmesh_project/models/reference/places.sql"
    good = model.read_text()
    with served(project.root, project.environment) as ask:
        location = location_of(ask)
        before = _assets(ask)
        new.write_text("/* A place. */\nMODEL (name reference.places);\nSELECT 1::INT AS id;\n")
        assert _reload(ask, location) == "RepositoryLocation"
        added = _assets(ask)
        new.write_text("/* Another. */\nMODEL (name reference.places);\nSELECT 1::INT AS id;\n")
        assert _reload(ask, location) == "RepositoryLocation"
        changed = _assets(ask)
        model.write_text(good.replace("SELECT", "SELEC"))
        assert _reload(ask, location) == "RepositoryLocation"
        broken = _assets(ask)
        model.write_text(good)
        assert _reload(ask, location) == "RepositoryLocation"
        fixed = _assets(ask)
    assert set(added) - set(before) == {"reference/places"}
    assert added["reference/places"]["description"].startswith("A place.\n\n```sql\n")
    assert changed["reference/places"]["description"].startswith("Another.\n\n```sql\n")
    assert set(broken) == set(changed)
    assert "payments" in _problem(broken["reference/places"])
    assert not _problem(fixed["reference/places"])


def _listed(project: Project) -> dict[str, Any]:
    listed = json.loads(project.run("dg", "list", "defs", "--json"))
    keys = ("asset_key", "name", "deps", "kinds")
    return {
        kind: sorted(json.dumps({key: entry.get(key) for key in keys}) for entry in listed[kind])
        for kind in ("assets", "asset_checks", "schedules", "jobs")
    }


def _reload(ask: Ask, location: str) -> str:
    entry = ask(_RELOAD, name=location)["reloadRepositoryLocation"]
    loaded = entry["locationOrLoadError"]
    return str(loaded.get("message", loaded["__typename"]))


def _assets(ask: Ask) -> dict[str, dict[str, Any]]:
    return {"/".join(node["assetKey"]["path"]): node for node in ask(_ASSETS)["assetNodes"]}


def _problem(node: dict[str, Any]) -> str:
    entries = [e for e in node["metadataEntries"] if e["label"] == "sqlmesh/problem"]
    return "".join(str(entry["mdStr"]) for entry in entries)
