"""What only some systems have is used where it was asked for: the package can be imported on Windows, too."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import sqlmesh_dagster

PACKAGE = Path(sqlmesh_dagster.__file__).parent
_MODULES = ("fcntl", "grp", "pwd", "resource", "termios", "tty")
_OF_OS = (
    *(
        "chown",
        "fork",
        "forkpty",
        "getegid",
        "geteuid",
        "getgid",
        "getpgid",
        "getuid",
        "kill",
        "killpg",
    ),
    *("mkfifo", "setsid", "statvfs", "umask", "uname"),
)
_OF_SIGNAL = ("SIGALRM", "SIGHUP", "SIGKILL", "SIGQUIT", "SIGUSR1", "SIGUSR2", "alarm", "setitimer")
_ASKS = ("sys.platform", "os.name", "hasattr", "getattr")
"""What a condition has that asks for the system."""


def _uses(node: ast.AST, guarded: bool = False) -> Iterator[tuple[int, str]]:
    """Lines and names of what not every system has, but for those in a branch of such a condition."""
    for child in ast.iter_child_nodes(node):
        below = guarded or (
            isinstance(child, (ast.If, ast.IfExp, ast.BoolOp, ast.Try))
            and any(word in ast.unparse(child) for word in (*_ASKS, "ImportError"))
        )
        name = _name(child)
        if name and not below:
            yield child.lineno, name  # type: ignore[attr-defined]
        below = below or _leaves(child)
        yield from _uses(child, below)


def _leaves(node: ast.AST) -> bool:
    """Whether a function begins by leaving systems that lack something."""
    body = node.body if isinstance(node, ast.FunctionDef) else []
    return any(
        isinstance(each, ast.If)
        and "sys.platform" in ast.unparse(each.test)
        and isinstance(each.body[-1], ast.Return)
        for each in body[:3]
    )


def _name(node: ast.AST) -> str | None:
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        named = [alias.name for alias in node.names]
        found = [n for n in (*named, getattr(node, "module", None)) if n in _MODULES]
        return found[0] if found else None
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        known = {"os": _OF_OS, "signal": _OF_SIGNAL}.get(node.value.id, ())
        return f"{node.value.id}.{node.attr}" if node.attr in known else None
    if isinstance(node, ast.Constant) and str(node.value).startswith("/tmp"):
        return str(node.value)
    return None


def test_what_not_every_system_has_is_asked_for_where_it_is_used() -> None:
    """Promise: no call that Windows does not have, but behind a condition."""
    found = {
        f"{path.relative_to(PACKAGE)}:{line} {name}"
        for path in PACKAGE.rglob("*.py")
        for line, name in _uses(ast.parse(path.read_text()))
    }
    assert found == set()


def test_a_call_without_a_condition_is_noticed() -> None:
    """The search itself can fail."""
    tree = ast.parse("import os, fcntl\ndef f():\n    os.kill(1, 9)\n    return '/tmp/x'\n")
    assert {name for _, name in _uses(tree)} == {"fcntl", "os.kill", "/tmp/x"}


def test_the_package_is_imported_where_these_modules_are_missing() -> None:
    """Promise: all but what imports SQLMesh, whose own ways these are."""
    code = f"""
import importlib, os, pkgutil, signal, sys
import dagster, pytest, sqlalchemy  # they look for themselves
for name in {_MODULES}:
    sys.modules[name] = None
for module, names in ((os, {_OF_OS}), (signal, {_OF_SIGNAL})):
    for name in names:
        if hasattr(module, name) and name not in ("kill", "uname"):
            delattr(module, name)
import sqlmesh_dagster
for found in pkgutil.walk_packages(sqlmesh_dagster.__path__, "sqlmesh_dagster."):
    room = found.name.split(".")[1]
    if room not in ("engine", "console") and "__main__" not in found.name and "internals" not in found.name:
        if found.name not in ("sqlmesh_dagster.upstream.sqlmesh",):
            importlib.import_module(found.name)
print("all")
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "all", done.stderr
