"""What `poe doctor` says of what it has found."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from sqlmesh_dagster.facts.diagnosis import Finding, clocks, exit_status, state_version

_NOW = datetime(2025, 6, 1, tzinfo=timezone.utc)


def test_a_line_says_what_is_well_or_what_to_do() -> None:
    """Promise: one line each, also of an error of several lines; the exit status tells machines."""
    well = Finding("warehouse", "postgres at db answers")
    down = Finding("state", "OperationalError: connection\n  refused", "Start it.")
    assert well.line == "ok   warehouse  postgres at db answers"
    assert down.line == "FAIL state      OperationalError: connection refused → Start it."
    assert (exit_status([well]), exit_status([well, down])) == (0, 1)


@pytest.mark.parametrize(
    ("seconds", "is_well"), [(0, True), (-29, True), (30, True), (31, False), (-90, False)]
)
def test_clocks_that_differ_are_told(seconds: int, is_well: bool) -> None:
    """Promise: in either direction, beyond what a network takes."""
    found = clocks(_NOW, _NOW + timedelta(seconds=seconds))
    assert found.subject == "time"
    assert found.said == f"{abs(seconds)} s between this machine and the warehouse"
    wrong = "Set the clock of the machine that is wrong, such as by NTP: what is due depends on it."
    assert found.remedy == ("" if is_well else wrong)


@pytest.mark.parametrize(
    ("state", "remedy"),
    [
        (None, ""),
        ("0.236.1", ""),
        ("0.99.0", "Run `sqlmesh -p sqlmesh_project migrate`, once, while nothing runs."),
        ("0.236.9", ""),
        ("0.240.0", "Install `sqlmesh==0.240.0`."),
        ("1.0.0", "Install `sqlmesh==1.0.0`."),
    ],
)
def test_a_state_of_another_sqlmesh_is_told(state: str | None, remedy: str) -> None:
    """Promise: an older one is migrated, a newer one needs its SQLMesh; numbers are no texts."""
    found = state_version("0.236.4", state, "sqlmesh -p sqlmesh_project")
    assert (found.subject, found.remedy) == ("state", remedy)
    others = f"written by SQLMesh {state}, and this is 0.236.4"
    well = f"written by SQLMesh {state}" if state else "none yet; the first run or plan makes it"
    assert found.said == (others if remedy else well)
