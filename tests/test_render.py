"""Every combination of two answers gives a clean tree."""

import hashlib
import json
import re
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import yaml
from copier import run_copy

from tests.answers import ANSWERS, EXAMPLE
from tests.conftest import ROOT, Render
from tests.tree import files, parse_toml, run_tool

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_SCHEMAS = {"github": "vendor.github-workflows", "gitlab": "vendor.gitlab-ci"}
_PARSERS: dict[str, Callable[[bytes], object]] = {
    ".yml": lambda text: list(yaml.safe_load_all(text)),
    ".yaml": lambda text: list(yaml.safe_load_all(text)),
    ".toml": lambda text: tomllib.loads(text.decode()),
    ".json": json.loads,
    ".py": lambda text: compile(text, "", "exec"),
}
every_answer = pytest.mark.parametrize("answers", ANSWERS.values(), ids=ANSWERS)


@every_answer
def test_every_file_parses(render: Render, answers: dict[str, str]) -> None:
    """No answer breaks the syntax of a file."""
    for path in files(render(**answers)):
        if path.suffix in _PARSERS:
            try:
                _parse(path.suffix, path.read_bytes())
            except (ValueError, SyntaxError, yaml.YAMLError) as error:
                raise AssertionError(path) from error


@cache  # most files are the same in every project
def _parse(suffix: str, text: bytes) -> None:
    _PARSERS[suffix](text)


@every_answer
def test_text_is_tidy(render: Render, answers: dict[str, str]) -> None:
    """No leftover Jinja, no trailing blanks, one final newline."""
    project = render(**answers)
    for path in files(project):
        if path.suffix in {".csv", ".pyc"} or not path.stat().st_size:
            continue
        text, name = path.read_text(), path.relative_to(project).as_posix()
        assert text.endswith("\n") and not text.endswith("\n\n"), name
        assert "\r" not in text and "\n\n\n\n" not in text, name
        assert not [line for line in text.splitlines() if line != line.rstrip()], name
        if (ROOT / "template" / f"{name}.jinja").exists():
            assert "{%" not in text and "{{ " not in text.replace("${{ ", ""), name


@every_answer
def test_lint_and_format_have_nothing_to_say(render: Render, answers: dict[str, str]) -> None:
    """The first `poe check` of a new owner is green, and `poe format` changes no Python."""
    run_tool("ruff", "check", "--no-cache", cwd=render(**answers))
    run_tool("ruff", "format", "--check", "--no-cache", cwd=render(**answers))


@pytest.mark.slow
def test_types_hold(render: Render, mypy_cache: Path) -> None:
    """The type checker passes on every distinct set of Python files and settings."""
    distinct = {}
    for answers in ANSWERS.values():
        project = render(**answers)
        sources = [path for path in files(project) if path.suffix == ".py"]
        content = b"".join(
            path.read_bytes() for path in sources if "sqlmesh_project" not in path.parts
        )
        distinct[hashlib.sha256(content).digest()] = project
    for project in distinct.values():
        run_tool("mypy", "--cache-dir", str(mypy_cache), cwd=project)


@every_answer
def test_workflows_are_valid(render: Render, answers: dict[str, str]) -> None:
    """CI files satisfy the schemas of their providers, and only the chosen one is there."""
    project = render(**answers)
    workflows = [
        ("github", ".github/workflows/ci.yml"),
        ("github", ".github/workflows/integration.yml"),
        ("github", ".github/workflows/plan.yml"),
        ("github", ".github/workflows/template-update.yml"),
        ("gitlab", ".gitlab-ci.yml"),
    ]
    chosen = []
    for provider, path in workflows:
        assert (project / path).exists() == (answers["ci"] == provider)
        if answers["ci"] == provider:
            chosen.append(path)
    if chosen:
        schema = _SCHEMAS[answers["ci"]]
        run_tool("check_jsonschema", "--builtin-schema", schema, *chosen, cwd=project)
    assert (project / ".github").exists() == (answers["ci"] == "github")


def test_ci_tests_the_integration_only_when_it_or_a_version_has_changed(render: Render) -> None:
    """Vendored code, its tests, what is installed, and the workflow itself; CI's own job leaves it out."""
    code = ["src/sqlmesh_dagster/**", "tests/sqlmesh_dagster/**", "pyproject.toml", "uv.lock"]
    workflows = render() / ".github/workflows"
    integration = yaml.safe_load((workflows / "integration.yml").read_text())
    events = integration[True]  # how YAML reads `on`
    paths = [events[event]["paths"] for event in ("push", "pull_request")]
    assert paths == [[*code, ".github/workflows/integration.yml"]] * 2
    assert "poe test-integration" in str(integration["jobs"])
    assert "test-integration" not in (workflows / "ci.yml").read_text()

    gitlab = yaml.safe_load((render(ci="gitlab") / ".gitlab-ci.yml").read_text())
    (rule,) = gitlab["integration"]["rules"]
    assert rule["changes"] == [re.sub(r"\*\*$", "**/*", path) for path in code] + [".gitlab-ci.yml"]
    assert "poe test-integration" in gitlab["integration"]["script"]
    assert "poe test-integration" not in gitlab["check"]["script"]


def test_the_settings_of_the_dependency_bot_are_valid(render: Render) -> None:
    """Renovate's schema accepts them, and they leave alone exactly what the template pins."""
    project = render()
    run_tool(
        *("check_jsonschema", "--builtin-schema", "vendor.renovate", "renovate.json"), cwd=project
    )
    settings = json.loads((project / "renovate.json").read_text())
    pyproject = parse_toml(render(deployment="kubernetes") / "pyproject.toml")
    pins = [pin for group in pyproject["dependency-groups"].values() for pin in group]
    pins += pyproject["project"]["dependencies"]
    names = sorted({re.split("[<>=;]", pin)[0] for pin in pins})
    assert settings["packageRules"][0]["matchPackageNames"] == names


def test_the_same_answers_render_the_same_bytes(
    source: Path, render: Render, tmp_path: Path
) -> None:
    """Nothing in a render depends on the time, the machine or the order of files."""
    run_copy(str(source), tmp_path / "again", EXAMPLE, defaults=True, quiet=True)
    first = render(**EXAMPLE)
    written = [path for path in files(first) if path.suffix != ".pyc"]
    assert [path.relative_to(first) for path in written] == [
        path.relative_to(tmp_path / "again") for path in files(tmp_path / "again")
    ]
    for path in written:
        assert path.read_bytes() == (tmp_path / "again" / path.relative_to(first)).read_bytes()


def test_the_message_after_a_copy_fits_the_answers(
    source: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """It names the folder, the one command that runs everything, and the CI that was chosen."""
    run_copy(str(source), tmp_path / "ada", EXAMPLE, defaults=True)
    message = capfd.readouterr().err
    assert f"cd {tmp_path / 'ada'}" in message
    assert "uv run poe run" in message and ".venv/bin/poe run" in message
    assert ".gitlab-ci.yml" in message and ".github" not in message.partition("is ready")[2]
    assert "_src_path" not in message


def test_the_message_after_a_copy_by_a_relative_path_says_what_updates_need(
    source: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copier stores the path as it was typed, and looks for it from the project."""
    monkeypatch.chdir(source)
    run_copy(".", tmp_path / "ada", EXAMPLE, defaults=True)
    message = capfd.readouterr().err
    assert "replace the relative path `.` in .copier-answers.yml, `_src_path`" in message
