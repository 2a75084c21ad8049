"""One SQLMesh context at a time in a process, opened and released; it reports to its console.

Importing this module imports SQLMesh (2 to 5 CPU seconds); only what really runs SQLMesh does.
"""

from __future__ import annotations

import glob
import logging
import re
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from copy import copy
from dataclasses import replace
from typing import Any

import duckdb
from sqlglot import exp, parse_one
from sqlglot.errors import SqlglotError
from sqlmesh import Context

from sqlmesh_dagster import errors
from sqlmesh_dagster.console import CaptureConsole
from sqlmesh_dagster.definition.partitions import merged
from sqlmesh_dagster.definition.records import Manifest
from sqlmesh_dagster.engine.appending import appended_once, state_in_transaction
from sqlmesh_dagster.engine.connections import UnusableGatewayError, with_line
from sqlmesh_dagster.engine.culprit import is_of_project, with_culprit, with_gateway
from sqlmesh_dagster.engine.databases import anchor_databases
from sqlmesh_dagster.engine.explanation import (
    explained,
    is_of_a_lock,
    with_wheel,
    without_colors,
)
from sqlmesh_dagster.engine.gaps import Upstream, buildable
from sqlmesh_dagster.engine.once import Once, run_before_all
from sqlmesh_dagster.engine.probes import failing_sample, is_written_whole, row_count
from sqlmesh_dagster.engine.reaching import reach
from sqlmesh_dagster.engine.reader import ReadModel, build_manifest, project_names
from sqlmesh_dagster.engine.rebuild import Rebuild
from sqlmesh_dagster.engine.refusals import listen
from sqlmesh_dagster.engine.restatement import Restatement, done_of, forget_elsewhere
from sqlmesh_dagster.engine.throw_away import redirect_contexts
from sqlmesh_dagster.engine.unread import SHOWN_FROM_PRODUCTION, without_unread
from sqlmesh_dagster.facts.outcomes import RowSample
from sqlmesh_dagster.gateways import chosen_gateway, only_definitions
from sqlmesh_dagster.guard.cancel import CancelToken, RunCancelled
from sqlmesh_dagster.guard.environment import EnvironmentChanges
from sqlmesh_dagster.guard.garbage import rare_collection
from sqlmesh_dagster.guard.modules import ModuleChanges
from sqlmesh_dagster.guard.places import with_remedy
from sqlmesh_dagster.guard.secrets import (
    learn_of_config,
    learn_of_project,
    mask,
    masked_error,
    masked_output,
    masked_texts,
)
from sqlmesh_dagster.guard.signals import StopSignals
from sqlmesh_dagster.guard.throw_away import throw_away_folder
from sqlmesh_dagster.settings import ProjectSettings
from sqlmesh_dagster.upstream.corrected import correct_sqlmesh
from sqlmesh_dagster.upstream.internals import (
    CompletionStatus,
    Console,
    DeployabilityIndex,
    EngineAdapter,
    EnvironmentNamingInfo,
    Loader,
    NoopConsole,
    RuntimeStage,
    Scheduler,
    Snapshot,
    SnapshotEvaluator,
    SnapshotToIntervals,
    StateSync,
    set_console,
    to_timestamp,
)
from sqlmesh_dagster.upstream.internals import constants as c
from sqlmesh_dagster.upstream.interrupting import Interrupter
from sqlmesh_dagster.upstream.reading import causes
from sqlmesh_dagster.upstream.sqlmesh import (
    asks_when_made,
    checked_before_writing,
    close_duckdb_state,
    created_too,
    duckdb_files,
    environment_kept,
    exact_selector,
    failed_statement,
    forget_materializations,
    has_state,
    hear_failing_statements,
    leave_as_it_is,
    on_audit,
    open_duckdb_state,
    open_whole,
    opened_adapter,
    own_cache_entries,
    read_statements_as_stored,
    without_forks,
    without_usage_reports,
)

_log = logging.getLogger(__name__)
_RUN_COMMENT = re.compile(r"/\* SQLMESH_\w+: \w+ \*/\s*")
_PROCESS = threading.RLock()
"""SQLMesh's console, its macro, model and signal registries and its DuckDB adapters are global to
the process: one context at a time."""
_RETRY_SECONDS = 0.5
_STATE_SECONDS = 5.0
"""How long definitions wait for a state that other projects share."""
WRITTEN_TEXTS = ("description", "query", "extra", "problem", "owner", "tags")
"""What a manifest has of a model that somebody wrote in his own words."""


class CaptureScheduler(Scheduler):
    """SQLMesh's scheduler, which reports failures and audit results to its console."""

    def __init__(
        self,
        *args: Any,
        cancel: CancelToken,
        selected: Collection[str] | None,
        upstream: Upstream | None,
        restatement: Restatement | None,
        rebuild: Rebuild | None,
        once: Once | None,
        state_in_transaction: StateSync | None,
        sample_size: int,
        elsewhere: Callable[[str | None], Callable[[str], None]],
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._upstream = upstream
        self._restatement = restatement
        self._rebuild = rebuild
        self._once = once
        self._cancel = cancel
        self._selected = selected
        self._state_in_transaction = state_in_transaction
        self._sample_size = sample_size
        self._elsewhere = elsewhere
        self._forget: Callable[[], None] | None = None
        self._forgetting = threading.Lock()
        for adapter in self.snapshot_evaluator.adapters.values():
            hear_failing_statements(adapter)
        if isinstance(self.console, CaptureConsole):
            on_audit(self.snapshot_evaluator, self._capture_audits, self._watching)
        if rebuild is not None:
            leave_as_it_is(self.snapshot_evaluator, rebuild.audited)

    def run(
        self, environment: str | EnvironmentNamingInfo, *args: Any, **kwargs: Any
    ) -> CompletionStatus:
        """Runs exactly the selected models, and builds again what is to be restated.

        `Context.run(select_models=…)` would read their names as selector expressions, in which a
        space or a `+` means something else.
        """
        if self._selected is not None:
            kwargs["selected_snapshots"] = set(self._selected)
        if self._rebuild is not None:
            return self._run_and_rebuild(self._rebuild, environment, *args, **kwargs)
        if self._restatement is None:
            return super().run(environment, *args, **kwargs)
        done = done_of(self.snapshots, self._restatement)
        self._forget = lambda: self.state_sync.remove_intervals(done, remove_shared_versions=True)
        kwargs["restatements"] = dict(self._restatement.intervals)
        kwargs["end_bounded"] = True
        status = super().run(environment, *args, **kwargs)
        if environment == c.PROD:
            forget_elsewhere(self.state_sync, self.snapshots, self._restatement.intervals)
        return status

    def _run_and_rebuild(
        self, rebuild: Rebuild, environment: str | EnvironmentNamingInfo, *args: Any, **kwargs: Any
    ) -> CompletionStatus:
        """Builds what is due and what is stale, in one run."""
        self._forget = lambda: rebuild.forget(self.state_sync, self.snapshots)
        kwargs["restatements"] = dict(rebuild.previews)
        status = super().run(environment, *args, **kwargs)
        if environment == c.PROD:
            forget_elsewhere(self.state_sync, self.snapshots, rebuild.spans)
        return status

    def run_merged_intervals(self, *args: Any, **kwargs: Any) -> Any:
        """As the original, but `before_all` is of the first step, and `after_all` of the last."""
        if self._once is not None and kwargs.get("run_environment_statements"):
            kwargs["run_environment_statements"] = False
            self._once.before(lambda: run_before_all(self, kwargs))
        chosen = kwargs.get("selected_snapshot_ids") or ()  # of a plan
        due = kwargs["merged_intervals"]
        others = [self.snapshots[s] for s in chosen if self.snapshots[s] not in due]
        with (
            created_too(self.snapshot_evaluator, [s for s in others if _is_unbuilt(s)]),
            checked_before_writing(self.snapshot_evaluator, self._cancel.check),
        ):
            return super().run_merged_intervals(*args, **kwargs)

    def merged_missing_intervals(
        self,
        *args: Any,
        selected_snapshots: set[str] | None = None,
        **kwargs: Any,
    ) -> SnapshotToIntervals:
        """As the original, without intervals that a model upstream lacks and does not get now.

        Nor those that were built where nobody reads them, unless they are restated.
        """
        if self._rebuild is not None:
            self._rebuild.leave_out(self.snapshots)
        missing = super().merged_missing_intervals(*args, **kwargs)
        if self._restatement is not None and self._restatement.keeps_crons:
            due = super().merged_missing_intervals(*args, **{**kwargs, "ignore_cron": False})
            restated = self._restatement.intervals
            missing = {
                snapshot: spans
                for found, is_restated in ((missing, True), (due, False))
                for snapshot, spans in found.items()
                if (snapshot.snapshot_id in restated) is is_restated
            }
        if self._restatement is None and not kwargs.get("restatements"):
            missing = self._without_unread(missing, kwargs.get("deployability_index"))
        if selected_snapshots is None:
            return missing
        taken = {s: spans for s, spans in missing.items() if s.name in selected_snapshots}
        if self._upstream is None:
            return taken
        deployability = kwargs.get("deployability_index") or DeployabilityIndex.all_deployable()
        waiting = buildable(missing, self._upstream, selected_snapshots, deployability)
        for name, may in waiting.items():
            if isinstance(self.console, CaptureConsole):
                self.console.ledger.waits(name, may.waits_for)
        spans = {
            s: merged(waiting[s.name].intervals) if s.name in waiting else i
            for s, i in taken.items()
        }
        return {s: i for s, i in spans.items() if i}

    def _without_unread(
        self, missing: SnapshotToIntervals, deployability: DeployabilityIndex | None
    ) -> SnapshotToIntervals:
        if deployability is None:
            return missing
        left = without_unread(missing, deployability)
        if isinstance(self.console, CaptureConsole):
            for snapshot in missing.keys() - left.keys():
                self.console.ledger.is_idle_because(snapshot.name, SHOWN_FROM_PRODUCTION)
        return left

    def evaluate(self, snapshot: Snapshot, *args: Any, **kwargs: Any) -> Any:
        """Evaluates one batch of a model, in one of SQLMesh's threads."""
        failed_statement()  # of a model before
        try:
            return self._evaluate(snapshot, *args, **kwargs)
        except Exception as error:
            if isinstance(self.console, CaptureConsole):
                query = None if isinstance(error, RunCancelled) else self._query(snapshot, kwargs)
                covered = _covered(snapshot, (kwargs.get("start"), kwargs.get("end")))
                self.console.capture_failure(snapshot.name, error, query, covered)
            raise

    def _evaluate(self, snapshot: Snapshot, *args: Any, **kwargs: Any) -> Any:
        adapter = self.snapshot_evaluator.get_adapter(snapshot.model_gateway)
        is_own = adapter is self.snapshot_evaluator.adapter  # not another gateway's
        state = self._state_in_transaction if is_own and snapshot.is_incremental_unmanaged else None
        with (
            self._watching(snapshot),
            appended_once(snapshot, adapter, writes_state=state is not None),
            _exits_as_errors(),  # inside: a transaction ends with an error only
        ):
            self._forget_done()
            evaluated = super(CaptureScheduler, self._recording_in(state)).evaluate(
                snapshot, *args, **kwargs
            )
            if isinstance(self.console, CaptureConsole):
                count = row_count(snapshot, adapter, kwargs.get("deployability_index"))
                self.console.capture_row_count(snapshot.name, count)
                if is_written_whole(snapshot, adapter):
                    self.console.count_as_written(snapshot.name)
            return evaluated

    def _recording_in(self, state: StateSync | None) -> CaptureScheduler:
        """This scheduler, but for the connection by which it records what is done."""
        if state is None or state is self.state_sync:
            return self
        other = copy(self)
        other.state_sync = state
        return other

    def _forget_done(self) -> None:
        """Once, before the first model is evaluated: what fails before that loses no record."""
        with self._forgetting:
            if self._forget is not None:
                self._forget()
                self._forget = None

    def _capture_audits(
        self, snapshot: Snapshot, results: list[Any], span: tuple[Any, Any]
    ) -> None:
        samples: dict[int, RowSample] = {}
        if self._sample_size:
            gateway = snapshot.model_gateway if snapshot.is_model else None
            adapter = self.snapshot_evaluator.get_adapter(gateway)
            for place, result in enumerate(results):
                if result.count and isinstance(result.query, exp.Query):
                    sample = failing_sample(result.query, adapter, self._sample_size)
                    if sample is not None:
                        samples[place] = sample
        if isinstance(self.console, CaptureConsole):
            gateway = snapshot.model_gateway if snapshot.is_model else None
            dialect = self.snapshot_evaluator.get_adapter(gateway).dialect
            covered = _covered(snapshot, span)
            self.console.capture_audits(snapshot, results, samples, covered, dialect)

    def _watching(self, snapshot: Snapshot) -> AbstractContextManager[None]:
        """While open, cancelling interrupts what this thread queries for a snapshot."""
        adapter = self.snapshot_evaluator.get_adapter(snapshot.model_gateway)
        name = snapshot.node.name if snapshot.is_model else snapshot.name
        elsewhere = self._elsewhere(snapshot.model_gateway)
        return self._cancel.watching(Interrupter(adapter.cursor, adapter, elsewhere), name)

    def _query(self, snapshot: Snapshot, kwargs: Mapping[str, Any]) -> str | None:
        """The SQL of a batch that failed, as the engine got it.

        Where none was sent, as by what could not be rendered, that of the model; best effort, Python
        models and seeds have none.
        """
        adapter = self.snapshot_evaluator.get_adapter(snapshot.model_gateway)
        sent = failed_statement()
        if sent is not None:
            return _readable(sent, adapter.dialect)
        if not snapshot.is_model or not snapshot.model.is_sql:
            return None
        try:
            query = snapshot.model.render_query(
                start=kwargs.get("start"),
                end=kwargs.get("end"),
                execution_time=kwargs.get("execution_time"),
                snapshots=self.snapshots_by_name,
                deployability_index=kwargs.get("deployability_index"),
                engine_adapter=self.snapshot_evaluator.adapter,
                runtime_stage=RuntimeStage.EVALUATING,
            )
        except Exception:  # the query is only added to an error that is reported anyway
            _log.debug("Could not render the failed query of %s.", snapshot.name, exc_info=True)
            return None
        return query.sql(dialect=adapter.dialect, pretty=True) if query else None


def _is_unbuilt(snapshot: Snapshot) -> bool:
    """Whether it has a table, which nothing was ever written to."""
    return (
        snapshot.is_model
        and not snapshot.is_symbolic
        and not (snapshot.intervals or snapshot.dev_intervals)
    )


@contextmanager
def _exits_as_errors() -> Iterator[None]:
    """A model that calls `sys.exit` fails, as one that raises does: this is no thread that can be stopped.

    SQLMesh and Dagster take such an error for the end of the whole process.
    """
    try:
        yield
    except Exception:
        raise
    except BaseException as error:
        raise errors.ModelFailedError(f"{type(error).__name__}: {error}".rstrip(": ")) from error


def _readable(sql: str, dialect: str) -> str:
    """A statement with line breaks; as it is where that cannot be done.

    Without the comment by which SQLMesh marks the statements of one run: the error is the same each time.
    """
    sql = _RUN_COMMENT.sub("", sql)
    try:
        return parse_one(sql, dialect=dialect).sql(dialect=dialect, pretty=True)
    except SqlglotError:
        return sql


def _covered(snapshot: Snapshot, span: tuple[Any, Any]) -> tuple[int, int] | None:
    """The interval that the audits of one batch covered: SQLMesh limits them by the time column."""
    start, end = span
    if not snapshot.is_model or not snapshot.model.time_column or start is None or end is None:
        return None
    return to_timestamp(start), to_timestamp(end)


@without_usage_reports
class CaptureContext(Context):
    """SQLMesh's context, whose schedulers are `CaptureScheduler`s."""

    cancel_token = CancelToken()
    environment = EnvironmentChanges()
    """The environment variables that config and files have set; they are reset with the context."""
    selected: Collection[str] | None = None
    """Names of the snapshots that a run takes; None for all."""
    upstream: Upstream | None = None
    """The models upstream of those that a run was asked for."""
    restatement: Restatement | None = None
    """What a run builds again because it is restated."""
    rebuild: Rebuild | None = None
    """What a run builds again because it is stale."""
    once: Once | None = None
    """Where each step runs SQLMesh alone: what only the first and the last of them do."""
    sample_size = 0
    """Rows to keep of what each audit finds."""

    def create_scheduler(
        self, snapshots: Iterable[Snapshot], snapshot_evaluator: SnapshotEvaluator
    ) -> Scheduler:
        """As `Context.create_scheduler`, the factory of every run, plan and audit."""
        return CaptureScheduler(
            snapshots,
            snapshot_evaluator,
            self.state_sync,
            default_catalog=self.default_catalog,
            max_workers=self.concurrent_tasks,
            console=self.console,
            notification_target_manager=self.notification_target_manager,
            cancel=self.cancel_token,
            selected=self.selected,
            upstream=self.upstream,
            restatement=self.restatement,
            rebuild=self.rebuild,
            once=self.once,
            state_in_transaction=state_in_transaction(self, snapshot_evaluator, self.state_sync),
            sample_size=self.sample_size,
            elsewhere=self.elsewhere,
        )

    def elsewhere(self, gateway: str | None = None) -> Callable[[str], None]:
        """Executes a statement on a connection of its own to the server of a gateway, the context's by default."""
        connection = self.config.get_connection(gateway or self.gateway)

        def execute(statement: str) -> None:
            with closing(connection.create_engine_adapter(concurrent_tasks=1)) as adapter:
                adapter.execute(statement)

        return execute

    def interrupter(self) -> Interrupter:
        """Ends what the context's own adapter executes in this thread."""
        adapter = self.engine_adapter
        return Interrupter(adapter.cursor, adapter, self.elsewhere())


@contextmanager
def open_context(
    settings: ProjectSettings,
    *,
    load: bool,
    load_state: bool = True,
    console: Console | None = None,
    cancel: CancelToken | None = None,
    process_timeout: float | None = None,
    opens_database: bool = True,
    loader: type[Loader] | None = None,
) -> Iterator[CaptureContext]:
    """A fresh SQLMesh context, alone in this process; every connection is released at the end.

    The variables of the project's `.env`, which SQLMesh sets in the process, are reset at the end,
    and so are the Python modules of its folders: another project of the same code location must not
    see them.

    A context that loads nothing costs about 0.01 s after the import, and is never stale: an older
    one would use its cache of the state for 120 s.

    The secrets of the project are known from here on: see `guard.secrets`. An error that leaves here
    shows none.

    Args:
        load: Whether the project's files are needed; a run works from the deployed state alone.
        load_state: Whether loaded files are completed by other projects' models from the state.
        process_timeout: Seconds to wait for another context of this process; None waits for ever.
        opens_database: Whether it matters which DuckDB file a relative path leads to.
        loader: What loads the files, if not SQLMesh's own.

    Raises:
        ProjectLoadError: The project's config or files are broken, or the folder is missing.
        EnvironmentBusyError: Another context of this process was not released in time.
    """
    if not _PROCESS.acquire(timeout=-1 if process_timeout is None else process_timeout):
        raise errors.EnvironmentBusyError("This process is already running SQLMesh.")
    context: CaptureContext | None = None
    environment, modules = EnvironmentChanges(), ModuleChanges(settings.project_paths)
    is_alone = ExitStack()
    try:
        is_alone.enter_context(without_forks())
        is_alone.enter_context(environment_kept())
        is_alone.enter_context(masked_output())
        for folder in settings.project_paths:
            learn_of_project(folder)
        set_console(console or NoopConsole())
        with environment.noted(), rare_collection():
            context = _new_context(settings, load_state, loader)
        anchor_databases(context.config, settings.project_path, may_guess=not opens_database)
        context.environment = environment
        context.cancel_token = cancel or CancelToken()
        context.sample_size = settings.failing_rows_sample
        listen(context)
        if load:
            load_files(context, settings)
        yield context
    except BaseException as error:
        clean = masked_error(error)
        if clean is error:
            raise
        raise clean from clean.__cause__
    finally:
        try:
            if context is not None:
                _release(context)
        finally:
            is_alone.close()
            environment.undo()
            modules.undo()
            forget_materializations()
            set_console(NoopConsole())
            _PROCESS.release()


def load_manifest(
    settings: ProjectSettings,
    read_model: ReadModel = lambda model: {},
    anew: bool = False,
) -> Manifest:
    """Loads the project's files and reads them for Dagster's definitions.

    Opens no connection and needs no credentials, unless the config names a `project`: then the state says what others have
    deployed. Where it cannot be asked, the manifest says why, and knows nothing of them.

    Args:
        anew: Whether SQLMesh's cache of models may be older than what its macros read.

    Raises:
        ProjectLoadError: With SQLMesh's own message.
    """
    with (
        only_definitions(),
        open_context(settings, load=False, load_state=False, opens_database=False) as context,
    ):
        if not any(project_names(context)):
            load_files(context, settings, anew)
            return masked_texts(build_manifest(context, read_model), WRITTEN_TEXTS)
    is_there, problem = _state_of_others(settings)
    with (
        nullcontext() if is_there else only_definitions(),
        open_context(settings, load=False, load_state=is_there, opens_database=False) as context,
    ):
        load_files(context, settings, anew)
        manifest = masked_texts(build_manifest(context, read_model), WRITTEN_TEXTS)
        return replace(manifest, state_problem=mask(problem) if problem else None)


def _state_of_others(settings: ProjectSettings) -> tuple[bool, str | None]:
    """Whether there is a state, and why that is not known."""
    seconds = min(settings.wait_timeout, _STATE_SECONDS)
    soon = settings.model_copy(update={"wait_timeout": seconds})
    try:
        with open_context(settings, load=False, opens_database=False) as context:
            return waited_state(context, soon), None
    except Exception as error:  # definitions must load while the state is away
        return False, f"{type(error).__name__}: {error}"


def waited_state(
    context: CaptureContext,
    settings: ProjectSettings,
    log: Callable[[int, str], None] = _log.log,
) -> bool:
    """Whether there is a state; waits for who holds its file, up to `settings.wait_timeout`.

    Raises:
        duckdb.IOException: For longer; or the file is none of DuckDB's.
    """
    found: list[bool] = []
    _retry_while_locked(lambda: found.append(has_state(context)), settings, CancelToken(), log)
    return found[0]


def open_adapter(context: Context, settings: ProjectSettings) -> EngineAdapter:
    """The context's engine adapter, its connection open.

    Raises:
        DatabaseLockedError: For longer than `settings.wait_timeout`.
        DatabaseUnavailableError: Its server cannot be worked with.
    """
    reach(context, is_warehouse_alone=True)
    adapter = context.engine_adapter
    try:
        _retry_while_locked(lambda: open_whole(adapter), settings, CancelToken(), _log.log)
    except duckdb.Error as error:
        raise explained(error, settings) from error
    return adapter


def wait_for_database(
    context: CaptureContext, settings: ProjectSettings, log: Callable[[int, str], None]
) -> None:
    """Opens the DuckDB files of state and data, if any; waits for a process that has them open."""

    def connect() -> None:
        open_duckdb_state(context)
        if duckdb_files(context.connection_config):
            open_whole(context.engine_adapter)

    _retry_while_locked(connect, settings, context.cancel_token, log)


def load_files(context: CaptureContext, settings: ProjectSettings, anew: bool = False) -> None:
    """Loads the project's files into a context that was opened without them.

    Args:
        anew: Whether nothing is taken from SQLMesh's cache.

    Raises:
        ProjectLoadError: A file is broken.
    """
    if asks_when_made(context.connection_config):  # which a load does
        reach(context, is_warehouse_alone=True)
    context.cancel_token.now_does("the project's files to be loaded")
    with (
        _load_errors_told(settings),
        context.environment.noted(),
        own_cache_entries(anew),
        rare_collection(),
    ):
        context.load()
        read_statements_as_stored(context)
    context.cancel_token.now_does("")


def _new_context(
    settings: ProjectSettings, load_state: bool, loader: type[Loader] | None
) -> CaptureContext:
    missing = [folder for folder in settings.project_paths if not folder.is_dir()]
    if missing:
        raise errors.ProjectLoadError(
            f"There is no SQLMesh project at `{missing[0]}`. Set `project_dir` to the"
            " folder that holds SQLMesh's `config.yaml` or `config.py`; for `poe`, that is `SQLMESH_PROJECT_DIR`."
        )
    if throw_away_folder() is not None:
        redirect_contexts()
    correct_sqlmesh()
    with _load_errors_told(settings):
        context = CaptureContext(
            paths=[glob.escape(str(folder)) for folder in settings.project_paths],
            gateway=settings.gateway or chosen_gateway(),
            load=False,
            load_state=load_state,
            loader=loader,
            selector=exact_selector(),
            concurrent_tasks=settings.concurrency_limit,
        )
        _learn_of(context)
        if settings.concurrency_limit:
            # `concurrent_tasks` of a context does not reach its connection pool
            context.config.get_connection(
                context.gateway
            ).concurrent_tasks = settings.concurrency_limit
    return context


def _learn_of(context: CaptureContext) -> None:
    """Learns what the configs say, whatever they took from where; a connection has its own secrets."""
    for config in context.configs.values():
        for gateway in config.gateways.values() if isinstance(config.gateways, dict) else ():
            learn_of_config(gateway.model_dump())
        if config.default_connection is not None:
            learn_of_config({"default_connection": config.default_connection.model_dump()})
        learn_of_config(
            {name: getattr(config, name) for name in ("variables", "before_all", "after_all")}
        )


@contextmanager
def _load_errors_told(settings: ProjectSettings) -> Iterator[None]:
    signals = StopSignals()
    try:
        yield
    except BaseException as error:
        is_stopped = signals.has_come
        if not is_of_project(error, settings.project_path, is_stopped=is_stopped):
            raise
        unusable = next((e for e in causes(error) if isinstance(e, UnusableGatewayError)), None)
        if unusable is not None:  # no file of the project is at fault
            raise errors.ProjectLoadError(
                f"The SQLMesh project at `{settings.project_dir}` cannot be loaded: {mask(str(unusable))}"
            ) from error
        message = mask(with_line(with_wheel(without_colors(str(error)).strip()))).replace(
            "\0", "\\0"
        )
        message = with_gateway(with_remedy(message, settings.project_path), settings.gateway)
        raise errors.ProjectLoadError(
            f"The SQLMesh project at `{settings.project_dir}` cannot be loaded:"
            f" {with_culprit(error, message, settings.project_path)}\nFix it, and reload the code location."
        ) from error
    finally:
        signals.close()


def _release(context: CaptureContext) -> None:
    """Closes the state, the evaluator and every adapter, so that no file lock outlives the context."""
    context.close()
    adapter = opened_adapter(context)
    if adapter is not None:  # `close` does not close it if it was used alone
        adapter.close()
    close_duckdb_state(context)


def _retry_while_locked(
    connect: Callable[[], object],
    settings: ProjectSettings,
    cancel: CancelToken,
    log: Callable[[int, str], None],
) -> None:
    """Waits while another process holds a DuckDB file, up to `settings.wait_timeout`; says so once."""
    deadline = time.monotonic() + settings.wait_timeout
    has_said = False
    while True:
        try:
            connect()
            return
        except duckdb.IOException as error:
            if cancel.is_cancelled:
                raise RunCancelled from error
            if not is_of_a_lock(error) or time.monotonic() > deadline:
                raise
            if not has_said:
                has_said = True
                log(
                    logging.INFO,
                    "Waiting for the process that holds the DuckDB file, for"
                    f" {settings.wait_timeout:g} s at most. {error}",
                )
            time.sleep(_RETRY_SECONDS)
