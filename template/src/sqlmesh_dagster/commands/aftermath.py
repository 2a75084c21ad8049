"""What became of a run whose process ended before it could say so."""

from __future__ import annotations

from pathlib import Path

import dagster as dg

from sqlmesh_dagster.commands.following import past_run, run_of
from sqlmesh_dagster.commands.progress import LaunchedRun, RunProgress
from sqlmesh_dagster.guard.instance import opened_instance, unreadable
from sqlmesh_dagster.guard.secrets import learn_of_project, mask
from sqlmesh_dagster.layout import project_folder
from sqlmesh_dagster.upstream.dagster import end_dead_run

_LAST_LINES = 20


def ended_without_a_word(launch: str, root: Path, exit_code: int, output: Path) -> LaunchedRun:
    """The run as the instance knows it; one that is still open is ended, so that nothing waits for it.

    Args:
        launch: Of the request.
        output: What the process printed.
    """
    learn_of_project(Path(project_folder()))
    try:
        with opened_instance() as instance:
            return _as_recorded(instance, launch, root, exit_code, output)
    except Exception as error:  # whatever the storage's driver raises
        said = f"The run's process ended with exit code {exit_code}, and nothing can be read of it."
        return LaunchedRun(None, False, RunProgress(), f"{said} {mask(unreadable(error))}")


def _as_recorded(
    instance: dg.DagsterInstance, launch: str, root: Path, exit_code: int, output: Path
) -> LaunchedRun:
    run = run_of(instance, launch)
    if run is None:
        return LaunchedRun(None, False, RunProgress(), _why_not_started(exit_code, output))
    progress, error = past_run(instance, run, root), None
    if not run.is_finished:
        error = f"The run's process ended with exit code {exit_code} before the run did."
        end_dead_run(instance, run, error)
    return LaunchedRun(run.run_id, run.is_success, progress, error)


def _why_not_started(exit_code: int, output: Path) -> str:
    lines = output.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    last = mask("".join(lines[-_LAST_LINES:]))
    return f"The run's process ended with exit code {exit_code}.\n{last}".strip()
