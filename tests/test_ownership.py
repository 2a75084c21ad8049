"""One file says who owns what; copier.yml, the README and every render agree with it."""

import re
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from copier import run_copy
from pathspec import PathSpec

from tests.answers import ANSWERS, COPIER_YML
from tests.conftest import ROOT, Render
from tests.tree import files, tracked

OWNERSHIP: dict[str, list[str]] = yaml.safe_load(
    (ROOT / "template/.template-ownership.yml").read_text()
)
SHARED = "yours below this line"


def owners(path: str, package_name: str) -> list[str]:
    """The classes whose patterns match `path`."""
    return [owner for owner, spec in _specs(package_name).items() if spec.match_file(path)]


@cache
def _specs(package_name: str) -> dict[str, PathSpec[Any]]:
    return {
        owner: PathSpec.from_lines(
            "gitignore", [pattern.replace("<package_name>", package_name) for pattern in patterns]
        )
        for owner, patterns in OWNERSHIP.items()
    }


@pytest.mark.parametrize("answers", ANSWERS.values(), ids=ANSWERS)
def test_every_file_has_exactly_one_owner(render: Render, answers: dict[str, str]) -> None:
    """No file of a render is forgotten or claimed twice."""
    project = render(**answers)
    package_name = answers.get("package_name", "my_platform")
    for path in files(project):
        name = path.relative_to(project).as_posix()
        assert len(owners(name, package_name)) == 1, (name, owners(name, package_name))


def test_copier_guards_exactly_the_owners_files() -> None:
    """Both guards list what is yours: `_skip_if_exists` for recopy, `_exclude` for update."""
    yours = [
        pattern.replace("<package_name>", "{{ package_name }}") for pattern in OWNERSHIP["yours"]
    ]
    on_recopy = [p.replace(" | default('_')", "") for p in COPIER_YML["_skip_if_exists"]]
    assert on_recopy == yours
    (on_update,) = (block for block in COPIER_YML["_exclude"] if "'update'" in block)
    opening, *patterns, closing = on_update.splitlines()
    assert opening == "{% if _copier_operation == 'update' %}" and closing == "{% endif %}"
    assert set(patterns) - {"!tests/sqlmesh_dagster"} == set(yours)


def test_the_templates_files_are_verbatim() -> None:
    """What the template owns holds no answer, so that a fix is one clean diff in every project."""
    for path in (ROOT / "template").rglob("*.jinja"):
        name = path.relative_to(ROOT / "template").as_posix().removesuffix(".jinja")
        assert owners(name, "{{package_name}}") in (["yours"], ["shared"]) or "answers_file" in name


def test_no_two_files_become_one() -> None:
    """`name` beside `name.jinja` would leave it to chance which of them a project gets."""
    template = ROOT / "template"
    names = [str(path).removesuffix(".jinja") for path in tracked(template)]
    assert sorted(names) == sorted(set(names))


def test_shared_files_say_where_the_owners_part_begins(render: Render) -> None:
    """A line of its own parts the template's lines from the owner's, so that both can append."""
    for ci in ("github", "gitlab"):
        project = render(ci=ci)
        for path in files(project):
            name = path.relative_to(project).as_posix()
            if owners(name, "my_platform") == ["shared"]:
                last = path.read_text().splitlines()[-1]
                assert SHARED in last, name
    pyproject = (render() / "pyproject.toml").read_text()
    assert pyproject.count(SHARED) == 3


@pytest.mark.parametrize("readme", ["README.md", "template/README.md.jinja"])
def test_the_readmes_name_every_pattern(readme: str) -> None:
    """Both ownership tables are complete."""
    text = (ROOT / readme).read_text()
    patterns = [pattern for group in OWNERSHIP.values() for pattern in group]
    for pattern in patterns:
        name = pattern.lstrip("!")
        assert f"`{name}`" in text.replace("{{ package_name }}", "<package_name>"), name


def test_a_minimal_render_holds_the_kept_sample_files_and_nothing_else(render: Render) -> None:
    """`sample: minimal` leaves out models and raw files, and changes nothing else."""
    kept = yaml.safe_load((ROOT / "includes/minimal_sample.yml").read_text())["keep"]

    def listing(sample: str) -> dict[str, list[str]]:
        project = render(sample=sample)
        names = [path.relative_to(project).as_posix() for path in files(project)]
        of_sample = re.compile(r"sqlmesh_project/|data/raw/|src/\w+/dashboard.py")
        in_sample = [n for n in names if of_sample.match(n)]
        return {"sample": in_sample, "rest": [n for n in names if n not in in_sample]}

    full, minimal = listing("full"), listing("minimal")
    keep = PathSpec.from_lines("gitignore", kept)
    assert minimal["sample"] == [name for name in full["sample"] if keep.match_file(name)]
    assert all(any(PathSpec.from_lines("gitignore", [k]).match_files(full["sample"])) for k in kept)
    assert minimal["rest"] == full["rest"]


def test_what_work_leaves_behind_is_never_copied(source: Path, tmp_path: Path) -> None:
    """Caches, databases and virtual environments in template/ stay there."""

    dirty = shutil.copytree(source, tmp_path / "dirty")
    litter = [".venv/x", ".cache/x", "a.duckdb", "a.duckdb.wal", "__pycache__/x.pyc", "x.pyc"]
    litter += [
        ".git/x",
        ".DS_Store",
        ".mypy_cache/x",
        ".ruff_cache/x",
        ".pytest_cache/x",
        "logs/x.log",
    ]
    for folder in (".", "sqlmesh_project", "tests", "tests/sqlmesh_dagster", "data"):
        for name in litter:
            path = dirty / "template" / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    run_copy(str(dirty), tmp_path / "out", defaults=True, quiet=True)
    run_copy(str(source), tmp_path / "clean", defaults=True, quiet=True)
    assert [path.relative_to(tmp_path / "out") for path in files(tmp_path / "out")] == [
        path.relative_to(tmp_path / "clean") for path in files(tmp_path / "clean")
    ]
