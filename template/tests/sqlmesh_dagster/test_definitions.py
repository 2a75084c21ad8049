"""What the factories define: real Definitions that load, whatever models are called."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import dagster as dg
import pytest

from sqlmesh_dagster import (
    AuditRecord,
    DuplicateAssetKeyError,
    InvalidSettingError,
    ModelRecord,
    ProjectLoadError,
    SQLMeshResource,
    SQLMeshTranslator,
    TranslatorSettings,
    sqlmesh_adaptive_schedule_factory,
    sqlmesh_assets_factory,
    sqlmesh_definitions_factory,
    sqlmesh_resources,
)
from tests.sqlmesh_dagster.projects import NOW, Project, run_config, run_in_process


def _key(name: str) -> dg.AssetKey:
    return dg.AssetKey(["warehouse", "demo", name])


def _upstream(definitions: dg.Definitions) -> Mapping[str, list[str]]:
    """Last key parts of what each executable asset reads."""
    graph = definitions.resolve_asset_graph()
    return {
        key.path[-1]: sorted(parent.path[-1] for parent in graph.get(key).parent_keys)
        for key in graph.executable_asset_keys
    }


def _checks(definitions: dg.Definitions) -> list[str]:
    return sorted(key.name for key in definitions.resolve_asset_graph().asset_check_keys)


def _fields(path: str, field: dg.Field) -> Iterator[tuple[str, dg.Field]]:
    yield path, field
    inner = getattr(field.config_type, "inner_type", field.config_type)  # of an array
    for name, below in (getattr(inner, "fields", None) or {}).items():
        yield from _fields(f"{path}.{name}", below)


def test_all_that_a_launchpad_shows_is_described_in_plain_words(project: Project) -> None:
    """Promise: each option says what it does, and no docstring's `Args:` or `Raises:` is shown."""
    project.model("any", "SELECT 1::INT AS id")
    repository = project.definitions().get_repository_def()
    shown = {
        **{job.name: job.description for job in repository.get_all_jobs()},
        **{sensor.name: sensor.description for sensor in repository.sensor_defs},
        **{schedule.name: schedule.description for schedule in repository.schedule_defs},
    }
    for job in repository.get_all_jobs():
        ours = {key: r for key, r in job.resource_defs.items() if key.startswith("sqlmesh")}
        shown.update({key: resource.description for key, resource in ours.items()})
        configs = {key: resource.config_field for key, resource in ours.items()}
        configs |= {op.name: op.config_field for op in job.all_node_defs if "sqlmesh" in op.name}
        for key, config in configs.items():
            for path, field in _fields(key, config) if config else ():
                if path != key:
                    shown[path] = field.description
    shown.pop("__ASSET_JOB")
    assert len(shown) > 40
    assert [name for name, text in shown.items() if not text] == []
    leaks = re.compile(r"(Args|Raises|Returns|Yields|Attributes):|\n {2,}")
    assert [name for name, text in shown.items() if leaks.search(text or "")] == []


# ---------------------------------------------------------------------------- assets


def test_each_model_is_one_asset_with_an_op_of_its_own(project: Project) -> None:
    """Promise: one asset, one op, true dependencies."""
    project.model("top", "SELECT 1::INT AS id")
    project.model("left_side", "SELECT id FROM demo.top")
    project.model("right_side", "SELECT id FROM demo.top")
    project.model("bottom", "SELECT l.id FROM demo.left_side AS l, demo.right_side AS r")
    definitions = project.definitions()
    assert _upstream(definitions) == {
        "top": [],
        "left_side": ["top"],
        "right_side": ["top"],
        "bottom": ["left_side", "right_side"],
    }
    ops = [
        d.node_def.name for d in definitions.resolve_asset_graph().assets_defs if d.is_executable
    ]
    assert len(set(ops)) == 4


def test_seeds_are_assets_and_embedded_and_external_models_are_not_materializable(
    project: Project,
) -> None:
    """Promise: what leaves a table is an asset; what leaves none is seen through."""
    project.write("seeds/names.csv", "id\n1\n")
    project.model("names", "", "kind SEED (path '../seeds/names.csv'), columns (id INT)")
    project.model("thin", "SELECT n.id FROM demo.names AS n, raw.orders AS o", "kind EMBEDDED")
    project.model("mart", "SELECT id FROM demo.thin")
    project.write("external_models.yaml", "- name: raw.orders\n  columns:\n    id: INT\n")
    definitions = project.definitions()
    assert _upstream(definitions) == {"names": [], "mart": ["names", "orders"]}
    graph = definitions.resolve_asset_graph()
    assert graph.external_asset_keys == {dg.AssetKey(["warehouse", "raw", "orders"])}


ODD_NAMES = ['"a-b"', '"a.b"', "a_b", '"1st"', '"größe"', '"select"', '"it\'s"']


def _all_are_run(project: Project, instance: dg.DagsterInstance, names: Sequence[str]) -> None:
    """Each model, and one that reads all of them, loads as an asset of its own, and materializes."""
    for number, name in enumerate(names):
        # different queries: SQLMesh mixes up models that are alike but for such characters
        text = f"MODEL (name demo.{name}, kind FULL);\nSELECT {number}::INT AS id;\n"
        project.write(f"models/odd_{number}.sql", text)
    reads = ", ".join(f"demo.{name} AS t{i}" for i, name in enumerate(names))
    project.model("reader", f"SELECT t0.id FROM {reads}")
    definitions = project.definitions()
    dg.Definitions.validate_loadable(definitions)
    upstream = _upstream(definitions)
    assert len(upstream) == len(names) + 1
    assert len(set(upstream["reader"])) == len(names)
    run = run_in_process(definitions, instance)
    assert run.success, run.failed
    assert len(run.materialized) == len(names) + 1


def test_names_that_dagster_does_not_allow_load_and_never_collide(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: hyphens, dots and reserved words are models like any other, also when they run."""
    _all_are_run(project, instance, ODD_NAMES)


@pytest.mark.parametrize("name", ['"a b"', '"a+b"', '"a(b"', '"a|b"', '"a:b"'])
def test_names_that_sqlmeshs_selector_cannot_read_are_run_all_the_same(
    project: Project, instance: dg.DagsterInstance, name: str
) -> None:
    """Promise: one model with such a name does not fail every model of its run."""
    _all_are_run(project, instance, ["plain", name])


def test_a_model_that_reads_two_look_alikes_keeps_both_dependencies(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: `a.b_c` next to `a_b.c` and `a__b.c` are different inputs, ops and keys."""
    names = ["a.b_c", "a_b.c", "a__b.c", "a.b__c"]
    for name in names:
        project.model(name, "SELECT 1::INT AS id")
    reads = ", ".join(f"{name} AS t{i}" for i, name in enumerate(names))
    project.model("reader", f"SELECT t0.id FROM {reads}")
    definitions = project.definitions()
    dg.Definitions.validate_loadable(definitions)
    parents = definitions.resolve_asset_graph().get(_key("reader")).parent_keys
    assert {"/".join(key.path[1:]) for key in parents} == {"a/b_c", "a_b/c", "a__b/c", "a/b__c"}
    run = run_in_process(definitions, instance)
    assert run.success, run.failed
    assert len(run.materialized) == 5
    assert run.materialized[-1] == "reader"


def test_two_look_alike_tables_that_are_loaded_by_dagster_are_both_upstream(
    project: Project,
) -> None:
    """Promise: external tables whose keys read alike once joined are two dependencies, too."""
    project.model("reader", "SELECT x.id::INT AS id FROM raw.a_b AS x, raw_a.b AS y")
    definitions = project.definitions(external_asset_mapping="{node.schema}/{node.name}")
    dg.Definitions.validate_loadable(definitions)
    assert _upstream(definitions) == {"reader": ["a_b", "b"]}


def test_two_models_that_a_translator_maps_to_one_key_are_an_error_that_names_both(
    project: Project,
) -> None:
    """Promise: a collision is reported by the models' names, not by a key."""

    class Same(SQLMeshTranslator):
        def get_asset_key(self, model: ModelRecord) -> dg.AssetKey:
            return dg.AssetKey("same")

    project.model("one", "SELECT 1::INT AS id")
    project.model("other", "SELECT 1::INT AS id")
    with pytest.raises(DuplicateAssetKeyError, match=r"`demo\.one` and `demo\.other`.*`same`"):
        project.definitions(translator=Same())


def test_external_keys_line_up_with_the_asset_that_loads_the_table(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: the loading asset is upstream in the merged graph, and runs first."""
    project.execute("CREATE SCHEMA raw")
    project.execute('CREATE TABLE raw."order-items" AS SELECT 0 AS id')
    project.model("staged", 'SELECT id::INT AS id FROM raw."order-items"')

    @dg.asset(key=["raw", "order-items"])
    def order_items() -> None:
        project.execute('UPDATE raw."order-items" SET id = 7')

    merged = dg.Definitions.merge(
        project.definitions(external_asset_mapping="{node.schema}/{node.name}"),
        dg.Definitions(assets=[order_items]),
    )
    dg.Definitions.validate_loadable(merged)
    graph = merged.resolve_asset_graph()
    assert not graph.external_asset_keys
    assert _upstream(merged) == {"order-items": [], "staged": ["order-items"]}
    run = run_in_process(merged, instance)
    assert run.success, run.failed
    assert run.materialized == ["order-items", "staged"]
    assert project.query("SELECT id FROM demo__dev.staged") == [(7,)]


# ---------------------------------------------------------------------------- checks


def test_the_same_audit_twice_is_two_checks_with_stable_names(project: Project) -> None:
    """Promise: reordering and adding audits renames no check, but where two would have one name."""
    kept = ["not_null(columns := (id))", "not_null(columns := (n))"]
    kept += ["accepted_range(column := n, min_v := 1)"]
    added = ["accepted_range(column := id, max_v := 1)", "unique_values(columns := (id))"]
    first, second = ", ".join(kept), ", ".join([*added, *kept[::-1]])
    query = "SELECT 1::INT AS id, 1::INT AS n"
    project.model("audited", query, f"kind FULL, audits ({first})")
    before = _checks(project.definitions())
    project.model("audited", query, f"kind FULL, audits ({second})")
    after = _checks(project.definitions())
    assert before == ["accepted_range_n", "not_null_id", "not_null_n"]
    assert set(before) < set(after)
    assert len(after) == 5


def test_an_audit_that_is_switched_off_is_no_check(project: Project) -> None:
    """Promise: no check waits for ever for a result."""
    project.write("audits/off.sql", "AUDIT (name off, skip true); SELECT * FROM @this_model;")
    project.model("audited", "SELECT 1::INT AS id", "kind FULL, audits (off)")
    assert _checks(project.definitions()) == []


def test_a_standalone_audit_waits_for_every_model_that_it_reads(project: Project) -> None:
    """Promise: its check is on one of them, and its op is downstream of all."""
    project.model("orders", "SELECT 1::INT AS id")
    project.model("payments", "SELECT 1::INT AS id")
    project.write(
        "audits/paid.sql",
        "AUDIT (name paid, standalone true);"
        " SELECT o.id FROM demo.orders AS o JOIN demo.payments AS p USING (id) WHERE false",
    )
    definitions = project.definitions()
    dg.Definitions.validate_loadable(definitions)
    job = definitions.resolve_job_def("sqlmesh_job")
    with dg.DagsterInstance.ephemeral() as instance:
        result = job.execute_in_process(instance=instance, run_config=run_config())
    starts = [str(e.step_key) for e in result.all_events if e.event_type_value == "STEP_START"]
    assert starts[-1].endswith("paid")
    assert len(starts) == 3


def test_a_standalone_audit_may_have_the_name_of_a_models_check(project: Project) -> None:
    """Promise: two audits never become one check."""
    project.model("orders", "SELECT 1::INT AS id", "kind FULL, audits (not_null(columns := (id)))")
    project.write(
        "audits/same.sql",
        "AUDIT (name not_null_id, standalone true); SELECT id FROM demo.orders WHERE false",
    )
    definitions = project.definitions()
    dg.Definitions.validate_loadable(definitions)
    assert len(_checks(definitions)) == 2


def test_the_same_call_twice_is_two_checks(project: Project) -> None:
    """Promise: neither a repetition nor an audit of a column called `id_2` is lost (it once was)."""
    project.model(
        "orders",
        "SELECT 1::INT AS id, 2::INT AS id_2",
        "kind FULL, audits (not_null(columns := (id)), not_null(columns := (id_2)),"
        " not_null(columns := (id), blocking := false))",
    )
    definitions = project.definitions()
    dg.Definitions.validate_loadable(definitions)
    assert _checks(definitions) == ["not_null_id", "not_null_id_2", "not_null_id__2"]


def test_audits_of_two_external_tables_under_one_key_are_two_checks(project: Project) -> None:
    """Promise: an asset that loads several tables shows the audits of each, and loads before readers."""
    tables = [
        f"- name: raw.{name}\n  columns: {{id: int}}\n  audits: [{{name: not_null, columns: '[id]'}}]\n"
        for name in ("a", "b")
    ]
    project.write("external_models.yaml", "".join(tables))
    project.model("reader", "SELECT a.id FROM raw.a JOIN raw.b USING (id)")
    definitions = project.definitions(external_asset_mapping="load_all")
    dg.Definitions.validate_loadable(definitions)
    assert _upstream(definitions) == {"reader": ["load_all"]}
    assert len(_checks(definitions)) == 2


def test_two_audits_that_a_translator_maps_to_one_check_are_an_error(project: Project) -> None:
    """Promise: an override that would lose an audit is reported, with the audit and its model."""

    class ByAudit(SQLMeshTranslator):
        def get_check_spec(self, audit: AuditRecord, asset_key: dg.AssetKey) -> dg.AssetCheckSpec:
            return dg.AssetCheckSpec(audit.name, asset=asset_key)

    audits = "not_null(columns := (id)), not_null(columns := (n))"
    project.model("orders", "SELECT 1::INT AS id, 1::INT AS n", f"kind FULL, audits ({audits})")
    with pytest.raises(DuplicateAssetKeyError, match=r"`not_null` of `demo\.orders`"):
        project.definitions(translator=ByAudit())


# ---------------------------------------------------------------------------- factories


def test_the_factory_takes_the_parameters_that_are_promised() -> None:
    """Promise: who comes from dg-sqlmesh changes an import and goes on; all are keywords."""
    parameters = inspect.signature(sqlmesh_definitions_factory).parameters
    promised = (
        "project_dir gateway environment concurrency_limit translator external_asset_mapping"
        " group_name op_tags owners schedule_name enable_schedule"
    )
    assert set(promised.split()) <= set(parameters)
    assert all(p.default is not p.empty for p in parameters.values())


def test_job_schedule_and_resources_have_their_names(project: Project) -> None:
    """Promise: without a name given, run configs and links can be written down."""
    project.model("full", "SELECT 1::INT AS id")
    definitions = project.definitions()
    assert definitions.resolve_job_def("sqlmesh_job").name == "sqlmesh_job"
    assert definitions.resolve_schedule_def("sqlmesh_adaptive_schedule").job_name == "sqlmesh_job"
    assert set(definitions.resources or {}) == {"sqlmesh", "sqlmesh_results"}


def test_a_schedule_is_stopped_unless_it_is_enabled(project: Project) -> None:
    """Promise: nothing runs by itself before somebody wants it to."""
    project.model("full", "SELECT 1::INT AS id")
    stopped = project.definitions().resolve_schedule_def("sqlmesh_adaptive_schedule")
    assert stopped.default_status is dg.DefaultScheduleStatus.STOPPED
    enabled = project.definitions(enable_schedule=True, schedule_name="mine")
    running = enabled.resolve_schedule_def("mine")
    assert running.default_status is dg.DefaultScheduleStatus.RUNNING


def test_op_tags_are_on_every_op(project: Project) -> None:
    """Promise: concurrency limits and queues can be set by tag; the integration's own can be replaced."""
    project.model("full", "SELECT 1::INT AS id", "kind FULL, audits (not_null(columns := (id)))")
    project.write(
        "audits/alone.sql", "AUDIT (name alone, standalone true); SELECT id FROM demo.full"
    )
    definitions = project.definitions(op_tags={"team": "data", "dagster/priority": "3"})
    nodes = definitions.resolve_job_def("sqlmesh_job").all_node_defs
    assert len(nodes) == 2
    for node in nodes:
        assert node.tags["team"] == "data"
        assert node.tags["dagster/priority"] == "3"


def test_the_parts_make_the_same_assets_as_the_whole(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: assets, schedule and resources can be put together by hand."""
    project.model("full", "SELECT 1::INT AS id", "kind FULL, audits (not_null(columns := (id)))")
    resource = SQLMeshResource(project_dir=str(project.root), environment="dev")
    schedule, job, assets = sqlmesh_adaptive_schedule_factory(sqlmesh_resource=resource)
    by_hand = dg.Definitions(
        assets=assets, jobs=[job], schedules=[schedule], resources=sqlmesh_resources(resource)
    )
    dg.Definitions.validate_loadable(by_hand)
    alone = sqlmesh_assets_factory(sqlmesh_resource=resource)
    assert [asset.key for asset in alone] == [asset.key for asset in assets] == [_key("full")]
    run = run_in_process(by_hand, instance)
    assert run.materialized == ["full"]
    assert run.passed == {"full:not_null_id": True}


def test_two_projects_fit_into_one_code_location_and_one_run(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    """Promise: a name keeps resources, jobs and schedules of two projects apart."""
    sales, stock = Project(tmp_path / "sales"), Project(tmp_path / "stock")
    sales.model(
        "sales.orders", "SELECT 1::INT AS id", "kind FULL, audits (not_null(columns := (id)))"
    )
    stock.model("stock.items", "SELECT 2::INT AS id")
    merged = dg.Definitions.merge(sales.definitions(name="sales"), stock.definitions(name="stock"))
    dg.Definitions.validate_loadable(merged)
    for name in ("sales", "stock"):
        assert merged.resolve_job_def(f"{name}_job")
        assert merged.resolve_schedule_def(f"{name}_adaptive_schedule").job_name == f"{name}_job"
    options = {"config": {"execution_time": NOW}}
    result = merged.resolve_implicit_global_asset_job_def().execute_in_process(
        instance=instance,
        run_config={"resources": {"sales_run_options": options, "stock_run_options": options}},
    )
    assert result.success
    assert len(result.get_asset_materialization_events()) == 2
    assert sales.query("SELECT id FROM sales__dev.orders") == [(1,)]
    assert stock.query("SELECT id FROM stock__dev.items") == [(2,)]


def test_one_projects_model_is_the_other_ones_external_table(tmp_path: Path) -> None:
    """Promise: projects on one warehouse line up without any mapping."""
    up, down = Project(tmp_path / "up"), Project(tmp_path / "down")
    up.model("made", "SELECT 1::INT AS id")
    down.model("reader", "SELECT id FROM demo.made")
    merged = dg.Definitions.merge(up.definitions(name="up"), down.definitions(name="down"))
    dg.Definitions.validate_loadable(merged)
    assert _upstream(merged) == {"made": [], "reader": ["made"]}
    assert not merged.resolve_asset_graph().external_asset_keys


@pytest.mark.parametrize(
    ("crons", "expected", "zone"),
    [
        ([("@daily", ""), ("@hourly", "")], "@hourly", "UTC"),
        ([("0 5 * * *", "Europe/Berlin"), ("@weekly", "")], "0 5 * * *", "Europe/Berlin"),
        ([("0 5 * * *", "Europe/Berlin"), ("0 5 * * *", "Asia/Tokyo")], "0 * * * *", "UTC"),
        ([("*/5 * * * *", "Europe/Berlin"), ("*/5 * * * *", "")], "*/5 * * * *", "UTC"),
        ([("*/15 8-18 * * 1-5", ""), ("@hourly", "")], ["*/15 8-18 * * 1-5", "@hourly"], "UTC"),
        ([("*/15 * * * *", ""), ("@hourly", ""), ("@daily", "")], "*/15 * * * *", "UTC"),
    ],
)
def test_no_model_waits_for_the_night_or_the_time_zone_of_another(
    project: Project, crons: Sequence[tuple[str, str]], expected: str | list[str], zone: str
) -> None:
    """Promise: the schedule ticks as the finest cron does, and while that one pauses, as the others."""
    for number, (cron, time_zone) in enumerate(crons):
        properties = f"kind FULL, cron '{cron}'" + (f", cron_tz '{time_zone}'" * bool(time_zone))
        project.model(f"m{number}", "SELECT 1::INT AS id", properties)
    definitions = project.definitions()
    dg.Definitions.validate_loadable(definitions)
    schedule = definitions.resolve_schedule_def("sqlmesh_adaptive_schedule")
    assert (schedule.cron_schedule, schedule.execution_timezone) == (expected, zone)


def test_settings_can_come_from_environment_variables(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise: an `EnvVar` is read when it is used; one that is not set is named, with its setting."""
    project.model("full", "SELECT 1::INT AS id")
    settings = {
        "project_dir": dg.EnvVar("THE_PROJECT"),
        "environment": dg.EnvVar("THE_ENVIRONMENT"),
    }
    monkeypatch.setenv("THE_ENVIRONMENT", "dev")
    monkeypatch.delenv("THE_PROJECT", raising=False)
    with pytest.raises(InvalidSettingError, match=r"`project_dir` .*`THE_PROJECT`.*Set it"):
        sqlmesh_definitions_factory(**settings)  # type: ignore[arg-type]
    monkeypatch.setenv("THE_PROJECT", str(project.root))
    dg.Definitions.validate_loadable(sqlmesh_definitions_factory(**settings))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"environment": dg.EnvVar("NOT_SET")}, "`environment` .*`NOT_SET`.*Set it"),
        ({"gateway": dg.EnvVar("NOT_SET")}, "`gateway` .*`NOT_SET`.*Set it"),
        ({"environment": ""}, "`environment` is empty"),
        ({"undeployed_changes": "maybe"}, "`maybe`.*apply, warn, fail"),
        ({"concurrency_limit": 0}, "`concurrency_limit` is 0.*1 or more"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused_when_defined(
    project: Project, settings: Mapping[str, object], words: str
) -> None:
    """Promise: the code location says what to write instead; no run has to fail first."""
    with pytest.raises(InvalidSettingError, match=words):
        project.definitions(**settings)


@pytest.mark.parametrize("name", ["two words", "a-b", "", "_x", "class"])
def test_a_name_that_cannot_be_a_prefix_is_refused(project: Project, name: str) -> None:
    """Promise: the message shows the name, and says what one may be."""
    with pytest.raises(InvalidSettingError, match=f"`name` is `{name}`.*letters"):
        project.definitions(name=name)


# ---------------------------------------------------------------------------- projects that don't load


@pytest.mark.parametrize(
    ("path", "text", "words"),
    [
        ("models/bad.sql", "MODEL (name demo.bad, kind FULL);\nSELECT FROM WHERE;\n", ["bad.sql"]),
        ("models/bad.sql", "SELECT 1 AS id;\n", ["bad.sql"]),
        ("models/bad.py", "import no_such_module\n", ["no_such_module"]),
        ("macros/bad.py", "def broken(:\n", ["bad.py"]),
        ("config.yaml", "gateways: [\n", ["gateways: [", "line 1"]),
        ("config.yaml", "", ["config.yaml", "empty"]),
        ("config.yaml", "model_defaults:\n  dialect: duckdb\n", ["No connection"]),
        ("config.yaml", "no_such_key: 1\nmodel_defaults:\n  dialect: duckdb\n", ["no_such_key"]),
    ],
)
def test_a_broken_project_is_one_clear_error(
    project: Project, path: str, text: str, words: Sequence[str]
) -> None:
    """Promise: SQLMesh's own words, the project, and the command that shows more."""
    project.model("good", "SELECT 1::INT AS id")
    project.write(path, text)
    with pytest.raises(ProjectLoadError) as caught:
        project.definitions()
    message = str(caught.value)
    assert str(project.root) in message
    assert "reload the code location" in message
    for word in words:
        assert word in message


def test_a_missing_folder_is_named_with_the_setting_to_change(tmp_path: Path) -> None:
    """Promise: a wrong `project_dir` is reported as that."""
    with pytest.raises(ProjectLoadError, match=r"nowhere.*`project_dir`"):
        sqlmesh_definitions_factory(project_dir=tmp_path / "nowhere")


def test_a_folder_without_a_config_is_named(tmp_path: Path) -> None:
    """Promise: a folder that is no SQLMesh project is reported as that."""
    with pytest.raises(ProjectLoadError, match=str(tmp_path)):
        sqlmesh_definitions_factory(project_dir=tmp_path)


def test_an_unknown_gateway_is_named(project: Project) -> None:
    """Promise: a misspelt gateway is reported at load, not in the first run."""
    with pytest.raises(ProjectLoadError, match="no_such_gateway"):
        project.definitions(gateway="no_such_gateway")


def test_an_empty_project_loads_with_a_warning(project: Project) -> None:
    """Promise: the first minute of a project is no error; nothing is scheduled yet."""
    with pytest.warns(UserWarning, match="no models"):
        definitions = project.definitions()
    dg.Definitions.validate_loadable(definitions)
    assert not list(definitions.schedules or ())
    assert not definitions.resolve_asset_graph().executable_asset_keys


# ---------------------------------------------------------------------------- import


def test_importing_the_package_imports_neither_sqlmesh_nor_pandas() -> None:
    """Promise: what only imports the integration pays for Dagster alone."""
    code = (
        "import sys, sqlmesh_dagster\n"
        "print(*{'sqlmesh', 'sqlglot', 'pandas', 'duckdb'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": _source_folder()},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == []


def _source_folder() -> str:
    import sqlmesh_dagster

    return str(Path(sqlmesh_dagster.__file__).parents[1])


def test_the_catalogue_has_column_lineage_and_the_place_of_the_code(project: Project) -> None:
    """Promise: columns lead to the assets that the translator keys, external ones too."""
    project.model("orders", "SELECT id::INT AS id FROM raw.orders")
    project.model("copies", "SELECT id FROM demo.orders")
    definitions = project.definitions(external_asset_mapping="raw/{node.name}")
    specs = {s.key.path[-1]: s for s in definitions.resolve_all_asset_specs()}
    lineage = {
        name: specs[name].metadata["dagster/column_lineage"].deps_by_column
        for name in ("copies", "warehouse/demo/orders".rpartition("/")[2])
        if specs[name].metadata.get("dagster/column_lineage")
    }
    assert lineage["copies"] == {
        "id": [dg.TableColumnDep(dg.AssetKey(["warehouse", "demo", "orders"]), "id")]
    }
    (reference,) = specs["copies"].metadata["dagster/code_references"].code_references
    assert isinstance(reference, dg.LocalFileCodeReference)
    assert Path(reference.file_path) == project.root / "models/demo_46_copies.sql"
    assert reference.line_number == 1


def test_code_on_a_git_host_is_linked_to_its_line(project: Project) -> None:
    """Promise: whatever the host; the setting is the address of the project's folder."""
    project.write("models/deep/late.sql", "-- It.\nMODEL (name demo.late);\nSELECT 1::INT AS id;\n")
    settings = TranslatorSettings(code_url="https://git.example.com/a/b/-/blob/main/sqlmesh/")
    definitions = project.definitions(translator=SQLMeshTranslator(settings=settings))
    (spec,) = definitions.resolve_all_asset_specs()
    _, reference = spec.metadata["dagster/code_references"].code_references
    assert isinstance(reference, dg.UrlCodeReference)
    assert (
        reference.url == "https://git.example.com/a/b/-/blob/main/sqlmesh/models/deep/late.sql#L2"
    )
