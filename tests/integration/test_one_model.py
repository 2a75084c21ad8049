"""One model that Dagster cannot take costs that model alone; what SQLMesh takes, Dagster takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dagster as dg
import pytest
from sqlmesh.core.model import Model
from tests.sqlmesh_dagster.projects import Project, run_in_process

from sqlmesh_dagster import ModelRecord, SQLMeshTranslator


class Choosy(SQLMeshTranslator):
    """A translator with a mistake in one model's policy, and one in what it reads of another."""

    def get_group_name(self, model: ModelRecord) -> str | None:
        """Raises for one model."""
        return {"mart": "marts", "other": "others"}[model.view_name] if model.tags else None

    def read_model(self, model: Model) -> Mapping[str, Any]:
        """Raises for one model."""
        if model.view_name == "unreadable":
            raise LookupError("no such table in the catalogue")
        return {}


@pytest.mark.filterwarnings("ignore:Definition of")
def test_the_rest_of_a_project_is_loaded_and_built(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: the culprits fail with their own errors; what does not read them is built."""
    project.model("fine", "SELECT 1::INT AS id")
    project.model("culprit", "SELECT 2::INT AS id", "kind FULL, tags (x)")
    project.model("below", "SELECT id FROM demo.culprit")
    project.model("unreadable", "SELECT 3::INT AS id")
    definitions = project.definitions(translator=Choosy())
    dg.Definitions.validate_loadable(definitions)
    run = run_in_process(definitions, instance)
    assert run.materialized == ["fine"]
    assert {key.split("__")[-1]: text for key, text in run.failed.items()}.keys() == {
        "culprit",
        "unreadable",
    }
    text = "\n".join(run.failed.values())
    assert "`demo.culprit` could not be translated" in text
    assert "KeyError: 'culprit'" in text
    assert "`demo.unreadable` could not be translated" in text
    assert "no such table in the catalogue" in text
    assert project.query("SELECT id FROM demo__dev.fine") == [(1,)]


def test_the_culprit_is_itself_again_once_it_is_mended(project: Project) -> None:
    """Promise: a record that could not be read is not kept, so that the next load reads it again."""
    broken = {"is": True}

    class Flaky(SQLMeshTranslator):
        def read_model(self, model: Model) -> Mapping[str, Any]:
            if broken["is"]:
                raise OSError("the catalogue is down")
            return {"seen": True}

    project.model("m", "SELECT 1::INT AS id")
    with pytest.warns(UserWarning, match="the catalogue is down"):
        project.definitions(translator=Flaky())
    broken["is"] = False
    (spec,) = project.definitions(translator=Flaky()).resolve_all_asset_specs()
    assert "sqlmesh/problem" not in spec.metadata


@pytest.mark.parametrize("cron", ["0 12 1W * *", "0 0 * * * 30", "*/10 * * * * 15"])
def test_a_cron_that_dagster_does_not_know_is_no_problem(project: Project, cron: str) -> None:
    """Promise: SQLMesh decides what is due; Dagster ticks often enough to ask."""
    project.model("odd", "SELECT 1::INT AS id", f"kind FULL, cron '{cron}'")
    project.model("plain", "SELECT 1::INT AS id")
    definitions = project.definitions()
    dg.Definitions.validate_loadable(definitions)
    specs = definitions.resolve_all_asset_specs()
    assert [s.metadata["sqlmesh/cron"] for s in specs if s.key.path[-1] == "odd"] == [cron]
    assert not any("sqlmesh/problem" in spec.metadata for spec in specs)
    assert definitions.resolve_schedule_def("sqlmesh_adaptive_schedule")
