"""The two ways of docs/customise.md: a customised project meets each release."""

import difflib
import itertools
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from template_update import moves
from tests.conftest import ROOT
from tests.tree import parse_toml
from tests.update.projects import COMMAND, Project, copy, is_carrying
from tests.update.releases import NEXT, RELEASES, Template, clone, git

VENDORED = "src/sqlmesh_dagster"
WITH_CATALOG = ("0.1.0", "0.2.0", "0.3.0")
"""Projects of these versions keep the catalog in their asset keys."""


LATER = "90.0.0"
"""Changes each of the template's modules; what is on disk may change nothing since the last release."""

OURS = "    # ours: edited in place"
EXAMPLE = re.compile(r"^  ```python\n(.*?)^  ```$", re.MULTILINE | re.DOTALL)
MARKER = "    # --- yours below this line: `copier update` merges the part above ---\n"
MODEL = """\
/* Days with revenue; one row for each. */
MODEL (
  name marts.ours,
  kind VIEW,
  owner 'ours@example.com',
  audits (not_null(columns := (revenue_date)))
);

SELECT DISTINCT
  revenue_date::DATE AS revenue_date /* day */
FROM marts.daily_revenue
"""
JOB = "  ours:\n    runs-on: ubuntu-latest\n    steps:\n      - run: echo ours\n"


def pairs_up_to(newest: str) -> list[Any]:
    """Each two versions; those that lead to a release of the past wait for `-m matrix`."""
    return [
        pytest.param(old, new, marks=() if new == newest else pytest.mark.matrix)
        for old, new in itertools.combinations([*RELEASES, newest], 2)
    ]


@pytest.fixture(scope="module")
def template(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Template:
    """Every version of the template, and a later one; only read it."""
    template = clone(source, tmp_path_factory.mktemp("customise") / "template")
    template.release(LATER, change_every_module)
    return template


def change_every_module(template: Path) -> None:
    """Their docstrings' first lines."""
    for path in (template / "template" / VENDORED).rglob("*.py"):
        first, rest = path.read_text().split("\n", 1)
        path.write_text(f"{first[:3]}Later: {first[3:]}\n{rest}")


def customise(project: Project) -> None:
    """In the owner's own files, as the document says; nothing of the template's."""
    translator, check = (dedent(code) for code in examples())
    transform = project.root / "src/my_platform/defs/transform.py"
    before, rest = transform.read_text().split("class ProjectTranslator")
    if "catalog_in_keys" not in rest:  # an older project, whose keys have the catalog
        translator = re.sub(r"\n    catalog_in_keys.*\n", "", translator)
        check = check.replace('["marts", ', '["warehouse", "marts", ')
    transform.write_text(
        f"{before}{translator}\n\n@dg.definitions{rest.partition('@dg.definitions')[2]}"
    )
    (project.root / "src/my_platform/defs/checks.py").write_text(
        f'"""Our checks."""\n\nimport dagster as dg\n\nfrom sqlmesh_dagster import SQLMeshResource\n\n\n{check}'
    )
    (project.root / "sqlmesh_project/models/marts/ours.sql").write_text(MODEL)
    pyproject = project.root / "pyproject.toml"
    pyproject.write_text(pyproject.read_text().replace(MARKER, MARKER + '    "polars>=1",\n', 1))
    project.append("pyproject.toml", "\n[tool.ours]\nkey = 1")
    project.append(".github/workflows/ci.yml", JOB.rstrip("\n"))
    project.append(".gitignore", "ours/")


def examples() -> list[str]:
    """The document's Python, in order."""
    found = EXAMPLE.findall((ROOT / "docs/customise.md").read_text())
    assert len(found) == 2
    return [str(code) for code in found]


def vendored(old: Project, new: Project) -> Iterator[tuple[str, list[str], list[str]]]:
    """The template's modules, what a release changes first: name, old lines, new lines."""
    found = []
    for path in sorted((old.root / VENDORED).rglob("*.py")):
        name = path.relative_to(old.root).as_posix()
        lines, theirs = (
            path.read_text().splitlines() for path in (path, new.root / moved_to(name, new))
        )
        found.append((name, lines, theirs))
    yield from sorted(found, key=lambda module: module[1] == module[2])


def moved_to(name: str, new: Project) -> str:
    """Where a file of the template's is in a later version."""
    known = new.root / moves.NAME
    places = moves.parse(known.read_text()).get(name) if known.is_file() else None
    return places[0] if places else name


def apart(old: list[str], new: list[str]) -> int | None:
    """A line inside of a function that is far from whatever the release changes."""
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    for start, _, size in matcher.get_matching_blocks():
        for line in range(start + 5, start + size - 5):
            if old[line].startswith("    return ") and old[line - 1].startswith("    "):
                return line
    return None


def on_changed_line(old: list[str], new: list[str]) -> int | None:
    """A line that the release changes."""
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    changes = (code for code in matcher.get_opcodes() if code[0] == "replace")
    return next((code[1] for code in changes), None)


def update(project: Project, new: str) -> dict[str, object]:
    """By the command, or as its first version does where there is none yet."""
    if is_carrying(project):
        return project.report("--to", f"v{new}")
    if (project.root / ".template").is_dir():
        project.report("--to", f"v{new}")
    else:
        project.update_as_a_bot(f"v{new}")
    return project.report("--review", program=ROOT / COMMAND)


@pytest.mark.parametrize(("old", "new"), pairs_up_to(NEXT))
def test_a_customised_project_updates_without_a_conflict(
    template: Template, tmp_path: Path, old: str, new: str
) -> None:
    """Both ways at once: every customisation and every change of the release are there."""
    project = copy(template, tmp_path / "project", f"v{old}", {"sample": "minimal"})
    fresh = copy(template, tmp_path / "fresh", f"v{new}", {"sample": "minimal"})
    customise(project)
    edited = [
        (name, lines, line)
        for name, lines, theirs in vendored(project, fresh)
        if (line := apart(lines, theirs)) is not None
    ][:3]
    for name, lines, line in edited:
        (project.root / name).write_text("\n".join([*lines[:line], OURS, *lines[line:]]) + "\n")
    project.commit()
    own = git(project.root, "ls-files", "src/my_platform", "sqlmesh_project").split()
    before = {name: (project.root / name).read_bytes() for name in own}

    report = update(project, new)

    assert (report["exit_code"], report["restored"]) == (0, [])
    assert not project.unmerged() and len(edited) == 3
    for old_name, _, _ in edited:
        name = moved_to(old_name, fresh)
        ours = (project.root / name).read_text()
        assert ours.replace(f"{OURS}\n", "") == (fresh.root / name).read_text(), name
        assert ours.count(OURS) == 1
    assert {name: (project.root / name).read_bytes() for name in own} == before
    pyproject = parse_toml(project.root / "pyproject.toml")
    theirs = parse_toml(fresh.root / "pyproject.toml")["project"]["dependencies"]
    assert pyproject["project"]["dependencies"] == [*theirs, "polars>=1"]
    assert pyproject["tool"]["ours"] == {"key": 1}
    assert (project.root / ".github/workflows/ci.yml").read_text().endswith(JOB)
    assert (project.root / ".gitignore").read_text().endswith("\nours/\n")
    works(project, "warehouse/marts/ours" if old in WITH_CATALOG else "marts/ours")


def works(project: Project, key: str) -> None:
    """One run builds the owner's model, tags each model, and executes the owner's check."""
    script = """
import dagster as dg
from my_platform.definitions import defs
job = defs().resolve_implicit_global_asset_job_def()
with dg.DagsterInstance.ephemeral() as instance:
    result = job.execute_in_process(instance=instance)
print(*(e.asset_key.to_user_string() for e in result.get_asset_materialization_events()))
print(*(c.check_name for c in result.get_asset_check_evaluations() if c.passed))
print(*(s.key.to_user_string() for s in defs().resolve_all_asset_specs() if "domain" in s.tags))
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=project.root,
        env={**os.environ, "PYTHONPATH": str(project.root / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    built, passed, tagged = (set(line.split()) for line in done.stdout.splitlines()[-3:])
    assert key in built & tagged and "revenue_is_plausible" in passed


@pytest.mark.parametrize(("old", "new"), pairs_up_to(LATER))
def test_an_edit_of_a_changed_line_is_a_plain_conflict(
    template: Template, tmp_path: Path, old: str, new: str
) -> None:
    """Both versions are between markers; no other file is in conflict, and nothing is hidden."""
    project = copy(template, tmp_path / "project", f"v{old}", {})
    fresh = copy(template, tmp_path / "fresh", f"v{new}", {})
    name, lines, line = next(
        (name, lines, line)
        for name, lines, theirs in vendored(project, fresh)
        if (line := on_changed_line(lines, theirs)) is not None
    )
    lines[line] = OURS
    (project.root / name).write_text("\n".join(lines) + "\n")
    project.commit()

    report = update(project, new)

    moved = moved_to(name, fresh)
    why = "both changed the same lines" + (f"; it was `{name}`" if moved != name else "")
    assert report["exit_code"] == 1 and project.unmerged() == {moved}
    assert report["conflict"] == [{"path": moved, "reason": why}]
    name = moved
    assert report["saved"] == report["missed"] == report["restored"] == []
    text = (project.root / name).read_text()
    assert "<<<<<<< before updating\n" in text and OURS in text
