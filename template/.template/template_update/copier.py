"""Copier: always a process of its own, and with `--trust` only if the user gave it."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from template_update import answers
from template_update.errors import Refused

_FLOOR = "copier>=9.18,<10"
_OLDEST = (9, 18)
_UNSAFE = 4  # Copier's exit code for "needs --trust"


def find() -> list[str]:
    """The command that runs Copier.

    Raises:
        Refused: There is none.
    """
    if found := shutil.which("copier"):
        return [found]
    if importlib.util.find_spec("copier"):
        return [sys.executable, "-m", "copier"]
    if found := shutil.which("uvx"):
        return [found, _FLOOR]
    raise Refused(
        f"Copier is not installed. Run `pipx install '{_FLOOR}'`, or"
        f" `python -m pip install '{_FLOOR}'`, or install uv, and try again."
    )


@dataclass(frozen=True)
class Copy:
    """A render of one version of the template with a project's answers."""

    root: Path
    target: Path
    version: str
    """A tag or a commit."""
    is_new: bool = False
    """Whether the answers that are to change are used."""
    answers_file: str = answers.NAME


@dataclass(frozen=True)
class Copier:
    """Copier on one project: it asks nothing, and uses stored answers and the defaults of new questions."""

    data: Sequence[str] = ()
    """`NAME=VALUE`, answers to change."""
    is_trusted: bool = False
    command: list[str] = field(default_factory=find)

    def newest(self, root: Path) -> str | None:
        """The newest version, or None where the project is up to date.

        Raises:
            Refused: Copier cannot tell.
        """
        said = self._run(root, "check-update", "--output-format", "json")
        found = json.loads(said)
        return str(found["latest_version"]) if found["update_available"] else None

    def render(self, *copies: Copy) -> None:
        """Copy the template to folders, all at once.

        Raises:
            Refused: Copier fails.
        """
        started = [self._start(copy.root, "copy", *self._copy(copy)) for copy in copies]
        try:
            for copy, process in zip(copies, started, strict=True):
                self._finish(copy.root, "copy", process)
        finally:
            for process in started:
                process.kill()
                process.wait()

    def update(self, root: Path, version: str) -> None:
        """Update the project to a tag or a commit.

        Raises:
            Refused: Copier fails; it may have changed files.
        """
        trust = ["--trust"] if self.is_trusted else []
        options = ["--skip-answered", "--defaults", "--answers-file", answers.NAME]
        self._run(root, "update", *options, *trust, *self._data(), f"--vcs-ref={version}")

    def _copy(self, copy: Copy) -> list[str]:
        return [
            *("--quiet", "--defaults", "--skip-tasks", "--data-file", copy.answers_file),
            *(self._data() if copy.is_new else ()),
            f"--vcs-ref={copy.version}",
            answers.read(copy.root).source,
            str(copy.target),
        ]

    @property
    def given(self) -> dict[str, str]:
        """The answers of the command, by their questions."""
        return dict(pair.partition("=")[::2] for pair in self.data)

    def _data(self) -> list[str]:
        return [f"--data={pair}" for pair in self.data]

    def _run(self, root: Path, subcommand: str, *arguments: str) -> str:
        return self._finish(root, subcommand, self._start(root, subcommand, *arguments))

    def _start(self, root: Path, subcommand: str, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*self.command, subcommand, *arguments],
            cwd=root,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            env=_environment(),
        )

    def _finish(self, root: Path, subcommand: str, process: subprocess.Popen[str]) -> str:
        try:
            output, said = process.communicate()
        except BaseException:
            process.kill()
            process.wait()
            raise
        if process.returncode:
            raise Refused(
                _too_old(self.command)
                or _explain(subcommand, process.returncode, said.strip(), answers.read(root).source)
            )
        return output


def _environment() -> dict[str, str]:
    """UTF-8 whatever the locale; file names as they are, which Copier reads from git."""
    number = int(os.environ.get("GIT_CONFIG_COUNT") or 0)
    return {
        **os.environ,
        "PYTHONUTF8": "1",
        "GIT_CONFIG_COUNT": str(number + 1),
        f"GIT_CONFIG_KEY_{number}": "core.quotePath",
        f"GIT_CONFIG_VALUE_{number}": "false",
    }


def _too_old(command: list[str]) -> str | None:
    """A message, if the first Copier on the PATH is too old."""
    result = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"(\d+)\.(\d+)[.\d]*", result.stdout)
    if found is None or (int(found[1]), int(found[2])) >= _OLDEST:
        return None
    return (
        f"`{' '.join(command)}` is Copier {found[0]}, and the template needs `{_FLOOR}`. Install that,"
        f" such as by `pipx install --force '{_FLOOR}'`, so that it is first on the PATH, and try again."
    )


def _explain(subcommand: str, code: int, said: str, source: str) -> str:
    if code == _UNSAFE:
        return (
            "This version has a migration: a script of the template's that runs in the project. Read in"
            " the changelog what it does, then run the update with `--trust`."
        )
    if "Unknown revision" in said or "did not match any file" in said:
        return (
            f"The template does not have the version that `{answers.NAME}` names as `_commit`: it was"
            " copied from uncommitted work, or its history was rewritten. Run `copier recopy`, look"
            " at `git diff`, and restore what you want to keep."
        )
    if "git-tracked templates" in said or "must be a directory" in said:
        return (
            f"The template is not at `{source}`, which `{answers.NAME}` names as `_src_path`: a folder"
            " that has moved, or a path that is relative to where the project was copied. Set"
            " `_src_path` to the template's address, or to its whole path, commit that, and try again."
        )
    last = re.split(r"\n(?=\S)", said)[-1]
    return f"`copier {subcommand}` failed with exit code {code}: {last or 'it printed nothing'}"
