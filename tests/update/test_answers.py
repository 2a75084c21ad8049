"""Each answer to `warehouse` and to `deployment` becomes each other one, in a project whose owner has edited it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import cache
from itertools import pairwise, permutations
from pathlib import Path

import pytest

from tests.answers import CHOICES
from tests.update.projects import Project, copy
from tests.update.releases import NEXT, Template, clone
from tests.update.test_releases import mine, not_mine

pytestmark = pytest.mark.matrix
_LINE = "with_warehouse(config)"
_MARKER = "# --- yours below this line: `copier update` merges the part above ---\n"


@pytest.fixture(scope="module")
def template(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Template:
    """What is on disk, as the next version."""
    return clone(source, tmp_path_factory.mktemp("answers") / "template")


@pytest.fixture
def fresh(template: Template, tmp_path: Path) -> Callable[[str, str], Project]:
    """A copy with one answer; only read it."""

    @cache
    def project(question: str, answer: str) -> Project:
        root = tmp_path / f"{question}-{answer}"
        return copy(template, root, f"v{NEXT}", {**_asked(question), question: answer})

    return project


def _asked(question: str) -> dict[str, str]:
    """What else must be answered, so that the question is asked."""
    return {"warehouse": "postgres"} if question == "deployment" else {}


def walk(answers: list[str]) -> Iterator[str]:
    """Answers in an order in which each follows each other one, once: Hierholzer's circuit."""
    left = {one: [other for other in answers if other != one] for one in answers}
    stack, found = [answers[0]], list[str]()
    while stack:
        following = left[stack[-1]]
        if following:
            stack.append(following.pop())
        else:
            found.append(stack.pop())
    yield from reversed(found)


@pytest.mark.parametrize("question", ["warehouse", "deployment"])
def test_each_answer_becomes_each_other_one(
    fresh: Callable[[str, str], Project], tmp_path: Path, question: str
) -> None:
    """Promise: what the template owns is a fresh copy's, what the owner has written stays, at most one line is left."""
    way = list(walk(CHOICES[question]))
    assert set(pairwise(way)) == set(permutations(CHOICES[question], 2))
    start = fresh(question, way[0])
    project = Project(shutil.copytree(start.root, tmp_path / "project", symlinks=True))
    _edit(project)
    own = mine(project)
    for before, after in pairwise(way):
        report = project.report("--data", f"{question}={after}", "--to", f"v{NEXT}")
        assert report["exit_code"] in (0, 1), (before, after, report)
        lines = report["left"].splitlines() if report["left"] else []
        assert len(lines) <= 1 and not project.unmerged(), (before, after, report)
        expected = not_mine(fresh(question, after))
        found = {name: _without_mine(text) for name, text in not_mine(project).items()}
        assert found.keys() == expected.keys(), (before, after)
        assert [n for n in expected if found[n] != expected[n]] == [], (before, after)
        now = mine(project)
        assert {name: now.get(name) for name in own} == own, (before, after)
        drift = project.command("drift")
        assert drift.returncode == 0, (before, after, drift.stdout)
        project.commit()


def _edit(project: Project) -> None:
    """A line of the owner's below each marker, and files of the owner's that are another's text."""
    path = project.root / "pyproject.toml"
    text = path.read_text()
    assert text.count(_MARKER) >= 3
    path.write_text(text.replace(f"    {_MARKER}", f'    {_MARKER}    "humanize",  # mine\n'))
    project.append(".gitignore", "mine/  # mine")
    config = project.root / "sqlmesh_project/config.py"
    config.write_text(config.read_text() + "# mine\n")
    assert _LINE in config.read_text()
    project.append(".env.example", "# MINE=")
    project.append("src/my_platform/defs/transform.py", "# mine")
    project.commit()


def _without_mine(text: bytes) -> bytes:
    return b"".join(line for line in text.splitlines(keepends=True) if b"# mine" not in line)
