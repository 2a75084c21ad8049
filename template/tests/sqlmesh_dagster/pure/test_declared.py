"""What YAML says of raw tables, on the pages of the assets that load them."""

from __future__ import annotations

from pathlib import Path

from sqlmesh_dagster import declared_tables


def test_a_raw_table_has_the_columns_types_and_descriptions_that_are_declared(
    tmp_path: Path,
) -> None:
    """Promise: from each of SQLMesh's places; what is odd or broken in one takes nothing from others."""
    (tmp_path / "external_models").mkdir()
    (tmp_path / "external_models/orders.yaml").write_text(
        "- name: raw.orders\n  description: What was ordered.\n  columns: {id: BIGINT, day: DATE}\n"
        "  column_descriptions: {id: Its number}\n"
    )
    (tmp_path / "external_models/broken.yaml").write_text("- name: [")
    (tmp_path / "external_models/odd.yml").write_text("- 1\n- {name: 2}\n- {name: raw.bare}\n")
    (tmp_path / "external_models.yaml").write_text("- name: raw.days\n  columns: {day: DATE}\n")
    tables = declared_tables(tmp_path)
    assert set(tables) == {"raw.orders", "raw.bare", "raw.days"}
    orders = tables["raw.orders"]
    assert orders.description == "What was ordered."
    assert [(c.name, c.type, c.description) for c in orders.schema.columns] == [
        ("id", "BIGINT", "Its number"),
        ("day", "DATE", None),
    ]
    assert set(orders.metadata) == {"dagster/column_schema"} and tables["raw.bare"].metadata == {}


def test_a_folder_without_a_project_declares_nothing(tmp_path: Path) -> None:
    """Promise: an ingest module that asks loads all the same."""
    assert declared_tables(tmp_path / "nowhere") == {}
