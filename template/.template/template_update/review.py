"""What a plain `copier update` does not report, and which edits can be restored."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from template_update.merge import Finding, Kind, Merge, Result, Stages, Trees, merge_file
from template_update.trees import File, Tree

_MARKERS = {b"<<<<<<< before updating", b">>>>>>> after updating"}


@dataclass(frozen=True)
class Plain:
    """A project after a plain update."""

    trees: Trees
    ideal: Mapping[str, Result]
    """What an update should have written to each file."""
    now: Tree
    unmerged: frozenset[str]
    reviewed: frozenset[str]
    """Files that an earlier review has written."""


@dataclass(frozen=True)
class Review:
    """What is to be reported, and to be written."""

    findings: list[Finding] = field(default_factory=list)
    files: dict[str, File] = field(default_factory=dict)
    conflicts: dict[str, Stages] = field(default_factory=dict)

    def take(self, path: str, result: Result) -> None:
        """Write a result to a path."""
        if result.file is not None:
            self.files[path] = result.file
        if result.stages:
            self.conflicts[path] = result.stages


def review(plain: Plain, merge: Merge) -> Review:
    """Compare each file with what an update should have written."""
    found = Review()
    for path in plain.trees.paths:
        found.findings.extend(_review(plain, path, merge, found))
    rejected = (path for path in sorted(plain.now) if path.endswith(".rej"))
    reason = "part of your edit could not be applied"
    found.findings.extend(Finding(Kind.CONFLICT, path, reason) for path in rejected)
    return found


def is_conflicted(file: File | None) -> bool:
    """Whether Copier's conflict markers are lines of a text."""
    return file is not None and any(line.rstrip() in _MARKERS for line in file.content.splitlines())


def _review(plain: Plain, path: str, merge: Merge, found: Review) -> Iterator[Finding]:
    trees, ideal = plain.trees, plain.ideal[path]
    mine, now = trees.mine.get(path), plain.now.get(path)
    is_new_conflict = is_conflicted(now) and not is_conflicted(mine)
    if path in plain.unmerged or is_new_conflict:
        yield Finding(Kind.CONFLICT, path, "both changed the same lines")
    elif now == ideal.file:
        yield from ideal.findings
    elif path in plain.reviewed and now != trees.theirs.get(path):
        return  # later work, on what was reported before
    elif mine is None:
        yield from _review_new(plain, path, merge, found)
    elif mine == trees.base.get(path):
        if now == mine and path in trees.theirs:
            yield Finding(Kind.MISSED, path, "the update left the file as it was")
    else:
        yield from _review_edited(plain, path, merge, found)


def _review_new(plain: Plain, path: str, merge: Merge, found: Review) -> Iterator[Finding]:
    """A file of the template's that is new here; an edit of a moved file may belong into it."""
    theirs, now, ideal = plain.trees.theirs.get(path), plain.now.get(path), plain.ideal[path]
    if theirs is None or ideal.file is None:
        return
    if now is None:
        yield Finding(Kind.MISSED, path, "the template's new file was not created")
    elif now == theirs:
        found.take(path, ideal)
        yield from ideal.findings
    elif ideal.file != theirs:  # an edit was merged into it, and it was edited later
        merged = merge_file(now, theirs, ideal.file, merge)
        if merged and merged.file != now:
            found.take(path, merged)
            yield from ideal.findings


def _review_edited(plain: Plain, path: str, merge: Merge, found: Review) -> Iterator[Finding]:
    """The owner's file was changed by the update: is the edit still in it?"""
    base, theirs = plain.trees.base.get(path), plain.trees.theirs.get(path)
    mine, now, ideal = plain.trees.mine[path], plain.now.get(path), plain.ideal[path]
    if now == mine:
        if theirs not in (base, None):
            yield Finding(Kind.MISSED, path, "the update left your edited file as it was")
    elif theirs is None:
        yield from ideal.findings  # the owner has another file at this path
    elif ideal.file and now and (now == theirs or now.content == ideal.file.content):
        found.take(path, ideal)
        yield Finding(Kind.RESTORED, path, "the update replaced your edit")
        yield from ideal.findings
    elif now is None or not _has_edit(mine, base, now, merge):
        yield Finding(Kind.SAVED, path, "the update replaced your edit", mine)


def _has_edit(mine: File, base: File | None, now: File, merge: Merge) -> bool:
    """Whether merging the edit in once more would change nothing."""
    merged = merge_file(mine, base, now, merge)
    return merged is not None and merged.file is not None and merged.file.content == now.content
