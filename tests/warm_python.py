"""`python -m sqlmesh_dagster.…`, `python -m dagster…`, `dg` and `sqlmesh` that cost no import of Dagster and SQLMesh.

What the project has itself, the integration among it, is imported anew by each command.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import runpy
import shutil
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path

from tests import warm
from tests.migrations import read_migrations, read_once

_IMPORTED = (
    *(
        "dagster",
        "dagster.components",
        "dagster_dg_cli.cli",
        "dagster._core.workspace.autodiscovery",
    ),
    *("dagster._core.instance.factory", "dagster._core.storage.sqlite_storage", "alembic.command"),
    *("dagster._core.storage.local_compute_log_manager", "dagster._core.executor.in_process"),
    *("dagster._core.run_coordinator", "dagster._core.launcher", "dagster._core.workspace.load"),
    *("dagster._core.executor.multiprocess", "dagster._cli.api", "dagster._grpc.server"),
    *("dagster._daemon.cli", "dagster._cli.dev", "dagster_graphql", "dagster_webserver.cli"),
    *("dagster._daemon.controller", "structlog", "tomlkit", "watchdog.observers", "upath"),
    *("upath.implementations.local", "fsspec.implementations.local"),
    *("anyio", "anyio.to_thread", "anyio._backends._asyncio", "duckdb", "pandas", "rich.console"),
    *("sqlmesh", "sqlmesh.core.context", "sqlmesh.core.loader", "sqlmesh.core.scheduler"),
)
_MODULES = 'arguments[1:2] == ["-m"] and arguments[2:3][0].startswith(("sqlmesh_dagster.", "dagster", "tests.robustness.", "pytest"))'
_STEPS = 'arguments[1:2] == ["-c"] and arguments[2].startswith(("from multiprocessing.spawn", "from multiprocessing.forkserver"))'
"""A process of a step, or the one that these are forked from, as Dagster's executor starts them."""
_SCRIPTS = ("dg", "sqlmesh")
_AS_IT_IS = 'not {"PYTHONWARNINGS", "LD_PRELOAD"} & set(os.environ)'
"""Nothing that changes how Python itself starts."""


@contextlib.contextmanager
def serving(folder: Path, python: str = sys.executable) -> Iterator[Path]:
    """Starts the process with an environment's interpreter; yields a folder with the commands."""
    address = f"{folder}/socket"
    condition = f"{_AS_IT_IS} and (({_MODULES}) or ({_STEPS}))"
    warm.write_command(folder / "python", address, condition, python)
    for name in _SCRIPTS:
        cold = shutil.which(name, path=str(Path(python).parent))
        warm.write_command(folder / name, address, _AS_IT_IS, str(cold))
    with warm.serving("tests.warm_python", address, python=python):
        yield folder


def main(address: str) -> None:
    """Answers until its input ends."""
    os.environ["SQLMESH__DISABLE_ANONYMIZED_ANALYTICS"] = "true"  # SQLMesh asks when it is imported
    for name in _IMPORTED:
        import_module(name)
    found = entry_points(group="console_scripts")
    scripts = {entry.name: entry for entry in found if entry.name in _SCRIPTS}
    place = str(Path(address).parent / "python")
    packages = [path for path in sys.path if path not in ("", str(Path.cwd()))]

    def run(arguments: Sequence[str]) -> None:
        sys.executable = place  # what is started from here is warm, too
        multiprocessing.set_executable(place)
        for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
            del sys.modules[name]
        given = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
        first = str(Path(place).parent if arguments[0] in scripts else Path.cwd())
        sys.path[:] = [first, *given, *packages]
        for folder in given:  # Python starts with it
            if Path(folder, "sitecustomize.py").is_file():
                sys.orig_argv = list(arguments)
                runpy.run_path(f"{folder}/sitecustomize.py")
        if script := scripts.get(arguments[0]):
            script.load()()  # not before: SQLMesh's asks for the folder when it is imported
        elif arguments[1] == "-c":
            sys.argv = ["-c", *arguments[3:]]
            exec(arguments[2], vars(import_module("__main__")))
        else:
            sys.argv = list(arguments[2:])
            runpy.run_module(arguments[2], run_name="__main__", alter_sys=True)

    with read_once():
        read_migrations()  # not in each fork
        warm.answer(address, run)


if __name__ == "__main__":
    main(*sys.argv[1:])
