"""Records → Dagster specs: every policy of naming, grouping and describing, each a method to override."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg

from sqlmesh_dagster.definition import names
from sqlmesh_dagster.definition.crons import dagster_cron
from sqlmesh_dagster.definition.diagram import column_diagram
from sqlmesh_dagster.definition.markdown import shortened, shortened_sql, sql_block
from sqlmesh_dagster.definition.names import split_fqn as split_fqn
from sqlmesh_dagster.definition.new_data import POLICIES, Policy, policies_of
from sqlmesh_dagster.definition.partitions import interval_partitions
from sqlmesh_dagster.definition.records import (
    AuditRecord,
    ColumnRecord,
    ExternalRecord,
    ModelRecord,
    StandaloneAuditRecord,
)
from sqlmesh_dagster.errors import InvalidSettingError

if TYPE_CHECKING:
    from sqlmesh.core.model import Model

_PLACEHOLDER = re.compile(r"\{\{?\s*(.*?)\s*\}?\}")
_MOST_SOURCES = 8
_FIELDS = ("node.database", "node.schema", "node.name", "node.fqn")
_PLAIN = re.compile(r"[A-Za-z0-9_.-]+")
"""Characters that a Dagster `@asset` can have in its key, so that a mapping gives the same keys."""
_PROPERTY = "dagster:"
"""Tags `dagster:<property>:<value>` of a model set a property of its asset."""
_PROPERTIES = ("group_name", "owner", "description")
_NEW_DATA = {f"{_PROPERTY}new_data:{policy}" for policy in POLICIES}


@dataclass(frozen=True)
class TranslatorSettings:
    """What a translator does without being subclassed.

    Attributes:
        asset_checks: Whether audits are asset checks.
        long_check_names: Whether the name of a check has all arguments of its audit, as until 0.3. A new
            threshold then is a new check, with a history of its own.
        unit_test_checks: Whether a model that has SQLMesh unit tests has a check of them. A run that
            selects it loads the project's files, which takes seconds; the scheduled job does only where
            a model, its tests or the linter's rules have changed.
        lint_checks: Whether a model has a check of what SQLMesh's linter finds in it; as above.
        code_references: Whether an asset leads to the file and line of its model.
        code_url: Where a git host shows the project's folder, such as
            `https://github.com/acme/platform/blob/main/sqlmesh_project`; the asset then leads there, too.
        column_lineage: Whether an asset's columns lead to, and name, the columns that they are made of.
        column_diagram: Whether a model's description has a picture of its columns and of those that
            they are made of.
        model_sql: Whether a model's description ends with its SQL, as it is written.
        external_assets: Whether an external table that no asset of yours loads is shown with its
            description and columns. Leave it off where another asset has the same key.
        virtual_views: Whether Dagster looks through views when it asks whether data is stale.
        freshness_policies: Whether an asset is stale when its model's cron was missed: a warning
            after one and a half of its longest pauses, a failure after two.
        automation_conditions: Whether Dagster's declarative automation requests a model at each tick
            of its cron, for those who prefer it to the adaptive schedule.
        partitions: Whether models that are built by time range are partitioned in Dagster by their
            intervals, which can then be backfilled from the UI.
        partitioned_checks: Whether the checks of partitioned models have their partitions, each with
            its own result. Dagster's UI cannot execute such a check alone.
    """

    asset_checks: bool = True
    long_check_names: bool = False
    unit_test_checks: bool = False
    lint_checks: bool = False
    code_references: bool = True
    code_url: str | None = None
    column_lineage: bool = True
    column_diagram: bool = True
    model_sql: bool = True
    external_assets: bool = False
    virtual_views: bool = False
    freshness_policies: bool = False
    automation_conditions: bool = False
    partitions: bool = False
    partitioned_checks: bool = True


class SQLMeshTranslator:
    """How a SQLMesh project looks in Dagster.

    Subclass it, override what differs, and pass an instance to a factory. Each method takes a frozen
    record of the project's files (`sqlmesh_dagster.definition.records`), so that no override needs a
    loaded SQLMesh model. `get_asset_spec` and `get_check_spec` make the whole asset and check, from
    what the other methods return.

    Args:
        external_asset_mapping: Template of the keys of external tables, such as
            `raw/{node.schema}/{node.name}`; with `node.database`, `node.schema`, `node.name` and
            `node.fqn`. Without one, they are keyed as models are.
        settings: What is switched on and off; a subclass may set it as a class attribute.

    Raises:
        InvalidSettingError: The template names another field, or gives an empty key.
    """

    external_asset_mapping: str | None = None
    settings = TranslatorSettings()
    catalog_in_keys = True
    """Whether keys of models begin with their catalog. A subclass sets it to False, so that keys, and the
    history behind them, stay when the data moves to another warehouse."""

    def __init__(
        self,
        external_asset_mapping: str | None = None,
        settings: TranslatorSettings | None = None,
    ) -> None:
        if settings is not None:
            self.settings = settings
        if external_asset_mapping is not None:
            _check_template(external_asset_mapping)
            self.external_asset_mapping = external_asset_mapping

    def read_model(self, model: Model) -> Mapping[str, Any]:
        """More of a loaded SQLMesh model than its record has, to be found in `ModelRecord.extra`.

        Called when the manifest is made, which happens only when something changed. It is made
        again when the file of the override changes.

        Args:
            model: `sqlmesh.core.model.Model`, loaded and with its columns' types.

        Returns:
            What JSON can hold: texts, numbers, booleans, None, lists and dictionaries of them.
        """
        return {}

    def get_asset_key(self, model: ModelRecord) -> dg.AssetKey:
        """`catalog / schema / model`, or without `catalog_in_keys` the last two, or dbt's `meta.dagster.asset_key`.

        Characters that Dagster refuses are replaced, see `names`.
        """
        if model.dbt and model.dbt.asset_key:
            return _table_key(*model.dbt.asset_key)
        catalog = model.catalog if self.catalog_in_keys else ""
        return _table_key(catalog, model.schema_name, model.view_name)

    def get_external_asset_key(self, external_fqn: str) -> dg.AssetKey:
        """The key of a table that SQLMesh reads and does not build.

        Return the key of the Dagster asset that loads it, to make that asset upstream.

        Args:
            external_fqn: Quoted name, e.g. `"warehouse"."raw"."orders"`.

        Raises:
            InvalidSettingError: The template has only fields that are empty for this table.
        """
        parts = split_fqn(external_fqn)
        if self.external_asset_mapping is None:
            return _table_key(*(parts if self.catalog_in_keys else parts[-2:]))
        database, schema, name = ["", "", *parts][-3:]
        fields = {
            "node.database": database,
            "node.schema": schema,
            "node.name": name,
            "node.fqn": ".".join(parts),
        }
        segments = (
            _PLACEHOLDER.sub(lambda match: fields[match[1]], segment)
            for segment in self.external_asset_mapping.split("/")
        )
        path = [s if _PLAIN.fullmatch(s) else names.key_segment(s) for s in segments if s]
        if not path:
            raise InvalidSettingError(
                f"`external_asset_mapping` `{self.external_asset_mapping}` gives the table"
                f" `{external_fqn}` no name. Add `{{node.name}}`."
            )
        return dg.AssetKey(path)

    def get_description(self, model: ModelRecord) -> str | None:
        """The tag `dagster:description:…`, or the model's own description; its grain, columns and SQL."""
        text = _property(model.tags, "description") or model.description or ""
        if text and model.grains and "grain" not in text.lower():
            text = f"{text}\n\nGrain: {', '.join(model.grains)}."
        below = [self._column_diagram(model)]
        if model.query and self.settings.model_sql:
            below.append(shortened_sql(model.query))
        if any(below):  # lists show the first words, which are neither picture nor SQL
            text = text or f"SQLMesh model of kind {model.kind}."
        return names.shown("\n\n".join(part for part in (text, *below) if part)) or None

    def _column_diagram(self, model: ModelRecord) -> str | None:
        if not (self.settings.column_lineage and self.settings.column_diagram):
            return None
        return column_diagram(".".join(split_fqn(model.fqn)[-2:]), model.columns)

    def get_group_name(self, model: ModelRecord) -> str | None:
        """The tag `dagster:group_name:…`, or dbt's group; without one, the factory's `group_name` is used."""
        of_dbt = model.dbt.group if model.dbt else None
        return names.group_name(_property(model.tags, "group_name") or of_dbt or "")

    def get_owners(self, model: ModelRecord) -> Sequence[str]:
        """The tags `dagster:owner:…`, or SQLMesh's owner, or dbt's; a plain name becomes a team."""
        tagged = names.owners(_properties(model.tags, "owner"))
        owned = names.owners([model.owner] if model.owner else [])
        of_dbt = names.owners(model.dbt.owners if model.dbt else ())
        return tagged or (of_dbt if len(of_dbt) > 1 else owned or of_dbt)

    def get_tags(self, model: ModelRecord) -> Mapping[str, str]:
        """SQLMesh's tags, `dagster:…` ones left out; `domain:sales` becomes a key and a value."""
        return names.dagster_tags([tag for tag in model.tags if not tag.startswith(_PROPERTY)])

    def get_kinds(self, model: ModelRecord) -> set[str]:
        """What the asset's badges say: SQLMesh, the engine, and what the model is."""
        what = "view" if model.is_view else "table"
        sources = {"python": "python", "seed": "csv"}
        dbt = "dbt" if model.dbt else ""
        return names.kinds(
            (
                "sqlmesh",
                dbt,
                names.engine(model.engine or model.dialect),
                sources.get(model.source_type, what),
            )
        )

    def get_new_data_policy(self, model: ModelRecord) -> Policy:
        """The tag `dagster:new_data:…`, or what the model's kind allows without loss.

        What is built again when an input has new data: `all` of the model, the time of the new rows
        (`touched`), the `newest` intervals, or `nothing`. A tag that does not fit the kind is
        ignored.
        """
        policies = policies_of(model.kind)
        tagged = _property(model.tags, "new_data")
        return next((policy for policy in policies if policy == tagged), policies[0])

    def get_freshness_policy(self, model: ModelRecord) -> dg.FreshnessPolicy | None:
        """None, unless the settings ask for one; see `TranslatorSettings.freshness_policies`."""
        if not self.settings.freshness_policies or model.is_seed:
            return None
        return dg.FreshnessPolicy.time_window(
            fail_window=timedelta(seconds=2 * model.cron_gap),
            warn_window=timedelta(seconds=1.5 * model.cron_gap),
        )

    def get_automation_condition(self, model: ModelRecord) -> dg.AutomationCondition[Any] | None:
        """None, unless the settings ask for one; see `TranslatorSettings.automation_conditions`.

        Dagster's own `on_cron` would wait until every upstream asset is materialized after the
        tick, also for models with nothing due.
        """
        if not self.settings.automation_conditions or model.is_seed:
            return None
        tick: dg.AutomationCondition[Any] = dg.AutomationCondition.cron_tick_passed(
            dagster_cron(model.cron, model.cron_period), model.cron_tz or "UTC"
        )
        return (tick.since_last_handled() & ~dg.AutomationCondition.in_progress()).with_label(
            f"cron of the model: {model.cron}"
        )

    def get_partitions_def(self, model: ModelRecord) -> dg.TimeWindowPartitionsDefinition | None:
        """None, unless the settings ask for it; see `TranslatorSettings.partitions`.

        Override it to partition some models only, or coarser than SQLMesh's intervals are; a partition
        is materialized once SQLMesh has built all of it.
        """
        return interval_partitions(model) if self.settings.partitions else None

    def get_backfill_policy(self, model: ModelRecord) -> dg.BackfillPolicy:
        """How a Dagster backfill of a partitioned model is divided into runs: a single one.

        One job of Dagster wants one policy for all of its models.
        """
        return dg.BackfillPolicy.single_run()

    def get_code_version(self, model: ModelRecord) -> str | None:
        """SQLMesh's data hash, so that Dagster marks models that changed since they were built."""
        return model.code_version

    def get_metadata(self, model: ModelRecord) -> Mapping[str, Any]:
        """Table name, column schema, and SQLMesh's facts under `sqlmesh/`."""
        facts = {
            "sqlmesh/kind": model.kind,
            "sqlmesh/cron": model.cron,
            "sqlmesh/interval_unit": model.interval_unit,
            "sqlmesh/dialect": model.dialect,
            "sqlmesh/gateway": model.gateway,
            "sqlmesh/grain": ", ".join(model.grains),
            "sqlmesh/references": ", ".join(model.references),
            "sqlmesh/partitioned_by": ", ".join(model.partitioned_by),
            "sqlmesh/time_column": model.time_column,
            "sqlmesh/start": model.start,
            "sqlmesh/forward_only": model.is_forward_only,
            "sqlmesh/path": model.path,
        }
        return {
            "dagster/table_name": ".".join(split_fqn(model.fqn)),
            **_column_schema(
                model.columns,
                _constraints(model.audits),
                has_sources=self.settings.column_lineage,
            ),
            **{k: names.shown(v) if isinstance(v, str) else v for k, v in facts.items() if v},
        }

    def get_asset_spec(self, model: ModelRecord) -> dg.AssetSpec:
        """The whole asset of a model.

        Override it, call `super()`, and use `spec.replace_attributes(...)` or
        `spec.merge_attributes(...)`. The factory adds the dependencies that SQLMesh knows to those
        given here, and its own `group_name` and `owners` where the spec has none.
        """
        engine = names.engine(model.engine or model.dialect)
        storage = {"dagster/storage_kind": engine} if engine else {}
        return dg.AssetSpec(
            key=self.get_asset_key(model),
            description=self.get_description(model),
            metadata=self.get_metadata(model),
            group_name=self.get_group_name(model),
            code_version=self.get_code_version(model),
            owners=self.get_owners(model),
            tags={**storage, **self.get_tags(model)},
            kinds=self.get_kinds(model),
            freshness_policy=self.get_freshness_policy(model),
            automation_condition=self.get_automation_condition(model),
            is_virtual=self.settings.virtual_views and model.is_view,
            partitions_def=self.get_partitions_def(model),
        )

    def get_external_asset_spec(self, external: ExternalRecord) -> dg.AssetSpec:
        """An external table that no asset loads, where `settings.external_assets` shows them."""
        return dg.AssetSpec(
            key=self.get_external_asset_key(external.fqn),
            description=names.shown(external.description) if external.description else None,
            metadata={
                "dagster/table_name": ".".join(split_fqn(external.fqn)),
                **_column_schema(external.columns),
            },
        )

    def get_check_spec(self, audit: AuditRecord, asset_key: dg.AssetKey) -> dg.AssetCheckSpec:
        """One use of an audit as an asset check.

        Not `blocking` for Dagster, whatever it is for SQLMesh, and its page says nothing of blocking:
        SQLMesh itself fails the model of a blocking audit, and the step with it. Dagster would warn about each blocking check, once for
        each downstream step, in every run in which nothing was due and so no audit ran.
        """
        return dg.AssetCheckSpec(
            name=(self.settings.long_check_names and audit.long_name) or audit.check_name,
            asset=asset_key,
            description=names.shown(audit.description or _audit_description(audit)),
            metadata={
                "sqlmesh/audit": audit.name,
                "sqlmesh/fails_model": audit.blocking,
                **({"sqlmesh/arguments": dict(audit.arguments)} if audit.arguments else {}),
                **({"sqlmesh/query": sql_block(audit.query)} if audit.query else {}),
            },
        )

    def get_unit_tests_check_spec(
        self, model: ModelRecord, asset_key: dg.AssetKey
    ) -> dg.AssetCheckSpec:
        """A model's SQLMesh unit tests as one asset check; see `TranslatorSettings.unit_test_checks`."""
        return dg.AssetCheckSpec(
            name="unit_tests",
            asset=asset_key,
            description=f"SQLMesh unit tests: {', '.join(model.unit_tests)}.",
        )

    def get_lint_check_spec(self, model: ModelRecord, asset_key: dg.AssetKey) -> dg.AssetCheckSpec:
        """What SQLMesh's linter says of a model; see `TranslatorSettings.lint_checks`."""
        return dg.AssetCheckSpec(
            name="lint", asset=asset_key, description="SQLMesh's linter, with the project's rules."
        )

    def get_standalone_check_asset(
        self, audit: StandaloneAuditRecord, candidates: Sequence[str]
    ) -> str:
        """Which of the tables that a standalone audit reads its check is shown on.

        A dbt test's is the model at which it stands in YAML; else it is the last one.

        Args:
            candidates: FQNs that the audit reads, upstream before downstream.
        """
        return next((fqn for fqn in candidates if fqn == audit.about), candidates[-1])


def _check_template(template: str) -> None:
    for field in _PLACEHOLDER.findall(template):
        if field not in _FIELDS:
            raise InvalidSettingError(
                f"`external_asset_mapping` has the unknown field `{field}` in `{template}`."
                f" Use one of: {', '.join(_FIELDS)}."
            )
    if set(_PLACEHOLDER.sub("", template)) & {"{", "}"}:
        raise InvalidSettingError(
            f"`external_asset_mapping` has a brace without its partner in `{template}`."
            " Write fields as in `raw/{node.name}`."
        )
    if not template.strip("/ "):
        raise InvalidSettingError(
            "`external_asset_mapping` is empty. Write a key such as `raw/{node.name}`."
        )


def _table_key(*parts: str) -> dg.AssetKey:
    return dg.AssetKey([names.key_segment(part) for part in parts if part])


def _properties(tags: Sequence[str], name: str) -> list[str]:
    prefix = f"{_PROPERTY}{name}:"
    return [tag[len(prefix) :].strip() for tag in tags if tag.startswith(prefix)]


def _property(tags: Sequence[str], name: str) -> str | None:
    values = _properties(tags, name)
    return values[0] if values else None


def unknown_properties(tags: Sequence[str]) -> list[str]:
    """Tags that begin with `dagster:` and set nothing: most likely misspelt."""
    known = tuple(f"{_PROPERTY}{name}:" for name in _PROPERTIES)
    unknown = [tag for tag in tags if tag.startswith(_PROPERTY) and not tag.startswith(known)]
    return [tag for tag in unknown if tag not in _NEW_DATA]


def _constraints(audits: Sequence[AuditRecord]) -> Mapping[str, dg.TableColumnConstraints]:
    """What blocking audits promise of a column, by its name."""
    sure = [audit for audit in audits if audit.blocking and not audit.skip]
    not_null = {name for audit in sure if audit.name == "not_null" for name in _audited(audit)}
    unique = {name for audit in sure if audit.name == "unique_values" for name in _audited(audit)}
    return {
        name: dg.TableColumnConstraints(nullable=name not in not_null, unique=name in unique)
        for name in not_null | unique
    }


def _audited(audit: AuditRecord) -> list[str]:
    """The columns of an audit without a condition."""
    arguments = dict(audit.arguments)
    if set(arguments) != {"columns"}:
        return []
    return [name.strip().strip('"') for name in arguments["columns"].strip("()[]").split(",")]


def _column_schema(
    columns: Sequence[ColumnRecord],
    constraints: Mapping[str, dg.TableColumnConstraints] | None = None,
    *,
    has_sources: bool = False,
) -> dict[str, dg.TableSchema]:
    if not columns:
        return {}
    return {
        "dagster/column_schema": dg.TableSchema(
            columns=[
                dg.TableColumn(
                    name=names.shown(column.name),
                    type=column.data_type,
                    description=_column_description(column, has_sources=has_sources),
                    constraints=(constraints or {}).get(column.name),
                )
                for column in columns
            ]
        )
    }


def _column_description(column: ColumnRecord, *, has_sources: bool) -> str | None:
    """The author's words, and the columns that it is made of; Dagster's UI shows no column lineage."""
    words = [column.description] if column.description else []
    if has_sources and column.sources:
        sources = [".".join([*split_fqn(fqn)[-2:], name]) for fqn, name in column.sources]
        shown = shortened([f"`{source}`" for source in sources], _MOST_SOURCES, "columns")
        words.append(f"From {', '.join(shown)}.")
    return names.shown("\n\n".join(words)) if words else None


def _audit_description(audit: AuditRecord) -> str:
    arguments = ", ".join(f"{name} := {value}" for name, value in audit.arguments)
    effect = "the model fails, and what reads it is skipped" if audit.blocking else "it warns"
    call = f"{audit.name}({arguments})" if arguments else audit.name
    return f"SQLMesh audit `{call}`. When it finds rows, {effect}."
