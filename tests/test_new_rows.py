"""`poe run` does what its help says: after it, the marts agree with the raw files, whatever was added."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from tests.conftest import Render
from tests.instance import instance_of

pytestmark = [pytest.mark.generated, pytest.mark.usefixtures("warm_processes")]

_ROWS = {
    "customers": ["9001,Ines Vidal,ines.vidal@example.com,true,2025-03-01"],
    "repair_jobs": ["99001,STA,9001,PUNCT,city,false,2025-01-20 09:00:00"],
    "job_events": [
        "990001,99001,checked_in,Priya Nair,2025-01-30 08:00:00",
        "990002,99001,started,Priya Nair,2025-01-30 10:00:00",
        "990003,99001,finished,Priya Nair,2025-01-31 18:00:00",
        "990004,99001,collected,Priya Nair,2025-02-03 09:00:00",
    ],
    "job_parts": ["990001,99001,TUB-01,2,6.50,2.10,2025-01-31 11:00:00"],
    "parts": ["NEW-01,Bell,accessories,1.00,4.00"],
    "payments": ["990001,99001,STA,balance,card,22.50,2025-02-03 09:00:00"],
}
"""A repair in the past, and everything that belongs to it: 12 euros of work and 13 of parts, less 10 %."""
_MARTS = (
    "customer_value",
    "daily_revenue",
    "monthly_finance",
    "part_sales",
    "repair_turnaround",
    "workshop_demand",
)


class _Platform:
    """A generated project with a warehouse and a history of its own."""

    def __init__(self, root: Path, home: Path) -> None:
        self.root = root
        self.warehouse = home / "warehouse.duckdb"
        self.home = home / "dagster_home"
        shutil.copytree(root / "dagster_home", self.home)

    def run(self) -> str:
        """What `poe run` prints, with this warehouse and history."""
        tools = Path(sys.executable).parent
        environment = {
            **os.environ,
            "PATH": os.pathsep.join([str(tools), os.environ["PATH"]]),
            "PYTHONPATH": str(self.root / "src"),
            "WAREHOUSE_PATH": str(self.warehouse),
            "DAGSTER_HOME": str(self.home),
            "MAX_FORK_WORKERS": "1",
        }
        done = subprocess.run(
            # `poe run`, but for the home
            [sys.executable, "-m", "sqlmesh_dagster.commands", "run"],
            cwd=self.root,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def built(self) -> set[str]:
        """What SQLMesh built in the newest run."""
        with instance_of(self.home) as instance:
            run = instance.get_run_records(limit=1)[0].dagster_run
            events = [e.dagster_event for e in instance.all_logs(run.run_id) if e.dagster_event]
        return {
            event.asset_key.path[-1]
            for event in events
            if event.is_step_materialization
            and event.asset_key
            and "sqlmesh/batches" in event.materialization.metadata
        }

    def mart(self, name: str) -> list[tuple[object, ...]]:
        """All rows, sorted."""
        with duckdb.connect(str(self.warehouse), read_only=True) as connection:
            return connection.execute(
                f"SELECT * FROM warehouse.marts__dev.{name} ORDER BY ALL"
            ).fetchall()


def test_rows_that_are_added_to_the_raw_files_reach_every_mart(
    render: Render, tmp_path: Path
) -> None:
    """A run without any flag gives what a build from nothing gives; and the same files build nothing."""
    root = shutil.copytree(render(), tmp_path / "project")
    platform = _Platform(root, tmp_path / "grown")
    platform.run()
    before = {name: platform.mart(name) for name in _MARTS}
    platform.run()
    assert platform.built() == set()

    for name, rows in _ROWS.items():
        with (root / "data" / "raw" / f"{name}.csv").open("a") as file:
            file.writelines(f"{row}\n" for row in rows)
    platform.run()
    fresh = _Platform(root, tmp_path / "fresh")
    fresh.run()

    for name in _MARTS:
        assert platform.mart(name) == fresh.mart(name) != before[name], name
    platform.run()
    assert platform.built() == set()
