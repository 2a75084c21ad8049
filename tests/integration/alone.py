"""SQLMesh alone on a copy of a project: what it evaluates, and what is done then."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlmesh import Context
from sqlmesh.core.console import NoopConsole, set_console
from sqlmesh.utils.errors import SQLMeshError
from tests.sqlmesh_dagster.projects import NOW, Project

Done = Mapping[str, Sequence[tuple[int, int]]]


class Heard(NoopConsole):
    """What SQLMesh's scheduler evaluates, by the last part of the name."""

    def __init__(self) -> None:
        self.evaluated: list[str] = []
        self.failed_audits: dict[str, int] = {}

    def start_snapshot_evaluation_progress(self, snapshot: Any, audit_only: bool = False) -> None:
        """Records a batch that begins."""
        self.evaluated.append(_last(snapshot.name))

    def update_snapshot_evaluation_progress(self, snapshot: Any, *args: Any, **kwargs: Any) -> None:
        """Records how many audits of a batch that was built found rows; of one that failed, none are told."""
        self.failed_audits[_last(snapshot.name)] = args[4] if len(args) > 4 else 0


def copied(project: Project, folder: Path) -> Project:
    """The project with its database as it stands, in another folder."""
    if folder.exists():
        shutil.rmtree(folder)
    shutil.copytree(project.root, folder, ignore=shutil.ignore_patterns(".cache"))
    for file in folder.glob("config.*"):
        file.write_text(file.read_text().replace(str(project.root), str(folder)))
    texts = {file: file.read_text() for file in folder.glob("config.*")}
    copy = Project(folder, dict(project.settings))
    for file, text in texts.items():
        file.write_text(text)
    return copy


def plan(
    project: Project, environment: str = "prod", at: str = NOW, **options: Any
) -> tuple[Heard, str | None]:
    """`sqlmesh plan --auto-apply --no-prompts`; with SQLMesh's words where it fails."""
    with _context(project) as (context, heard):
        try:
            context.plan(
                environment, auto_apply=True, no_prompts=True, execution_time=at, **options
            )
        except SQLMeshError as error:
            return heard, str(error)
    return heard, None


def run(project: Project, environment: str = "prod", at: str = NOW, **options: Any) -> Heard:
    """`sqlmesh run`."""
    with _context(project, load=False) as (context, heard):
        context.run(environment, execution_time=at, **options)
    return heard


def done(project: Project, environment: str = "prod") -> Done:
    """What the state has as done of all that an environment has, by the last part of the name."""
    with _context(project, load=False) as (context, _):
        found = context.state_reader.get_environment(environment)
        assert found is not None
        snapshots = context.state_reader.get_snapshots(found.snapshots).values()
        return {_last(s.name): list(s.intervals or s.dev_intervals) for s in snapshots}


@contextmanager
def _context(project: Project, **options: Any) -> Iterator[tuple[Context, Heard]]:
    heard = Heard()
    set_console(heard)
    context = Context(paths=str(project.root), **options)
    try:
        yield context, heard
    finally:
        context.close()
        context.engine_adapter.close()
        set_console(NoopConsole())


def _last(name: str) -> str:
    return name.split(".")[-1].strip('"')
