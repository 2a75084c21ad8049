"""How models look in Dagster: overrides, the mapping of external tables, tags, owners."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from datetime import datetime, timedelta
from typing import Any

import dagster as dg
import pytest

from sqlmesh_dagster import (
    AuditRecord,
    InvalidSettingError,
    ModelRecord,
    SQLMeshTranslator,
    StandaloneAuditRecord,
    TranslatorSettings,
)
from tests.sqlmesh_dagster.projects import Project


def _specs(project: Project, **settings: object) -> Mapping[str, dg.AssetSpec]:
    """Specs of the assets that SQLMesh builds, by the last part of their keys."""
    definitions = project.definitions(**settings)
    dg.Definitions.validate_loadable(definitions)
    executable = definitions.resolve_asset_graph().executable_asset_keys
    specs = definitions.resolve_all_asset_specs()
    return {spec.key.path[-1]: spec for spec in specs if spec.key in executable}


def _tagged(project: Project, *tags: str, properties: str = "kind FULL") -> dg.AssetSpec:
    quoted = ", ".join(f"'{tag}'" for tag in tags)
    project.model("tagged", "SELECT 1::INT AS id", f"{properties}, tags ({quoted})")
    return _specs(project)["tagged"]


# ---------------------------------------------------------------------------- overrides


def test_an_asset_shows_what_sqlmesh_knows(project: Project) -> None:
    """Promise: without a line of configuration, description, columns, kinds and facts are there."""
    project.write(
        "models/any.sql",
        """
        /* What it is. */
        MODEL (name demo.any, kind FULL, owner 'sales', grain id, cron '@hourly');

        SELECT 1::INT AS id /* Its number */
        """,
    )
    spec = _specs(project)["any"]
    assert spec.key == dg.AssetKey(["warehouse", "demo", "any"])
    assert str(spec.description).partition("\n\n```sql\n")[0] == "What it is.\n\nGrain: id."
    assert spec.group_name == "sqlmesh"
    assert spec.owners == ["team:sales"]
    assert spec.kinds == {"sqlmesh", "duckdb", "table"}
    assert spec.code_version
    assert spec.metadata["dagster/table_name"] == "warehouse.demo__dev.any"
    (column,) = spec.metadata["dagster/column_schema"].columns
    assert (column.name, column.type, column.description) == ("id", "INT", "Its number")
    assert spec.metadata["sqlmesh/kind"] == "FULL"
    assert spec.metadata["sqlmesh/cron"] == "@hourly"
    assert spec.metadata["sqlmesh/grain"] == "id"
    assert spec.metadata["sqlmesh/path"] == "models/any.sql"


def test_each_part_can_be_overridden_alone(project: Project) -> None:
    """Promise: one method changes one thing, and the rest stays; dependencies follow the keys."""

    class Ours(SQLMeshTranslator):
        def get_asset_key(self, model: ModelRecord) -> dg.AssetKey:
            return dg.AssetKey(["ours", model.view_name])

        def get_group_name(self, model: ModelRecord) -> str | None:
            return f"of_{model.schema_name}"

        def get_owners(self, model: ModelRecord) -> Sequence[str]:
            return ["team:ours"]

        def get_tags(self, model: ModelRecord) -> Mapping[str, str]:
            return {**super().get_tags(model), "more": "yes"}

    project.model("up", "SELECT 1::INT AS id", "kind FULL, tags (old)")
    project.model("down", "SELECT id FROM demo.up")
    specs = _specs(project, translator=Ours())
    assert specs["up"].key == dg.AssetKey(["ours", "up"])
    assert specs["up"].group_name == "of_demo"
    assert specs["up"].owners == ["team:ours"]
    assert {"old": "true", "more": "yes"}.items() <= specs["up"].tags.items()
    assert specs["up"].kinds == {"sqlmesh", "duckdb", "table"}
    assert [dep.asset_key for dep in specs["down"].deps] == [specs["up"].key]


def test_get_asset_spec_is_the_last_word_on_an_asset(project: Project) -> None:
    """Promise: whatever Dagster knows of an asset can be set, and SQLMesh's dependencies stay."""

    class Ours(SQLMeshTranslator):
        def get_asset_spec(self, model: ModelRecord) -> dg.AssetSpec:
            spec = super().get_asset_spec(model)
            return spec.replace_attributes(
                key=spec.key.with_prefix("ours"),
                deps=["elsewhere"],
                automation_condition=dg.AutomationCondition.eager(),
            )

    project.model("up", "SELECT 1::INT AS id")
    project.model("down", "SELECT id FROM demo.up")
    specs = _specs(project, translator=Ours())
    assert specs["down"].key.path[0] == "ours"
    assert specs["down"].automation_condition == dg.AutomationCondition.eager()
    assert {dep.asset_key for dep in specs["down"].deps} == {
        dg.AssetKey("elsewhere"),
        specs["up"].key,
    }


def test_get_check_spec_is_the_last_word_on_a_check(project: Project) -> None:
    """Promise: a check can be renamed and described; audits stay distinct."""

    class Ours(SQLMeshTranslator):
        def get_check_spec(self, audit: AuditRecord, asset_key: dg.AssetKey) -> dg.AssetCheckSpec:
            return dg.AssetCheckSpec(f"ours_{audit.check_name}", asset=asset_key)

    project.model("any", "SELECT 1::INT AS id", "kind FULL, audits (not_null(columns := (id)))")
    graph = project.definitions(translator=Ours()).resolve_asset_graph()
    assert [key.name for key in graph.asset_check_keys] == ["ours_not_null_id"]


def test_the_table_that_shows_a_standalone_audit_can_be_chosen(project: Project) -> None:
    """Promise: by default it is the last one downstream; a translator may choose another."""

    class First(SQLMeshTranslator):
        def get_standalone_check_asset(
            self, audit: StandaloneAuditRecord, candidates: Sequence[str]
        ) -> str:
            return candidates[0]

    project.model("up", "SELECT 1::INT AS id")
    project.model("down", "SELECT id FROM demo.up")
    project.write(
        "audits/apart.sql",
        "AUDIT (name apart, standalone true);\n"
        "SELECT * FROM demo.down JOIN demo.up USING (id) WHERE false;\n",
    )
    shown = [
        [key.asset_key.path[-1] for key in definitions.resolve_asset_graph().asset_check_keys]
        for definitions in (project.definitions(), project.definitions(translator=First()))
    ]
    assert shown == [["down"], ["up"]]


# ---------------------------------------------------------------------------- external tables

ORDERS = '"warehouse"."raw"."orders"'


@pytest.mark.parametrize(
    ("mapping", "fqn", "expected"),
    [
        ("raw/{node.name}", ORDERS, ["raw", "orders"]),
        ("{node.database}/{node.schema}/{node.name}", ORDERS, ["warehouse", "raw", "orders"]),
        ("{{ node.schema }}/{{ node.name }}", ORDERS, ["raw", "orders"]),
        ("{ node.schema }_{node.name}", ORDERS, ["raw_orders"]),
        ("{node.fqn}", ORDERS, ["warehouse.raw.orders"]),
        ("/raw//{node.name}/", ORDERS, ["raw", "orders"]),
        ("all_raw", ORDERS, ["all_raw"]),
        ("raw-data/{node.name}", '"db"."raw"."order-items.v2"', ["raw-data", "order-items.v2"]),
        ("{node.database}/{node.name}", '"orders"', ["orders"]),
    ],
)
def test_a_mapping_gives_the_key_that_is_written_there(
    mapping: str, fqn: str, expected: list[str]
) -> None:
    """Promise: the key is the one that the loading asset has, to the letter."""
    translator = SQLMeshTranslator(external_asset_mapping=mapping)
    assert list(translator.get_external_asset_key(fqn).path) == expected


def test_odd_names_stay_apart_under_a_mapping(project: Project) -> None:
    """Promise: tables whose names Dagster refuses load, each with a key of its own."""
    project.model("any", 'SELECT 1::INT AS id FROM raw."a b", raw."a/b", raw."a""b", raw.a_b')
    (spec,) = _specs(project, external_asset_mapping="raw/{node.name}").values()
    assert len({dep.asset_key for dep in spec.deps}) == 4


@pytest.mark.parametrize(
    ("mapping", "words"),
    [
        ("raw/{node.table}", "`node.table`"),
        ("raw/{}", "unknown field"),
        ("raw/{node.name!r}", "`node.name!r`"),
        ("raw/{node.name", "brace"),
        ("raw/node.name}", "brace"),
        ("", "empty"),
        (" / ", "empty"),
    ],
)
def test_a_bad_mapping_is_refused_with_the_fields_there_are(
    project: Project, mapping: str, words: str
) -> None:
    """Promise: a misspelt field is reported at once, not found in the graph later."""
    with pytest.raises(InvalidSettingError, match="external_asset_mapping") as caught:
        project.definitions(external_asset_mapping=mapping)
    assert words in str(caught.value)


def test_a_mapping_that_leaves_a_table_without_a_key_is_refused() -> None:
    """Promise: the table is named, and what to add."""
    translator = SQLMeshTranslator(external_asset_mapping="{node.database}/{node.schema}")
    with pytest.raises(InvalidSettingError, match=r"orders.*Add"):
        translator.get_external_asset_key('"orders"')


def test_a_translator_wins_over_a_mapping_and_a_warning_says_so(project: Project) -> None:
    """Promise: given both, nothing is mixed."""
    project.model("any", "SELECT id FROM raw.orders")
    with pytest.warns(UserWarning, match="the translator is used"):
        definitions = project.definitions(
            translator=SQLMeshTranslator("theirs/{node.name}"),
            external_asset_mapping="mapped/{node.name}",
        )
    keys = definitions.resolve_asset_graph().external_asset_keys
    assert keys == {dg.AssetKey(["theirs", "orders"])}


def test_one_of_the_two_is_no_reason_to_warn(project: Project) -> None:
    """Promise: warnings are for what is ambiguous."""
    project.model("any", "SELECT id FROM raw.orders")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        project.definitions(translator=SQLMeshTranslator())
        project.definitions(external_asset_mapping="raw/{node.name}")


# ---------------------------------------------------------------------------- tags and owners


def test_dagster_tags_set_dagsters_properties(project: Project) -> None:
    """Promise: group, owners and description can be written into the model, colons and all."""
    spec = _tagged(
        project,
        "dagster:group_name:marts/finance",
        "dagster:owner:ann@example.com",
        "dagster:owner:team:sales",
        "dagster:owner:data",
        "dagster:description:x: with colons",
        properties="kind FULL, owner 'nobody', description 'other'",
    )
    assert spec.group_name == "marts/finance"
    assert spec.owners == ["ann@example.com", "team:sales", "team:data"]
    assert str(spec.description).partition("\n\n```sql\n")[0] == "x: with colons"
    assert not [tag for tag in spec.tags if not tag.startswith("dagster/")]


def test_an_unknown_dagster_tag_warns_and_names_the_model(project: Project) -> None:
    """Promise: a misspelt property is reported, and the project loads."""
    with pytest.warns(UserWarning, match=r"`dagster:groupname:x` of model `demo\.tagged`"):
        spec = _tagged(project, "dagster:groupname:x", "dagster:group_name")
    assert spec.group_name == "sqlmesh"
    with pytest.warns(UserWarning, match=r"`dagster:new_data:some` of model `demo\.tagged`"):
        _tagged(project, "dagster:new_data:some")


@pytest.mark.parametrize(
    ("kind", "tag", "policy"),
    [
        ("FULL", None, "all"),
        ("FULL", "newest", "all"),
        ("FULL", "nothing", "nothing"),
        ("VIEW", None, "all"),
        ("INCREMENTAL_BY_TIME_RANGE", None, "touched"),
        ("INCREMENTAL_BY_TIME_RANGE", "newest", "newest"),
        ("INCREMENTAL_BY_UNIQUE_KEY", None, "nothing"),
        ("INCREMENTAL_BY_UNIQUE_KEY", "touched", "nothing"),
        ("SCD_TYPE_2_BY_COLUMN", "newest", "newest"),
        ("INCREMENTAL_UNMANAGED", "newest", "nothing"),
        ("SEED", "all", "nothing"),
    ],
)
def test_a_tag_says_what_new_data_makes_of_a_model(kind: str, tag: str | None, policy: str) -> None:
    """Promise: the kind's own policy, or the tag's, where it cannot lose or repeat rows."""
    tags = (f"dagster:new_data:{tag}",) if tag else ()
    assert SQLMeshTranslator().get_new_data_policy(_record(kind, tags)) == policy


def _record(kind: str, tags: tuple[str, ...]) -> ModelRecord:
    needed = [f for f in fields(ModelRecord) if f.default is f.default_factory is MISSING]
    missing = dict.fromkeys((field.name for field in needed), "")
    return ModelRecord(**{**missing, "kind": kind, "tags": tags})  # type: ignore[arg-type]


def test_an_odd_group_is_made_valid_and_an_empty_one_is_the_default(project: Project) -> None:
    """Promise: no tag keeps a project from loading."""
    assert _tagged(project, "dagster:group_name:my marts!").group_name == "my_marts_"
    assert _tagged(project, "dagster:group_name:").group_name == "sqlmesh"
    assert _tagged(project, "dagster:group_name://").group_name == "sqlmesh"


def test_other_tags_become_tags_that_dagster_allows(project: Project) -> None:
    """Promise: spaces, quotes, equals signs, colons, length and accents are all taken."""
    spec = _tagged(
        project, "finance team", "a=b", "it''s", 'say "x"', "domain:sales:eu", "ünï", "x" * 200
    )
    tags = {key: value for key, value in spec.tags.items() if not key.startswith("dagster/")}
    assert tags.pop("domain") == "sales_eu"
    assert set(tags.values()) == {"true"}
    assert {"finance_team", "a_b", "it_s", "say__x", "uni"} < set(tags)
    assert len(tags) == 6


def test_sqlmeshs_owner_becomes_an_owner(project: Project) -> None:
    """Promise: an e-mail stays one, a name becomes a team, and the factory's are for the rest."""
    for name, owner in (("mail", "ann@example.com"), ("plain", "sales"), ("team", "team:ops")):
        project.model(name, "SELECT 1::INT AS id", f"kind FULL, owner '{owner}'")
    project.model("none", "SELECT 1::INT AS id")
    specs = _specs(project, owners=["team:data", "bob@example.com"])
    assert {name: list(spec.owners) for name, spec in specs.items()} == {
        "mail": ["ann@example.com"],
        "plain": ["team:sales"],
        "team": ["team:ops"],
        "none": ["team:data", "bob@example.com"],
    }


def test_the_factorys_group_is_for_models_that_name_none(project: Project) -> None:
    """Promise: `group_name` is a default."""
    project.model("plain", "SELECT 1::INT AS id")
    project.model("named", "SELECT 1::INT AS id", "kind FULL, tags ('dagster:group_name:own')")
    specs = _specs(project, group_name="warehouse/main")
    assert (specs["plain"].group_name, specs["named"].group_name) == ("warehouse/main", "own")


# ---------------------------------------------------------------------------- settings


def _with(**settings: Any) -> SQLMeshTranslator:
    return SQLMeshTranslator("raw/{node.name}", settings=TranslatorSettings(**settings))


def test_freshness_follows_the_cron(project: Project) -> None:
    """Promise: the longest pause of the cron counts, so that a weekend is not stale; seeds never are."""
    project.model("weekdays", "SELECT 1::INT AS id", "kind FULL, cron '0 6 * * 1-5'")
    project.write("seeds/places.csv", "id\n1\n")
    project.write(
        "models/places.sql", "MODEL (name demo.places, kind SEED (path '../seeds/places.csv'));"
    )
    assert _specs(project)["weekdays"].freshness_policy is None
    specs = _specs(project, translator=_with(freshness_policies=True))
    assert specs["weekdays"].freshness_policy == dg.FreshnessPolicy.time_window(
        fail_window=timedelta(days=6), warn_window=timedelta(days=4.5)
    )
    assert specs["places"].freshness_policy is None


def test_declarative_automation_requests_a_model_once_at_each_tick(project: Project) -> None:
    """Promise: with its upstream in one request, also when only one of them is due; once a tick."""
    project.model("daily", "SELECT 1::INT AS id", "kind FULL, cron '@daily'")
    project.model("hourly", "SELECT id FROM demo.daily", "kind FULL, cron '@hourly'")
    definitions = project.definitions(translator=_with(automation_conditions=True))
    with dg.DagsterInstance.ephemeral() as instance:
        cursor, requested = None, []
        for hour in ("10:30", "11:30", "11:45", "12:30"):
            result = dg.evaluate_automation_conditions(
                definitions,
                instance,
                evaluation_time=datetime.fromisoformat(f"2025-01-09T{hour}:00+00:00"),
                cursor=cursor,
            )
            cursor = result.cursor
            keys = definitions.resolve_asset_graph().executable_asset_keys
            requested.append(sorted(k.path[-1] for k in keys if result.get_num_requested(k)))
    assert requested == [[], ["hourly"], [], ["hourly"]]


def test_views_can_be_seen_through(project: Project) -> None:
    """Promise: a setting, off at first, because Dagster calls it a preview."""
    project.model("seen", "SELECT 1::INT AS id", "kind VIEW")
    project.model("stored", "SELECT id FROM demo.seen")
    assert not _specs(project)["seen"].is_virtual
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.PreviewWarning)
        specs = _specs(project, translator=_with(virtual_views=True))
    assert (specs["seen"].is_virtual, specs["stored"].is_virtual) == (True, False)
    assert specs["seen"].kinds == {"sqlmesh", "duckdb", "view"}


def test_external_tables_can_be_shown(project: Project) -> None:
    """Promise: with what `external_models.yaml` says; not where a model has the same key."""
    project.write(
        "external_models.yaml",
        "- name: raw.orders\n  description: As delivered.\n  columns:\n    id: int\n",
    )
    project.model("orders", "SELECT id::INT AS id FROM raw.orders")
    shown = project.definitions(translator=_with(external_assets=True))
    dg.Definitions.validate_loadable(shown)
    (spec,) = (s for s in shown.resolve_all_asset_specs() if s.key.path == ["raw", "orders"])
    assert spec.description == "As delivered."
    assert [c.name for c in spec.metadata["dagster/column_schema"].columns] == ["id"]


def test_checks_lineage_and_code_can_be_left_out(project: Project) -> None:
    """Promise: each by its own switch, on a class of one's own, too."""
    project.model("first", "SELECT 1::INT AS id", "kind FULL, audits (not_null(columns := (id)))")
    project.model("second", "SELECT id FROM demo.first")

    class Plain(SQLMeshTranslator):
        settings = TranslatorSettings(
            asset_checks=False, code_references=False, column_lineage=False
        )

    def traits(definitions: dg.Definitions) -> tuple[int, set[str]]:
        graph = definitions.resolve_asset_graph()
        keys = {key for s in definitions.resolve_all_asset_specs() for key in s.metadata}
        return len(graph.asset_check_keys), keys & {
            "dagster/code_references",
            "dagster/column_lineage",
        }

    assert traits(project.definitions()) == (
        1,
        {"dagster/code_references", "dagster/column_lineage"},
    )
    assert traits(project.definitions(translator=Plain())) == (0, set())
