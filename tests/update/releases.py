"""The template's versions, as tags of a clone: released ones, what is on disk, and one to come."""

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import ROOT
from tests.tree import parse_toml

RELEASES: dict[str, str] = parse_toml(ROOT / "releases.toml")["versions"]


def _after(version: str) -> str:
    major, minor, *_ = version.split(".")
    return f"{major}.{int(minor) + 1}.0"


NEXT = _after(list(RELEASES)[-1])
"""What is on disk, as it would be released."""


def git(folder: Path, *arguments: str) -> str:
    """Output of a git command."""
    command = ["git", "-C", str(folder), *arguments]
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    assert result.returncode == 0, f"{command}: {result.stderr}"
    return result.stdout


def commit(folder: Path, message: str, tag: str | None = None) -> None:
    """Commit everything, and tag it."""
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--allow-empty", "--message", message)
    if tag:
        git(folder, "tag", tag)


@dataclass(frozen=True)
class Template:
    """A clone of this repository whose tags are versions."""

    root: Path

    def release(self, version: str, change: Callable[[Path], None]) -> str:
        """Commit a change to the newest version and tag it; returns the tag."""
        change(self.root)
        commit(self.root, f"Version {version}", f"v{version}")
        return f"v{version}"


def clone(source: Path, target: Path) -> Template:
    """Tag each released version; the files of `source`, which are not committed, are the next one."""
    subprocess.run(["git", "clone", "--quiet", "--no-tags", ROOT, target], check=True)
    for version, commit_id in RELEASES.items():
        found = subprocess.run(
            ["git", "-C", target, "tag", f"v{version}", commit_id], capture_output=True, check=False
        )
        assert found.returncode == 0, (
            f"Commit {commit_id} of version {version} is not in this clone. Fetch the whole history:"
            " `git fetch --unshallow`."
        )
    for path in target.iterdir():
        if path.name != ".git":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.copytree(source, target, dirs_exist_ok=True)
    commit(target, f"Version {NEXT}", f"v{NEXT}")
    return Template(target)
