"""What a terminal shows of a run: a line for each asset as it ends, then what is wrong, once, and a total."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from textwrap import indent

from sqlmesh_dagster.commands.progress import SKIPPED, AssetLine, RunProgress

_STATUS_WIDTH = len("materialized")
_MOST_NAMES = 5
_MOST_LINES = 24
"""Of one message; the run's log has the rest."""


def asset_line(line: AssetLine, width: int) -> str:
    """`[ 7/23] built         marts/part_sales  68 rows, 0.1 s`."""
    place = f"[{line.number:>{len(str(line.total))}}/{line.total}]"
    details = ", ".join(line.details)
    return f"{place} {line.status:<{_STATUS_WIDTH}}  {line.name:<{width}}  {details}".rstrip()


def ending(progress: RunProgress) -> Iterator[str]:
    """What is behind its inputs, what is wrong, and the skipped assets."""
    for title, problems in (
        ("Stale", progress.stale),
        ("Warnings", progress.warnings),
        ("Errors", progress.errors),
    ):
        if problems:
            yield f"\n{title}:"
            for (names, place), of_one in groupby(problems, key=attrgetter("names", "place")):
                if names:
                    yield f"  {_named(names)}{f'  ({place})' if place else ''}"
                for problem in of_one:
                    yield from _message(problem.message)
    skipped = [line.name for line in progress.lines.values() if line.status == SKIPPED]
    if skipped:
        why = "the run was stopped" if progress.was_stopped else "of what failed before them"
        yield f"\nNot built, because {why}: {_named(skipped)}."


def _message(text: str) -> Iterator[str]:
    lines = text.splitlines()
    shown = lines[:_MOST_LINES]
    yield indent("\n".join(shown), "    ")
    if len(lines) > len(shown):
        yield f"    … and {len(lines) - len(shown)} more lines in the run's log"


def _named(names: Sequence[str]) -> str:
    rest = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {rest} more" if rest > 0 else "")


def total(progress: RunProgress, run_id: str, *, is_success: bool) -> str:
    """The last line but the next step."""
    end = "succeeded" if is_success else "was stopped" if progress.was_stopped else "failed"
    facts = progress.total_text
    return f"Run {run_id[:8]} {end}{f': {facts}' if facts else ''}."


def next_step(root: Path, *, is_success: bool, was_stopped: bool = False) -> str:
    """What to do after a run of assets."""
    if is_success:
        done = "Done. Open the UI"
    elif was_stopped:
        done = "Not done. Run it again to go on; what was done is in the UI"
    else:
        done = "Not done. Repair what failed and run it again; the logs of its steps are in the UI"
    how = f"cd {root} && .venv/bin/poe dev  (or: uv run poe dev)"
    return f"{done} on http://localhost:3000:  {how}"
