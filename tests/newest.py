"""Tries a generated project with the newest versions: `python -m tests.newest within`, or `beyond`.

`within` takes the newest that the project's ranges allow, `beyond` the newest there are. It prints, in
Markdown, what has moved and what fails, and ends with 1 if anything does. CI runs both once a week.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from copier import run_copy

from tests.conftest import ROOT

WATCHED = ("dagster", "dagster-webserver", "sqlmesh", "sqlglot", "duckdb", "copier")
_RANGE = re.compile(r'^(    "[\w-]+)[<>=!~][^"]*"', re.MULTILINE)
STEPS = {
    "contracts": ("pytest", "-q", "tests/sqlmesh_dagster/test_upstream_contract.py"),
    "check": ("poe", "check"),
    "run": ("poe", "run"),
    "test": ("poe", "test"),
}
"""What is run in the project, each although one before has failed."""


@dataclass(frozen=True)
class Tried:
    """What a step ended with."""

    step: str
    code: int
    output: str


def try_newest(folder: Path, python: str, mode: str) -> tuple[dict[str, str], list[Tried]]:
    """The versions that were installed, and how each step ended."""
    project = folder / "project"
    run_copy(str(ROOT), project, vcs_ref="HEAD", defaults=True, quiet=True)
    if mode == "beyond":
        settings = project / "pyproject.toml"
        settings.write_text(_RANGE.sub(r'\1"', settings.read_text()))
    subprocess.run([python, "-m", "venv", folder / "venv"], check=True)
    tools = folder / "venv/bin"
    pip = (str(tools / "python"), "-m", "pip", "--quiet")
    wanted = ("--editable", ".", "--group", "dev", "copier")
    for arguments in (("--upgrade", "pip>=25.1"), ("--upgrade", *wanted)):
        installed = _run(project, tools, "install", *pip, "install", *arguments)
        if installed.code:
            return {}, [installed]
    return _versions(project, tools), [
        _run(project, tools, step, str(tools / command[0]), *command[1:])
        for step, command in STEPS.items()
    ]


def report(mode: str, versions: Mapping[str, str], tried: list[Tried]) -> str:
    """In Markdown, for an issue."""
    pins = (ROOT / "template/pyproject.toml.jinja").read_text()
    lines = [
        f"# The newest versions, {mode} the ranges",
        "",
        "| package | installed | on the index | the template's |",
    ]
    lines.append("|---|---|---|---|")
    for name in WATCHED:
        pinned = re.search(rf'"{name}([^"\w-][^"]*)"', pins)
        facts = (name, versions.get(name, "?"), _newest(name), pinned[1] if pinned else "")
        lines.append(f"| {' | '.join(facts)} |")
    for result in tried:
        lines += ["", f"## {result.step}: {'fails' if result.code else 'passes'}"]
        if result.code:
            lines += ["", "```", *result.output.splitlines()[-40:], "```"]
    return "\n".join(lines)


def _newest(name: str) -> str:
    """What the index has; where it is newer than what was installed, another package does not go with it."""
    command = [sys.executable, "-m", "pip", "index", "versions", name]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    found = re.match(r"\S+ \((\S+)\)", said)
    return found[1] if found else "unknown"


def _versions(project: Path, tools: Path) -> dict[str, str]:
    listed = _run(
        *(project, tools, "list", str(tools / "python")),
        *("-m", "pip", "list", "--format", "json"),
    )
    return {entry["name"]: entry["version"] for entry in json.loads(listed.output.splitlines()[0])}


def _run(project: Path, tools: Path, step: str, *command: str) -> Tried:
    done = subprocess.run(
        command,
        cwd=project,
        env={**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return Tried(step, done.returncode, done.stdout)


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mode", choices=["within", "beyond"])
    parser.add_argument("--python", default=sys.executable, help="for the project's environment")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        versions, tried = try_newest(Path(folder), options.python, options.mode)
    print(report(options.mode, versions, tried))
    return int(any(result.code for result in tried))


if __name__ == "__main__":
    sys.exit(main())
