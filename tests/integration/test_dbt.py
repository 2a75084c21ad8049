"""dbt projects: what dbt's files say is in Dagster, and a run is what SQLMesh alone would do.

They need dbt: `pip install --group dbt`. Without it they are skipped.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pytest
from tests.sqlmesh_dagster.projects import run_in_process

from sqlmesh_dagster import (
    ModelRecord,
    SQLMeshResource,
    SQLMeshTranslator,
    TranslatorSettings,
    sqlmesh_definitions_factory,
)
from sqlmesh_dagster.definition.records import Manifest
from sqlmesh_dagster.engine.context import load_files, open_context
from sqlmesh_dagster.manifest.loading import project_manifest
from sqlmesh_dagster.manifest.store import ManifestStore
from sqlmesh_dagster.settings import ProjectSettings

pytest.importorskip("dbt.version", reason="dbt is not installed")

SHOP = Path(__file__).parents[1] / "projects" / "dbt_shop"
ORDERS = "SELECT range AS id, range % 2 + 1 AS customer_id, range * 2.5 AS amount FROM range(8)"
TABLES = ("main.customers", "main.stg_orders", "main.customer_value", "main.order_days")


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the project, its package installed, and a home without dbt's profiles."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return _copy(tmp_path / "shop")


def _copy(root: Path) -> Path:
    shutil.copytree(SHOP, root)
    shutil.copytree(root / "local_packages", root / "dbt_packages")
    with duckdb.connect(str(root / "shop.duckdb")) as connection:
        connection.execute(f"CREATE SCHEMA raw; CREATE TABLE raw.orders AS {ORDERS}")
    return root


def _plan(root: Path) -> None:
    """SQLMesh alone."""
    from sqlmesh import Context

    before = Path.cwd()
    os.chdir(root)
    try:
        context = Context(paths=str(root))
        context.plan("prod", auto_apply=True, no_prompts=True)
        context.close()
    finally:
        os.chdir(before)


def _manifest(root: Path) -> Manifest:
    return project_manifest(SQLMeshResource(project_dir=str(root)))


def _models(root: Path) -> dict[str, ModelRecord]:
    return {model.view_name: model for model in _manifest(root).models}


def _definitions(root: Path, **settings: Any) -> dg.Definitions:
    given = {"environment": "prod", **settings}
    return sqlmesh_definitions_factory(project_dir=root, **given)


def _rows(root: Path, table: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(root / "shop.duckdb")) as connection:
        return sorted(connection.execute(f"SELECT * FROM {table}").fetchall())


def _is_current(root: Path) -> bool:
    stored = ManifestStore.in_folder(root / ".cache/dagster", None).read()
    assert stored is not None
    return stored.digest == stored.inputs.digest(root, None, dict(os.environ))


def test_what_schema_yml_says_is_in_dagster(shop: Path) -> None:
    """Promise: descriptions, columns, tags, groups, owners, sources, seeds, snapshots, packages, tests."""
    translator = SQLMeshTranslator(settings=TranslatorSettings(external_assets=True))
    definitions = _definitions(shop, translator=translator)
    specs = {spec.key.path[-1]: spec for spec in definitions.resolve_all_asset_specs()}
    value, orders, history = (
        specs[n] for n in ("customer_value", "stg_orders", "customers_history")
    )
    assert value.key.path == ["shop", "main", "customer_value"]
    words, _, sql = (value.description or "").partition("```sql")
    assert words.startswith("What each customer has spent.\n\n![")
    assert "{{ ref(" in sql and "JINJA" not in sql
    assert value.group_name == "finance"
    assert list(value.owners) == ["finance@shop.example"]
    assert {tag for tag in value.tags if "/" not in tag} == {"daily", "value"}
    assert value.kinds == {"sqlmesh", "dbt", "duckdb", "table"}
    columns = {c.name: c for c in value.metadata["dagster/column_schema"].columns}
    assert columns["cents"].description == "In cents.\n\nFrom `main.stg_orders.amount`."
    assert columns["cents"].type == "BIGINT"
    assert list(orders.owners) == ["team:till"]
    assert {dep.asset_key.path[-1] for dep in orders.deps} == {"orders"}
    assert (history.group_name, list(history.owners)) == (
        "history",
        ["team:archive", "jo@shop.example"],
    )
    assert specs["orders"].description == "One row per order."
    (column,) = specs["orders"].metadata["dagster/column_schema"].columns
    assert (column.name, column.description) == ("id", "Its number.")
    assert set(specs) == {
        *("customer_value", "stg_orders", "customers_history", "orders"),
        *("customers", "currencies", "order_days"),
    }
    checks = {
        f"{key.asset_key.path[-1]}:{key.name}"
        for key in definitions.resolve_asset_graph().asset_check_keys
    }
    assert checks == {
        "stg_orders:unique_stg_orders_id",
        "stg_orders:not_null_stg_orders_id",
        "stg_orders:not_null_stg_orders_amount",
        "stg_orders:relationships_stg_orders_customer_id_id_ref_customers",
        "stg_orders:no_free_orders",
        "customers:unique_customers_id",
        "customer_value:accepted_values_customer_value_cents_99999",
        "customer_value:values_fit",
        "orders:source_not_null_raw_orders_id",
    }


def test_a_planned_project_has_no_changes_and_runs_as_sqlmesh_alone(
    shop: Path, tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    """Regression: with a `relationships` test each run was refused, or planned and deployed again."""
    alone = _copy(tmp_path / "alone" / "shop")
    for root in (shop, alone):
        _plan(root)
    run = run_in_process(_definitions(shop), instance, now=None)
    assert run.success, run.failed
    assert run.materialized == []
    deployed = run_in_process(_definitions(shop, undeployed_changes="apply"), instance, now=None)
    assert deployed.success
    messages = [entry.user_message for entry in instance.all_logs(deployed.run_id)]
    assert not [text for text in messages if "Deploying" in text]
    for table in TABLES:
        assert _rows(shop, table) == _rows(alone, table) != []


def test_hooks_that_alone_have_changed_are_deployed_once(
    shop: Path, instance: dg.DagsterInstance
) -> None:
    """Promise: of `on-run-end`, new, changed and taken out; then nothing is left to apply.

    Regression: SQLMesh found such hooks changed each time, so that `poe plan` never had nothing to do.
    """
    before = (shop / "dbt_project.yml").read_text()
    _plan(shop)
    for number in (1, 2, None):
        end = f"create or replace table main.ended as select {number} as n, '{{{{ target.name }}}}' as t"
        hook = f'\non-run-end: ["{end}"]\n' if number else ""
        (shop / "dbt_project.yml").write_text(before + hook)
        for is_again in (False, True):
            run = run_in_process(_definitions(shop, undeployed_changes="apply"), instance, now=None)
            assert run.success, run.failed
            said = [entry.user_message for entry in instance.all_logs(run.run_id)]
            assert any("Deploying" in text for text in said) is not is_again
        assert [row[0] for row in _rows(shop, "main.ended")] == [number or 2]
        settings = ProjectSettings(project_dir=str(shop), environment="prod").checked()
        with open_context(settings, load=False) as context:
            load_files(context, settings)
            assert not context.plan_builder("prod", skip_tests=True).build().has_changes


def test_a_project_is_built_by_dagster_alone(shop: Path, instance: dg.DagsterInstance) -> None:
    """Promise: the first run deploys and builds it, with every test as a check, also of sources.

    Regression: with a `project` in the config it had no assets: dbt's models have none.
    """
    config = shop / "sqlmesh.yaml"
    config.write_text(f"project: shop\n{config.read_text()}")
    run = run_in_process(_definitions(shop, undeployed_changes="apply"), instance, now=None)
    assert run.success, run.failed
    assert set(run.materialized) == {
        *("customers", "currencies", "stg_orders", "customer_value", "order_days"),
        "customers_history",
    }
    failed = [name for name, passed in run.passed.items() if not passed]
    assert failed == ["customer_value:accepted_values_customer_value_cents_99999"]
    assert len(run.passed) == 9
    assert _rows(shop, "main.customer_value") == [(1, "Jo", 3000), (2, "Kim", 3750)]


def _append(path: str, text: str = "\n-- x\n") -> Any:
    return lambda root: (root / path).write_text((root / path).read_text() + text)


def _made(path: str, text: str) -> Any:
    return lambda root: (root / path).parent.mkdir(exist_ok=True) or (root / path).write_text(text)


_CHANGES: dict[str, Any] = {
    "a model": _append("models/marts/order_days.sql"),
    "a macro": _append("macros/large.sql"),
    "a seed": _append("seeds/customers.csv", "3,Lu\n"),
    "a snapshot": _append("snapshots/customers_history.sql"),
    "a singular test": _append("tests/values_fit.sql"),
    "the project": _append("dbt_project.yml", "\n# x\n"),
    "a profile": _append("profiles.yml", "\n# x\n"),
    "schema.yml": _append("models/marts/schema.yml", "\n# x\n"),
    "SQLMesh's config": _append("sqlmesh.yaml", "\n# x\n"),
    "the packages": _append("packages.yml", "\n# x\n"),
    "a package's macro": _append("dbt_packages/money/macros/cents.sql"),
    "a package's model": _append("dbt_packages/money/models/currencies.sql"),
    "a new model": _made("models/marts/new.sql", "select 1 as id"),
    "a model in a new folder": _made("models/deep/new.sql", "select 1 as id"),
    "a new seed": _made("seeds/more.csv", "id\n1\n"),
    "a new test": _made("tests/new.sql", "select 1 where false"),
    "a new macro": _made("macros/new.sql", "{% macro n() %}1{% endmacro %}"),
    "a new snapshot": _made("snapshots/schema2.yml", "version: 2\n"),
    "a new package": _made("dbt_packages/more/dbt_project.yml", "name: more\nversion: '1'\n"),
    "selectors": _made("selectors.yml", "selectors: []\n"),
    "a person's profile": _made("../home/.dbt/profiles.yml", "shop: {}\n"),
}
_NO_CHANGES: dict[str, Any] = {
    "a README": _made("README.md", "Hello"),
    "logs": _made("logs/other.log", "x"),
    "targets": _made("target/other.json", "{}"),
    "data": _made("data/x.csv", "x"),
}


def test_whatever_dbt_reads_makes_the_manifest_anew(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise: after each single change the stored manifest is not current; else it is."""
    (tmp_path / "home").mkdir(exist_ok=True)
    _manifest(shop)
    _manifest(shop)  # what the first load left behind is no change
    assert _is_current(shop)
    shutil.copytree(shop, tmp_path / "kept")
    for name, change in (_CHANGES | _NO_CHANGES).items():
        change(shop)
        assert _is_current(shop) == (name in _NO_CHANGES), name
        shutil.rmtree(shop)
        shutil.rmtree(tmp_path / "home")
        (tmp_path / "home").mkdir()
        shutil.copytree(tmp_path / "kept", shop)
        assert _is_current(shop), name
    monkeypatch.setenv("DBT_TARGET_PATH", "elsewhere")
    assert not _is_current(shop)


def test_definitions_follow_dbts_files(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: a new model, a new variable and another custom model path are in the next definitions."""
    assert len(_models(shop)) == 6
    (shop / "models/deep").mkdir()
    (shop / "models/deep/new.sql").write_text(
        "select '{{ env_var('OUR_PLACE', 'Bern') }}' as place"
    )
    assert "new" in _models(shop)
    monkeypatch.setenv("OUR_PLACE", "Basel")
    assert not _is_current(shop)
    _models(shop)
    assert _is_current(shop)
    project = (shop / "dbt_project.yml").read_text()
    (shop / "more").mkdir()
    (shop / "more/other.sql").write_text("select 1 as id")
    (shop / "dbt_project.yml").write_text(
        project.replace("model-paths: [models]", "model-paths: [models, more]")
    )
    assert "other" in _models(shop)
    (shop / "more/another.sql").write_text("select 1 as id")
    assert "another" in _models(shop)
