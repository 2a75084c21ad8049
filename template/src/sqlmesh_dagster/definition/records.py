"""What Dagster must know of a SQLMesh project: frozen, plain data; imports no other module."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class ColumnRecord:
    """A column of a model's output.

    Attributes:
        data_type: In the model's dialect.
        sources: The columns that it is made of, as pairs of a table's FQN and a column's name;
            empty where SQL does not show them, as for Python models.
    """

    name: str
    data_type: str
    description: str | None = None
    sources: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class AuditRecord:
    """One use of an audit on a model, or a standalone audit.

    Attributes:
        name: The audit's name.
        check_name: The name of its Dagster check; unique on its asset, see `names.check_names`.
        arguments: Pairs of argument name and SQL text, sorted; `blocking` left out.
        blocking: Whether a failure fails the model: the use's `blocking` wins over the audit's.
        skip: Whether the audit is switched off (`skip true`): it then never reports.
        query: The audit's own SQL, macros not rendered.
        long_name: The audit and all of its arguments: the check's name until 0.3.
        other_names: What the check may have been called, next to other uses of the audit or in an older
            version; its last result is found by them.
    """

    name: str
    check_name: str
    arguments: tuple[tuple[str, str], ...] = ()
    blocking: bool = True
    skip: bool = False
    query: str | None = None
    description: str | None = None
    long_name: str = ""
    other_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class DbtRecord:
    """What a dbt project says of a model, a seed or a snapshot, in addition to what SQLMesh keeps.

    Attributes:
        resource_type: dbt's, e.g. `snapshot`.
        group: `meta.dagster.group`, or dbt's own group.
        owners: `meta.dagster.owners`, or `meta.owner`, or those of the group.
        asset_key: `meta.dagster.asset_key`.
    """

    unique_id: str
    resource_type: str
    group: str | None = None
    owners: tuple[str, ...] = ()
    asset_key: tuple[str, ...] = ()


@dataclass(frozen=True)
class CronRecord:
    """When something is due; times between two ticks in seconds.

    Attributes:
        text: As SQLMesh holds it, e.g. `@daily`.
        period: Shortest time between two ticks.
        gap: Longest time between two ticks, e.g. a weekend of `0 * * * 1-5`.
    """

    text: str
    period: float
    gap: float
    zone: str = "UTC"


@dataclass(frozen=True)
class ModelRecord:
    """A SQLMesh model, as in the project's files.

    Attributes:
        fqn: Quoted, fully qualified name, SQLMesh's identity of it: `"db"."schema"."model"`.
        name: The name as written in the model's file.
        kind: SQLMesh's model kind, e.g. `INCREMENTAL_BY_TIME_RANGE`.
        cron: Cron expression as SQLMesh holds it, e.g. `@daily`.
        cron_period: Shortest time between two ticks of `cron`, in seconds.
        cron_gap: Longest time between two ticks, e.g. a weekend of `0 * * * 1-5`.
        interval_unit: SQLMesh's interval unit, e.g. `day`.
        depends_on: FQNs of what it reads: models and external tables; embedded models are replaced
            by what they read themselves.
        path: File of the definition, relative to the project's folder.
        line: Where the definition begins in that file, from 1.
        references: Columns by which other models join it, in addition to its grains.
        fingerprint: All of SQLMesh's hashes, see `manifest.fingerprint_text`: changes with anything
            that makes a new version of the model, of those upstream too.
        time_column: Of an `INCREMENTAL_BY_TIME_RANGE` model.
        lookback: Intervals before the newest that each run builds again.
        is_forward_only: Whether a change leaves the history as it is.
        is_restatable: Whether SQLMesh may build what was built once more.
        first_interval: Begin of its first interval, ISO 8601 in UTC; None where that moves with the
            clock, as with a start of `1 week ago`.
        end_of_last_interval: The same of the end of its last interval, where it has one.
        seed_path: A seed's CSV file, relative to the project's folder.
        unit_tests: Names of SQLMesh's unit tests of it.
        engine: The one that builds it, such as `postgres`; `dialect` is that of its text.
        extra: What `SQLMeshTranslator.read_model` took from the loaded model; plain JSON values.
        restated_at: Its `auto_restatement_cron`, in UTC, with the shortest and the longest time between
            two of its ticks in seconds, if it has one: what is done is built again then.
        code_version: SQLMesh's data hash: changes when the data that the model makes may change.
        problem: Why the record could not be read whole; what is missing has its default.
        dbt: What dbt says of it, in a dbt project.
        query: A SQL model's query as it is written, laid out.
    """

    fqn: str
    name: str
    catalog: str
    schema_name: str
    view_name: str
    kind: str
    source_type: str
    dialect: str
    gateway: str | None
    cron: str
    cron_tz: str | None
    cron_period: float
    cron_gap: float
    interval_unit: str
    start: str | None
    owner: str | None
    tags: tuple[str, ...]
    description: str | None
    columns: tuple[ColumnRecord, ...]
    audits: tuple[AuditRecord, ...]
    depends_on: tuple[str, ...]
    grains: tuple[str, ...]
    partitioned_by: tuple[str, ...]
    path: str | None
    code_version: str
    fingerprint: str
    line: int = 1
    references: tuple[str, ...] = ()
    time_column: str | None = None
    lookback: int = 0
    is_forward_only: bool = False
    is_restatable: bool = True
    is_materialized_view: bool = False
    first_interval: str | None = None
    end_of_last_interval: str | None = None
    seed_path: str | None = None
    unit_tests: tuple[str, ...] = ()
    code_digest: str = ""
    restated_at: tuple[str, float, float] | None = None
    engine: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)
    problem: str | None = None
    dbt: DbtRecord | None = None
    query: str | None = None

    @property
    def crons(self) -> tuple[CronRecord, ...]:
        """When it is due, and when what is done is due again."""
        own = CronRecord(self.cron, self.cron_period, self.cron_gap, self.cron_tz or "UTC")
        return (own, CronRecord(*self.restated_at)) if self.restated_at else (own,)

    @property
    def is_view(self) -> bool:
        """Whether it stores no rows; a materialized view does."""
        return self.kind == "VIEW" and not self.is_materialized_view

    @property
    def is_seed(self) -> bool:
        """Whether it is built once, from a file."""
        return self.kind == "SEED"


@dataclass(frozen=True)
class ExternalRecord:
    """A table that models read and SQLMesh does not build.

    It need not be declared in `external_models.yaml`; then `columns` and `audits` are empty.

    Attributes:
        asset_key: Of a dbt source whose `meta.dagster.asset_key` names one.
        cron: When its audits are due; None if it has none.
    """

    fqn: str
    catalog: str | None
    schema_name: str | None
    view_name: str
    description: str | None = None
    columns: tuple[ColumnRecord, ...] = ()
    audits: tuple[AuditRecord, ...] = ()
    asset_key: tuple[str, ...] = ()
    cron: CronRecord | None = None


@dataclass(frozen=True)
class StandaloneAuditRecord:
    """An audit without a model; `depends_on` has the FQNs that its query reads.

    Attributes:
        about: For a dbt test, the FQN of the model in whose YAML it is.
        cron: When it is due.
    """

    audit: AuditRecord
    depends_on: tuple[str, ...]
    owner: str | None = None
    tags: tuple[str, ...] = ()
    about: str | None = None
    cron: CronRecord | None = None


@dataclass(frozen=True)
class Manifest:
    """A whole project, as Dagster sees it.

    Attributes:
        models: Every model that becomes an asset, upstream before downstream.
        externals: Every external table that a model or a standalone audit reads.
        fingerprints: Pairs of snapshot name and fingerprint of each node in the files, to tell
            local changes from what an environment runs.
        problem: Why the files could not be loaded, where these are the records of the last good load.
        projects: The `project` in each of its configs; models of other projects may be in its state.
        others: The models of other projects that its own read.
        elsewhere: Pairs of name and `project` of all that the state has of other projects.
        former: Names that were in the files once, and are not now.
        state_problem: Why the state could not be asked for the models of other projects.
        environment_suffix: Which part of a view's name an environment's name is added to: `schema`,
            `table` or `catalog`; None where the config maps environments to catalogs.
        statements: A digest of `before_all` and `after_all` of its configs; empty where it is not known.
        nodes: What the next load needs to read only what changed, see `definition.nodes`; empty where it
            must read all.
    """

    project_dir: str
    gateway: str
    dialect: str
    default_catalog: str | None
    sqlmesh_version: str
    models: tuple[ModelRecord, ...]
    externals: tuple[ExternalRecord, ...]
    standalone_audits: tuple[StandaloneAuditRecord, ...]
    fingerprints: tuple[tuple[str, str], ...]
    problem: str | None = None
    projects: tuple[str, ...] = ("",)
    others: tuple[ModelRecord, ...] = ()
    elsewhere: tuple[tuple[str, str], ...] = ()
    former: tuple[str, ...] = field(default=(), compare=False)
    state_problem: str | None = None
    environment_suffix: str | None = "schema"
    statements: str = ""
    nodes: str = field(default="", repr=False)

    @property
    def audit_crons(self) -> tuple[CronRecord, ...]:
        """When the audits without a model are due."""
        standalone = (a.cron for a in self.standalone_audits if not a.audit.skip)
        external = (e.cron for e in self.externals if any(not a.skip for a in e.audits))
        return tuple(cron for cron in (*standalone, *external) if cron)
