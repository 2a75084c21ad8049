"""A DuckDB project's data and state in another warehouse: `python -m sqlmesh_dagster.engine.moving`, for `poe move`.

The DuckDB file is only read. What runs go by in the other warehouse, SQLMesh's state, is written last, when
all rows are there and compared, in one transaction: a move that ends before has done nothing that a run
would see, and the same command goes on with it.

Importing this module imports SQLMesh.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from uuid import uuid4

import click
import duckdb
from sqlglot import exp

from sqlmesh_dagster.definition.markdown import counted
from sqlmesh_dagster.engine.context import (
    CaptureContext,
    load_files,
    open_adapter,
    open_context,
    waited_state,
)
from sqlmesh_dagster.engine.copying import DuckDBFile, copy, create, opened, totals
from sqlmesh_dagster.engine.explanation import explained, is_of_a_lock
from sqlmesh_dagster.engine.ownership import Difference, loaded_difference
from sqlmesh_dagster.engine.session import Session
from sqlmesh_dagster.engine.state import Deployed, Obstructed, read_deployed
from sqlmesh_dagster.errors import (
    InstanceError,
    MoveRefusedError,
    ProjectLoadError,
    SQLMeshDagsterError,
)
from sqlmesh_dagster.facts.moving import (
    Intervals,
    MovedModel,
    OtherTable,
    Source,
    difference,
    is_rebuilt,
    keys_that_end,
    missing_or_more,
    refused,
)
from sqlmesh_dagster.guard.cancel import CancelToken
from sqlmesh_dagster.guard.instance import HOME, opened_instance
from sqlmesh_dagster.guard.locks import ProjectLock
from sqlmesh_dagster.guard.secrets import mask
from sqlmesh_dagster.layout import project_folder
from sqlmesh_dagster.production import PRODUCTION
from sqlmesh_dagster.settings import ProjectSettings
from sqlmesh_dagster.upstream.internals import (
    EngineAdapter,
    Plan,
    RuntimeStage,
    Snapshot,
    SnapshotIntervals,
    SnapshotNameVersion,
    execute_environment_statements,
)
from sqlmesh_dagster.upstream.sqlmesh import (
    duckdb_catalogs,
    engine_name,
    in_one_transaction,
    only_read,
    read_state_anew,
    state_connection,
)
from sqlmesh_dagster.warehouses import GATEWAY

_NAME = "poe move"


@click.command()
@click.option("--source", default="duckdb", show_default=True, help="The gateway that data is on.")
@click.option("--environment", envvar="SQLMESH_ENVIRONMENT", default=PRODUCTION, show_default=True)
@click.option("--rebuild", is_flag=True, help="Let the next run build full models and seeds.")
@click.option("--yes", is_flag=True, help="Don't ask; for machines.")
def main(source: str, environment: str, rebuild: bool, yes: bool) -> None:
    """Copies an environment from the DuckDB file to the warehouse that SQLMESH_GATEWAY names."""
    logging.getLogger("sqlmesh").setLevel(logging.ERROR)
    folder = project_folder()
    settings = ProjectSettings(project_dir=folder, environment=environment, wait_timeout=60)
    try:
        move(settings.checked(), source, is_rebuilding=rebuild, is_meant=yes)
    except (SQLMeshDagsterError, Obstructed) as error:
        text = getattr(error, "description", None) or str(error)
        click.echo(f"Error: {mask(text)}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        click.echo(
            "\nStopped. The same command goes on from here: what is copied is compared.", err=True
        )
        sys.exit(130)


def move(
    settings: ProjectSettings, source: str, *, is_rebuilding: bool = False, is_meant: bool = False
) -> None:
    """Copies, compares, and then writes the state; what is there already is compared alone.

    Raises:
        MoveRefusedError: Something must be done before; nothing that a run sees was changed.
        DatabaseUnavailableError: A server cannot be worked with.
    """
    lock = ProjectLock(settings.lock_name, settings.project_path)
    with lock.held(_NAME, settings.wait_timeout, None, click.echo):
        found = read_source(settings, source)
        session = Session(
            settings, f"{_NAME} {uuid4().hex[:8]}", _say, CancelToken(), has_project_lock=True
        )
        with (
            session.opened(load=True) as context,
            session.state_locked(context) as state,
            state.alone(),
            opened(found.catalogs) as file,
        ):
            open_adapter(context, session.settings)
            _Move(context, settings, found, file, is_rebuilding).run(is_meant=is_meant)


def read_source(settings: ProjectSettings, gateway: str) -> Source:
    """What the DuckDB project has of an environment, and what else its file has.

    Raises:
        MoveRefusedError: There is nothing that could be moved as it is.
    """
    here = settings.model_copy(update={"gateway": gateway})
    with _gateway(gateway), _file_errors(here), open_context(here, load=False) as context:
        catalogs = duckdb_catalogs(context.connection_config)
        if not catalogs:
            engine = engine_name(context.connection_config)
            raise MoveRefusedError(
                f"The gateway `{gateway}` is on {engine}; `poe move` moves from a DuckDB file."
            )
        with only_read(context):
            if not waited_state(context, here, _say):
                raise MoveRefusedError(
                    f"Nothing was built yet in {', '.join(catalogs.values())}, so that there is nothing"
                    " to move: run the project in the other warehouse."
                )
            deployed = _deployed(context, here)
            load_files(context, here)
            _refuse_changes(context, here, deployed)
            file = DuckDBFile(context.engine_adapter.cursor)  # one connection of a process per file
            return _Reader(context, deployed, file, catalogs).source()


@contextmanager
def _gateway(name: str) -> Iterator[None]:
    """Meanwhile the environment chooses this gateway."""
    chosen = os.environ.get(GATEWAY)
    os.environ[GATEWAY] = name
    try:
        yield
    except ProjectLoadError as error:
        said = str(error.description).replace(f"`{GATEWAY}` is `{name}`", f"`--source` is `{name}`")
        raise MoveRefusedError(said) from error
    finally:
        os.environ.pop(GATEWAY) if chosen is None else os.environ.update({GATEWAY: chosen})


@contextmanager
def _file_errors(settings: ProjectSettings) -> Iterator[None]:
    """Meanwhile what DuckDB says of its file is told with what to do."""
    try:
        yield
    except duckdb.IOException as error:
        if not is_of_a_lock(error):
            raise explained(error, settings) from error
        raise MoveRefusedError(
            f"The DuckDB file is in use by another process, and stayed so for {settings.wait_timeout:g} s. End what"
            f" works on it, such as the project's schedule, and run the same command again. {error}"
        ) from error


def _deployed(context: CaptureContext, settings: ProjectSettings) -> Deployed:
    found = read_deployed(settings, context.state_reader)
    if found is not None:
        return found
    others = [environment.name for environment in context.state_reader.get_environments()]
    there = ", ".join(f"`{name}`" for name in others) or "none"
    raise MoveRefusedError(
        f"There is no environment `{settings.environment}` in the DuckDB file; there is {there}. Make it"
        f" there first, without `{GATEWAY}`, with `poe promote`, or name another with `--environment`."
    )


def _refuse_changes(context: CaptureContext, settings: ProjectSettings, deployed: Deployed) -> None:
    changed = loaded_difference(
        context,
        deployed.environment,
        Difference(frozenset(s.name for s in deployed.snapshots)),
    )
    if changed:
        names = ", ".join(f"`{_plain(name)}`" for name in sorted(changed))
        raise MoveRefusedError(
            f"The project's files differ from what environment `{settings.environment}` runs on the DuckDB"
            f" file: {names}. What is moved must be what the files say: deploy them there first, without"
            f" `{GATEWAY}`, or take the files that are deployed."
        )


class _Reader:
    """A DuckDB project as plain data."""

    def __init__(
        self,
        context: CaptureContext,
        deployed: Deployed,
        file: DuckDBFile,
        catalogs: Mapping[str, str],
    ) -> None:
        self._context = context
        self._deployed = deployed
        self._file = file
        self._catalogs = catalogs

    def source(self) -> Source:
        """All of it."""
        environments = self._context.state_reader.get_environments()
        name = self._deployed.environment.name
        return Source(
            name,
            self._catalogs,
            [self._model(snapshot) for snapshot in self._deployed.snapshots],
            list(self._tables()),
            sorted(e.name for e in environments if e.name != name),
            list(self._views()),
        )

    def _model(self, snapshot: Snapshot) -> MovedModel:
        is_shown = self._deployed.deployability.is_representative(snapshot)
        has_rows = _has_rows(snapshot) and is_shown
        table = snapshot.table_name(is_deployable=True) if has_rows else ""
        table = exp.to_table(table).sql(dialect="duckdb", identify=True) if table else ""
        columns = self._file.columns(table) if table else {}
        return MovedModel(
            key=_key(snapshot.name, self._context.default_catalog),
            name=snapshot.node.name,
            kind=str(snapshot.model.kind.name) if snapshot.is_model else "",
            version=str(snapshot.version),
            intervals=tuple(snapshot.intervals) if is_shown else (),
            table=table if columns else "",
            columns=columns,
            built_at=snapshot.last_altered_ts,
            restated_at=snapshot.next_auto_restatement_ts,
            pending=tuple(snapshot.pending_restatement_intervals) if is_shown else (),
        )

    def _tables(self) -> Iterator[OtherTable]:
        schemas, tables = self._of_sqlmesh()
        with_rules = {
            *self._named("duckdb_constraints()", "table_name", "true"),
            *self._named("duckdb_indexes()", "table_name", "true"),
            *self._named("duckdb_columns()", "table_name", "column_default IS NOT NULL"),
        }
        for schema, name in self._named("duckdb_tables()", "table_name"):
            if schema not in schemas and (schema, name) not in tables:
                columns = self._file.columns(self._quoted(schema, name))
                yield OtherTable(schema, name, columns, (schema, name) in with_rules)

    def _views(self) -> Iterator[str]:
        shown = {
            (view.db, view.name)
            for environment in self._context.state_reader.get_environments()
            for snapshot in environment.snapshots
            if snapshot.is_model
            for view in [
                exp.to_table(
                    snapshot.qualified_view_name.for_environment(
                        environment.naming_info, dialect="duckdb"
                    ),
                    dialect="duckdb",
                )
            ]
        }
        schemas, tables = self._of_sqlmesh()
        for schema, name in self._named("duckdb_views()", "view_name"):
            if (schema, name) not in shown | tables and schema not in schemas:
                yield f"{schema}.{name}"

    def _named(
        self, function: str, column: str, only: str = "NOT internal"
    ) -> list[tuple[str, str]]:
        catalog = self._quoted_text(next(iter(self._catalogs)))
        found = self._file.rows(
            f"SELECT schema_name, {column} FROM {function} WHERE {only}"
            f" AND database_name = {catalog} ORDER BY 1, 2"
        )
        return [(str(schema), str(name)) for schema, name in found]

    def _of_sqlmesh(self) -> tuple[set[str], set[tuple[str, str]]]:
        """Schemas and tables that are SQLMesh's own."""
        config = self._context.config
        schemas = {config.get_state_schema(self._context.gateway) or "", "sqlmesh_temp"}
        tables: set[tuple[str, str]] = set()
        for environment in self._context.state_reader.get_environments():
            for snapshot in environment.snapshots:
                if not snapshot.is_model or snapshot.is_symbolic:
                    continue
                if snapshot.physical_schema != snapshot.fully_qualified_table.db:
                    schemas.add(snapshot.physical_schema)
                for is_deployable in (True, False):
                    name = exp.to_table(snapshot.table_name(is_deployable=is_deployable))
                    tables.add((name.db, name.name))
        return schemas, tables

    def _quoted(self, schema: str, name: str) -> str:
        catalog = next(iter(self._catalogs))
        return exp.table_(name, db=schema, catalog=catalog).sql(dialect="duckdb", identify=True)

    def _quoted_text(self, text: str) -> str:
        return exp.Literal.string(text).sql(dialect="duckdb")


class _Move:
    """One move, with both sides open."""

    def __init__(
        self,
        context: CaptureContext,
        settings: ProjectSettings,
        source: Source,
        file: DuckDBFile,
        is_rebuilding: bool,
    ) -> None:
        self._context = context
        self._settings = settings
        self._source = source
        self._file = file
        self._adapter: EngineAdapter = context.engine_adapter
        self._engine = engine_name(context.connection_config)
        self._is_rebuilding = is_rebuilding
        self._rows = 0

    def run(self, *, is_meant: bool) -> None:
        """Refuses, asks, copies, compares, records, and says what is left.

        Raises:
            MoveRefusedError: See `move`.
        """
        self._refuse()
        environment = self._context.state_reader.get_environment(self._settings.environment)
        if environment is not None and environment.finalized_ts:
            self._compare_again()
            return
        plan = self._plan()
        snapshots = self._by_key(plan)
        self._refuse_built(snapshots)
        if environment is None:
            self._refuse_taken(plan)
        self._show()
        if not is_meant:
            _ask()
        try:
            self._make_tables(plan)
        except Exception as error:  # a driver's own, of a table that is loaded
            if explained(error, self._settings) is not error:
                raise
            raise MoveRefusedError(
                f"{self._engine} cannot be given the tables: {str(error).strip()}\nChange the models, or what"
                " loads the table, so that both engines take them, deploy that on the DuckDB file, and run the"
                " same command again. Nothing is recorded."
            ) from error
        for table in self._source.tables:
            self._copy_other(table)
        for model in self._copied:
            self._copy_model(model, snapshots[model.key])
        self._record(plan, snapshots)
        self._show_to_readers()
        self._check_record()
        self._say_end()

    # ------------------------------------------------------------ before

    def _refuse(self) -> None:
        here = set(self._source.catalogs.values())
        if here & set(duckdb_catalogs(self._context.connection_config).values()):
            raise MoveRefusedError(
                f"`{GATEWAY}` names the DuckDB file itself. Set it to the warehouse that is moved to, with"
                " its variables, as `docs/warehouse.md` of the template says."
            )
        cannot = refused(self._source, self._adapter.dialect)
        if cannot:
            raise MoveRefusedError(
                f"Columns that {self._engine} cannot be given, and that cannot be built again:"
                f" {', '.join(cannot)}. Give them another type in the DuckDB file first, by the model or by"
                " what loads the table."
            )

    def _plan(self) -> Plan:
        read_state_anew(self._context)
        return self._context.plan_builder(
            self._settings.environment,
            skip_tests=True,
            skip_linter=True,
            skip_backfill=True,
            enable_preview=False,
            include_unmodified=True,
        ).build()

    def _by_key(self, plan: Plan) -> dict[str, Snapshot]:
        """The other warehouse's snapshots, each of the version that Dagster knows."""
        catalog = self._context.default_catalog
        found = {_key(snapshot.name, catalog): snapshot for snapshot in plan.snapshots.values()}
        keys = {model.key for model in self._source.models}
        if found.keys() != keys:
            names = ", ".join(f"`{_plain(name)}`" for name in sorted(found.keys() ^ keys))
            raise MoveRefusedError(
                f"The project has other models on {self._engine} than on the DuckDB file: {names}. Let a"
                " model be there on both, such as by no condition on `@gateway` in `enabled`."
            )
        away = sorted(s.node.name for s in found.values() if s.is_model and s.model.gateway)
        if away:
            raise MoveRefusedError(
                f"Models that name a gateway of their own stay where they are, and are not moved:"
                f" {', '.join(f'`{name}`' for name in away)}. Take `gateway` out of them, or move by hand."
            )
        new = {snapshot.snapshot_id for snapshot in plan.new_snapshots}
        for model in self._source.models:
            if found[model.key].snapshot_id in new:
                found[model.key].version = model.version
        return found

    def _refuse_built(self, snapshots: Mapping[str, Snapshot]) -> None:
        """What another environment has built there is not written over."""
        built = [
            model.name
            for model in self._source.models
            if snapshots[model.key].intervals
            and tuple(snapshots[model.key].intervals) != model.intervals
        ]
        if built:
            raise MoveRefusedError(
                f"Built on {self._engine} before the move, by a run of another environment:"
                f" {', '.join(sorted(built))}. A move goes into a database in which the project has built"
                " nothing yet. Take an empty one, or drop SQLMesh's schemas there, its state's too."
            )

    def _refuse_taken(self, plan: Plan) -> None:
        """What is where the environment's views come: SQLMesh replaces a view, and cannot replace a table."""
        naming = plan.environment.naming_info
        views = [
            s.qualified_view_name.table_for_environment(naming, dialect=self._adapter.dialect)
            for s in plan.snapshots.values()
            if s.is_model and not s.is_symbolic and s.virtual_environment_mode.is_full
        ]
        taken = sorted(f"`{v.db}.{v.name}`" for v in views if self._adapter.table_exists(v))
        if taken:
            raise MoveRefusedError(
                f"On {self._engine}, something else is where the views of environment"
                f" `{self._settings.environment}` come: {', '.join(taken)}. Rename or drop it there, and run the"
                " same command again. Nothing was changed."
            )

    @property
    def _rebuilt(self) -> list[MovedModel]:
        dialect, wanted = self._adapter.dialect, self._is_rebuilding
        return [
            model
            for model in self._source.models
            if model.table and is_rebuilt(model, dialect, is_wanted=wanted)
        ]

    @property
    def _copied(self) -> list[MovedModel]:
        rebuilt = {model.key for model in self._rebuilt}
        return [m for m in self._source.models if m.table and m.key not in rebuilt]

    def _show(self) -> None:
        files = ", ".join(self._source.catalogs.values())
        others = len(self._source.models) - len(self._copied) - len(self._rebuilt)
        click.echo(f"From   DuckDB, {files}: environment `{self._source.environment}`")
        click.echo(f"To     {self._place()}")
        click.echo(
            f"       Copied: {counted(len(self._source.tables), 'loaded table')} and"
            f" {counted(len(self._copied), 'table')} of models. Made, such as views:"
            f" {counted(others, 'other node')}."
            f" Left to the next run: {counted(len(self._rebuilt), 'model')}."
        )
        ending = keys_that_end(
            _keys_in_history(), self._source, self._context.default_catalog or ""
        )
        if ending:
            click.echo(f"Keys   {ending}")

    def _place(self) -> str:
        state = state_connection(self._context)
        apart = ""
        if state is not self._context.connection_config:
            apart = f", with the state on {engine_name(state)}"
        return f"{self._engine}, catalog `{self._context.default_catalog}`{apart}"

    # ------------------------------------------------------------ the data

    def _make_tables(self, plan: Plan) -> None:
        """What a plan makes before it builds; a statement of `before_all` may make what models need."""
        for table in self._source.tables:
            there = table.known_to_models(self._adapter.dialect)
            target = exp.table_(there.name, db=there.schema, quoted=True)
            if not self._adapter.table_exists(target):
                create(self._adapter, target, there.columns)
        evaluatable = plan.to_evaluatable()
        snapshots = {snapshot.name: snapshot for snapshot in plan.snapshots.values()}
        execute_environment_statements(
            adapter=self._adapter,
            environment_statements=evaluatable.environment_statements or [],
            runtime_stage=RuntimeStage.BEFORE_ALL,
            environment_naming_info=plan.environment.naming_info,
            default_catalog=self._context.default_catalog,
            snapshots=snapshots,
            execution_time=plan.execution_time,
        )
        evaluator, by_id = self._context.snapshot_evaluator, dict(plan.snapshots)
        evaluator.create_physical_schemas(by_id.values(), plan.deployability_index)
        evaluator.create(by_id.values(), by_id, plan.deployability_index)

    def _copy_other(self, table: OtherTable) -> None:
        table = table.known_to_models(self._adapter.dialect)
        target = exp.table_(table.name, db=table.schema, quoted=True)
        catalog = self._source.catalog
        source = exp.table_(table.name, db=table.schema, catalog=catalog, quoted=True)
        if set(self._adapter.columns(target)) != set(table.columns):
            raise MoveRefusedError(
                f"`{table.title}` is on {self._engine} already, with other columns. Drop it there, or give"
                " it the columns of the DuckDB file; then run the same command again."
            )
        self._copy(table.title, source.sql(dialect="duckdb"), table.columns, target, is_ours=False)

    def _copy_model(self, model: MovedModel, snapshot: Snapshot) -> None:
        target = exp.to_table(snapshot.table_name(is_deployable=True))
        there = self._adapter.columns(target)
        lacking = set(there) - set(model.columns)
        if lacking:
            raise MoveRefusedError(
                f"The table of `{model.name}` has columns on {self._engine} that the DuckDB file lacks:"
                f" {', '.join(sorted(lacking))}. Plan and apply on the DuckDB file first."
            )
        more = sorted(set(model.columns) - set(there))
        if more:
            click.echo(f"       `{model.name}`: no file has {', '.join(more)} any more; not moved")
        columns = {name: model.columns[name] for name in model.columns if name in there}
        self._copy(model.name, model.table, columns, target, is_ours=not snapshot.intervals)

    def _copy(
        self,
        title: str,
        source: str,
        columns: Mapping[str, str],
        target: exp.Table,
        *,
        is_ours: bool,
    ) -> None:
        """Copies what is not there, and compares.

        Args:
            is_ours: Whether rows that are there can only be those of a move that ended early.
        """
        try:
            here = self._file.totals(source, columns)
        except ValueError as error:
            raise MoveRefusedError(
                f"`{title}` has the date {error}; drivers give none beyond the years 1 to 9999. Correct it in the"
                " DuckDB file, and run the same command again."
            ) from error
        there = totals(self._adapter, target, columns)
        word = "there"
        if difference(here, there):
            if there.rows and not is_ours:
                raise MoveRefusedError(
                    f"`{title}` on {self._engine} has other rows: {difference(here, there)}. Drop it there,"
                    " and run the same command again; what was copied stays."
                )
            try:
                copy(self._file, source, self._adapter, target, columns)
            except Exception as error:
                raise MoveRefusedError(
                    f"`{title}` cannot be copied to {self._engine}: {str(error).strip()}\nNothing is recorded. When"
                    " that is mended, the same command goes on with what was copied."
                ) from error
            word = "copied"
            there = totals(self._adapter, target, columns)
            if difference(here, there):
                raise MoveRefusedError(
                    f"`{title}` is not the same after it was copied: {difference(here, there)}. Nothing is"
                    " recorded; the DuckDB file is as it was."
                )
        self._rows += here.rows
        click.echo(f"{word:<7}{title}: {counted(here.rows, 'row')}")

    # ------------------------------------------------------------ the state

    def _record(self, plan: Plan, snapshots: Mapping[str, Snapshot]) -> None:
        """Snapshots and what is done of them: all at once, or none where the state has transactions."""
        rebuilt = {model.key for model in self._rebuilt}
        done: list[SnapshotIntervals] = []
        restated = {}
        for model in self._source.models:
            snapshot = snapshots[model.key]
            if model.restated_at:
                restated[_name_version(snapshot)] = model.restated_at
            if model.intervals and model.key not in rebuilt and not snapshot.intervals:
                done += _intervals(snapshot, model)
        state = self._context.state_sync
        with in_one_transaction(state):
            if plan.new_snapshots:
                state.push_snapshots(plan.new_snapshots)
            state.add_snapshots_intervals(done)
            if restated:
                state.update_auto_restatements(dict(restated))

    def _show_to_readers(self) -> None:
        """The environment with its views; nothing is built."""
        try:
            self._context.apply(self._plan())
        except Exception as error:
            reason = str(error.__cause__ or error).strip()
            raise MoveRefusedError(
                f"All rows are there, and what is done is recorded, but the views of environment"
                f" `{self._settings.environment}` could not be made: {reason} Run the same command again."
            ) from error

    def _check_record(self) -> None:
        read_state_anew(self._context)
        deployed = read_deployed(
            self._settings.model_copy(update={"gateway": self._context.gateway}),
            self._context.state_reader,
        )
        there: dict[str, Intervals] = {}
        for snapshot in deployed.snapshots if deployed else ():
            key = _key(snapshot.name, self._context.default_catalog)
            there[key] = tuple(snapshot.intervals)
        wrong = list(missing_or_more(self._source, there, [m.key for m in self._rebuilt]))
        if wrong:
            raise MoveRefusedError(
                f"What is recorded as done differs from the DuckDB file: {', '.join(wrong)}. Drop the"
                f" schemas that the move has made on {self._engine}, and run the same command again."
            )

    def _compare_again(self) -> None:
        """A move that is done, or another's environment: says which, and changes nothing."""
        plan = self._plan()
        snapshots = self._by_key(plan)
        if plan.new_snapshots:
            raise MoveRefusedError(
                f"Environment `{self._settings.environment}` exists on {self._engine}, and runs other"
                f" versions: `poe plan` shows them. A move goes into a warehouse without it."
            )
        for model in self._copied:
            here = self._file.totals(model.table, model.columns)
            there = totals(
                self._adapter,
                exp.to_table(snapshots[model.key].table_name(is_deployable=True)),
                model.columns,
            )
            if difference(here, there):
                raise MoveRefusedError(
                    f"Environment `{self._settings.environment}` exists on {self._engine}, and"
                    f" `{model.name}` has other rows: {difference(here, there)}. Runs have built there, or"
                    " in the DuckDB file, since it was moved; nothing was changed."
                )
        self._check_record()
        click.echo(
            f"Environment `{self._settings.environment}` is on {self._engine} already, with the same rows and"
            " the same record of what is done. Nothing was changed."
        )

    def _say_end(self) -> None:
        tables = len(self._copied) + len(self._source.tables)
        click.echo(
            f"\nMoved: {counted(self._rows, 'row')} in {counted(tables, 'table')}, each"
            " compared with the DuckDB file, and the record of what is done. The file is as it was."
        )
        for line in self._left():
            click.echo(f"Left   {line}")

    def _left(self) -> Iterator[str]:
        if self._rebuilt:
            names = ", ".join(sorted(model.name for model in self._rebuilt))
            yield f"the next `poe run` builds {names}"
        for name in self._source.others:
            yield (
                f"environment `{name}`: `poe apply --environment {name}` makes it of its own files; what is as"
                f" in `{self._source.environment}` is not built again"
            )
        ruled = [table.title for table in self._source.tables if table.has_rules]
        if ruled:
            yield (
                f"keys, constraints, defaults, computed columns and indexes, which are not moved, of"
                f" {', '.join(ruled)}"
            )
        if self._source.left:
            yield f"views that no model makes: {', '.join(self._source.left)}"
        yield "set the same variables where Dagster runs, and end what still runs on the file"


def _keys_in_history() -> list[Sequence[str]]:
    """Of all assets that Dagster's instance knows; none where there is none, or it does not open."""
    if not os.environ.get(HOME):
        return []
    try:
        with opened_instance() as instance:
            return [key.path for key in instance.get_asset_keys()]
    except InstanceError:  # its settings may be another machine's; the move is not about it
        return []


def _has_rows(snapshot: Snapshot) -> bool:
    """Whether a table of its own has its rows."""
    if not snapshot.is_model or snapshot.is_symbolic:
        return False
    return bool(snapshot.is_materialized and not snapshot.is_materialized_view)


def _intervals(snapshot: Snapshot, model: MovedModel) -> Iterator[SnapshotIntervals]:
    """What is done, and after it what of that is to be done again: SQLMesh goes by the order."""
    yield SnapshotIntervals(
        name=snapshot.name,
        identifier=snapshot.identifier,
        version=model.version,
        dev_version=snapshot.dev_version,
        intervals=list(model.intervals),
        last_altered_ts=model.built_at,
    )
    if model.pending:
        yield SnapshotIntervals(
            name=snapshot.name,
            identifier=None,
            version=model.version,
            dev_version=None,
            pending_restatement_intervals=list(model.pending),
        )


def _name_version(snapshot: Snapshot) -> SnapshotNameVersion:
    found: SnapshotNameVersion = snapshot.name_version
    return found


def _key(name: str, catalog: str | None) -> str:
    """SQLMesh's name of a node without the catalog of the gateway."""
    table = exp.to_table(name)
    if table.catalog and table.catalog == catalog:
        table.set("catalog", None)
    return table.sql(identify=True)


def _plain(name: str) -> str:
    return name.replace('"', "")


def _ask() -> None:
    if not sys.stdin.isatty():
        raise MoveRefusedError(
            "There is no terminal to ask in, and nothing was changed. To move, run `poe move --yes`."
        )
    if not click.confirm("Copy this?"):
        raise MoveRefusedError("Nothing was changed.")


def _say(_: int, text: str) -> None:
    click.echo(text)


if __name__ == "__main__":
    main(prog_name=_NAME)
