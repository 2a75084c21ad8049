"""`poe update`: what it refuses, reports, saves, previews and undoes, on real trees and processes."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.tree import parse_toml
from tests.update.projects import Project, copy
from tests.update.releases import Template, clone, git

VENDORED = "src/sqlmesh_dagster"
OLD, NEW = "v90.0.0", "v90.1.0"
CHANGELOG = """# Changelog

## [Unreleased]

### Changed

- The fix of all fixes.

## [90.0.0] - 2030-01-01

- Old news.
"""


def ship(template: Path) -> None:
    """Version 90.0.0 has a few more files of the template's."""
    folder = template / "template" / VENDORED
    for name in ("changed", "dropped", "renamed", "moved_here", "clean", "ignored"):
        (folder / f"{name}.py").write_text("".join(f"{name}_{n} = {n}\n" for n in range(9)))
    (folder / "logo.bin").write_bytes(b"\0logo")


def fix(template: Path) -> None:
    """Version 90.1.0 changes most of them, and asks something new."""
    folder = template / "template" / VENDORED
    for name in ("changed", "moved_here", "clean", "ignored"):
        path = folder / f"{name}.py"
        path.write_text(path.read_text().replace("_4 = 4", "_4 = 44"))
    (folder / "dropped.py").unlink()
    (folder / "renamed.py").rename(folder / "new_name.py")
    (template / "CHANGELOG.md").write_text(CHANGELOG)
    questions = template / "copier.yml"
    added = 'ribbon:\n  type: str\n  help: Which ribbon?\n  default: "it\'s blue"\n\n'
    questions.write_text(questions.read_text().replace("# --- owner", added + "# --- owner", 1))


@pytest.fixture(scope="module")
def template(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Template:
    """The versions of this repository, 90.0.0 and 90.1.0."""
    template = clone(source, tmp_path_factory.mktemp("command") / "template")
    assert (template.release("90.0.0", ship), template.release("90.1.0", fix)) == (OLD, NEW)
    return template


@pytest.fixture(scope="module")
def start(template: Template, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project of version 90.0.0; only read it."""
    return copy(template, tmp_path_factory.mktemp("start") / "project", OLD, {})


@pytest.fixture
def project(start: Project, tmp_path: Path) -> Project:
    """A project of version 90.0.0."""
    return Project(shutil.copytree(start.root, tmp_path / "project", symlinks=True))


def rewrite(project: Project, name: str, change: Callable[[str], str]) -> None:
    """Change a text."""
    path = project.root / name
    path.write_text(change(path.read_text()))


def edit(project: Project) -> None:
    """Meet each thing that a plain update does not report."""
    rewrite(project, f"{VENDORED}/changed.py", lambda text: text.replace("_4 = 4", "_4 = 'mine'"))
    project.append(f"{VENDORED}/dropped.py", "mine = 1")
    project.append(f"{VENDORED}/renamed.py", "mine = 2")
    (project.root / VENDORED / "moved_here.py").rename(project.root / "src/my_platform/moved.py")
    (project.root / VENDORED / "logo.bin").write_bytes(b"\0my logo")
    project.append(".gitignore", "ignored.py")
    git(project.root, "rm", "--quiet", "--cached", f"{VENDORED}/ignored.py")
    rewrite(project, f"{VENDORED}/ignored.py", lambda text: "ignored_first = 1\n" + text)
    project.commit()


def test_it_tells_and_saves_what_a_plain_update_hides(project: Project) -> None:
    """A dropped and a renamed file, a fix without its file, a binary, a conflict: each is reported."""
    edit(project)
    mine = project.contents()

    report = project.report()

    named = {kind: {found["path"] for found in report[kind]} for kind in ("conflict", "missed")}
    assert named == {
        "conflict": {f"{VENDORED}/changed.py"},
        "missed": {f"{VENDORED}/moved_here.py"},
    }
    assert "src/my_platform/moved.py" in report["missed"][0]["reason"]
    for name in ("dropped", "renamed"):
        path = f"{VENDORED}/{name}.py"
        assert {"path": path, "saved_as": f"{path}.mine"}.items() <= next(
            found.items() for found in report["saved"] if found["path"] == path
        )
        assert project.contents()[f"{path}.mine"] == mine[path]
    assert report["restored"] == [], "nothing is undone, so that nothing must be put back"
    assert (project.root / VENDORED / "logo.bin").read_bytes() == b"\0my logo"
    ignored = (project.root / VENDORED / "ignored.py").read_text()
    assert "ignored_first = 1\n" in ignored and "_4 = 44" in ignored
    assert (report["exit_code"], report["before"], report["after"]) == (1, OLD, NEW)
    assert report["changelog"] == "## 90.1.0\n\n### Changed\n\n- The fix of all fixes."
    assert report["new_answers"] == {"ribbon": "it's blue"}


def test_an_update_that_hides_nothing_ends_with_zero(project: Project) -> None:
    """And a second one has nothing to do."""
    rewrite(project, f"{VENDORED}/clean.py", lambda text: f"{text}mine = 1\n")
    project.commit()
    known = project.command("update", "--check")
    assert known.returncode == 1 and "The fix of all fixes" in known.stdout
    assert "differ" not in known.stdout and project.status() == []
    assert project.report()["exit_code"] == 0
    text = (project.root / VENDORED / "clean.py").read_text()
    assert "clean_4 = 44" in text and text.endswith("mine = 1\n")
    project.commit()
    again = project.command("update")
    assert (again.returncode, again.stdout) == (0, f"Up to date: {NEW}.\n")
    assert project.command("update", "--check").returncode == 0
    assert project.status() == []


def test_another_warehouse_leaves_one_line_for_the_owner(project: Project) -> None:
    """Promise: packages arrive by the answer; the config is the owner's, who is shown the line, until it is there."""
    config = project.root / "sqlmesh_project/config.py"
    old = config.read_text().replace("with_warehouse", "unchanged")
    config.write_text(old)
    project.commit()
    done = project.command("update", "--data", "warehouse=postgres")
    assert done.returncode == 1, done.stderr
    line = "from sqlmesh_dagster.gateways import with_warehouse; config = with_warehouse(config)"
    steps = [text for text in done.stdout.splitlines() if line in text]
    assert len(steps) == 1 and "at the end of `sqlmesh_project/config.py`" in steps[0]
    assert '"psycopg2-binary>=' in (project.root / "pyproject.toml").read_text()
    assert config.read_text() == old
    config.write_text(f"{old}\n{line}\n")
    project.commit()
    report = project.report("--data", "warehouse=duckdb")
    assert (report["left"], report["changelog"]) == ("", "")  # that version is there


def test_a_deployment_comes_changes_and_goes_by_its_answer(project: Project) -> None:
    """Promise: the template's files follow the answer; the owner's are neither written nor deleted."""
    root = project.root
    own = {"compose.override.yaml": "services: {}\n", "deploy/kubernetes/own.yaml": "mine: 1\n"}
    done = project.command("update", "--data", "deployment=docker-compose")
    assert done.returncode == 1, done.stderr
    assert done.stdout.count("`# POSTGRES_PASSWORD=` into `.env.example`") == 1
    assert "- `deployment`:" not in done.stdout and "- `ribbon`:" in done.stdout
    assert (root / "compose.yaml").is_file() and (root / "Dockerfile").is_file()
    assert not any((root / name).exists() for name in own)
    assert '"dagster-postgres==' in (root / "pyproject.toml").read_text()
    with (root / ".env.example").open("a") as example:
        example.write("# POSTGRES_PASSWORD=\n")
    for name, text in own.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    project.commit()

    done = project.command("update", "--data", "deployment=kubernetes")
    assert done.returncode == 0, done.stderr
    # nothing of what the version brings, which is there, and no question that somebody else has answered
    told = done.stdout.partition("\n## Next")[0].splitlines()
    assert told[0] == f"# {NEW}, with other answers"
    assert len(told) == 3 and "Nothing of yours is lost" in told[2], told
    assert (root / "deploy/kubernetes/values.yaml").is_file()
    assert not (root / "compose.yaml").exists()
    project.commit()
    report = project.report("--data", "deployment=none")
    assert report.get("left") == "", report
    left = {path.relative_to(root).as_posix() for path in (root / "deploy").rglob("*.*")}
    assert left == {"deploy/kubernetes/own.yaml"} and not (root / "Dockerfile").exists()
    assert {name: (root / name).read_text() for name in own} == own
    (root / "Dockerfile").write_text("FROM scratch\n")
    project.commit()
    drift = project.command("drift", "--json")
    assert not [name for names in json.loads(drift.stdout).values() if "Dockerfile" in str(names)]


@pytest.mark.parametrize("name", ["README.md", "new.txt", f"{VENDORED}/clean.py"])
def test_it_refuses_a_dirty_tree(project: Project, name: str) -> None:
    """Owner's, new or the template's file: it is named, and nothing changes."""
    with (project.root / name).open("a") as file:
        file.write("mine\n")
    before = project.contents()
    refused = project.command("update")
    assert refused.returncode == 2 and name in refused.stderr
    assert project.contents() == before


def test_it_says_what_to_do_where_it_cannot_work(project: Project, tmp_path: Path) -> None:
    """Outside of git, without answers, without Copier: one sentence with the next step."""
    shutil.rmtree(project.root / ".git")
    no_git = project.command("update")
    assert no_git.returncode == 2 and "git init" in no_git.stderr

    stranger = Project(tmp_path / "stranger")
    stranger.root.mkdir()
    no_project = stranger.command("update", program=project.root / ".template")
    assert no_project.returncode == 2 and ".copier-answers.yml" in no_project.stderr

    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    git_alone = tmp_path / "bin"
    git_alone.mkdir()
    (git_alone / "git").symlink_to(str(shutil.which("git")))
    no_copier = subprocess.run(
        [tmp_path / "bare/bin/python", ".template", "update", "--json"],
        cwd=project.root,
        env={**os.environ, "PATH": str(git_alone)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert no_copier.returncode == 2 and "pipx install" in no_copier.stderr
    assert json.loads(no_copier.stdout)["exit_code"] == 2


def test_a_template_that_is_not_where_the_answers_say_is_named(project: Project) -> None:
    """Copied by a relative path, or moved since: what to set, and where."""
    rewrite(
        project,
        ".copier-answers.yml",
        lambda text: re.sub("_src_path: .*", "_src_path: gone", text),
    )
    project.commit()
    for arguments in (["update"], ["update", "--to", NEW], ["update", "--check"]):
        refused = project.command(*arguments)
        assert refused.returncode == 2, refused.stdout
        assert "`gone`" in refused.stderr and "`_src_path`" in refused.stderr
    assert project.status() == []


def test_a_folder_in_the_place_of_a_file_is_named(project: Project) -> None:
    """Copier fails on it without a message."""
    path = project.root / VENDORED / "clean.py"
    path.unlink()
    path.mkdir()
    (path / "mine.py").touch()
    project.commit()
    refused = project.command("update")
    assert refused.returncode == 2 and f"`{VENDORED}/clean.py` is a folder" in refused.stderr
    assert project.status() == []


def test_a_failing_update_changes_nothing(
    template: Template, project: Project, tmp_path: Path
) -> None:
    """A version whose template is broken, one that does not exist, and a downgrade."""
    broken = Template(shutil.copytree(template.root, tmp_path / "broken"))
    answers = project.root / ".copier-answers.yml"
    answers.write_text(answers.read_text().replace(str(template.root), str(broken.root)))
    project.commit()

    def break_it(root: Path) -> None:
        (root / "template" / VENDORED / "zz.py.jinja").write_text("{{ not_there }}")

    broken.release("91.0.0", break_it)
    before = project.contents()
    reasons = {
        "v91.0.0": "`copier copy` failed",
        "v12345.0.0": "has no version `v12345.0.0`",
        "v0.1.0": f"is older than `{OLD}`",
    }
    for version, reason in reasons.items():
        failed = project.command("update", "--to", version)
        assert failed.returncode == 2 and reason in failed.stderr, version
        assert project.contents() == before and project.status() == []


def slow_git(folder: Path) -> Path:
    """A `git` that, once the files are written and conflicts are due, says so and never ends."""
    folder.mkdir()
    script, done = folder / "git", folder / "done"
    script.write_text(
        '#!/bin/sh\ncase "$GIT_INDEX_FILE$*" in\n'
        f"  -C*--index-info*) touch '{done}'; exec sleep 3600 ;; # the project's own index\n"
        "esac\n"
        f"exec '{shutil.which('git')}' \"$@\"\n"
    )
    script.chmod(0o755)
    return done


def _hear_signals() -> None:
    """The tests may run where these are ignored, as in the background of a shell; a child inherits that."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_update_leaves_nothing_behind(
    project: Project, tmp_path: Path, stop: signal.Signals
) -> None:
    """Stopped when the tree is new and the index is not: it undoes itself; killed, `--undo` undoes it."""
    edit(project)
    before = project.contents()
    done = slow_git(tmp_path / "bin")
    path = os.pathsep.join([str(done.parent), os.environ["PATH"]])
    command = [sys.executable, ".template", "update"]
    process = subprocess.Popen(
        command,
        cwd=project.root,
        env={**os.environ, "PATH": path},
        start_new_session=True,
        preexec_fn=_hear_signals,
    )
    try:
        deadline = time.monotonic() + 240
        while not done.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        assert done.exists() and project.status() != []
        process.send_signal(stop)
        code = process.wait(timeout=120)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # `sleep` outlives a command that is killed
    if stop is signal.SIGKILL:
        assert project.command("update", "--undo").returncode == 0
    else:
        assert code == 2
    assert project.contents() == before and project.status() == []


def test_a_preview_changes_nothing_and_tells_the_same(project: Project) -> None:
    """It happens in a worktree that is gone afterwards; the update then says it again, in Markdown."""
    edit(project)
    (project.root / "README.md").write_text("Not committed, which does not matter here.\n")
    before, status = project.contents(), project.status()
    preview = project.command("update", "--preview")
    assert project.contents() == before and project.status() == status
    assert len(git(project.root, "worktree", "list").splitlines()) == 1
    told, _, listed = preview.stdout.partition("\n## Files")
    assert preview.returncode == 1 and f"{VENDORED}/clean.py" in listed

    git(project.root, "checkout", "--", "README.md")
    done = project.command("update")

    def lines(text: str) -> list[str]:
        """A worktree has no file that git ignores."""
        found = text.strip().splitlines()
        return [line for line in found if "ignored.py" not in line and "files differ" not in line]

    assert done.returncode == 1 and lines(told) == lines(done.stdout.partition("\n## Next")[0])
    headings = [line for line in done.stdout.splitlines() if line.startswith("#")]
    assert headings[0] == f"# From {OLD} to {NEW}" and len(headings) == 8, headings
    assert f"`{VENDORED}/dropped.py.mine`" in done.stdout and "`ribbon`" in done.stdout


def test_undo_goes_back_to_before_and_keeps_later_work(project: Project) -> None:
    """Every byte is as it was, and what was changed since is in place or in git's own folder."""
    edit(project)
    before = project.contents()
    project.report()
    (project.root / "notes.txt").write_text("written after the update\n")
    project.append("README.md", "Also written after the update.")
    project.append(f"{VENDORED}/clean.py", "settled = True")

    undone = json.loads(project.command("update", "--undo", "--json").stdout)

    kept = Path(undone["kept"])
    assert "settled = True" in (kept / VENDORED / "clean.py").read_text()
    assert project.status() == [" M README.md", "?? notes.txt"]
    (project.root / "notes.txt").unlink()
    git(project.root, "checkout", "--", "README.md")
    assert project.contents() == before and project.status() == []
    twice = project.command("update", "--undo")
    assert twice.returncode == 2 and "no update to undo" in twice.stderr


def test_undo_refuses_what_is_committed(project: Project) -> None:
    """Git is the better tool then, and the message says which command."""
    project.report()
    project.commit()
    before = project.contents()
    refused = project.command("update", "--undo")
    assert refused.returncode == 2 and "git revert" in refused.stderr
    assert project.contents() == before


def test_a_plain_update_can_be_reviewed_and_undone(project: Project) -> None:
    """Who ran `copier update` gets the same report, and the way back; without one, a refusal."""
    edit(project)
    before = project.contents()
    nothing = project.command("update", "--review")
    assert nothing.returncode == 2 and "no update to review" in nothing.stderr
    project.update_as_a_bot(NEW)
    report = project.report("--review")
    assert {found["path"] for found in report["saved"]} == {
        f"{VENDORED}/dropped.py",
        f"{VENDORED}/renamed.py",
    }
    assert [found["path"] for found in report["restored"]] == [f"{VENDORED}/logo.bin"]
    assert project.command("update", "--undo").returncode == 0
    outside_git = f"{VENDORED}/ignored.py"
    assert project.contents() | {outside_git: b""} == before | {outside_git: b""}


def test_a_project_in_a_folder_of_a_repository_is_updated_alone(
    template: Template, tmp_path: Path
) -> None:
    """Saved edits, preview and undo stay in the project's folder, whatever is next to it."""
    root = tmp_path / "repository"
    nested = copy(template, root / "platform", OLD, {})
    shutil.rmtree(nested.root / ".git")
    git(root, "init", "--quiet")
    (root / "other.txt").write_text("other\n")
    edit_in_folder = nested.root / VENDORED / "dropped.py"
    edit_in_folder.write_text(edit_in_folder.read_text() + "mine = 1\n")
    Project(root).commit()
    (root / "other.txt").write_text("work in progress elsewhere\n")
    before = nested.contents()

    preview, report = nested.report("--preview"), nested.report()

    assert preview["saved"] == report["saved"] and len(report["saved"]) == 1
    assert (nested.root / f"{VENDORED}/dropped.py.mine").is_file()
    assert nested.command("update", "--undo").returncode == 0
    assert nested.contents() == before
    assert (root / "other.txt").read_text() == "work in progress elsewhere\n"


def test_the_task_runner_has_one_verb_for_each_command() -> None:
    """`poe update` and `poe drift` pass their arguments on."""
    tasks = parse_toml(ROOT / "template/poe_tasks.toml")["tasks"]
    commands = {name: tasks[name]["cmd"] for name in ("update", "drift")}
    assert commands == {name: f"python .template {name}" for name in commands}
