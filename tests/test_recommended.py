"""Every command that a message or a page recommends exists, with its options: parsed by the real programs."""

import ast
import re
import shlex
import sys
from collections.abc import Iterator
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import click
import pytest

from sqlmesh_dagster.commands.__main__ import main as our_commands
from tests.conftest import ROOT

if sys.version_info >= (3, 11):
    from tomllib import loads as parse_toml
else:
    from tomli import loads as parse_toml

PROGRAMS = ("poe", "sqlmesh", "dg", "dagster")
_QUOTED = re.compile(rf"`((?:[A-Z_]+=\S+ )*(?:{'|'.join(PROGRAMS)}) [^`]+)`")
_BLOCK = re.compile(r"^ *```bash\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_STANDS_FOR = re.compile(r"\{\{.*?\}\}|<[^>]*>|\[[^\]]*\]|…|\.\.\.")
"""What a person replaces: `<name>`, `[option]`."""
_IS_PROSE = re.compile(r"(dagster|sqlmesh|dg) (command|project|run of|CLI)\b")
TASKS = parse_toml((ROOT / "template/poe_tasks.toml").read_text())["tasks"]
_AT_RUN_TIME = ("defs",)
"""Groups whose commands depend on the project: `dg scaffold defs`."""
_OURS = "python -m sqlmesh_dagster.commands "


def _pages() -> Iterator[tuple[str, str]]:
    files = [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")]
    files += [*(ROOT / "template").rglob("*.md"), *(ROOT / "template").glob("*.md.jinja")]
    for path in files:
        text = path.read_text()
        name = path.relative_to(ROOT).as_posix()
        yield from (
            (name, command)
            for command in _QUOTED.findall(re.sub("```.*?```", "", text, flags=re.S))
        )
        if path.name != "CHANGELOG.md":
            for block in _BLOCK.findall(text):
                for line in re.split(r"&&|\n|;|\|", block):
                    word = re.sub(r"^(\s|[A-Z_]+=\S+ )*(\.venv/bin/)?", "", line)
                    if word.partition(" ")[0] in PROGRAMS:
                        yield name, word


def _messages() -> Iterator[tuple[str, str]]:
    source = ROOT / "template/src/sqlmesh_dagster"
    for path in (*source.rglob("*.py"), *(ROOT / "template/.template").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            for command in _QUOTED.findall(_text(node)):
                yield path.relative_to(ROOT).as_posix(), command


def _text(node: ast.AST) -> str:
    """A string of the source, in which a name stands for each value."""
    if isinstance(node, ast.JoinedStr):
        return "".join(
            _text(part) if isinstance(part, ast.Constant) else "any" for part in node.values
        )
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def _recommended() -> dict[str, set[str]]:
    """Each command, with the files that name it."""
    found: dict[str, set[str]] = {}
    for file, command in (*_pages(), *_messages()):
        plain = re.sub(r"^([A-Z_]+=\S+ )+", "", " ".join(command.split()))
        if not _IS_PROSE.match(plain):
            found.setdefault(_STANDS_FOR.sub("any", plain), set()).add(file)
    return found


RECOMMENDED = _recommended()


@cache
def _program(name: str) -> Any:
    """The click command that a console script calls."""
    (script,) = entry_points(group="console_scripts", name=name)
    loaded = script.load()
    if isinstance(loaded, click.Command):
        return loaded
    module = sys.modules[loaded.__module__]
    makers = ("dagster", "dg", "dagster_daemon", "dagster_webserver")
    for attribute in ("cli", *(f"create_{maker}_cli" for maker in makers)):
        found = getattr(module, attribute, None)
        if isinstance(found, click.Command):
            return found
        if callable(found):
            return found()
    raise AssertionError(f"`{name}` has no click command")


def _parse(command: click.Command, name: str, arguments: list[str]) -> None:
    """Follows subcommands, and refuses options that a command does not have."""
    context = click.Context(command, info_name=name)
    if isinstance(command, click.Group):
        context.allow_interspersed_args = False
    try:
        _, rest, _ = command.make_parser(context).parse_args(arguments)
    except (
        click.BadOptionUsage
    ):  # named without its value, as in "what `sqlmesh run --select-model` does"
        return
    if isinstance(command, click.Group) and rest and rest[0] != "any" and name not in _AT_RUN_TIME:
        below = command.get_command(context, rest[0])
        assert below is not None, f"`{name}` has no command `{rest[0]}`"
        _parse(below, rest[0], rest[1:])


def parse_command(program: str, *arguments: str) -> None:
    """Let a program's own parser read a command: click's error, if it can't."""
    _parse(_program(program), program, list(arguments))


def _check(line: str) -> None:
    program, *arguments = shlex.split(line.rstrip(".,"), comments=True)
    if program != "poe":
        parse_command(program, *arguments)
        return
    task = next((word for word in arguments if not word.startswith("-")), None)
    if task in (None, "any"):
        return
    assert task in TASKS, f"`poe` has no task `{task}`"
    given = arguments[arguments.index(task) + 1 :]
    if task == "sqlmesh":
        _parse(_program("sqlmesh"), "sqlmesh", given)
    elif TASKS[task].get("cmd", "").startswith(_OURS):
        _parse(our_commands, "poe", [TASKS[task]["cmd"].removeprefix(_OURS), *given])


def test_there_are_commands_to_check() -> None:
    """The collection finds what it is meant to find: of each program, in messages and on pages."""
    for program in ("poe", "sqlmesh", "dg"):
        assert any(line.startswith(f"{program} ") for line in RECOMMENDED), program
    sources = {file for files in RECOMMENDED.values() for file in files}
    assert len(RECOMMENDED) > 60 and {Path(file).suffix for file in sources} >= {".py", ".md"}


@pytest.mark.parametrize("line", sorted(RECOMMENDED))
def test_what_is_recommended_exists_with_its_options(line: str) -> None:
    """Promise: a command that is pasted is no dead end; the tests of the pages run many of them."""
    try:
        _check(line)
    except (click.UsageError, AssertionError) as error:
        raise AssertionError(f"{line} ({', '.join(sorted(RECOMMENDED[line]))}): {error}") from error


@pytest.mark.parametrize(
    "line",
    ["poe nothing", "poe run --nothing", "sqlmesh nothing", "sqlmesh plan --nothing", "dg nothing"],
)
def test_what_does_not_exist_is_noticed(line: str) -> None:
    """The check itself can fail."""
    with pytest.raises((click.UsageError, AssertionError)):
        _check(line)
