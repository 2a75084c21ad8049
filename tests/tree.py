"""A tree of files, and the tools that are run on it."""

import subprocess
import sys
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def files(project: Path) -> list[Path]:
    """All files that Copier wrote."""
    return sorted(path for path in project.rglob("*") if path.is_file())


def tracked(folder: Path) -> list[Path]:
    """The files below a folder that git knows, and new ones that it does not ignore."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.check_output(command, cwd=folder, text=True).split("\0")
    return [path for name in sorted(set(names)) if (path := folder / name).is_file()]


def parse_toml(path: Path) -> dict[str, Any]:
    """The content of a TOML file."""
    return tomllib.loads(path.read_text())


def run_tool(*command: str, cwd: Path) -> None:
    """Run a Python tool in `cwd`; what it prints is the failure message."""
    result = subprocess.run(
        [sys.executable, "-m", *command], cwd=cwd, text=True, capture_output=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
