"""What a change does to the data, and to whom: numbers that were measured, as plain data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from sqlmesh_dagster.facts.plan_summary import PlanSummary

ColumnFate = Literal["added", "removed", "retyped"]
ReaderKind = Literal["model", "check", "asset", "consumer"]


@dataclass(frozen=True)
class ColumnChange:
    """A column that only one side has, or whose type differs; types as the database names them."""

    name: str
    fate: ColumnFate
    before: str | None = None
    after: str | None = None

    @property
    def is_lost(self) -> bool:
        """Whether what reads it as it was may no longer work."""
        return self.fate != "added"


@dataclass(frozen=True)
class ColumnEquality:
    """How many rows with the same key have the same value in a column."""

    name: str
    matched: int
    equal: int

    @property
    def percent(self) -> float:
        """Of the matched rows; 100 where none is."""
        return _percent(self.equal, self.matched)


@dataclass(frozen=True)
class Profile:
    """A column of one side.

    Attributes:
        distinct: None where counting them would cost too much.
        minimum: None too where it may not be shown: of text, and of masked columns.
    """

    nulls: int
    distinct: int | None = None
    minimum: str | None = None
    maximum: str | None = None


@dataclass(frozen=True)
class ColumnProfile:
    """A column of a model whose rows have no key, on each side that has it."""

    name: str
    before: Profile | None = None
    after: Profile | None = None


@dataclass(frozen=True)
class RowComparison:
    """The rows of two tables, compared.

    Attributes:
        key: The columns by which rows are matched; empty where they are compared whole.
        compared_before: Rows of that side that were compared; fewer than all in a sample.
        only_before: Rows that the other side lacks: by key, or whole.
        equal: Rows that are equal in every column that both sides have.
        columns: None of the key.
    """

    key: tuple[str, ...]
    compared_before: int
    compared_after: int
    only_before: int
    only_after: int
    equal: int
    columns: tuple[ColumnEquality, ...] = ()

    @property
    def matched(self) -> int:
        """Rows that both sides have."""
        return self.compared_before - self.only_before

    @property
    def equal_percent(self) -> float:
        """Of all rows that either side has."""
        return _percent(self.equal, self.matched + self.only_before + self.only_after)

    @property
    def is_equal(self) -> bool:
        """Whether nothing differs."""
        return not (self.only_before or self.only_after or self.equal < self.matched)

    @property
    def moved(self) -> tuple[ColumnEquality, ...]:
        """The columns with other values, those that moved most first."""
        moved = [c for c in self.columns if c.equal < c.matched]
        return tuple(sorted(moved, key=lambda c: (c.percent, c.name)))


@dataclass(frozen=True)
class ModelReview:
    """One model, before and after.

    Attributes:
        name: Without quotes.
        change: As in `PlannedChange.kind`.
        is_same_table: Whether both environments show one table, so that nothing had to be read.
        rows_before: All of them; None where there is no such side.
        comparison: None where there is only one side, or nothing to compare.
        scope: Which part was compared, in words; empty for all of it.
        notes: What else the reader has to know.
        samples: Some rows that differ, each a mapping as text; see `[measure] sample_rows`.
        is_preview: Whether the environment has a part of its rows only, for a look at them.
        is_partial: Whether a promotion builds the rest of its time.
    """

    name: str
    change: str
    category: str = ""
    is_same_table: bool = False
    columns: tuple[ColumnChange, ...] = ()
    rows_before: int | None = None
    rows_after: int | None = None
    comparison: RowComparison | None = None
    profiles: tuple[ColumnProfile, ...] = ()
    scope: str = ""
    notes: tuple[str, ...] = ()
    samples: tuple[Mapping[str, str], ...] = ()
    is_preview: bool = False
    is_partial: bool = False

    @property
    def lost(self) -> tuple[str, ...]:
        """Columns that are removed or retyped."""
        return tuple(c.name for c in self.columns if c.is_lost)

    @property
    def is_touched(self) -> bool:
        """Whether somebody who reads it may see something else than before; true where unknown."""
        if self.is_same_table:
            return False
        if self.columns or self.comparison is None or self.rows_before != self.rows_after:
            return True
        return not self.comparison.is_equal or bool(self.scope)

    @property
    def fewer_rows_percent(self) -> float:
        """By how many per cent it has fewer rows; 0 where it has not. Of a part, in what it is of."""
        before, after = self.rows_before, self.rows_after
        if self.is_preview or self.is_partial:
            found = self.comparison if self.scope else None
            before = found.compared_before if found else None
            after = found.compared_after if found else None
        return 0.0 if not before or after is None else max(0.0, 100 * (before - after) / before)

    @property
    def changed_rows(self) -> bool:
        """Whether rows have come or gone, or may have: that touches whoever reads any column."""
        if self.comparison is None:
            return not self.is_same_table
        found = self.comparison
        return bool(
            self.scope
            or self.rows_before != self.rows_after
            or found.only_before
            or found.only_after
        )

    @property
    def changed_columns(self) -> tuple[str, ...]:
        """Columns with other types or values: lost ones first."""
        moved = self.comparison.moved if self.comparison else ()
        names = (*self.lost, *(c.name for c in self.columns), *(c.name for c in moved))
        return tuple(dict.fromkeys(names))


@dataclass(frozen=True)
class Reader:
    """What reads a changed model.

    Attributes:
        reads: Columns that it reads, by the model's name; None where only the model is known.
        is_measured: Whether its own data were compared, or are the same table.
        is_touched: Then, whether they differ.
    """

    name: str
    kind: ReaderKind
    reads: Mapping[str, frozenset[str] | None]
    is_measured: bool = False
    is_touched: bool = True
    owner: str = ""


@dataclass(frozen=True)
class Touched:
    """A reader, and what of a change concerns it.

    Attributes:
        lost: Removed or retyped columns that it reads, or may read, as `model.column`.
        changed: Other columns that it reads and that changed; `model` alone stands for its rows.
        is_certain: Whether its columns are known.
    """

    reader: Reader
    lost: tuple[str, ...]
    changed: tuple[str, ...]
    is_certain: bool

    @property
    def is_touched(self) -> bool:
        """Whether anything reaches it."""
        if self.lost:
            return True
        return self.reader.is_touched if self.reader.is_measured else bool(self.changed)


def touched(models: Iterable[ModelReview], readers: Iterable[Reader]) -> tuple[Touched, ...]:
    """Who is touched, those that read what is lost first, and at the end who is not."""
    changed = {model.name: model for model in models}
    found = [_touched(reader, changed) for reader in readers]
    return tuple(sorted(found, key=_order))


def _order(touched: Touched) -> tuple[bool, bool, str, str]:
    return (
        not touched.lost,
        not touched.is_touched,
        touched.reader.kind,
        touched.reader.name,
    )


def _touched(reader: Reader, changed: Mapping[str, ModelReview]) -> Touched:
    lost: list[str] = []
    other: list[str] = []
    for name, columns in sorted(reader.reads.items()):
        model = changed.get(name)
        if model is None or model.is_same_table or not model.is_touched:
            continue
        is_read = (lambda column: True) if columns is None else _caseless(columns).__contains__
        # what was built without the column, and is the same, doesn't depend on it
        is_proven = columns is None and reader.is_measured and not reader.is_touched
        lost += [f"{name}.{c}" for c in model.lost if is_read(c.lower()) and not is_proven]
        rest = [c for c in model.changed_columns if c not in model.lost and is_read(c.lower())]
        other += [f"{name}.{c}" for c in rest]
        other += [name] if model.changed_rows else []
    return Touched(reader, tuple(lost), tuple(other), None not in reader.reads.values())


def _caseless(names: Iterable[str]) -> frozenset[str]:
    return frozenset(name.lower() for name in names)


@dataclass(frozen=True)
class CheckReview:
    """A check on both sides, and how much it finds; None where it has not run, or is not there.

    Attributes:
        before: Rows that an audit finds, places that break a rule of the linter, 1 for a test that fails.
        blocking: Whether it stops more than a warning would.
        kind: `audit`, `unit test` or `linter`.
        problem: Why it could not run after the change.
    """

    model: str
    name: str
    before: int | None
    after: int | None
    blocking: bool = True
    problem: str | None = None
    kind: str = "audit"

    @property
    def is_warning_of_linter(self) -> bool:
        """Whether it is what the linter only mentions."""
        return self.kind == "linter" and not self.blocking

    @property
    def fate(self) -> str:
        """`newly failing`, `newly passing`, `still failing`, `passing`, `removed` or `unknown`."""
        if self.problem:
            return "newly failing"
        if self.after is None:
            return "removed" if self.before is not None else "unknown"
        if self.after:
            return "still failing" if self.before else "newly failing"
        return "newly passing" if self.before else "passing"


@dataclass(frozen=True)
class Past:
    """What the last runs tell of a model: the seconds of one interval, and its rows.

    Attributes:
        seconds: Of one interval, or of the whole of what has none.
        rows: Of one interval, or of the whole.
    """

    seconds: float | None = None
    rows: int | None = None


@dataclass(frozen=True)
class Cost:
    """What a promotion builds of one model.

    Attributes:
        what: The intervals in words, `full refresh`, or `recreate view`.
        intervals: How many; None for what is built as a whole.
        rows: Estimated from the last runs; None where these say nothing.
    """

    name: str
    what: str
    intervals: int | None = None
    rows: int | None = None
    seconds: float | None = None


def cost(name: str, what: str, intervals: int | None, past: Past) -> Cost:
    """The estimate: what the last runs took, times the intervals; a view costs next to nothing."""
    if what == "recreate view":
        return Cost(name, what, intervals, 0, 0.0)
    times = intervals or 1
    return Cost(
        name,
        what,
        intervals,
        None if past.rows is None else past.rows * times,
        None if past.seconds is None else past.seconds * times,
    )


_AT_LEAST_SECONDS = 10.0
"""Below that, how often an estimate is off says nothing."""


def estimate_is_off(estimate: float | None, seconds: float, factor: float) -> str | None:
    """Says so if what was built took many times longer, or shorter, than estimated."""
    if estimate is None or max(estimate, seconds) < _AT_LEAST_SECONDS:
        return None
    if factor * min(estimate, seconds) >= max(estimate, seconds):
        return None
    return (
        f"The promotion built for {seconds:,.1f} seconds; the review had estimated {estimate:,.1f}."
    )


@dataclass(frozen=True)
class Basis:
    """What was reviewed, so that a promotion can tell whether it has moved.

    Attributes:
        files: Pairs of a node's name and its fingerprint, of the project's files.
        plan: Id of the plan that last changed the reviewed environment.
        production_plan: The same of production; None if there is none.
        production: Pairs of a node's name and the identifier of the snapshot that production runs.
        other: A digest of what else a plan deploys: statements before and after runs, requirements.
    """

    files: tuple[tuple[str, str], ...]
    plan: str
    production_plan: str | None
    production: tuple[tuple[str, str], ...]
    other: str = ""

    def moved_since(self, now: Basis) -> tuple[str, ...]:
        """What has moved, each in a sentence; none if a promotion does what was reviewed."""
        found = []
        if self.files != now.files:
            found.append(f"The project's files have changed: {_differing(self.files, now.files)}.")
        if self.other != now.other:
            found.append("The statements before or after runs, or the requirements, have changed.")
        if self.plan != now.plan:
            what = "was planned again" if now.plan else "is gone"
            found.append(f"The reviewed environment {what}.")
        if (self.production_plan, self.production) != (now.production_plan, now.production):
            names = _differing(self.production, now.production)
            found.append(f"Production has moved: {names or 'it was planned again'}.")
        return tuple(found)


def _differing(before: Iterable[tuple[str, str]], after: Iterable[tuple[str, str]]) -> str:
    names = sorted({name.replace('"', "") for name, _ in set(before) ^ set(after)})
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(f"`{name}`" for name in names[:5]) + more


@dataclass(frozen=True)
class Review:
    """A change, as a person sees it before it is promoted.

    Attributes:
        environment: Where it was built.
        against: What it is compared with.
        plan: What a promotion would do, in SQLMesh's terms.
        reused: How many models a promotion neither builds nor reads again.
        built_seconds: What building the environment took in this run; None if nothing was built.
        commit: Of the files, if they are in git.
        problem: Why the environment could not be built, so that nothing is known of its data.
        late_failure: What failed once it was built, such as `after_all`.
    """

    environment: str
    against: str
    plan: PlanSummary
    basis: Basis
    models: tuple[ModelReview, ...] = ()
    readers: tuple[Reader, ...] = ()
    checks: tuple[CheckReview, ...] = ()
    costs: tuple[Cost, ...] = ()
    reused: int = 0
    built_seconds: float | None = None
    commit: str | None = None
    problem: str | None = None
    late_failure: str | None = None

    @cached_property
    def touched(self) -> tuple[Touched, ...]:
        """See `touched`."""
        return touched(self.models, self.readers)

    @property
    def seconds(self) -> float | None:
        """What a promotion takes, as far as it is known; None if of nothing that it builds."""
        known = [c.seconds for c in self.costs if c.seconds is not None]
        return sum(known) if known or not self.costs else None


def _percent(part: int, whole: int) -> float:
    return 100.0 if not whole else 100 * part / whole
