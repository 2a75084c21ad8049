"""Back to before an update, as long as it is not committed."""

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from template_update.errors import Refused
from template_update.git import Project
from template_update.trees import File, read, read_all, remove, write

_JOURNAL = "journal.json"


class _Notes(TypedDict):
    head: str
    ignored: list[str]
    """Files outside of git, which are stored beside the journal."""
    changed: dict[str, str] | None
    """A digest of each file that the update changed; None while it runs."""


@dataclass(frozen=True)
class Undone:
    """What went back, and where later work on the same files is kept."""

    paths: list[str]
    kept: Path | None


def begin(project: Project, ignored: Mapping[str, File]) -> None:
    """Note down where an update starts: a clean tree, and `ignored` files that are not in git.

    An update that is killed is undone like any other.
    """
    folder = project.state_dir()
    shutil.rmtree(folder / "ignored", ignore_errors=True)
    for path, file in ignored.items():
        write(folder / "ignored" / path, file)
    folder.mkdir(parents=True, exist_ok=True)
    _write(project, {"head": project.head(), "ignored": sorted(ignored), "changed": None})


def finish(project: Project) -> None:
    """Note down what the update changed, so that later work on other files is left alone."""
    notes = _notes(project)
    paths = sorted(project.changed() | set(notes["ignored"]))
    changed = {path: _digest(read(project.root / path)) for path in paths}
    _write(project, {**notes, "changed": changed})


def undo(project: Project) -> Undone:
    """Put back each file that the last update changed, and no other.

    Raises:
        Refused: There is no update to undo, or it is committed.
    """
    notes = _notes(project)
    if project.head() != notes["head"]:
        raise Refused(
            "There are commits since the update, or another branch is checked out. If the update is"
            " committed, `git revert` takes it back."
        )
    stored = project.state_dir() / "ignored"
    ignored = read_all(stored, notes["ignored"])
    changed = notes["changed"] or dict.fromkeys(project.changed(), None)
    kept = _keep_later_work(project, changed)
    restore(project, changed, ignored)
    (project.state_dir() / _JOURNAL).unlink()
    return Undone(sorted(changed), kept)


def restore(project: Project, paths: Iterable[str], ignored: Mapping[str, File]) -> None:
    """Make files as they are in HEAD, or as they were outside git; delete those that are new."""
    paths = set(paths)
    tracked = sorted(paths & set(project.listing()))
    if tracked:
        project.git(
            *("restore", "--source=HEAD", "--staged", "--worktree"),
            *("--pathspec-from-file=-", "--pathspec-file-nul"),
            given=_pathspec(tracked),
        )
    created = sorted(paths - set(tracked) - set(ignored))
    if created:
        listed = "\0".join(created).encode(errors="surrogateescape")
        project.git("update-index", "--force-remove", "-z", "--stdin", given=listed)
    for path in created:
        remove(project.root, path)
    for path, file in ignored.items():
        write(project.root / path, file)


def _pathspec(paths: Iterable[str]) -> bytes:
    """Literal: a path may hold what git takes for a pattern."""
    spec = "\0".join(f":(literal){path}" for path in paths)
    return spec.encode(errors="surrogateescape")


def _notes(project: Project) -> _Notes:
    journal = project.state_dir() / _JOURNAL
    if not journal.is_file():
        raise Refused("There is no update to undo here.")
    notes: _Notes = json.loads(journal.read_text(encoding="utf-8"))
    return notes


def _write(project: Project, notes: _Notes) -> None:
    journal = project.state_dir() / _JOURNAL
    journal.write_text(json.dumps(notes, indent=2), encoding="utf-8")


def _keep_later_work(project: Project, changed: Mapping[str, str | None]) -> Path | None:
    """Copy what was changed once more after the update to a folder of git's own."""
    later = {
        path: file
        for path, digest in changed.items()
        if digest is not None and (file := read(project.root / path)) and _digest(file) != digest
    }
    if not later:
        return None
    taken = project.state_dir() / "undone"
    folder = next(place for n in range(1, 10**6) if not (place := taken / str(n)).exists())
    for path, file in later.items():
        write(folder / path, file)
    return folder


def _digest(file: File | None) -> str:
    return "" if file is None else hashlib.sha256(repr(file).encode()).hexdigest()
