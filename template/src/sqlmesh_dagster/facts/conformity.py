"""Compares the results of two ways to build a project: plain data, and a table for people."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

_MOST = 5
_SHOWN = 160
"""Characters of a problem that stand in the table."""
_HEADER = (
    *("project", "models", "assets", "audits", "checks", "rows equal", "intervals equal"),
    *("CPU s alone", "CPU s in Dagster", "what differs"),
)


@dataclass(frozen=True)
class Held:
    """What production holds.

    Attributes:
        rows: Number and digest of the rows of each model's view.
        intervals: Of each model, those that are done.
    """

    rows: Mapping[str, str]
    intervals: Mapping[str, Sequence[Sequence[int]]]
    models: int
    audits: int


@dataclass(frozen=True)
class Way:
    """One way to build a project.

    Attributes:
        problem: Why it failed, as a whole or for some models.
    """

    held: Held | None
    cpu: float
    assets: int = 0
    checks: int = 0
    problem: str | None = None


@dataclass(frozen=True)
class Conformity:
    """A project that was built both ways.

    Attributes:
        again: By SQLMesh alone once more, if rows differ: what differs then too is of chance.
    """

    name: str
    alone: Way
    integrated: Way
    again: Way | None = None

    @property
    def differing_rows(self) -> list[str]:
        """Models whose views hold other rows, though SQLMesh alone builds the same each time."""
        found = _different(*(way.held.rows if way.held else {} for way in self._ways))
        return [name for name in found if name not in self.chance]

    @property
    def chance(self) -> list[str]:
        """Models of which SQLMesh alone builds other rows each time, such as random ones."""
        one, other = self.alone.held, self.again.held if self.again else None
        return _different(one.rows, other.rows) if one and other else []

    @property
    def differing_intervals(self) -> list[str]:
        """Models of which other intervals are done."""
        return _different(*(way.held.intervals if way.held else {} for way in self._ways))

    @property
    def is_equal(self) -> bool:
        """Whether both ways made the same, and each model is an asset and each audit a check."""
        return not list(self.differences())

    @property
    def _ways(self) -> tuple[Way, Way]:
        return self.alone, self.integrated

    def differences(self) -> Iterator[str]:
        """What differs, and why, as far as it is known."""
        alone, ours = self.alone.held, self.integrated.held
        if (self.alone.problem is None) != (self.integrated.problem is None):
            yield f"only {'SQLMesh alone' if self.alone.problem else 'Dagster'} fails"
        if alone and ours and alone.models != self.integrated.assets:
            yield f"{alone.models} models, {self.integrated.assets} assets"
        if alone and ours and alone.audits != self.integrated.checks:
            yield f"{alone.audits} audits, {self.integrated.checks} checks"
        for what, names in (
            ("rows", self.differing_rows),
            ("intervals", self.differing_intervals),
        ):
            if names:
                yield f"{what} of {_listed(names)}"

    def problems(self) -> Iterator[tuple[str, str]]:
        """Which way failed, and why; one that is the same in both, once."""
        alone, ours = self.alone.problem, self.integrated.problem
        if alone:
            yield "SQLMesh alone", alone
        if ours and ours != alone:
            yield "in Dagster", ours

    def cells(self) -> Iterator[str]:
        """Its row of the table."""
        alone, ours = self.alone.held, self.integrated.held
        yield from (self.name, str(alone.models if alone else "-"), str(self.integrated.assets))
        yield from (str(alone.audits if alone else "-"), str(self.integrated.checks))
        for names, differing in (
            ({*alone.rows} - {*self.chance} if alone else set(), self.differing_rows),
            ({*alone.intervals} if alone else set(), self.differing_intervals),
        ):
            yield f"{len(names - {*differing})} of {len(names)}" if alone and ours else "-"
        yield from (f"{self.alone.cpu:.1f}", f"{self.integrated.cpu:.1f}")
        found = list(self.differences())
        problem = self.integrated.problem or self.alone.problem
        if problem:
            is_in_both = self.integrated.problem and self.alone.problem
            found.append(f"{'both fail: ' if is_in_both else ''}{_short(problem)}")
        if self.chance:
            found.append(f"other rows each time, by SQLMesh alone too: {_listed(self.chance)}")
        yield "; ".join(found) or "nothing"


def table(found: Sequence[Conformity]) -> str:
    """A Markdown table, a row for each project."""
    lines = [list(conformity.cells()) for conformity in found]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |"
        for line in [list(_HEADER), ["---"] * len(_HEADER), *lines]
    )


def causes(found: Sequence[Conformity]) -> str:
    """Whole messages of what failed, of which the table has only the beginning; empty if nothing did."""
    return "".join(
        f"\n{conformity.name}, {how}:\n{textwrap.indent(problem.strip(), '    ')}\n"
        for conformity in found
        for how, problem in conformity.problems()
        if len(" ".join(problem.split())) > _SHOWN
    )


def _different(one: Mapping[str, object], other: Mapping[str, object]) -> list[str]:
    return sorted(n for n in one.keys() | other.keys() if one.get(n) != other.get(n))


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(name.replace('"', "") for name in names[:_MOST])
    return f"{shown}{', …' if len(names) > _MOST else ''}"


def _short(problem: str, most: int = _SHOWN) -> str:
    text = " ".join(problem.split())
    return text if len(text) <= most else f"{text[:most]}…"
