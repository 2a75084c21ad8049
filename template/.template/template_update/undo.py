"""Undo an update, as long as it is not committed."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from template_update import answers, ownership, stops
from template_update.errors import Refused
from template_update.git import Project
from template_update.journal import UNKNOWN, Journal, Notes, digest
from template_update.trees import File, Tree, move, read, remove, write


@dataclass(frozen=True)
class Undone:
    """What was restored, and where later work on the same files is kept."""

    paths: list[str]
    kept: Path | None


@dataclass(frozen=True)
class _Path:
    """A path that an update wrote, or was about to."""

    path: str
    now: File | None
    before: File | None
    old: Path | None
    """Where the file is that was replaced, if the update had replaced it."""
    written: str

    @property
    def is_the_updates(self) -> bool:
        """Whether the file is what the update wrote."""
        return self.written in (digest(self.now), UNKNOWN) and self.now != self.before

    @property
    def is_later_work(self) -> bool:
        """Whether the file is neither as before nor what the update wrote."""
        return self.now not in (None, self.before) and digest(self.now) != self.written


def undo(project: Project) -> Undone:
    """Put back each file that the last update wrote, and no other.

    Raises:
        Refused: There is no update to undo, or it is committed.
    """
    journal = Journal.of(project)
    with journal.locked():
        notes = journal.read()
        if notes is None:
            raise Refused("There is no update to undo here.")
        if project.head() != notes.head:
            raise Refused(
                "There are commits since the update, or another branch is checked out. If the update"
                " is committed, undo it with `git revert`."
            )
        if not any(path.is_the_updates for path in _paths(project, journal, notes)):
            raise Refused(
                "None of the files is as the last update wrote it, so there is nothing to undo."
            )
        with stops.ignored():
            project.reset_index(_known(project, notes).written)
            undone = _put_back(project, journal, notes)
            journal.close()
    return undone


def take_back(project: Project, journal: Journal, notes: Notes, in_index: Iterable[str]) -> None:
    """Undo an update that fails or is stopped; a second Ctrl-C does not stop it halfway.

    Args:
        in_index: Paths whose index the update may have changed.
    """
    with stops.ignored():
        _put_back(project, journal, notes)
        with suppress(Refused):  # it may be the index that cannot be written
            project.reset_index(in_index)
        journal.close()


def _put_back(project: Project, journal: Journal, notes: Notes) -> Undone:
    """Restore every file that the update wrote; later work on it is copied to git's folder."""
    todo = [path for path in _paths(project, journal, notes) if _is_due(path, notes)]
    kept = journal.keep(
        {path.path: project.root / path.path for path in todo if path.is_later_work}
    )
    for path in todo:
        if path.old and not notes.is_finished:
            move(path.old, project.root / path.path)  # also on a disk that is full
        elif path.before:
            write(project.root / path.path, path.before)
        else:
            remove(project.root, path.path)
    return Undone(sorted(path.path for path in todo), kept)


def _is_due(path: _Path, notes: Notes) -> bool:
    """Whether a file is to be restored: of an update that was stopped, only what it had written."""
    if path.now == path.before:
        return False
    return notes.is_finished or path.is_the_updates or path.old is not None


def _paths(project: Project, journal: Journal, notes: Notes) -> list[_Path]:
    written = _known(project, notes).written
    committed = project.as_checked_out(project.files(written))
    return [
        _path(project.root, journal, committed, path, digest_)
        for path, digest_ in sorted(written.items())
    ]


def _path(root: Path, journal: Journal, committed: Tree, path: str, written: str) -> _Path:
    old = journal.old(path)
    now, before = read(root / path), read(old) if old else committed.get(path)
    return _Path(path, now, before, old, written)


def _known(project: Project, notes: Notes) -> Notes:
    """The notes; of a stopped update by 0.2.0, which noted no paths, with all paths that changed."""
    if notes.written or notes.is_finished:
        return notes
    root = project.root
    text = (root / ownership.NAME).read_text(encoding="utf-8")
    owners = ownership.parse(text, answers.read(root).answers.get("package_name", ""))
    paths = (path for path in project.changed() if not owners.is_owned_by("yours", path))
    return Notes(notes.head, dict.fromkeys(paths, UNKNOWN), is_finished=True)
