"""SQLMesh's unit tests and linter: a job, and checks that say which model."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import dagster as dg
import pytest
from tests.sqlmesh_dagster.projects import (
    NOW,
    Project,
    Run,
    held_by_another_process,
    run_config,
    run_in_process,
)

from sqlmesh_dagster import (
    DuplicateAssetKeyError,
    ModelRecord,
    SQLMeshResource,
    SQLMeshTranslator,
    TranslatorSettings,
    sqlmesh_verify_job_factory,
)
from sqlmesh_dagster.guard.locks import ProjectLock
from tests.shown import shown_checks

BOTH = TranslatorSettings(unit_test_checks=True, lint_checks=True)
GOOD = """
test_good:
  model: demo.first
  inputs:
    raw.things:
      - id: 1
  outputs:
    query:
      - id: 1
"""
BAD = """
test_bad:
  model: demo.first
  inputs:
    raw.things:
      - id: 1
  outputs:
    query:
      - id: 2
test_other:
  model: demo.second
  inputs:
    demo.first:
      - id: 7
  outputs:
    query:
      - id: 7
test_of_no_model:
  model: demo.nowhere
  outputs:
    query:
      - id: 1
"""
LINTED = """
linter:
  enabled: true
  rules: [noselectstar]
  warn_rules: [nomissingaudits]
"""


@pytest.fixture
def tested(project: Project) -> Project:
    """Three models; `first` and `second` have unit tests."""
    project.model("first", "SELECT id::INT AS id FROM raw.things")
    project.model("second", "SELECT id FROM demo.first")
    project.model("third", "SELECT 1::INT AS id")
    project.write("tests/test_good.yaml", GOOD)
    return project


def with_linter(project: Project) -> None:
    """Switches the linter on."""
    config = project.root / "config.yaml"
    config.write_text(config.read_text() + LINTED)


def verify(project: Project, instance: dg.DagsterInstance, **settings: Any) -> Run:
    """Runs the job."""
    definitions = project.definitions(**settings)
    result = definitions.resolve_job_def("sqlmesh_verify_job").execute_in_process(
        instance=instance, raise_on_error=False
    )
    return Run(result.success, result.run_id, result.all_events)


def checks(run: Run) -> dict[tuple[str, str], dg.AssetCheckEvaluation]:
    """The run's check results, by model and check."""
    found = [e.event_specific_data for e in run.events]
    evaluations = [data for data in found if isinstance(data, dg.AssetCheckEvaluation)]
    return {(c.asset_key.path[-1], c.check_name): c for c in evaluations}


def check_key(model: str, name: str) -> dg.AssetCheckKey:
    """Key of a check of `demo.<model>`."""
    return dg.AssetCheckKey(dg.AssetKey(["warehouse", "demo", model]), name)


def test_the_job_passes_and_says_what_it_ran(tested: Project, instance: dg.DagsterInstance) -> None:
    """Promise: unit tests need no warehouse, and make none."""
    run = verify(tested, instance)
    assert run.success
    (output,) = [e for e in run.events if e.event_type_value == "STEP_OUTPUT"]
    facts = output.step_output_data.metadata
    assert (facts["sqlmesh/unit_tests"].value, facts["sqlmesh/violations"].value) == (1, 0)
    assert not tested.database.exists()


def test_the_job_fails_with_each_failing_test_its_model_and_text(
    tested: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: a person sees which test of which model fails and how, without the command line."""
    tested.write("tests/test_bad.yaml", BAD)
    run = verify(tested, instance)
    ((_, error),) = run.failed.items()
    assert "1 of 3 unit tests fail" in error
    assert "`warehouse.demo.first`: `test_bad`" in error and "Data mismatch" in error
    (failed,) = [e for e in run.events if e.is_step_failure]
    shown = failed.step_failure_data.user_failure_data
    assert shown is not None
    assert "| warehouse.demo.first | unit test | `test_bad` |" in str(
        shown.metadata["sqlmesh/verification"].value
    )


def test_the_linter_fails_the_job_on_errors_and_shows_warnings(
    tested: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: the rule, the model and the text; a warning alone fails nothing."""
    with_linter(tested)
    assert verify(tested, instance).success
    tested.model("third", "SELECT * FROM demo.first")
    ((_, error),) = verify(tested, instance).failed.items()
    assert (
        "the linter finds 1 error." in error and "`warehouse.demo.third`: `noselectstar`" in error
    )


def test_checks_are_off_unless_switched_on(tested: Project) -> None:
    """Promise: the default graph is that of the audits alone."""
    graph = tested.definitions().resolve_asset_graph()
    assert set(graph.asset_check_keys) == set()
    switched_on = tested.definitions(translator=SQLMeshTranslator(settings=BOTH))
    assert {
        (k.asset_key.path[-1], k.name) for k in switched_on.resolve_asset_graph().asset_check_keys
    } == {
        ("first", "unit_tests"),
        *((name, "lint") for name in ("first", "second", "third")),
    }


def test_checks_say_which_model(tested: Project, instance: dg.DagsterInstance) -> None:
    """Promise: a failing test fails the check of its model alone; lint warnings only warn."""
    with_linter(tested)
    tested.write("tests/test_bad.yaml", BAD)
    tested.model("third", "SELECT * FROM demo.first")
    definitions = tested.definitions(translator=SQLMeshTranslator(settings=BOTH))
    keys = list(definitions.resolve_asset_graph().asset_check_keys)
    found = checks(run_in_process(definitions, instance, checks=keys))
    assert {key for key, check in found.items() if not check.passed} == {
        ("first", "unit_tests"),
        *((name, "lint") for name in ("first", "second", "third")),
    }
    failed = found["first", "unit_tests"]
    assert failed.severity is dg.AssetCheckSeverity.ERROR
    assert failed.description == "1 of 2 unit tests failed: test_bad"
    assert "Data mismatch" in str(failed.metadata["sqlmesh/details"].value)
    severities = {name: found[name, "lint"].severity for name in ("first", "third")}
    assert severities == {
        "first": dg.AssetCheckSeverity.WARN,
        "third": dg.AssetCheckSeverity.ERROR,
    }
    assert found["second", "unit_tests"].description == "1 unit test passed"
    assert not tested.database.exists()


def test_one_check_alone_runs_the_tests_of_its_model_alone(
    tested: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: what is not selected reports nothing."""
    tested.write("tests/test_bad.yaml", BAD)
    definitions = tested.definitions(translator=SQLMeshTranslator(settings=BOTH))
    run = run_in_process(definitions, instance, checks=[check_key("second", "unit_tests")])
    assert list(checks(run)) == [("second", "unit_tests")] and run.success


def test_the_job_reports_the_checks_too(tested: Project, instance: dg.DagsterInstance) -> None:
    """Promise: where they are switched on, the checks of the UI follow the job."""
    tested.write("tests/test_bad.yaml", BAD)
    verify(tested, instance, translator=SQLMeshTranslator(settings=BOTH))
    key = check_key("first", "unit_tests")
    record = instance.event_log_storage.get_latest_asset_check_execution_by_key([key])[key]
    assert record.evaluation is not None and not record.evaluation.passed


def test_the_job_of_everything_that_is_due_does_not_load_the_files(
    tested: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: switched on, they cost the scheduled job nothing."""
    definitions = tested.definitions(translator=SQLMeshTranslator(settings=BOTH))
    job = definitions.resolve_job_def("sqlmesh_job")
    assert (
        set(job.asset_layer.executable_asset_keys)
        and not job.asset_layer.asset_graph.asset_check_keys
    )


def test_a_running_run_or_a_locked_database_does_not_keep_tests_waiting(
    tested: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: unit tests run on a database of their own."""
    settings = SQLMeshResource(project_dir=str(tested.root)).settings
    lock = ProjectLock(settings.lock_name, settings.project_path)
    with lock.held("Dagster run abc", 0), held_by_another_process(tested.database):
        assert verify(tested, instance).success


def test_a_test_that_cannot_be_read_is_named(tested: Project, instance: dg.DagsterInstance) -> None:
    """Promise: a mistake in a test's file is a failing test of its model."""
    tested.write("tests/test_odd.yaml", "test_odd:\n  model: demo.third\n  inputs: []\n")
    ((_, error),) = verify(tested, instance).failed.items()
    assert "test_odd" in error and "demo.third" in error


class _SameName(SQLMeshTranslator):
    settings = BOTH

    def get_lint_check_spec(self, model: ModelRecord, asset_key: dg.AssetKey) -> dg.AssetCheckSpec:
        return dg.AssetCheckSpec(name="unit_tests", asset=asset_key)


def test_two_checks_of_one_name_are_refused(tested: Project) -> None:
    """Promise: with the name, the model and the method that can distinguish them."""
    with pytest.raises(DuplicateAssetKeyError, match="get_lint_check_spec"):
        tested.definitions(translator=_SameName())


def test_definitions_with_such_checks_import_no_sqlmesh(tested: Project) -> None:
    """Promise: names come from the manifest."""
    tested.definitions()
    code = (
        "import sys\n"
        "from sqlmesh_dagster import *\n"
        f"resource = SQLMeshResource(project_dir={str(tested.root)!r})\n"
        "job = sqlmesh_verify_job_factory(sqlmesh_resource=resource)\n"
        f"sqlmesh_definitions_factory(project_dir={str(tested.root)!r}, environment='dev',\n"
        "    translator=SQLMeshTranslator(settings=TranslatorSettings(unit_test_checks=True)))\n"
        "print(job.name, 'sqlmesh' in sys.modules)\n"
    )
    output = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=True,
        text=True,
        capture_output=True,
    ).stdout
    assert output.split() == ["sqlmesh_verify_job", "False"]


def test_the_job_has_a_factory_of_its_own(tested: Project, instance: dg.DagsterInstance) -> None:
    """Promise: with the project's resource it runs in anybody's definitions."""
    resource = SQLMeshResource(project_dir=str(tested.root))
    job = sqlmesh_verify_job_factory(sqlmesh_resource=resource)
    definitions = dg.Definitions(jobs=[job], resources={"sqlmesh": resource})
    assert definitions.resolve_job_def(job.name).execute_in_process(instance=instance).success


def job_run(project: Project, instance: dg.DagsterInstance, now: str = NOW) -> Run:
    """The scheduled job, which does not select the checks of code."""
    definitions = project.definitions(translator=SQLMeshTranslator(settings=BOTH))
    result = definitions.resolve_job_def("sqlmesh_job").execute_in_process(
        instance=instance, run_config=run_config({}, now), raise_on_error=False
    )
    return Run(result.success, result.run_id, result.all_events)


def words(project: Project, instance: dg.DagsterInstance) -> dict[str, str]:
    """What the UI shows of each check."""
    graph = project.definitions(translator=SQLMeshTranslator(settings=BOTH)).resolve_asset_graph()
    return shown_checks(instance, graph.asset_check_keys)


ALL_PASSED = dict.fromkeys(
    ("first:unit_tests", "first:lint", "second:lint", "third:lint"), "SUCCEEDED"
)


def test_no_check_of_code_is_grey_after_a_run_that_leaves_it_out(
    tested: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: each has a result on what the run built: its last one, while the text is the same, else a
    new one, for one load of the files."""
    tested.execute("CREATE SCHEMA raw")
    tested.execute("CREATE TABLE raw.things AS SELECT 1 AS id")
    first = job_run(tested, instance)
    assert (first.success, set(first.passed), first.kept) == (True, set(ALL_PASSED), {})
    assert words(tested, instance) == ALL_PASSED
    for now in (NOW, "2025-01-11T00:30:00"):  # nothing is due, then everything
        run = job_run(tested, instance, now)
        assert (run.passed, set(run.kept)) == ({}, set(ALL_PASSED))
        assert words(tested, instance) == ALL_PASSED
    tested.write("tests/test_good.yaml", GOOD.replace("- id: 1\n  outputs", "- id: 3\n  outputs"))
    broken = job_run(tested, instance, "2025-01-11T00:30:00")
    assert broken.success  # the model is the same, and nothing is deployed
    assert broken.passed == {"first:unit_tests": False, "first:lint": True}
    assert words(tested, instance) == {**ALL_PASSED, "first:unit_tests": "FAILED"}
    with_linter(tested)
    warned = job_run(tested, instance, "2025-01-11T00:30:00")
    assert warned.passed == dict.fromkeys(ALL_PASSED, False)


def test_checks_of_code_are_not_those_of_a_failing_model(
    tested: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: in a run of everything one model fails, and no check of another's code with it."""
    definitions = tested.definitions(translator=SQLMeshTranslator(settings=BOTH))
    run = run_in_process(definitions, instance)  # `raw.things` is not there
    assert list(run.failed) == ["warehouse__demo__first"]
    assert words(tested, instance) == ALL_PASSED


def test_what_is_built_beside_a_run_keeps_the_checks_of_its_code(
    tested: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: a model that a run builds because another lacks it."""
    tested.execute("CREATE SCHEMA raw")
    tested.execute("CREATE TABLE raw.things AS SELECT 1 AS id")
    job_run(tested, instance)
    definitions = tested.definitions(translator=SQLMeshTranslator(settings=BOTH))
    later = run_in_process(definitions, instance, "second", now="2025-01-11T00:30:00")
    assert later.materialized == ["second"]
    assert instance.get_latest_materialization_event(check_key("first", "lint").asset_key)
    assert words(tested, instance) == ALL_PASSED
