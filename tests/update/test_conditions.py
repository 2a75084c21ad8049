"""The conditions that people have; each ends with every byte of the owner's. docs/update.md lists them."""

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from template_update.stops import STOPS
from tests.conftest import ROOT
from tests.update import small
from tests.update.projects import COMMAND, Project
from tests.update.releases import commit, git
from tests.update.small import NEW, OLD, VENDORED, Small

LATE = f"{VENDORED}/run/upper.py"
"""A file that an update writes when others are written."""
MINE = "mine = 'kept for ever'\n"


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Small:
    """Two versions of a small template; only read it."""
    return small.make(tmp_path_factory.mktemp("small"))


@pytest.fixture
def project(template: Small, tmp_path: Path) -> Project:
    """A project of the first version."""
    return template.project(tmp_path / "project")


def edit(project: Project, *names: str) -> None:
    """Write a line of the owner's at the start of files, and commit."""
    for name in names:
        path = project.root / name
        path.write_text(MINE + path.read_text())
    project.commit()


def text(project: Project, name: str) -> str:
    """A file as it is on disk."""
    return (project.root / name).read_text()


def kept(project: Project) -> set[str]:
    """The contents of what was taken out of the tree."""
    folder = small.undo_folder(project) / "undone"
    return {path.read_text() for path in folder.rglob("*") if path.is_file()}


# --- moved files ------------------------------------------------------------------------


@pytest.mark.parametrize("is_plain", [False, True])
def test_edits_go_along_with_moved_and_split_files(
    template: Small, project: Project, is_plain: bool
) -> None:
    """By the command, or by a review after plain `copier update`, without trust and by themselves."""
    edit(project, f"{VENDORED}/moved.py")
    split = project.root / VENDORED / "split.py"
    edited = split.read_text().replace("split_3 = 3", "split_3 = 'up'")
    split.write_text(edited.replace("split_20 = 20", "split_20 = 'low'"))
    edit(project, f"{VENDORED}/dropped.py")
    if is_plain:
        assert small.plain_update(project).code == 0
    done = small.run(template, project, "update", *(["--review"] if is_plain else []))
    assert done.code == 1, done.output  # `dropped.py` is saved
    moved = text(project, f"{VENDORED}/run/moved.py")
    assert moved == MINE + small.lines("moved").replace("_4 = 4", "_4 = 44")
    assert "split_3 = 'up'" in text(project, f"{VENDORED}/run/upper.py")
    assert "split_20 = 'low'" in text(project, f"{VENDORED}/run/lower.py")
    assert text(project, f"{VENDORED}/dropped.py.mine") == MINE + small.lines("dropped")
    gone = ("moved.py", "split.py", "dropped.py", "moved.py.mine", "split.py.mine")
    assert not any((project.root / VENDORED / name).exists() for name in gone)
    assert not project.unmerged()
    assert small.run(template, project, "update", "--undo").code == 0
    assert project.status() == []


def test_a_second_review_changes_nothing_and_keeps_later_work(
    template: Small, project: Project
) -> None:
    """What was carried is not carried twice, though the owner has gone on in it."""
    edit(project, f"{VENDORED}/moved.py")
    small.plain_update(project)
    small.run(template, project, "update", "--review")
    path = project.root / VENDORED / "run/moved.py"
    path.write_text(path.read_text().replace("kept for ever", "changed once more"))
    before = project.contents()
    assert small.run(template, project, "update", "--review").code == 0
    assert project.contents() == before


def test_an_edit_that_does_not_fit_is_a_conflict_in_the_new_place(
    template: Small, project: Project
) -> None:
    """Between markers and in the index, with the old path in the report."""
    path = project.root / VENDORED / "moved.py"
    path.write_text(path.read_text().replace("moved_4 = 4", "moved_4 = 'mine'"))
    project.commit()
    done = small.run(template, project, "update", "--json")
    report = json.loads(done.output)
    new = f"{VENDORED}/run/moved.py"
    assert [found["path"] for found in report["conflict"]] == [new] == [*project.unmerged()]
    assert f"`{VENDORED}/moved.py`" in report["conflict"][0]["reason"]
    assert "moved_4 = 'mine'" in text(project, new) and "moved_4 = 44" in text(project, new)


# --- work that goes on meanwhile --------------------------------------------------------


def test_a_file_saved_while_the_update_runs_stops_it(template: Small, project: Project) -> None:
    """Before anything is written: the file is named, and is as it was saved."""
    path = project.root / VENDORED / "changed.py"
    readme = project.root / "README.md"

    def save() -> None:
        path.write_text(MINE)
        readme.write_text(MINE)
        (project.root / "new.txt").write_text(MINE)

    save_meanwhile = small.when("subprocess.Popen", "'--index-info']", save)
    done = small.run(template, project, "update", before=save_meanwhile)
    assert (done.code, f"`{VENDORED}/changed.py` was changed" in done.output) == (2, True)
    assert path.read_text() == readme.read_text() == MINE == text(project, "new.txt")
    assert len(project.status()) == 3


def test_a_file_saved_between_two_writes_is_kept(template: Small, project: Project) -> None:
    """The update goes on, and the report names the folder where the fresh work is."""
    path = project.root / VENDORED / "changed.py"
    save = small.when("os.rename", "new/pyproject.toml", lambda: path.write_text(MINE))
    done = small.run(template, project, "update", before=save)
    assert done.code == 1 and "undone" in done.output, done.output
    assert kept(project) == {MINE} and "changed_4 = 44" in path.read_text()
    assert small.run(template, project, "update", "--undo").code == 0
    assert path.read_text() == MINE


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_update_that_fails_in_the_middle_takes_only_itself_back(
    template: Small, project: Project, error: BaseException
) -> None:
    """A disk that fills up, or Ctrl-C: what was saved meanwhile is there, the rest as before."""
    before = project.contents()

    def fail() -> None:
        (project.root / "README.md").write_text(MINE)
        (project.root / "new.txt").write_text(MINE)
        raise error

    done = small.run(
        template, project, "update", before=small.when("os.rename", f"new/{LATE}", fail)
    )
    assert done.code == 2, done.output
    expected = {**before, "README.md": MINE.encode(), "new.txt": MINE.encode()}
    assert project.contents() == expected


def _send(stop: signal.Signals) -> None:
    os.kill(os.getpid(), stop)


@pytest.mark.parametrize("stop", STOPS)
def test_a_signal_undoes_the_update_and_a_second_one_does_not_stop_that(
    template: Small, project: Project, stop: signal.Signals
) -> None:
    """Ctrl-C twice, a CI that cancels, a terminal that is closed: every file is as before."""
    edit(project, f"{VENDORED}/moved.py")
    before = project.contents()
    sent: list[str] = []

    def send(when: str) -> None:
        sent.append(when)
        print(f"sent {when}")
        _send(stop)

    def listen() -> None:
        # a shell's `&` ignores Ctrl-C, and a test before may have ignored others
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.default_int_handler)
        small.when("os.rename", f"new/{LATE}", lambda: send("in the update"))()
        small.when("os.rename", f"old/{VENDORED}/changed.py", lambda: send("in the undo"))()

    done = small.run(template, project, "update", before=listen)
    assert "sent in the update" in done.output and "sent in the undo" in done.output
    assert done.code == 2 and "Stopped. Nothing has changed." in done.output
    assert project.contents() == before and project.status() == []
    undone = small.run(template, project, "update", "--undo")
    assert undone.code == 2 and "no update to undo" in undone.output


def test_a_signal_that_is_ignored_stays_ignored(template: Small, project: Project) -> None:
    """Under `nohup`, an update goes on when its terminal is closed."""

    def listen() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        small.when("os.rename", f"new/{LATE}", lambda: _send(signal.SIGHUP))()

    done = small.run(template, project, "update", before=listen)
    assert done.code == 0, done.output
    assert (project.root / LATE).is_file()


@pytest.mark.parametrize("prefix", ["", "platforms/ours/"])
def test_a_preview_finds_a_template_by_a_relative_path(
    template: Small, tmp_path: Path, prefix: str
) -> None:
    """It shows what the update then does; the project may be in a folder of its repository."""
    project = template.project(tmp_path / "repository", prefix=prefix)
    _set_source(project, os.path.relpath(template.template, project.root))
    before = project.contents()
    preview = small.run(template, project, "update", "--preview")
    assert preview.code == 0, preview.output
    assert project.contents() == before and project.status() == []
    assert len(git(project.root, "worktree", "list").splitlines()) == 1
    report, _, files = preview.output.partition("\n## Files")
    assert f"{VENDORED}/added.py" in files and "preview" not in files.partition("\n")[2]
    done = small.run(template, project, "update")
    assert done.code == 0 and done.output.startswith(report.rstrip())


def test_a_preview_of_a_template_inside_the_project_is_refused(
    template: Small, project: Project
) -> None:
    """The copy does not have it; the message says what to write."""
    (project.root / ".gitignore").write_text("/template\n")
    shutil.copytree(template.template, project.root / "template")
    _set_source(project, "template")
    refused = small.run(template, project, "update", "--preview")
    assert refused.code == 2 and "whole path" in refused.output
    assert project.status() == []


def _set_source(project: Project, source: str) -> None:
    answers = project.root / ".copier-answers.yml"
    answers.write_text(re.sub("_src_path: .*", f"_src_path: {source}", answers.read_text()))
    project.commit()


def test_work_after_a_plain_update_survives_review_and_undo(
    template: Small, project: Project
) -> None:
    """In files that the update did not write it stays; in others it is copied."""
    edit(project, f"{VENDORED}/changed.py")
    small.plain_update(project)
    same, changed = (project.root / VENDORED / name for name in ("same.py", "changed.py"))
    same.write_text(MINE + same.read_text())
    changed.write_text(changed.read_text() + "later = 1\n")
    (project.root / "README.md").write_text(MINE)
    (project.root / "created.py").write_text(MINE)
    (project.root / VENDORED / "new.py").write_text(MINE)
    before = project.contents()
    assert small.run(template, project, "update", "--review").code == 0
    assert project.contents() == before
    undone = small.run(template, project, "update", "--undo")
    assert undone.code == 0 and "undone" in undone.output
    assert same.read_text().startswith(MINE)
    assert text(project, "README.md") == text(project, "created.py") == MINE
    assert text(project, f"{VENDORED}/new.py") == MINE
    assert any(content.endswith("later = 1\n") for content in kept(project))
    assert changed.read_text() == MINE + small.lines("changed")


def test_an_update_that_was_killed_and_cleaned_up_by_hand_undoes_nothing_later(
    template: Small, project: Project
) -> None:
    """Work after the cleaning is left alone, in the tree; the undo says that there is nothing."""
    killed = small.run(
        template,
        project,
        "update",
        before=small.when("os.rename", f"new/{LATE}", lambda: os.kill(os.getpid(), 9)),
    )
    assert killed.code == -9 and project.status() != []
    told = small.run(template, project, "update")
    assert told.code == 2 and "stopped in the middle" in told.output and "--undo" in told.output
    git(project.root, "checkout", "--quiet", ".")
    git(project.root, "clean", "--quiet", "--force", "-d")
    (project.root / "README.md").write_text(MINE)
    (project.root / VENDORED / "added.py").write_text(MINE)
    (project.root / "new.py").write_text(MINE)
    before = project.contents()
    undone = small.run(template, project, "update", "--undo")
    assert undone.code == 2 and "nothing to undo" in undone.output
    assert project.contents() == before


def test_incomplete_notes_are_named(template: Small, project: Project) -> None:
    """A power cut: no traceback; what to look at is named, and nothing is touched."""
    small.run(template, project, "update")
    notes = small.undo_folder(project) / "journal.json"
    notes.write_bytes(notes.read_bytes()[:40])
    before = project.contents()
    done = small.run(template, project, "update", "--undo")
    assert done.code == 2 and "are incomplete" in done.output and "Traceback" not in done.output
    assert project.contents() == before


def test_two_updates_at_once_are_one(template: Small, project: Project) -> None:
    """The second says that the first is running, and changes nothing."""
    before = project.contents()
    first = small.run(
        template,
        project,
        "update",
        before=small.when(
            "os.rename",
            f"new/{LATE}",
            lambda: print(small.run(template, project, "update").output),
        ),
    )
    assert first.code == 0 and "Another update of this project is running" in first.output
    assert project.contents() != before


# --- what git hides ---------------------------------------------------------------------


def test_untracked_files_count_although_git_is_told_not_to_show_them(
    template: Small, project: Project
) -> None:
    """`status.showUntrackedFiles=no`: a file of the owner's is seen, and stays."""
    git(project.root, "config", "status.showUntrackedFiles", "no")
    (project.root / VENDORED / "added.py").write_text(MINE)
    refused = small.run(template, project, "update")
    assert refused.code == 2 and "added.py" in refused.output
    assert text(project, f"{VENDORED}/added.py") == MINE


@pytest.mark.parametrize("flag", ["--skip-worktree", "--assume-unchanged"])
def test_edits_that_the_index_is_told_to_overlook_are_merged_and_undone(
    template: Small, project: Project, flag: str
) -> None:
    """The truth is on disk: in a changed file, a moved one, one that is dropped."""
    names = [f"{VENDORED}/{name}.py" for name in ("changed", "moved", "dropped", "same")]
    for name in names:
        (project.root / name).write_text(MINE + text(project, name))
        git(project.root, "update-index", flag, name)
    before = project.contents()
    assert small.run(template, project, "update").code == 1
    for name in ("changed.py", "run/moved.py", "dropped.py.mine", "same.py"):
        assert text(project, f"{VENDORED}/{name}").startswith(MINE), name
    assert "changed_4 = 44" in text(project, names[0])
    assert small.run(template, project, "update", "--undo").code == 0
    assert project.contents() == before


def test_ignored_files_of_the_templates_are_merged_and_undone(
    template: Small, project: Project
) -> None:
    """Also one that the next version adds, and that the owner has already, ignored."""
    ignored = ("changed.py", "moved.py", "added.py")
    (project.root / ".gitignore").write_text("\n".join(ignored) + "\n")
    for name in ignored:
        path = project.root / VENDORED / name
        path.write_text(MINE + (path.read_text() if path.exists() else ""))
    git(project.root, "rm", "--quiet", "--cached", *(f"{VENDORED}/{n}" for n in ignored[:2]))
    project.commit()
    before = project.contents()
    done = small.run(template, project, "update")
    for name in ("changed.py", "run/moved.py", "added.py"):
        assert MINE in text(project, f"{VENDORED}/{name}"), (name, done.output)
    assert small.run(template, project, "update", "--undo").code == 0
    assert project.contents() == before


def test_a_sparse_checkout_stays_sparse(template: Small, project: Project) -> None:
    """Files that are not checked out are not written, and the change that misses is named."""
    git(project.root, "sparse-checkout", "set", "--no-cone", "/*", f"!/{VENDORED}/changed.py")
    assert not (project.root / VENDORED / "changed.py").exists()
    done = small.run(template, project, "update")
    assert done.code == 1 and "changed.py" in done.output
    assert not (project.root / VENDORED / "changed.py").exists()
    small.run(template, project, "update", "--undo")
    git(project.root, "sparse-checkout", "disable")
    assert text(project, f"{VENDORED}/changed.py") == small.lines("changed")
    assert project.status() == []


@pytest.mark.parametrize("attributes", ["*.py text eol=crlf\n", "*.py text=auto\n"])
def test_ends_of_lines_stay_as_they_are(template: Small, project: Project, attributes: str) -> None:
    """CRLF by attributes, or by an editor: in merged files, and in the owner's after an undo."""
    (project.root / ".gitattributes").write_text(attributes)
    for path in project.root.rglob("*.py"):
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    project.commit()
    assert project.status() == []
    before = project.contents()
    done = small.run(template, project, "update")
    assert done.code == 0, done.output
    changed = (project.root / VENDORED / "changed.py").read_bytes()
    assert changed.count(b"\r\n") == changed.count(b"\n") == 24 and b"_4 = 44\r\n" in changed
    own = (project.root / "src/ours/defs.py").read_bytes()
    assert own == before["src/ours/defs.py"]
    assert small.run(template, project, "update", "--undo").code == 0
    assert project.contents() == before and project.status() == []


# --- repositories -----------------------------------------------------------------------


def test_of_two_projects_in_a_repository_either_is_undone(template: Small, tmp_path: Path) -> None:
    """And unfinished work and `*.rej` files next to them are left as they are."""
    root = tmp_path / "repository"
    first = template.project(root, prefix="one")
    shutil.copytree(first.root, root / "two")
    second = Project(root / "two")
    (root / "notes.txt").write_text("notes\n")
    commit(root, "Two")
    (root / "notes.txt").write_text(MINE)
    (root / "notes.txt.rej").write_text(MINE)
    before = first.contents()
    for project in (first, second):
        assert small.run(template, project, "update").code == 0
    after = second.contents()
    assert small.run(template, first, "update", "--undo").code == 0
    assert (first.contents(), second.contents()) == (before, after)
    assert small.run(template, second, "update", "--undo").code == 0
    assert (first.contents(), second.contents()) == (before, before)
    assert (root / "notes.txt").read_text() == (root / "notes.txt.rej").read_text() == MINE


def test_inside_of_a_git_hook_the_project_is_still_the_projects(
    template: Small, project: Project, tmp_path: Path
) -> None:
    """`GIT_DIR` and `GIT_INDEX_FILE` name another repository."""
    other = template.project(tmp_path / "other")
    others = other.contents()

    def as_a_hook() -> None:
        os.environ["GIT_DIR"] = str(other.root / ".git")
        os.environ["GIT_INDEX_FILE"] = str(other.root / ".git/index")

    edit(project, f"{VENDORED}/changed.py")
    assert small.run(template, project, "update", before=as_a_hook).code == 0
    assert "changed_4 = 44" in text(project, f"{VENDORED}/changed.py")
    assert (other.contents(), other.status()) == (others, [])


def test_a_repository_of_sha_256_is_updated(template: Small, tmp_path: Path) -> None:
    """With a conflict, whose stages are in the index."""
    project = template.project(tmp_path / "project")
    shutil.rmtree(project.root / ".git")
    git(project.root, "init", "--quiet", "--object-format=sha256")
    path = project.root / VENDORED / "changed.py"
    path.write_text(path.read_text().replace("_4 = 4", "_4 = 'mine'"))
    project.commit()
    done = small.run(template, project, "update")
    assert done.code == 1 and project.unmerged() == {f"{VENDORED}/changed.py"}, done.output
    assert small.run(template, project, "update", "--undo").code == 0
    assert project.status() == []


def test_a_linked_folder_of_the_templates_is_not_written_through(
    template: Small, project: Project, tmp_path: Path
) -> None:
    """The link is named; what it leads to is as it was."""
    shutil.move(project.root / VENDORED, tmp_path / "elsewhere")
    (project.root / VENDORED).symlink_to(tmp_path / "elsewhere")
    project.commit()
    before = {path.name: path.read_bytes() for path in (tmp_path / "elsewhere").iterdir()}
    refused = small.run(template, project, "update")
    assert refused.code == 2 and f"`{VENDORED}` is a link here" in refused.output
    now = {path.name: path.read_bytes() for path in (tmp_path / "elsewhere").iterdir()}
    assert now == before and project.status() == []


# --- messages and exit codes ------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "code", "said"),
    [("v9.9.9", 2, f"has no version `v9.9.9`. Its newest are: {OLD}, {NEW}"), ("2.0.0", 0, NEW)]
    + [(name, 2, f"has no version `{name}`") for name in ("nope", "v2", "", "../x")],
)
def test_a_version_is_found_with_and_without_its_v(
    template: Small, project: Project, version: str, code: int, said: str
) -> None:
    """One that does not exist is reported, with those that do."""
    done = small.run(template, project, "update", "--to", version)
    assert done.code == code and said in done.output


def test_an_answer_to_no_question_is_refused(template: Small, project: Project) -> None:
    """Copier ignores it, so that a misspelt one would be lost."""
    for name in ("pakage_name", "_src_path"):
        done = small.run(template, project, "update", "--data", f"{name}=ours")
        assert done.code == 2 and f"`{name}`. Its questions: `package_name`." in done.output
    assert project.contents() == template.project(project.root.parent / "other").contents()


def test_an_answers_file_with_conflict_markers_is_refused(
    template: Small, project: Project
) -> None:
    """Either side may be the right one."""
    path = project.root / ".copier-answers.yml"
    path.write_text(f"<<<<<<< HEAD\n{path.read_text()}=======\n_commit: {NEW}\n>>>>>>> other\n")
    project.commit()
    done = small.run(template, project, "update")
    assert done.code == 2 and "has conflict markers" in done.output


def test_hooks_of_the_owners_do_not_run(template: Small, project: Project) -> None:
    """A preview checks files out, which is not the owner's doing; nor does it count in a namespace."""
    hook = project.root / ".git/hooks/post-checkout"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    there = {"GIT_NAMESPACE": "other"}
    done = small.run(
        template, project, "update", "--preview", before=lambda: os.environ.update(there)
    )
    assert done.code == 0 and "(a preview: nothing has changed)" in done.output


@pytest.mark.parametrize(
    ("old", "new"),
    [("_commit: v1.0.0", "_commit: v1.0.0 # pinned"), ("_commit:", '"_commit":')],
)
def test_comments_and_quoted_keys_in_the_answers_are_read(
    template: Small, project: Project, old: str, new: str
) -> None:
    """As YAML reads them."""
    path = project.root / ".copier-answers.yml"
    path.write_text("# ours\n" + path.read_text().replace(old, new))
    project.commit()
    done = small.run(template, project, "update")
    assert (done.code, "From v1.0.0 to v2.0.0" in done.output) == (0, True), done.output


def test_an_answers_file_that_is_not_utf_8_is_refused(template: Small, project: Project) -> None:
    """With its line, and no traceback; the weekly job takes 2 for a failure."""
    path = project.root / ".copier-answers.yml"
    path.write_bytes(path.read_bytes() + b"# caf\xe9\n")
    project.commit()
    for arguments in (["update"], ["update", "--check"], ["drift"]):
        done = small.run(template, project, *arguments)
        assert done.code == 2 and "is not UTF-8" in done.output, done.output
        assert "Traceback" not in done.output


def test_what_is_unforeseen_is_a_refusal_and_not_a_one(template: Small, project: Project) -> None:
    """Whatever goes wrong inside: 2, what it was, and nothing has changed."""
    before = project.contents()

    def fail() -> None:
        raise LookupError("something that nobody thought of")

    failing = small.when("os.rename", f"new/{LATE}", fail)
    done = small.run(template, project, "update", before=failing)
    assert done.code == 2 and "something that nobody thought of" in done.output
    assert project.contents() == before and project.status() == []


def test_names_that_a_terminal_cannot_show_end_nothing(template: Small, project: Project) -> None:
    """In a locale without UTF-8, where a name of the owner's has other letters."""
    (project.root / "src/ours/größe.py").write_text("")
    edit(project, f"{VENDORED}/dropped.py")
    (project.root / VENDORED / "changed.py").rename(project.root / "src/ours/größe_2.py")
    project.commit()
    environment = {**template.environment(), "LC_ALL": "C", "PYTHONUTF8": "0", "LANG": "C"}
    environment["PYTHONCOERCECLOCALE"] = "0"
    command = [sys.executable, str(ROOT / COMMAND), "update"]
    done = subprocess.run(
        command, cwd=project.root, env=environment, capture_output=True, check=False
    )
    assert done.returncode == 1 and b"Traceback" not in done.stderr, done.stderr


def test_git_itself_says_what_to_do_about_a_repository_of_somebody_else(
    template: Small, project: Project
) -> None:
    """Dubious ownership is no missing repository."""
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    os.chown(project.root, 12345, 12345)
    os.chown(project.root / ".git", 12345, 12345)
    done = small.run(template, project, "update")
    assert done.code == 2 and "safe.directory" in done.output and "git init" not in done.output


def test_an_old_copier_that_comes_first_is_named(
    template: Small, project: Project, tmp_path: Path
) -> None:
    """With its version, and how to get a newer one."""
    old = tmp_path / "old/copier"
    old.parent.mkdir()
    old.write_text("#!/bin/sh\n[ $1 = --version ] && echo 'copier 8.1.0' && exit\nexit 1\n")
    old.chmod(old.stat().st_mode | stat.S_IXUSR)

    def first() -> None:
        os.environ["PATH"] = os.pathsep.join([str(old.parent), os.environ["PATH"]])

    done = small.run(template, project, "update", before=first)
    assert done.code == 2 and "Copier 8.1.0" in done.output and "pipx install" in done.output


def test_an_update_ends_with_what_to_do_next(template: Small, project: Project) -> None:
    """And an update that has nothing to do does not."""
    done = small.run(template, project, "update")
    assert re.search(r"## Next\n\n1\. See what changed", done.output)
    project.commit()
    assert small.run(template, project, "update").output == f"Up to date: {NEW}.\n"


# --- answers that change the project ----------------------------------------------------


def test_another_package_name_is_refused_until_the_folder_has_moved(
    template: Small, project: Project
) -> None:
    """With the commands that move it; after these, the update carries the answer through."""
    package = project.root / "src/ours/defs.py"
    package.write_text("import ours\n\n" + package.read_text())
    project.commit()
    before = project.contents()
    renaming = ("update", "--data", "package_name=theirs")
    refused = small.run(template, project, *renaming)
    assert refused.code == 2 and project.contents() == before
    commands = "\n".join(re.findall(r"^    (.+)$", refused.output, re.MULTILINE))
    (project.root / "tests").mkdir()
    subprocess.run(["bash", "-euc", commands], cwd=project.root, check=True)
    assert small.run(template, project, *renaming).code == 0
    assert text(project, "src/theirs/defs.py").startswith("import theirs\n")
    assert 'root_module = "theirs"' in text(project, "pyproject.toml")
    assert not (project.root / "src/ours").exists()


def test_each_condition_in_the_documents_has_its_test() -> None:
    """docs/update.md names one for each row of its table."""
    text = (ROOT / "docs/update.md").read_text()
    named = re.findall(r"test_conditions\.py\) `(\w+)`", text)
    assert len(named) > 15 and {f"test_{name}" for name in named} <= set(globals())
