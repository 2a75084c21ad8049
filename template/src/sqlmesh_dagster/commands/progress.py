"""What a command knows of one run: plain data, which needs no Dagster and goes through a file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from typing import Any

FAILED, STOPPED, SKIPPED, IDLE = "FAILED", "stopped", "skipped", "up to date"


@dataclass(frozen=True)
class AssetLine:
    """What became of one asset.

    Attributes:
        name: The asset's key, as in the UI.
        number: Of all that the run has ended so far.
        total: Assets that the run takes.
        details: `68 rows`, `0.1 s`, `3 of 3 checks passed`.
    """

    name: str
    status: str
    number: int
    total: int
    details: tuple[str, ...] = ()

    @classmethod
    def from_data(cls, given: Mapping[str, Any]) -> AssetLine:
        """From the other process."""
        return cls(**{**given, "details": tuple(given["details"])})


@dataclass(frozen=True)
class Problem:
    """A message, once, with all that it is about.

    Attributes:
        names: Asset keys or steps.
        place: File and line to open, where they are known.
    """

    message: str
    names: tuple[str, ...]
    place: str | None = None


@dataclass
class RunProgress:
    """The state of one run, up to now.

    Attributes:
        lines: Of the assets that have ended, by name, in their order.
        stale: Models that are behind their inputs.
        plans: Pages that the run shows, as Markdown.
        facts: Metadata of what the run's steps put out.
        next_due: Seconds since the epoch.
        total: Assets that the run takes.
        width: Of the longest name.
    """

    lines: dict[str, AssetLine] = field(default_factory=dict)
    errors: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    stale: list[Problem] = field(default_factory=list)
    plans: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    next_due: float | None = None
    total: int = 0
    width: int = 0
    checks: int = 0
    checks_passed: int = 0
    was_stopped: bool = False

    @property
    def total_text(self) -> str:
        """`6 materialized, 17 up to date (next due 2026-11-27 00:00 UTC), 66 of 67 checks passed`."""
        parts = [
            f"{count} {'failed' if status == FAILED else status}"
            + (f" (next due {_utc(self.next_due)})" if status == IDLE and self.next_due else "")
            for status, count in Counter(line.status for line in self.lines.values()).items()
        ]
        if self.checks:
            parts.append(f"{self.checks_passed} of {self.checks} checks passed")
        return ", ".join(parts)

    def to_data(self) -> dict[str, Any]:
        """For the other process."""
        return asdict(self)

    @classmethod
    def from_data(cls, given: Mapping[str, Any]) -> RunProgress:
        """From the other process."""
        lines = {name: AssetLine.from_data(line) for name, line in given["lines"].items()}
        problems = {
            kind: [Problem(**{**one, "names": tuple(one["names"])}) for one in given[kind]]
            for kind in ("errors", "warnings", "stale")
        }
        return cls(**{**given, "lines": lines, **problems})


@dataclass(frozen=True)
class LaunchedRun:
    """A run that has ended, or why there is none.

    Attributes:
        run_id: None if the run could not begin.
        error: Why there is no run, or why it ended without an end of its own.
    """

    run_id: str | None
    is_success: bool
    progress: RunProgress
    error: str | None = None


def _utc(epoch: float) -> str:
    return f"{datetime.fromtimestamp(epoch, timezone.utc):%Y-%m-%d %H:%M} UTC"
