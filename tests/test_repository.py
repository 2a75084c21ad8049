"""The repository keeps its word: README, versions, CI."""

import ast
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import pytest
import yaml

from tests.answers import COPIER_YML, QUESTIONS
from tests.conftest import ROOT, Render
from tests.tree import parse_toml, run_tool

BASH_BLOCK = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_quick_start_is_two_commands() -> None:
    """One block generates and runs a project, one tests the template, each a single command."""
    readme = (ROOT / "README.md").read_text()
    quick_start = readme.partition("## Quick start\n")[2].partition("\n## ")[0]
    blocks = BASH_BLOCK.findall(quick_start)
    assert len(blocks) == 2 and BASH_BLOCK.findall(readme) == blocks
    assert all(len(block.splitlines()) == 1 for block in blocks)
    assert "copier copy --defaults" in blocks[0] and blocks[0].endswith("poe run\n")
    assert "pytest" in blocks[1]


_STUMBLES = re.compile(
    r"\b(anew|besides?|mend(s|ed|ing)?|seams?|without a word|needs? a word|no word for)\b",
    re.IGNORECASE,
)
"""What somebody who learned English at school stumbles over; plainer words say the same."""


def _docstrings(path: Path) -> list[str]:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    nodes = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, kinds))
    return [text for node in nodes if (text := ast.get_docstring(node))]


def test_what_owners_read_says_it_in_plain_words() -> None:
    """Pages, and the docstrings of what is copied; `again`, `next to`, `fix`, `report` are there."""
    pages = (
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "template/README.md.jinja")),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "template/src").rglob("*.md"),
    )
    texts = {str(page): [page.read_text()] for page in pages}
    for folder in ("template/src/sqlmesh_dagster", "template/.template"):
        texts |= {str(path): _docstrings(path) for path in (ROOT / folder).rglob("*.py")}
    found = {
        f"{name}: {match[0]}"
        for name, all_ in texts.items()
        for t in all_
        for match in _STUMBLES.finditer(re.sub(r"`[^`]*`|^\s*\w+: ", "", t, flags=re.MULTILINE))
    }
    assert found == set()


def test_tables_of_pages_are_whole() -> None:
    """A row is one line, with the cells that its head has; otherwise a page shows half a table."""
    pages = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
    for page in (*pages, *(ROOT / "docs").rglob("*.md"), *(ROOT / "template").rglob("*.md*")):
        cells, before = 0, ""
        for line in re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL).splitlines():
            if line.startswith("|"):
                count = len(re.split(r"(?<!\\)\|", line))
                assert not before.startswith("|") or count == cells, f"{page}: {line}"
                cells = count
            else:
                assert not (before.startswith("|") and line and not line.startswith("{%")), (
                    f"{page}: {line}"
                )
            before = line if not line.startswith("{%") else before


def test_the_help_of_a_task_is_one_line_of_a_terminal() -> None:
    """In 120 columns, of which poe takes 24; what is longer is cut in the middle of a word."""
    tasks = parse_toml(ROOT / "template/poe_tasks.toml")["tasks"]
    assert {name for name, task in tasks.items() if len(task["help"]) > 96} == set()


@pytest.mark.slow
def test_a_task_that_was_renamed_works_under_its_old_name(render: Render, tmp_path: Path) -> None:
    """It says the new name first, on the error stream, and then does the same."""
    tasks = parse_toml(ROOT / "template/poe_tasks.toml")["tasks"]
    assert tasks["remove"]["cmd"] == tasks["invalidate"]["cmd"].replace("invalidate", "remove")
    command = [sys.executable, *shlex.split(tasks["remove"]["cmd"])[1:], "prod"]
    project = shutil.copytree(render(), tmp_path / "project")  # it records a run there
    said = subprocess.run(
        command,
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(project / "src"), "PYTHONDONTWRITEBYTECODE": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.stderr.startswith("`poe remove` is now `poe invalidate`.")
    assert "`prod` is never invalidated" in said.stdout and said.returncode == 1


def test_ci_runs_the_command_of_the_readme() -> None:
    """`.ci/run` reads the second block, so that the two cannot drift."""
    script = (ROOT / ".ci/run").read_text()
    command = BASH_BLOCK.findall((ROOT / "README.md").read_text())[1]
    assert command.strip() not in script and " -m " not in command.partition("pytest")[2]
    (extraction,) = re.findall(r"^command=\$\((.*)\)$", script, re.MULTILINE)
    extracted = subprocess.run(
        ["bash", "-c", extraction], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert extracted.stdout == command


def test_ci_runs_whatever_the_command_leaves_for_later() -> None:
    """What waits until it is asked for is asked for there."""
    later = runpy.run_path(str(ROOT / "conftest.py"))["LATER"]
    assert f'pytest -m "{" or ".join(later)}" ' in (ROOT / ".ci/run").read_text()


@pytest.mark.parametrize(
    ("command", "rest", "dbt", "status"),
    [(0, 0, 0, 0), (1, 0, 0, 1), (0, 1, 0, 1), (0, 0, 1, 1), (2, 2, None, 1), (0, 0, None, 0)],
)
def test_ci_fails_when_a_part_does_and_ends_with_what_all_said(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: int,
    rest: int,
    dbt: int | None,
    status: int,
) -> None:
    """All run, whatever becomes of the first; dbt's where its packages are to be had (None: they are not)."""
    script = tmp_path / ".ci/run"
    script.parent.mkdir()
    shutil.copy(ROOT / ".ci/run", script)
    programs = {
        ".venv/bin/python": f"echo 1 later\nexit {rest}\n",
        ".venv-dbt/bin/python": f"echo 1 of dbt\n[ $2 = pip ] || exit {dbt}\n",
        "bin/python3": f"[ $1 = -m ] || exit {int(dbt is None)}\n",
    }
    for name, text in programs.items():
        program = tmp_path / name
        program.parent.mkdir(parents=True)
        program.write_text(f"#!/bin/sh\n{text}")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    block = f"```bash\necho 1 now && exit {command}\n```\n"
    (tmp_path / "README.md").write_text(f"```bash\nfalse\n```\n{block}")
    done = subprocess.run([script], check=False, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    said = [line.rpartition(": ")[2] for line in done.stdout.splitlines() if ": 1 " in line]
    assert said == [*(["1 of dbt"] if dbt is not None else []), "1 now", "1 later"]


def test_the_generated_readme_has_two_commands(render: Render) -> None:
    """Run it, test it: each needs Python, pip and git alone."""
    text = (render() / "README.md").read_text()
    quick_start = text.partition("## Quick start\n")[2].partition("\n## ")[0]
    run, test = BASH_BLOCK.findall(quick_start)
    assert run.startswith("python3 -m venv .venv && ") and run.endswith("/poe run\n")
    assert test == run.replace("/poe run", "/poe test")


def test_the_tests_run_on_the_versions_that_projects_get(render: Render) -> None:
    """What is tested here is what a fresh project installs."""
    project = parse_toml(render() / "pyproject.toml")
    theirs = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]
    ours = parse_toml(ROOT / "pyproject.toml")["dependency-groups"]["project"]
    assert sorted(theirs) == sorted(ours)


def test_every_package_that_the_integration_imports_is_declared(render: Render) -> None:
    """No import leans on what another package happens to bring."""
    project = render()
    declared = {
        re.split("[<>=;]", pin)[0]
        for pin in parse_toml(project / "pyproject.toml")["project"]["dependencies"]
    }
    trees = [ast.parse(path.read_text()) for path in (project / "src").rglob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    imported = {
        alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names
    }
    imported |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
    # pytest is what loads the plugin that imports it, pyspark is there where Spark is the warehouse;
    # tomllib is the standard library's from 3.11 on
    optional = {"pytest", "pyspark", "tomllib"}
    ours = {"my_platform", "sqlmesh_dagster", *optional, *sys.stdlib_module_names}
    roots = {name.split(".")[0] for name in imported} - ours
    brought = {
        file.parts[0].removesuffix(".py")
        for distribution in distributions()
        if distribution.metadata["Name"].lower() in declared
        for file in distribution.files or ()
    }
    assert not roots - brought and {"dotenv", "sqlalchemy"} <= roots


def test_the_floor_of_copier_is_the_same_everywhere() -> None:
    """copier.yml, the README's command and the tests agree."""
    floor = f"copier>={COPIER_YML['_min_copier_version'].removesuffix('.0')},<10"
    assert f'"{floor}"' in (ROOT / "README.md").read_text()
    assert floor in parse_toml(ROOT / "pyproject.toml")["dependency-groups"]["dev"]


def test_every_python_on_offer_is_tested() -> None:
    """CI's matrix is the list of choices."""
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    matrix = workflow["jobs"]["test"]["strategy"]["matrix"]["python-version"]
    assert matrix == QUESTIONS["python_version"]["choices"]


def test_the_workflow_is_valid() -> None:
    """GitHub's schema accepts it."""
    workflow = ".github/workflows/ci.yml"
    run_tool("check_jsonschema", "--builtin-schema", "vendor.github-workflows", workflow, cwd=ROOT)


def test_the_example_answers_answer_every_question() -> None:
    """The example differs from each default, so that no default hides a missing variable."""
    example = yaml.safe_load((ROOT / "example-answers.yml").read_text())
    assert list(example) == [name for name, spec in QUESTIONS.items() if "when" not in spec]
    assert all(example[name] != QUESTIONS[name]["default"] for name in example)


@pytest.mark.parametrize("command", ["check", "format --check"])
def test_the_repository_is_linted_and_formatted(command: str) -> None:
    """Ruff has nothing to say, here and in the template where it stands."""
    run_tool("ruff", *command.split(), cwd=ROOT)


def test_the_repository_is_typed() -> None:
    """mypy, strict, over the tests and the integration."""
    run_tool("mypy", cwd=ROOT)


def test_the_tests_that_the_documents_name_exist() -> None:
    """A promise that names its test names one that is there."""
    folders = (ROOT / "tests", ROOT / "template" / "tests")
    named = [
        name
        for document in (ROOT / "docs").glob("*.md")
        for name in re.findall(r"`([\w/]+\.py(?:::\w+)?)`", document.read_text())
        if "/test_" in f"/{name}"
    ]
    assert named
    for name in named:
        path, _, function = name.partition("::")
        files = [folder / path for folder in folders if (folder / path).is_file()]
        assert files, name
        assert f"def {function}(" in files[0].read_text() or not function, name


@pytest.mark.slow
def test_tests_leave_nothing_in_the_temp_folder_of_their_user(tmp_path: Path) -> None:
    """Locks, instances and SQLMesh's caches are below pytest's own folder, which pytest clears."""
    users, base = tmp_path / "users", tmp_path / "pytest"
    users.mkdir()
    named = [
        "template/tests/sqlmesh_dagster/test_outcomes.py::test_the_data_version_changes_exactly_when_a_model_was_executed",
        "tests/test_render.py::test_the_settings_of_the_dependency_bot_are_valid",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--basetemp={base}", *named],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(users)},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert list(users.iterdir()) == []
    assert list(base.rglob(".cache/dagster/locks/*.lock"))
