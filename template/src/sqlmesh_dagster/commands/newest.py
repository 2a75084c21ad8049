"""What the newest run of the instance did, wherever it was launched."""

from __future__ import annotations

from pathlib import Path

from sqlmesh_dagster.commands.following import past_run
from sqlmesh_dagster.commands.report import asset_line, ending, total
from sqlmesh_dagster.commands.screen import Screen
from sqlmesh_dagster.guard.instance import opened_instance


def show_newest(root: Path) -> int:
    """Prints it; 1 if there is no run.

    Raises:
        InstanceError: The instance does not open.
    """
    screen = Screen("Reading")
    with opened_instance() as instance:
        records = instance.get_run_records(limit=1)
        if not records:
            screen.say("There is no run yet.")
            return 1
        run, progress = records[0].dagster_run, past_run(instance, records[0].dagster_run, root)
    for line in progress.lines.values():
        screen.say(asset_line(line, progress.width))
    for page in progress.plans:
        screen.page(page)
    for text in ending(progress):
        screen.say(text)
    screen.say("")
    if run.is_finished:
        screen.say(total(progress, run.run_id, is_success=run.is_success))
    else:
        screen.say(
            f"Run {run.run_id[:8]} is not finished: {progress.total_text or run.status.value}."
        )
    return 0
