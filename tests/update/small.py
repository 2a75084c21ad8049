"""A template of a dozen files and its projects, for tests that update hundreds of times.

The command is the real one, git is, and so is what Copier has rendered: once, to be copied since.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from copier import run_copy, run_update

from template_update import cli
from template_update import git as git_of
from template_update.journal import Journal
from tests.conftest import ROOT
from tests.update.projects import Project
from tests.update.releases import commit, git

VENDORED = "src/sqlmesh_dagster"
OLD, NEW = "v1.0.0", "v2.0.0"
TOUCHES = {
    *("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.symlink", "os.chmod"),
    *("os.truncate", "subprocess.Popen"),
}
"""What a command is killed at, as Python's audit hooks name it."""
_COPIER_YML = """\
_subdirectory: template
_templates_suffix: .jinja
package_name: {type: str, default: ours}
_skip_if_exists: [README.md, "src/{{ package_name }}/**"]
_exclude:
  - |
    {% if _copier_operation == 'update' %}
    README.md
    src/{{ package_name }}/**
    {% endif %}
"""


def lines(name: str, count: int = 24) -> str:
    """The text of a file."""
    return "".join(f"{name}_{number} = {number}\n" for number in range(count))


def _first(root: Path) -> None:
    """Version 1."""
    (root / "copier.yml").write_text(_COPIER_YML)
    ours = root / "template/src/{{ package_name }}"
    vendored = root / "template" / VENDORED
    for folder in (ours, vendored, root / "template/.template"):
        folder.mkdir(parents=True)
    for name in ("same", "changed", "moved", "split", "dropped", "into"):
        (vendored / f"{name}.py").write_text(lines(name))
    (vendored / "logo.bin").write_bytes(b"\0logo\n")
    (vendored / "same.bin").write_bytes(b"\0same\n")
    (ours / "defs.py").write_text(lines("defs"))
    (root / "template/README.md").write_text("# Ours\n")
    (root / "template/pyproject.toml.jinja").write_text(
        'root_module = "{{ package_name }}"\n' + lines("tool")
    )
    ownership = (ROOT / "template/.template-ownership.yml").read_text()
    (root / "template/.template-ownership.yml").write_text(ownership)
    (root / "template/.template/renames.json").write_text("{}")
    answers = "{{ _copier_answers | to_nice_yaml }}"
    (root / "template/{{ _copier_conf.answers_file }}.jinja").write_text(answers)


def _second(root: Path) -> None:
    """Version 2 changes, moves, splits, drops and adds files."""
    vendored = root / "template" / VENDORED
    (vendored / "run").mkdir()
    for name in ("changed", "into"):
        path = vendored / f"{name}.py"
        path.write_text(path.read_text().replace("_4 = 4", "_4 = 44"))
    (vendored / "moved.py").unlink()
    (vendored / "run/moved.py").write_text(lines("moved").replace("_4 = 4", "_4 = 44"))
    (vendored / "split.py").unlink()
    halves = lines("split").splitlines(keepends=True)
    (vendored / "run/upper.py").write_text("".join(halves[:12]))
    (vendored / "run/lower.py").write_text("".join(halves[12:]))
    (vendored / "dropped.py").unlink()
    (vendored / "logo.bin").write_bytes(b"\0a better logo\n")
    (vendored / "added.py").write_text(lines("added"))
    pyproject = root / "template/pyproject.toml.jinja"
    pyproject.write_text(pyproject.read_text().replace("tool_4 = 4", "tool_4 = 44"))
    moved = {
        f"{VENDORED}/moved.py": f"{VENDORED}/run/moved.py",
        f"{VENDORED}/split.py": f"{VENDORED}/run/upper.py {VENDORED}/run/lower.py",
        f"{VENDORED}/dropped.py": "",
    }
    (root / "template/.template/renames.json").write_text(json.dumps(moved))


@dataclass(frozen=True)
class Small:
    """The template, and a folder with a `copier` that copies what has been rendered."""

    template: Path
    tools: Path

    def project(self, root: Path, *, prefix: str = "") -> Project:
        """A committed project of the first version, in a folder of a repository."""
        _copy_tree(self.tools / OLD, root / prefix)
        git(root, "init", "--quiet")
        commit(root, "Start")
        return Project(root / prefix)

    def environment(self) -> dict[str, str]:
        """Where `copier` is found."""
        return {**os.environ, "PATH": os.pathsep.join([str(self.tools), os.environ["PATH"]])}


def make(folder: Path) -> Small:
    """Two versions, each rendered."""
    template, tools = folder / "template", folder / "tools"
    for path in (template, tools):
        path.mkdir(parents=True)
    git(template, "init", "--quiet")
    for version, change in ((OLD, _first), (NEW, _second)):
        change(template)
        commit(template, version, version)
        run_copy(str(template), tools / version, vcs_ref=version, defaults=True, quiet=True)
    script = tools / "copier"
    script.write_text(
        "#!/bin/sh\n"
        'for word in "$@"; do\n'
        "  case $word in --vcs-ref=*) ref=${word#*=} ;; --data=*) exact=no ;; esac\n"
        "  target=$word\n"
        "done\n"
        f'if [ "$1" != copy ] || [ -n "$exact" ] || [ ! -d "{tools}/$ref" ]; then\n'
        f'  exec "{sys.executable}" -m copier "$@"\n'
        "fi\n"
        f'mkdir -p "$target" && cp -a "{tools}/$ref/." "$target"\n'
    )
    script.chmod(0o755)
    return Small(template, tools)


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    """Negative: the signal that killed it."""
    output: str


def run(
    small: Small, project: Project, *arguments: str, before: Callable[[], object] | None = None
) -> Done:
    """Run the command in a process that is forked, which is faster than a new one.

    Args:
        before: Is called in the process first.
    """

    def command() -> int:
        os.environ.update(small.environment())
        if before:
            before()
        return cli.main(arguments)

    return _forked(project.root, command)


def plain_update(project: Project) -> Done:
    """Plain `copier update` to the second version."""

    def command() -> int:
        run_update(
            *(str(project.root),),
            vcs_ref=NEW,
            defaults=True,
            skip_answered=True,
            overwrite=True,
            quiet=True,
        )
        return 0

    return _forked(project.root, command)


def kill_at(number: int) -> Callable[[], object]:
    """Kill the process at the n-th time that it touches a file or starts a process."""
    return at(number, lambda: os.kill(os.getpid(), signal.SIGKILL))


def at(number: int, act: Callable[[], object]) -> Callable[[], object]:
    """Do something at the n-th time that the process touches a file or starts a process."""
    seen = [0]

    def hook(event: str, _: tuple[object, ...]) -> None:
        if event in TOUCHES:
            seen[0] += 1
            if seen[0] == number:
                act()

    return lambda: sys.addaudithook(hook)


def when(event: str, name: str, act: Callable[[], object]) -> Callable[[], object]:
    """Do something once, when a file is opened or moved whose path, or a command is started whose text, ends so."""
    done: list[bool] = []

    def hook(happening: str, arguments: tuple[object, ...]) -> None:
        place = 1 if event == "subprocess.Popen" else 0
        if happening == event and not done and str(arguments[place]).endswith(name):
            done.append(True)
            act()

    return lambda: sys.addaudithook(hook)


def undo_folder(project: Project) -> Path:
    """Where the command keeps what it takes out of the tree."""
    return Journal.of(git_of.Project.at(project.root)).folder


def _forked(folder: Path, command: Callable[[], int]) -> Done:
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read_end)
        _become(folder, write_end, command)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as stream:
        output = stream.read().decode(errors="replace")
    _, status = os.waitpid(child, 0)
    return Done(os.waitstatus_to_exitcode(status), output)


def _become(folder: Path, output: int, command: Callable[[], int]) -> None:
    code = 70
    try:
        os.chdir(folder)
        for stream in (1, 2):
            os.dup2(output, stream)
        sys.stdout = sys.stderr = open(output, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        code = command()
    finally:
        sys.stdout.flush()
        os._exit(code)


def _copy_tree(source: Path, target: Path) -> None:
    for path in sorted(source.rglob("*")):
        place = target / path.relative_to(source)
        if path.is_dir():
            place.mkdir(parents=True, exist_ok=True)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(path.read_bytes())
