"""Whatever text a project holds, Dagster takes what it becomes: every field, against Dagster itself."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import dagster as dg
import pytest

from sqlmesh_dagster import SQLMeshResource, SQLMeshTranslator
from sqlmesh_dagster.definition import names
from sqlmesh_dagster.definition.records import ColumnRecord, Manifest, ModelRecord
from sqlmesh_dagster.factories import project_definitions
from sqlmesh_dagster.settings import DefinitionOptions
from sqlmesh_dagster.translator import TranslatorSettings
from tests.sqlmesh_dagster.pure.records import audit, external, manifest, model

_PIECES = [
    *"aZ09_-./:,;=@+%|~*?!#&<>()[]{}'\"`\\ \t\n\r",
    *("é", "ß", "日本", "😀", "\u0301", "\u202e", "\x00", "\x7f", "\ud800", "dagster/", "dagster:"),
    *("owner:", "group_name:", "team:", "jo@x.io", "class", "context", "None", "x" * 70, "y" * 300),
]
ODD = [
    "",
    " ",
    *_PIECES,
    "snowflake,normalization_strategy=case_insensitive",
    "a@b.companyname",
    ".a@b.co",
    "a@b.c|",
    "ä@b.co",
    "a@b.co\n",
    *("team:", "team: ", "dagster:owner:", "dagster:group_name:/", "dagster:description:"),
]


def texts(count: int = 400) -> list[str]:
    """Odd texts, the same each time."""
    dice = random.Random(13)
    return ODD + ["".join(dice.choices(_PIECES, k=dice.randint(1, 6))) for _ in range(count)]


class Everything(SQLMeshTranslator):
    """With all that a project may show switched on."""

    settings = TranslatorSettings(
        external_assets=True,
        unit_test_checks=True,
        lint_checks=True,
        freshness_policies=True,
        automation_conditions=True,
        partitions=True,
        code_url="https://code.example/x",
    )


def definitions(found: Manifest, translator: SQLMeshTranslator | None = None) -> dg.Definitions:
    """All of a project's definitions, which Dagster has resolved."""
    used = translator or Everything()
    resource = SQLMeshResource(project_dir="somewhere", translator=used)
    whole = project_definitions(resource, found, DefinitionOptions(project_dir="somewhere"))
    whole.resolve_implicit_global_asset_job_def()
    return whole


_FIELDS: dict[str, Any] = {
    "name": lambda t: {"name": t},
    "catalog and schema": lambda t: {"catalog": t, "schema_name": t},
    "whatever is in no name": lambda t: {
        **dict.fromkeys(("dialect", "gateway", "source_type", "start", "owner", "path", "cron"), t),
        "tags": (
            *(f"dagster:group_name:{t}", f"dagster:owner:{t}", "dagster:owner:jo"),
            *(t, f"{t}:{t}", "plain"),
        ),
        "description": t,
        "grains": (t,),
        "columns": (ColumnRecord(t, t, t),),
        "unit_tests": (t,),
        "audits": (
            replace(audit(t), check_name=names.check_names([(t, {"n": t})])[0], description=t),
        ),
    },
}


@pytest.mark.parametrize("field", _FIELDS)
@pytest.mark.filterwarnings("ignore:The tag `dagster")
def test_any_text_of_a_model_makes_definitions(field: str) -> None:
    """Promise: lengths, characters and likeness; none is a problem, and no two become one."""
    change = _FIELDS[field]
    found = [
        replace(model(f"m{n}"), **change(text)) for n, text in enumerate(dict.fromkeys(texts(60)))
    ]
    specs = list(definitions(manifest(*found)).resolve_all_asset_specs())
    assert len({spec.key for spec in specs}) == len(found)
    broken = [spec.description for spec in specs if "sqlmesh/problem" in spec.metadata]
    assert broken == []
    for spec in specs:  # a code server answers in UTF-8
        f"{spec.description}{spec.owners}{spec.tags}{spec.metadata}".encode()


def test_tables_of_odd_names_are_assets_of_their_own() -> None:
    """Promise: models and external tables alike."""
    odd = list(dict.fromkeys(t for t in texts(150) if t))
    quoted = ['"db"."raw"."' + t.replace('"', '""') + '"' for t in odd]
    tables = [replace(external("x"), fqn=q, view_name=t) for q, t in zip(quoted, odd, strict=True)]
    models = [replace(model(f"m{n}"), view_name=t) for n, t in enumerate(odd)]
    specs = definitions(manifest(*models, externals=tuple(tables))).resolve_all_asset_specs()
    assert len({spec.key for spec in specs}) == 2 * len(odd)


@pytest.mark.parametrize("text", texts())
def test_an_owner_is_one_that_dagster_takes(text: str) -> None:
    """Promise: an e-mail of a long domain, or a name, is a team; nothing is nobody."""
    dg.AssetSpec("any", owners=names.owners([text]))
    assert bool(names.owners([text])) == bool(text.strip())


@pytest.mark.parametrize(
    ("text", "owners"),
    [
        ("jo@acme.example", ["jo@acme.example"]),
        ("jo@acme.photography", ["team:jo@acme.photography"]),
        ("data team", ["team:data team"]),
        ("team:data", ["team:data"]),
        (" jo ", ["team:jo"]),
    ],
)
def test_an_owner_reads_like_the_original(text: str, owners: list[str]) -> None:
    """Promise: people find themselves again."""
    assert names.owners([text]) == owners


def test_a_dialect_with_settings_is_its_engine() -> None:
    """Promise: SQLMesh's documented `snowflake,normalization_strategy=…` is Snowflake."""
    dialect = "snowflake,normalization_strategy=case_insensitive"
    spec = Everything().get_asset_spec(model("m", dialect=dialect))
    assert spec.kinds == {"sqlmesh", "snowflake", "table"}
    assert spec.tags["dagster/storage_kind"] == "snowflake"


def spec_of(record: ModelRecord) -> dg.AssetSpec:
    """The spec of a model alone."""
    (spec,) = definitions(manifest(record)).resolve_all_asset_specs()
    return spec


def test_a_very_long_name_is_cut_and_told_from_its_like() -> None:
    """Promise: a key fits the index of Dagster's own storage on Postgres."""
    keys = [spec_of(model("m", view_name="x" * n)).key.to_user_string() for n in (3000, 3001, 255)]
    assert len(set(keys)) == 3
    assert max(map(len, keys)) < 300
    assert keys[2].endswith("x" * 255)
