"""What production runs, and what the environment of a change does: its tables, and what they hold.

Importing this module imports SQLMesh.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

from sqlglot import exp

from sqlmesh_dagster.definition.partitions import Interval, merged
from sqlmesh_dagster.definition.spans import in_words, milliseconds, utc
from sqlmesh_dagster.engine.context import CaptureContext
from sqlmesh_dagster.engine.lineage import ColumnSources, column_lineages
from sqlmesh_dagster.engine.measure import Part
from sqlmesh_dagster.engine.plan import plain, summary_of
from sqlmesh_dagster.upstream.internals import DeployabilityIndex, Plan, Snapshot


@dataclass(frozen=True)
class Change:
    """A model before and after; None where a side lacks it.

    Attributes:
        name: Without quotes.
        kind: As in `PlannedChange.kind`, and `category` as in its.
    """

    name: str
    kind: str
    category: str
    before: Snapshot | None
    after: Snapshot | None


@dataclass(frozen=True)
class Sides:
    """Both, by a plan of production: the files are what the environment runs."""

    context: CaptureContext
    plan: Plan

    @cached_property
    def changes(self) -> list[Change]:
        """Every model that differs, upstream before downstream, what is removed last."""
        diff = self.plan.context_diff
        told = {c.name: c for c in summary_of(self.context, self.plan, 0).changes}
        removed = self.context.state_reader.get_snapshots(diff.removed_snapshots)
        pairs = {name: (old, new) for name, (new, old) in diff.modified_snapshots.items()}
        sides: dict[str, tuple[Snapshot | None, Snapshot | None]] = {}
        for name in self.context.dag.sorted:
            if name in self.after_by_name:
                sides[name] = pairs.get(name, (None, self.after_by_name[name]))
        sides.update({s.name: (s, None) for s in removed.values() if s.name not in sides})
        found = [
            Change(plain(name), told[plain(name)].kind, told[plain(name)].category, *pair)
            for name, pair in sides.items()
            if plain(name) in told and _has_a_table(pair[1] or pair[0])
        ]
        changed = [s for c in found for s in (c.before, c.after) if s is not None]
        self.context.state_reader.refresh_snapshot_intervals(changed)
        return found

    @cached_property
    def after_by_name(self) -> dict[str, Snapshot]:
        """What the environment runs."""
        return {s.name: s for s in self.plan.snapshots.values()}

    @cached_property
    def before_by_name(self) -> dict[str, Snapshot]:
        """What production runs, and what is new."""
        return {**self.after_by_name, **{c.before.name: c.before for c in self.changes if c.before}}

    @cached_property
    def index(self) -> DeployabilityIndex:
        """Which models of the environment are previews, in a table of their own."""
        return DeployabilityIndex.create(self.plan.snapshots)

    def table_before(self, change: Change) -> str | None:
        """Production's table of a model, if it has one that holds data."""
        found = change.before
        return found.table_name() if found and (found.intervals or found.is_seed) else None

    def table_after(self, change: Change) -> str | None:
        """The environment's."""
        found = change.after
        return (
            found.table_name(is_deployable=self.index.is_representative(found)) if found else None
        )

    def is_same_table(self, change: Change) -> bool:
        """Whether both show one table; a view may differ though it has the same name."""
        names = (self.table_before(change), self.table_after(change))
        return change.before is not None and names[0] == names[1]

    def is_preview(self, change: Change) -> bool:
        """Whether the environment has a table of its own for a look at a forward-only change."""
        return change.after is not None and not self.index.is_representative(change.after)

    def done(self, snapshot: Snapshot, *, is_before: bool) -> list[Interval]:
        """The time of which a table holds data."""
        is_preview = not is_before and not self.index.is_representative(snapshot)
        return merged(snapshot.dev_intervals if is_preview else snapshot.intervals)

    def common_part(self, change: Change) -> Part | None:
        """What of both has to do with each other: the time that both have; None for all."""
        if self.is_preview(change):
            return self._previewed(change)
        spans = self._spans(change)
        if spans is None or spans[0] == spans[1]:
            return None
        low = max(span[0][0] for span in spans)
        high = min(span[-1][1] for span in spans)
        return self._part(change, (low, max(low, high)))

    def _previewed(self, change: Change) -> Part | None:
        """The time that the preview holds, by its own rows: SQLMesh records more as done for it."""
        name = self.table_after(change)
        if change.after is None or change.after.model.time_column is None or name is None:
            return None
        column = change.after.model.time_column.column
        bounds = [
            exp.select(bound(this=column.copy())).from_(exp.to_table(name))
            for bound in (exp.Min, exp.Max)
        ]
        adapter = self.context.snapshot_evaluator.get_adapter(change.after.model_gateway)
        low, high = (adapter.fetchone(b.copy(), quote_identifiers=True) for b in bounds)
        first, last = (
            str(found[0]) if found and found[0] is not None else "" for found in (low, high)
        )
        where = exp.and_(
            exp.GTE(this=column.copy(), expression=bounds[0].subquery()),
            exp.LTE(this=column.copy(), expression=bounds[1].subquery()),
        )
        return Part(f"{first} to {last}" if first else "nothing", where)

    def newest_part(self, change: Change) -> Callable[[float], Part] | None:
        """Gives the newest share of the time that both have; None of what has no time."""
        spans = self._spans(change)
        if spans is None:
            return None
        low, high = max(s[0][0] for s in spans), min(s[-1][1] for s in spans)
        assert change.after is not None
        unit = change.after.node.interval_unit

        def newest(share: float) -> Part:
            begin = high - max(int((high - low) * share), 1)
            floor = milliseconds(unit.cron_floor(utc(begin))) if unit else begin
            return self._part(change, (max(low, floor), high))

        return newest

    def notes(self, change: Change) -> Iterator[str]:
        """What a reader has to know of a preview."""
        if change.after is None or not self.is_preview(change):
            return
        yield (
            "A preview, of some days: the change is forward-only, so that production's history stays as"
            " it is."
        )

    def made_of(self, model: str, column: str) -> Iterator[tuple[str, str]]:
        """Pairs of model and column that a column is made of, however far upstream."""
        seen: set[tuple[str, str]] = set()
        left = [(fqn, column) for fqn in self._fqns.get(model, ())]
        while left:
            fqn, name = left.pop()
            for source in self._lineage(fqn, name):
                if source not in seen:
                    seen.add(source)
                    left.append(source)
                    yield plain(source[0]), source[1]

    def _lineage(self, fqn: str, column: str) -> ColumnSources:
        columns = self._lineages.get(fqn, {})
        return next((found for c, found in columns.items() if c.lower() == column.lower()), ())

    @cached_property
    def _lineages(self) -> dict[str, dict[str, ColumnSources]]:
        names = {c.after.name for c in self.changes if c.after}
        names |= {up for name in names for up in self.context.dag.upstream(name)}
        models = {fqn: model for fqn, model in self.context.models.items() if fqn in names}
        return {fqn: dict(columns) for fqn, columns in column_lineages(models).items()}

    @cached_property
    def _fqns(self) -> dict[str, list[str]]:
        return {plain(fqn): [fqn] for fqn in self.context.models}

    def _spans(self, change: Change) -> tuple[list[Interval], list[Interval]] | None:
        if change.before is None or change.after is None:
            return None
        if change.before.model.time_column is None or change.after.model.time_column is None:
            return None
        before = self.done(change.before, is_before=True)
        after = self.done(change.after, is_before=False)
        return (before, after) if before and after else None

    def _part(self, change: Change, span: Interval) -> Part:
        assert change.after is not None
        model = change.after.model
        assert model.time_column is not None
        column = model.time_column.column
        low, high = (model.convert_to_time_column(bound, model.columns_to_types) for bound in span)
        where = exp.and_(exp.GTE(this=column, expression=low), exp.LT(this=column, expression=high))
        return Part(in_words([span]), where)


def key_of(snapshot: Snapshot) -> tuple[str, ...]:
    """The columns that tell a model's rows apart: its grain, or the unique key of its kind."""
    model = snapshot.model
    names = [exp.to_column(text, dialect=model.dialect).name for text in model.on]
    if not names and all(isinstance(each, exp.Column) for each in model.unique_key):
        names = [each.name for each in model.unique_key]
        names += ["valid_from"] if model.kind.is_scd_type_2 else []
    return tuple(names)


def _has_a_table(snapshot: Snapshot | None) -> bool:
    return snapshot is not None and snapshot.is_model and not snapshot.is_symbolic
