"""A generated project, as its owner works with it."""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from copier import run_copy

from template_update.copier import find
from tests.compiled import no_git_to_ask
from tests.update.releases import Template, commit, git

COMMAND = Path("template/.template")
BOT = ["--skip-answered", "--defaults", "--answers-file", ".copier-answers.yml"]
"""What Renovate gives to `copier update`, besides the version."""


@dataclass(frozen=True)
class Project:
    """A project in git; nothing here trusts the template."""

    root: Path

    def commit(self, message: str = "Mine") -> None:
        """Commit everything."""
        commit(self.root, message)

    def copier(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run Copier without a terminal."""
        return self._run(*find(), *arguments)

    def update_as_a_bot(self, tag: str) -> None:
        """The exact line of a dependency bot."""
        done = self.copier("update", *BOT, "--vcs-ref", tag)
        assert done.returncode == 0, done.stderr

    def command(
        self, *arguments: str, program: Path = Path(".template")
    ) -> subprocess.CompletedProcess[str]:
        """Run `python .template`, as the task runner does, or that of another version."""
        return self._run(sys.executable, str(program), *arguments)

    def report(self, *arguments: str, program: Path = Path(".template")) -> dict[str, Any]:
        """What `update --json` says; its exit code is the process's."""
        done = self.command("update", "--json", *arguments, program=program)
        assert done.stdout, done.stderr
        report: dict[str, Any] = json.loads(done.stdout)
        assert report["exit_code"] == done.returncode, done.stderr
        return report

    def status(self) -> list[str]:
        """What git says of the tree, ignored files left out."""
        return git(self.root, "status", "--porcelain", "--no-renames", "-uall").splitlines()

    def unmerged(self) -> set[str]:
        """Files in conflict, as git sees them."""
        listed = git(self.root, "ls-files", "--unmerged", "-z").split("\0")
        return {entry.partition("\t")[2] for entry in listed if entry}

    def contents(self) -> dict[str, bytes]:
        """Every file outside of git's own folder and Python's caches."""
        return {
            path.relative_to(self.root).as_posix(): path.read_bytes()
            for path in sorted(self.root.rglob("*"))
            if path.is_file()
            and not {".git", "__pycache__"} & set(path.relative_to(self.root).parts)
        }

    def append(self, name: str, text: str) -> None:
        """Add a line at the end of a file."""
        path = self.root / name
        path.write_text(path.read_text() + text + "\n")

    def _run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=self.root,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )


def copy(template: Template, root: Path, tag: str, answers: Mapping[str, str]) -> Project:
    """A project of a version, committed."""
    rendered = _render(template.root, tag, tuple(answers.items()))
    shutil.copytree(rendered.name, root, symlinks=True, dirs_exist_ok=True)
    git(root, "init", "--quiet")
    project = Project(root)
    project.commit("Start")
    return project


def is_carrying(project: Project) -> bool:
    """Whether the project's own command brings edits into files that the template moved.

    0.2.0's saves them in `.mine` files; a review by the command that it brought carries them.
    """
    return (project.root / ".template/template_update/moves.py").is_file()


@cache
def _render(
    template: Path, tag: str, answers: tuple[tuple[str, str], ...]
) -> tempfile.TemporaryDirectory[str]:
    """What Copier makes of a tag, which never moves."""
    folder = tempfile.TemporaryDirectory()
    with no_git_to_ask():
        run_copy(
            *(str(template), folder.name, dict(answers)),
            vcs_ref=tag,
            defaults=True,
            overwrite=True,
            unsafe=False,
            quiet=True,
        )
    return folder
