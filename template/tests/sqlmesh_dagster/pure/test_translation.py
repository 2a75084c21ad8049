"""Records → assets and checks: the translator's own policies, and what a project makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import dagster as dg
import pytest

from sqlmesh_dagster.definition.project import DagsterProject, translate
from sqlmesh_dagster.definition.records import (
    AuditRecord,
    ColumnRecord,
    Manifest,
    ModelRecord,
    StandaloneAuditRecord,
)
from sqlmesh_dagster.errors import DuplicateAssetKeyError, InvalidSettingError
from sqlmesh_dagster.run.plans import invalidate_job, plan_job
from sqlmesh_dagster.run.verification import verify_job
from sqlmesh_dagster.translator import (
    SQLMeshTranslator,
    TranslatorSettings,
    split_fqn,
    unknown_properties,
)
from tests.sqlmesh_dagster.pure.records import audit, external, fqn, manifest, model

PLAIN = SQLMeshTranslator()
HOUR = 3600.0


def translated(
    found: Manifest, translator: SQLMeshTranslator = PLAIN, **given: Any
) -> DagsterProject:
    """A project of the name `x`."""
    return translate(found, translator, **{"name": "x", "group_name": "g", "owners": (), **given})


def only(*models: ModelRecord, **given: Any) -> dg.AssetSpec:
    """The spec of the last model."""
    return translated(manifest(*models), **given).assets[-1].spec


def switched_on(**settings: Any) -> SQLMeshTranslator:
    """A translator with these settings."""
    return SQLMeshTranslator(settings=TranslatorSettings(**settings))


# ------------------------------------------------------------ names


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ('"db"."s"."t"', ["db", "s", "t"]),
        ("s.t", ["s", "t"]),
        ('"a.b"."c""d"', ["a.b", 'c"d']),
        ("t", ["t"]),
    ],
)
def test_a_table_name_is_split_at_dots_outside_quotes(name: str, parts: list[str]) -> None:
    """Promise: doubled quotes are one."""
    assert split_fqn(name) == parts


def test_a_model_without_catalog_has_a_shorter_key() -> None:
    """Promise: empty parts are left out."""
    assert only(model("m", catalog="")).key == dg.AssetKey(["demo", "m"])
    assert PLAIN.get_external_asset_key('"a-b"."t"').path[1] == "t"


@pytest.mark.parametrize(
    ("template", "key"),
    [
        ("raw/{node.schema}/{node.name}", ["raw", "s", "t.1"]),
        ("{{ node.database }}/{node.name}", ["d", "t.1"]),
        ("{node.fqn}", ["d.s.t.1"]),
        ("/a//{node.name}/", ["a", "t.1"]),
        ("src_{node.name}", ["src_t.1"]),
    ],
)
def test_a_mapping_gives_the_key_of_an_external_table(template: str, key: list[str]) -> None:
    """Promise: fields in one or two braces; empty segments are left out."""
    translator = SQLMeshTranslator(external_asset_mapping=template)
    assert translator.get_external_asset_key('"d"."s"."t.1"') == dg.AssetKey(key)


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (
            "{node.table}",
            "`external_asset_mapping` has the unknown field `node.table` in `{node.table}`. Use one of:"
            " node.database, node.schema, node.name, node.fqn.",
        ),
        (
            "{node.name}}/{",
            "`external_asset_mapping` has a brace without its partner in `{node.name}}/{`. Write fields"
            " as in `raw/{node.name}`.",
        ),
        (
            "raw}",
            "`external_asset_mapping` has a brace without its partner in `raw}`. Write fields as in"
            " `raw/{node.name}`.",
        ),
        (" / ", "`external_asset_mapping` is empty. Write a key such as `raw/{node.name}`."),
        ("", "`external_asset_mapping` is empty. Write a key such as `raw/{node.name}`."),
    ],
)
def test_a_mapping_that_makes_no_sense_is_refused(template: str, words: str) -> None:
    """Promise: with what is wrong and how to write it."""
    with pytest.raises(InvalidSettingError) as caught:
        SQLMeshTranslator(external_asset_mapping=template)
    assert caught.value.description == words


def test_a_mapping_that_names_nothing_is_refused_where_it_is_used() -> None:
    """Promise: a table without a database has no `node.database`."""
    translator = SQLMeshTranslator(external_asset_mapping="{node.database}")
    assert translator.get_external_asset_key('"d"."s"."t"') == dg.AssetKey("d")
    with pytest.raises(InvalidSettingError, match=r"gives the table `t` no name. Add"):
        translator.get_external_asset_key("t")


# ------------------------------------------------------------ the model's own words


def test_tags_of_dagsters_set_its_properties_and_are_no_tags() -> None:
    """Promise: group, owner and description; the first of several groups."""
    tags = (
        "dagster:group_name: a b",
        "dagster:group_name:c",
        "dagster:owner:team:x",
        "dagster:owner:y",
        "dagster:description:What it is",
        "plain",
    )
    spec = only(model("m", tags=tags, owner="z", description="Other"))
    assert (spec.group_name, spec.description) == ("a_b", "What it is")
    assert list(spec.owners) == ["team:x", "team:y"]
    assert dict(spec.tags) == {"dagster/storage_kind": "duckdb", "plain": "true"} | {
        tag: value for tag, value in spec.tags.items() if tag.startswith("dagster/kind/")
    }


def test_a_tag_that_sets_nothing_is_told_apart_from_one_that_does() -> None:
    """Promise: every right one is right, also `dagster:group_name:…`; a misspelt one is found."""
    right = ["dagster:group_name:a", "dagster:owner:b", "dagster:description:c", "other", "dagster"]
    wrong = ["dagster:group:a", "dagster:group_name", "dagster:"]
    assert unknown_properties(right) == []
    assert unknown_properties([*right, *wrong]) == wrong


def test_what_a_model_does_not_say_comes_from_the_factory() -> None:
    """Promise: group and owners; what it says wins."""
    silent = only(model("m"), group_name="a b", owners=["team:x"])
    assert (silent.group_name, list(silent.owners)) == ("a_b", ["team:x"])
    said = only(
        model("m", owner="a@b.example", tags=("dagster:group_name:own",)), owners=["team:x"]
    )
    assert (said.group_name, list(said.owners)) == ("own", ["a@b.example"])
    assert PLAIN.get_owners(model("m", owner="team:")) == ["team:team:"]


def test_a_grain_is_told_unless_the_description_does() -> None:
    """Promise: and there is no description of a grain alone."""
    assert only(model("m", description="Text", grains=("a", "b"))).description == (
        "Text\n\nGrain: a, b."
    )
    assert only(model("m", description="Grain: x", grains=("a",))).description == "Grain: x"
    assert only(model("m", grains=("a",))).description is None
    assert only(model("m", description="Text")).description == "Text"


@pytest.mark.parametrize(
    ("changes", "kinds"),
    [
        ({}, {"sqlmesh", "duckdb", "table"}),
        ({"kind": "VIEW"}, {"sqlmesh", "duckdb", "view"}),
        ({"kind": "VIEW", "is_materialized_view": True}, {"sqlmesh", "duckdb", "table"}),
        ({"source_type": "python"}, {"sqlmesh", "duckdb", "python"}),
        ({"source_type": "seed", "dialect": ""}, {"sqlmesh", "csv"}),
    ],
)
def test_kinds_say_what_a_model_is(changes: dict[str, Any], kinds: set[str]) -> None:
    """Promise: SQLMesh, the engine, and a table, a view, Python or a file."""
    assert only(model("m", **changes)).kinds == kinds


def test_facts_are_shown_where_there_are_some() -> None:
    """Promise: table name and columns for Dagster, the rest under `sqlmesh/`."""
    bare = dict(only(model("m", cron="")).metadata)
    assert {key: getattr(value, "value", value) for key, value in bare.items()} == {
        "dagster/table_name": "db.demo.m",
        "sqlmesh/kind": "FULL",
        "sqlmesh/interval_unit": "day",
        "sqlmesh/dialect": "duckdb",
    }
    full = only(
        model(
            "m",
            columns=(ColumnRecord("id", "INT", "Its number"),),
            grains=("a", "b"),
            references=("c", "d"),
            partitioned_by=("e", "f"),
            gateway="gate",
            time_column="day",
            start="2025-01-01",
            is_forward_only=True,
            path="models/m.sql",
        ),
        translator=switched_on(code_references=False),
    ).metadata
    shown = {key: value for key, value in full.items() if key.startswith("sqlmesh/")}
    assert {key: getattr(value, "value", value) for key, value in shown.items()} == {
        "sqlmesh/kind": "FULL",
        "sqlmesh/cron": "@daily",
        "sqlmesh/interval_unit": "day",
        "sqlmesh/dialect": "duckdb",
        "sqlmesh/gateway": "gate",
        "sqlmesh/grain": "a, b",
        "sqlmesh/references": "c, d",
        "sqlmesh/partitioned_by": "e, f",
        "sqlmesh/time_column": "day",
        "sqlmesh/start": "2025-01-01",
        "sqlmesh/forward_only": True,
        "sqlmesh/path": "models/m.sql",
    }
    schema = full["dagster/column_schema"]
    assert isinstance(schema, dg.TableSchema)
    (column,) = schema.columns
    assert (column.name, column.type, column.description) == ("id", "INT", "Its number")


# ------------------------------------------------------------ settings


def test_policies_are_off_unless_they_are_asked_for() -> None:
    """Promise: the defaults add nothing to a plain asset."""
    spec = only(model("m", kind="INCREMENTAL_BY_TIME_RANGE", first_interval="2025-01-01T00:00:00"))
    assert (spec.freshness_policy, spec.automation_condition, spec.partitions_def) == (None,) * 3
    assert not spec.is_virtual


def test_freshness_follows_the_longest_pause_of_the_cron() -> None:
    """Promise: a warning after one and a half of it, a failure after two; a seed is never stale."""
    translator = switched_on(freshness_policies=True)
    policy = only(model("m", cron_gap=2 * HOUR), translator=translator).freshness_policy
    assert policy == dg.FreshnessPolicy.time_window(
        fail_window=timedelta(hours=4), warn_window=timedelta(hours=3)
    )
    assert only(model("m", kind="SEED"), translator=translator).freshness_policy is None


def test_automation_follows_the_cron_in_its_time_zone() -> None:
    """Promise: UTC where there is none; a seed has none."""
    translator = switched_on(automation_conditions=True)
    condition = only(model("m", cron="0 5 * * *"), translator=translator).automation_condition
    assert condition is not None and condition.get_label() == "cron of the model: 0 5 * * *"
    text = repr(condition)
    assert "0 5 * * *" in text and "UTC" in text
    elsewhere = only(model("m", cron_tz="Asia/Tokyo"), translator=translator)
    assert "Asia/Tokyo" in repr(elsewhere.automation_condition)
    assert only(model("m", kind="SEED"), translator=translator).automation_condition is None


def test_only_views_can_be_seen_through() -> None:
    """Promise: a table holds data of its own."""
    translator = switched_on(virtual_views=True)
    assert only(model("m", kind="VIEW"), translator=translator).is_virtual
    assert not only(model("m"), translator=translator).is_virtual


def test_code_is_linked_for_an_editor_and_on_a_git_host() -> None:
    """Promise: file and line; a model without a file, or a translator that says no, has none."""
    key = "dagster/code_references"

    def links(translator: SQLMeshTranslator, path: str | None = "models/a b.sql") -> Any:
        references = only(model("m", path=path, line=3), translator=translator).metadata.get(key)
        return getattr(references, "code_references", None)

    (local,) = links(PLAIN)
    assert (local.file_path, local.line_number) == ("/project/models/a b.sql", 3)
    assert local.label == "demo.m"
    local, remote = links(switched_on(code_url="https://host/tree/"))
    assert remote.url == "https://host/tree/models/a%20b.sql#L3" and remote.label == "demo.m"
    assert links(switched_on(code_references=False)) is None
    assert links(PLAIN, path=None) is None


# ------------------------------------------------------------ the project


def test_a_model_depends_on_what_it_reads() -> None:
    """Promise: models and external tables; itself is no dependency, and a translator's own come first."""

    class Own(SQLMeshTranslator):
        def get_asset_spec(self, model: ModelRecord) -> dg.AssetSpec:
            return super().get_asset_spec(model).replace_attributes(deps=["own"])

    raw = external("t")
    found = manifest(model("a"), model("b", fqn("a"), raw.fqn, fqn("b")), externals=(raw,))
    keys = [["db", "demo", "a"], ["db", "raw", "t"]]
    spec = translated(found).assets[1].spec
    assert [dep.asset_key.path for dep in spec.deps] == keys
    own = translated(found, Own()).assets[1].spec
    assert [dep.asset_key.path for dep in own.deps] == [["own"], *keys]


def test_two_models_of_one_key_are_refused() -> None:
    """Promise: both are named, with the method that distinguishes them."""

    class Same(SQLMeshTranslator):
        def get_asset_key(self, model: ModelRecord) -> dg.AssetKey:
            return dg.AssetKey("same")

    words = (
        "models `demo.a` and `demo.b` get the same asset key `same`. Let the translator's `get_a"
    )
    with pytest.raises(DuplicateAssetKeyError, match=words):
        translated(manifest(model("a"), model("b")), Same())


def test_an_external_table_is_shown_once_and_never_beside_a_model() -> None:
    """Promise: of two tables under one key the first is kept; a key that a model has is the model's."""

    class Mapped(SQLMeshTranslator):
        settings = TranslatorSettings(external_assets=True)

        def get_external_asset_key(self, external_fqn: str) -> dg.AssetKey:
            if external_fqn == fqn("as_model", "raw"):
                return dg.AssetKey(["db", "demo", "m"])
            return dg.AssetKey(["shared"])

    tables = tuple(external(name, description=name) for name in ("as_model", "first", "second"))
    shown = translated(manifest(model("m"), externals=tables), Mapped()).externals
    assert [(spec.key.path, spec.description) for spec in shown] == [(["shared"], "first")]
    assert translated(manifest(model("m"), externals=tables)).externals == ()


def test_a_model_of_another_project_is_shown_once_and_never_beside_an_external_table() -> None:
    """Promise: under one key the table is kept, then the first model; Dagster takes no key twice."""

    class Mapped(SQLMeshTranslator):
        settings = TranslatorSettings(external_assets=True)

        def get_external_asset_key(self, external_fqn: str) -> dg.AssetKey:
            return dg.AssetKey(["theirs"])

        def get_asset_key(self, model: ModelRecord) -> dg.AssetKey:
            return dg.AssetKey(["theirs"] if model.view_name == "table" else ["shared"])

    others = (model("table"), model("first", description="1"), model("second", description="2"))
    found = manifest(externals=(external("raw", description="raw"),), others=others)
    shown = translated(found, Mapped()).externals
    assert [spec.key.path for spec in shown] == [["theirs"], ["shared"]]
    assert (shown[0].description or "").startswith("raw")
    assert "1" in (shown[1].description or "")


def test_an_external_table_shows_its_description_and_columns() -> None:
    """Promise: and its name, and nothing that is not known."""
    table = external("t", description="Words", columns=(ColumnRecord("id", "INT"),))
    spec = PLAIN.get_external_asset_spec(table)
    assert (spec.key.path, spec.description) == (["db", "raw", "t"], "Words")
    assert dict(spec.metadata) == {
        "dagster/table_name": "db.raw.t",
        "dagster/column_schema": dg.TableSchema([dg.TableColumn("id", "INT")]),
    }
    assert dict(PLAIN.get_external_asset_spec(external("u")).metadata) == {
        "dagster/table_name": "db.raw.u"
    }


def test_column_lineage_leads_to_known_columns() -> None:
    """Promise: a column whose source is no asset is left out, and a model without any has none."""
    key = "dagster/column_lineage"
    columns = (
        ColumnRecord("x", "INT", sources=((fqn("a"), "y"), ("unknown", "z"))),
        ColumnRecord("n", "INT", sources=(("unknown", "z"),)),
    )
    models = (model("a"), model("b", fqn("a"), columns=columns))
    lineage = only(*models).metadata[key]
    assert isinstance(lineage, dg.TableColumnLineage)
    ((column, (dep,)),) = lineage.deps_by_column.items()
    assert (column, dep.column_name) == ("x", "y")
    assert dep.asset_key == dg.AssetKey(["db", "demo", "a"])
    assert key not in only(*models, translator=switched_on(column_lineage=False)).metadata
    assert key not in only(model("b", columns=columns[1:])).metadata


def names(*records: AuditRecord, **settings: Any) -> list[str]:
    """Names of the checks of a model with these audits."""
    found = manifest(model("m", audits=records))
    translator = switched_on(**settings)
    return [spec.name for _, spec in translated(found, translator).assets[0].checks]


def test_each_audit_that_is_on_is_a_check() -> None:
    """Promise: one that is skipped is none; all can be switched off."""
    audits = (audit("a"), audit("off", skip=True), audit("b"))
    assert names(*audits) == ["a", "b"]
    assert names(*audits, asset_checks=False) == []


def test_checks_can_have_the_long_names_of_older_versions() -> None:
    """Promise: an older project may keep names and history, digests of one that is taken included."""
    audits = (audit("a", long_name="a_n_1"), audit("b", check_name="a", long_name="a_n_1"))
    assert names(*audits[:1], long_check_names=True) == ["a_n_1"]
    assert names(*audits[:1]) == ["a"]
    first, second = names(*audits, long_check_names=True)
    assert first == "a_n_1" and second.startswith("a_n_1_")


def test_a_check_says_what_its_audit_does() -> None:
    """Promise: its own description, or call and effect; the call and the SQL next to it."""
    own = PLAIN.get_check_spec(audit("a", description="Words"), dg.AssetKey("k"))
    assert own.description == "Words" and not own.blocking
    assert dict(own.metadata) == {"sqlmesh/audit": "a", "sqlmesh/fails_model": True}
    record = audit("a", arguments=(("x", "1"), ("y", "2")), blocking=False, query="SELECT 1")
    spec = PLAIN.get_check_spec(record, dg.AssetKey("k"))
    assert spec.description == ("SQLMesh audit `a(x := 1, y := 2)`. When it finds rows, it warns.")
    fails = PLAIN.get_check_spec(replace(record, blocking=True), dg.AssetKey("k")).description
    assert fails is not None and "the model fails, and what reads it is skipped" in fails
    # Dagster's page says "Non-blocking" of each check: the steps downstream do not wait for it
    for text in (spec.description, fails, *spec.metadata):
        assert "blocking" not in text
    assert spec.metadata["sqlmesh/arguments"] == {"x": "1", "y": "2"}
    assert spec.metadata["sqlmesh/query"] == dg.MetadataValue.md("```sql\nSELECT 1\n```")
    plain = PLAIN.get_check_spec(audit("b"), dg.AssetKey("k")).description
    assert plain is not None and plain.startswith(
        "SQLMesh audit `b`. When it finds rows, the model"
    )


def standalone(name: str, *reads: str) -> StandaloneAuditRecord:
    """A standalone audit that reads these tables."""
    return StandaloneAuditRecord(audit(name), reads)


def test_a_standalone_audit_is_shown_on_the_last_table_and_waits_for_the_others() -> None:
    """Promise: external tables come first, as nothing is built before them."""
    raw = external("t")
    found = manifest(
        model("a"),
        model("b"),
        externals=(raw,),
        standalone_audits=(standalone("s", fqn("b"), raw.fqn, fqn("a")), standalone("none", "x")),
    )
    (check,) = translated(found).table_checks
    ((_, spec),) = check.checks
    assert (check.snapshot, spec.key.asset_key.path) == ("s", ["db", "demo", "b"])
    assert [dep.asset_key.path for dep in spec.additional_deps] == [
        ["db", "raw", "t"],
        ["db", "demo", "a"],
    ]
    assert check.op_name == "db__demo__b__s"


def test_a_standalone_check_keeps_what_its_translator_says() -> None:
    """Promise: waiting for other tables is added, and the table can be chosen by the audit."""

    class Own(SQLMeshTranslator):
        def get_standalone_check_asset(
            self, audit: StandaloneAuditRecord, candidates: Sequence[str]
        ) -> str:
            return candidates[0 if audit.audit.name == "s" else -1]

        def get_check_spec(self, audit: AuditRecord, asset_key: dg.AssetKey) -> dg.AssetCheckSpec:
            return dg.AssetCheckSpec(
                "own",
                asset=asset_key,
                description="Words",
                additional_deps=[dg.AssetKey("other")],
                blocking=True,
                metadata={"a": 1},
                automation_condition=dg.AutomationCondition.eager(),
            )

    found = manifest(
        model("a"), model("b"), standalone_audits=(standalone("s", fqn("a"), fqn("b")),)
    )
    (check,) = translated(found, Own()).table_checks
    ((_, spec),) = check.checks
    assert (spec.asset_key.path, spec.description, spec.blocking) == (
        ["db", "demo", "a"],
        "Words",
        True,
    )
    assert [dep.asset_key.path for dep in spec.additional_deps] == [["other"], ["db", "demo", "b"]]
    assert (dict(spec.metadata), spec.automation_condition) == (
        {"a": 1},
        dg.AutomationCondition.eager(),
    )


def test_checks_of_one_name_on_one_asset_are_told_apart() -> None:
    """Promise: the later one gets a digest; a translator that drops it is refused."""
    found = manifest(
        model("m", audits=(audit("a"),)), standalone_audits=(standalone("a", fqn("m")),)
    )
    project = translated(found)
    ((_, spec),) = project.table_checks[0].checks
    assert project.assets[0].checks[0][1].name == "a"
    assert spec.name.startswith("a_") and len(spec.name) == len("a_123456")

    class Dropped(SQLMeshTranslator):
        def get_check_spec(self, audit: AuditRecord, asset_key: dg.AssetKey) -> dg.AssetCheckSpec:
            return dg.AssetCheckSpec(audit.name, asset=asset_key)

    with pytest.raises(
        DuplicateAssetKeyError, match="same check `a` on `db/demo/m`; one is `a` of"
    ):
        translated(found, Dropped())


def test_an_external_table_is_checked_by_its_audits_alone() -> None:
    """Promise: one without an audit has no op."""
    tables = (external("t", audits=(audit("a"),)), external("u"))
    (check,) = translated(manifest(externals=tables)).table_checks
    assert (check.snapshot, check.op_name) == (tables[0].fqn, "db__raw__t__a")


def test_checks_of_the_code_are_there_when_they_are_asked_for() -> None:
    """Promise: unit tests where a model has some, the linter for each; a taken name is refused."""
    found = manifest(model("a", unit_tests=("t1", "t2")), model("b"))
    assert translated(found).verification_checks == ()
    both = switched_on(unit_test_checks=True, lint_checks=True)
    checks = translated(found, both).verification_checks
    assert [(c.kind, c.model.view_name, c.spec.name) for c in checks] == [
        ("unit_tests", "a", "unit_tests"),
        ("lint", "a", "lint"),
        ("lint", "b", "lint"),
    ]
    assert checks[0].spec.description == "SQLMesh unit tests: t1, t2."
    assert checks[1].spec.description == "SQLMesh's linter, with the project's rules."
    taken = manifest(model("a", audits=(audit("lint"),)))
    with pytest.raises(DuplicateAssetKeyError, match=r"check `lint` of `demo\.a` has the"):
        translated(taken, both)


def test_partitioned_assets_have_a_policy_and_read_what_is_older() -> None:
    """Promise: one run for a range; upstream partitions need not exist; others have neither."""
    daily = {"kind": "INCREMENTAL_BY_TIME_RANGE", "first_interval": "2025-01-01T00:00:00+00:00"}
    found = manifest(model("a", **daily), model("b", fqn("a"), **daily), model("c", fqn("b")))
    a, b, c = translated(found, switched_on(partitions=True)).assets
    assert a.partitions is not None and c.partitions is None
    assert (a.backfill_policy, c.backfill_policy) == (dg.BackfillPolicy.single_run(), None)
    (of_b,), (of_c,) = b.spec.deps, c.spec.deps
    assert isinstance(of_b.partition_mapping, dg.TimeWindowPartitionMapping)
    assert of_b.partition_mapping.allow_nonexistent_upstream_partitions
    assert of_c.partition_mapping is None


def test_definitions_that_are_older_than_the_files_say_so() -> None:
    """Promise: on each asset, with what is broken."""
    found = replace(manifest(model("m")), problem="line 3")
    text = translated(found).assets[0].spec.metadata["sqlmesh/problem"]
    assert text == dg.MetadataValue.md(
        "These definitions are the last good ones.\n\n```\nline 3\n```"
    )
    assert "sqlmesh/problem" not in only(model("m")).metadata


def test_what_belongs_to_a_project_begins_with_its_name() -> None:
    """Promise: two projects of one code location share nothing."""
    project = translated(manifest(model("m")))
    assert (project.results_key, project.options_key) == ("x_results", "x_run_options")
    assert (project.job_name, project.schedule_name) == ("x_job", "x_adaptive_schedule")
    assert project.sync_sensor_name == "x_sync_sensor"
    jobs = [plan_job(project), invalidate_job(project), verify_job(project)]
    assert [job.name for job in jobs] == ["x_plan_job", "x_invalidate_job", "x_verify_job"]
    ops = [node.name for job in jobs for node in job.nodes]
    assert ops == ["x_plan", "x_invalidate", "x_verify"]
    key = dg.AssetKey(["db", "demo", "m"])
    assert project.keys_by_fqn == {fqn("m"): key} and project.fqns_by_key == {key: fqn("m")}
    assert project.assets_by_fqn == {fqn("m"): project.assets[0]}
    assert project.assets[0].op_name == "db__demo__m"


def test_a_project_knows_checks_and_names_by_table() -> None:
    """Promise: of models and of external tables; of anything else none, and its FQN without quotes."""
    table = external("t", audits=(audit("b"),))
    other = external("u", audits=(audit("c"),))
    project = translated(manifest(model("m", audits=(audit("a"),)), externals=(other, table)))
    names = {
        name: [spec.name for _, spec in project.checks_of(name)] for name in (fqn("m"), table.fqn)
    }
    assert names == {fqn("m"): ["a"], table.fqn: ["b"]}
    assert project.checks_of("unknown") == ()
    assert project.plain_name(fqn("m")) == "demo.m"
    assert project.plain_name(table.fqn) == "db.raw.t"


def test_the_page_of_a_model_shows_its_sql() -> None:
    """Promise: below the author's words, as it is written; a setting leaves it out, a long one is cut."""
    written = model("m", description="Text", query="SELECT\n  1 AS a")
    shown = SQLMeshTranslator().get_description(written)
    assert shown == "Text\n\n```sql\nSELECT\n  1 AS a\n```"
    plain = SQLMeshTranslator(settings=TranslatorSettings(model_sql=False))
    assert plain.get_description(written) == "Text"
    long = model("m", query="\n".join(f"line {n}" for n in range(300)))
    text = SQLMeshTranslator().get_description(long)
    assert text and "line 199" in text and "line 200" not in text and "and 100 more lines" in text


def test_the_page_of_a_model_shows_its_columns() -> None:
    """Promise: between the author's words and the SQL; each of two settings leaves the picture out."""
    column = ColumnRecord("id", "INT", sources=(('"db"."raw"."t"', "key"),))
    written = model("m", description="Text", query="SELECT 1 AS id", columns=(column,))
    text = SQLMeshTranslator().get_description(written) or ""
    words, picture, sql = text.split("\n\n")
    assert words == "Text" and sql.startswith("```sql")
    assert picture.startswith("![Columns of demo.m, and what they are made of](data:image/svg+xml;")
    for settings in (
        TranslatorSettings(column_diagram=False),
        TranslatorSettings(column_lineage=False),
    ):
        assert "![" not in (SQLMeshTranslator(settings=settings).get_description(written) or "")
    nameless = SQLMeshTranslator().get_description(model("m", columns=(column,))) or ""
    assert nameless.startswith("SQLMesh model of kind FULL.\n\n![")
    assert SQLMeshTranslator().get_description(model("m")) is None


def test_columns_say_what_audits_promise_and_where_they_come_from() -> None:
    """Promise: only a blocking audit without a condition is a constraint."""
    columns = (
        ColumnRecord("id", "INT", "Number.", (('"db"."raw"."t"', "key"),)),
        ColumnRecord("n", "INT"),
        ColumnRecord("free", "INT"),
    )
    audits = (
        AuditRecord("not_null", "c1", (("columns", "(id, n)"),)),
        AuditRecord("unique_values", "c2", (("columns", "(id)"),)),
        AuditRecord("unique_values", "c3", (("columns", "(n)"), ("condition", "n > 1"))),
        AuditRecord("not_null", "c4", (("columns", "(free)"),), blocking=False),
    )
    metadata = SQLMeshTranslator().get_metadata(model("m", columns=columns, audits=audits))
    number, n, free = metadata["dagster/column_schema"].columns
    assert number.description == "Number.\n\nFrom `raw.t.key`."
    assert (number.constraints.nullable, number.constraints.unique) == (False, True)
    assert (n.constraints.nullable, n.constraints.unique) == (False, False)
    assert (free.constraints.nullable, free.constraints.unique) == (True, False)
