"""Several SQLMesh projects on one state: each keeps to its own models, and lineage crosses."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from sqlmesh import Context
from tests.sqlmesh_dagster.projects import (
    NOW,
    Project,
    held_by_another_process,
    run_in_process,
)

from sqlmesh_dagster import SQLMeshProjectComponent, SQLMeshResource, TranslatorSettings
from sqlmesh_dagster import SQLMeshTranslator as Translator

LATER = "2025-01-11T00:30:00"
_CONFIG = """
gateways:
  local:
    connection:
      type: duckdb
      database: {database}
default_gateway: local
model_defaults:
  dialect: duckdb
  start: 2025-01-01
  cron: '@daily'
disable_anonymized_analytics: true
{project}
"""


@dataclass
class Sharing(Project):
    """A project whose DuckDB file, with the state, is beside its folder, for others to share."""

    project: str = ""

    def __post_init__(self) -> None:
        """Writes the config."""
        named = f"project: {self.project}" if self.project else ""
        self.write("config.yaml", _CONFIG.format(database=self.database, project=named))

    @property
    def database(self) -> Path:
        """The DuckDB file."""
        return self.root.parent / "warehouse.duckdb"


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """An instance on disk: a tick opens its own."""
    (tmp_path / "home").mkdir()
    with dg.DagsterInstance.local_temp(str(tmp_path / "home")) as local:
        yield local


def _pair(folder: Path, first: str = "alpha", second: str = "beta") -> tuple[Sharing, Sharing]:
    """A repository with a seed and a model, and one whose models read and extend them."""
    production: dict[str, Any] = {"environment": "prod"}
    a = Sharing(folder / "a", production, first)
    a.write("seeds/names.csv", "id,name\n1,ann\n2,bob\n")
    a.model("sa.names", "", "kind SEED (path '../seeds/names.csv'), columns (id INT, name TEXT)")
    a.model(
        "sa.one", "SELECT id, name FROM sa.names", "kind FULL, audits (not_null(columns := (id)))"
    )
    b = Sharing(folder / "b", production, second)
    b.model(
        "sb.days",
        "SELECT id, @start_ds::DATE AS day FROM sa.one",
        "kind INCREMENTAL_BY_TIME_RANGE (time_column day)",
    )
    b.model("sb.wide", "SELECT o.* FROM sa.one AS o JOIN sa.names USING (id)")
    b.write(
        "audits/alone.sql", "AUDIT (name alone, standalone true); SELECT 1 FROM sa.one WHERE id < 0"
    )
    return a, b


def _change(a: Sharing, b: Sharing) -> None:
    b.model("sb.wide", "SELECT o.*, 1 AS more FROM sa.one AS o")
    b.model("sb.new", "SELECT id FROM sb.days")


def _change_upstream(a: Sharing) -> None:
    a.model("sa.one", "SELECT id, upper(name) AS name FROM sa.names")


@contextlib.contextmanager
def _alone(*projects: Sharing) -> Iterator[Context]:
    """Bare SQLMesh."""
    context = Context(paths=[str(project.root) for project in projects])
    try:
        yield context
    finally:
        context.close()


def _plan(*projects: Sharing, environment: str = "prod", now: str = NOW) -> None:
    with _alone(*projects) as context:
        context.plan(
            environment,
            auto_apply=True,
            no_prompts=True,
            execution_time=now,
            include_unmodified=True if environment != "prod" else None,
        )


def _run(project: Sharing, now: str) -> None:
    with _alone(project) as context:
        context.run("prod", execution_time=now)


def _found(project: Sharing) -> dict[str, Any]:
    """Every view of production with its rows, and what the state says is done."""
    views = project.query(
        "SELECT schema_name || '.' || view_name FROM duckdb_views()"
        " WHERE NOT internal AND schema_name[:7] <> 'sqlmesh' ORDER BY ALL"
    )
    rows = {view: sorted(project.query(f"FROM {view}")) for (view,) in views}
    done = project.query(
        "SELECT name, start_ts, end_ts FROM sqlmesh._intervals WHERE NOT is_removed ORDER BY ALL"
    )
    with _alone(project) as context:
        environment = context.state_reader.get_environment("prod")
        assert environment is not None
        snapshots = context.state_reader.get_snapshots(environment.snapshots).values()
        intervals = {s.name: s.intervals for s in snapshots if s.is_model}
    assert done
    return {"rows": rows, "intervals": intervals}


def _keys(definitions: dg.Definitions, *, built: bool = True) -> list[str]:
    graph = definitions.resolve_asset_graph()
    keys = graph.materializable_asset_keys if built else graph.external_asset_keys
    return sorted(key.to_user_string() for key in keys)


def _requested(definitions: dg.Definitions, instance: dg.DagsterInstance, at: str) -> list[str]:
    schedule = definitions.resolve_schedule_def("sqlmesh_adaptive_schedule")
    with dg.build_schedule_context(
        instance,
        scheduled_execution_time=datetime.fromisoformat(at).replace(tzinfo=timezone.utc),
        repository_def=definitions.get_repository_def(),
    ) as context:
        tick = schedule.evaluate_tick(context)
    return [k.to_user_string() for r in tick.run_requests or () for k in r.asset_selection or ()]


@pytest.mark.slow
def test_a_location_for_each_repository(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    """Promise: views, rows and intervals are bare SQLMesh's; no one is refused for what others deploy."""
    a, b = _pair(tmp_path / "dagster")
    c, d = _pair(tmp_path / "alone")
    mapping = {"external_asset_mapping": "raw/{node.name}"}
    for ours, bare in ((a, c), (b, d)):
        run = run_in_process(ours.definitions(undeployed_changes="apply"), instance)
        assert run.success, run.failed
        _plan(bare)
    assert _found(a) == _found(c)
    assert _keys(a.definitions(**mapping)) == ["warehouse/sa/names", "warehouse/sa/one"]
    assert _keys(a.definitions(**mapping), built=False) == []
    assert _keys(b.definitions(**mapping)) == ["warehouse/sb/days", "warehouse/sb/wide"]
    assert _keys(b.definitions(**mapping), built=False) == [
        "warehouse/sa/names",
        "warehouse/sa/one",
    ]
    columns = b.definitions().resolve_assets_def(dg.AssetKey(["warehouse", "sb", "wide"]))
    schema = columns.specs_by_key[columns.key].metadata["dagster/column_schema"]
    assert [column.name for column in schema.columns] == ["id", "name"]

    before = a.definitions()
    _change(a, b)
    _change(c, d)
    assert run_in_process(b.definitions(undeployed_changes="apply"), instance).success
    _plan(d)
    for definitions in (before, a.definitions()):
        run = run_in_process(definitions, instance)
        assert run.success, run.failed
    assert _found(a) == _found(c)

    before = b.definitions()
    _change_upstream(a)
    _change_upstream(c)
    assert run_in_process(a.definitions(undeployed_changes="apply"), instance).success
    _plan(c)
    assert _found(a) == _found(c)
    at = "2025-01-11T00:30:00"
    assert _requested(a.definitions(), instance, at) == ["warehouse/sa/one"]
    assert set(_requested(before, instance, at)) == {
        f"warehouse/sb/{n}" for n in ("days", "wide", "new")
    }
    for definitions in (a.definitions(), before):
        run = run_in_process(definitions, instance, now=LATER)
        assert run.success, run.failed
    _run(c, LATER)
    assert _found(a) == _found(c)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["", "alpha"])
def test_a_copied_config_drops_nothing(
    tmp_path: Path, instance: dg.DagsterInstance, name: str
) -> None:
    """Promise: what SQLMesh would take for removed models is refused by name, with what to do."""
    a, b = _pair(tmp_path, name, name)
    assert run_in_process(a.definitions(undeployed_changes="apply"), instance).success
    views = a.query("SELECT * FROM sa.one")
    for policy in ("apply", "fail"):
        run = run_in_process(b.definitions(undeployed_changes=policy), instance)
        assert not run.success
        assert all("`warehouse.sa.one`" in error for error in run.failed.values()), run.failed
        assert all("`project: <name>`" in error for error in run.failed.values()), run.failed
    result = (
        b.definitions()
        .resolve_job_def("sqlmesh_plan_job")
        .execute_in_process(
            instance=instance,
            raise_on_error=False,
            run_config={
                "ops": {"sqlmesh_plan": {"config": {"apply": True, "allow_production": True}}}
            },
        )
    )
    assert not result.success
    assert a.query("SELECT * FROM sa.one") == views
    run = run_in_process(a.definitions(), instance)
    assert run.success, run.failed


@pytest.mark.slow
def test_a_project_without_a_name_leaves_named_ones_alone(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    """Promise: it runs on after a named one was deployed; a plan of its own would drop that, and is refused."""
    a, b = _pair(tmp_path, "", "beta")
    assert run_in_process(a.definitions(undeployed_changes="apply"), instance).success
    assert run_in_process(b.definitions(undeployed_changes="apply"), instance).success
    for policy in ("apply", "fail"):
        run = run_in_process(a.definitions(undeployed_changes=policy), instance)
        assert run.success, run.failed
    _change_upstream(a)
    run = run_in_process(a.definitions(undeployed_changes="apply"), instance)
    assert all("project `beta`" in error for error in run.failed.values()), run.failed
    assert not run.success
    assert b.query("SELECT count(*) FROM sb.wide") == [(2,)]


@pytest.mark.slow
def test_own_models_are_removed_and_renamed_as_ever(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    """Promise: what was in this project's files is its own to drop, with others on the state, too."""
    a, b = _pair(tmp_path)
    for project in (a, b):
        assert run_in_process(project.definitions(undeployed_changes="apply"), instance).success
    for file in (b.root / "models").iterdir():
        file.unlink()
    b.model("sb.other", "SELECT 1 AS x")
    run = run_in_process(b.definitions(undeployed_changes="apply"), instance)
    assert run.success, run.failed
    assert list(_found(a)["rows"]) == ["sa.names", "sa.one", "sb.other"]


def test_definitions_load_while_the_state_is_held(tmp_path: Path) -> None:
    """Promise: what others have deployed is as it last was, and is asked for again later."""
    a, b = _pair(tmp_path)
    _plan(a)
    mapping: Mapping[str, Any] = {"external_asset_mapping": "raw/{node.name}", "wait_timeout": 0.1}
    b.definitions(**mapping)
    b.model("sb.third", "SELECT name FROM sa.one, raw.files")
    with held_by_another_process(a.database):
        assert _keys(b.definitions(**mapping), built=False) == [
            "raw/files",
            "warehouse/sa/names",
            "warehouse/sa/one",
        ]
    translator = Translator("raw/{node.name}", TranslatorSettings(external_assets=True))
    shown = b.definitions(translator=translator)
    graph = shown.resolve_asset_graph()
    assert "dagster/column_schema" in graph.get(dg.AssetKey(["warehouse", "sa", "one"])).metadata


@pytest.mark.slow
def test_several_folders_are_one_project(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    """Promise: as `sqlmesh -p a -p b`; a file of either makes the definitions anew."""
    a, b = _pair(tmp_path / "dagster")
    c, d = _pair(tmp_path / "alone")
    b.write("models/../seeds/more.csv", "id\n7\n")
    b.model("sb.more", "", "kind SEED (path '../seeds/more.csv'), columns (id INT)")
    d.write("seeds/more.csv", "id\n7\n")
    d.model("sb.more", "", "kind SEED (path '../seeds/more.csv'), columns (id INT)")
    folders = {"project_dir": [a.root, b.root]}
    options: dict[str, Any] = {"environment": "prod", "undeployed_changes": "apply"}

    def definitions() -> dg.Definitions:
        return _factory(folders["project_dir"], **options)

    run = run_in_process(definitions(), instance)
    assert run.success, run.failed
    assert run.passed["one:not_null_id"]
    assert len(_keys(definitions())) == 5
    _plan(c, d)
    assert _found(a) == _found(c)
    for project in (b, d):
        project.write("seeds/more.csv", "id\n8\n")
    run = run_in_process(definitions(), instance)
    assert run.materialized == ["more"]
    assert _found(a)["rows"]["sb.more"] == [(8,)]
    text = f"project_dir: [{a.root}, {b.root}]"
    component = SQLMeshProjectComponent.resolve_from_yaml(text)
    resource = SQLMeshResource(project_dir=[str(a.root), str(b.root)])
    assert component.project_dir == resource.project_dir
    with resource.open_context() as context:
        assert sorted(config.project for config in context.configs.values()) == ["alpha", "beta"]


def _factory(folders: Sequence[Path], **options: Any) -> dg.Definitions:
    from sqlmesh_dagster import sqlmesh_definitions_factory

    return sqlmesh_definitions_factory(project_dir=folders, **options)
