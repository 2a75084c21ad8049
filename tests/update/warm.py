"""A `copier` that costs no import, and compiles no template twice."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib.metadata import entry_points
from pathlib import Path

import plumbum
from copier import run_copy

from tests import warm
from tests.compiled import compiled_once, no_git_to_ask


@contextlib.contextmanager
def serving(template: Path, folder: Path) -> Iterator[Path]:
    """Starts the process; yields a folder with the command.

    Args:
        template: Is rendered once before, so that its templates are compiled.
    """
    address = f"{folder}/socket"
    warm.write_command(folder / "copier", address)
    with warm.serving("tests.update.warm", address, template):
        yield folder


def main(address: str, template: str) -> None:
    """Answers until its input ends."""
    (copier,) = entry_points(group="console_scripts", name="copier")
    run = copier.load()

    def copy(arguments: Sequence[str]) -> None:
        plumbum.local.env.clear()
        plumbum.local.env.update(os.environ)
        plumbum.local.cwd.chdir(Path.cwd())
        run(arguments)

    with compiled_once(), no_git_to_ask():
        with tempfile.TemporaryDirectory() as folder:
            run_copy(template, folder, defaults=True, quiet=True)
        warm.answer(address, copy)


if __name__ == "__main__":
    main(*sys.argv[1:])
