"""One bad change fails alone: it and what is below it; everything else is deployed and built."""

from __future__ import annotations

import logging
from pathlib import Path

import dagster as dg
import pytest
from tests.sqlmesh_dagster.projects import Project, Run, run_in_process

LATER = "2025-01-11T00:30:00"
PRODUCTION = {"environment": "prod", "undeployed_changes": "apply"}


@pytest.fixture(params=["dev", "prod"])
def built(
    request: pytest.FixtureRequest, project: Project, instance: dg.DagsterInstance
) -> Project:
    """`good` next to `bad`, `below` reads `bad`, `both` reads the two; deployed and built."""
    project.settings = PRODUCTION if request.param == "prod" else {"environment": "dev"}
    project.write("config.yaml", f"{(project.root / 'config.yaml').read_text()}linter: {{enabled: true, rules: [noselectstar]}}\n")  # fmt: skip
    project.model("good", "SELECT 1::INT AS id")
    project.model("bad", "SELECT 1::INT AS id")
    project.model("below", "SELECT id FROM demo.bad")
    project.model("both", "SELECT g.id FROM demo.good AS g JOIN demo.bad AS b ON TRUE")
    assert run_in_process(project.definitions(), instance).success
    project.model("good", "SELECT 2::INT AS id")
    return project


def _rows(project: Project, name: str) -> list[tuple[object, ...]]:
    schema = "demo" if project.settings["environment"] == "prod" else "demo__dev"
    return project.query(f"SELECT id FROM {schema}.{name}")


def _red(run: Run) -> list[str]:
    return sorted(step.rsplit("__", 1)[-1] for step in run.failed)


def _fails_alone(project: Project, instance: dg.DagsterInstance, text: str) -> None:
    """The run of all models: `bad` fails with this text, and what it left is as it was."""
    run = run_in_process(project.definitions(), instance, now=LATER)
    assert _red(run) == ["bad"]
    assert text in "".join(run.failed.values())
    assert sorted(run.started) == [
        "warehouse__demo__bad",
        "warehouse__demo__good",
    ]  # others: skipped
    assert run.materialized == ["good"]
    assert _rows(project, "good") == [(2,)]
    assert _rows(project, "bad") == [(1,)]
    assert _rows(project, "below") == [(1,)]


def test_a_model_that_cannot_be_created_fails_alone(
    built: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: a wrong column is its model's own fault."""
    built.model("bad", "SELECT id::INT AS id FROM main.nowhere")
    _fails_alone(built, instance, "nowhere")


def test_a_model_whose_unit_test_fails_fails_alone(
    built: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: a failing test keeps back what it tests."""
    built.model("bad", "SELECT 3::INT AS id")
    built.write(
        "tests/test_bad.yaml",
        "test_bad:\n  model: demo.bad\n  outputs:\n    query:\n      - id: 4\n",
    )
    _fails_alone(built, instance, "test_bad")


def test_a_standalone_audit_of_a_bad_model_is_no_change_that_is_left(
    built: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: the error stands once, in the model that is wrong; nothing warns of other changes."""
    built.write(
        "audits/same.sql",
        "AUDIT (name same, standalone true);\nSELECT id FROM demo.bad WHERE id > 9",
    )
    assert run_in_process(built.definitions(), instance).success
    built.model("bad", "SELECT 3::INT AS id")
    built.write(
        "tests/test_bad.yaml",
        "test_bad:\n  model: demo.bad\n  outputs:\n    query:\n      - id: 4\n",
    )
    run = run_in_process(built.definitions(), instance, now=LATER)
    assert "bad" in _red(run) and "test_bad" in "".join(run.failed.values())
    logged = [entry.user_message for entry in instance.all_logs(run.run_id)]
    assert not [message for message in logged if "cannot deploy the other" in message]


def test_a_model_that_the_linter_forbids_fails_alone(
    built: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: as does a rule."""
    built.model("bad", "SELECT * FROM (SELECT 3::INT AS id)")
    _fails_alone(built, instance, "noselectstar")


def test_what_reads_a_good_change_and_a_bad_one_keeps_its_rows(
    built: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: no view is left empty by a half of a change."""
    built.model("bad", "SELECT id::INT AS id FROM main.nowhere")
    run = run_in_process(built.definitions(), instance, now=LATER)
    assert _red(run) == ["bad"]
    assert len(_rows(built, "both")) == 1


def test_a_fixed_model_is_deployed_by_the_next_run(
    built: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: nothing of the failure stays."""
    built.model("bad", "SELECT id::INT AS id FROM main.nowhere")
    run_in_process(built.definitions(), instance, now=LATER)
    built.model("bad", "SELECT 3::INT AS id")
    assert run_in_process(built.definitions(), instance, now=LATER).success
    assert _rows(built, "below") == [(3,)]


def test_a_file_that_does_not_parse_fails_its_model_alone(
    built: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: with `keep_last_good` the rest runs as it is deployed, with one warning."""
    built.model("good", "SELECT 1::INT AS id")
    built.write(
        "models/demo_46_bad.sql", "MODEL (name demo.bad, kind FULL);\nSELECT FROM WHERE id;\n"
    )
    run = run_in_process(built.definitions(keep_last_good=True), instance, now=LATER)
    assert _red(run) == ["bad"]
    assert "demo_46_bad.sql" in "".join(run.failed.values())
    assert run.materialized == ["good"]
    warnings = [
        entry.user_message
        for entry in instance.all_logs(run.run_id)
        if entry.level == logging.WARNING and "last good" in entry.user_message
    ]
    assert len(warnings) == 1


def test_a_new_environment_has_all_but_the_bad_model(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: one typo does not keep the first run from building the others, whatever their names are."""
    project.model("good", "SELECT 1::INT AS id")
    project.model("bad", "SELECT id::INT AS id FROM main.nowhere")
    project.model("below", "SELECT id FROM demo.bad")
    project.model("upper", "SELECT 1::INT AS id", "kind FULL, dialect snowflake")
    project.model('"odd (one)"."+ we-ird *"', "SELECT 1::INT AS id")
    run = run_in_process(project.definitions(), instance)
    assert _red(run) == ["bad"]
    assert len(run.materialized) == 3 and {"good", "UPPER"} <= {*run.materialized}


@pytest.mark.slow
def test_of_a_hundred_models_the_typo_and_its_descendants_are_red(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    """Promise: exactly these; each other model is built."""
    project = Project(tmp_path / "project")
    for place in range(100):
        query = f"SELECT id FROM demo.m{place - 10}" if place >= 10 else "SELECT 1::INT AS id"
        project.model(f"m{place}", query)
    project.model("m53", "SELECT idd AS id FROM demo.m43")
    run = run_in_process(project.definitions(), instance)
    assert _red(run) == ["m53"]
    red = {"m53", "m63", "m73", "m83", "m93"}
    assert set(run.materialized) == {f"m{place}" for place in range(100)} - red
