"""A major version that renames a file of the template's carries the owner's edits over."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.update.projects import BOT, Project, copy
from tests.update.releases import Template, clone

OLD, NEW = "src/sqlmesh_dagster/old_name.py", "src/sqlmesh_dagster/new_name.py"
CODE = "".join(f"line_{number} = {number}\n" for number in range(20))
EDITED = CODE.replace("line_15 = 15", "line_15 = 'mine'")


def ship(template: Path) -> None:
    """Version 90.0.0 has the file under its old name."""
    (template / "template" / OLD).write_text(CODE)


def rename(template: Path) -> None:
    """Version 91.0.0 renames and changes it, as hooks/README.md says."""
    (template / "template" / OLD).unlink()
    (template / "template" / NEW).write_text(CODE.replace("line_5 = 5", "line_5 = 55"))
    (template / "template/.template/renames.json").write_text(json.dumps({OLD: NEW}))
    migrate(
        template, ["{{ _copier_python }}", "{{ _copier_conf.src_path }}/hooks/rename.py", OLD, NEW]
    )


def migrate(template: Path, *commands: list[str]) -> None:
    """Declare the migrations of version 91.0.0."""
    text = (template / "copier.yml").read_text().partition("\n_migrations:")[0].rstrip()
    migrations = [{"version": "v91.0.0", "command": command} for command in commands]
    text += "\n" + yaml.safe_dump({"_migrations": migrations})
    (template / "copier.yml").write_text(text)


@pytest.fixture(scope="module")
def template(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Template:
    """90.0.0, 91.0.0 with a migration, 91.1.0 with nothing new."""
    template = clone(source, tmp_path_factory.mktemp("migrations") / "template")
    template.release("90.0.0", ship)
    template.release("91.0.0", rename)
    template.release("91.1.0", lambda root: None)
    return template


@pytest.fixture(scope="module")
def start(template: Template, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project of version 90.0.0; only read it."""
    return copy(template, tmp_path_factory.mktemp("start") / "project", "v90.0.0", {})


@pytest.fixture
def project(start: Project, tmp_path: Path) -> Project:
    """A project of version 90.0.0, whose owner has edited the file."""
    project = Project(shutil.copytree(start.root, tmp_path / "project", symlinks=True))
    (project.root / OLD).write_text(EDITED)
    project.commit()
    return project


def hook(template: Template, project: Project) -> None:
    """Run the migration by hand, as Copier does."""
    subprocess.run(
        [sys.executable, template.root / "hooks/rename.py", OLD, NEW],
        cwd=project.root,
        env={**os.environ, "VERSION_FROM": "v90.0.0"},
        check=True,
    )


def test_only_the_major_version_asks_for_trust(template: Template, project: Project) -> None:
    """Without it nothing happens, and the next step is named; later versions don't ask."""
    before = project.contents()
    plain = project.copier("update", *BOT, "--vcs-ref", "v91.1.0")
    assert plain.returncode == 4
    refused = project.command("update")
    assert refused.returncode == 2 and "--trust" in refused.stderr
    assert project.contents() == before and project.status() == []
    assert project.report("--trust", "--to", "v91.0.0")["exit_code"] == 0
    project.commit()
    assert project.report()["exit_code"] == 0


def test_edits_are_in_the_renamed_file(template: Template, project: Project) -> None:
    """Merged with the release's own change, nothing saved next to it; a second run changes nothing."""
    report = project.report("--trust", "--to", "v91.0.0")
    assert (report["exit_code"], report["saved"]) == (0, [])
    merged = EDITED.replace("line_5 = 5", "line_5 = 55")
    assert (project.root / NEW).read_text() == merged and not (project.root / OLD).exists()
    before = project.contents()
    hook(template, project)
    assert project.contents() == before
    project.append(NEW, "line_20 = 'later'")
    hook(template, project)
    assert (project.root / NEW).read_text() == merged + "line_20 = 'later'\n"


def test_a_conflict_in_a_renamed_file_is_a_plain_one(template: Template, project: Project) -> None:
    """Between markers, in the index, in the report; a second run changes nothing."""
    (project.root / OLD).write_text(CODE.replace("line_5 = 5", "line_5 = 'mine'"))
    project.commit()
    report = project.report("--trust", "--to", "v91.0.0")
    assert [found["path"] for found in report["conflict"]] == [NEW] == [*project.unmerged()]
    assert (report["exit_code"], report["saved"]) == (1, [])
    assert "<<<<<<< before updating\nline_5 = 'mine'\n" in (project.root / NEW).read_text()
    before, status = project.contents(), project.status()
    hook(template, project)
    assert (project.contents(), project.status()) == (before, status)


def test_without_the_migration_the_edit_is_carried_all_the_same(
    template: Template, project: Project, tmp_path: Path
) -> None:
    """An entry in renames.json is enough, and asks for no trust."""
    bare = Template(shutil.copytree(template.root, tmp_path / "bare"))
    bare.release("91.2.0", lambda root: migrate(root))
    use(project, template, bare)
    report = project.report("--to", "v91.2.0")
    reason = f"the template moved the file to `{NEW}`"
    assert report["carried"] == [{"path": OLD, "reason": reason}]
    assert (report["exit_code"], report["saved"]) == (0, [])
    assert (project.root / NEW).read_text() == EDITED.replace("line_5 = 5", "line_5 = 55")
    assert not (project.root / OLD).exists()


def use(project: Project, template: Template, other: Template) -> None:
    """Take a project to another template."""
    answers = project.root / ".copier-answers.yml"
    answers.write_text(answers.read_text().replace(str(template.root), str(other.root)))
    project.commit()


def test_after_a_failing_step_nothing_has_changed_and_the_next_version_mends_it(
    template: Template, project: Project, tmp_path: Path
) -> None:
    """The step after the rename fails when the tree is done; plain Copier would leave it so."""
    failing = Template(shutil.copytree(template.root, tmp_path / "failing"))
    renaming = ["{{ _copier_python }}", "{{ _copier_conf.src_path }}/hooks/rename.py", OLD, NEW]

    def fail(root: Path) -> None:
        migrate(root, renaming, ["{{ _copier_python }}", "-c", "raise SystemExit('step 2 failed')"])

    failing.release("91.2.0", fail)
    use(project, template, failing)
    before = project.contents()

    failed = project.command("update", "--trust", "--to", "v91.2.0")

    assert failed.returncode == 2 and "copier" in failed.stderr
    assert project.contents() == before and project.status() == []
    failing.release("91.2.1", lambda root: migrate(root, renaming))
    assert project.report("--trust", "--to", "v91.2.1")["exit_code"] == 0
    assert (project.root / NEW).read_text() == EDITED.replace("line_5 = 5", "line_5 = 55")


def test_a_half_done_plain_update_can_be_migrated_again(
    template: Template, project: Project, tmp_path: Path
) -> None:
    """Plain Copier stops between two steps; the steps can be run once more, to the same end."""
    failing = Template(shutil.copytree(template.root, tmp_path / "failing"))
    renaming = ["{{ _copier_python }}", "{{ _copier_conf.src_path }}/hooks/rename.py", OLD, NEW]
    fails = ["{{ _copier_python }}", "-c", "raise SystemExit(1)"]
    failing.release("91.2.0", lambda root: migrate(root, fails, renaming))
    use(project, template, failing)
    stopped = project.copier("update", *BOT, "--trust", "--vcs-ref", "v91.2.0")
    assert stopped.returncode == 1 and "mine" not in (project.root / NEW).read_text()
    for _ in range(2):
        hook(failing, project)
        assert (project.root / NEW).read_text() == EDITED.replace("line_5 = 5", "line_5 = 55")
