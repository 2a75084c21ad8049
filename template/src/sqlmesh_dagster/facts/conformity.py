"""What two ways to build a project have made, compared: plain data, and a table of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

_MOST = 5
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
    """A project that was built both ways."""

    name: str
    alone: Way
    integrated: Way

    @property
    def differing_rows(self) -> list[str]:
        """Models whose views hold other rows."""
        return _different(*(way.held.rows if way.held else {} for way in self._ways))

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
                shown = ", ".join(name.replace('"', "") for name in names[:_MOST])
                yield f"{what} of {shown}{', …' if len(names) > _MOST else ''}"

    def cells(self) -> Iterator[str]:
        """Its row of the table."""
        alone, ours = self.alone.held, self.integrated.held
        rows = len(alone.rows) if alone else 0
        spans = len(alone.intervals) if alone else 0
        yield from (self.name, str(alone.models if alone else "-"), str(self.integrated.assets))
        yield from (str(alone.audits if alone else "-"), str(self.integrated.checks))
        yield f"{rows - len(self.differing_rows)} of {rows}" if alone and ours else "-"
        yield f"{spans - len(self.differing_intervals)} of {spans}" if alone and ours else "-"
        yield from (f"{self.alone.cpu:.1f}", f"{self.integrated.cpu:.1f}")
        found = list(self.differences())
        problem = self.integrated.problem or self.alone.problem
        if problem:
            is_in_both = self.integrated.problem and self.alone.problem
            found.append(f"{'both fail: ' if is_in_both else ''}{_short(problem)}")
        yield "; ".join(found) or "nothing"


def table(found: Sequence[Conformity]) -> str:
    """A Markdown table, a row for each project."""
    lines = [list(conformity.cells()) for conformity in found]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |"
        for line in [list(_HEADER), ["---"] * len(_HEADER), *lines]
    )


def _different(one: Mapping[str, object], other: Mapping[str, object]) -> list[str]:
    return sorted(n for n in one.keys() | other.keys() if one.get(n) != other.get(n))


def _short(problem: str, most: int = 160) -> str:
    text = " ".join(problem.split())
    return text if len(text) <= most else f"{text[:most]}…"
