"""Updates that Copier makes: with migrations, or a plain `copier update` that is reviewed afterwards."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from template_update import answers, changelog, left, manifest, renders, undo, versions
from template_update.copier import Copier
from template_update.errors import Refused
from template_update.git import Project, merge
from template_update.journal import UNKNOWN, Journal, Notes, digest
from template_update.look import (
    Start,
    look,
    look_at_commit,
    places_beside,
    refuse_dirt,
    to_disk,
)
from template_update.merge import Finding, Kind, Trees, merge_trees
from template_update.renders import Renders
from template_update.report import Report
from template_update.review import Plain
from template_update.review import review as review_trees
from template_update.trees import Tree, read, read_all, remove, write


def update(
    project: Project, journal: Journal, copier: Copier, before: answers.Answers, found: Renders
) -> Report:
    """Let Copier update the project, which runs the template's migrations, and review that.

    Raises:
        Refused: Nothing has changed.
    """
    refuse_dirt(project, journal, below=":/")  # Copier checks out files outside of the project, too
    start, trees = look(project, found)
    notes = Notes(start.head, _expected(project, trees, start))
    journal.begin(notes)
    try:
        for path, file in start.seen.items():
            write(journal.folder / "old" / path, file)
        copier.update(project.root, found.new.version)
        findings, saved_as = _review(project, journal, trees, notes)
    except BaseException:
        undo.take_back(project, journal, notes, {*trees.paths, answers.NAME})
        raise
    return report(project, before, findings, saved_as, copier.given)


def review(project: Project, journal: Journal, copier: Copier) -> Report:
    """Review an update that plain `copier update` made and that is not committed.

    Raises:
        Refused: There is none.
    """
    root = project.root
    committed = project.files([answers.NAME]).get(answers.NAME)
    if committed is None:
        raise Refused(f"`{answers.NAME}` is in no commit, so there is no update to review.")
    before, after = answers.parse_file(committed.content), answers.read(root)
    version = _updated_to(project, before, after)
    if version is None:
        raise Refused(
            f"`{answers.NAME}` is as it was committed, so there is no update to review. Run one with"
            " `update`."
        )
    found = renders.of_review(root, copier, committed, before.version, version)
    if before == after and found.answers_file:  # as 0.2.0 leaves it if a `.yml` file was deleted
        write(root / answers.NAME, found.answers_file)
    notes = _begun(project, journal)
    findings, saved_as = _review(project, journal, look_at_commit(project, found), notes)
    return report(project, before, findings, saved_as)


def report(
    project: Project,
    before: answers.Answers,
    findings: Sequence[Finding],
    saved_as: Mapping[str, str],
    given: Mapping[str, str] | None = None,
) -> Report:
    """The report on a project that is updated; what is given was answered with the command."""
    after = answers.read(project.root)
    return Report(
        before.version,
        after.version,
        tuple(findings),
        saved_as,
        {k: v for k, v in after.answers.items() if k not in {**before.answers, **(given or {})}},
        changelog.news(project.root, before, after.version),
        tuple(sorted(project.changed())),
        left.for_owner(project.root, after.answers),
    )


def _updated_to(project: Project, before: answers.Answers, after: answers.Answers) -> str | None:
    """The version of an update that is not committed, or None where there was none."""
    if before != after:
        return after.version
    is_changed = manifest.NAME in project.changed()
    return versions.of_files(project.root, before) if is_changed else None


def _expected(project: Project, trees: Trees, start: Start) -> dict[str, str]:
    """What Copier should write to each file; anything else was written by somebody at the same time."""
    results = merge_trees(trees, merge)
    files = {path: result.file for path, result in results.items() if result.file}
    expected = to_disk(project, files, trees.mine, start.seen)
    return {path: digest(expected.get(path)) for path in trees.paths} | {answers.NAME: UNKNOWN}


def _begun(project: Project, journal: Journal) -> Notes:
    """The notes of the last update, if it started from the same commit; else new ones."""
    last = journal.read()
    if last and last.head == project.head():
        return last
    notes = Notes(project.head(), {})
    journal.begin(notes)
    return notes


def _review(
    project: Project, journal: Journal, trees: Trees, notes: Notes
) -> tuple[list[Finding], dict[str, str]]:
    """Report what Copier did not, restore edits that it replaced, and note which files it wrote."""
    plain = _plain(project, trees, notes)
    seen = read_all(project.root, {*plain.now, answers.NAME})
    found = review_trees(plain, merge)
    saved_as = places_beside(project.root, found.findings)
    kept = {f.path: f.keep for f in found.findings if f.keep}
    as_owned = project.as_checked_out(kept)
    files = to_disk(project, found.files, trees.mine, seen)
    files |= {place: as_owned[path] for path, place in saved_as.items()}
    written = {**notes.written, **_written(plain, seen)}
    written |= {path: digest(file) for path, file in files.items()}
    journal.write(replace(notes, written=written))
    later = journal.keep(_later_work(project, plain, files))
    for path, file in files.items():
        write(project.root / path, file)
    project.mark_as_conflicts(found.conflicts)
    _remove_what_is_carried(project, plain, found.findings)
    journal.write(replace(notes, written=written, is_finished=True))
    copied = [] if later is None else [Finding(Kind.SAVED, str(later), "your later work")]
    return [*found.findings, *copied], saved_as


def _plain(project: Project, trees: Trees, notes: Notes) -> Plain:
    rejected = {path for path in project.changed() if path.endswith(".rej")}
    return Plain(
        trees,
        merge_trees(trees, merge),
        project.on_disk({*trees.paths, *rejected}),
        frozenset(project.unmerged()),
        frozenset(notes.written if notes.is_finished and not notes.is_of_0_2_0 else ()),
    )


def _written(plain: Plain, seen: Tree) -> dict[str, str]:
    """A digest of each file that Copier wrote; `UNKNOWN` if it may have been edited since."""
    trees = plain.trees
    own = [path for path in trees.paths if plain.ideal[path].file != trees.mine.get(path)]
    others = [path for path in plain.now if path not in plain.ideal]
    written = dict.fromkeys((*own, *others), UNKNOWN)
    written |= {p: digest(seen.get(p)) for p in own if _is_the_updates(plain, p)}
    return {**written, answers.NAME: digest(seen.get(answers.NAME))}


def _is_the_updates(plain: Plain, path: str) -> bool:
    return plain.now.get(path) in (plain.ideal[path].file, plain.trees.theirs.get(path))


def _later_work(project: Project, plain: Plain, files: Tree) -> dict[str, Path]:
    return {
        path: project.root / path
        for path in files
        if path in plain.now and not _is_the_updates(plain, path)
    }


def _remove_what_is_carried(project: Project, plain: Plain, findings: Sequence[Finding]) -> None:
    """The `.mine` files that the command of 0.2.0 saved, of edits that are in the tree by now."""
    saved = {finding.path for finding in findings if finding.kind is Kind.SAVED}
    trees = plain.trees
    gone = [p for p in trees.mine if p in trees.base and p not in trees.theirs and p not in saved]
    for path in gone:
        copy = read(project.root / f"{path}.mine")
        if copy is not None and copy == trees.mine[path] != trees.base[path]:
            remove(project.root, f"{path}.mine")
