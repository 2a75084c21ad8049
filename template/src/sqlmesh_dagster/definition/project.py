"""One project as Dagster defines it: records, translated once, for definition time and run time alike."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter
from typing import Any, Literal
from urllib.parse import quote

import dagster as dg

from sqlmesh_dagster.definition import names
from sqlmesh_dagster.definition.asked import checked
from sqlmesh_dagster.definition.markdown import fenced
from sqlmesh_dagster.definition.problems import text_with_place
from sqlmesh_dagster.definition.records import (
    AuditRecord,
    ExternalRecord,
    Manifest,
    ModelRecord,
    StandaloneAuditRecord,
)
from sqlmesh_dagster.errors import DuplicateAssetKeyError, InvalidSettingError
from sqlmesh_dagster.production import PRODUCTION
from sqlmesh_dagster.translator import SQLMeshTranslator, TranslatorSettings

_log = logging.getLogger(__name__)
_TABLE = "dagster/table_name"
Checks = tuple[tuple[AuditRecord, dg.AssetCheckSpec], ...]
"""Audits, each with its check."""


def results_key(name: str) -> str:
    """Resource key of the `SQLMeshResultsResource` of the project with this name."""
    return f"{name}_results"


@dataclass(frozen=True)
class ModelAsset:
    """A model, its asset and its checks.

    Attributes:
        checks: Each audit that is switched on, with its check.
        backfill_policy: How a backfill is cut into runs, if the asset is partitioned.
        problem: Why the model could not be translated, where this asset stands in for it: its step
            fails with this.
    """

    model: ModelRecord
    spec: dg.AssetSpec
    checks: Checks
    backfill_policy: dg.BackfillPolicy | None = None
    problem: str | None = None

    @property
    def partitions(self) -> dg.TimeWindowPartitionsDefinition | None:
        """The asset's partitions, if it has some."""
        partitions = self.spec.partitions_def
        return partitions if isinstance(partitions, dg.TimeWindowPartitionsDefinition) else None

    @property
    def op_name(self) -> str:
        """The op that materializes the asset."""
        return names.op_name(self.spec.key.path)


@dataclass(frozen=True)
class TableCheck:
    """Audits without a model: a standalone audit, or those of an external table.

    Attributes:
        snapshot: What SQLMesh calls it: the standalone audit's name, or the table's FQN.
        problem: Why the audits could not be translated, where the checks stand in for theirs.
    """

    snapshot: str
    checks: Checks
    problem: str | None = None

    @property
    def op_name(self) -> str:
        """The op that executes the checks."""
        return f"{names.op_name(self.checks[0][1].asset_key.path)}__{self.checks[0][1].name}"


@dataclass(frozen=True)
class VerificationCheck:
    """A check of a model's code: its unit tests, or the linter; it builds nothing."""

    kind: Literal["unit_tests", "lint"]
    model: ModelRecord
    spec: dg.AssetCheckSpec

    @property
    def definition(self) -> str:
        """Changes with what its result may depend on."""
        return f"{self.kind}|{self.model.code_digest}"


@dataclass(frozen=True)
class DagsterProject:
    """A translated manifest.

    Attributes:
        name: The name that the factory was given; resource keys and the job's name begin with it.
        externals: External tables that are shown though no asset loads them.
        others: Assets that another project on the same state builds.
    """

    name: str
    manifest: Manifest
    assets: tuple[ModelAsset, ...]
    table_checks: tuple[TableCheck, ...]
    externals: tuple[dg.AssetSpec, ...] = ()
    verification_checks: tuple[VerificationCheck, ...] = ()
    others: frozenset[dg.AssetKey] = frozenset()

    @property
    def results_key(self) -> str:
        """Key of the `SQLMeshResultsResource`."""
        return results_key(self.name)

    @property
    def options_key(self) -> str:
        """Key of the `SQLMeshRunOptions`."""
        return f"{self.name}_run_options"

    @property
    def job_name(self) -> str:
        """Name of the job of everything."""
        return f"{self.name}_job"

    @property
    def schedule_name(self) -> str:
        """Name of the adaptive schedule, unless the factory was given another."""
        return f"{self.name}_adaptive_schedule"

    @property
    def sync_sensor_name(self) -> str:
        """Name of the sensor that reports what was built outside Dagster."""
        return f"{self.name}_sync_sensor"

    @property
    def checks_beside(self) -> tuple[dg.AssetCheckKey, ...]:
        """The checks of data that steps of their own evaluate."""
        return tuple(spec.key for table in self.table_checks for _, spec in table.checks)

    def checks_of_audits(self, snapshots: Collection[str]) -> frozenset[dg.AssetCheckKey]:
        """The checks of these standalone audits, by name, and external tables, by FQN."""
        tables = (table for table in self.table_checks if table.snapshot in snapshots)
        return frozenset(spec.key for table in tables for _, spec in table.checks)

    @property
    def unplanned_checks(self) -> frozenset[dg.AssetCheckKey]:
        """Checks that a scheduled run need not select to have their results.

        A model's step reports them anyway, at a third of the records, unless others wait for their
        output; and those of the code keep theirs, where a selection would load the project's files.
        """
        return frozenset(
            [
                *(check.spec.key for check in self.verification_checks),
                *(s.key for asset in self.assets for _, s in asset.checks if not s.blocking),
            ]
        )

    def code_checks_of(self, keys: Collection[dg.AssetKey]) -> tuple[VerificationCheck, ...]:
        """The checks of the code of some models' assets."""
        return tuple(c for c in self.verification_checks if c.spec.asset_key in keys)

    @property
    def keys_by_fqn(self) -> Mapping[str, dg.AssetKey]:
        """The asset key of each model."""
        return {asset.model.fqn: asset.spec.key for asset in self.assets}

    @property
    def assets_by_fqn(self) -> Mapping[str, ModelAsset]:
        """The asset of each model."""
        return {asset.model.fqn: asset for asset in self.assets}

    def checks_of(self, fqn: str) -> Checks:
        """The audits of a model or of an external table."""
        asset = self.assets_by_fqn.get(fqn)
        if asset is not None:
            return asset.checks
        return next((c.checks for c in self.table_checks if c.snapshot == fqn), ())

    @property
    def keys_by_plain_name(self) -> Mapping[str, dg.AssetKey]:
        """The asset key of each model, by its FQN without quotes."""
        return {asset.model.fqn.replace('"', ""): asset.spec.key for asset in self.assets}

    def plain_name(self, fqn: str) -> str:
        """A model's name as written in its file; of anything else, its FQN without quotes."""
        asset = self.assets_by_fqn.get(fqn)
        return asset.model.name if asset else fqn.replace('"', "")

    @property
    def problems(self) -> Mapping[str, str]:
        """Why each model has no translation that has none, by its name; and so for audits."""
        models = {a.model.name: a.problem for a in self.assets if a.problem}
        return models | {c.snapshot: c.problem for c in self.table_checks if c.problem}

    @property
    def fqns_by_key(self) -> Mapping[dg.AssetKey, str]:
        """The model of each asset key."""
        return {asset.spec.key: asset.model.fqn for asset in self.assets}


def translate(
    manifest: Manifest,
    translator: SQLMeshTranslator,
    *,
    name: str,
    group_name: str,
    owners: Sequence[str],
    environment: str = PRODUCTION,
) -> DagsterProject:
    """Applies a translator to a whole project.

    Args:
        environment: Whose views are shown as the assets' tables.
        group_name: For models whose translation has no group.
        owners: For models whose translation has no owner.

    Raises:
        DuplicateAssetKeyError: Two models get one key, or two audits one check.
        InvalidSettingError: A method of the translator's fails, or gives what it must not; or keys make a circle.
    """
    known = _Known.of(manifest, checked(translator), environment)
    assets = tuple(_model_asset(model, known, group_name, owners) for model in manifest.models)
    table_checks = [
        *(_standalone_check(audit, known) for audit in manifest.standalone_audits),
        *(_external_check(external, known) for external in manifest.externals),
    ]
    verification_checks: list[VerificationCheck] = []
    for asset in assets:
        with _problem_of(asset.model.fqn, known.problems):
            verification_checks += () if asset.problem else _verification_checks(asset.model, known)
    assets = tuple(
        _model_asset(a.model, known, group_name, owners)
        if a.model.fqn in known.problems and not a.problem
        else a
        for a in assets
    )
    _refuse_circles(assets)
    return DagsterProject(
        name=name,
        manifest=manifest,
        assets=assets,
        externals=tuple(_shown_externals(known)),
        table_checks=tuple(c for c in table_checks if c and c.checks),
        verification_checks=tuple(verification_checks),
        others=frozenset(known.keys[model.fqn] for model in manifest.others),
    )


@dataclass(frozen=True)
class _Known:
    """What the translation of one model, audit or table must know of the others.

    Attributes:
        specs: Of the models that could be translated.
        keys: Of every model and external table.
        problems: Why a model, or a table that models read, has no translation.
        used: Check keys of the project so far.
    """

    manifest: Manifest
    translator: SQLMeshTranslator
    environment: str
    specs: dict[str, dg.AssetSpec]
    keys: dict[str, dg.AssetKey]
    problems: dict[str, str]
    used: set[dg.AssetCheckKey]

    @classmethod
    def of(cls, manifest: Manifest, translator: SQLMeshTranslator, environment: str) -> _Known:
        """The first look: every model's own spec and every key.

        Raises:
            DuplicateAssetKeyError: Two models get one key.
        """
        known = cls(manifest, translator, environment, {}, {}, {}, set())
        for model in manifest.models:
            if model.problem:
                known.problems[model.fqn] = model.problem
                continue
            with _problem_of(model.fqn, known.problems):
                known.specs[model.fqn] = known.with_view(translator.get_asset_spec(model), model)
        _refuse_duplicates(manifest, known.specs)
        known.keys.update({fqn: spec.key for fqn, spec in known.specs.items()})
        taken = set(known.keys.values())
        for model in manifest.models:
            if model.fqn not in known.keys:
                known.keys[model.fqn] = _key_of_its_own(model, translator, taken)
                taken.add(known.keys[model.fqn])
        for model in manifest.others:
            known.keys[model.fqn] = _PLAIN.get_asset_key(model)
            with _problem_of(model.fqn, known.problems):
                known.keys[model.fqn] = translator.get_asset_key(model)
        for external in manifest.externals:
            known.keys[external.fqn] = _PLAIN.get_external_asset_key(external.fqn)
            with _problem_of(external.fqn, known.problems):
                known.keys[external.fqn] = (
                    dg.AssetKey(list(external.asset_key))  # as the owner's source says
                    if external.asset_key
                    else translator.get_external_asset_key(external.fqn)
                )
        return known

    def with_view(self, spec: dg.AssetSpec, model: ModelRecord) -> dg.AssetSpec:
        """The spec with the view of this environment as its table, unless a translator names another."""
        plain = ".".join(names.split_fqn(model.fqn))
        suffix = self.manifest.environment_suffix
        if spec.metadata.get(_TABLE) != plain or self.environment == PRODUCTION or suffix is None:
            return spec
        view = names.view_in(
            self.environment, suffix, model.catalog, model.schema_name, model.view_name
        )
        return spec.merge_attributes(metadata={_TABLE: view})

    def problem(self, model: ModelRecord) -> str | None:
        """Why it has no translation: its own reason, or that of a table that it reads."""
        tables = {external.fqn for external in self.manifest.externals}
        tables |= {model.fqn for model in self.manifest.others}
        names_of_it = (model.fqn, *(fqn for fqn in model.depends_on if fqn in tables))
        return next((self.problems[fqn] for fqn in names_of_it if fqn in self.problems), None)


_PLAIN = SQLMeshTranslator()
"""Translates whatever there is; what stands in for a translation that failed is its."""


@contextmanager
def _problem_of(fqn: str, problems: dict[str, str]) -> Iterator[None]:
    """Keeps what goes wrong with one model, so that the others load.

    A translator is the owner's code: it may raise anything.
    """
    try:
        yield
    except DuplicateAssetKeyError:  # of two models or audits; only the owner knows which is meant
        raise
    except Exception as error:
        problems[fqn] = text_with_place(error)
        _log.debug("`%s` cannot be translated.", fqn, exc_info=True)


def _refuse_circles(assets: Iterable[ModelAsset]) -> None:
    """Models have none; a table that gets the key of a model below it makes one.

    Raises:
        InvalidSettingError: With the keys.
    """
    inputs = {
        a.spec.key: [dep.asset_key for dep in a.spec.deps if dep.asset_key != a.spec.key]
        for a in assets
    }
    try:
        TopologicalSorter(inputs).prepare()
    except CycleError as error:
        circle = " → ".join(f"`{key.to_user_string()}`" for key in error.args[1])
        raise InvalidSettingError(
            f"These assets would be made of each other: {circle}. Let `external_asset_mapping`, or the translator's"
            " `get_external_asset_key`, give a table that is not SQLMesh's another key than a model's."
        ) from error


def stand_in(asset_key: dg.AssetKey, model: ModelRecord, problem: str) -> ModelAsset:
    """The asset of a model that could not be translated: it says why, and fails with this in a run."""
    text = f"This model cannot be shown as an asset, and its step fails.\n\n{fenced(problem)}"
    spec = dg.AssetSpec(
        key=asset_key,
        description=names.shown(text),
        metadata={"sqlmesh/problem": dg.MetadataValue.md(names.shown(text))},
        kinds={"sqlmesh"},
    )
    return ModelAsset(model=model, spec=spec, checks=(), problem=problem)


def _key_of_its_own(
    model: ModelRecord, translator: SQLMeshTranslator, taken: Collection[dg.AssetKey]
) -> dg.AssetKey:
    """The key that the translator gives, if it gives one that no other model has."""
    key = _PLAIN.get_asset_key(model)
    with _problem_of(model.fqn, {}):
        given = translator.get_asset_key(model)
        key = given if isinstance(given, dg.AssetKey) and given.path else key
    if key not in taken:
        return key
    return dg.AssetKey([*key.path[:-1], f"{key.path[-1]}__{names.digest(model.fqn)}"])


def _model_asset(
    model: ModelRecord, known: _Known, group_name: str, owners: Sequence[str]
) -> ModelAsset:
    problem = known.problem(model)
    if problem is None:
        with _problem_of(model.fqn, known.problems):
            return _translated_asset(model, known, group_name, owners)
        problem = known.problems[model.fqn]
    asset = stand_in(known.keys[model.fqn], model, problem)
    deps = [dg.AssetDep(known.keys[fqn]) for fqn in model.depends_on]
    return replace(asset, spec=_completed(asset.spec, deps, {}, group_name, owners))


def _translated_asset(
    model: ModelRecord, known: _Known, group_name: str, owners: Sequence[str]
) -> ModelAsset:
    spec, keys, translator = known.specs[model.fqn], known.keys, known.translator
    settings = translator.settings
    metadata = {
        **problem_metadata(known.manifest),
        **(_column_lineage(model, keys) if settings.column_lineage else {}),
        **_code_references(model, known.manifest, settings),
    }
    deps = [_dependency(spec, fqn, known.specs, keys) for fqn in model.depends_on]
    return ModelAsset(
        model=model,
        spec=_completed(spec, deps, metadata, group_name, owners),
        checks=_partitioned(
            _checks(translator, model.audits, keys[model.fqn], model.name, known.used),
            spec.partitions_def
            if settings.partitioned_checks and model.kind == "INCREMENTAL_BY_TIME_RANGE"
            else None,
        ),
        backfill_policy=translator.get_backfill_policy(model) if spec.partitions_def else None,
    )


def _external_check(external: ExternalRecord, known: _Known) -> TableCheck:
    fqn, key = external.fqn, known.keys[external.fqn]
    with _problem_of(fqn, known.problems):
        return TableCheck(fqn, _checks(known.translator, external.audits, key, fqn, known.used))
    checks = _checks(_PLAIN, external.audits, key, fqn, known.used)
    return TableCheck(fqn, checks, known.problems[fqn])


def _shown_externals(known: _Known) -> Iterator[dg.AssetSpec]:
    """External tables that the settings show; two of them may be keyed as one asset, or as a model."""
    seen = {known.keys[model.fqn] for model in known.manifest.models}
    if not known.translator.settings.external_assets:
        return
    for external in known.manifest.externals:
        spec = _PLAIN.get_external_asset_spec(external).replace_attributes(
            key=known.keys[external.fqn]
        )
        with _problem_of(external.fqn, known.problems):
            spec = known.translator.get_external_asset_spec(external)
        if spec.key not in seen:
            seen.add(spec.key)
            yield spec
    for model in known.manifest.others:
        spec = dg.AssetSpec(known.keys[model.fqn])
        with _problem_of(model.fqn, known.problems):
            spec = _built_elsewhere(known.translator.get_asset_spec(model))
        if spec.key not in seen:
            seen.add(spec.key)
            yield spec


def _built_elsewhere(spec: dg.AssetSpec) -> dg.AssetSpec:
    """A model of another project, as this one shows it: who builds it says when and how."""
    return dg.AssetSpec(
        key=spec.key,
        description=spec.description,
        metadata=spec.metadata,
        group_name=spec.group_name,
        owners=spec.owners,
        tags=spec.tags,
    )


def problem_metadata(manifest: Manifest) -> dict[str, dg.MarkdownMetadataValue]:
    """What the UI shows while the files are broken and definitions are older."""
    if manifest.problem is None:
        return {}
    text = f"These definitions are the last good ones.\n\n```\n{manifest.problem}\n```"
    return {"sqlmesh/problem": dg.MetadataValue.md(text)}


def _column_lineage(
    model: ModelRecord, keys: Mapping[str, dg.AssetKey]
) -> dict[str, dg.TableColumnLineage]:
    """The columns that each column is made of, for Dagster; without tables that have no asset."""
    deps = {
        column.name: [
            dg.TableColumnDep(asset_key=keys[fqn], column_name=source)
            for fqn, source in column.sources
            if fqn in keys
        ]
        for column in model.columns
    }
    traced = {name: found for name, found in deps.items() if found}
    return {"dagster/column_lineage": dg.TableColumnLineage(traced)} if traced else {}


def _code_references(
    model: ModelRecord, manifest: Manifest, settings: TranslatorSettings
) -> dict[str, dg.CodeReferencesMetadataValue]:
    """The model's file and line: for an editor on this machine, and on a git host."""
    if model.path is None or not settings.code_references:
        return {}
    path = names.shown(model.path)  # file names need not be UTF-8
    file = os.path.normpath(f"{manifest.project_dir}/{path}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        references: list[dg.LocalFileCodeReference | dg.UrlCodeReference] = [
            dg.LocalFileCodeReference(file_path=file, line_number=model.line, label=model.name)
        ]
        if settings.code_url:
            url = f"{_address(settings.code_url, path)}#L{model.line}"
            references.append(dg.UrlCodeReference(url=url, label=model.name))
        found = dg.CodeReferencesMetadataValue(code_references=references)
    return {"dagster/code_references": found}


def _address(folder: str, path: str) -> str:
    """Where a git host shows a file; another project's folder is next to that of the first."""
    base = folder.rstrip("/")
    while path.startswith("../"):
        base, path = base.rpartition("/")[0], path.removeprefix("../")
    return f"{base}/{quote(path)}"


def _refuse_duplicates(manifest: Manifest, specs: Mapping[str, dg.AssetSpec]) -> None:
    first: dict[dg.AssetKey, ModelRecord] = {}
    for model in manifest.models:
        if model.fqn not in specs:
            continue
        other = first.setdefault(specs[model.fqn].key, model)
        if other is not model:
            raise DuplicateAssetKeyError(
                f"The models `{other.name}` and `{model.name}` get the same asset key"
                f" `{specs[model.fqn].key.to_user_string()}`. Let the translator's `get_asset_key`"
                " tell them apart."
            )


def _dependency(
    spec: dg.AssetSpec, fqn: str, specs: Mapping[str, dg.AssetSpec], keys: Mapping[str, dg.AssetKey]
) -> dg.AssetDep:
    """What a model reads; its partitions may begin before those of its upstream."""
    upstream = specs.get(fqn)
    if spec.partitions_def is None or upstream is None or upstream.partitions_def is None:
        return dg.AssetDep(keys[fqn])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        mapping = dg.TimeWindowPartitionMapping(allow_nonexistent_upstream_partitions=True)
    return dg.AssetDep(keys[fqn], partition_mapping=mapping)


def _completed(
    spec: dg.AssetSpec,
    deps: Sequence[dg.AssetDep],
    metadata: Mapping[str, Any],
    group_name: str,
    owners: Sequence[str],
) -> dg.AssetSpec:
    """The translator's spec, and defaults for what it leaves out."""
    known = {dep.asset_key for dep in spec.deps} | {spec.key}
    added = {dep.asset_key: dep for dep in deps if dep.asset_key not in known}
    return spec.replace_attributes(
        deps=[*spec.deps, *added.values()],
        metadata={**metadata, **spec.metadata},
        group_name=spec.group_name or names.group_name(group_name),
        owners=list(spec.owners) or names.owners(owners),
    )


def _checks(
    translator: SQLMeshTranslator,
    audits: Sequence[AuditRecord],
    key: dg.AssetKey,
    source: str,
    used: set[dg.AssetCheckKey],
) -> Checks:
    """The checks of one model, external table or standalone audit, whose name is `source`.

    A standalone audit may have the name of a model's check, and two external tables may share a key:
    the later one's check gets a digest of `source`.

    Args:
        used: Check keys of the project so far; this adds to them once all are made.
    """
    checks: list[tuple[AuditRecord, dg.AssetCheckSpec]] = []
    own: set[dg.AssetCheckKey] = set()
    for audit in audits if translator.settings.asset_checks else ():
        if audit.skip:
            continue
        spec = translator.get_check_spec(audit, key)
        if spec.key in used | own:
            other = replace(
                audit,
                check_name=f"{audit.check_name}_{names.digest(source)}",
                long_name=f"{audit.long_name}_{names.digest(source)}" if audit.long_name else "",
            )
            spec = translator.get_check_spec(other, key)
        if spec.key in used | own:
            raise DuplicateAssetKeyError(
                f"Two audits get the same check `{spec.name}` on `{key.to_user_string()}`; one is"
                f" `{audit.name}` of `{source}`. Let the translator's `get_check_spec` tell them"
                " apart by `audit.check_name`."
            )
        own.add(spec.key)
        checks.append((audit, spec))
    used |= own
    return tuple(checks)


def _verification_checks(model: ModelRecord, known: _Known) -> Iterator[VerificationCheck]:
    """The checks of a model's code.

    Raises:
        DuplicateAssetKeyError: The translator gives one the name of another check.
    """
    key, translator, settings = known.keys[model.fqn], known.translator, known.translator.settings
    checks = []
    if settings.unit_test_checks and model.unit_tests:
        spec = translator.get_unit_tests_check_spec(model, key)
        checks.append(VerificationCheck("unit_tests", model, spec))
    if settings.lint_checks:
        checks.append(VerificationCheck("lint", model, translator.get_lint_check_spec(model, key)))
    for check in checks:
        if check.spec.key in known.used:
            raise DuplicateAssetKeyError(
                f"The check `{check.spec.name}` of `{model.name}` has the name of an audit's check."
                " Let the translator's `get_unit_tests_check_spec` or `get_lint_check_spec` give"
                " it another."
            )
        known.used.add(check.spec.key)
        yield check


def _standalone_check(record: StandaloneAuditRecord, known: _Known) -> TableCheck | None:
    with _problem_of(record.audit.name, known.problems):
        return _shown_on(record, known, known.translator)
    check = _shown_on(record, known, _PLAIN)
    return replace(check, problem=known.problems[record.audit.name]) if check else None


def _shown_on(
    record: StandaloneAuditRecord, known: _Known, translator: SQLMeshTranslator
) -> TableCheck | None:
    manifest, keys = known.manifest, known.keys
    order = [e.fqn for e in manifest.externals]
    order += [m.fqn for m in (*manifest.others, *manifest.models)]
    candidates = [fqn for fqn in order if fqn in record.depends_on]
    if not candidates:
        return None
    shown_on = translator.get_standalone_check_asset(record, candidates)
    others = [keys[fqn] for fqn in candidates if keys[fqn] != keys[shown_on]]
    checks = _checks(translator, [record.audit], keys[shown_on], record.audit.name, known.used)
    return TableCheck(
        record.audit.name, tuple((audit, _built_after(spec, others)) for audit, spec in checks)
    )


def _built_after(spec: dg.AssetCheckSpec, others: Sequence[dg.AssetKey]) -> dg.AssetCheckSpec:
    """The check, executed after these assets when they are in the same run."""
    known = {dep.asset_key for dep in spec.additional_deps}
    added = [dg.AssetDep(key) for key in dict.fromkeys(others) if key not in known]
    return _changed(spec, [*spec.additional_deps, *added], spec.partitions_def)


def _partitioned(checks: Checks, partitions: dg.PartitionsDefinition[str] | None) -> Checks:
    """The checks with the partitions of their asset, whose audits look at its intervals."""
    if partitions is None:
        return checks
    return tuple(
        (
            audit,
            _changed(spec, spec.additional_deps, spec.partitions_def or partitions),
        )
        for audit, spec in checks
    )


def _changed(
    spec: dg.AssetCheckSpec,
    deps: Iterable[dg.AssetDep],
    partitions: dg.PartitionsDefinition[str] | None,
) -> dg.AssetCheckSpec:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.PreviewWarning)
        return dg.AssetCheckSpec(
            spec.name,
            asset=spec.asset_key,
            description=spec.description,
            additional_deps=[*deps],
            blocking=spec.blocking,
            metadata=spec.metadata,
            automation_condition=spec.automation_condition,
            partitions_def=partitions,
        )
