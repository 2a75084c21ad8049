"""Every version updates to every later one without a flag, and to what a fresh copy holds."""

import itertools
import json
import re
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from template_update import changelog, moves, ownership
from tests.answers import COPIER_YML
from tests.conftest import ROOT
from tests.update.projects import Project, copy
from tests.update.releases import NEXT, RELEASES, Template, clone, git

VERSIONS = [*RELEASES, NEXT]
DELETED = "src/sqlmesh_dagster/definition/names.py"
OWNERS = ownership.parse((ROOT / "template" / ownership.NAME).read_text(), "my_platform")


@pytest.fixture(scope="module")
def template(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Template:
    """Every version, and one to come that only changes the answers' version."""
    template = clone(source, tmp_path_factory.mktemp("releases") / "template")
    template.release("90.0.0", lambda root: None)
    return template


@pytest.fixture(scope="module")
def newest(template: Template, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A fresh copy of what is on disk; only read it."""
    return copy(template, tmp_path_factory.mktemp("newest") / "project", f"v{NEXT}", {})


def not_mine(project: Project) -> dict[str, bytes]:
    """What the template owns or shares."""
    contents = project.contents()
    return {name: contents[name] for name in contents if not OWNERS.is_owned_by("yours", name)}


def mine(project: Project) -> dict[str, bytes]:
    """What is the owner's."""
    contents = project.contents()
    return {name: contents[name] for name in contents if OWNERS.is_owned_by("yours", name)}


def test_copier_yml_asks_for_no_trust() -> None:
    """No task, no extension, no data from elsewhere; a migration belongs to a major version."""
    assert not {"_tasks", "_jinja_extensions", "_external_data"} & set(COPIER_YML)
    for migration in COPIER_YML.get("_migrations", []):
        assert re.fullmatch(r"v?\d+\.0\.0", str(migration.get("version"))), migration


@pytest.fixture(scope="module")
def old(template: Template, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Project]:
    """A project of a release, whose owner has deleted a file of the template's; only read it."""

    @cache
    def project(version: str) -> Project:
        made = copy(template, tmp_path_factory.mktemp("old") / "project", f"v{version}", {})
        (made.root / DELETED).unlink()
        made.commit()
        return made

    return project


@pytest.fixture(scope="module")
def updated(
    old: Callable[[str], Project], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Project]:
    """The same, after an update by a bot; only read it."""

    @cache
    def project(version: str) -> Project:
        made = a_copy(old(version), tmp_path_factory.mktemp("updated"))
        made.update_as_a_bot(f"v{NEXT}")
        return made

    return project


def a_copy(project: Project, folder: Path) -> Project:
    """One to change."""
    return Project(shutil.copytree(project.root, folder / "project", symlinks=True))


@pytest.mark.parametrize("version", RELEASES)
def test_the_line_of_a_bot_works_from_every_release(
    newest: Project,
    old: Callable[[str], Project],
    updated: Callable[[str], Project],
    version: str,
) -> None:
    """No terminal, no trust; the result is a fresh copy's, but for the owner's files.

    A file of the template's that the owner has deleted stays deleted: 0.1.0 failed on it.
    """
    expected = not_mine(newest)
    del expected[DELETED]
    assert not_mine(updated(version)) == expected
    assert mine(updated(version)) == mine(old(version))


@pytest.mark.parametrize("version", RELEASES)
def test_a_detour_leads_to_the_same_tree(
    old: Callable[[str], Project],
    updated: Callable[[str], Project],
    tmp_path: Path,
    version: str,
) -> None:
    """By the version in between, or at once."""
    direct = a_copy(old(version), tmp_path / "direct")
    detour = a_copy(updated(version), tmp_path / "detour")
    detour.commit()
    for project in (direct, detour):
        project.update_as_a_bot("v90.0.0")
    assert direct.contents() == detour.contents()


def test_an_option_that_is_switched_off_and_on_again_leaves_no_trace(
    newest: Project, tmp_path: Path
) -> None:
    """The template's files of an option come and go; the owner's stay as they are, edited or gone."""
    project = Project(shutil.copytree(newest.root, tmp_path / "project"))
    project.append("src/my_platform/defs/transform.py", "# mine")
    (project.root / "data/raw/payments.csv").unlink()
    project.append("sqlmesh_project/models/marts/part_sales.sql", "-- mine")
    project.commit()
    before = project.contents()
    for data in (["ci=gitlab", "sample=minimal"], ["ci=github", "sample=full"]):
        own = mine(project)
        options = [option for pair in data for option in ("--data", pair)]
        report = project.report(*options, "--to", f"v{NEXT}")
        assert (report["exit_code"], mine(project)) == (0, own), data
        project.commit()
    assert project.contents() == before


def test_a_recopy_resets_the_templates_files_and_keeps_the_owners(
    newest: Project, tmp_path: Path
) -> None:
    """What is edited there is kept; what the template owns is as it was shipped."""
    project = Project(shutil.copytree(newest.root, tmp_path / "project"))
    shipped = not_mine(project)
    for name in mine(project):
        (project.root / name).write_bytes(b"mine\n")
    project.append("src/sqlmesh_dagster/errors.py", "# mine")
    (project.root / DELETED).unlink()
    project.commit()
    own = mine(project)
    done = project.copier("recopy", "--defaults", "--overwrite", "--vcs-ref", ":current:")
    assert done.returncode == 0, done.stderr
    assert (not_mine(project), mine(project)) == (shipped, own)


@pytest.mark.parametrize("version", RELEASES)
def test_every_old_answer_is_still_an_answer(template: Template, version: str) -> None:
    """Copier would silently replace one that is no choice any more by the default."""
    then = yaml.safe_load(git(template.root, "show", f"v{version}:copier.yml"))
    for name, spec in then.items():
        if name.startswith("_"):
            continue
        assert name in COPIER_YML and COPIER_YML[name]["type"] == spec["type"], name
        assert set(choices(spec)) <= set(choices(COPIER_YML[name])), name


def choices(spec: dict[str, Any]) -> list[str]:
    """What can be chosen."""
    found = spec.get("choices") or []
    return list(found.values() if isinstance(found, dict) else found)


def test_a_review_finishes_what_the_command_of_0_2_0_leaves_half_done(
    template: Template, tmp_path: Path
) -> None:
    """It takes the answers file for an edit of the owner's if another `.yml` file was deleted."""
    project = copy(template, tmp_path / "project", "v0.2.0", {})
    (project.root / ".github/workflows/template-update.yml").unlink()
    project.append("src/sqlmesh_dagster/execution/locks.py", "# mine")
    project.commit()
    assert project.report("--to", "v0.6.0")["after"] == "v0.2.0", "what this test is about"

    report = project.report("--review")

    assert (report["before"], report["after"]) == ("v0.2.0", "v0.6.0")
    assert "_commit: v0.6.0" in (project.root / ".copier-answers.yml").read_text()
    assert "# mine" in (project.root / "src/sqlmesh_dagster/guard/locks.py").read_text()
    project.commit()
    assert "no update to review" in project.command("update", "--review").stderr


@pytest.mark.parametrize("version", RELEASES)
def test_each_file_that_is_gone_is_in_the_list_of_moves(template: Template, version: str) -> None:
    """So an edit in it goes along, or is saved; each new path is a file of what is on disk."""
    now, then = shipped(template, f"v{NEXT}"), shipped(template, f"v{version}")
    moved = moves.parse((ROOT / "template" / moves.NAME).read_text())
    assert then - now <= set(moved)
    assert {new for places in moved.values() for new in places} <= now


def test_the_list_of_moves_is_one_that_older_commands_can_read() -> None:
    """The command of 0.2.0 ends with a traceback at a value that is no string."""
    known = json.loads((ROOT / "template" / moves.NAME).read_text())
    assert {type(value) for value in known.values()} <= {str}


def shipped(template: Template, tag: str) -> set[str]:
    """The files of a version that the template owns or shares, as a project may have them."""
    names = git(template.root, "ls-tree", "-r", "--name-only", tag, "template/")
    paths = (name.removeprefix("template/").removesuffix(".jinja") for name in names.splitlines())
    return {path for path in paths if not OWNERS.is_owned_by("yours", path)}


def test_every_release_is_in_the_changelog_and_in_the_history() -> None:
    """releases.toml, the headings of CHANGELOG.md and git agree, oldest first."""
    text = (ROOT / changelog.NAME).read_text()
    headings = re.findall(r"^## \[([^\]]+)\]", text, re.MULTILINE)
    assert headings == ["Unreleased", *reversed(RELEASES)]
    for earlier, later in itertools.pairwise([*RELEASES.values(), "HEAD"]):
        assert git(ROOT, "merge-base", earlier, later).strip() == earlier
    assert all(re.fullmatch(r"[0-9a-f]{40}", commit) for commit in RELEASES.values())


@pytest.mark.parametrize("version", RELEASES)
def test_the_changelog_of_a_release_is_what_was_released(version: str) -> None:
    """A merge can put a new line under an old version, where nobody looks for it."""
    then = git(ROOT, "show", f"{RELEASES[version]}:{changelog.NAME}").splitlines()
    text = (ROOT / changelog.NAME).read_text()
    section = text.partition(f"## [{version}]")[2].partition("\n## [")[0].splitlines()[1:]
    assert [line for line in section if line not in then] == []


def test_the_owner_reads_what_is_new_since_the_own_version() -> None:
    """Sections above the one of the project's version; what is unreleased is the new version's."""
    text = "# C\n\n## [Unreleased]\n\n- c\n\n## [0.2.0] - x\n\n- b\n\n## [0.1.0] - x\n\n- a\n"
    assert changelog.between(text, "v0.1.0", "v0.3.0") == "## 0.3.0\n\n- c\n\n## 0.2.0\n\n- b"
    assert changelog.between(text, "v0.2.0", "v0.3.0") == "## 0.3.0\n\n- c"
    assert changelog.between(text, "v0.2.0-7-g1f0c2ab", "v0.3.0") == "## 0.3.0\n\n- c"
    assert changelog.between(text.replace("\n- c\n", ""), "v0.2.0", "v0.2.0") == ""
