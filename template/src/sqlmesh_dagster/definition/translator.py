"""Records → Dagster specs: every policy of naming, grouping and describing, each a method to override."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from sqlmesh_dagster.definition import names
from sqlmesh_dagster.definition.records import (
    AuditRecord,
    ColumnRecord,
    ExternalRecord,
    ModelRecord,
    StandaloneAuditRecord,
)
from sqlmesh_dagster.errors import InvalidSettingError

_EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")
_PLACEHOLDER = re.compile(r"\{\{?\s*(.*?)\s*\}?\}")
_PROPERTY = "dagster:"
"""Tags `dagster:<property>:<value>` of a model set a property of its asset."""
_PROPERTIES = ("group_name", "owner", "description")


class SQLMeshTranslator:
    """How a SQLMesh project looks in Dagster.

    Subclass it, override what differs, and pass an instance to a factory. Each method takes a frozen
    record of the project's files (`sqlmesh_dagster.definition.records`), so that no override needs a
    loaded SQLMesh model. `get_asset_spec` and `get_check_spec` are the last word on an asset and a
    check; the other methods are the parts that they are made of.
    """

    def get_asset_key(self, model: ModelRecord) -> dg.AssetKey:
        """`catalog / schema / model`; characters that Dagster refuses are replaced, see `names`."""
        return _table_key(model.catalog, model.schema_name, model.view_name)

    def get_external_asset_key(self, external_fqn: str) -> dg.AssetKey:
        """The key of a table that SQLMesh reads and does not build.

        Return the key of the Dagster asset that loads it, to make that asset upstream.

        Args:
            external_fqn: Quoted name, e.g. `"warehouse"."raw"."orders"`.
        """
        return dg.AssetKey([names.key_segment(part) for part in split_fqn(external_fqn)])

    def get_description(self, model: ModelRecord) -> str | None:
        """The tag `dagster:description:…`, or the model's own description."""
        return _property(model.tags, "description") or model.description

    def get_group_name(self, model: ModelRecord) -> str | None:
        """The tag `dagster:group_name:…`; without one, the factory's `group_name` is used."""
        group = _property(model.tags, "group_name")
        return names.group_name(group) if group else None

    def get_owners(self, model: ModelRecord) -> Sequence[str]:
        """The tags `dagster:owner:…`, or SQLMesh's owner; a plain name becomes a team."""
        tagged = _properties(model.tags, "owner")
        given = tagged or ([model.owner] if model.owner else [])
        return [owner if _is_dagster_owner(owner) else f"team:{owner}" for owner in given]

    def get_tags(self, model: ModelRecord) -> Mapping[str, str]:
        """SQLMesh's tags, `dagster:…` ones left out; `domain:sales` becomes a key and a value."""
        return names.dagster_tags([tag for tag in model.tags if not tag.startswith(_PROPERTY)])

    def get_kinds(self, model: ModelRecord) -> set[str]:
        """What the asset's badges say: SQLMesh and the engine's dialect."""
        return {kind for kind in ("sqlmesh", model.dialect) if kind}

    def get_code_version(self, model: ModelRecord) -> str | None:
        """SQLMesh's data hash, so that Dagster marks what is changed and not yet run."""
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
            "sqlmesh/partitioned_by": ", ".join(model.partitioned_by),
            "sqlmesh/path": model.path,
        }
        return {
            "dagster/table_name": ".".join(split_fqn(model.fqn)),
            **_column_schema(model.columns),
            **{key: value for key, value in facts.items() if value},
        }

    def get_asset_spec(self, model: ModelRecord) -> dg.AssetSpec:
        """Everything that Dagster knows of a model's asset.

        Override it, call `super()`, and use `spec.replace_attributes(...)` or
        `spec.merge_attributes(...)`. The factory adds the dependencies that SQLMesh knows to those
        given here, and its own `group_name` and `owners` where the spec has none.
        """
        return dg.AssetSpec(
            key=self.get_asset_key(model),
            description=self.get_description(model),
            metadata=self.get_metadata(model),
            group_name=self.get_group_name(model),
            code_version=self.get_code_version(model),
            owners=self.get_owners(model),
            tags=self.get_tags(model),
            kinds=self.get_kinds(model),
        )

    def get_check_spec(self, audit: AuditRecord, asset_key: dg.AssetKey) -> dg.AssetCheckSpec:
        """One use of an audit as an asset check.

        The spec is never `blocking` for Dagster: when a blocking audit fails, SQLMesh fails the
        model, and the step with it. Dagster would warn on each run in which the audit did not run.
        """
        return dg.AssetCheckSpec(
            name=audit.check_name,
            asset=asset_key,
            description=audit.description or _audit_description(audit),
            metadata={
                "sqlmesh/audit": audit.name,
                "sqlmesh/blocking": audit.blocking,
                **({"sqlmesh/arguments": dict(audit.arguments)} if audit.arguments else {}),
                **(
                    {"sqlmesh/query": dg.MetadataValue.md(_sql_block(audit.query))}
                    if audit.query
                    else {}
                ),
            },
        )

    def get_standalone_check_asset(
        self, audit: StandaloneAuditRecord, candidates: Sequence[str]
    ) -> str:
        """Which of the tables that a standalone audit reads its check is shown on.

        Args:
            candidates: FQNs that the audit reads, upstream before downstream.
        """
        return candidates[-1]


class TemplateTranslator(SQLMeshTranslator):
    """A translator that takes the keys of external tables from a template such as `raw/{node.name}`."""

    def __init__(self, external_asset_mapping: str) -> None:
        """Checks the template.

        Raises:
            InvalidSettingError: The template names something other than `node.database`,
                `node.schema`, `node.name` or `node.fqn`, or gives an empty key.
        """
        self.external_asset_mapping = external_asset_mapping
        known = {"node.database", "node.schema", "node.name", "node.fqn"}
        for field in _PLACEHOLDER.findall(external_asset_mapping):
            if field not in known:
                raise InvalidSettingError(
                    f"`external_asset_mapping` has the unknown field `{field}` in"
                    f" `{external_asset_mapping}`. Use one of: {', '.join(sorted(known))}."
                )
        if not external_asset_mapping.strip("/ "):
            raise InvalidSettingError(
                "`external_asset_mapping` is empty. Write a key such as `raw/{node.name}`."
            )

    def get_external_asset_key(self, external_fqn: str) -> dg.AssetKey:
        """The template's segments, with the table's names put in."""
        database, schema, name = ["", "", *split_fqn(external_fqn)][-3:]
        fields = {
            "node.database": database,
            "node.schema": schema,
            "node.name": name,
            "node.fqn": ".".join(split_fqn(external_fqn)),
        }
        segments = (
            _PLACEHOLDER.sub(lambda match: fields[match[1]], segment)
            for segment in self.external_asset_mapping.split("/")
        )
        return dg.AssetKey([names.key_segment(segment) for segment in segments if segment])


def choose_translator(
    translator: SQLMeshTranslator | None, external_asset_mapping: str | None
) -> SQLMeshTranslator:
    """The translator given, one made from the mapping, or the default one."""
    if translator is not None:
        return translator
    if external_asset_mapping is not None:
        return TemplateTranslator(external_asset_mapping)
    return SQLMeshTranslator()


def external_spec(external: ExternalRecord, key: dg.AssetKey) -> dg.AssetSpec:
    """An external table as an asset that something else loads."""
    return dg.AssetSpec(
        key=key,
        description=external.description,
        metadata={
            "dagster/table_name": ".".join(split_fqn(external.fqn)),
            **_column_schema(external.columns),
        },
    )


def split_fqn(fqn: str) -> list[str]:
    """`"db"."sch.ema"."t"` → `["db", "sch.ema", "t"]`: dots inside quotes don't separate."""
    parts = re.findall(r'"((?:[^"]|"")*)"|([^".]+)', fqn)
    return [quoted.replace('""', '"') or plain for quoted, plain in parts]


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
    return [tag for tag in tags if tag.startswith(_PROPERTY) and not tag.startswith(known)]


def _is_dagster_owner(owner: str) -> bool:
    return bool(_EMAIL.fullmatch(owner)) or (
        owner.startswith("team:") and len(owner) > len("team:")
    )


def _column_schema(columns: Sequence[ColumnRecord]) -> dict[str, dg.TableSchema]:
    if not columns:
        return {}
    return {
        "dagster/column_schema": dg.TableSchema(
            columns=[
                dg.TableColumn(name=c.name, type=c.data_type, description=c.description)
                for c in columns
            ]
        )
    }


def _audit_description(audit: AuditRecord) -> str:
    arguments = ", ".join(f"{name} := {value}" for name, value in audit.arguments)
    effect = "fails the model" if audit.blocking else "warns"
    return f"SQLMesh audit `{audit.name}({arguments})`; {effect} when it finds rows."


def _sql_block(sql: str) -> str:
    return f"```sql\n{sql}\n```"
