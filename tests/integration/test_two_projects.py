"""Two projects in one code location: neither changes the other."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import dagster as dg
import pytest
from tests.sqlmesh_dagster.projects import NOW, Project, run_in_process

from sqlmesh_dagster import SQLMeshResource


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """An instance on disk: a tick opens its own."""
    (tmp_path / "home").mkdir()
    with dg.DagsterInstance.local_temp(str(tmp_path / "home")) as local:
        yield local


def _pair(folder: Path) -> tuple[Project, Project]:
    """One whose `.env` sets SQLMesh's own variables, and one that reads a variable of that name."""
    loud, quiet = Project(folder / "loud"), Project(folder / "quiet")
    loud.model("a", "SELECT 1 AS x")
    loud.write(".env", "SQLMESH__MODEL_DEFAULTS__CRON=@hourly\nTENANT=alpha\n")
    config = (quiet.root / "config.yaml").read_text()
    quiet.write("config.yaml", config + "variables:\n  tenant: {{ env_var('TENANT', 'none') }}\n")
    quiet.model("b", "SELECT @VAR('tenant') AS tenant")
    return loud, quiet


_OWN_CODE = {
    "helpers/own.py": "WHO = {who!r}\n",
    "macros/__init__.py": "",
    "macros/who.py": "from helpers.own import WHO\nfrom sqlmesh import macro\n\n\n@macro()\n"
    "def who(evaluator):\n    return f\"'{{WHO}}'\"\n",
    "materializations/own.py": "from sqlmesh import CustomKind, CustomMaterialization\n\n\n"
    "class Kind(CustomKind): ...\n\n\nclass Own(CustomMaterialization[Kind]):\n    NAME = 'own'\n\n"
    "    def insert(self, table_name, *args, **kwargs):\n"
    '        self.adapter.execute(f"CREATE OR REPLACE TABLE {{table_name}} AS SELECT {who!r} AS v")\n',
}
"""Python of a project, with what is different in each."""


def _with_own_code(folder: Path, who: str) -> Project:
    project = Project(folder / who)
    for path, text in _OWN_CODE.items():
        project.write(path, text.format(who=who))
    project.model("macro", "SELECT @who() AS v")
    project.model("custom", "SELECT 'none' AS v", "kind CUSTOM (materialization 'own')")
    return project


def test_python_code_of_one_is_not_run_by_the_other(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    """Promise: helpers and custom materializations of one name are each project's own, also when edited."""
    both = [_with_own_code(tmp_path, who) for who in ("one", "two")]
    for who in ("one", "two", "edited"):
        project = both[who == "two"]
        if who == "edited":
            project.write("helpers/own.py", "WHO = 'edited'\n")
            project.model("custom", "SELECT 'new' AS v", "kind CUSTOM (materialization 'own')")
        run = run_in_process(project.definitions(), instance)
        assert run.success, run.failed
        assert project.query("SELECT v FROM demo__dev.macro") == [(who,)]
        assert project.query("SELECT v FROM demo__dev.custom") == [(who.replace("edited", "one"),)]


def test_the_env_file_of_one_is_none_of_the_others_business(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    """Promise: definitions, runs and ticks of a project are the same next to any other."""
    loud, quiet = _pair(tmp_path)
    definitions = dg.Definitions.merge(
        loud.definitions(name="loud"), quiet.definitions(name="quiet")
    )
    graph = definitions.resolve_asset_graph()
    crons = {k.path[-1]: graph.get(k).metadata["sqlmesh/cron"] for k in graph.get_all_asset_keys()}
    assert crons == {"a": "@hourly", "b": "@daily"}
    at = {"config": {"execution_time": NOW}}
    result = definitions.resolve_implicit_global_asset_job_def().execute_in_process(
        instance=instance,
        run_config={"resources": {"loud_run_options": at, "quiet_run_options": at}},
    )
    assert result.success
    assert quiet.query("SELECT tenant FROM demo__dev.b") == [("none",)]
    for name, requested in (("loud", ["a"]), ("quiet", [])):
        assert _requested(definitions, instance, name, "2025-01-10T02:00:00") == requested
    assert "TENANT" not in os.environ


def test_a_project_has_its_own_variables_while_it_is_open(tmp_path: Path) -> None:
    """Promise: SQLMesh's `.env` works, until the context is closed."""
    loud, _ = _pair(tmp_path)
    with SQLMeshResource(project_dir=str(loud.root)).open_context():
        assert os.environ["TENANT"] == "alpha"
    assert "TENANT" not in os.environ


def _requested(
    definitions: dg.Definitions, instance: dg.DagsterInstance, name: str, at: str
) -> list[str]:
    schedule = definitions.resolve_schedule_def(f"{name}_adaptive_schedule")
    with dg.build_schedule_context(
        instance,
        scheduled_execution_time=datetime.fromisoformat(at).replace(tzinfo=timezone.utc),
        repository_def=definitions.get_repository_def(),
    ) as context:
        requests = schedule.evaluate_tick(context).run_requests or ()
    return [key.path[-1] for request in requests for key in request.asset_selection or ()]
