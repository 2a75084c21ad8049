"""`python -m sqlmesh_dagster.…` and `dg` that cost no import of Dagster and SQLMesh.

What the project has itself, the integration among it, is imported anew by each command.
"""

from __future__ import annotations

import contextlib
import os
import runpy
import shutil
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path

from tests import warm

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
    *("dagster._daemon.controller", "structlog", "tomlkit", "watchdog.observers", "upath"),
    *("upath.implementations.local", "fsspec.implementations.local"),
    *("anyio", "anyio.to_thread", "anyio._backends._asyncio", "duckdb", "pandas", "rich.console"),
    *("sqlmesh", "sqlmesh.core.context", "sqlmesh.core.loader", "sqlmesh.core.scheduler"),
)
_COMMANDS = 'arguments[1:2] == ["-m"] and arguments[2:3][0].startswith("sqlmesh_dagster.")'
_ENDS = '"dev" not in arguments'
_AS_IT_IS = '"PYTHONWARNINGS" not in os.environ'


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Path]:
    """Starts the process; yields a folder with the commands."""
    address = f"{folder}/socket"
    dg = shutil.which("dg", path=str(Path(sys.executable).parent))
    warm.write_command(folder / "python", address, f"{_AS_IT_IS} and {_COMMANDS}")
    warm.write_command(folder / "dg", address, f"{_AS_IT_IS} and {_ENDS}", str(dg))
    with warm.serving("tests.warm_python", address):
        yield folder


def main(address: str) -> None:
    """Answers until its input ends."""
    os.environ["SQLMESH__DISABLE_ANONYMIZED_ANALYTICS"] = "true"  # SQLMesh asks when it is imported
    for name in _IMPORTED:
        import_module(name)
    (entry,) = entry_points(group="console_scripts", name="dg")
    dg, place = entry.load(), str(Path(address).parent / "python")
    packages = [path for path in sys.path if path not in ("", str(Path.cwd()))]

    def run(arguments: Sequence[str]) -> None:
        sys.executable = place  # what is started from here is warm, too
        for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
            del sys.modules[name]
        given = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
        if arguments[0] == "dg":
            sys.path[:] = [str(Path(place).parent), *given, *packages]
            dg()
        else:
            sys.path[:] = [str(Path.cwd()), *given, *packages]
            sys.argv = list(arguments[2:])
            runpy.run_module(arguments[2], run_name="__main__", alter_sys=True)

    warm.answer(address, run)


if __name__ == "__main__":
    main(*sys.argv[1:])
