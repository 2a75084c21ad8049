"""The exceptions on SQLMesh's side: what its public API doesn't give.

Each function says which private names it uses; the contract tests fail clearly when one of them
moves.
Verified on SQLMesh 0.236.4. Importing this imports no SQLMesh.
"""

from __future__ import annotations

import functools
import inspect
import json
import os
import pickle
import socket
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from sqlglot.expressions import DataType
    from sqlmesh import Config, Context
    from sqlmesh.core.config.connection import ConnectionConfig
    from sqlmesh.core.engine_adapter.base import EngineAdapter
    from sqlmesh.core.environment import EnvironmentStatements
    from sqlmesh.core.loader import Loader
    from sqlmesh.core.model import Model
    from sqlmesh.core.selector import Selector
    from sqlmesh.core.snapshot import Snapshot, SnapshotEvaluator
    from sqlmesh.core.state_sync import StateReader, StateSync

_Kind = TypeVar("_Kind", bound="Context")
_MOMENTS = 1_000_003
"""Milliseconds are summed up by their rest: the sum of millions of them fits any engine's integers."""


@contextmanager
def without_forks() -> Iterator[None]:
    """Keeps SQLMesh from forking to load files or snapshots: unsafe in Dagster's threaded processes.

    The constant is read each time; forking is also slower on two cores or fewer.
    """
    from sqlmesh.core import constants

    before = constants.MAX_FORK_WORKERS
    constants.MAX_FORK_WORKERS = 1
    try:
        yield
    finally:
        constants.MAX_FORK_WORKERS = before


@contextmanager
def environment_kept() -> Iterator[None]:
    """Keeps SQLMesh from emptying the process's environment, which it fills again at once, to undo what a config sets.

    Other threads read it meanwhile: they would miss a variable, and C code that reads one while it is moved
    crashes. Depends on `env_vars`, which the loader of configs imports.
    """
    from sqlmesh.core.config import loader

    before = vars(loader)["env_vars"]
    vars(loader)["env_vars"] = _with_variables
    try:
        yield
    finally:
        vars(loader)["env_vars"] = before


@contextmanager
def _with_variables(environ: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update({n: v for n, v in before.items() if os.environ.get(n) != v})


def on_new_context(change: Callable[[Mapping[Path, Config]], Mapping[Path, Config]]) -> None:
    """Passes the configs of every context that this process opens from now on to `change`, once.
    Depends on the parameters of `Context.__init__`, and on `load_configs`, which it calls unless it is
    given
        the configs.
    """
    from sqlmesh.core.config import load_configs
    from sqlmesh.core.context import GenericContext

    original = GenericContext.__init__
    if hasattr(original, "__wrapped__"):
        return
    signature = inspect.signature(original)

    @functools.wraps(original)
    def changed(self: Any, *args: Any, **kwargs: Any) -> None:
        given = signature.bind(self, *args, **kwargs)
        given.apply_defaults()
        options, configs = given.arguments, given.arguments["config"]
        if not isinstance(configs, dict):
            more = options["config_loader_kwargs"] or {}
            configs = load_configs(configs, self.CONFIG_TYPE, options["paths"], **more)
        options["config"] = dict(change(configs))
        original(*given.args, **given.kwargs)

    GenericContext.__init__ = changed  # type: ignore[method-assign]


def without_usage_reports(kind: type[_Kind]) -> type[_Kind]:
    """A kind of context whose methods report no use where the owner has switched that off.

    To find out who calls, SQLMesh imports IPython and looks at each module of the process, also where it
    then reports nothing: 0.2 CPU seconds in each process of a run. Depends on `python_api_analytics`, and
    on the collector's dispatcher.
    """
    from sqlmesh.core import analytics
    from sqlmesh.core.analytics.dispatcher import NoopEventDispatcher

    def unreported(reported: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(reported)
        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            dispatcher = getattr(analytics.collector, "_dispatcher", None)
            is_off = isinstance(dispatcher, NoopEventDispatcher)
            call = reported.__wrapped__ if is_off else reported  # type: ignore[attr-defined]
            return call(self, *args, **kwargs)

        return method

    reports = analytics.python_api_analytics(len).__code__
    for name, member in inspect.getmembers(kind, inspect.isfunction):
        if member.__code__ is reports:
            setattr(kind, name, unreported(member))
    return kind


def has_catalogs(connection: ConnectionConfig) -> bool:
    """Whether the names of an engine's tables have a catalog; opens nothing, and needs no driver."""
    from sqlmesh.core.engine_adapter.base import EngineAdapter

    adapter = connection._engine_adapter
    return (
        adapter.catalog_support is not EngineAdapter.catalog_support
        and adapter.supports_virtual_catalog is EngineAdapter.supports_virtual_catalog
    )


@contextmanager
def own_cache_entries(anew: bool) -> Iterator[None]:
    """What a load puts into SQLMesh's cache it gets back, whoever removes or replaces it meanwhile.

    SQLMesh stores each model of a project in a file, and reads it again at the end; a model whose file
    is gone by then, because of a process that clears the cache, is left out, and nothing says so.
    Depends on `FileCache.get` and `put`, through which SQLMesh reads and writes.

    Args:
        anew: Whether entries of earlier loads are not read, but written over: their keys are the times
            of the project's files, not of what a macro reads.
    """
    from sqlmesh.utils.cache import FileCache

    get, put = FileCache.get, FileCache.put
    own: dict[tuple[Path, str, str], Any] = {}

    def own_or_found(cache: Any, name: str, entry_id: str = "") -> Any:
        key = (cache._path, name, entry_id)
        found = None if anew else get(cache, name, entry_id)
        if found is None and key in own:
            return pickle.loads(pickle.dumps(own[key]))  # as it comes from a file
        return found

    def put_and_kept(cache: Any, name: str, entry_id: str = "", *, value: Any) -> None:
        own[(cache._path, name, entry_id)] = value
        put(cache, name, entry_id, value=value)

    FileCache.get, FileCache.put = own_or_found, put_and_kept  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        FileCache.get, FileCache.put = get, put  # type: ignore[method-assign]


def forget_materializations() -> None:
    """The next context of the process finds its own custom materializations.

    SQLMesh keeps the classes that it has found by their names for the life of the process, though
    each load imports a project's files again: another project's would be taken, and an edited model
    of a custom kind could not be stored.
    Depends on `_custom_materialization_type_cache`.
    """
    from sqlmesh.core.snapshot import evaluator

    evaluator._custom_materialization_type_cache = None


@functools.cache
def exact_selector() -> type[Selector]:
    """SQLMesh's selectors, which also take a model's name as SQLMesh itself has it.

    SQLMesh reads quoted names as parts of an expression and in the case of the default dialect, so
    that it finds neither `"WAREHOUSE"."DEMO"."ORDERS"` on DuckDB nor names with spaces or signs.
    Depends on `Selector._models`.
    """
    from sqlglot.errors import SqlglotError
    from sqlmesh.core.selector import NativeSelector

    class ExactSelector(NativeSelector):
        def expand_model_selections(
            self, model_selections: Iterable[str], models: dict[str, Any] | None = None
        ) -> set[str]:
            found = set[str]()
            for asked in model_selections:
                if asked in (models or self._models):
                    found.add(asked)
                    continue
                try:
                    found |= super().expand_model_selections([asked], models)
                except SqlglotError:
                    if not _is_quoted(
                        asked
                    ):  # else it is a removed model, of which nothing is built
                        raise
            return found

    return ExactSelector


def _is_quoted(name: str) -> bool:
    """Whether a text is a model's name as SQLMesh has it: each part in quotes."""
    return len(name) > 1 and name[0] == name[-1] == '"'


def is_dbt_project(context: Context) -> bool:
    """Whether the project is dbt's; SQLMesh's loaders for it have a method that others lack."""
    return any(hasattr(loader, "_load_projects") for loader in context._loaders)


def is_plain_loader(config: Config) -> bool:
    """Whether a project's files are loaded by SQLMesh's own loader, and not by dbt's or an owner's."""
    from sqlmesh.core.loader import SqlMeshLoader

    return config.loader is SqlMeshLoader


def loader_of(
    files: Callable[[Path], Collection[Path]],
    above: Callable[[Mapping[str, Model]], Mapping[str, Model]],
) -> type[Loader]:
    """SQLMesh's loader, of some SQL models; all that is not a model is loaded as ever.

    Uses `_load_sql_models` with its `selected_paths`, `_load_external_models` and `_Cache`.

    Args:
        files: The files of those models, for the folder of the project.
        above: What stands in for models that these read, by FQN.
    """
    from sqlmesh.core.loader import SqlMeshLoader
    from sqlmesh.utils import UniqueKeyDict

    class SomeFiles(SqlMeshLoader):
        def _load_models(
            self, macros: Any, jinja: Any, gateway: Any, audits: Any, signals: Any, *_: Any
        ) -> Any:
            cache = SqlMeshLoader._Cache(self, self.config_path)
            chosen = set(files(self.config_path))
            loaded = self._load_sql_models(
                macros, jinja, audits, signals, cache, gateway, selected_paths=chosen
            )
            external = self._load_external_models(audits, cache, gateway)
            found = {**above(loaded), **external, **loaded}
            return UniqueKeyDict("models", **found), None

    return SomeFiles


def stand_in(fqn: str, dialect: str, columns: Mapping[str, DataType] | None) -> Model:
    """A model that is not loaded, for those that read it: its name and its columns.

    Sets `columns_to_types_`, which would be normalized otherwise.
    """
    from sqlmesh.core.model import create_external_model

    model = create_external_model(fqn)
    found: Model = model.copy(
        update={"columns_to_types_": dict(columns) if columns else None, "dialect": dialect}
    )
    return found


def relocate_databases(config: Config, located: Callable[[str], str]) -> None:
    """Replaces the relative paths of DuckDB files in a config, before any is opened."""
    gateways = config.gateways.values() if isinstance(config.gateways, dict) else [config.gateways]
    connections = [c for g in gateways for c in (g.connection, g.state_connection)]
    for connection in (*connections, config.default_connection):
        if connection is not None:
            relocate_duckdb(connection, lambda path: located(path) if _is_relative(path) else path)


def relocate_duckdb(connection: ConnectionConfig, located: Callable[[str], str]) -> bool:
    """Replaces the paths of a DuckDB connection's files; False for another engine's connection."""
    from sqlmesh.core.config.connection import BaseDuckDBConnectionConfig, DuckDBAttachOptions

    if not isinstance(connection, BaseDuckDBConnectionConfig):
        return False
    if connection.database and _is_file(connection.database):
        connection.database = located(connection.database)
    for name, item in dict(connection.catalogs or {}).items():
        if isinstance(item, DuckDBAttachOptions):
            if item.type in ("duckdb", "sqlite") and _is_file(item.path):
                item.path = located(item.path)
        elif connection.catalogs and _is_file(item):
            connection.catalogs[name] = located(item)
    return True


def keep_memory(connection: ConnectionConfig, folder: Path) -> None:
    """Lets a DuckDB connection keep what it would have in memory in files, under the same catalogs."""
    from sqlmesh.core.config.connection import BaseDuckDBConnectionConfig

    if not isinstance(connection, BaseDuckDBConnectionConfig):
        return
    if not connection.catalogs and connection.database in (None, ":memory:"):
        connection.database = str(folder / "memory.duckdb")
    for name, item in dict(connection.catalogs or {}).items():
        if connection.catalogs and item == ":memory:":
            connection.catalogs[name] = str(folder / f"{name}.duckdb")


def _is_file(path: str) -> bool:
    """Whether DuckDB opens a file under this name: nothing in memory, in the cloud or behind a driver."""
    return ":" not in path


def _is_relative(path: str) -> bool:
    return not Path(path).expanduser().is_absolute()


def dbt_manifests(context: Context) -> list[Any]:
    """dbt's own manifest of each dbt project that a context has loaded; none of other projects.

    SQLMesh parses it again in each load, and keeps what it builds with.
    """
    projects = [p for loader in context._loaders for p in getattr(loader, "_projects", ())]
    return [project.context.manifest._manifest for project in projects]


def model_path(model: Model) -> Path | None:
    """The file that defines a model; `Model` has it under a private name only."""
    return model._path


def on_audit(
    evaluator: SnapshotEvaluator,
    seen: Callable[[Any, list[Any], tuple[Any, Any]], None],
    around: Callable[[Any], AbstractContextManager[None]] = nullcontext,
) -> None:
    """Calls `seen(snapshot, results, (start, end))` after each model's audits, run in `around(snapshot)`.

    A console only gets the number of failures, and nothing about a blocking failure; the results
    themselves are what `SnapshotEvaluator.audit` returns. Evaluators are cloned for each run, and
    wrapped once.
    """
    if "audit" in vars(evaluator):
        return
    audit = evaluator.audit

    def audit_and_tell(snapshot: Any, *args: Any, **kwargs: Any) -> list[Any]:
        with around(snapshot):
            results = (
                audit(snapshot, *args, **kwargs) if args else audit(snapshot=snapshot, **kwargs)
            )
        seen(snapshot, results, (kwargs.get("start"), kwargs.get("end")))
        return results

    evaluator.audit = audit_and_tell  # type: ignore[method-assign]


def leave_as_it_is(evaluator: SnapshotEvaluator, names: Collection[str]) -> None:
    """Lets these snapshots be audited and recorded as done, and not be built: views, which hold no rows.

    On engines whose views are not bound to tables SQLMesh would create each again. Evaluators are cloned
    for each run, and wrapped once.
    """
    if "evaluate" in vars(evaluator) or not names:
        return
    evaluate = evaluator.evaluate

    def evaluate_others(snapshot: Any, *args: Any, **kwargs: Any) -> str | None:
        return None if snapshot.name in names else evaluate(snapshot, *args, **kwargs)

    evaluator.evaluate = evaluate_others  # type: ignore[method-assign]


@contextmanager
def checked_before_writing(
    evaluator: SnapshotEvaluator, check: Callable[[], None]
) -> Iterator[None]:
    """Calls `check` between what a model gives, a query or a frame, and its writing.

    A Python model may catch the error of a query that was interrupted, and return something else.
    Depends on `SnapshotEvaluator._render_snapshot_for_evaluation`.
    """
    render = evaluator._render_snapshot_for_evaluation

    def checked(*args: Any, **kwargs: Any) -> Iterator[Any]:
        for given in render(*args, **kwargs):
            check()
            yield given

    evaluator._render_snapshot_for_evaluation = checked  # type: ignore[method-assign]
    try:
        yield
    finally:
        evaluator._render_snapshot_for_evaluation = render  # type: ignore[method-assign]


@contextmanager
def created_too(evaluator: SnapshotEvaluator, snapshots: Sequence[Snapshot]) -> Iterator[None]:
    """Lets a plan that builds some models make the empty tables of these others, in their order.

    SQLMesh makes views of all models, and tables of those that have something to build: without that, a model
    whose cron has not come since its start makes its first plan fail.
    """
    if not snapshots:
        yield
        return
    chosen = evaluator.get_snapshots_to_create

    def with_others(targets: Iterable[Snapshot], *args: Any, **kwargs: Any) -> list[Snapshot]:
        return chosen([*targets, *snapshots], *args, **kwargs)

    evaluator.get_snapshots_to_create = with_others  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        evaluator.get_snapshots_to_create = chosen  # type: ignore[method-assign]


def opened_adapter(context: Context) -> EngineAdapter | None:
    """The context's own engine adapter, if it was used; the public property would create one."""
    return context._engine_adapter


def read_state_anew(context: Context) -> None:
    """Lets a context see what others have written to its state since it was opened.

    It caches snapshots, and an engine such as MySQL shows a transaction what was there when it began;
    SQLMesh leaves the one of its first look open.
    """
    state = context._state_sync
    if state is None or duckdb_files(state_connection(context)):
        return
    cached: Any = state
    while hasattr(cached, "state_sync"):
        if hasattr(cached, "snapshot_cache"):
            cached.snapshot_cache.clear()
        cached = cached.state_sync
    cached.engine_adapter._connection_pool.rollback()


def state_tables(context: Context) -> tuple[EngineAdapter, str | None]:
    """Through what SQLMesh reads and writes its state, and the schema of its tables; the state is there.

    Leans on `EngineAdapterStateSync`, which the public `Context.state_sync` wraps.
    """
    return _tables_of(context.state_sync)


def _tables_of(state: Any) -> tuple[EngineAdapter, str | None]:
    while hasattr(state, "state_sync"):
        state = state.state_sync
    return state.engine_adapter, state.schema


def intervals_mark(state: StateReader) -> tuple[Any, ...]:
    """One row that is another one whenever SQLMesh's record of what is built has changed.

    Entries are added with the moment of it, and merged later into new ones: their number or the sum of
    their moments changes. Leans on the table `_intervals`.
    """
    from sqlglot import exp

    adapter, schema = _tables_of(state)
    moment = exp.column("created_ts")
    parts = exp.Mod(this=moment.copy(), expression=exp.Literal.number(_MOMENTS))
    query = exp.select(
        exp.func("COUNT", exp.Star()), exp.func("MAX", moment), exp.func("SUM", parts)
    ).from_(exp.table_("_intervals", db=schema))
    return tuple(adapter.fetchone(query, quote_identifiers=True) or ())


def interval_entries(context: Context, since: datetime) -> list[tuple[Any, ...]]:
    """SQLMesh's record of what is built, an entry each, as far as it was written since a moment or stands for others.

    Name, version, whether in development, start, end, when it was written, whether it is to be built again,
    and whether it stands for earlier ones. Leans on the table `_intervals`, of which SQLMesh's own readers give
    the merged spans only.
    """
    from sqlglot import exp

    adapter, schema = state_tables(context)
    names = "name version is_dev start_ts end_ts created_ts is_compacted is_removed is_pending_restatement"
    written = exp.column("created_ts") >= int(since.timestamp() * 1000)
    query = exp.select(*names.split()).from_(exp.table_("_intervals", db=schema))
    rows = adapter.fetchall(query.where(exp.or_(written, exp.column("is_compacted"))))
    return [
        (name, version, bool(is_dev), start, end, at, bool(removed or pending), bool(is_summary))
        for name, version, is_dev, start, end, at, is_summary, removed, pending in rows
    ]


def loaded_statements(context: Context) -> list[EnvironmentStatements]:
    """`before_all` and `after_all` of a loaded context, with those that the state has of other projects.

    Leans on `Context._environment_statements`.
    """
    return context._environment_statements


def read_statements_as_stored(context: Context) -> None:
    """Lets those of a loaded context equal what the state has of them.

    dbt's come with macros that are marked as trimmed, in a private attribute: it is not stored, and is
    compared, so that SQLMesh finds them changed each time. Leans on `Context._environment_statements`.
    """
    context._environment_statements = [
        type(statements).parse_obj(json.loads(statements.json()))
        if statements.jinja_macros is not None
        else statements
        for statements in context._environment_statements
    ]


def has_state(context: Context) -> bool:
    """Whether the project has a state; unlike `Context.state_sync` it creates none, nor a file.

    A DuckDB file with a state stays open, for the context to go on with; `Context.close` releases it.
    The context also takes the state that was made for the question: making one lists SQLMesh's cache,
    which has a file for each model. Leans on `Context._provided_state_sync`.

    Raises:
        duckdb.IOException: Another process holds the state's file.
    """
    files = duckdb_files(state_connection(context))
    if any(not path.exists() for path in files):
        return False
    open_duckdb_state(context)
    state = context.config.get_scheduler(context.gateway).create_state_sync(context)
    is_there = state.get_versions(validate=False).schema_version != 0
    if not (files and is_there):  # elsewhere the connection is one of its own
        state.close()
    elif context._provided_state_sync is None:
        context._provided_state_sync = state
    return is_there


def open_duckdb_state(context: Context) -> None:
    """Opens the state's DuckDB file, so that a lock on it is an error here.

    SQLMesh treats a file that it cannot open as one without tables, and tries to create them; its
    context then keeps a state that was never validated. Adapters are shared by path, so the state
    uses this connection.

    Raises:
        duckdb.IOException: Another process holds the file.
    """
    connection = state_connection(context)
    if duckdb_files(connection):
        open_whole(connection.create_engine_adapter())


def close_duckdb_state(context: Context) -> None:
    """Closes what `open_duckdb_state` opened, even if the context never used it."""
    connection = state_connection(context)
    if duckdb_files(connection):
        connection.create_engine_adapter().close()


def open_whole(adapter: EngineAdapter) -> None:
    """Opens an adapter's connection completely, or not at all.

    If SQLMesh cannot attach the databases to a DuckDB cursor, it keeps the cursor all the same: every
    context of the process then uses it, and works on an empty database in memory.
    """
    try:
        adapter.cursor  # noqa: B018
    except Exception:
        adapter.close()
        raise


def has_state_beside_data(context: Context) -> bool:
    """Whether SQLMesh writes data and state to one DuckDB file, through one connection.

    With a second database this is False: DuckDB writes to one only in a transaction.
    """
    from sqlmesh.core.config.connection import BaseDuckDBConnectionConfig

    connection = context.connection_config
    if is_state_apart(context):
        return False
    if not isinstance(connection, BaseDuckDBConnectionConfig):
        return False
    databases = [name for name in (connection.database, *(connection.catalogs or {})) if name]
    return len(databases) == 1 == len(duckdb_files(connection))


def state_writer(context: Context) -> str | None:
    """The version of the SQLMesh that wrote the project's state last; None where there is no state."""
    if not has_state(context):
        return None
    state = context.config.get_scheduler(context.gateway).create_state_sync(context)
    try:
        return state.get_versions(validate=False).sqlmesh_version
    finally:
        if not duckdb_files(state_connection(context)):
            state.close()


def state_connection(context: Context) -> ConnectionConfig:
    """The connection of the state: the warehouse's, unless there is a `state_connection`."""
    return context.config.get_state_connection(context.gateway) or context.connection_config


def is_state_apart(context: Context) -> bool:
    """Whether the state has a connection of its own, and so perhaps a server."""
    return context.config.get_state_connection(context.gateway) is not None


def duckdb_files(connection: ConnectionConfig) -> list[Path]:
    """The database files of a DuckDB connection; none for other engines and in-memory databases."""
    from sqlmesh.core.config.connection import BaseDuckDBConnectionConfig, DuckDBAttachOptions

    if not isinstance(connection, BaseDuckDBConnectionConfig):
        return []
    attached = [connection.database, *(connection.catalogs or {}).values()]
    paths = [
        (item.path if item.type == "duckdb" else None)
        if isinstance(item, DuckDBAttachOptions)
        else item
        for item in attached
    ]
    return [
        Path(path)
        for path in paths
        if path and not path.startswith((":memory:", "md:", "motherduck:"))
    ]


def duckdb_catalogs(connection: ConnectionConfig) -> dict[str, str]:
    """The files of a DuckDB connection by catalog, the default one first; none for other engines, or in memory."""
    from sqlmesh.core.config.connection import DuckDBAttachOptions, DuckDBConnectionConfig

    if not isinstance(connection, DuckDBConnectionConfig):
        return {}
    if connection.database and connection.database != ":memory:":
        return {str(connection.get_catalog()): connection.database}
    found = {}
    for name, item in (connection.catalogs or {}).items():
        kind = item.type if isinstance(item, DuckDBAttachOptions) else "duckdb"
        path = item.path if isinstance(item, DuckDBAttachOptions) else item
        if kind == "duckdb" and _is_file(path):
            found[name] = path
    return found


@contextmanager
def only_read(context: Context) -> Iterator[None]:
    """Meanwhile the DuckDB files of a context's data and state can only be read; call it before they are opened.

    Leans on `_data_file_to_adapter`, where SQLMesh keeps adapters for the whole process: neither may
    this context get one that writes, nor whoever opens the file later one that only reads.
    """
    from sqlmesh.core.config.connection import BaseDuckDBConnectionConfig, DuckDBAttachOptions

    paths: list[str] = []
    for connection in (context.connection_config, state_connection(context)):
        files = duckdb_catalogs(connection)
        if not files or not isinstance(connection, BaseDuckDBConnectionConfig):
            continue
        read = {
            name: DuckDBAttachOptions(type="duckdb", path=path, read_only=True)
            for name, path in files.items()
        }
        others = {n: item for n, item in (connection.catalogs or {}).items() if n not in read}
        connection.catalogs = {**read, **others}
        connection.database = None
        paths += files.values()

    def forget() -> None:
        for path in paths:
            adapter = BaseDuckDBConnectionConfig._data_file_to_adapter.pop(path, None)
            if adapter is not None:
                adapter.close()

    forget()  # one that writes
    try:
        yield
    finally:
        forget()


def in_one_transaction(state: StateSync) -> AbstractContextManager[None]:
    """Writes to the state that count together, where its engine has transactions.

    `StateSync` has none; SQLMesh's own, behind its cache, writes through an `engine_adapter`.
    """
    found: Any = state
    while hasattr(found, "state_sync"):
        found = found.state_sync
    transaction: AbstractContextManager[None] = found.engine_adapter.transaction()
    return transaction


def is_duckdb_on_this_host(connection: ConnectionConfig) -> bool:
    """Whether a DuckDB of this host keeps the state, whose file takes one process at a time; MotherDuck takes many."""
    from sqlmesh.core.config.connection import DuckDBAttachOptions, DuckDBConnectionConfig

    if not isinstance(connection, DuckDBConnectionConfig):
        return False
    first = connection.database or next(iter((connection.catalogs or {}).values()), "")
    if isinstance(first, DuckDBAttachOptions):
        return first.type == "duckdb"
    return not first.startswith(("md:", "motherduck:"))


def engine_name(connection: ConnectionConfig) -> str:
    """What people call the engine of a connection, which models may name another dialect than."""
    from sqlmesh.core.config.connection import DuckDBAttachOptions, DuckDBConnectionConfig

    if isinstance(connection, DuckDBConnectionConfig):
        first = next(iter((connection.catalogs or {}).values()), connection.database) or ""
        if isinstance(first, DuckDBAttachOptions):
            return first.type
        return "motherduck" if first.startswith(("md:", "motherduck:")) else "duckdb"
    name = str(connection.type_)
    return {"gcp_postgres": "postgres", "azuresql": "mssql"}.get(name, name)


ADAPTER_LOGGER = "sqlmesh.core.engine_adapter.base"
"""Where SQLMesh logs that it could not make a schema, and goes on."""
_failed = threading.local()


def hear_failing_statements(adapter: EngineAdapter) -> None:
    """From now on `failed_statement` knows what SQL of this adapter failed, as it was sent.

    Leans on `EngineAdapter._execute`, through which each statement goes, and what is fetched.
    """
    if "_execute" in vars(adapter):
        return
    execute = adapter._execute

    def execute_and_tell(sql: str, *args: Any, **kwargs: Any) -> None:
        try:
            execute(sql, *args, **kwargs)
        except Exception:
            _failed.sql = sql
            raise

    adapter._execute = execute_and_tell  # type: ignore[method-assign]


def failed_statement() -> str | None:
    """The last SQL that failed in this thread, once."""
    sql: str | None = getattr(_failed, "sql", None)
    _failed.sql = None
    return sql


def autocommit(connection: Any) -> None:
    """Lets each statement of a DB-API connection be a transaction; drivers have a property, or a method."""
    if callable(connection.autocommit):
        connection.autocommit(True)
    else:
        connection.autocommit = True


def asks_when_made(connection: ConnectionConfig) -> bool:
    """Whether SQLMesh asks the network, for minutes, as soon as it makes an engine's adapter.

    On Databricks, for a client's secret: the `Config` of `databricks-sdk` 0.162 asks the host what it is.
    """
    from sqlmesh.core.config.connection import DatabricksConnectionConfig

    if not isinstance(connection, DatabricksConnectionConfig):
        return False
    return bool(connection.oauth_client_secret)


def end_when_unanswered(connection: Any, seconds: int) -> None:
    """Lets the operating system end a connection whose server has vanished, where the driver gives its socket."""
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    if option is None or not hasattr(connection, "fileno"):
        return
    with suppress(OSError), socket.socket(fileno=os.dup(connection.fileno())) as same:
        if same.family in (socket.AF_INET, socket.AF_INET6):
            same.setsockopt(socket.IPPROTO_TCP, option, seconds * 1000)
