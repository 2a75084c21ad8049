"""What a plain `copier update` does not tell, as a function of four trees."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

from template_update.trees import File, Tree

Merge = Callable[[bytes, bytes, bytes], "bytes | None"]
"""`merge(mine, base, theirs)`, or None where both changed the same lines."""

_MARKERS = {b"<<<<<<< before updating", b">>>>>>> after updating"}
_ALIKE = 0.6


class Kind(Enum):
    """What became of an edit, or of a fix."""

    CONFLICT = "conflict"
    """Both changed the same lines: they are in the file, between markers."""
    SAVED = "saved"
    """The owner's edit is not in the tree any more."""
    RESTORED = "restored"
    """The owner's edit was gone, although it fits to what the template changed."""
    MISSED = "missed"
    """A change of the template's did not arrive."""


@dataclass(frozen=True)
class Finding:
    """Something that the owner must know; `keep` is what must not be lost."""

    kind: Kind
    path: str
    reason: str
    keep: File | None = None


@dataclass(frozen=True)
class Update:
    """Four trees: the template's files before and after, and the project's before and after."""

    base: Tree
    theirs: Tree
    mine: Tree
    now: Tree
    unmerged: frozenset[str] = frozenset()
    renames: Mapping[str, str] | None = None
    """The template's new path of each file that it renamed, by the old one."""


def review(update: Update, merge: Merge) -> list[Finding]:
    """Each conflict, each edit that is gone, and each fix that did not arrive, by path."""
    paths = sorted({*update.base, *update.theirs, *update.mine, *update.now})
    return [finding for path in paths for finding in _review(update, path, merge)]


def is_conflicted(file: File | None) -> bool:
    """Whether Copier's conflict markers are lines of a text."""
    return file is not None and any(line.rstrip() in _MARKERS for line in file.content.splitlines())


def _review(update: Update, path: str, merge: Merge) -> Iterator[Finding]:
    base, theirs = update.base.get(path), update.theirs.get(path)
    mine, now = update.mine.get(path), update.now.get(path)
    is_new_conflict = is_conflicted(now) and not is_conflicted(mine)
    if path in update.unmerged or is_new_conflict:
        yield Finding(Kind.CONFLICT, path, "both changed the same lines")
    elif mine is None:
        yield from _review_absent(update, path, base, theirs, now)
    elif mine == base:
        if theirs is not None and now != theirs:
            yield Finding(Kind.MISSED, path, "the update left the file as it was")
    elif now != mine:
        yield from _review_edited(update, path, merge)
    elif base != theirs and mine != theirs:
        # Untouched although both changed it, or the template dropped it, or added one of its name.
        yield from _review_kept(path, mine, base, theirs)


def _review_absent(
    update: Update, path: str, base: File | None, theirs: File | None, now: File | None
) -> Iterator[Finding]:
    if now is None and base is not None and theirs is not None and base != theirs:
        yield Finding(Kind.MISSED, path, _where_to(update, path, base))
    elif now is None and base is None and theirs is not None:
        yield Finding(Kind.MISSED, path, "the template's new file was not created")
    elif path.endswith(".rej") and now is not None and theirs is None:
        yield Finding(Kind.CONFLICT, path, "part of your edit could not be applied")


def _review_kept(
    path: str, mine: File, base: File | None, theirs: File | None
) -> Iterator[Finding]:
    if theirs is None or base is None or mine.is_link:
        if theirs is not None:
            reason = "you have another file of this name" if base is None else "it is a link here"
            yield Finding(Kind.MISSED, path, reason)
    else:
        yield Finding(Kind.MISSED, path, "the update left your edited file as it was")


def _review_edited(update: Update, path: str, merge: Merge) -> Iterator[Finding]:
    """The owner's file was changed by the update: is the edit still in it?"""
    base, theirs = update.base.get(path), update.theirs.get(path)
    mine, now = update.mine[path], update.now.get(path)
    if theirs == base:
        yield Finding(Kind.RESTORED, path, "the update undid your edit", mine)
    elif mine == theirs:
        yield Finding(
            Kind.RESTORED, path, "the update undid what you and the template agree on", mine
        )
    elif theirs is None:
        if not _is_carried_over(update, path, merge):
            yield Finding(Kind.SAVED, path, "the template dropped or renamed the file", mine)
    else:
        merged = _merged(mine, base, theirs, merge)
        if merged is not None and now == theirs != merged:
            yield Finding(Kind.RESTORED, path, "the update replaced your edit", merged)
        elif now != merged:
            yield Finding(Kind.SAVED, path, "the update replaced your edit", mine)


def _merged(mine: File, base: File | None, theirs: File, merge: Merge) -> File | None:
    """What an update makes of a file that both changed; None where only the owner can tell."""
    before = base or File(b"")
    if mine.is_link or before.is_link or theirs.is_link:
        return None
    if mine.content in (before.content, theirs.content):
        content: bytes | None = theirs.content
    elif theirs.content == before.content:
        content = mine.content
    elif mine.is_binary or before.is_binary or theirs.is_binary:
        return None
    else:
        content = merge(mine.content, before.content, theirs.content)
    mode_is_mine = mine.is_executable != before.is_executable
    is_executable = mine.is_executable if mode_is_mine else theirs.is_executable
    return None if content is None else File(content, is_executable)


def _is_carried_over(update: Update, path: str, merge: Merge) -> bool:
    """Whether the edit is in the file's new place, or in conflict there."""
    renamed = (update.renames or {}).get(path)
    if renamed is None or renamed not in update.theirs:
        return False
    now = update.now.get(renamed)
    if renamed in update.unmerged or is_conflicted(now):
        return True
    return now == _merged(update.mine[path], update.base.get(path), update.theirs[renamed], merge)


def _where_to(update: Update, path: str, base: File) -> str:
    """Why a file is not there: deleted, or renamed to one that looks like it."""
    lines = set(base.content.splitlines())
    suffix = path.rpartition(".")[2]
    candidates = [
        (len(lines & set(file.content.splitlines())) / (len(lines) or 1), name)
        for name, file in update.mine.items()
        if name not in update.base and name not in update.theirs and name.endswith(suffix)
    ]
    likeness, name = max(candidates, default=(0.0, ""))
    if likeness < _ALIKE:
        return "you deleted the file"
    return f"you renamed the file, as it seems to `{name}`"
