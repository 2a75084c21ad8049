"""Where in a file a model is defined."""

from __future__ import annotations

import ast
import re
from pathlib import Path

_DDL = re.compile(r"^\s*(?:MODEL|AUDIT)\s*\(", re.IGNORECASE | re.MULTILINE)


def definition_line(path: Path, name: str) -> int:
    """The line, from 1, of the `MODEL (` or of the decorated function; 1 where it is not known.

    Args:
        name: The model's name, where one file has several Python models.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return 1
    if path.suffix == ".py":
        return _decorated_line(text, name)
    match = _DDL.search(text)
    return text.count("\n", 0, match.end()) + 1 if match else 1


def _decorated_line(text: str, name: str) -> int:
    lines: list[int] = []
    for node in ast.walk(ast.parse(text)):
        for decorator in getattr(node, "decorator_list", []):
            if isinstance(decorator, ast.Call) and _last_name(decorator.func) == "model":
                first = decorator.args[0] if decorator.args else None
                if isinstance(first, ast.Constant) and first.value == name:
                    return int(decorator.lineno)
                lines.append(decorator.lineno)
    return min(lines, default=1)


def _last_name(function: ast.expr) -> str:
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""
