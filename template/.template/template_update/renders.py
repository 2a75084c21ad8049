"""Renders of the template's own files, in the old and in the new version."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from template_update import answers, moves, ownership, upstream
from template_update.copier import Copier, Copy
from template_update.trees import File, Tree, read, read_tree, write


@dataclass(frozen=True)
class Renders:
    """The template's files of two versions."""

    base: Tree
    theirs: Tree
    new: answers.Answers
    answers_file: File | None
    """As the new version writes it."""
    moves: Mapping[str, tuple[str, ...]]


@contextmanager
def of_update(
    root: Path, copier: Copier, before: answers.Answers, version: str
) -> Iterator[Renders]:
    """The project's version, and the new one with the answers that are to change."""
    with tempfile.TemporaryDirectory() as folder:
        old = Copy(root, Path(folder, "base"), before.version)
        new = Copy(root, Path(folder, "theirs"), version, is_new=True)
        _render(copier, before.source, root, old, new)
        yield _renders(old.target, new.target)


def of_review(root: Path, copier: Copier, committed: File, before: str, after: str) -> Renders:
    """The versions before and after a plain update."""
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder, answers.NAME), committed)
        old = Copy(root, Path(folder, "base"), before, answers_file=str(Path(folder, answers.NAME)))
        new = Copy(root, Path(folder, "theirs"), after)
        _render(copier, answers.read(root).source, root, old, new)
        return _renders(old.target, new.target)


def _render(copier: Copier, source: str, root: Path, old: Copy, new: Copy) -> None:
    """Both at once; but two processes must not fetch into one cache."""
    repository = upstream.find(source, root)
    if repository and not repository.is_cache:
        copier.render(old, new)
    else:
        copier.render(new)
        copier.render(old)


def _renders(old: Path, new: Path) -> Renders:
    """The template's files, by the ownership that the new version declares."""
    text = (new / ownership.NAME).read_text(encoding="utf-8")
    after = answers.read(new)
    owners = ownership.parse(text, after.answers.get("package_name", ""))

    def templates(folder: Path) -> dict[str, File]:
        tree = read_tree(folder)
        del tree[answers.NAME]  # holds nothing that is edited: Copier writes it again
        return {path: file for path, file in tree.items() if not owners.is_owned_by("yours", path)}

    known = new / moves.NAME
    moved = moves.parse(known.read_text(encoding="utf-8")) if known.is_file() else {}
    return Renders(templates(old), templates(new), after, read(new / answers.NAME), moved)
