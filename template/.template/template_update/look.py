"""A project before an update: what is there, and what stops the update."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from template_update import answers
from template_update.errors import Refused
from template_update.git import Project
from template_update.journal import Journal
from template_update.merge import Finding, Trees
from template_update.renders import Renders
from template_update.trees import File, Tree, read, read_all

_CANDIDATES = 2000
"""Files of the owner's at most, among which one of the template's that was renamed is looked for."""


@dataclass(frozen=True)
class Start:
    """The commit, and the files that were read, as they are on disk."""

    head: str
    seen: Tree


def refuse_dirt(project: Project, journal: Journal, below: str = ".") -> None:
    """An update starts from a clean tree.

    Raises:
        Refused: There are changes that are not committed; they are listed.
    """
    dirt = project.dirt(below)
    if not dirt:
        return
    notes = journal.read()
    listed = "\n".join(dirt[:20])
    if notes and notes.head == project.head():
        state = "not committed yet" if notes.is_finished else "stopped in the middle"
        raise Refused(
            f"The last update is {state}:\n{listed}\n`poe update --undo` undoes it"
            f"{'; `git commit` keeps it' if notes.is_finished else ''}. Then try again."
        )
    if any(line.endswith(answers.NAME) for line in dirt):
        raise Refused(
            f"`{answers.NAME}` is changed, as by an update that is not committed:\n{listed}\n"
            "`poe update --review` reports what it did not. Commit, and try again."
        )
    raise Refused(
        "There are changes that are not committed, and they would mix with the update's:\n"
        f"{listed}\nCommit them, or `git stash --include-untracked`, and try again."
    )


def refuse_what_is_in_the_way(root: Path, tree: Tree) -> None:
    """A file of the template's needs its path to be free, in folders of the project's own.

    Raises:
        Refused: There is a folder, a link or another repository in its place.
    """
    for path in sorted(tree):
        if (root / path).is_dir() and not (root / path).is_symlink():
            raise Refused(
                f"`{path}` is a folder here and a file in the template. Rename the folder, commit,"
                " and try again."
            )
    for folder in sorted({str(parent) for path in tree for parent in Path(path).parents} - {"."}):
        if (root / folder).is_symlink() or (root / folder / ".git").exists():
            kind = "link" if (root / folder).is_symlink() else "repository of its own"
            raise Refused(
                f"`{folder}` is a {kind} here and a folder in the template. An update does not write"
                " outside of the project. Replace it by a folder, commit, and try again."
            )
        if (root / folder).is_file():
            raise Refused(
                f"`{folder}` is a file here and a folder in the template. Rename the file, commit, and"
                " try again."
            )


def look(project: Project, found: Renders) -> tuple[Start, Trees]:
    """The project's files as the owner has them, committed or not."""
    head = project.head()
    paths = {*found.base, *found.theirs}
    seen = read_all(project.root, {*paths, answers.NAME})
    mine = {**project.on_disk(paths), **project.files(moved_here(project, found))}
    return Start(head, seen), Trees(found.base, found.theirs, mine, found.moves)


def look_at_commit(project: Project, found: Renders) -> Trees:
    """The project's files as they were before an update that is not committed."""
    paths = {*found.base, *found.theirs, *moved_here(project, found)}
    return Trees(found.base, found.theirs, project.files(paths), found.moves)


def moved_here(project: Project, found: Renders) -> set[str]:
    """The owner's files that may be renamed files of the template's."""
    committed = set(project.listing())
    gone = [
        path
        for path, file in found.base.items()
        if path not in committed and found.theirs.get(path) != file
    ]
    endings = {Path(path).suffix for path in gone}
    added = sorted(committed - {*found.base, *found.theirs})
    return set([path for path in added if Path(path).suffix in endings][:_CANDIDATES])


def to_disk(project: Project, files: Mapping[str, File], mine: Tree, seen: Tree) -> dict[str, File]:
    """Files as they are to be on disk, with the line endings that the owner's files have."""
    checked_out = project.as_checked_out(files)
    return {
        path: _with_crlf(file)
        if _has_crlf(mine.get(path), seen.get(path)) and file == files[path]
        else file
        for path, file in checked_out.items()
    }


def places_beside(root: Path, findings: Iterable[Finding]) -> dict[str, str]:
    """A path for each of the owner's versions that is to be saved: next to the file, and free."""
    return {
        finding.path: _beside(root, finding.path, finding.keep)
        for finding in findings
        if finding.keep is not None
    }


def _beside(root: Path, path: str, file: File | None) -> str:
    names = (f"{path}.mine{number or ''}" for number in range(10**6))
    return next(name for name in names if read(root / name) in (None, file))


def _has_crlf(mine: File | None, seen: File | None) -> bool:
    if mine is None or seen is None or mine.content == seen.content:
        return False
    return _with_crlf(mine).content == seen.content


def _with_crlf(file: File) -> File:
    return File(file.content.replace(b"\n", b"\r\n"), file.is_executable, file.is_link)
