"""One update: a clean tree, Copier, then what Copier does not tell."""

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from template_update import answers, changelog, ownership, undo, upstream
from template_update.copier import Copier
from template_update.errors import Refused
from template_update.git import Project, merge
from template_update.report import Report
from template_update.review import Kind, Update, review
from template_update.trees import File, Tree, read, read_all, read_tree, write

RENAMES = ".template/renames.json"
_CANDIDATES = 2000  # of the owner's files, in which a renamed one of the template's is looked for


@dataclass(frozen=True)
class _Renders:
    """What the template alone makes of the answers, before and after; nothing that is the owner's."""

    base: Tree
    theirs: Tree
    new: answers.Answers
    renames: Mapping[str, str]


def newest(root: Path, copier: Copier) -> Report:
    """What an update would bring, by the changelog.

    Raises:
        Refused: Copier cannot tell.
    """
    before = answers.read(root)
    version = copier.newest(root)
    if version is None:
        return Report(before.version, before.version)
    return Report(before.version, version, changelog=_changelog(root, before, version))


def update(root: Path, copier: Copier, version: str | None = None) -> Report:
    """Update the project at a folder, and save what that would have lost.

    Raises:
        Refused: Nothing has changed.
    """
    before = answers.read(root)
    project = Project.at(root)
    if dirt := project.dirt():
        raise Refused(
            "There are changes that are not committed, which could not be told from the update's:\n"
            + "\n".join(dirt[:20])
            + "\nCommit them, or `git stash --include-untracked`, and try again."
        )
    if version is None and not copier.data and copier.newest(root) is None:
        return Report(before.version, before.version)
    with _rendered(root, copier, before.version, version) as renders:
        ignored = _ignored(project, {*renders.base, *renders.theirs})
        undo.begin(project, ignored)
        try:
            copier.update(root, renders.new.version)
            report = _review(project, before, renders, ignored)
        except BaseException:
            undo.undo(project)
            raise
    undo.finish(project)
    return report


def review_plain(root: Path, copier: Copier) -> Report:
    """Review an update that plain `copier update` made and that is not committed.

    Raises:
        Refused: There is none.
    """
    project = Project.at(root)
    try:
        committed = project.files([answers.NAME])[answers.NAME]
    except KeyError as error:
        raise Refused(
            f"`{answers.NAME}` is in no commit, so there is no update to review."
        ) from error
    before, after = answers.parse(committed.content.decode()), answers.read(root)
    if before == after:
        raise Refused(
            f"`{answers.NAME}` is as it was committed, so there is no update to review. Run one with"
            " `update`."
        )
    with tempfile.TemporaryDirectory() as folder:
        (old := Path(folder, "old")).mkdir()
        write(old / answers.NAME, committed)
        renders = _renders(
            _render(old, copier, Path(folder, "base"), before.version),
            _render(root, copier, Path(folder, "theirs"), after.version),
        )
        undo.begin(project, {})
        report = _review(project, before, renders, {})
    undo.finish(project)
    return report


@contextmanager
def preview(root: Path) -> Iterator[Path]:
    """The project's last commit in a folder of its own, which is thrown away afterwards.

    Raises:
        Refused: The template's path only holds in the project's folder.
    """
    project = Project.at(root)
    source = answers.read(root).source
    if not Path(source).is_absolute() and (root / source).is_dir():
        raise Refused(
            f"`_src_path: {source}` in `{answers.NAME}` is a relative path, which means nothing"
            " outside of this folder. Write the whole path there, and commit."
        )
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder, "preview")
        project.git("worktree", "add", "--quiet", "--detach", str(tree), "HEAD")
        try:
            yield tree / project.prefix
        finally:
            project.git("worktree", "remove", "--force", str(tree))


@contextmanager
def _rendered(root: Path, copier: Copier, before: str, version: str | None) -> Iterator[_Renders]:
    with tempfile.TemporaryDirectory() as folder:
        old = _render(root, copier, Path(folder, "base"), before)
        new = _render(root, copier, Path(folder, "theirs"), version, is_new=True)
        yield _renders(old, new)


def _render(
    root: Path, copier: Copier, target: Path, version: str | None, *, is_new: bool = False
) -> Path:
    copier.render(root, target, version, is_new=is_new)
    return target


def _renders(old: Path, new: Path) -> _Renders:
    """By the new version's line between the owner's files and the template's."""
    text = (new / ownership.NAME).read_text(encoding="utf-8")
    after = answers.read(new)
    owners = ownership.parse(text, after.answers.get("package_name", ""))

    def templates(folder: Path) -> dict[str, File]:
        tree = read_tree(folder)
        del tree[answers.NAME]  # holds nothing that is edited: Copier writes it anew
        return {path: file for path, file in tree.items() if not owners.is_owned_by("yours", path)}

    renames = new / RENAMES
    known = json.loads(renames.read_text(encoding="utf-8")) if renames.is_file() else {}
    return _Renders(templates(old), templates(new), after, known)


def _ignored(project: Project, paths: Iterable[str]) -> dict[str, File]:
    """The template's files that are here but not in git, which could not be brought back."""
    return read_all(project.root, set(paths) - set(project.listing()))


def _review(
    project: Project, before: answers.Answers, renders: _Renders, ignored: Mapping[str, File]
) -> Report:
    root = project.root
    changed = project.changed() - {answers.NAME}
    managed = {*renders.base, *renders.theirs}
    theirs_only = {path for path in changed if path not in managed}
    committed = project.listing()
    added = [path for path in committed if path not in managed and path not in changed]
    mine = project.files(managed | theirs_only | set(added[:_CANDIDATES])) | dict(ignored)
    outcome = Update(
        renders.base,
        renders.theirs,
        mine,
        read_all(root, managed | theirs_only)
        | {path: mine[path] for path in added if path in mine},
        frozenset(project.unmerged()),
        renders.renames,
    )
    findings = review(outcome, merge)
    saved_as = {}
    for finding in findings:
        if finding.keep is None:
            continue
        place = finding.path if finding.kind is Kind.RESTORED else _beside(root, finding.path)
        write(root / place, finding.keep)
        saved_as[finding.path] = place
    after = answers.read(root)
    return Report(
        before.version,
        after.version,
        tuple(findings),
        saved_as,
        {k: v for k, v in after.answers.items() if k not in before.answers},
        _changelog(root, before, after.version),
        tuple(sorted(project.changed())),
    )


def _beside(root: Path, path: str) -> str:
    """A name for the owner's version of a file, free and next to it."""
    names = (f"{path}.mine{number or ''}" for number in range(10**6))
    return next(name for name in names if read(root / name) is None)


def _changelog(root: Path, before: answers.Answers, version: str) -> str:
    repository = upstream.find(before.source, root)
    if repository is None:
        return f"What is new: see {changelog.NAME} of {before.source}"
    for ref in (version, f"v{version}"):
        if text := repository.text(ref, changelog.NAME):
            return changelog.between(text, before.version, version)
    return ""
