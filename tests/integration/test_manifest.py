"""The manifest: what real SQLMesh projects look like as records."""

from __future__ import annotations

from typing import Any

import pytest
from sqlmesh import Context
from tests.sqlmesh_dagster.projects import Project

from sqlmesh_dagster import AuditRecord, ColumnRecord, ModelRecord, SQLMeshResource
from sqlmesh_dagster.definition.records import Manifest
from sqlmesh_dagster.engine.context import load_manifest
from sqlmesh_dagster.engine.reader import fingerprint_text

DAY, HOUR = 86400.0, 3600.0


def _manifest(project: Project, **settings: Any) -> Manifest:
    return load_manifest(SQLMeshResource(project_dir=str(project.root), **settings).settings)


def _models(project: Project) -> dict[str, ModelRecord]:
    return {model.name: model for model in _manifest(project).models}


def _audits(project: Project, audits: str) -> tuple[AuditRecord, ...]:
    project.model("audited", "SELECT 1::INT AS id, 2::INT AS n", f"kind FULL, audits ({audits})")
    return _models(project)["demo.audited"].audits


def _with_defaults(project: Project, extra: str) -> None:
    """Puts lines under `model_defaults` of the config."""
    config = (project.root / "config.yaml").read_text()
    project.write("config.yaml", config.replace("model_defaults:", f"model_defaults:\n  {extra}"))


def test_every_field_of_a_model_is_what_its_file_says(project: Project) -> None:
    """Promise: Dagster's catalogue shows what the author of the model wrote."""
    project.write(
        "models/orders/daily_orders.sql",
        """
        /* Orders by day. Grain: one row per day. */
        MODEL (
            name demo.daily_orders,
            kind INCREMENTAL_BY_TIME_RANGE (time_column order_day),
            cron '0 */6 * * *',
            cron_tz 'Europe/Berlin',
            interval_unit 'hour',
            start '2025-01-02',
            owner jo,
            tags (finance, "domain:sales"),
            grain order_day,
            partitioned_by (order_day),
            audits (not_null(columns := (order_day)))
        );

        SELECT
            ordered_at::DATE AS order_day, -- day of the order
            COUNT(*)::BIGINT AS orders, /* number of orders */
            SUM(amount)::DECIMAL(18, 2) AS amount
        FROM raw.orders
        WHERE ordered_at BETWEEN @start_ds AND @end_ds
        GROUP BY 1
        """,
    )
    (model,) = _manifest(project).models
    assert model.fqn == '"warehouse"."demo"."daily_orders"'
    assert model.name == "demo.daily_orders"
    assert (model.catalog, model.schema_name, model.view_name) == (
        "warehouse",
        "demo",
        "daily_orders",
    )
    assert model.kind == "INCREMENTAL_BY_TIME_RANGE"
    assert not model.is_seed
    assert model.source_type == "sql"
    assert model.dialect == "duckdb"
    assert model.gateway is None
    assert (model.cron, model.cron_tz) == ("0 */6 * * *", "Europe/Berlin")
    assert model.cron_period == 6 * HOUR
    assert model.interval_unit == "hour"
    assert model.start == "2025-01-02"
    assert model.owner == "jo"
    assert model.tags == ("finance", "domain:sales")
    assert model.description == "Orders by day. Grain: one row per day."
    assert model.columns == (
        ColumnRecord("order_day", "DATE", "day of the order"),
        ColumnRecord("orders", "BIGINT", "number of orders"),
        ColumnRecord("amount", "DECIMAL(18, 2)"),
    )
    assert [audit.check_name for audit in model.audits] == ["not_null_order_day"]
    assert model.depends_on == ('"warehouse"."raw"."orders"',)
    assert model.grains == ("order_day",)
    assert model.partitioned_by == ('"order_day"',)
    assert model.path == "models/orders/daily_orders.sql"
    assert model.code_version


def test_columns_without_a_cast_have_the_type_of_their_source(project: Project) -> None:
    """Promise: types are followed through the project, also where only the first model casts."""
    project.model("first", "SELECT 1::BIGINT AS id, 'x'::TEXT AS name")
    project.model("second", "SELECT id, name FROM demo.first")
    columns = _models(project)["demo.second"].columns
    assert [(column.name, column.data_type) for column in columns] == [
        ("id", "BIGINT"),
        ("name", "TEXT"),
    ]


@pytest.mark.parametrize(
    ("cron", "shortest"),
    [
        ("@hourly", HOUR),
        ("@daily", DAY),
        ("@weekly", 7 * DAY),
        ("@monthly", 28 * DAY),
        ("*/5 * * * *", 300.0),
        ("*/30 8-18 * * *", 1800.0),
        ("0 5 * * 1-5", DAY),
        ("0 6,18 * * *", 12 * HOUR),
        ("0 5,17,18 * * *", HOUR),
        ("15 3 1 * *", 28 * DAY),
        ("0 0 29 2 *", 4 * 365 * DAY + DAY),
    ],
)
def test_the_cron_period_is_the_shortest_time_between_two_ticks(
    project: Project, cron: str, shortest: float
) -> None:
    """Promise: the adaptive schedule knows the finest of odd crons, too."""
    project.model("ticking", "SELECT 1::INT AS id", f"kind FULL, cron '{cron}'")
    assert _models(project)["demo.ticking"].cron_period == shortest


@pytest.mark.parametrize(
    ("cron", "longest"),
    [
        ("@daily", DAY),
        ("0 9,17 * * *", 16 * HOUR),
        ("*/30 8-18 * * 1-5", 61.5 * HOUR),
        ("*/5 0-6 * * 6,7", 5 * DAY + 17 * HOUR + 300),
        ("0 0 L * *", 31 * DAY),
    ],
)
def test_the_cron_gap_is_the_longest_time_between_two_ticks(
    project: Project, cron: str, longest: float
) -> None:
    """Promise: the adaptive schedule knows where a fine cron pauses at night or for a weekend."""
    project.model("ticking", "SELECT 1::INT AS id", f"kind FULL, cron '{cron}'")
    assert _models(project)["demo.ticking"].cron_gap == longest


def test_each_use_of_an_audit_is_a_record_with_its_arguments(project: Project) -> None:
    """Promise: built-in, custom and inline audits are all there, in the order of the model."""
    project.write("audits/a.sql", "AUDIT (name above); SELECT * FROM @this_model WHERE @c <= @n;")
    project.write(
        "models/audited.sql",
        """
        MODEL (name demo.audited, kind FULL, audits (
            not_null(columns := (id, n)), above(c := n, n := 1), above(c := n, n := -1), local_one
        ));
        SELECT 1::INT AS id, 2::INT AS n;
        AUDIT (name local_one); SELECT * FROM @this_model WHERE n = 3;
        """,
    )
    audits = _models(project)["demo.audited"].audits
    assert [(audit.name, dict(audit.arguments)) for audit in audits] == [
        ("not_null", {"columns": "(id, n)"}),
        ("above", {"c": "n", "n": "1"}),
        ("above", {"c": "n", "n": "-1"}),
        ("local_one", {}),
    ]
    assert len({audit.check_name for audit in audits}) == 4
    assert "n = 3" in (audits[3].query or "")


def test_an_audit_blocks_as_its_use_says_and_else_as_it_says_itself(project: Project) -> None:
    """Promise: `blocking` on the use wins over the audit's own, which is true by default."""
    project.write(
        "audits/soft.sql",
        "AUDIT (name soft, blocking false); SELECT * FROM @this_model WHERE id < 0;",
    )
    audits = _audits(
        project,
        "not_null(columns := (id)), not_null(columns := (n), blocking := false), soft,"
        " soft(blocking := true), unique_values_non_blocking(columns := (id))",
    )
    assert [audit.blocking for audit in audits] == [True, False, False, True, False]
    assert all("blocking" not in dict(audit.arguments) for audit in audits)


def test_an_audit_that_is_switched_off_says_so(project: Project) -> None:
    """Promise: `skip true` is kept, so that no check waits for a result for ever."""
    project.write("audits/off.sql", "AUDIT (name off, skip true); SELECT * FROM @this_model;")
    assert [audit.skip for audit in _audits(project, "off, not_null(columns := (id))")] == [
        True,
        False,
    ]


def test_audits_of_the_models_defaults_are_audits_of_every_model(project: Project) -> None:
    """Promise: what a config adds to each model is checked on each model."""
    _with_defaults(project, 'audits: ["number_of_rows(threshold := 1)"]')
    project.model("plain", "SELECT 1::INT AS id")
    audits = _audits(project, "not_null(columns := (id))")
    assert [audit.name for audit in audits] == ["number_of_rows", "not_null"]
    assert [audit.name for audit in _models(project)["demo.plain"].audits] == ["number_of_rows"]


def test_embedded_models_are_seen_through(project: Project) -> None:
    """Promise: a model depends on what an embedded one reads, also through a second embedded one."""
    project.model("base", "SELECT 1::INT AS id")
    project.model("inner_one", "SELECT id FROM demo.base, raw.extra", "kind EMBEDDED")
    project.model("outer_one", "SELECT id FROM demo.inner_one", "kind EMBEDDED")
    project.model("reader", "SELECT id FROM demo.outer_one")
    manifest = _manifest(project)
    assert [model.name for model in manifest.models] == ["demo.base", "demo.reader"]
    assert manifest.models[1].depends_on == (
        '"warehouse"."demo"."base"',
        '"warehouse"."raw"."extra"',
    )
    assert [external.view_name for external in manifest.externals] == ["extra"]


def test_external_tables_are_records_whether_they_are_declared_or_not(project: Project) -> None:
    """Promise: a declared one keeps its columns, description and audits; both are upstream."""
    project.write(
        "external_models.yaml",
        """
        - name: raw.declared
          description: Loaded at night.
          columns:
            id: INT
          audits:
            - name: not_null
              columns: "(id)"
        - name: raw.unread
          columns:
            id: INT
        """,
    )
    project.model("reader", "SELECT d.id FROM raw.declared AS d, raw.wild AS w")
    manifest = _manifest(project)
    declared, unread, wild = manifest.externals
    assert declared.fqn == '"warehouse"."raw"."declared"'
    assert (declared.catalog, declared.schema_name, declared.view_name) == (
        "warehouse",
        "raw",
        "declared",
    )
    assert declared.description == "Loaded at night."
    assert [(c.name, c.data_type) for c in declared.columns] == [("id", "INT")]
    assert [audit.check_name for audit in declared.audits] == ["not_null_id"]
    assert unread.view_name == "unread"
    assert (wild.view_name, wild.columns, wild.audits) == ("wild", (), ())
    assert manifest.models[0].depends_on == (declared.fqn, wild.fqn)


def test_seeds_python_models_and_views_are_models(project: Project) -> None:
    """Promise: whatever leaves a table or a view is a model, and says of what kind it is."""
    project.write("seeds/names.csv", "id,name\n1,jo\n")
    project.model("names", "", "kind SEED (path '../seeds/names.csv'), columns (id INT, name TEXT)")
    project.model("shown", "SELECT id FROM demo.names", "kind VIEW")
    project.write(
        "models/scored.py",
        """
        import typing as t
        import pandas as pd
        from sqlmesh import ExecutionContext, model

        @model(
            "demo.scored",
            columns={"id": "int"},
            column_descriptions={"id": "key"},
            depends_on=["demo.shown"],
            description="Scores.",
        )
        def execute(context: ExecutionContext, **kwargs: t.Any) -> pd.DataFrame:
            return pd.DataFrame({"id": [1]})
        """,
    )
    models = _models(project)
    assert [(m.kind, m.source_type, m.path) for m in models.values()] == [
        ("SEED", "seed", "models/demo_46_names.sql"),
        ("VIEW", "sql", "models/demo_46_shown.sql"),
        ("FULL", "python", "models/scored.py"),
    ]
    assert models["demo.names"].is_seed
    assert models["demo.scored"].columns == (ColumnRecord("id", "INT", "key"),)
    assert models["demo.scored"].description == "Scores."
    assert models["demo.scored"].depends_on == (models["demo.shown"].fqn,)


def test_a_standalone_audit_names_the_tables_that_it_reads(project: Project) -> None:
    """Promise: it is seen through embedded models, and its external tables are known."""
    project.model("base", "SELECT 1::INT AS id")
    project.model("thin", "SELECT id FROM demo.base", "kind EMBEDDED")
    project.write(
        "audits/alone.sql",
        """
        AUDIT (name alone, standalone true, owner jo, description 'All there.');
        SELECT t.id FROM demo.thin AS t, raw.extra AS e
        """,
    )
    manifest = _manifest(project)
    (record,) = manifest.standalone_audits
    assert (record.audit.name, record.audit.check_name) == ("alone", "alone")
    assert not record.audit.blocking
    assert not record.audit.skip
    assert record.audit.description == "All there."
    assert record.owner == "jo"
    assert record.depends_on == ('"warehouse"."demo"."base"', '"warehouse"."raw"."extra"')
    assert [external.view_name for external in manifest.externals] == ["extra"]


def test_models_stand_upstream_before_downstream(project: Project) -> None:
    """Promise: the order of the manifest is an order in which the models can be built."""
    for name, upstream in (("a", "d"), ("b", "a"), ("c", "b"), ("d", "raw.x")):
        table = upstream if "." in upstream else f"demo.{upstream}"
        project.model(name, f"SELECT id::INT AS id FROM {table}")
    assert [model.view_name for model in _manifest(project).models] == ["d", "a", "b", "c"]


def test_fingerprints_are_those_of_sqlmeshs_snapshots(project: Project) -> None:
    """Promise: local changes are recognised exactly as `sqlmesh plan` recognises them."""
    project.write("seeds/names.csv", "id\n1\n")
    project.model("names", "", "kind SEED (path '../seeds/names.csv'), columns (id INT)")
    project.model("thin", "SELECT id FROM demo.names", "kind EMBEDDED")
    project.model("mart", "SELECT id FROM demo.thin, raw.x", "kind FULL, audits (above(n := 1))")
    project.write("audits/a.sql", "AUDIT (name above); SELECT * FROM @this_model WHERE id > @n;")
    project.write(
        "audits/alone.sql", "AUDIT (name alone, standalone true); SELECT id FROM demo.mart"
    )
    project.write("external_models.yaml", "- name: raw.x\n  columns:\n    id: INT\n")
    manifest = _manifest(project)
    context = Context(paths=str(project.root))
    expected = {s.name: fingerprint_text(s.fingerprint) for s in context.snapshots.values()}
    context.close()
    assert dict(manifest.fingerprints) == expected
    assert len(expected) == 5


def test_the_code_version_changes_with_the_data_and_not_with_a_comment(project: Project) -> None:
    """Promise: Dagster marks a model as changed when its data may be, and only then."""
    project.model("kept", "SELECT 1::INT AS id")
    before = _models(project)["demo.kept"].code_version
    project.model("kept", "SELECT 1::INT AS id", "kind FULL, owner jo, description 'Kept.'")
    assert _models(project)["demo.kept"].code_version == before
    project.model("kept", "SELECT 2::INT AS id")
    assert _models(project)["demo.kept"].code_version != before


def test_a_manifest_says_which_project_it_is_of(project: Project) -> None:
    """Promise: gateway, dialect and catalog are the loaded ones."""
    project.model("full", "SELECT 1::INT AS id")
    manifest = _manifest(project)
    assert manifest.project_dir == str(project.root.resolve())
    assert (manifest.gateway, manifest.dialect) == ("local", "duckdb")
    assert manifest.default_catalog == "warehouse"
    assert manifest.sqlmesh_version


def test_a_manifest_is_the_same_each_time(project: Project) -> None:
    """Promise: nothing in it depends on the clock or on the order of a set."""
    project.model("a", "SELECT 1::INT AS id", "kind FULL, audits (not_null(columns := (id)))")
    project.model("b", "SELECT a.id FROM demo.a, raw.x, raw.y", "kind FULL, tags (z, y)")
    assert _manifest(project) == _manifest(project)


def test_building_a_manifest_opens_no_database(project: Project) -> None:
    """Promise: definitions load while the warehouse is missing, locked or down."""
    project.write("seeds/names.csv", "id\n1\n")
    project.model("names", "", "kind SEED (path '../seeds/names.csv'), columns (id INT)")
    project.model("mart", "SELECT * FROM demo.names, raw.undeclared")
    _manifest(project)
    assert not project.database.exists()


def _sources(manifest: Manifest, model: str) -> dict[str, tuple[tuple[str, str], ...]]:
    (record,) = (m for m in manifest.models if m.name == model)
    return {column.name: column.sources for column in record.columns}


def test_a_column_knows_the_columns_that_it_is_made_of(project: Project) -> None:
    """Promise: through CTEs, joins, unions, subqueries, embedded models and into external tables."""
    project.write(
        "external_models.yaml",
        "- name: raw.orders\n  columns:\n    id: int\n    amount: double\n    place: text\n",
    )
    project.model("orders", "SELECT id::INT AS id, amount::DOUBLE AS amount, place FROM raw.orders")
    project.model("hidden", "SELECT id, amount * 2 AS twice FROM demo.orders", "kind EMBEDDED")
    project.model(
        "sums",
        """
        WITH ranked AS (SELECT *, ROW_NUMBER() OVER (PARTITION BY place ORDER BY id) AS n FROM demo.orders),
             both AS (SELECT id, amount FROM ranked WHERE n = 1 UNION ALL SELECT id, twice FROM demo.hidden)
        SELECT
          both.id::INT AS id,
          (both.amount + o.amount)::DOUBLE AS total,
          (SELECT MAX(place) FROM demo.orders)::TEXT AS last_place,
          1::INT AS one
        FROM both JOIN demo.orders AS o USING (id)
        """,
    )
    manifest = _manifest(project)
    orders, raw = '"warehouse"."demo"."orders"', '"warehouse"."raw"."orders"'
    assert _sources(manifest, "demo.orders") == {
        "id": ((raw, "id"),),
        "amount": ((raw, "amount"),),
        "place": ((raw, "place"),),
    }
    assert _sources(manifest, "demo.sums") == {
        "id": ((orders, "id"),),
        "total": ((orders, "amount"),),
        "last_place": ((orders, "place"),),
        "one": (),
    }


def test_a_record_says_where_its_model_begins(project: Project) -> None:
    """Promise: the line of `MODEL`, or of the decorated function of that name."""
    project.write(
        "models/late.sql", "-- A comment.\n\n\nMODEL (name demo.late);\nSELECT 1::INT AS id;\n"
    )
    project.write(
        "models/two.py",
        """
        import pandas as pd
        from sqlmesh import model

        @model("demo.first", columns={"n": "int"}, kind="FULL")
        def first(context, **kwargs):
            return pd.DataFrame({"n": [1]})


        @model(
            "demo.second",
            columns={"n": "int"},
            kind="FULL",
        )
        def second(context, **kwargs):
            return pd.DataFrame({"n": [1]})
        """,
    )
    lines = {m.name: (m.path, m.line) for m in _manifest(project).models}
    assert lines == {
        "demo.late": ("models/late.sql", 4),
        "demo.first": ("models/two.py", 5),
        "demo.second": ("models/two.py", 10),
    }


def test_a_record_has_its_references_and_fingerprint(project: Project) -> None:
    """Promise: a change upstream changes the fingerprint, and not the code version."""
    project.model("up", "SELECT 1::INT AS id")
    project.model("down", "SELECT id FROM demo.up", "kind FULL, references (id)")

    def down() -> ModelRecord:
        return next(m for m in _manifest(project).models if m.name == "demo.down")

    before = down()
    project.model("up", "SELECT 2::INT AS id")
    after = down()
    assert before.references == ("id",)
    assert before.code_version == after.code_version
    assert before.fingerprint != after.fingerprint
