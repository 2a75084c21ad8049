"""What an owner reads in a terminal: a line for each model, what is wrong once, and no stack trace."""

import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import dagster as dg
import pytest

from tests.conftest import Render
from tests.instance import instance_of
from tests.test_generated_projects import Project, with_tools_of

pytestmark = pytest.mark.generated

_MOST_LINES = 60
_SLOW = """
MODEL (name marts.slow, kind FULL, description 'Slow.', owner 'a', audits (NOT_NULL(columns := (n))));
SELECT COUNT(*)::BIGINT AS n /* Rows */ FROM RANGE(100000000) AS a(i), RANGE(100000) AS b(j) WHERE i * j % 7 = 3
"""


@pytest.fixture(scope="module")
def project(render: Render, tmp_path_factory: pytest.TempPathFactory, warm_python: Path) -> Project:
    """The minimal sample, on the tests' own environment, warm."""
    root = tmp_path_factory.mktemp("terminal") / "project"
    shutil.copytree(render(sample="minimal", package_name="shop"), root)
    tools = with_tools_of(Path(sys.executable), warm_python, PYTHONPATH=str(root / "src"))
    return Project(root, tools)


def _poe(project: Project, *command: str, code: int) -> str:
    """Both streams of a command that ends so."""
    poe = shutil.which("poe", path=project.environment["PATH"])
    done = subprocess.run(
        [str(poe), *command],
        cwd=project.root,
        env=project.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == code, said
    assert "Traceback" not in said and "Warning: " not in said, said
    assert len(said.splitlines()) <= _MOST_LINES, said
    return said


def _newest(project: Project) -> dg.DagsterRun:
    with instance_of(project.root / "dagster_home") as instance:
        return instance.get_run_records(limit=1)[0].dagster_run


def test_a_run_is_shown_as_it_goes(project: Project) -> None:
    """Promise: this run's models, each once, with a total; the UI finds the run by its location."""
    said = _poe(project, "run", code=0)
    lines = re.findall(r"^\[ ?(\d+)/(\d+)\] (\w+) +(\S+)", said, re.MULTILINE)
    assert [int(number) for number, *_ in lines] == list(range(1, len(lines) + 1))
    assert {total for _, total, *_ in lines} == {str(len(lines))}
    assert {status for *_, status, _ in lines} == {"materialized", "built"}
    run = _newest(project)
    assert f"Run {run.run_id[:8]} succeeded" in said and "Done. Open the UI" in said
    assert run.tags[".dagster/repository"] == "__repository__@shop"
    assert f"Run {run.run_id[:8]} succeeded" in _poe(project, "summary", code=0)


def test_one_typo_is_one_message_with_its_file(project: Project) -> None:
    """Promise: the model, the file to open, the error once; the others are there, too."""
    file = next(project.root.glob("sqlmesh_project/models/marts/*.sql"))
    text = file.read_text()
    file.write_text(re.sub(r"\bSUM\((\w+)", r"SUM(nonsense_\1", text, count=1))
    assert file.read_text() != text
    try:
        said = _poe(project, "run", code=1)
    finally:
        file.write_text(text)
    relative = file.relative_to(project.root)
    assert re.search(rf"FAILED +marts/{file.stem}\n", said)
    assert said.count(str(relative)) == 1 and said.count("\nErrors:\n") == 1
    errors = said.partition("\nErrors:\n")[2].partition("\nRun ")[0]
    assert "nonsense_" in errors and len(errors.splitlines()) < 20, errors
    assert "Not done." in said and "Done. Open" not in said


def test_definitions_that_do_not_load_name_the_line(project: Project) -> None:
    """Promise: file and line of what is broken, whatever Dagster wraps around it; no run is left."""
    file = project.root / "src/shop/defs/transform.py"
    text, before = file.read_text(), _newest(project).run_id
    file.write_text(f"{text}\n1 / 0\n")
    try:
        said = _poe(project, "run", code=1)
    finally:
        file.write_text(text)
    line = len(text.splitlines()) + 2
    assert f"Error: src/shop/defs/transform.py:{line}: ZeroDivisionError: division by zero" in said
    assert _newest(project).run_id == before


def test_models_are_built_again_by_their_names(project: Project) -> None:
    """Promise: though nothing is due; a wrong name is refused with the right one."""
    name = next(project.root.glob("sqlmesh_project/models/marts/*.sql")).stem
    said = _poe(project, "rebuild", f"marts.{name}", code=0)
    assert re.search(rf"^\[1/1\] built +marts/{name} ", said, re.MULTILINE)
    assert f"Did you mean `marts.{name}`?" in _poe(project, "rebuild", f"marts.{name}x", code=1)


def test_production_and_what_is_dropped_are_asked_for(project: Project) -> None:
    """Promise: where nobody can answer, nothing is done, and the message has the command."""
    before = _newest(project).run_id
    assert "run `poe promote --yes`" in _poe(project, "promote", code=1)
    assert "run `poe rollback --yes`" in _poe(project, "rollback", code=1)
    assert "run `poe invalidate dev_ada --yes`" in _poe(project, "invalidate", "dev_ada", code=1)
    assert _newest(project).run_id == before
    assert "The plan of `dev_ada` is applied" in _poe(
        project, "apply", "--environment", "dev_ada", code=0
    )
    assert "Environment `dev_ada` is dropped." in _poe(
        project, "invalidate", "dev_ada", "--yes", code=0
    )


def test_partitioned_models_run_without_a_partition(project: Project) -> None:
    """Promise: `poe run` builds what is due, however Dagster shows the models."""
    file = project.root / "src/shop/defs/transform.py"
    text = file.read_text()
    assert 'external_asset_mapping="raw/{node.name}"' in text
    text_of_partitions = text.replace(
        'external_asset_mapping="raw/{node.name}"',
        '"raw/{node.name}", TranslatorSettings(partitions=True)',
    )
    file.write_text(
        text_of_partitions.replace("SQLMeshTranslator,", "SQLMeshTranslator, TranslatorSettings,")
    )
    try:
        assert "Done." in _poe(project, "run", code=0)
    finally:
        file.write_text(text)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_interrupted_ends(project: Project, number: signal.Signals) -> None:
    """Promise: soon, with its run ended in Dagster, and no process left."""
    slow = project.root / "sqlmesh_project/models/slow.sql"
    slow.write_text(_SLOW)
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "sqlmesh_dagster.commands", "run"],
            cwd=project.root,
            env=project.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout
        said = process.stdout.readline()  # the raw file is loaded; the models are next
        time.sleep(5)
        process.send_signal(number)
        rest, _ = process.communicate(timeout=60)
        said += rest
    finally:
        slow.unlink()
    assert "Stopping the run" in said and "Not done. Run it again" in said, said
    assert " was stopped: 1 materialized, 1 stopped, " in said, said
    assert "Not built, because the run was stopped: " in said, said
    assert process.returncode == 1 and "Traceback" not in said, said
    assert "Errors" not in said and "Interrupted" not in said, said
    assert _newest(project).status is dg.DagsterRunStatus.CANCELED  # no asset of it is "Failed"
