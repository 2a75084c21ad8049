"""The CI recipe of pull requests, run command by command as it stands in the workflow."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
import yaml

from tests.conftest import Render
from tests.test_generated_projects import Project, with_tools_of

pytestmark = pytest.mark.generated

EXPRESSION = re.compile(r"\$\{\{ *(.*?) *\}\}")
EVENT = {"github.event.number": "12", "github.event.pull_request.base.ref": "main"}


def _known(value: str) -> str:
    return EXPRESSION.sub(lambda match: EVENT[match[1]], value)


def _job(root: Path, name: str) -> dict[str, Any]:
    workflow = yaml.safe_load((root / ".github/workflows/plan.yml").read_text())
    job: dict[str, Any] = workflow["jobs"][name]
    return job


def _run(project: Project, name: str, summary: Path) -> dict[str, int]:
    """Runs a job's commands as GitHub does; how each ended, by its step's name.

    The environment is installed already, and the checkout is there.
    """
    job = _job(project.root, name)
    environment = {key: _known(value) for key, value in job["env"].items()}
    ended: dict[str, int] = {}
    for step in job["steps"]:
        if "run" not in step or step["run"].startswith("python -m pip"):
            continue
        if any(ended.values()) and step.get("if") != "always()":
            continue
        done = subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", _known(step["run"])],
            cwd=project.root,
            env={
                **project.environment,
                **environment,
                "GITHUB_STEP_SUMMARY": str(summary),
                "GITHUB_OUTPUT": f"{summary}.output",
            },
            text=True,
            capture_output=True,
            check=False,
        )
        ended[step["name"]] = done.returncode
        print(done.stdout, done.stderr)
    return ended


@pytest.fixture(scope="module")
def project(render: Render, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """The minimal sample in a repository on GitHub; its DuckDB file stands for a shared warehouse."""
    root = tmp_path_factory.mktemp("pull_request") / "project"
    shutil.copytree(render(sample="minimal", ci="github"), root)
    yield Project(root, with_tools_of(Path(sys.executable), PYTHONPATH=str(root / "src")))


def _schemas(project: Project) -> set[str]:
    with duckdb.connect(str(project.root / "warehouse.duckdb")) as connection:
        rows = connection.execute("SELECT schema_name FROM information_schema.schemata").fetchall()
    return {name for (name,) in rows if "__pr_" in name}


def test_a_pull_request_is_planned_shown_and_invalidated(project: Project, tmp_path: Path) -> None:
    """Opened, broken, and closed: built in schemas of its own, refused with the reason, and gone."""
    ended = _run(project, "plan", tmp_path / "opened.md")
    assert list(ended.values()) == [0, 0, 0]
    assert _schemas(project) == {"marts__pr_12", "reference__pr_12", "staging__pr_12"}
    shown = (tmp_path / "opened.md").read_text()
    assert "## Review of environment `pr_12`" in shown
    assert "| warehouse.marts.daily_revenue | added |" in shown
    output = (tmp_path / "opened.md.output").read_text()
    end = output.partition("\n")[0].removeprefix("page<<")
    assert output.endswith(f"\n{end}\n") and "## Review of environment `pr_12`" in output

    (test,) = (project.root / "sqlmesh_project/tests").glob("*.yaml")
    good = test.read_text()
    test.write_text(re.sub(r"(outputs:(?:.|\n)*?: )(\d[\d.]*)$", r"\g<1>987654", good, flags=re.M))
    assert test.read_text() != good
    ended = _run(project, "plan", tmp_path / "broken.md")
    assert ended["Review"] != 0 and ended["Show the review"] == 0
    assert "1 of 1 unit tests fail" in (tmp_path / "broken.md").read_text()
    test.write_text(good)

    assert _run(project, "invalidate", tmp_path / "closed.md") == {"Invalidate the environment": 0}
    assert _schemas(project) == set()


def test_a_closed_pull_request_is_never_planned_and_an_open_one_never_invalidated(
    project: Project,
) -> None:
    """Each job has the other's condition, reversed; both name the same environment."""
    plan, invalidate = (_job(project.root, name) for name in ("plan", "invalidate"))
    assert plan["if"] == "github.event.action != 'closed'"
    assert invalidate["if"] == "github.event.action == 'closed'"
    assert plan["env"] == invalidate["env"]


@pytest.mark.parametrize(("sample", "loads"), [("minimal", True), ("none", False)])
def test_raw_files_are_loaded_only_where_an_asset_loads_them(
    render: Render, sample: str, loads: bool
) -> None:
    """A project that was there before may have nothing to load."""
    root = render(sample=sample, ci="github")
    runs = [step.get("run", "") for step in _job(root, "plan")["steps"]]
    assert any(run == "poe load" for run in runs) is loads
    assert bool(list(root.glob("src/*/defs/ingest.py"))) is loads
