"""The weekly job of GitHub and GitLab: an update on a branch, pushed to a real remote."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.update.projects import Project, copy
from tests.update.releases import NEXT, Template, clone, git

BRANCH = "template-update/v90.0.0"


def fix(template: Path) -> None:
    """Change one file of the template's."""
    path = template / "template/src/sqlmesh_dagster/errors.py"
    path.write_text(path.read_text() + "# theirs\n")


@pytest.fixture(scope="module")
def template(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Template:
    """The versions of this repository, and one to come."""
    template = clone(source, tmp_path_factory.mktemp("proposing") / "template")
    template.release("90.0.0", fix)
    return template


@pytest.fixture
def project(template: Template, tmp_path: Path) -> Project:
    """A project with an edit that will be in conflict, pushed to a remote that takes options."""
    project = copy(template, tmp_path / "project", f"v{NEXT}", {})
    project.append("src/sqlmesh_dagster/errors.py", "# mine")
    project.commit()
    remote = tmp_path / "remote.git"
    git(tmp_path, "init", "--quiet", "--bare", str(remote))
    git(remote, "config", "receive.advertisePushOptions", "true")
    hook = remote / "hooks/post-receive"
    hook.write_text('#!/bin/sh\nenv | grep ^GIT_PUSH_OPTION_ >> "$GIT_DIR/options" || true\n')
    hook.chmod(0o755)
    git(project.root, "remote", "add", "origin", str(remote))
    git(project.root, "push", "--quiet", "origin", "HEAD:main")
    return project


def propose(project: Project, host: str, tools: Path) -> subprocess.CompletedProcess[str]:
    """Run the script as CI does, with `gh` writing down what it is asked for."""
    tools.mkdir(exist_ok=True)
    gh = tools / "gh"
    gh.write_text(
        f"#!/bin/sh\nprintf '%s\\n' \"$@\" > '{tools}/asked'\n"
        f"cp \"$(printf '%s\\n' \"$@\" | tail -1)\" '{tools}/body'\n"
    )
    gh.chmod(0o755)
    return subprocess.run(
        [
            "sh",
            "-ec",
            "\n".join(
                f"sh .template/propose.sh {step} '{tools}/report'" for step in ("update", host)
            ),
        ],
        cwd=project.root,
        env={
            **os.environ,
            "PATH": os.pathsep.join(
                [str(tools), str(Path(sys.executable).parent), os.environ["PATH"]]
            ),
        },
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("host", ["github", "gitlab"])
def test_an_update_is_proposed_once_as_a_draft(project: Project, tmp_path: Path, host: str) -> None:
    """With its conflicts and its report; the branch belongs to people from then on."""
    remote, tools = tmp_path / "remote.git", tmp_path / "tools"
    done = propose(project, host, tools)
    assert done.returncode == 0, done.stderr
    committed = git(remote, "show", f"{BRANCH}:src/sqlmesh_dagster/errors.py")
    assert "<<<<<<< before updating\n# mine\n" in committed
    if host == "github":
        asked = (tools / "asked").read_text().splitlines()
        assert asked[:3] == ["pr", "create", "--draft"] and BRANCH in asked
        assert "Conflicts" in (tools / "body").read_text()
    else:
        options = (remote / "options").read_text()
        assert "merge_request.create" in options and "merge_request.draft" in options

    proposed = git(remote, "rev-parse", BRANCH)
    again = Project(tmp_path / "again")
    git(tmp_path, "clone", "--quiet", "--branch", "main", str(remote), str(again.root))
    done = propose(again, host, tools)
    assert done.returncode == 0 and "has been proposed" in done.stdout
    assert git(remote, "rev-parse", BRANCH) == proposed


def test_nothing_is_proposed_without_an_update(
    template: Template, project: Project, tmp_path: Path
) -> None:
    """Up to date: no branch. Refused: the job fails."""
    (project.root / "left.txt").write_text("over\n")
    assert propose(project, "github", tmp_path / "tools").returncode == 2
    (project.root / "left.txt").unlink()
    project.update_as_a_bot("v90.0.0")
    project.commit()
    done = propose(project, "github", tmp_path / "tools")
    assert done.returncode == 0 and "Up to date" in done.stdout
    assert "template-update" not in git(tmp_path / "remote.git", "branch", "--list")


def test_the_script_is_plain_shell() -> None:
    """`sh -n` parses it, and both CI files run it."""
    script = ROOT / "template/.template/propose.sh"
    subprocess.run([str(shutil.which("sh")), "-n", script], check=True)
    for name in (".github/workflows/template-update.yml", ".gitlab-ci.yml.jinja"):
        text = (ROOT / "template" / name).read_text()
        assert "sh .template/propose.sh git" in text
        assert "sh .template/propose.sh update" in text
