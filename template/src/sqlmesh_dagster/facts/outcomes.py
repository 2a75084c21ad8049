"""What one sqlmesh run did with each model, as plain data that steps in other processes can read."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from pydantic import TypeAdapter

from sqlmesh_dagster.definition.spans import in_words
from sqlmesh_dagster.facts.tables import BuiltTable

Status = Literal[
    "executed",
    "up_to_date",
    "not_ready",
    "failed",
    "audit_failed",
    "upstream_failed",
    "cancelled",
    "not_deployed",
    "audited",
]


@dataclass(frozen=True)
class RowSample:
    """Some rows of a table, each value as text."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class AuditOutcome:
    """One audit call in one run.

    Attributes:
        identity: `names.audit_identity` of the call.
        blocking: As it counted in this run; SQLMesh blocks nothing on a development preview table.
        failing_rows: Rows found, summed over the batches.
        query: SQL of the last batch that found rows, else of the last batch; runs as it stands.
        arguments: Pairs of argument name and SQL text.
        sample: Some of the rows of the last batch that found any, where the settings ask for it.
        covered: The intervals that it looked at, pairs of epoch milliseconds, end exclusive; none where
            it looks at the whole table.
        failing: Those of them in which it found rows, each with how many.
    """

    name: str
    identity: str
    check_name: str
    blocking: bool
    failing_rows: int
    query: str | None = None
    arguments: tuple[tuple[str, str], ...] = ()
    sample: RowSample | None = None
    covered: tuple[tuple[int, int], ...] = ()
    failing: tuple[tuple[int, int, int], ...] = ()


@dataclass(frozen=True)
class ErrorOutcome:
    """Why a model, or the whole run, failed: the message of the engine or of Python.

    `covered` is the time of the batch that failed, of a model that is built by time.
    """

    kind: str
    message: str
    query: str | None = None
    traceback: str | None = None
    covered: tuple[int, int] | None = None

    @property
    def when(self) -> str:
        """` in 2025-01-04`, to follow "failed"; empty where it is of no time."""
        return f" in {in_words([self.covered])}" if self.covered else ""


@dataclass(frozen=True)
class ModelOutcome:
    """What became of one model in one sqlmesh run.

    One that was executed and has an error was built, and the run failed after it.

    Attributes:
        fqn: The model's FQN, or a standalone audit's name.
        intervals: Executed intervals, pairs of epoch milliseconds, end exclusive.
        batches: Executed batches; SQLMesh splits intervals by `batch_size`.
        rows_processed: Rows that the engine says it wrote; None where it does not say (DuckDB).
        row_count: Rows of the table afterwards, where counting is cheap; see `probes.row_count`.
        plan: Id of the plan that last changed the environment.
        version: What SQLMesh calls the version of the table, which several snapshots may share.
        built_at: When the last batch had been recorded as done, in epoch milliseconds.
        next_due: When the model is due next, ISO 8601 in UTC; None if never again.
        reason: Why nothing was executed, or not all that is due, in words.
        below: Models that nobody selected and that are restated with this one; each is reported, too.
        above: Models upstream that nobody selected and that are built with this one, because it would
            have been built on a gap otherwise; each is reported, too.
        inputs: What its data is made of now: label, version and place in Dagster's log of each input,
            see `staleness`; None where nobody asked.
        stale: Why it is left as it is though an input has changed, since when, and what to do.
        renewed: Labels of the inputs because of which it was built again.
        table: The model's table as it was before the run; None if it held no data.
        is_late: Whether this is of batches that were built after the model's failure was reported.
    """

    fqn: str
    status: Status
    intervals: tuple[tuple[int, int], ...] = ()
    batches: int = 0
    duration_ms: int = 0
    rows_processed: int | None = None
    bytes_processed: int | None = None
    row_count: int | None = None
    plan: str | None = None
    snapshot: str | None = None
    version: str | None = None
    built_at: int | None = None
    execution_time: str | None = None
    next_due: str | None = None
    reason: str | None = None
    audits: tuple[AuditOutcome, ...] = ()
    error: ErrorOutcome | None = None
    below: tuple[str, ...] = ()
    above: tuple[str, ...] = ()
    inputs: tuple[tuple[str, str, int], ...] | None = None
    stale: str | None = None
    renewed: tuple[str, ...] = ()
    table: BuiltTable | None = None
    is_late: bool = False

    @property
    def besides(self) -> tuple[str, ...]:
        """Models that were not selected, and are reported with this one."""
        return (*self.above, *self.below)

    @property
    def is_success(self) -> bool:
        """Whether what Dagster runs next may build on the model."""
        return self.error is None and self.status in ("executed", "up_to_date", "not_ready")


def to_line(outcome: ModelOutcome) -> bytes:
    """One line of JSON, newline included."""
    return _json().dump_json(outcome) + b"\n"


def from_line(line: bytes) -> ModelOutcome:
    """The reverse of `to_line`.

    Raises:
        pydantic.ValidationError: The line is torn or of another version.
    """
    return _json().validate_json(line)


@lru_cache(maxsize=1)
def _json() -> TypeAdapter[ModelOutcome]:
    return TypeAdapter(ModelOutcome)  # 0.1 s, which an import should not take
