"""What the UI shows of a model before it has run: asked of the real GraphQL server."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.answers import EXAMPLE
from tests.conftest import Render
from tests.test_generated_projects import with_tools_of
from tests.webserver import location_of, served

pytestmark = pytest.mark.generated

_NODES = """
query { assetNodes {
  assetKey { path } description groupName kinds computeKind isExecutable isObservable
  owners { ... on TeamAssetOwner { team } ... on UserAssetOwner { email } }
  tags { key value }
  dependencyKeys { path }
  freshnessPolicy: internalFreshnessPolicy { __typename
    ... on TimeWindowFreshnessPolicy { failWindowSeconds warnWindowSeconds } }
  automationCondition { label }
  assetChecksOrError { ... on AssetChecks { checks { name description blocking } } }
  metadataEntries { label
    ... on TextMetadataEntry { text }
    ... on TableColumnLineageMetadataEntry { lineage { columnName columnDeps { assetKey { path } columnName } } }
    ... on TableSchemaMetadataEntry { schema { columns { name type description } } }
    ... on CodeReferencesMetadataEntry { codeReferences {
      ... on LocalFileCodeReference { filePath lineNumber label } } }
  }
} }
"""
_SETTINGS = "settings=TranslatorSettings(freshness_policies=True, automation_conditions=True)"


@pytest.fixture(scope="module")
def catalogue(
    render: Render, tmp_path_factory: pytest.TempPathFactory, warm_python: Path
) -> Iterator[tuple[Path, dict[str, dict[str, Any]]]]:
    """The project's folder and the asset nodes, by key."""
    root = tmp_path_factory.mktemp("catalogue") / "project"
    shutil.copytree(render(**EXAMPLE), root)
    (transform,) = root.glob("src/*/defs/transform.py")
    code = transform.read_text()
    mapping = 'external_asset_mapping="raw/{node.name}"'
    assert mapping in code
    code = code.replace(mapping, f"{mapping}, {_SETTINGS}")
    transform.write_text(
        code.replace("SQLMeshTranslator,", "SQLMeshTranslator, TranslatorSettings,")
    )
    environment = with_tools_of(Path(sys.executable), warm_python, PYTHONPATH=str(root / "src"))
    with served(root, environment) as ask:
        location_of(ask)
        nodes = ask(_NODES)["assetNodes"]
    yield root, {"/".join(node["assetKey"]["path"]): node for node in nodes}


Catalogue = tuple[Path, dict[str, dict[str, Any]]]


def _entry(node: dict[str, Any], label: str) -> dict[str, Any]:
    (entry,) = (e for e in node["metadataEntries"] if e["label"] == label)
    return dict(entry)


def test_columns_have_types_and_comments(catalogue: Catalogue) -> None:
    """From the model's casts and comments."""
    node = catalogue[1]["marts/daily_revenue"]
    columns = _entry(node, "dagster/column_schema")["schema"]["columns"]
    assert len(columns) > 2
    assert all(column["name"] and column["type"] and column["description"] for column in columns)
    raw = _entry(catalogue[1]["raw/payments"], "dagster/column_schema")["schema"]["columns"]
    assert {"name": "amount", "type": "DOUBLE", "description": "Money received, in euros"} in raw


def test_columns_lead_across_models_into_raw_tables(catalogue: Catalogue) -> None:
    """From a mart to staging, and from staging to the raw file that an ingest asset loads."""

    def sources(key: str) -> set[str]:
        lineage = _entry(catalogue[1][key], "dagster/column_lineage")["lineage"]
        return {"/".join(d["assetKey"]["path"]) for c in lineage for d in c["columnDeps"]}

    mart, staging = "marts/daily_revenue", "staging/payments"
    assert staging in sources(mart)
    assert sources(staging) == {"raw/payments"}
    assert "raw/payments" in catalogue[1]


def test_code_opens_at_the_model(catalogue: Catalogue) -> None:
    """File and line of the `MODEL` block."""
    root, nodes = catalogue
    entry = _entry(nodes["marts/daily_revenue"], "dagster/code_references")
    (reference,) = [r for r in entry["codeReferences"] if r["filePath"].endswith(".sql")]
    file = Path(reference["filePath"])
    assert file == root / "sqlmesh_project/models/marts/daily_revenue.sql"
    assert file.read_text().splitlines()[reference["lineNumber"] - 1].startswith("MODEL")


def test_facts_owners_kinds_checks_and_policies_are_there(catalogue: Catalogue) -> None:
    """What a person looks for on an asset's page."""
    node = catalogue[1]["marts/daily_revenue"]
    texts = {e["label"]: e.get("text") for e in node["metadataEntries"]}
    assert texts["sqlmesh/cron"] == "@daily"
    assert texts["dagster/table_name"] == "warehouse.marts__dev.daily_revenue"
    assert node["description"] and "Grain: " in node["description"]
    assert node["owners"] == [{"email": "finance@spokewell.example"}]
    assert sorted(node["kinds"]) == ["duckdb", "sqlmesh", "table"]
    assert {"key": "dagster/storage_kind", "value": "duckdb"} in node["tags"]
    assert node["groupName"] == "marts"
    assert ["staging", "payments"] in [k["path"] for k in node["dependencyKeys"]]
    checks = node["assetChecksOrError"]["checks"]
    assert checks and all(check["description"] and not check["blocking"] for check in checks)
    assert node["freshnessPolicy"]["failWindowSeconds"] == 2 * 86400
    assert "@daily" in node["automationCondition"]["label"]
