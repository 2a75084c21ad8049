"""`SQLMeshResource`: one context at a time, connections released, cancellation that reaches SQLMesh."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import dagster as dg
import pytest
from tests.sqlmesh_dagster.projects import Project, held_by_another_process, run_in_process

from sqlmesh_dagster import (
    DatabaseLockedError,
    EnvironmentBusyError,
    InvalidSettingError,
    ProjectLoadError,
    SQLMeshResource,
    sqlmesh_definitions_factory,
)


def test_no_file_lock_survives_a_run(project: Project, instance: dg.DagsterInstance) -> None:
    """Promise: another process can write to the database as soon as the run has ended."""
    project.model("full", "SELECT 1::INT AS id")
    run_in_process(project.definitions(), instance)
    _in_another_process(project.database, "CREATE TABLE main.theirs AS SELECT 1")
    project.model("broken", "SELECT error('boom')::TEXT AS id")
    assert not run_in_process(project.definitions(), instance).success
    _in_another_process(project.database, "CREATE TABLE main.also_theirs AS SELECT 1")


def test_defining_assets_opens_no_database(project: Project) -> None:
    """Promise: a code location loads while the database is locked, missing or down."""
    project.model("full", "SELECT 1::INT AS id")
    project.definitions()
    assert not project.database.exists()


def test_its_connection_and_its_context_can_be_used_by_other_assets(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: an own asset loads data with SQLMesh's connection, and renders with its context."""
    project.model("full", "SELECT 1::INT AS id")
    seen: list[str] = []

    @dg.asset
    def own(sqlmesh: SQLMeshResource) -> None:
        with sqlmesh.connection() as adapter:
            adapter.execute("CREATE TABLE main.mine AS SELECT 42 AS answer")
        with sqlmesh.open_context() as context:
            seen.extend(model.name for model in context.models.values())

    merged = dg.Definitions.merge(project.definitions(), dg.Definitions(assets=[own]))
    assert run_in_process(merged, instance).success
    assert seen == ["demo.full"]
    assert project.query("SELECT answer FROM main.mine") == [(42,)]


def test_two_contexts_of_one_project_wait_for_each_other(project: Project) -> None:
    """Promise: threads of one process never share a context or fight for the file."""
    project.model("full", "SELECT 1::INT AS id")
    resource = SQLMeshResource(project_dir=str(project.root), environment="dev")
    inside, most = [], []

    def work() -> None:
        with resource.connection():
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.2)
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1, 1]


def test_waiting_for_a_locked_file_has_a_limit_and_names_the_next_step(
    project: Project,
) -> None:
    """Promise: a database that somebody holds is waited for, then reported clearly."""
    project.execute("CREATE TABLE main.source AS SELECT 1")
    resource = SQLMeshResource(project_dir=str(project.root), environment="dev", wait_timeout=1)
    with (
        held_by_another_process(project.database),
        pytest.raises(DatabaseLockedError, match="wait_timeout"),
        resource.connection(),
    ):
        pass
    with resource.connection() as adapter:
        assert adapter.fetchone("SELECT count(*) FROM main.source") == (1,)


def test_a_run_on_a_locked_file_fails_after_its_limit_and_leaves_nothing(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: the message says what to do, and the next run is whole."""
    project.model("full", "SELECT 1::INT AS id")
    project.execute("CREATE TABLE main.source AS SELECT 1")
    with held_by_another_process(project.database):
        hasty = run_in_process(project.definitions(wait_timeout=1), instance)
        ((_, error),) = hasty.failed.items()
        assert "DuckDB file is in use" in error
    assert run_in_process(project.definitions(), instance).success


def test_a_rival_run_is_named_to_those_who_wait(project: Project) -> None:
    """Promise: the second run says whom it waited for."""
    patient = SQLMeshResource(project_dir=str(project.root), environment="dev")
    hasty = SQLMeshResource(project_dir=str(project.root), environment="dev", wait_timeout=0.5)
    with patient.connection():
        code = textwrap.dedent(
            f"""
            from sqlmesh_dagster import SQLMeshResource, EnvironmentBusyError
            try:
                with SQLMeshResource(**{{"project_dir": {hasty.project_dir!r}, "environment": "dev",
                                       "wait_timeout": 0.5}}).connection():
                    print("got in")
            except EnvironmentBusyError as error:
                print(error.description)
            """
        )
        done = _python(code)
    assert f"process {os.getpid()}" in done.stdout, done.stderr
    assert EnvironmentBusyError.__name__ not in done.stderr


def test_concurrency_limit_reaches_the_engine(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: with a limit of two, two models without a dependency are built at the same time."""
    for name in ("a", "b"):
        project.write(
            f"models/{name}.py",
            f"""
            import time
            import typing as t
            import pandas as pd
            from sqlmesh import ExecutionContext, model

            @model("demo.{name}", columns={{"began": "double", "ended": "double"}}, kind="FULL")
            def execute(context: ExecutionContext, **kwargs: t.Any) -> pd.DataFrame:
                began = time.time()
                time.sleep(2)
                return pd.DataFrame({{"began": [began], "ended": [time.time()]}})
            """,
        )
    assert run_in_process(project.definitions(concurrency_limit=2), instance).success
    ((a_began, a_ended, b_began, b_ended),) = project.query(
        "SELECT a.began, a.ended, b.began, b.ended FROM demo__dev.a AS a, demo__dev.b AS b"
    )
    assert a_began < b_ended
    assert b_began < a_ended


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"undeployed_changes": "maybe"}, "`maybe`"),
        ({"concurrency_limit": 0}, "`concurrency_limit` is 0"),
        ({"wait_timeout": -1.0}, "`wait_timeout` is -1"),
        ({"environment": dg.EnvVar("NOT_SET_ANYWHERE")}, "NOT_SET_ANYWHERE"),
        ({"concurrency_limit": dg.EnvVar.int("NOT_SET_ANYWHERE")}, "NOT_SET_ANYWHERE"),
        ({"concurrency_limit": dg.EnvVar.int("PATH")}, "holds `"),
    ],
)
def test_a_bad_setting_is_named(project: Project, settings: dict[str, object], words: str) -> None:
    """Promise: the message says which setting, its value, and what to write instead."""
    with pytest.raises(InvalidSettingError) as caught:
        project.definitions(**settings)
    assert words in str(caught.value)


def test_settings_are_read_from_the_environment(
    project: Project, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise: each setting may be an `EnvVar`, at definition time and in a run."""
    monkeypatch.setenv("OUR_PROJECT", str(project.root))
    monkeypatch.setenv("OUR_ENVIRONMENT", "ours")
    monkeypatch.setenv("OUR_POLICY", "apply")
    monkeypatch.setenv("OUR_LIMIT", "1")
    project.model("full", "SELECT 1::INT AS id")
    definitions = sqlmesh_definitions_factory(
        project_dir=dg.EnvVar("OUR_PROJECT"),
        environment=dg.EnvVar("OUR_ENVIRONMENT"),
        undeployed_changes=dg.EnvVar("OUR_POLICY"),
        concurrency_limit=dg.EnvVar.int("OUR_LIMIT"),
    )
    assert run_in_process(definitions, instance).materialized == ["full"]
    assert project.query("SELECT id FROM demo__ours.full") == [(1,)]


def test_a_missing_project_is_named(tmp_path: Path) -> None:
    """Promise: a wrong folder is reported before anything else."""
    resource = SQLMeshResource(project_dir=str(tmp_path / "nowhere"))
    with pytest.raises(ProjectLoadError, match="nowhere"), resource.open_context():
        pass


def _in_another_process(database: Path, statement: str) -> None:
    code = "import duckdb, sys; duckdb.connect(sys.argv[1]).execute(sys.argv[2])"
    subprocess.run([sys.executable, "-c", code, str(database), statement], check=True)


def _python(code: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
