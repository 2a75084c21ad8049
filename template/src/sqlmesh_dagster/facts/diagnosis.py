"""What `poe doctor` has found: plain data, a line for each, and the exit status."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

_MOST_SKEW = timedelta(seconds=30)
"""SQLMesh asks its own clock which intervals are due; the least is five minutes."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        subject: What, in a word or two.
        said: What was found, or the error.
        remedy: What to do; empty if it is well.
    """

    subject: str
    said: str
    remedy: str = ""

    @property
    def line(self) -> str:
        """For a terminal."""
        word = "FAIL" if self.remedy else "ok"
        text = " ".join(self.said.split())
        return f"{word:<5}{self.subject:<11}{text}{f' → {self.remedy}' if self.remedy else ''}"


def exit_status(findings: Iterable[Finding]) -> int:
    """1 if something has a remedy."""
    return int(any(finding.remedy for finding in findings))


def clocks(here: datetime, there: datetime) -> Finding:
    """Whether two clocks agree: this machine's and the warehouse's."""
    skew = abs(here - there)
    said = f"{skew.total_seconds():.0f} s between this machine and the warehouse"
    remedy = (
        "Set the clock of the machine that is wrong, such as by NTP: what is due depends on it."
    )
    return Finding("time", said, remedy if skew > _MOST_SKEW else "")


def state_version(project: str, state: str | None, command: str) -> Finding:
    """Whether the SQLMesh of this project can work with the one that wrote the state last.

    Args:
        state: Its version; None where there is no state yet.
    """
    if state is None:
        return Finding("state", "none yet; the first run or plan makes it")
    if _release(state) == _release(project):
        return Finding("state", f"written by SQLMesh {state}")
    said = f"written by SQLMesh {state}, and this is {project}"
    if _release(state) < _release(project):
        return Finding("state", said, f"Run `{command} migrate`, once, while nothing runs.")
    return Finding("state", said, f"Install `sqlmesh=={state}`.")


def _release(version: str) -> tuple[int, ...]:
    """What decides of a version: the patch does not change the state."""
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
