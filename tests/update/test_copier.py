"""`copier update` brings what is the template's and leaves what is the owner's."""

import shutil
import subprocess
from pathlib import Path

import plumbum
import pytest
from copier import run_copy, run_update

INTEGRATION = "src/sqlmesh_dagster/__init__.py"
OWNED = [
    "README.md",
    ".env.example",
    "dagster_home/dagster.yaml",
    "src/my_platform/defs/transform.py",
    "tests/test_platform.py",
]


def git(folder: Path, *arguments: str) -> str:
    """Output of a git command."""
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def append(path: Path, text: str) -> None:
    """Add a line at the end."""
    path.write_text(path.read_text() + text + "\n")


def release(template: Path, tag: str) -> None:
    """Commit everything and tag it."""
    git(template, "add", "--all")
    git(template, "commit", "--quiet", "--allow-empty", "--message", tag)
    git(template, "tag", tag)


@pytest.fixture
def template(source: Path, tmp_path: Path) -> Path:
    """The template on disk as version 0.0.1."""
    shutil.copytree(source, tmp_path / "template")
    git(tmp_path / "template", "init", "--quiet")
    release(tmp_path / "template", "v0.0.1")
    return tmp_path / "template"


@pytest.fixture
def project(template: Path, tmp_path: Path) -> Path:
    """A project of version 0.0.1, committed."""
    run_copy(str(template), tmp_path / "project", defaults=True, unsafe=False, quiet=True)
    git(tmp_path / "project", "init", "--quiet")
    release(tmp_path / "project", "start")
    return tmp_path / "project"


def update(project: Path) -> None:
    """What Renovate runs: no questions, no trust."""
    run_update(project, defaults=True, skip_answered=True, overwrite=True, unsafe=False, quiet=True)


def test_an_update_brings_the_templates_changes_and_keeps_the_owners(
    template: Path, project: Path
) -> None:
    """Owner and template change the same files; every owner's byte and every fix is there."""
    for name in OWNED:
        append(project / name, "# the owner's")
        (source,) = (p for p in candidates(template, name) if p.exists())
        append(source, "# of version 0.0.2")
    (project / "sqlmesh_project/mine.sql").write_text("SELECT 1;\n")
    for path in sorted((project / "data/raw").iterdir()):
        path.unlink()
    pyproject = project / "pyproject.toml"
    marker = "    # --- yours below this line: `copier update` merges the part above ---\n"
    pyproject.write_text(pyproject.read_text().replace(marker, marker + '    "polars",\n', 1))
    append(project / ".gitignore", "mine/")
    release(project, "mine")

    append(template / "template" / INTEGRATION, "# fixed")
    shared = template / "template/pyproject.toml.jinja"
    shared.write_text(shared.read_text().replace('"watchdog"', '"watchdog>=4"'))
    ignore = template / "template/.gitignore"
    ignore.write_text(ignore.read_text().replace(".env\n", ".env\n.secrets\n"))
    release(template, "v0.0.2")

    update(project)

    for name in OWNED:
        assert (project / name).read_text().endswith("# the owner's\n"), name
        assert "version 0.0.2" not in (project / name).read_text(), name
    assert (project / "sqlmesh_project/mine.sql").exists()
    assert not list((project / "data/raw").glob("*"))
    assert (project / INTEGRATION).read_text().endswith("# fixed\n")
    assert '"watchdog>=4",\n' + marker + '    "polars",\n' in pyproject.read_text()
    assert (project / ".gitignore").read_text().endswith("above ---\nmine/\n")
    assert ".env\n.secrets\n" in (project / ".gitignore").read_text()
    assert "_commit: v0.0.2" in (project / ".copier-answers.yml").read_text()
    assert not git(project, "ls-files", "--unmerged")


def candidates(template: Path, name: str) -> list[Path]:
    """Where a file of a project may come from."""
    name = name.replace("my_platform", "{{package_name}}")
    return [template / "template" / name, template / "template" / f"{name}.jinja"]


def test_an_update_without_changes_changes_nothing(template: Path, project: Path) -> None:
    """A release that only touches the template repository leaves but the version in the answers."""
    release(template, "v0.0.2")
    update(project)
    assert git(project, "diff", "--stat").splitlines()[0].split()[0] == ".copier-answers.yml"
    assert len(git(project, "status", "--porcelain").splitlines()) == 1


def test_files_that_the_template_stops_shipping_stay_with_their_owner(
    template: Path, project: Path
) -> None:
    """A sample model that a release drops is still the owner's."""
    before = sorted((project / "sqlmesh_project").rglob("*"))
    shutil.rmtree(template / "template/sqlmesh_project")
    (template / "template/README.md.jinja").unlink()
    release(template, "v0.0.2")
    update(project)
    assert sorted((project / "sqlmesh_project").rglob("*")) == before
    assert (project / "README.md").exists()


@pytest.mark.parametrize(
    ("typed", "stored"),
    [
        ("gh:ada/template", "https://github.com/ada/template.git"),
        ("https://github.com/ada/template", "https://github.com/ada/template.git"),
        ("https://github.com/ada/template.git", "https://github.com/ada/template.git"),
    ],
)
def test_the_answers_file_names_the_template_as_bots_read_it(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: str, stored: str
) -> None:
    """Whatever was typed, the stored source is a URL that Renovate can look up."""
    config = tmp_path / "gitconfig"
    config.write_text(f'[url "{template}"]\n    insteadOf = https://github.com/ada/template.git\n')
    monkeypatch.setenv("COPIER_CACHE_DIR", str(tmp_path / "cache"))
    with plumbum.local.env(GIT_CONFIG_GLOBAL=str(config)):
        run_copy(typed, tmp_path / "project", defaults=True, unsafe=False, quiet=True)
    assert f"_src_path: {stored}\n" in (tmp_path / "project/.copier-answers.yml").read_text()
