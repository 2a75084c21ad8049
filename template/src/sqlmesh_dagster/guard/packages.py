"""How a package that is missing gets into the environment of this process: with uv, or with pip."""

from __future__ import annotations

import re
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from shlex import quote

from sqlmesh_dagster.guard.folder import started_in


def missing(module: str) -> str | None:
    """What is wrong with a module: that it is not installed, or why it cannot be imported; None if it can be."""
    try:
        import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module}.".startswith(f"{error.name}."):
            return "is not installed"
        return f"cannot be imported ({error})"
    except ImportError as error:
        return f"cannot be imported ({' '.join(str(error).split())})"
    return None


def installation() -> str:
    """The command that installs what the project's `pyproject.toml` names."""
    return _command("uv sync", "install --editable . --group dev")


def addition(package: str) -> str:
    """The command that installs a package which the project's `pyproject.toml` doesn't name."""
    return _command(f"uv add {quote(package)}", f"install {quote(package)}")


def is_named(package: str) -> bool:
    """Whether the project's `pyproject.toml` names a package."""
    try:
        text = (_root() / "pyproject.toml").read_text("utf-8")
    except OSError:
        return False
    return re.search(rf"['\"]{re.escape(package)}(?![\w-])", text) is not None


def _command(with_uv: str, with_pip: str) -> str:
    """A command that can be pasted in any folder, for whoever looks after the environment."""
    root = _root()
    pip = f"{_python(root)} -m pip {with_pip}"
    return f"cd {quote(str(root))} && {with_uv if _is_uvs(root) else pip}"


def _root() -> Path:
    here = started_in()
    found = (f for f in (here, *here.parents) if (f / "pyproject.toml").is_file())
    return next(found, Path(sys.prefix).parent)


def _is_uvs(root: Path) -> bool:
    """Whether uv looks after the environment: it leaves pip out of those that it makes."""
    return (root / "uv.lock").is_file() or find_spec("pip") is None


def _python(root: Path) -> str:
    python = Path(sys.executable)
    is_inside = python.is_relative_to(root)
    return quote(str(python.relative_to(root) if is_inside else python))
