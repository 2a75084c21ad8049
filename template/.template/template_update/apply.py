"""Writes an update into the project, all of it or nothing; files that changed meanwhile are kept."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from template_update import undo
from template_update.errors import Refused
from template_update.git import Project
from template_update.journal import Journal, Notes, digest
from template_update.look import Start
from template_update.merge import Stages
from template_update.trees import File, move, read_all, remove_empty_folders, write


@dataclass(frozen=True)
class Changes:
    """What an update writes, as it is to be on disk; None where it deletes."""

    files: Mapping[str, File | None]
    conflicts: Mapping[str, Stages] = field(default_factory=dict)


def apply(project: Project, journal: Journal, start: Start, changes: Changes) -> Path | None:
    """Write the changes; returns where files are kept that were edited meanwhile, if any were.

    Raises:
        Refused: A file has changed since the start; nothing has been written.
    """
    _refuse_fresh_work(project, start, changes)
    notes = Notes(start.head, {path: digest(file) for path, file in changes.files.items()})
    journal.begin(notes)
    try:
        kept = _write(project.root, journal, start, changes)
        project.mark_as_conflicts(changes.conflicts)
    except BaseException:
        undo.take_back(project, journal, notes, changes.conflicts)
        raise
    journal.write(replace(notes, is_finished=True))
    return kept


def _refuse_fresh_work(project: Project, start: Start, changes: Changes) -> None:
    now = read_all(project.root, changes.files)
    fresh = sorted(path for path in changes.files if now.get(path) != start.seen.get(path))
    if fresh:
        raise Refused(f"`{fresh[0]}` was changed while the update ran. Commit, and try again.")
    if project.head() != start.head:
        raise Refused("There was a commit while the update ran. Try again.")


def _write(root: Path, journal: Journal, start: Start, changes: Changes) -> Path | None:
    """First all new files next to the notes, where a full disk does no harm; then one by one."""
    for path, file in changes.files.items():
        if file is not None:
            write(journal.new(path), file)
    fresh = {}
    for path, file in changes.files.items():
        old = journal.put_old(root, path)
        if old != start.seen.get(path) and (place := journal.old(path)):
            fresh[path] = place
        if file is not None:
            move(journal.new(path), root / path)
        else:
            remove_empty_folders(root, path)
    return journal.keep(fresh)
