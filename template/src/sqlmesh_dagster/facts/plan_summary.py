"""What a plan would do, as plain data, and as Markdown for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sqlmesh_dagster.definition.markdown import cell, counted, fenced, shortened

_MOST_ROWS = 200
_MOST_DIFF_LINES = 200
_MOST_DIFFS = 50


@dataclass(frozen=True)
class PlannedChange:
    """A model, or a standalone audit, that differs from what the environment has.

    Attributes:
        kind: `added`, `removed`, `modified`, `modified indirectly` or `metadata`.
        category: Of an added or modified model, e.g. `breaking` or `indirect non-breaking`.
        diff: Unified diff of the definitions; empty where SQLMesh has none.
    """

    name: str
    kind: str
    category: str = ""
    diff: str = ""


@dataclass(frozen=True)
class PlannedBackfill:
    """What is to be built of a model.

    Attributes:
        intervals: How many; None for what is built as a whole.
        what: The missing intervals in words, `full refresh`, or `recreate view`.
        is_preview: Whether it is for this environment alone, and built again in production.
    """

    name: str
    what: str
    intervals: int | None = None
    is_preview: bool = False


@dataclass(frozen=True)
class PlanSummary:
    """A plan.

    Attributes:
        is_empty: Whether there is nothing to do.
        other_diffs: Pairs of a title and a diff of what is no model, e.g. `before_all` statements.
    """

    environment: str
    plan_id: str
    is_new: bool
    is_empty: bool
    create_from: str | None
    changes: tuple[PlannedChange, ...] = ()
    backfills: tuple[PlannedBackfill, ...] = ()
    other_diffs: tuple[tuple[str, str], ...] = ()
    unit_tests: int = 0
    is_recreated: bool = False

    @property
    def markdown(self) -> str:
        """All of it; long tables and diffs are cut."""
        return "\n\n".join(self._sections())

    def _sections(self) -> Iterator[str]:
        yield f"## Plan of environment `{self.environment}`"
        yield self._introduction()
        if self.changes:
            yield "### Changes"
            yield table(
                ("model", "change", "category"),
                [(c.name, c.kind, c.category) for c in self.changes],
            )
        if self.backfills:
            yield "### To build"
            yield table(
                ("model", "missing intervals", "number", ""),
                [
                    (b.name, b.what, str(b.intervals or ""), "preview" if b.is_preview else "")
                    for b in self.backfills
                ],
            )
        yield from self.text_diffs()

    def text_diffs(self) -> Iterator[str]:
        """Sections of Markdown: what changes in the text of each model, and of what is none."""
        diffs = [(f"`{c.name}`", c.diff) for c in self.changes if c.diff]
        diffs += list(self.other_diffs)
        if diffs:
            yield "### Text diffs"
        for title, diff in diffs[:_MOST_DIFFS]:
            lines = shortened(diff.strip("\n").splitlines(), _MOST_DIFF_LINES, "lines")
            yield f"{title}\n\n" + fenced("\n".join(lines), "diff")
        if len(diffs) > _MOST_DIFFS:
            yield f"… and {len(diffs) - _MOST_DIFFS} more diffs"

    def _introduction(self) -> str:
        new = "It does not exist yet"
        if self.is_new and self.create_from:
            new += f", and begins as `{self.create_from}`"
        state = f"{new}." if self.is_new else "It exists."
        if self.is_recreated:
            origin = f" from `{self.create_from}`" if self.create_from else ""
            state = f"It exists, and the project's `always_recreate_environment` makes it again{origin}."
        nothing = " There is nothing to do." if self.is_empty else ""
        return f"{state} {counted(self.unit_tests, 'unit test')} passed.{nothing}"


def table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A table of Markdown; its end is cut off where it is long."""
    lines = ["| " + " | ".join(cell(text) for text in row) + " |" for row in rows[:_MOST_ROWS]]
    head = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    more = [f"\n… and {len(rows) - _MOST_ROWS} more"] if len(rows) > _MOST_ROWS else []
    return "\n".join([*head, *lines, *more])
