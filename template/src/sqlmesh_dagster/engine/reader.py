"""SQLMesh project → manifest: the one place that reads a loaded project for Dagster's definitions.

Importing this module imports SQLMesh (2 to 5 CPU seconds).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta, tzinfo
from functools import lru_cache
from pathlib import Path
from typing import Any

import sqlmesh
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlmesh import Context

from sqlmesh_dagster.definition.names import (
    check_names,
    digest,
    long_check_name,
    other_check_names,
    shown,
)
from sqlmesh_dagster.definition.nodes import MOVES, NodeRecord, fixed_starts, nodes_as_text
from sqlmesh_dagster.definition.problems import text_with_place
from sqlmesh_dagster.definition.records import (
    AuditRecord,
    ColumnRecord,
    CronRecord,
    ExternalRecord,
    Manifest,
    ModelRecord,
    StandaloneAuditRecord,
)
from sqlmesh_dagster.engine.connections import stands_for
from sqlmesh_dagster.engine.dbt import DbtNotes, DbtSource, dbt_notes
from sqlmesh_dagster.engine.lineage import ColumnSources, column_lineages
from sqlmesh_dagster.engine.source import definition_line
from sqlmesh_dagster.guard.secrets import mask
from sqlmesh_dagster.upstream.internals import (
    Audit,
    CroniterCache,
    EnvironmentStatements,
    IntervalUnit,
    JinjaQuery,
    Model,
    Node,
    SeedModel,
    SnapshotFingerprint,
    StandaloneAudit,
    TimeLike,
    ViewKind,
    fingerprint_from_node,
    is_date,
    normalize_model_name,
    to_datetime,
)
from sqlmesh_dagster.upstream.sqlmesh import (
    engine_name,
    is_plain_loader,
    loaded_statements,
    model_path,
)

_CRON_EPOCH = "2024-01-01"
"""A Monday; any fixed date does: a manifest must not depend on the clock."""
_TWO_DAYS = (_CRON_EPOCH, "2024-02-08")
_CRON_SAMPLES = 30
"""Least number of ticks that are compared: a month of a daily cron."""
_DAY = 86400.0
_CRON_SPAN = timedelta(hours=25)
"""Least time that is compared: a night of `*/5 8-18`; SQLMesh's shortest period is 5 minutes."""


ReadModel = Callable[[Model], Mapping[str, Any]]


def build_manifest(context: Context, read_model: ReadModel = lambda model: {}) -> Manifest:
    """Reads a loaded context; opens no connection.

    Args:
        context: Loaded with `update_schemas`, so that columns have types.
        read_model: What else to keep of a model, as `SQLMeshTranslator.read_model`.
    """
    models = context.models
    projects = project_names(context)
    fingerprints = fingerprints_of(_nodes(context))
    root = Path(context.path)
    nodes = {node.fqn: node_record(node, root) for node in _nodes(context).values()}
    starts = fixed_starts(nodes, context.dag.sorted)
    dbt = dbt_notes(context)
    own = own_fingerprints(context)
    record = record_maker(context, models, fingerprints, starts, read_model, dbt, models)

    built = [f for f in context.dag.sorted if f in models and not models[f].kind.is_symbolic]
    records = tuple(record(fqn) for fqn in built if fqn in own)
    standalone = {a.fqn: a for a in context.standalone_audits.values() if a.fqn in own}
    audits = tuple(_standalone_record(audit, models, dbt) for audit in standalone.values())
    read = {fqn for model in records for fqn in model.depends_on}
    read |= {fqn for audit in audits for fqn in audit.depends_on}
    others = tuple(record(fqn) for fqn in built if fqn in read - own.keys())
    declared = {fqn for fqn, model in models.items() if model.kind.is_external and fqn in own}
    declared |= dbt.sources.keys()
    return Manifest(
        project_dir=str(root.resolve()),
        gateway=context.gateway or context.config.default_gateway_name,
        dialect=context.default_dialect or "",
        default_catalog=context.default_catalog,
        sqlmesh_version=sqlmesh.__version__,
        models=records,
        externals=tuple(
            external_record(fqn, models.get(fqn), dbt.sources.get(fqn))
            for fqn in sorted((read | declared) - set(built))
        ),
        standalone_audits=audits,
        fingerprints=tuple(sorted((name, fingerprint_text(value)) for name, value in own.items())),
        projects=tuple(sorted(projects)),
        environment_suffix=None
        if context.config.environment_catalog_mapping
        else context.config.environment_suffix_target.value,
        statements=_statements(context, projects, any(model.dbt for model in records)),
        others=others,
        elsewhere=tuple(
            sorted(
                (node.fqn, node.project) for node in _nodes(context).values() if node.fqn not in own
            )
        ),
        nodes=nodes_as_text(nodes.values()) if loads_in_parts(context) else "",
    )


def record_maker(
    context: Context,
    traced: Mapping[str, Model],
    fingerprints: Mapping[str, SnapshotFingerprint],
    starts: Mapping[str, datetime | None],
    read_model: ReadModel,
    dbt: DbtNotes,
    existing: Collection[str],
) -> Callable[[str], ModelRecord]:
    """What makes the record of a model, by its FQN, with what it must know of the others.

    Args:
        traced: The models whose columns' sources are looked for, and the embedded ones that they read.
        existing: FQNs of all models, if the context has some of them alone.
    """
    models, root = context.models, Path(context.path)
    sources = column_lineages(traced)
    tests = unit_tests_by_model(context, existing)
    digests = code_digests(context, fingerprints, tests)

    def record(fqn: str) -> ModelRecord:
        return _record_or_problem(
            models[fqn],
            models,
            root,
            fingerprints[fqn],
            sources[fqn],
            starts.get(fqn),
            tests.get(fqn, ()),
            digests[fqn],
            read_model,
            dbt,
            _engine(context, models[fqn].gateway),
        )

    return record


def loads_in_parts(context: Context) -> bool:
    """Whether a later load may leave out files that did not change: each says all of its own models.

    Not where the state, another folder, dbt, or a loader of the owner's has a say.
    """
    return (
        len(context.configs) == 1
        and not any(project_names(context))
        and all(is_plain_loader(config) for config in context.configs.values())
    )


def node_record(node: Node, root: Path) -> NodeRecord:
    """What to keep of a node for the next load."""
    if isinstance(node, StandaloneAudit):
        return NodeRecord(node.fqn, "audit", tuple(sorted(node.depends_on)))
    kind = node.kind
    moment = _fixed_moment(node.start) if node.start else None
    return NodeRecord(
        node.fqn,
        "external" if kind.is_external else "embedded" if kind.is_embedded else "model",
        tuple(sorted(node.depends_on or ())),
        _relative_path(model_path(node), root),
        (moment.isoformat() if moment else MOVES) if node.start else None,
        *_typed(list((node.columns_to_types or {}).values()), node.dialect),
    )


def _typed(types: Sequence[exp.DataType], dialect: str) -> tuple[bool, tuple[str, ...]]:
    """Whether texts say all of these types, and which, if not those in the dialect."""
    if all(_type_of(_text(type_, dialect), dialect) == type_ for type_ in types):
        return True, ()
    texts = tuple(_text(type_, "") for type_ in types)
    return all(_type_of(t, "") == type_ for t, type_ in zip(texts, types, strict=True)), texts


@lru_cache(maxsize=4096)
def _type_of(text: str, dialect: str) -> exp.DataType | None:
    try:
        return exp.DataType.build(text, dialect=dialect)
    except (SqlglotError, ValueError):
        return None


def columns_of(record: ModelRecord, node: NodeRecord) -> dict[str, exp.DataType] | None:
    """The columns' types as SQLMesh has them, of a node that is typed; None where it knows no columns."""
    dialect = "" if node.types else record.dialect
    texts = node.types or [column.data_type for column in record.columns]
    types = {c.name: _type_of(t, dialect) for c, t in zip(record.columns, texts, strict=True)}
    return {name: type_.copy() for name, type_ in types.items() if type_ is not None} or None


def _engine(context: Context, gateway: str | None) -> str:
    connection = context.config.get_connection(gateway or context.gateway)
    return stands_for(connection) or engine_name(connection)


def project_names(context: Context) -> frozenset[str]:
    """The `project` of each of a context's configs; empty where it names none."""
    return frozenset(config.project for config in context.configs.values())


def _statements(context: Context, projects: Collection[str], is_dbt: bool) -> str:
    """Not of an owner's loader."""
    if not is_dbt and not all(is_plain_loader(config) for config in context.configs.values()):
        return ""
    return statements_digest(loaded_statements(context), projects, is_dbt)


def statements_digest(
    statements: Iterable[EnvironmentStatements], projects: Collection[str], is_dbt: bool
) -> str:
    """Of `before_all` and `after_all`, as they are written, of these projects.

    Python and macros that they call are left out. dbt's are of its packages, whatever `project` the config
    names: where it names none, all in the state are this project's.
    """
    is_alone = is_dbt and not any(projects)
    own = [
        (s.project or "", s.before_all, s.after_all)
        for s in statements
        if (is_alone or (s.project or "") in projects) and (s.before_all or s.after_all)
    ]
    return digest(repr(sorted(own)), 16)


def own_fingerprints(context: Context) -> dict[str, SnapshotFingerprint]:
    """By name, what a loaded context has from files, and not from the state it shares with others.

    SQLMesh gives dbt's models and tests no `project`, whatever the config says; only those of files have
    a path.
    """
    projects = project_names(context)
    shares = any(projects)
    owned = {
        n.fqn
        for n in _nodes(context).values()
        if not shares or n.project in projects or (not n.project and n._path is not None)
    }
    return {name: f for name, f in fingerprints_of(_nodes(context)).items() if name in owned}


def _nodes(context: Context) -> dict[str, Node]:
    return {**context.models, **context.standalone_audits}


def unit_tests_by_model(
    context: Context, models: Collection[str] | None = None
) -> dict[str, list[str]]:
    """The unit tests of each model, by its FQN: `path::name`, as SQLMesh's selectors take them.

    A test of a model that does not exist is left out; SQLMesh leaves it out, too.

    Args:
        models: FQNs of all that exist, if the context has some of them alone.
    """
    existing = context.models if models is None else models
    tests: dict[str, list[str]] = {}
    for test in context.select_tests():
        if not test.model_name:
            continue
        fqn = normalize_model_name(
            test.model_name,
            default_catalog=context.default_catalog,
            dialect=context.default_dialect,
        )
        if fqn in existing:
            tests.setdefault(fqn, []).append(test.fully_qualified_test_name)
    return tests


def code_digests(
    context: Context,
    fingerprints: Mapping[str, SnapshotFingerprint],
    tests: Mapping[str, Sequence[str]],
) -> dict[str, str]:
    """For each of these, what changes with what its unit tests and the linter say of it."""
    bodies = {t.fully_qualified_test_name: str(t.body) for t in context.select_tests()}
    rules = [
        *(str(config.linter) for config in context.configs.values()),
        *(
            file.read_text(errors="replace")
            for root in context.configs
            for file in sorted((Path(root) / "linter").rglob("*.py"))
        ),
    ]
    return {
        fqn: digest(
            f"{fingerprint_text(fingerprints[fqn])}|{rules}|"
            f"{[bodies.get(name) for name in tests.get(fqn, ())]}",
            12,
        )
        for fqn in fingerprints
    }


def fingerprint_text(fingerprint: SnapshotFingerprint) -> str:
    """All four hashes of a fingerprint; equal exactly when SQLMesh sees no change."""
    return "-".join(
        (
            fingerprint.data_hash,
            fingerprint.metadata_hash,
            fingerprint.parent_data_hash,
            fingerprint.parent_metadata_hash,
        )
    )


def audit_arguments(arguments: Mapping[str, exp.Expr]) -> dict[str, str]:
    """Arguments of an audit call as SQL text, without `blocking`, which is not part of its identity.

    The text does not depend on the model's dialect; in DuckDB's, a list reads as it is written, `[id]`.
    """
    return {
        name: mask(value.sql(dialect="duckdb"))
        for name, value in sorted(arguments.items())
        if name != "blocking"
    }


def fingerprints_of(nodes: Mapping[str, Node]) -> dict[str, SnapshotFingerprint]:
    """By the names of their snapshots: a dbt test is known to a context by another."""
    cache: dict[str, SnapshotFingerprint] = {}
    every = dict(nodes)
    return {
        node.fqn: fingerprint_from_node(node, nodes=every, cache=cache) for node in nodes.values()
    }


def _record_or_problem(
    model: Model,
    models: Mapping[str, Model],
    root: Path,
    fingerprint: SnapshotFingerprint,
    *rest: Any,
) -> ModelRecord:
    """The record; of a model that cannot be read whole, what can, so that the others are shown."""
    identity = _identity_record(model, models, root, fingerprint)
    try:
        return _whole_record(identity, model, root, *rest)
    except Exception as error:  # `read_model` is the owner's code: it may raise anything
        return replace(identity, problem=text_with_place(error))


def _identity_record(
    model: Model, models: Mapping[str, Model], root: Path, fingerprint: SnapshotFingerprint
) -> ModelRecord:
    """Which model it is, where it stands in the project, and nothing that its owner may have got wrong."""
    return ModelRecord(
        fqn=model.fqn,
        name=model.name,
        catalog=model.catalog or "",
        schema_name=model.schema_name,
        view_name=model.view_name,
        kind=model.kind.name.value,
        source_type=model.source_type,
        dialect=model.dialect,
        gateway=model.gateway,
        cron=model.cron,
        cron_tz=None,
        cron_period=_DAY,
        cron_gap=_DAY,
        interval_unit=model.interval_unit.value if model.interval_unit else "",
        start=None,
        owner=None,
        tags=(),
        description=None,
        columns=(),
        audits=(),
        depends_on=tuple(sorted(_visible_dependencies(model.depends_on, models))),
        grains=(),
        partitioned_by=(),
        path=_relative_path(model_path(model), root),
        code_version=fingerprint.data_hash,
        fingerprint=fingerprint_text(fingerprint),
    )


def _whole_record(
    identity: ModelRecord,
    model: Model,
    root: Path,
    sources: Mapping[str, ColumnSources],
    start: datetime | None,
    tests: Iterable[str],
    code_digest: str,
    read_model: ReadModel,
    dbt: DbtNotes,
    engine: str,
) -> ModelRecord:
    period, gap = _cron_spacing(model.cron, model.cron_tz)
    path = model_path(model)
    restated = model.auto_restatement_cron
    return replace(
        identity,
        engine=engine,
        cron_tz=str(model.cron_tz) if model.cron_tz else None,
        cron_period=period,
        cron_gap=gap,
        restated_at=(restated, *_cron_spacing(restated, None)) if restated else None,
        start=str(model.start) if model.start else None,
        owner=_shown(model.owner),
        tags=tuple(shown(tag) for tag in model.tags),
        description=_shown(model.description),
        columns=_columns(model, sources),
        audits=_audits(model),
        grains=tuple(grain.sql(dialect=model.dialect) for grain in model.grains),
        partitioned_by=tuple(e.sql(dialect=model.dialect) for e in model.partitioned_by),
        line=definition_line(Path(path), model.name) if path else 1,
        references=tuple(e.sql(dialect=model.dialect) for e in model.references),
        time_column=model.time_column.column.name if model.time_column else None,
        lookback=model.lookback,
        is_forward_only=model.forward_only,
        is_restatable=not model.disable_restatement,
        is_materialized_view=isinstance(model.kind, ViewKind) and model.kind.materialized,
        first_interval=first_interval(model.interval_unit, start),
        end_of_last_interval=_end_of_last_interval(model),
        # the state keeps a seed's rows, and of its file not the place
        seed_path=_relative_path(model.seed_path, root)
        if path and isinstance(model, SeedModel)
        else None,
        extra=dict(read_model(model)),
        unit_tests=tuple(name.rpartition("::")[2] for name in tests),
        dbt=dbt.of_model(model),
        query=_query(model),
        code_digest=code_digest,
    )


def _query(model: Model) -> str | None:
    """A SQL model's query as its author wrote it, laid out; macros and Jinja are not expanded."""
    written = getattr(model, "query", None)  # of SQL models alone
    if not isinstance(written, exp.Expression):
        return None
    if isinstance(written, JinjaQuery):
        return _shown(written.name)
    try:
        return _shown(written.sql(dialect=model.dialect, pretty=True))
    except (SqlglotError, ValueError):  # it only decorates; a load judges queries
        return None


def external_record(fqn: str, model: Model | None, source: DbtSource | None) -> ExternalRecord:
    """What is known of a table that no model builds: nothing, where nobody declares it."""
    table = exp.to_table(fqn)
    described = source or DbtSource(None, (), ())
    return ExternalRecord(
        fqn=fqn,
        catalog=table.catalog or None,
        schema_name=table.db or None,
        view_name=table.name,
        description=(model.description if model else None) or described.description,
        columns=(_columns(model) if model else ()) or described.columns,
        audits=_audits(model) if model else (),
        asset_key=described.asset_key,
        cron=_cron(model) if model and model.audits_with_args else None,
    )


def _standalone_record(
    audit: StandaloneAudit, models: Mapping[str, Model], dbt: DbtNotes
) -> StandaloneAuditRecord:
    about, description = dbt.of_audit(audit)
    (check_name,) = check_names([(audit.name, {})])
    return StandaloneAuditRecord(
        audit=AuditRecord(
            name=audit.name,
            check_name=check_name,
            blocking=False,
            skip=audit.skip,
            query=_text(audit.query, audit.dialect),
            description=audit.description or description,
        ),
        depends_on=tuple(sorted(_visible_dependencies(audit.depends_on, models))),
        owner=audit.owner,
        tags=tuple(audit.tags),
        about=about,
        cron=_cron(audit),
    )


def _audits(model: Model) -> tuple[AuditRecord, ...]:
    calls = [
        (audit, audit_arguments(arguments), arguments)
        for audit, arguments in model.audits_with_args
    ]
    names = check_names([(audit.name, shown) for audit, shown, _ in calls])
    return tuple(
        AuditRecord(
            name=audit.name,
            check_name=check_name,
            arguments=tuple(shown.items()),
            blocking=_is_blocking(audit, arguments),
            skip=audit.skip,
            query=_text(audit.query, model.dialect),
            long_name=long_check_name(audit.name, shown),
            other_names=other_check_names(audit.name, shown),
        )
        for (audit, shown, arguments), check_name in zip(calls, names, strict=True)
    )


def _is_blocking(audit: Audit, arguments: Mapping[str, exp.Expr]) -> bool:
    """As `SnapshotEvaluator._audit` decides: the use's argument wins over the audit's default."""
    given = arguments.get("blocking")
    return given == exp.true() if given else audit.blocking


def _visible_dependencies(names: Iterable[str] | None, models: Mapping[str, Model]) -> set[str]:
    """What is read; embedded models, which have no table, are replaced by what they read."""
    visible: set[str] = set()
    seen: set[str] = set()
    pending = list(names or ())
    while pending:
        fqn = pending.pop()
        if fqn in seen:
            continue
        seen.add(fqn)
        model = models.get(fqn)
        if model is not None and model.kind.is_embedded:
            pending.extend(model.depends_on or ())
        else:
            visible.add(fqn)
    return visible


def _columns(
    model: Model, sources: Mapping[str, ColumnSources] | None = None
) -> tuple[ColumnRecord, ...]:
    described = model.column_descriptions or {}
    traced = sources or {}
    return tuple(
        ColumnRecord(
            name, _text(data_type, model.dialect), _shown(described.get(name)), traced.get(name, ())
        )
        for name, data_type in (model.columns_to_types or {}).items()
    )


def _shown(text: str | None) -> str | None:
    return None if text is None else shown(text)


@lru_cache(maxsize=4096)
def _text(expression: exp.Expr, dialect: str) -> str:
    """SQL text; a project has few types and audits, and uses each many times."""
    return expression.sql(dialect=dialect, comments=False)


def _cron(node: Node) -> CronRecord:
    zone = node.cron_tz
    return CronRecord(node.cron, *_cron_spacing(node.cron, zone), str(zone) if zone else "UTC")


@lru_cache(maxsize=256)
def _cron_spacing(cron: str, time_zone: tzinfo | None) -> tuple[float, float]:
    """Shortest and longest time between two ticks, in seconds."""
    start = to_datetime(_CRON_EPOCH)
    tick = CroniterCache(cron, start, time_zone).get_next()
    end = tick + _CRON_SPAN
    spaces: list[timedelta] = []
    while len(spaces) < _CRON_SAMPLES or tick < end:
        following = CroniterCache(cron, tick, time_zone).get_next()
        spaces.append(following - tick)
        tick = following
    for day in range(7):  # the weekend of `*/5 8-18 * * 1-5` is beyond that span
        before = CroniterCache(cron, start + timedelta(days=day, hours=12), time_zone).get_prev()
        spaces.append(CroniterCache(cron, before, time_zone).get_next() - before)
    return min(spaces).total_seconds(), max(spaces).total_seconds()


def first_interval(unit: IntervalUnit | None, start: datetime | None) -> str | None:
    """Begin of the interval of this length that a moment is in."""
    return _begin(unit, start).isoformat() if unit and start else None


@lru_cache(maxsize=256)
def _begin(unit: IntervalUnit, moment: datetime) -> datetime:
    return unit.cron_floor(moment)


def _end_of_last_interval(model: Model) -> str | None:
    """End of the interval that the model's end is in; a date means the whole day."""
    end, unit = model.end, model.interval_unit
    moment = _fixed_moment(end) if end else None
    if end is None or moment is None or not unit:
        return None
    if is_date(end):
        moment += timedelta(days=1)
    floor = unit.cron_floor(moment)
    return (floor if floor == moment else unit.cron_next(floor)).isoformat()


@lru_cache(maxsize=256)
def _fixed_moment(value: TimeLike) -> datetime | None:
    """The moment that a date means, or None if it depends on when it is read."""
    moments = {to_datetime(value, relative_base=to_datetime(base)) for base in _TWO_DAYS}
    return moments.pop() if len(moments) == 1 else None


def _relative_path(path: Path | None, root: Path) -> str | None:
    return os.path.relpath(Path(path).resolve(), root.resolve()) if path else None
