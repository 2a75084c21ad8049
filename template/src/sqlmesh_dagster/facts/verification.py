"""The results of SQLMesh's unit tests and linter, as plain data."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sqlmesh_dagster.definition.markdown import cell, counted, fenced


@dataclass(frozen=True)
class Finding:
    """A unit test that failed, or a rule of the linter that a model breaks.

    Attributes:
        model: The model's FQN.
        rule: Name of the test or of the rule.
        text: In SQLMesh's own words.
        is_error: Whether it stops a plan; the linter also warns.
        line: Line of the model's file, from 1, where the linter says so.
    """

    model: str
    rule: str
    text: str
    is_error: bool = True
    line: int | None = None


@dataclass(frozen=True)
class Verification:
    """The outcome of a project's unit tests and linter.

    Attributes:
        tests: Pairs of a model's FQN and how many unit tests it has.
        failures: Unit tests that failed.
        violations: What the linter found.
    """

    tests: tuple[tuple[str, int], ...] = ()
    failures: tuple[Finding, ...] = ()
    violations: tuple[Finding, ...] = ()

    @property
    def test_count(self) -> int:
        """How many unit tests ran."""
        return sum(count for _, count in self.tests)

    @property
    def errors(self) -> tuple[Finding, ...]:
        """What stops a plan."""
        return tuple(f for f in (*self.failures, *self.violations) if f.is_error)

    @property
    def markdown(self) -> str:
        """All of it, for the UI."""
        title = (
            f"{counted(self.test_count, 'unit test')} of {counted(len(self.tests), 'model')} ran."
        )
        rows = [
            "| model | found by | rule or test |  |",
            "|---|---|---|---|",
            *(_row(found, "unit test") for found in self.failures),
            *(_row(found, "linter") for found in self.violations),
        ]
        found = "\n".join(rows) if len(rows) > 2 else "Unit tests and linter found nothing."
        details = "\n\n".join(texts(self.failures))
        return "\n\n".join(part for part in (title, found, details) if part)


def texts(findings: Iterable[Finding]) -> Iterable[str]:
    """Each finding as a paragraph of Markdown."""
    for found in findings:
        place = f", line {found.line}" if found.line else ""
        yield f"`{_plain(found.model)}`{place}: `{found.rule}`\n\n{fenced(found.text)}"


def shown(findings: Iterable[Finding]) -> str:
    """Findings as plain text, for an error's message."""
    return "\n".join(f"`{_plain(f.model)}`: `{f.rule}`: {f.text}" for f in findings)


def _row(found: Finding, source: str) -> str:
    effect = "" if found.is_error else "warning"
    text = "" if source == "unit test" else cell(found.text)
    return f"| {cell(_plain(found.model))} | {source} | `{found.rule}` | {effect or text} |"


def _plain(fqn: str) -> str:
    return fqn.replace('"', "")
