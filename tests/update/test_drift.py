"""`poe drift`: which of the template's files differ here and there, without the network."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.manifest import PATH, current
from tests.update.projects import Project, copy
from tests.update.releases import NEXT, Template, clone
from tests.update.test_matrix import PRESETS

VENDORED = "src/sqlmesh_dagster"


def fix(template: Path) -> None:
    """Change one file that is edited in the project, and one that is not."""
    for name in ("errors.py", "component.py"):
        path = template / "template" / VENDORED / name
        path.write_text(path.read_text() + "# theirs\n")
    manifest = template / "template/.template/manifest.json"
    known = json.loads(manifest.read_text())
    known["template"] |= {f"{VENDORED}/errors.py": "other", f"{VENDORED}/component.py": "other"}
    manifest.write_text(json.dumps(known))


@pytest.fixture(scope="module")
def template(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Template:
    """The versions of this repository; only read it."""
    return clone(source, tmp_path_factory.mktemp("drift") / "template")


def drift(project: Project, **environment: str) -> dict[str, Any]:
    """What `drift --json` says; git is not allowed to ask anyone."""
    done = subprocess.run(
        [sys.executable, ".template", "drift", "--json"],
        cwd=project.root,
        env={**os.environ, "GIT_ALLOW_PROTOCOL": "none", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["exit_code"] == done.returncode, done.stderr
    return found


def test_the_manifest_holds_what_is_on_disk() -> None:
    """`python -m tests.manifest` writes it again after a change of the template's files."""
    assert PATH.read_text() == current().as_json(), "run `python -m tests.manifest`"


@pytest.mark.parametrize("answers", PRESETS.values(), ids=PRESETS)
def test_a_fresh_project_does_not_drift(
    template: Template, tmp_path: Path, answers: dict[str, str]
) -> None:
    """Whatever was answered, all files of the template's are as they were shipped."""
    newest = f"v{NEXT}"
    found = drift(copy(template, tmp_path / "project", newest, answers))
    assert (found["edited"], found["changed"], found["both"]) == ([], [], [])
    assert found["newest"] == newest


def test_it_tells_what_is_edited_here_changed_there_and_both(source: Path, tmp_path: Path) -> None:
    """Of five files each is in one list at most, and the text names them all."""
    template = clone(source, tmp_path / "template")
    project = copy(template, tmp_path / "project", f"v{NEXT}", {})
    template.release("90.0.0", fix)
    project.append(f"{VENDORED}/errors.py", "# mine")
    project.append(f"{VENDORED}/factories.py", "# mine")
    (project.root / VENDORED / "event_log.py").unlink()
    project.append("README.md", "Mine is mine.")

    found = drift(project)

    assert found["both"] == [f"{VENDORED}/errors.py"]
    assert found["edited"] == [f"{VENDORED}/event_log.py", f"{VENDORED}/factories.py"]
    assert found["changed"] == [f"{VENDORED}/component.py"]
    assert found["newest"] == "v90.0.0"
    text = project.command("drift").stdout
    assert all(f"  {VENDORED}/{name}.py\n" in text for name in ("errors", "factories", "component"))


def test_a_template_elsewhere_is_compared_as_it_was_fetched_last(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copier's cache is enough; without it, the report says what it does not know."""
    template = clone(source, tmp_path / "template")
    url = "https://example.invalid/ada/template.git"
    config = tmp_path / "gitconfig"
    config.write_text(
        f"{Path(os.environ['GIT_CONFIG_GLOBAL']).read_text()}"
        f'[url "{template.root}"]\n    insteadOf = {url}\n'
    )
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    monkeypatch.setenv("COPIER_CACHE_DIR", str(tmp_path / "cache"))
    project = Project(tmp_path / "project")
    subprocess.run(
        [sys.executable, "-m", "copier", "copy", "--defaults", "--quiet", url, project.root],
        check=True,
        env={**os.environ, "GIT_CONFIG_GLOBAL": str(config)},
    )
    template.release("90.0.0", fix)
    assert drift(project)["changed"] == [], "not fetched yet"
    project.command("update", "--check")
    fetched = drift(project)
    assert fetched["changed"] == [f"{VENDORED}/component.py", f"{VENDORED}/errors.py"]
    assert "as Copier fetched it last" in fetched["as_of"]
    shutil.rmtree(tmp_path / "cache")
    unknown = drift(project)
    assert unknown["newest"] is None and "poe update --check" in unknown["as_of"]


def test_it_costs_little(template: Template, tmp_path: Path) -> None:
    """A second at most: nothing dear is imported, and few processes are started for any number of files."""
    project, traced = copy(template, tmp_path / "project", f"v{NEXT}", {}), tmp_path / "git.json"
    drift(project, GIT_TRACE2_EVENT=str(traced))
    started = [line for line in traced.read_text().splitlines() if '"event":"start"' in line]
    assert len(started) <= 8, started

    code = "import sys; sys.path.insert(0, '.template'); import template_update.cli; print(*sys.modules)"
    modules = subprocess.check_output([sys.executable, "-c", code], cwd=project.root, text=True)
    assert not {"copier", "jinja2", "pydantic", "dagster", "sqlmesh"} & set(modules.split())
