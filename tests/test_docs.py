"""The documentation is true: its commands and files are run as they stand, a page after the other."""

import itertools
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.conftest import ROOT, Render
from tests.test_generated_projects import Project, with_tools_of

PAGES = (
    "start",
    "data",
    "models",
    "recipes/asset-below-a-model",
    "recipes/asset-above-a-model",
    "recipes/dlt",
    "recipes/alerts",
    "recipes/dashboard",
    "recipes/secrets",
    "recipes/rebuild-after-a-fix",
    "schedule",
    "partitions",
    "environments",
    "recipes/from-dev-to-prod",
    "restate",
    "trouble",
    "several-projects",
)
"""Pages whose blocks are run, in the order of a reader."""
BLOCK = re.compile(r"^ *```(bash|python|sql|yaml)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
NEEDS = {"recipes/dlt": "dlt"}
"""Pages that are left out where a package is not installed."""
ELSEWHERE = {"poe check": "its_own_checks_pass", "poe test": "its_own_tests_pass"}
"""Commands of `start` that another test runs in a project as it is generated."""
NAMED = re.compile(r"\A(?:#|--) (\S+)\n")


@pytest.mark.generated
def test_the_commands_and_files_of_the_pages_work(
    render: Render, tmp_path: Path, warm_python: Path
) -> None:
    """Promise: what a page says to run ends with 0; what it says to write is at home in the project."""
    root = shutil.copytree(render(package_name="my_platform"), tmp_path / "my_platform")
    tools = with_tools_of(Path(sys.executable), warm_python, PYTHONPATH=str(root / "src"))
    project = Project(root, tools)
    subprocess.run(["git", "init", "--quiet"], cwd=root, check=True)
    for page in PAGES:
        if page in NEEDS and find_spec(NEEDS[page]) is None:
            continue
        for language, text in BLOCK.findall((ROOT / f"docs/{page}.md").read_text()):
            if language == "bash":
                project.run("bash", "-euo", "pipefail", "-c", _not_elsewhere(text))
            else:
                _write(root, page, text)


def _not_elsewhere(text: str) -> str:
    return "".join(line for line in text.splitlines(True) if line.strip() not in ELSEWHERE) or ":"


def test_every_page_is_in_the_index_and_every_link_leads_somewhere() -> None:
    """Promise: a reader finds each page, and no link is dead."""
    pages = sorted((ROOT / "docs").glob("*.md"))
    index = (ROOT / "docs/README.md").read_text()
    assert [p.name for p in pages if f"({p.name})" not in index and p.name != "README.md"] == []
    recipes = sorted((ROOT / "docs/recipes").glob("*.md"))
    assert [p.name for p in recipes if f"(recipes/{p.name})" not in index] == []
    for page in [*pages, *recipes, *(ROOT / "docs/decisions").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[\w-]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} leads to `{target}`"


def test_the_blocks_of_the_pages_are_run_or_named() -> None:
    """A block that is neither a command nor a file of the project is not tested by anything."""
    for page in PAGES:
        for language, text in BLOCK.findall((ROOT / f"docs/{page}.md").read_text()):
            assert language == "bash" or NAMED.match(text), f"{page}.md: {text[:60]}"


def _write(root: Path, page: str, text: str) -> None:
    named = NAMED.match(text)
    assert named, page
    path = root / named[1]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text[named.end() :])


@pytest.mark.parametrize("page", ["outcomes", "faults"])
def test_each_row_is_linked_to_a_test_that_exists(page: str) -> None:
    """Promise: no row of the tables of outcomes and of faults is a claim alone."""
    lines = (ROOT / f"docs/{page}.md").read_text().splitlines()
    own, is_shown, count = ROOT / "template/tests", False, 0
    for row, below in itertools.pairwise([*lines, ""]):
        if not row.startswith("|") or row.startswith("|--"):
            continue
        cell = row.rstrip("| ").rsplit("|", 1)[1].strip()
        if below.startswith("|--"):  # the head of a table; one of figures shows no test
            is_shown = cell == "shown by"
            continue
        if not is_shown:
            continue
        count += 1
        named = re.findall(r"`([\w/…]+(?:\.py)?)(?:::(\w+))?`", cell)
        assert named, row
        file = ""
        for path, test in named:
            file = file if path == "…" else path
            found = [f for f in (own / file, ROOT / "tests" / file) if f.exists()]
            assert found, f"{row}: there is no `{file}`"
            assert not test or f"def {test}(" in found[0].read_text(), f"{file} has no `{test}`"
    assert count > 5
