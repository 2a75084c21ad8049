"""Back to before an update, as long as it is not committed."""

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from template_update.errors import Refused
from template_update.git import Project
from template_update.trees import File, read, remove, write


@dataclass(frozen=True)
class Undone:
    """What went back, and where later work on the same files is kept."""

    paths: list[str]
    kept: Path | None


def record(project: Project, head: str, ignored: Mapping[str, File]) -> None:
    """Note down what an update changed; `ignored` are files outside git as they were before."""
    folder = project.state_dir()
    shutil.rmtree(folder / "ignored", ignore_errors=True)
    changed = sorted(project.changed() | _differing(project, ignored))
    for path, file in ignored.items():
        write(folder / "ignored" / path, file)
    notes = {
        "head": head,
        "changed": {path: _digest(read(project.root / path)) for path in changed},
        "ignored": sorted(ignored),
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "journal.json").write_text(json.dumps(notes, indent=2), encoding="utf-8")


def undo(project: Project) -> Undone:
    """Put back each file that the last update changed, and no other.

    Raises:
        Refused: There is no update to undo, or it is committed.
    """
    journal = project.state_dir() / "journal.json"
    if not journal.is_file():
        raise Refused("There is no update to undo here.")
    notes = json.loads(journal.read_text(encoding="utf-8"))
    if project.head() != notes["head"]:
        raise Refused(
            "There are commits since the update, or another branch is checked out. If the update is"
            " committed, `git revert` takes it back."
        )
    changed: dict[str, str] = notes["changed"]
    kept = _keep_later_work(project, changed)
    ignored = {path: read(journal.parent / "ignored" / path) for path in notes["ignored"]}
    restore(project, changed, {path: file for path, file in ignored.items() if file})
    journal.unlink()
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
        command = ["rm", "--cached", "--quiet", "--force", "--ignore-unmatch"]
        options = ["--pathspec-from-file=-", "--pathspec-file-nul"]
        project.git(*command, *options, given=_pathspec(created))
    for path in created:
        remove(project.root, path)
    for path, file in ignored.items():
        write(project.root / path, file)


def _pathspec(paths: Iterable[str]) -> bytes:
    """Literal: a path may hold what git takes for a pattern."""
    spec = "\0".join(f":(literal){path}" for path in paths)
    return spec.encode(errors="surrogateescape")


def _differing(project: Project, files: Mapping[str, File]) -> set[str]:
    return {path for path, file in files.items() if read(project.root / path) != file}


def _keep_later_work(project: Project, changed: Mapping[str, str]) -> Path | None:
    """Copy what was changed once more after the update to a folder of git's own."""
    later = {
        path: file
        for path, digest in changed.items()
        if (file := read(project.root / path)) and _digest(file) != digest
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
