"""What an update writes to each file, as a function of three trees; nothing is read or written.

`base` and `theirs` are the template's files before and after, `mine` are the owner's.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum

from template_update import moves
from template_update.trees import File, Tree


@dataclass(frozen=True)
class Merged:
    """A three-way merge of a text; what both changed is between markers, and then not clean."""

    content: bytes
    is_clean: bool


Merge = Callable[[bytes, bytes, bytes], Merged]
"""`merge(mine, base, theirs)`"""

Stages = tuple["File | None", "File | None", "File | None"]
"""Base, mine and theirs of a file in conflict, as git's index numbers them."""

_ALIKE = 0.6


class Kind(Enum):
    """What became of an edit, or of a change of the template's."""

    CONFLICT = "conflict"
    """Both sides changed the same lines: both versions are in the file, between markers."""
    SAVED = "saved"
    """The owner's edit is not in the tree any more."""
    CARRIED = "carried"
    """The template moved the file, and the owner's edit was merged into the new path."""
    RETURNED = "returned"
    """The owner had deleted or renamed the file, and the template has it under a new path."""
    RESTORED = "restored"
    """The owner's edit had been replaced, although it can be merged with the template's change."""
    MISSED = "missed"
    """A change of the template's did not arrive."""


@dataclass(frozen=True)
class Finding:
    """Something to report; `keep` is the owner's version, which must not be lost."""

    kind: Kind
    path: str
    reason: str
    keep: File | None = None


@dataclass(frozen=True)
class Result:
    """What is to be at a path, and what is to be reported of it."""

    file: File | None
    findings: tuple[Finding, ...] = ()
    stages: Stages | None = None


@dataclass(frozen=True)
class Trees:
    """The template's files before and after, the owner's, and where the template moved its own."""

    base: Tree
    theirs: Tree
    mine: Tree
    moves: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def paths(self) -> list[str]:
        """Every path that the template has or had a file at."""
        return sorted({*self.base, *self.theirs})


def merge_trees(trees: Trees, merge: Merge) -> dict[str, Result]:
    """What is to be at each of the template's paths, old and new."""
    results = {path: _merge_file(trees, path, merge) for path in trees.paths}
    for path in trees.paths:
        if _is_edited_and_gone(trees, path):
            _carry(trees, path, merge, results)
        elif path in trees.base and path not in trees.theirs and path not in trees.mine:
            results[path] = _merge_deleted(trees, path)
    return results


def merge_file(mine: File, base: File | None, theirs: File, merge: Merge) -> Result | None:
    """Merge a file that both sides changed; None for a link or a binary, which cannot be merged."""
    before = base or File(b"")
    if mine.is_link or before.is_link or theirs.is_link:
        return None
    mode_is_mine = mine.is_executable != before.is_executable
    is_executable = mine.is_executable if mode_is_mine else theirs.is_executable
    if mine.content in (before.content, theirs.content):
        return Result(File(theirs.content, is_executable))
    if theirs.content == before.content:
        return Result(File(mine.content, is_executable))
    if mine.is_binary or before.is_binary or theirs.is_binary:
        return None
    merged = merge(mine.content, before.content, theirs.content)
    file = File(merged.content, is_executable)
    return Result(file) if merged.is_clean else Result(file, stages=(base, mine, theirs))


def _merge_file(trees: Trees, path: str, merge: Merge) -> Result:
    base, theirs, mine = (tree.get(path) for tree in (trees.base, trees.theirs, trees.mine))
    if mine is None:
        return _merge_absent(trees, path, base, theirs)
    if mine in (base, theirs):
        return Result(theirs)
    if theirs in (base, None):
        return Result(mine if theirs else None)  # `_carry` merges an edit of a file that is gone
    return _merge_edited(path, mine, base, theirs, merge)


def _merge_edited(
    path: str, mine: File, base: File | None, theirs: File | None, merge: Merge
) -> Result:
    assert theirs is not None
    if mine.is_link:
        return Result(mine, (Finding(Kind.MISSED, path, "it is a link here"),))
    merged = merge_file(mine, base, theirs, merge)
    if merged is None:
        reason = "git cannot merge it, and the template changed it"
        return Result(theirs, (Finding(Kind.SAVED, path, reason, mine),))
    if merged.stages:
        return Result(merged.file, (_conflict(path),), merged.stages)
    return merged


def _merge_absent(trees: Trees, path: str, base: File | None, theirs: File | None) -> Result:
    if base is None:
        return Result(theirs)
    if theirs in (base, None):
        return Result(None)
    return Result(None, (Finding(Kind.MISSED, path, _where_to(trees, path, base)),))


def _merge_deleted(trees: Trees, path: str) -> Result:
    """The owner deleted a file that the template moved: other files may import the new one."""
    created = [new for new in trees.moves.get(path, ()) if new not in trees.mine]
    if not created:
        return Result(None)
    why = _where_to(trees, path, trees.base[path])
    reason = f"{why}; the template's is in " + ", ".join(f"`{new}`" for new in created)
    return Result(None, (Finding(Kind.RETURNED, path, reason),))


def _is_edited_and_gone(trees: Trees, path: str) -> bool:
    mine, base = trees.mine.get(path), trees.base.get(path)
    return path not in trees.theirs and mine is not None and mine != base


def _carry(trees: Trees, path: str, merge: Merge, results: dict[str, Result]) -> None:
    """Merge the edit of a file that is gone into the new path, or save it."""
    mine, base = trees.mine[path], trees.base[path]
    places = [new for new in trees.moves.get(path, ()) if _can_take(results.get(new))]
    carried = _carried(mine, base, {new: results[new] for new in places}, merge)
    if not carried:
        reason = "the template dropped or renamed the file"
        results[path] = Result(None, (Finding(Kind.SAVED, path, reason, mine),))
        return
    for new, result in carried.items():
        found = (_conflict(new, path),) if result.stages else ()
        results[new] = Result(result.file, (*results[new].findings, *found), result.stages)
    if not all(result.stages for result in carried.values()):
        reason = "the template moved the file to " + ", ".join(f"`{new}`" for new in carried)
        results[path] = Result(None, (Finding(Kind.CARRIED, path, reason),))


def _can_take(result: Result | None) -> bool:
    """Whether an edit can be merged into the new file at a path."""
    return result is not None and result.file is not None and result.stages is None


def _carried(
    mine: File, base: File, places: Mapping[str, Result], merge: Merge
) -> dict[str, Result]:
    """The new paths that change, with the merged file of each; none if git cannot merge them."""
    targets = {new: result.file for new, result in places.items() if result.file}
    files = [mine, base, *targets.values()]
    if not targets or any(file.is_link or file.is_binary for file in files):
        return {}
    contents = {new: file.content for new, file in targets.items()}
    shares = moves.share_out(mine.content, base.content, contents, _is_at_home(merge))
    if mine.is_executable != base.is_executable:
        shares = {new: shares.get(new, base.content) for new in targets}
    merged = {
        new: merge_file(File(share, mine.is_executable), base, targets[new], merge)
        for new, share in shares.items()
    }
    return {new: result for new, result in merged.items() if result}


def _is_at_home(merge: Merge) -> moves.IsAtHome:
    def is_at_home(mine: bytes, base: bytes, theirs: bytes) -> bool:
        merged = merge(mine, base, theirs)
        return merged.is_clean and merged.content != theirs

    return is_at_home


def _conflict(path: str, moved_from: str = "") -> Finding:
    reason = "both changed the same lines"
    return Finding(
        Kind.CONFLICT, path, f"{reason}; it was `{moved_from}`" if moved_from else reason
    )


def _where_to(trees: Trees, path: str, base: File) -> str:
    """Why a file is not there: deleted, or renamed to one with similar lines."""
    name, likeness = max(_alike(trees, path, base), key=lambda found: found[1], default=("", 0.0))
    if likeness < _ALIKE:
        return "you deleted the file"
    return f"you seem to have renamed the file to `{name}`"


def _alike(trees: Trees, path: str, base: File) -> Iterator[tuple[str, float]]:
    lines = set(base.content.splitlines())
    suffix = path.rpartition(".")[2]
    for name, file in sorted(trees.mine.items()):
        if name not in trees.base and name not in trees.theirs and name.endswith(suffix):
            yield name, len(lines & set(file.content.splitlines())) / (len(lines) or 1)
