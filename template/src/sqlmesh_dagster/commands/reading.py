"""What becomes of each asset of one run, from the run's events in their order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import dagster as dg

from sqlmesh_dagster.commands.progress import (
    FAILED,
    SKIPPED,
    STOPPED,
    AssetLine,
    Problem,
    RunProgress,
)
from sqlmesh_dagster.commands.source import your_places

_PLAN = ("sqlmesh/plan_summary", "sqlmesh/review", "sqlmesh/verification")
_ENDS = {
    dg.DagsterEventType.RUN_SUCCESS,
    dg.DagsterEventType.RUN_FAILURE,
    dg.DagsterEventType.RUN_CANCELED,
}
_WARNING = 30
"""Level of Python's logging."""
_INTERRUPTED = dg.DagsterExecutionInterruptedError.__name__


@dataclass
class RunReader:
    """Reads one run into its progress; `feed` it with each of the run's events.

    Attributes:
        root: The project's folder.
        files: File and line of each model, by asset key.
    """

    root: Path
    files: Mapping[str, str] = field(default_factory=dict)
    progress: RunProgress = field(default_factory=RunProgress)
    _steps: dict[str, str] = field(default_factory=dict)
    _checked: dict[str, str] = field(default_factory=dict)
    _started: set[str] = field(default_factory=set)
    _materialized: dict[str, dg.AssetMaterialization] = field(default_factory=dict)
    _observed: dict[str, str] = field(default_factory=dict)
    _results: dict[tuple[str, str], bool] = field(default_factory=dict)

    def feed(self, entry: dg.EventLogEntry) -> Iterator[AssetLine]:
        """Takes the next event; gives the lines of the assets that it ends."""
        event = entry.dagster_event
        if event is None:
            # Dagster itself logs an error for each step that is not reached
            if int(entry.level) >= _WARNING and entry.step_key in {*self._started, None}:
                _add(
                    self.progress.warnings,
                    Problem(entry.user_message.strip(), self._names(entry.step_key)),
                )
            return
        kind = event.event_type
        key = event.asset_key.to_user_string() if event.asset_key else None
        if kind is dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED and key and event.step_key:
            self._steps[key] = event.step_key
            self.progress.total = len(self._steps)
            self.progress.width = max(self.progress.width, len(key))
        elif kind is dg.DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED and event.step_key:
            check = event.asset_check_planned_data.asset_check_key
            self._checked[event.step_key] = check.asset_key.to_user_string()
        elif event.is_step_materialization and key:
            self._materialized[key] = event.materialization
        elif event.is_asset_observation and key:
            self._observed[key] = _text(
                event.asset_observation_data.asset_observation.metadata, "sqlmesh/status"
            )
        elif isinstance(event.event_specific_data, dg.AssetCheckEvaluation):
            self._check(event.event_specific_data)
        elif kind is dg.DagsterEventType.STEP_START and event.step_key:
            self._started.add(event.step_key)
        elif kind is dg.DagsterEventType.STEP_OUTPUT:
            self._show(event.step_output_data.metadata)
        elif kind is dg.DagsterEventType.STEP_SUCCESS:
            yield from self._end(event.step_key, "")
        elif kind is dg.DagsterEventType.STEP_FAILURE:
            yield from self._end(event.step_key, self._fail(event))
        elif event.is_job_event and kind in _ENDS:
            self.progress.was_stopped = _is_stop(event)
            for step in sorted(
                {step for key, step in self._steps.items() if key not in self.progress.lines}
            ):
                yield from self._end(step, SKIPPED)

    def _check(self, evaluation: dg.AssetCheckEvaluation) -> None:
        name = evaluation.asset_key.to_user_string()
        self._results[name, evaluation.check_name] = evaluation.passed
        self.progress.checks = len(self._results)
        self.progress.checks_passed = sum(self._results.values())
        if not evaluation.passed:
            text = f"check {evaluation.check_name}: {(evaluation.description or 'failed').strip()}"
            is_warning = evaluation.severity is dg.AssetCheckSeverity.WARN
            problems = self.progress.warnings if is_warning else self.progress.errors
            _add(problems, Problem(text, (name,), self.files.get(name)))

    def _fail(self, event: dg.DagsterEvent) -> str:
        """Keeps what went wrong; the status of what failed."""
        failure, error = event.step_failure_data.user_failure_data, event.step_failure_data.error
        names = self._failed_names(event.step_key)
        self._show(failure.metadata if failure else {})
        if failure and failure.description:
            place = next((self.files[name] for name in names if name in self.files), None)
            _add(self.progress.errors, Problem(failure.description.strip(), names, place))
        elif error is not None and error.cls_name == _INTERRUPTED:
            return STOPPED
        elif error is not None:
            cause = error
            while cause.cause is not None:
                cause = cause.cause
            place = next(your_places("".join(cause.stack), self.root), None)
            _add(self.progress.errors, Problem(cause.message.strip(), names, place))
        return FAILED

    def _failed_names(self, step: str | None) -> tuple[str, ...]:
        """The assets of a step that failed, but for those that it had loaded before."""
        names = self._names(step)
        return tuple(name for name in names if name not in self._materialized) or names

    def _names(self, step: str | None) -> tuple[str, ...]:
        """The assets of a step, or the one that it checks; any other step has its own name."""
        names = tuple(key for key, key_step in self._steps.items() if key_step == step)
        return names or ((self._checked.get(step, step),) if step else ())

    def _show(self, metadata: Mapping[str, dg.MetadataValue[Any]]) -> None:
        for name in _PLAN:
            text = metadata.get(name)
            if isinstance(text, dg.MarkdownMetadataValue) and text.value not in (
                None,
                *self.progress.plans,
            ):
                self.progress.plans.append(str(text.value))
        self.progress.facts.update({name: value.value for name, value in metadata.items()})

    def _end(self, step: str | None, failed: str) -> Iterator[AssetLine]:
        failing = self._failed_names(step) if failed else ()
        for name in [key for key, key_step in self._steps.items() if key_step == step]:
            if name in self.progress.lines and self.progress.lines[name].status != FAILED:
                continue  # a step that is tried again
            status = failed if name in failing else self._status(name)
            line = AssetLine(name, status, 0, self.progress.total, self._details(name))
            number = len({*self.progress.lines, name})
            self.progress.lines[name] = replace(line, number=number)
            yield self.progress.lines[name]

    def _status(self, name: str) -> str:
        done = self._materialized.get(name)
        if done is not None:
            return _text(done.metadata, "sqlmesh/status") or "materialized"
        return self._observed.get(name) or (
            "observed" if name in self._observed else "left as it is"
        )

    def _details(self, name: str) -> tuple[str, ...]:
        done = self._materialized.get(name)
        metadata = done.metadata if done else {}
        status = _text(metadata, "sqlmesh/status")
        due = metadata.get("sqlmesh/next_due")
        if isinstance(due, dg.TimestampMetadataValue):
            self.progress.next_due = min(self.progress.next_due or due.value, due.value)
        stale = _text(metadata, "sqlmesh/stale")
        if stale:
            _add(self.progress.stale, Problem(stale, (name,)))
        checked = [passed for (asset, _), passed in self._results.items() if asset == name]
        facts = [
            _counted(metadata.get("dagster/row_count"), "row"),
            _seconds(metadata.get("sqlmesh/duration_seconds")) if status == "built" else None,
            f"{sum(checked)} of {len(checked)} checks passed" if checked else None,
        ]
        return tuple(fact for fact in facts if fact)


def _is_stop(event: dg.DagsterEvent) -> bool:
    """Whether a person or a machine ended the run; Dagster calls Ctrl-C a failure with a reason."""
    if event.event_type is dg.DagsterEventType.RUN_FAILURE:
        reason = event.job_failure_data.failure_reason
        return reason is not None and reason.value == "UNEXPECTED_TERMINATION"
    return event.event_type is dg.DagsterEventType.RUN_CANCELED


def _add(problems: list[Problem], problem: Problem) -> None:
    """Puts the message that is there already together with this one."""
    for position, known in enumerate(problems):
        if known.message == problem.message:
            names = tuple(dict.fromkeys((*known.names, *problem.names)))
            problems[position] = replace(known, names=names, place=known.place or problem.place)
            return
    problems.append(problem)


def _text(metadata: Mapping[str, dg.MetadataValue[Any]], name: str) -> str:
    value = metadata.get(name)
    return (value.text or "") if isinstance(value, dg.TextMetadataValue) else ""


def _counted(value: dg.MetadataValue[Any] | None, noun: str) -> str | None:
    if not isinstance(value, dg.IntMetadataValue) or value.value is None:
        return None
    return f"{value.value:,} {noun}{'' if value.value == 1 else 's'}"


def _seconds(value: dg.MetadataValue[Any] | None) -> str | None:
    return f"{value.value:.1f} s" if isinstance(value, dg.FloatMetadataValue) else None
