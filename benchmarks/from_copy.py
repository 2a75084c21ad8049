"""Seconds from `copier copy` to every model materialized, and where they go: with pip, and with uv where it is.

`python -m benchmarks.from_copy` copies, installs and runs twice in empty folders. The first round fills the
caches of pip and uv, and the second is printed: packages come from the cache, everything else is new.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTHON = ".venv/bin/python"
WITH_PIP: Mapping[str, Sequence[str]] = {
    "environment": (sys.executable, "-m", "venv", ".venv"),
    "pip itself": (PYTHON, "-m", "pip", "install", "--quiet", "--upgrade", "pip>=25.1"),
    "packages": (PYTHON, "-m", "pip", "install", "--quiet", "--editable", ".", "--group", "dev"),
    "poe run": (".venv/bin/poe", "run"),
}
WITH_UV: Mapping[str, Sequence[str]] = {
    "environment and packages": ("uv", "sync", "--quiet"),
    "poe run": ("uv", "run", "poe", "run"),
}


def main() -> None:
    """Prints a table for each tool."""
    tools = {"pip": WITH_PIP, **({"uv": WITH_UV} if shutil.which("uv") else {})}
    for tool, steps in tools.items():
        with tempfile.TemporaryDirectory() as folder:
            rounds = [measure(Path(folder, str(n)), steps) for n in range(2)]
        print(f"| with {tool} | seconds |\n| --- | --- |")
        for step, seconds in rounds[-1].items():
            print(f"| {step} | {seconds:.1f} |")
        print(f"| all | {sum(rounds[-1].values()):.1f} |\n", flush=True)


def measure(project: Path, steps: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Copies, and takes the steps in the project.

    Returns:
        Seconds of each.
    """
    copier = [sys.executable, "-m", "copier", "copy", "--quiet", "--defaults", "--vcs-ref", "HEAD"]
    taken = {"copier copy": _seconds([*copier, str(ROOT), str(project)], ROOT)}
    return taken | {name: _seconds(step, project) for name, step in steps.items()}


def _seconds(command: Sequence[str], folder: Path) -> float:
    environment = {k: v for k, v in os.environ.items() if k not in {"VIRTUAL_ENV", "PYTHONPATH"}}
    began = time.perf_counter()
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{command}\n{done.stdout}{done.stderr}")
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
