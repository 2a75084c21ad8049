"""One model never takes the location down: what is wrong with it is an asset that says so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from sqlmesh_dagster import InvalidSettingError, ModelDefinitionError, SQLMeshTranslator
from sqlmesh_dagster.definition.asked import translation_of
from sqlmesh_dagster.definition.problems import text_with_place
from sqlmesh_dagster.definition.records import (
    AuditRecord,
    ExternalRecord,
    Manifest,
    ModelRecord,
    StandaloneAuditRecord,
)
from sqlmesh_dagster.run.steps import check_table, materialize_model
from sqlmesh_dagster.translator import TranslatorSettings
from tests.sqlmesh_dagster.pure.records import audit, external, fqn, manifest, model
from tests.sqlmesh_dagster.pure.test_odd_texts import definitions
from tests.sqlmesh_dagster.pure.test_translation import translated

WORDS = "only `bad` is wrong"


def _raise(of: str, given: Any) -> Callable[..., Any]:
    """A method that raises for what is called `of`, and else gives what the translator gives."""

    def method(self: SQLMeshTranslator, subject: Any, *more: Any) -> Any:
        if of in str(getattr(subject, "name", subject)) or of in str(more):
            raise KeyError(WORDS)
        return given(self, subject, *more)

    return method


_SETTINGS = TranslatorSettings(
    unit_test_checks=True, lint_checks=True, partitions=True, external_assets=True
)


def raising(name: str) -> SQLMeshTranslator:
    """A translator whose method of this name raises for `bad` alone."""
    methods = {name: _raise("bad", getattr(SQLMeshTranslator, name)), "settings": _SETTINGS}
    kind = type("Raising", (SQLMeshTranslator,), methods)
    return kind()  # type: ignore[no-any-return]


def whole() -> Manifest:
    """A project of a bad model between two others."""
    parts = {"kind": "INCREMENTAL_BY_TIME_RANGE", "first_interval": "2025-01-01T00:00:00+00:00"}
    return manifest(
        model("good", audits=(audit("a"),)),
        model("bad", fqn("good"), audits=(audit("a"),), unit_tests=("t",), **parts),
        model("below", fqn("bad")),
    )


_ELSEWHERE = ("external", "standalone", "new_data")
"""What is not asked of each model while definitions are made."""
_PER_MODEL = [
    name
    for name in vars(SQLMeshTranslator)
    if name.startswith("get_") and not any(word in name for word in _ELSEWHERE)
]


@pytest.mark.parametrize("name", _PER_MODEL)
@pytest.mark.filterwarnings("ignore:Definition of")
def test_a_translator_that_raises_for_one_model_costs_that_model_alone(name: str) -> None:
    """Promise: for every method; the others are as they would be, and lineage stays whole."""
    loaded = definitions(whole(), raising(name))
    specs = {spec.key.path[-1]: spec for spec in loaded.resolve_all_asset_specs()}
    assert set(specs) == {"good", "bad", "below"}
    assert WORDS in str(specs["bad"].description)
    assert WORDS in str(specs["bad"].metadata["sqlmesh/problem"].value)
    assert [dep.asset_key.path[-1] for dep in specs["bad"].deps] == ["good"]
    assert [dep.asset_key.path[-1] for dep in specs["below"].deps] == ["bad"]
    plain = definitions(whole()).resolve_all_asset_specs()
    good = next(spec for spec in plain if spec.key.path[-1] == "good")
    assert (specs["good"].description, specs["good"].tags) == (good.description, good.tags)


@pytest.mark.parametrize(
    "given",
    [
        {"owners": ["nobody"]},
        {"tags": {"a b": "c"}},
        {"tags": {"a": "x" * 64}},
        {"kinds": {str(n) for n in range(11)}},
        {"group_name": "a b"},
        {"deps": [dg.AssetDep("twice"), "twice", 1]},
        {"metadata": {1: "x"}},
        {"metadata": {"dagster/column_schema": 1}},
        {"metadata": {"dagster/column_lineage": "x"}},
        {"metadata": {"dagster/table_name": 5}},
        {"partitions_def": "daily"},
    ],
    ids=lambda given: "_".join(given),
)
@pytest.mark.filterwarnings("ignore:Definition of")
def test_what_dagster_refuses_of_one_spec_is_that_assets_problem(given: dict[str, Any]) -> None:
    """Promise: odd owners, tags, kinds, groups, dependencies, metadata, partitions of an override."""

    class Odd(SQLMeshTranslator):
        def get_asset_spec(self, model: ModelRecord) -> dg.AssetSpec:
            spec = super().get_asset_spec(model)
            return spec.replace_attributes(**given) if "bad" in model.name else spec

    loaded = definitions(whole(), Odd())
    specs = {spec.key.path[-1]: spec for spec in loaded.resolve_all_asset_specs()}
    assert [name for name, s in specs.items() if "sqlmesh/problem" in s.metadata] == ["bad"]


def test_the_warning_names_the_model_and_begins_as_poe_check_expects() -> None:
    """Promise: `poe check` turns these words into an error, so that CI is red."""
    with pytest.warns(UserWarning, match=r"^Definition of `demo\.bad` failed.*KeyError"):
        definitions(whole(), raising("get_owners"))


def test_the_step_of_such_a_model_fails_with_the_reason() -> None:
    """Promise: before anything is touched, with the model's name and the owner's own line."""
    project = translated(whole(), raising("get_tags"))
    bad = project.assets[1]
    with pytest.raises(ModelDefinitionError, match=r"`demo\.bad`.*only `bad` is wrong") as caught:
        next(materialize_model(dg.build_op_context(), project, bad))
    assert f"{__file__}, line" in str(caught.value)
    assert list(project.problems) == ["demo.bad"]


def test_a_record_that_could_not_be_read_whole_is_such_an_asset() -> None:
    """Promise: also what goes wrong while the manifest is made, as in `read_model`."""
    found = manifest(model("good"), model("bad", problem="ValueError: x"))
    project = translated(found)
    assert [asset.problem for asset in project.assets] == [None, "ValueError: x"]


def test_a_key_that_cannot_be_had_is_the_default_one_and_never_anothers() -> None:
    """Promise: a translator that cannot even name a model does not give it the place of another."""

    class Names(SQLMeshTranslator):
        def get_asset_key(self, model: ModelRecord) -> dg.AssetKey:
            if model.view_name == "bad":
                raise ValueError(WORDS)
            return dg.AssetKey(["db", "demo", "bad"])

    keys = [
        asset.spec.key.path
        for asset in translated(manifest(model("a"), model("bad")), Names()).assets
    ]
    assert keys[0] == ["db", "demo", "bad"]
    assert keys[1][:2] == ["db", "demo"]
    assert keys[1][2].startswith("bad__")


def test_a_table_without_a_key_is_the_problem_of_what_reads_it() -> None:
    """Promise: an external table that the translator cannot name costs its readers alone."""
    bad, fine = external("bad", audits=(audit("a"),)), external("fine")
    found = manifest(model("reader", bad.fqn), model("other", fine.fqn), externals=(bad, fine))
    project = translated(found, raising("get_external_asset_key"))
    assert [bool(asset.problem) for asset in project.assets] == [True, False]
    assert project.table_checks[0].checks


@pytest.mark.parametrize("name", ["get_check_spec", "get_standalone_check_asset"])
def test_an_audit_that_cannot_be_translated_is_a_check_that_fails(name: str) -> None:
    """Promise: a standalone audit, or one of an external table, is never silently left out."""
    table = external("t", audits=(audit("bad"),) if name == "get_check_spec" else ())
    alone = StandaloneAuditRecord(audit("bad_alone"), (fqn("good"),))

    class Raising(SQLMeshTranslator):
        def get_check_spec(self, audit: AuditRecord, asset_key: dg.AssetKey) -> dg.AssetCheckSpec:
            if name == "get_check_spec" and "bad" in audit.name:
                raise KeyError(WORDS)
            return super().get_check_spec(audit, asset_key)

        def get_standalone_check_asset(
            self, audit: StandaloneAuditRecord, candidates: Sequence[str]
        ) -> str:
            if name == "get_standalone_check_asset":
                raise KeyError(WORDS)
            return super().get_standalone_check_asset(audit, candidates)

    found = manifest(model("good", table.fqn), externals=(table,), standalone_audits=(alone,))
    project = translated(found, Raising())
    broken = [check for check in project.table_checks if check.problem]
    assert len(broken) == (2 if name == "get_check_spec" else 1)
    for check in broken:
        assert check.checks
        with pytest.raises(ModelDefinitionError, match="only `bad` is wrong"):
            next(check_table(dg.build_op_context(), project, check))


def test_an_external_that_cannot_be_shown_is_shown_plainly() -> None:
    """Promise: its own spec fails, and it is still there."""

    class Raising(SQLMeshTranslator):
        settings = TranslatorSettings(external_assets=True)

        def get_external_asset_spec(self, external: ExternalRecord) -> dg.AssetSpec:
            raise KeyError(WORDS)

    table = external("t", description="Words")
    (spec,) = translated(manifest(model("m", table.fqn), externals=(table,)), Raising()).externals
    assert spec.description == "Words"


@pytest.mark.parametrize("key", [[], [""], ["a", ""]])
@pytest.mark.filterwarnings("ignore:Definition of")
def test_a_key_without_a_part_is_the_problem_of_what_has_it(key: list[str]) -> None:
    """Promise: of a model, and of a table that models read."""

    class Odd(SQLMeshTranslator):
        def get_asset_key(self, model: ModelRecord) -> dg.AssetKey:
            return dg.AssetKey(key) if "a" in model.name[-1] else super().get_asset_key(model)

        def get_external_asset_key(self, fqn: str) -> dg.AssetKey:
            return dg.AssetKey(key)

    records = manifest(model("a"), model("b", fqn("x", "raw")), externals=(external("x"),))
    problems = translated(records, Odd()).problems
    assert len(problems) == 2
    assert all(
        f"the asset key `{key!r}`, which must have parts" in text for text in problems.values()
    )


def test_a_table_with_the_key_of_what_reads_it_is_refused_with_the_circle() -> None:
    """Promise: in words; Dagster's own error takes the code location along without a name of SQLMesh's."""
    records = manifest(
        model("a", fqn("x", "raw")), model("b", fqn("a")), externals=(external("x"),)
    )
    told = r"made of each other: (?=.*`db/demo/a`)(?=.*`db/demo/b`).* `external_asset_mapping`"
    with pytest.raises(InvalidSettingError, match=told):
        translated(records, SQLMeshTranslator("db/demo/b"))


def _raised(file: Path, code: str, **names: Any) -> Exception:
    """What the owner's code raises."""
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        exec(compile(code, str(file), "exec"), names)
    except Exception as error:
        return error
    raise AssertionError(f"{code} raises nothing")


def test_what_an_error_says_has_the_owners_line(tmp_path: Path) -> None:
    """Promise: the kind, the words and the last line of the owner's own; a library's line is none."""
    file, library = tmp_path / "defs/a.py", tmp_path / "site-packages/b.py"

    def lend() -> None:
        raise _raised(library, "raise ValueError('within')")

    assert (
        text_with_place(_raised(file, "\nraise KeyError('x')")) == f"KeyError: 'x' ({file}, line 2)"
    )
    failure = _raised(file, "raise dg.Failure('so it is')", dg=dg)
    assert text_with_place(failure) == f"Failure: so it is ({file}, line 1)"
    both = _raised(file, "def f():\n    lend()\nf()", lend=lend)
    assert text_with_place(both).startswith(
        "ValueError: within ("
    ) and "site-packages" not in text_with_place(both)
    assert text_with_place(ValueError("nowhere")) == "ValueError: nowhere"


def _jinja_fails(spec: dg.AssetSpec, model: ModelRecord) -> dg.AssetSpec:
    raise ValueError(
        "defs.yaml:3 - key\nTraceback (most recent call last):\n  File x\nSyntax: odd.\n"
    )


@pytest.mark.parametrize(
    ("adjust", "told"),
    [
        (
            _jinja_fails,
            "failed for `demo.a` with ValueError: defs.yaml:3 - key Syntax: odd. Correct",
        ),
        (
            lambda spec, _: spec.replace_attributes(key=[""]),
            "gave for `demo.a` the asset key `['']`,",
        ),
        (
            lambda spec, _: spec.merge_attributes(metadata={"dagster/table_name": 5}),
            "gave for `demo.a` the metadata `dagster/table_name`: `5`,",
        ),
    ],
)
def test_a_translation_in_yaml_that_fails_is_told_with_its_own_file(
    adjust: Callable[[dg.AssetSpec, ModelRecord], dg.AssetSpec], told: str
) -> None:
    """Promise: `translation` and `defs.yaml` are named, not a line of this package; without a traceback."""
    record = model("a")
    with pytest.raises(InvalidSettingError) as caught:
        translation_of(dg.AssetSpec("a"), record, adjust)
    assert caught.value.description is not None
    assert caught.value.description.startswith(f"`translation` {told}")
    assert caught.value.description.endswith("it in `defs.yaml`.")
    assert translation_of(dg.AssetSpec("a"), record, lambda spec, _: spec).key == dg.AssetKey("a")
