"""Copier, as it is run: always a process, never with more trust than was asked for."""

import importlib.util
import json
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
class Copier:
    """Copier on one project: no questions, answers as stored, new questions by their defaults."""

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

    def render(self, root: Path, target: Path, version: str | None, *, is_new: bool) -> None:
        """Copy the template to a folder, with the project's answers.

        Args:
            version: A tag or a commit; the newest release by default.
            is_new: With the answers that are to change.

        Raises:
            Refused: Copier fails.
        """
        self._run(
            root,
            "copy",
            *(f"--vcs-ref={version}" for _ in "1" if version),
            *(self._data() if is_new else ()),
            *("--defaults", "--skip-tasks", "--data-file", answers.NAME),
            answers.read(root).source,
            str(target),
        )

    def update(self, root: Path, version: str) -> None:
        """Update the project to a tag or a commit.

        Raises:
            Refused: Copier fails; it may have changed files.
        """
        trust = ["--trust"] if self.is_trusted else []
        options = ["--skip-answered", "--defaults", "--answers-file", answers.NAME]
        self._run(root, "update", *options, *trust, *self._data(), f"--vcs-ref={version}")

    def _data(self) -> list[str]:
        return [f"--data={pair}" for pair in self.data]

    def _run(self, root: Path, subcommand: str, *arguments: str) -> str:
        command = [*self.command, subcommand, *arguments]
        result = subprocess.run(
            command, cwd=root, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
        )
        if result.returncode:
            source = answers.read(root).source
            raise Refused(_explain(subcommand, result.returncode, result.stderr.strip(), source))
        return result.stdout


def _explain(subcommand: str, code: int, said: str, source: str) -> str:
    if code == _UNSAFE:
        return (
            "This version brings a migration: a script of the template's that runs here. Read in the"
            " changelog what it does, then run the update with `--trust`."
        )
    if "Unknown revision" in said or "did not match any file" in said:
        return (
            f"The template does not have the version that `{answers.NAME}` names as `_commit`: it was"
            " copied from uncommitted work, or its history was rewritten. Run `copier recopy`, look"
            " at `git diff`, and take back what you want to keep."
        )
    if "git-tracked templates" in said or "must be a directory" in said:
        return (
            f"The template is not at `{source}`, which `{answers.NAME}` names as `_src_path`: a folder"
            " that has moved, or a path that is relative to where the project was copied. Set"
            " `_src_path` to the template's address, or to its whole path, commit that, and try again."
        )
    last = re.split(r"\n(?=\S)", said)[-1]
    return f"`copier {subcommand}` failed with exit code {code}: {last or 'it said nothing'}"
