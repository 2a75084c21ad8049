"""Which environment variables of SQLMesh's config say only how to connect: they change no model. Imports no SQLMesh.

An image is built without the values of production, and each pod has its own. What cannot be told from
the text of the config, such as a variable that is compared with something, counts as one that changes
models.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

_CONNECTIONS = {
    "connection",
    "state_connection",
    "test_connection",
    "default_connection",
    "default_test_connection",
}
_NAMING = {"type", "database", "db", "catalog", "catalogs", "catalog_name", "project"}
"""What of a connection is part of the names of models, or of how they look."""
_OVERRIDE = re.compile(r"__(?:\w+_)?connection__(\w+?)(?:__|$)", re.IGNORECASE)
_YAML_LINE = re.compile(r"^(\s*)(?:- )?['\"]?([\w.-]+)['\"]?\s*:(.*)$")
_YAML_READ = re.compile(r"env_var\(\s*['\"](\w+)['\"]")
_PASSED_ON = (
    ast.BinOp,
    ast.BoolOp,
    ast.Call,
    ast.FormattedValue,
    ast.JoinedStr,
    ast.Attribute,
    ast.Starred,
    ast.Tuple,
    ast.List,
)
"""What makes a value of values, and of nothing else that is known of them."""


def connection_variables(config: Path) -> frozenset[str]:
    """Names of the variables that a config file, Python or YAML, reads for its connections alone."""
    try:
        text = config.read_text()
        reads = list(_in_python(text) if config.suffix == ".py" else _in_yaml(text))
    except (OSError, SyntaxError, ValueError):
        return frozenset()
    others = {name for name, is_for_connection in reads if not is_for_connection}
    return frozenset(name for name, _ in reads if name not in others)


def is_connection_override(variable: str) -> bool:
    """Whether a variable `SQLMESH__…` says only how to connect."""
    found = _OVERRIDE.search(variable)
    return found is not None and found[1].lower() not in _NAMING


def _in_yaml(text: str) -> Iterator[tuple[str, bool]]:
    path: list[tuple[int, str]] = []
    for line in text.splitlines():
        found = _YAML_LINE.match(line)
        if found:
            depth = len(found[1])
            path = [(d, key) for d, key in path if d < depth]
            path.append((depth, found[2]))
        keys = [key for _, key in path]
        for name in _YAML_READ.findall(line):
            yield name, _is_detail(keys)


def _is_detail(keys: list[str]) -> bool:
    """Whether a place in a config is a detail of a connection, its keys from the outermost on."""
    for place, key in enumerate(keys):
        if key in _CONNECTIONS and place + 1 < len(keys):
            rest = keys[place + 1 :]
            return rest[0] not in _NAMING or (rest[0] == "catalogs" and len(rest) > 1)
    return False


def _in_python(text: str) -> Iterator[tuple[str, bool]]:
    flow = _Flow(ast.parse(text))
    for node in ast.walk(flow.tree):
        name = _variable(node)
        if name is not None:
            yield name, flow.is_detail(node)


class _Flow:
    """Where the values of a module go, as far as its text says."""

    def __init__(self, tree: ast.Module) -> None:
        self.tree = tree
        self._parents = {
            child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)
        }
        self._asked: set[ast.AST] = set()

    def is_detail(self, node: ast.AST) -> bool:
        """Whether a value ends as a detail of a connection, wherever it goes."""
        if node in self._asked:
            return True  # a circle leads nowhere else
        self._asked.add(node)
        keys: list[str] = []
        child = node
        while (parent := self._parents.get(child)) is not None:
            if isinstance(parent, ast.keyword):
                keys.insert(0, parent.arg or "")
            elif isinstance(parent, ast.Dict) and child in parent.keys:
                return False  # the name of something
            elif isinstance(parent, ast.Dict):
                keys.insert(0, _key_of(parent, child))
            elif isinstance(parent, ast.Call) and _name(parent.func).endswith("ConnectionConfig"):
                return _is_detail(["connection", *keys])
            elif isinstance(parent, ast.IfExp) and child is parent.test:
                return False
            elif isinstance(parent, (ast.Assign, ast.AnnAssign)) and not keys:
                return self._all_uses(parent)
            elif isinstance(parent, ast.Return) and not keys:
                return self._all_calls(parent)
            elif not isinstance(parent, (*_PASSED_ON, ast.IfExp)):
                return _is_detail(keys)
            child = parent
        return False

    def _all_uses(self, node: ast.Assign | ast.AnnAssign) -> bool:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        names = {target.id for target in targets if isinstance(target, ast.Name)}
        if len(names) != len(targets):
            return False
        return all(
            self.is_detail(use)
            for use in ast.walk(self.tree)
            if isinstance(use, ast.Name) and isinstance(use.ctx, ast.Load) and use.id in names
        )

    def _all_calls(self, node: ast.AST) -> bool:
        while not isinstance(node, (ast.FunctionDef, ast.Module)):
            node = self._parents[node]
        if isinstance(node, ast.Module) or node.decorator_list:
            return False
        uses = [
            use for use in ast.walk(self.tree) if isinstance(use, ast.Name) and use.id == node.name
        ]
        calls = [self._parents[use] for use in uses]
        return all(
            isinstance(call, ast.Call) and call.func is use and self.is_detail(call)
            for use, call in zip(uses, calls, strict=True)
        )


def _key_of(dictionary: ast.Dict, value: ast.AST) -> str:
    for key, item in zip(dictionary.keys, dictionary.values, strict=True):
        if item is value:
            return str(key.value) if isinstance(key, ast.Constant) else ""
    return ""


def _variable(node: ast.AST) -> str | None:
    """The name of the environment variable that an expression reads."""
    argument: ast.AST | None = None
    if isinstance(node, ast.Call) and _name(node.func) in ("getenv", "environ.get") and node.args:
        argument = node.args[0]
    elif isinstance(node, ast.Subscript) and _name(node.value) == "environ":
        argument = node.slice
    if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
        return argument.value
    return None


def _name(node: ast.AST) -> str:
    """The end of a dotted name: `getenv` of `os.getenv`, `environ.get` of `os.environ.get`."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"environ.{node.attr}" if _name(node.value) == "environ" else node.attr
    return ""
