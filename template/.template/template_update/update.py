"""One update: a clean tree, two renders of the template, a merge, a report."""

import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from template_update import answers, changelog, folders, plain, renders, upstream, versions
from template_update.apply import Changes, apply
from template_update.copier import Copier
from template_update.errors import Refused
from template_update.git import Project, merge
from template_update.journal import Journal
from template_update.look import (
    look,
    places_beside,
    refuse_dirt,
    refuse_what_is_in_the_way,
    to_disk,
)
from template_update.merge import Finding, Kind, merge_trees
from template_update.renders import Renders
from template_update.report import Report
from template_update.trees import File

_MIGRATIONS = re.compile(r"^_migrations\s*:|^!include", re.MULTILINE)


def newest(root: Path, copier: Copier) -> Report:
    """What an update would change, by the changelog.

    Raises:
        Refused: Copier cannot tell.
    """
    before = answers.read(root)
    version = versions.newest(root, before, copier)
    if version is None:
        return Report(before.version, before.version)
    versions.fetch(root, before, version, copier)
    return Report(before.version, version, changelog=changelog.news(root, before, version))


def update(root: Path, copier: Copier, version: str | None = None) -> Report:
    """Update the project at a folder, and save edits that cannot be merged.

    Raises:
        Refused: Nothing has changed.
    """
    before = answers.read(root)
    project = Project.at(root)
    journal = Journal.of(project)
    with journal.locked():
        refuse_dirt(project, journal)
        target = _target(root, before, copier, version)
        if target is None:
            return Report(before.version, before.version)
        with renders.of_update(root, copier, before, target) as found:
            refuse_what_is_in_the_way(root, found.theirs)
            _refuse_unknown(copier, before, found.new)
            folders.refuse_to_leave_behind(root, before, found.new)
            if copier.is_trusted or _has_migrations(root, before, found):
                return plain.update(project, journal, copier, before, found)
            return _merge(project, journal, before, found, copier.given)


def review(root: Path, copier: Copier) -> Report:
    """Review an update that plain `copier update` made and that is not committed.

    Raises:
        Refused: There is none.
    """
    project = Project.at(root)
    journal = Journal.of(project)
    with journal.locked():
        return plain.review(project, journal, copier)


@contextmanager
def preview(root: Path) -> Iterator[Path]:
    """The project's last commit in a temporary folder, which is deleted afterwards.

    Raises:
        Refused: The template is in the project's own folder.
    """
    project = Project.at(root)
    source = answers.read(root).source
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder, *_folders_above(project, source), "preview")
        project.git("worktree", "add", "--quiet", "--detach", str(tree), "HEAD")
        try:
            _link_template(root, source, tree / project.prefix)
            yield tree / project.prefix
        finally:
            project.git("worktree", "remove", "--force", str(tree))


def _folders_above(project: Project, source: str) -> list[str]:
    """As many folders as a relative path of the template goes up from the repository."""
    parts = Path(os.path.normpath(Path(project.prefix, source))).parts
    return ["above"] * parts.count("..")


def _link_template(root: Path, source: str, copy: Path) -> None:
    """Let a relative path of the template lead to it from the copy, too.

    Raises:
        Refused: It leads into the project's own folder.
    """
    template = root / source
    if Path(source).is_absolute() or not template.is_dir():
        return
    place = Path(os.path.normpath(copy / source))
    if place == copy or copy in place.parents:
        raise Refused(
            f"`_src_path: {source}` in `{answers.NAME}` is a folder inside the project, which the"
            " copy for the preview does not have. Write the template's whole path there, and commit."
        )
    if place.is_dir() and any(place.iterdir()):
        return  # the template is in the same repository
    if place.is_dir():
        place.rmdir()  # as git leaves a submodule
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(template.resolve(), target_is_directory=True)


def _target(root: Path, before: answers.Answers, copier: Copier, version: str | None) -> str | None:
    """The version to update to; None where there is nothing to do."""
    if version is not None:
        return versions.resolve(root, before, version)
    found = versions.newest(root, before, copier)
    return before.version if found is None and copier.data else found


def _refuse_unknown(copier: Copier, before: answers.Answers, new: answers.Answers) -> None:
    """Copier ignores an answer to no question, such as one that is misspelt.

    An answer that makes its question needless, as `deployment=none`, is no longer in the new answers.

    Raises:
        Refused: There is one.
    """
    known = {*before.answers, *new.answers}
    if unknown := next((name for name in copier.given if name not in known), None):
        asked = ", ".join(f"`{name}`" for name in new.answers)
        raise Refused(
            f"`{new.version}` of the template does not ask this project `{unknown}`. Its questions: {asked}."
        )


def _has_migrations(root: Path, before: answers.Answers, found: Renders) -> bool:
    """Whether Copier must run the update: only Copier knows if a migration is due, and asks for trust."""
    repository = upstream.find(before.source, root)
    names = ("copier.yml", "copier.yaml")
    texts = [repository.text(found.new.version, name) for name in names] if repository else []
    questions = next((text for text in texts if text is not None), None)
    return questions is None or bool(_MIGRATIONS.search(questions))


def _merge(
    project: Project,
    journal: Journal,
    before: answers.Answers,
    found: Renders,
    given: Mapping[str, str],
) -> Report:
    start, trees = look(project, found)
    results = merge_trees(trees, merge)
    findings = [finding for result in results.values() for finding in result.findings]
    saved_as = places_beside(project.root, findings)
    changed = {p: r.file for p, r in results.items() if r.file != trees.mine.get(p)}
    files: dict[str, File | None] = dict.fromkeys(changed)
    files |= to_disk(project, {p: f for p, f in changed.items() if f}, trees.mine, start.seen)
    files |= {place: start.seen[path] for path, place in saved_as.items()}
    if found.answers_file != start.seen.get(answers.NAME):
        files[answers.NAME] = found.answers_file
    conflicts = {path: result.stages for path, result in results.items() if result.stages}
    if files:
        kept = apply(project, journal, start, Changes(files, conflicts))
        findings += [] if kept is None else [Finding(Kind.SAVED, str(kept), "changed meanwhile")]
    return plain.report(project, before, findings, saved_as, given)
