"""How many rows a table has, on an engine that is not asked to count them."""

from __future__ import annotations

import dagster as dg
from tests.sqlmesh_dagster.projects import Project, run_in_process

from tests.integration.test_rights import on_postgres
from tests.postgres import postgres

_KINDS = {
    "whole": "SELECT i::INT AS id FROM generate_series(1, 7) AS t(i)",
    "none": "SELECT 1::INT AS id WHERE FALSE",
}


def test_postgres_says_how_many_rows_it_has_written(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: of a table that is replaced as a whole, that is its row count; of others it is not said."""
    with postgres() as server:
        server.create_database("counted")
        on_postgres(project, server, "counted", "postgres")
        for name, sql in _KINDS.items():
            project.model(name, sql, "kind FULL, dialect postgres")
        project.write("seeds/few.csv", "id\n1\n2\n3\n")
        project.model("few", "", "kind SEED (path '../seeds/few.csv'), columns (id INT)")
        by_time = "kind INCREMENTAL_BY_TIME_RANGE (time_column day)"
        project.model("daily", "SELECT @start_ds::DATE AS day", by_time)
        run = run_in_process(project.definitions(), instance)
        expected = {
            name: server.query("counted", f"SELECT count(*) FROM demo__dev.{name}")[0][0]
            for name in (*_KINDS, "few")
        }
    made = [
        e.step_materialization_data.materialization for e in run.events if e.is_step_materialization
    ]
    counts = {
        m.asset_key.path[-1]: m.metadata["dagster/row_count"].value
        for m in made
        if "dagster/row_count" in m.metadata
    }
    assert counts == expected == {"whole": 7, "none": 0, "few": 3}
    assert all("sqlmesh/rows_processed" in m.metadata for m in made)
