"""Records of models and audits by hand, for tests of what is made of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sqlmesh_dagster.definition.records import AuditRecord, ExternalRecord, Manifest, ModelRecord

_MODEL = ModelRecord(
    fqn="",
    name="",
    catalog="db",
    schema_name="demo",
    view_name="",
    kind="FULL",
    source_type="sql",
    dialect="duckdb",
    gateway=None,
    cron="@daily",
    cron_tz=None,
    cron_period=86400.0,
    cron_gap=86400.0,
    interval_unit="day",
    start=None,
    owner=None,
    tags=(),
    description=None,
    columns=(),
    audits=(),
    depends_on=(),
    grains=(),
    partitioned_by=(),
    path=None,
    code_version="1",
    fingerprint="1",
)


def fqn(name: str, schema: str = "demo") -> str:
    """How SQLMesh calls the table `db.<schema>.<name>`."""
    return f'"db"."{schema}"."{name}"'


def model(name: str, *reads: str, **changes: Any) -> ModelRecord:
    """The model `demo.<name>`, which reads the tables with these FQNs."""
    record = replace(_MODEL, fqn=fqn(name), name=f"demo.{name}", view_name=name, depends_on=reads)
    return replace(record, **changes)


def audit(name: str, **changes: Any) -> AuditRecord:
    """An audit whose check has its name."""
    return replace(AuditRecord(name, check_name=name), **changes)


def external(name: str, **changes: Any) -> ExternalRecord:
    """The external table `raw.<name>`."""
    return replace(ExternalRecord(fqn(name, "raw"), "db", "raw", name), **changes)


def manifest(*models: ModelRecord, **changes: Any) -> Manifest:
    """A project of these models, upstream before downstream."""
    empty = Manifest("/project", "local", "duckdb", "db", "0", models, (), (), ())
    return replace(empty, **changes)
