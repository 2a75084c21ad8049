"""One project as Dagster defines it: records, translated once, for definition time and run time alike."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal
from urllib.parse import quote

import dagster as dg

from sqlmesh_dagster.definition import names
from sqlmesh_dagster.definition.records import (
    AuditRecord,
    Manifest,
    ModelRecord,
    StandaloneAuditRecord,
)
from sqlmesh_dagster.errors import DuplicateAssetKeyError
from sqlmesh_dagster.translator import SQLMeshTranslator, TranslatorSettings

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
    """

    model: ModelRecord
    spec: dg.AssetSpec
    checks: Checks
    backfill_policy: dg.BackfillPolicy | None = None

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
    """Audits that run on their own: a standalone audit, or those of an external table.

    Attributes:
        snapshot: What SQLMesh calls it: the standalone audit's name, or the table's FQN.
    """

    snapshot: str
    checks: Checks

    @property
    def op_name(self) -> str:
        """The op that executes the checks."""
        return f"{names.op_name(self.checks[0][1].asset_key.path)}__{self.checks[0][1].name}"


@dataclass(frozen=True)
class VerificationCheck:
    """A check of a model's code, which builds nothing: its unit tests, or the linter."""

    kind: Literal["unit_tests", "lint"]
    model: ModelRecord
    spec: dg.AssetCheckSpec


@dataclass(frozen=True)
class DagsterProject:
    """A translated manifest.

    Attributes:
        name: The name that the factory was given; resource keys and the job's name begin with it.
        externals: External tables that are shown though no asset loads them.
    """

    name: str
    manifest: Manifest
    assets: tuple[ModelAsset, ...]
    table_checks: tuple[TableCheck, ...]
    externals: tuple[dg.AssetSpec, ...] = ()
    verification_checks: tuple[VerificationCheck, ...] = ()

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
        """The checks that steps of their own evaluate."""
        return (
            *(check.spec.key for check in self.verification_checks),
            *(spec.key for table in self.table_checks for _, spec in table.checks),
        )

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

    def plain_name(self, fqn: str) -> str:
        """A model's name as written in its file; of anything else, its FQN without quotes."""
        asset = self.assets_by_fqn.get(fqn)
        return asset.model.name if asset else fqn.replace('"', "")

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
) -> DagsterProject:
    """Applies a translator to a whole project.

    Args:
        group_name: For models whose translation has no group.
        owners: For models whose translation has no owner.

    Raises:
        DuplicateAssetKeyError: Two models get one key, or two audits one check.
    """
    specs = {model.fqn: translator.get_asset_spec(model) for model in manifest.models}
    _refuse_duplicates(manifest, specs)
    keys = {fqn: spec.key for fqn, spec in specs.items()}
    for external in manifest.externals:
        keys[external.fqn] = translator.get_external_asset_key(external.fqn)
    used: set[dg.AssetCheckKey] = set()
    problem = problem_metadata(manifest)
    settings = translator.settings
    assets = tuple(
        ModelAsset(
            model=model,
            spec=_completed(
                specs[model.fqn],
                [_dependency(specs[model.fqn], fqn, specs, keys) for fqn in model.depends_on],
                {
                    **problem,
                    **(_column_lineage(model, keys) if settings.column_lineage else {}),
                    **_code_references(model, manifest, settings),
                },
                group_name,
                owners,
            ),
            checks=_partitioned(
                _checks(translator, model.audits, keys[model.fqn], model.name, used),
                specs[model.fqn].partitions_def
                if settings.partitioned_checks and model.kind == "INCREMENTAL_BY_TIME_RANGE"
                else None,
            ),
            backfill_policy=translator.get_backfill_policy(model)
            if specs[model.fqn].partitions_def
            else None,
        )
        for model in manifest.models
    )
    standalone = (
        _standalone_check(a, manifest, translator, keys, used) for a in manifest.standalone_audits
    )
    external_checks = (
        TableCheck(e.fqn, _checks(translator, e.audits, keys[e.fqn], e.fqn, used))
        for e in manifest.externals
    )
    externals = [
        translator.get_external_asset_spec(external)
        for external in manifest.externals
        if settings.external_assets
    ]
    return DagsterProject(
        name=name,
        manifest=manifest,
        assets=assets,
        externals=tuple(_without_duplicates(externals, specs.values())),
        table_checks=tuple(c for c in (*standalone, *external_checks) if c and c.checks),
        verification_checks=tuple(_verification_checks(manifest, translator, keys, used)),
    )


def problem_metadata(manifest: Manifest) -> dict[str, dg.MarkdownMetadataValue]:
    """What the UI says of definitions that are older than the files, because these are broken."""
    if manifest.problem is None:
        return {}
    text = f"These definitions are the last good ones.\n\n```\n{manifest.problem}\n```"
    return {"sqlmesh/problem": dg.MetadataValue.md(text)}


def _column_lineage(
    model: ModelRecord, keys: Mapping[str, dg.AssetKey]
) -> dict[str, dg.TableColumnLineage]:
    """What each column is made of, in Dagster's terms; tables that nothing reads as a whole are left out."""
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
    file = os.path.normpath(f"{manifest.project_dir}/{model.path}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        references: list[dg.LocalFileCodeReference | dg.UrlCodeReference] = [
            dg.LocalFileCodeReference(file_path=file, line_number=model.line, label=model.name)
        ]
        if settings.code_url:
            url = f"{settings.code_url.rstrip('/')}/{quote(model.path)}#L{model.line}"
            references.append(dg.UrlCodeReference(url=url, label=model.name))
        found = dg.CodeReferencesMetadataValue(code_references=references)
    return {"dagster/code_references": found}


def _without_duplicates(
    externals: Iterable[dg.AssetSpec], models: Iterable[dg.AssetSpec]
) -> Iterator[dg.AssetSpec]:
    """Two tables may be keyed as one asset, or as a model."""
    seen = {spec.key for spec in models}
    for spec in externals:
        if spec.key not in seen:
            seen.add(spec.key)
            yield spec


def _refuse_duplicates(manifest: Manifest, specs: Mapping[str, dg.AssetSpec]) -> None:
    first: dict[dg.AssetKey, ModelRecord] = {}
    for model in manifest.models:
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
    """What a model reads; partitions that are there before its upstream begins are no mistake."""
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
    """The translator's spec, which wins, with what it left out."""
    known = {dep.asset_key for dep in spec.deps} | {spec.key}
    added = {dep.asset_key: dep for dep in deps if dep.asset_key not in known}
    return spec.replace_attributes(
        deps=[*spec.deps, *added.values()],
        metadata={**metadata, **spec.metadata},
        group_name=spec.group_name or names.group_name(group_name),
        owners=list(spec.owners) or list(owners),
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
        used: Check keys of the project so far; this adds to them.
    """
    checks = []
    for audit in audits if translator.settings.asset_checks else ():
        if audit.skip:
            continue
        spec = translator.get_check_spec(audit, key)
        if spec.key in used:
            name = f"{audit.check_name}_{names.digest(source)}"
            spec = translator.get_check_spec(replace(audit, check_name=name), key)
        if spec.key in used:
            raise DuplicateAssetKeyError(
                f"Two audits get the same check `{spec.name}` on `{key.to_user_string()}`; one is"
                f" `{audit.name}` of `{source}`. Let the translator's `get_check_spec` tell them"
                " apart by `audit.check_name`."
            )
        used.add(spec.key)
        checks.append((audit, spec))
    return tuple(checks)


def _verification_checks(
    manifest: Manifest,
    translator: SQLMeshTranslator,
    keys: Mapping[str, dg.AssetKey],
    used: set[dg.AssetCheckKey],
) -> Iterator[VerificationCheck]:
    """The checks of the models' code.

    Raises:
        DuplicateAssetKeyError: The translator gives one the name of another check.
    """
    settings = translator.settings
    for model in manifest.models:
        key = keys[model.fqn]
        checks = []
        if settings.unit_test_checks and model.unit_tests:
            spec = translator.get_unit_tests_check_spec(model, key)
            checks.append(VerificationCheck("unit_tests", model, spec))
        if settings.lint_checks:
            checks.append(
                VerificationCheck("lint", model, translator.get_lint_check_spec(model, key))
            )
        for check in checks:
            if check.spec.key in used:
                raise DuplicateAssetKeyError(
                    f"The check `{check.spec.name}` of `{model.name}` has the name of an audit's check."
                    " Let the translator's `get_unit_tests_check_spec` or `get_lint_check_spec` give"
                    " it another."
                )
            used.add(check.spec.key)
            yield check


def _standalone_check(
    record: StandaloneAuditRecord,
    manifest: Manifest,
    translator: SQLMeshTranslator,
    keys: Mapping[str, dg.AssetKey],
    used: set[dg.AssetCheckKey],
) -> TableCheck | None:
    order = [e.fqn for e in manifest.externals] + [m.fqn for m in manifest.models]
    candidates = [fqn for fqn in order if fqn in record.depends_on]
    if not candidates:
        return None
    shown_on = translator.get_standalone_check_asset(record, candidates)
    others = [keys[fqn] for fqn in candidates if keys[fqn] != keys[shown_on]]
    checks = _checks(translator, [record.audit], keys[shown_on], record.audit.name, used)
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
