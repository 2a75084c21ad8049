"""One SQLMesh context at a time: opened, used for a run, a plan, an audit or a question, and released.

Importing this module imports SQLMesh (2 to 5 CPU seconds); only what really runs SQLMesh does.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from typing import Any

import duckdb
from sqlmesh import Context
from sqlmesh.core.audit import StandaloneAudit
from sqlmesh.core.console import Console, NoopConsole, set_console
from sqlmesh.core.engine_adapter.base import EngineAdapter
from sqlmesh.core.environment import Environment
from sqlmesh.core.macros import RuntimeStage
from sqlmesh.core.scheduler import Scheduler
from sqlmesh.core.snapshot import Snapshot, SnapshotEvaluator
from sqlmesh.utils import CompletionStatus
from sqlmesh.utils.date import TimeLike, to_datetime
from sqlmesh.utils.errors import SQLMeshError

from sqlmesh_dagster import errors
from sqlmesh_dagster.definition.manifest import build_manifest, fingerprint_text
from sqlmesh_dagster.definition.records import Manifest
from sqlmesh_dagster.execution.cancel import CancelToken, RunCancelled
from sqlmesh_dagster.execution.console import CaptureConsole, as_error
from sqlmesh_dagster.execution.outcomes import ModelOutcome
from sqlmesh_dagster.execution.settings import ProjectSettings, RunOptions
from sqlmesh_dagster.upstream import (
    on_audit,
    open_duckdb_state,
    opened_adapter,
    single_process_loading,
)

_log = logging.getLogger(__name__)
_PROCESS = threading.RLock()
"""SQLMesh's console, its macro, model and signal registries and its DuckDB adapters are global to
the process: one context at a time."""
_RETRY_SECONDS = 0.5
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_CANCELLED = "the Dagster run was cancelled"


class CaptureScheduler(Scheduler):
    """SQLMesh's scheduler, that tells its console why a model failed and what each audit found."""

    def __init__(
        self, *args: Any, cancel: CancelToken, selected: Collection[str] | None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._cancel = cancel
        self._selected = selected
        if isinstance(self.console, CaptureConsole):
            on_audit(self.snapshot_evaluator, self.console.capture_audits)

    def run(self, *args: Any, **kwargs: Any) -> CompletionStatus:
        """Runs exactly the selected models.

        `Context.run(select_models=…)` would read their names as selector expressions, in which a
        space or a `+` means something else.
        """
        if self._selected is not None:
            kwargs["selected_snapshots"] = set(self._selected)
        return super().run(*args, **kwargs)

    def evaluate(self, snapshot: Snapshot, *args: Any, **kwargs: Any) -> Any:
        """Evaluates one batch of a model, in one of SQLMesh's threads."""
        try:
            adapter = self.snapshot_evaluator.get_adapter(snapshot.model_gateway)
            with self._cancel.watching(adapter.cursor):
                return super().evaluate(snapshot, *args, **kwargs)
        except Exception as error:
            if isinstance(self.console, CaptureConsole):
                query = None if isinstance(error, RunCancelled) else self._query(snapshot, kwargs)
                self.console.capture_failure(snapshot.name, error, query)
            raise

    def _query(self, snapshot: Snapshot, kwargs: Mapping[str, Any]) -> str | None:
        """The SQL of a batch, for its error message; best effort, Python models and seeds have none."""
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
        except Exception:  # the query only decorates an error that is reported anyway
            _log.debug("Could not render the failed query of %s.", snapshot.name, exc_info=True)
            return None
        return query.sql(dialect=snapshot.model.dialect, pretty=True) if query else None


class CaptureContext(Context):
    """SQLMesh's context, whose schedulers are `CaptureScheduler`s."""

    cancel_token = CancelToken()
    selected: Collection[str] | None = None
    """Names of the snapshots that a run takes, and nothing upstream of them; None for all."""

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
        )


@contextmanager
def open_context(
    settings: ProjectSettings,
    *,
    load: bool,
    console: Console | None = None,
    cancel: CancelToken | None = None,
    process_timeout: float | None = None,
) -> Iterator[CaptureContext]:
    """A fresh SQLMesh context, alone in this process; every connection is released at the end.

    A context that loads nothing costs about 0.01 s after the import, and is never stale: a
    long-lived one trusts its cache of the state for 120 s.

    Args:
        load: Whether the project's files are needed; a run works from the deployed state alone.
        process_timeout: Seconds to wait for another context of this process; None waits for ever.

    Raises:
        ProjectLoadError: The project's config or files are broken, or the folder is missing.
        EnvironmentBusyError: Another context of this process was not released in time.
    """
    if not _PROCESS.acquire(timeout=-1 if process_timeout is None else process_timeout):
        raise errors.EnvironmentBusyError("This process is already running SQLMesh.")
    context: CaptureContext | None = None
    try:
        set_console(console or NoopConsole())
        context = _new_context(settings, load=load)
        context.cancel_token = cancel or CancelToken()
        yield context
    finally:
        try:
            if context is not None:
                _release(context)
        finally:
            set_console(NoopConsole())
            _PROCESS.release()


def load_manifest(settings: ProjectSettings) -> Manifest:
    """Loads the project's files and reads them for Dagster's definitions; opens no connection.

    Raises:
        ProjectLoadError: With SQLMesh's own message.
    """
    with open_context(settings, load=True) as context:
        return build_manifest(context)


def run_models(
    settings: ProjectSettings,
    options: RunOptions,
    fqns: Collection[str],
    tell: Callable[[ModelOutcome], None],
    log: Callable[[int, str], None],
    cancel: CancelToken,
    manifest: Manifest,
) -> None:
    """One `sqlmesh run` of exactly these models; tells the outcome of each.

    Deploys local changes first, or refuses, as `settings.undeployed_changes` says. Returns normally
    whatever happens to the models; an error of the whole run is told for every model.
    """
    console = CaptureConsole(fqns, tell, log)
    try:
        _prepare_environment(settings, options, manifest, console, log, cancel)
        with open_context(settings, load=False, console=console, cancel=cancel) as context:
            _wait_for_database(context, settings, cancel)
            _limit_environment_wait(context, settings)
            snapshots = _deployed_snapshots(context, settings.environment)
            execution_time = options.execution_time or datetime.now(timezone.utc)
            deployed = console.begin(snapshots, execution_time, _plan_hint(settings))
            if deployed:
                context.selected = deployed
                context.run(
                    settings.environment,
                    start=options.start,
                    end=options.end,
                    execution_time=execution_time,
                    ignore_cron=options.ignore_cron,
                    skip_janitor=options.skip_janitor,
                )
        if cancel.is_cancelled:
            console.finish("cancelled", _CANCELLED)
        else:
            console.finish()
    except Exception as error:
        if cancel.is_cancelled:
            console.finish("cancelled", _CANCELLED)
        else:
            console.fail(as_error(_explained(error, settings)))


def audit_snapshots(
    settings: ProjectSettings,
    options: RunOptions,
    name: str,
    log: Callable[[int, str], None],
    cancel: CancelToken,
    manifest: Manifest,
) -> ModelOutcome:
    """Runs the audits of one deployed model, external table or standalone audit; rebuilds nothing.

    Covers every interval that is recorded as done, unless `options` narrow it.

    Args:
        name: A model's FQN, or a standalone audit's name.

    Raises:
        SQLMeshDagsterError: The environment or the database is not available.
    """
    told: list[ModelOutcome] = []
    console = CaptureConsole([name], told.append, log, audit_only=True)
    try:
        _prepare_environment(settings, options, manifest, console, log, cancel)
        with open_context(settings, load=False, console=console, cancel=cancel) as context:
            _wait_for_database(context, settings, cancel)
            snapshots = _deployed_snapshots(context, settings.environment)
            execution_time = options.execution_time or datetime.now(timezone.utc)
            if not console.begin(snapshots, execution_time, _plan_hint(settings)):
                return told[0]
            span = _audited_span(snapshots[name], snapshots, options, execution_time)
            if span is None:
                return ModelOutcome(name, "up_to_date", reason="it has never been built")
            start, end = span
            scheduler = context.scheduler(environment=settings.environment)
            scheduler.audit(
                settings.environment,
                start,
                end,
                execution_time=execution_time,
                ignore_cron=True,
                selected_snapshots={name},
            )
        console.finish("up_to_date", "SQLMesh found nothing to audit")
    except Exception as error:
        raise _explained(error, settings) from error
    return told[0]


# -------------------------------------------------------------------------------- local changes


def _prepare_environment(
    settings: ProjectSettings,
    options: RunOptions,
    manifest: Manifest,
    console: CaptureConsole,
    log: Callable[[int, str], None],
    cancel: CancelToken,
) -> None:
    """Compares the files with what the environment runs, and does what the settings say."""
    with open_context(settings, load=False, cancel=cancel) as context:
        _wait_for_database(context, settings, cancel)
        environment = context.state_reader.get_environment(settings.environment)
    changed = changed_nodes(manifest, environment)
    if environment is not None and not changed:
        return
    policy = settings.undeployed_changes
    what = (
        f"Local changes of {_shortened(changed)} are not deployed to environment"
        f" `{settings.environment}`."
        if environment is not None
        else f"Environment `{settings.environment}` does not exist yet."
    )
    if policy == "apply":
        log(logging.INFO, f"{what} Deploying the project's files.")
        _deploy(settings, options, environment, console, cancel)
    elif environment is None:
        raise errors.EnvironmentMissingError(f"{what} {_plan_hint(settings)}")
    elif policy == "fail":
        raise errors.UndeployedChangesError(f"{what} {_plan_hint(settings)}")
    else:
        log(logging.WARNING, f"{what} This run uses the deployed versions. {_plan_hint(settings)}")


def changed_nodes(manifest: Manifest, environment: Environment | None) -> list[str]:
    """Names that differ between the files and an environment: added, changed and removed ones."""
    local = dict(manifest.fingerprints)
    deployed = (
        {s.name: fingerprint_text(s.fingerprint) for s in environment.snapshots}
        if environment
        else {}
    )
    return sorted(n for n in local.keys() | deployed.keys() if local.get(n) != deployed.get(n))


def _deploy(
    settings: ProjectSettings,
    options: RunOptions,
    environment: Environment | None,
    console: CaptureConsole,
    cancel: CancelToken,
) -> None:
    """Plans and applies without prompts; the run that follows builds the selected models.

    A development environment, and one that is new, is planned without a backfill, so that models
    that are not selected are not touched. An existing production environment is backfilled by the
    plan before it is promoted, as its readers must never see an empty table. Previews are off:
    with them, one forward-only model makes SQLMesh build every model since yesterday only.
    """
    is_production = settings.environment == "prod"
    with (
        console.planning(),
        open_context(settings, load=True, console=console, cancel=cancel) as context,
    ):
        try:
            context.plan(
                settings.environment,
                auto_apply=True,
                no_prompts=True,
                skip_backfill=not is_production or environment is None,
                enable_preview=False,
                execution_time=options.execution_time,
            )
        except SQLMeshError as error:
            cause = console.errors or str(error)
            raise errors.PlanFailedError(
                f"Could not deploy the local changes to environment `{settings.environment}`:"
                f" {cause.strip()}\nMend it, or run `sqlmesh plan {settings.environment}` to see more."
            ) from error


def _plan_hint(settings: ProjectSettings) -> str:
    target = "" if settings.environment == "prod" else f" {settings.environment}"
    return f"Run `sqlmesh -p {settings.project_dir} plan{target}` to deploy."


# -------------------------------------------------------------------------------- contexts


def _new_context(settings: ProjectSettings, *, load: bool) -> CaptureContext:
    if not settings.project_path.is_dir():
        raise errors.ProjectLoadError(
            f"There is no SQLMesh project at `{settings.project_dir}`. Set `project_dir` to the"
            " folder that holds SQLMesh's `config.yaml` or `config.py`."
        )
    try:
        with single_process_loading():
            context = CaptureContext(
                paths=str(settings.project_path),
                gateway=settings.gateway,
                load=False,
                concurrent_tasks=settings.concurrency_limit,
            )
            if settings.concurrency_limit:
                # `concurrent_tasks` of a context does not reach its connection pool
                context.config.get_connection(
                    context.gateway
                ).concurrent_tasks = settings.concurrency_limit
            if load:
                context.load()
            return context
    except Exception as error:
        message = _ANSI.sub("", str(error)).strip()
        raise errors.ProjectLoadError(
            f"The SQLMesh project at `{settings.project_dir}` cannot be loaded: {message}\n"
            "Mend it, and reload the code location."
        ) from error


def _release(context: CaptureContext) -> None:
    """Closes the state, the evaluator and every adapter, so that no file lock outlives the context."""
    context.close()
    adapter = opened_adapter(context)
    if adapter is not None:  # used on its own, it is not among what `close` knows
        adapter.close()


def open_adapter(context: Context, settings: ProjectSettings) -> EngineAdapter:
    """The context's engine adapter, its connection open.

    Raises:
        DatabaseLockedError: For longer than `settings.wait_timeout`.
    """
    adapter = context.engine_adapter
    try:
        _retry_while_locked(lambda: adapter.cursor, settings, CancelToken())
    except duckdb.Error as error:
        raise _explained(error, settings) from error
    return adapter


def _wait_for_database(
    context: CaptureContext, settings: ProjectSettings, cancel: CancelToken
) -> None:
    """Opens the state, waiting while another process holds its DuckDB file."""
    _retry_while_locked(lambda: open_duckdb_state(context), settings, cancel)
    context.state_sync  # noqa: B018  opens it, and creates it in an empty database


def _retry_while_locked(
    connect: Callable[[], object], settings: ProjectSettings, cancel: CancelToken
) -> None:
    """Waits while another process holds a DuckDB file, up to `settings.wait_timeout`."""
    deadline = time.monotonic() + settings.wait_timeout
    while True:
        try:
            connect()
            return
        except duckdb.IOException as error:
            if cancel.is_cancelled:
                raise RunCancelled from error
            if "lock" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(_RETRY_SECONDS)


def _limit_environment_wait(context: CaptureContext, settings: ProjectSettings) -> None:
    """Caps SQLMesh's wait for an environment that a plan is updating: its own default is six hours."""
    run = context.config.run
    run.environment_check_max_wait = int(min(run.environment_check_max_wait, settings.wait_timeout))
    run.environment_check_interval = min(run.environment_check_interval, 5)


def _deployed_snapshots(context: CaptureContext, environment: str) -> dict[str, Snapshot]:
    stored = context.state_reader.get_environment(environment)
    if stored is None:
        raise errors.EnvironmentMissingError(
            f"Environment `{environment}` does not exist yet. Run `sqlmesh plan {environment}`."
        )
    snapshots = context.state_reader.get_snapshots(stored.snapshots)
    return {snapshot.name: snapshot for snapshot in snapshots.values()}


def _audited_span(
    snapshot: Snapshot,
    snapshots: Mapping[str, Snapshot],
    options: RunOptions,
    execution_time: datetime,
) -> tuple[TimeLike, TimeLike] | None:
    """The time span to audit: what the options say, else all that is recorded as done."""
    sources = [snapshot]
    if isinstance(snapshot.node, StandaloneAudit) or snapshot.is_external:
        sources = [snapshots[p.name] for p in snapshot.parents if p.name in snapshots]
        sources = [s for s in sources if not s.is_external]
        if not sources:
            day_before = execution_time - timedelta(days=1)
            return options.start or day_before, options.end or execution_time
    intervals = [interval for s in sources for interval in (*s.intervals, *s.dev_intervals)]
    if not intervals:
        return None
    return (
        options.start or to_datetime(min(low for low, _ in intervals)),
        options.end or to_datetime(max(high for _, high in intervals)),
    )


def _explained(error: Exception, settings: ProjectSettings) -> Exception:
    """One clear message with the next step, for what can go wrong outside any model."""
    message = str(error).strip()
    if isinstance(error, duckdb.IOException) and "lock" in message:
        return errors.DatabaseLockedError(
            f"The DuckDB file is in use by another process, and stayed so for"
            f" {settings.wait_timeout:g} s. Close that process, or raise `wait_timeout`. {message}"
        )
    if isinstance(error, SQLMeshError) and "maximum wait time for environment" in message:
        return errors.EnvironmentNotFinalizedError(
            f"Environment `{settings.environment}` is being changed by a plan, or a plan of it died."
            f" {_plan_hint(settings)}"
        )
    return error


def _shortened(names: list[str], most: int = 5) -> str:
    shown = ", ".join(name.replace('"', "") for name in names[:most])
    return f"{shown}, …" if len(names) > most else shown
