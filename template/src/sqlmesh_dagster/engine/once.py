"""Statements and janitor: done once in a Dagster run, although each of its steps runs SQLMesh by itself.

Importing this module imports SQLMesh.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from sqlmesh import Context

from sqlmesh_dagster.upstream.internals import (
    EnvironmentNamingInfo,
    RuntimeStage,
    Scheduler,
    Snapshot,
    SQLMeshError,
    TimeLike,
    execute_environment_statements,
)


class Marks(Protocol):
    """What the steps of one Dagster run tell each other, on whichever hosts."""

    def has_begun(self) -> bool:
        """Whether `before_all` has run."""

    def begin(self) -> None:
        """Notes that it has."""

    def finish(self, *, is_success: bool) -> bool:
        """Notes that this step is done; whether all others are, too, or will never start."""


@dataclass(frozen=True)
class Once:
    """The steps' share in what is done once.

    Attributes:
        lock: Held while marks are read and written, and while a statement runs that others wait for.
    """

    marks: Marks
    lock: Callable[[], AbstractContextManager[None]]

    def before(self, statements: Callable[[], None]) -> None:
        """Runs `before_all` in the step that is first to have something to build."""
        with self.lock():
            if not self.marks.has_begun():
                statements()
                self.marks.begin()

    def after(
        self, statements: Callable[[], None], clean_up: Callable[[], None], *, is_success: bool
    ) -> SQLMeshError | None:
        """Runs `after_all` and the janitor in the step that is last; how `after_all` failed."""
        failure: SQLMeshError | None = None
        with self.lock():
            if self.marks.finish(is_success=is_success):
                try:
                    if self.marks.has_begun():
                        statements()
                except SQLMeshError as error:
                    failure = error
                clean_up()
        return failure


def run_before_all(scheduler: Scheduler, arguments: Mapping[str, Any]) -> None:
    """As `Scheduler.run_merged_intervals` does, with its arguments."""
    naming_info: EnvironmentNamingInfo = arguments["environment_naming_info"]
    names = ("start", "end", "execution_time", "selected_models")
    execute_environment_statements(
        adapter=scheduler.snapshot_evaluator.adapter,
        environment_statements=scheduler.state_sync.get_environment_statements(naming_info.name),
        runtime_stage=RuntimeStage.BEFORE_ALL,
        environment_naming_info=naming_info,
        default_catalog=scheduler.default_catalog,
        snapshots=scheduler.snapshots_by_name,
        **{name: arguments.get(name) for name in names},
    )


def run_after_all(
    context: Context,
    name: str,
    snapshots: Mapping[str, Snapshot],
    start: TimeLike | None,
    end: TimeLike | None,
    execution_time: TimeLike,
) -> None:
    """The same at the end of an environment's run."""
    environment = context.state_reader.get_environment(name)
    if environment is None:
        return
    execute_environment_statements(
        adapter=context.snapshot_evaluator.adapter,
        environment_statements=context.state_reader.get_environment_statements(name),
        runtime_stage=RuntimeStage.AFTER_ALL,
        environment_naming_info=environment.naming_info,
        default_catalog=context.default_catalog,
        snapshots=dict(snapshots),
        start=start,
        end=end,
        execution_time=execution_time,
    )
