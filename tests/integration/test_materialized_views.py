"""A materialized view on Postgres, where SQLMesh makes a plain one of it, is restated.

By hand: `pytest tests/integration/test_materialized_views.py -m storm`.
"""

from __future__ import annotations

import dagster as dg
import pytest
from tests.sqlmesh_dagster.projects import Project, run_in_process

from tests.postgres import postgres

pytestmark = pytest.mark.storm
_CONFIG = """
gateways:
  local:
    connection: {{type: postgres, host: 127.0.0.1, port: {}, user: postgres, password: x, database: shop}}
default_gateway: local
model_defaults: {{dialect: postgres, start: 2025-01-01}}
disable_anonymized_analytics: true
"""


@pytest.mark.parametrize("restate_downstream", [True, False])
def test_what_people_read_is_still_there_after_a_restatement(
    project: Project, instance: dg.DagsterInstance, restate_downstream: bool
) -> None:
    """Regression: the run was green, and the view and all below it were gone, also after the next runs."""
    with postgres() as server:
        server.create_database("shop")
        project.write("config.yaml", _CONFIG.format(server.port))
        kind = "kind VIEW (materialized true), audits (not_null(columns := (id)))"
        project.model("source", "SELECT 1::INT AS id")
        project.model("shown", "SELECT id FROM demo.source", kind)
        project.model("below", "SELECT COUNT(*)::INT AS n FROM demo.shown", "kind VIEW")
        definitions = project.definitions(environment="prod", undeployed_changes="apply")
        assert run_in_process(definitions, instance).success
        options = {"restate": True, "restate_downstream": restate_downstream}
        restated = run_in_process(definitions, instance, "shown", options=options)
        assert restated.success and restated.materialized == ["shown"]
        assert server.query("shop", "SELECT id, n FROM demo.shown, demo.below") == [(1, 1)]
