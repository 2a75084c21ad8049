"""The owner's first day: install, check, test, run."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

import duckdb
import pytest

from tests.answers import EXAMPLE
from tests.conftest import Render
from tests.instance import instance_of
from tests.webserver import Ask, launch, location_of, reexecute, served

pytestmark = pytest.mark.generated


@dataclass(frozen=True)
class Project:
    """A generated project and the environment that its commands run in."""

    root: Path
    environment: Mapping[str, str]

    def run(self, *command: str) -> str:
        """What a command of the project prints; all that it said is the failure message."""
        result = self.ran(*command)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    def ran(self, *command: str) -> subprocess.CompletedProcess[str]:
        """A command of the project that has ended, well or not."""
        executable = shutil.which(command[0], path=self.environment["PATH"])
        assert executable, f"`{command[0]}` is not installed"
        return subprocess.run(
            [executable, *command[1:]],
            cwd=self.root,
            env=self.environment,
            text=True,
            capture_output=True,
            check=False,
        )


def with_tools_of(python: Path, *before: Path, **more: str) -> dict[str, str]:
    """This process's environment, with the tools next to `python` first, or in folders `before` it."""
    hidden = ("PYTHONPATH", "VIRTUAL_ENV", "DAGSTER_HOME", "WAREHOUSE_PATH", "SQLMESH_ENVIRONMENT")
    inherited = {name: value for name, value in os.environ.items() if name not in hidden}
    folders = [*map(str, before), str(python.parent), os.environ["PATH"]]
    return {**inherited, "PATH": os.pathsep.join(folders), **more}


def installed(root: Path) -> Project:
    """As the README says: a virtual environment in the project, filled by pip."""
    subprocess.run([sys.executable, "-m", "venv", ".venv"], cwd=root, check=True)
    # "no" is how pip is told not to compile all that it installs, three times what is imported
    project = Project(root, with_tools_of(root / ".venv/bin/python", PIP_NO_COMPILE="no"))
    project.run("python", "-m", "pip", "install", "--quiet", "--upgrade", "pip>=25.1")
    project.run("python", "-m", "pip", "install", "--quiet", "--editable", ".", "--group", "dev")
    return project


@pytest.fixture(scope="module", params=["full", "example"])
def project(
    request: pytest.FixtureRequest,
    render: Render,
    tmp_path_factory: pytest.TempPathFactory,
    warm_python: Path,
) -> Project:
    """The default project, installed for itself; the example one, on the tests' own environment, warm.

    Both environments hold the same versions: `test_the_tests_run_on_the_versions_that_projects_get`.
    """
    root = tmp_path_factory.mktemp(request.param) / "project"
    if request.param == "full":
        return installed(shutil.copytree(render(), root))
    shutil.copytree(render(**EXAMPLE), root)
    tools = with_tools_of(Path(sys.executable), warm_python, PYTHONPATH=str(root / "src"))
    return Project(root, tools)


@pytest.fixture(scope="module")
def warm_project(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """The same, whose servers and runs are forked from a process that has imported its environment's packages."""
    python = project.root / ".venv/bin/python"
    if not python.exists() or sys.platform != "linux":
        yield project
        return
    from tests.warm_python import serving

    with serving(tmp_path_factory.mktemp("warm"), str(python)) as folder:
        yield Project(project.root, with_tools_of(python, folder))


def test_dg_offers_its_commands(project: Project) -> None:
    """A typer that is too new leaves `dg --help` without commands."""
    listed = project.run("dg", "--help")
    assert all(command in listed for command in ("check", "dev", "launch", "list", "scaffold"))


def test_its_own_checks_pass(project: Project, mypy_cache: Path) -> None:
    """Lint, format, types, SQLMesh's linter, tests and format, and the definitions."""
    environment = {**project.environment, "MYPY_CACHE_DIR": str(mypy_cache)}
    Project(project.root, environment).run("poe", "check")


def test_formatting_changes_nothing(project: Project) -> None:
    """`poe format` leaves each file as it was rendered."""

    def contents() -> dict[Path, bytes]:
        sources = [*project.root.glob("s*/**/*.py"), *project.root.glob("sqlmesh_project/**/*.sql")]
        return {path: path.read_bytes() for path in sources}

    before = contents()
    project.run("poe", "format")
    assert contents() == before


def test_its_own_tests_pass(project: Project) -> None:
    """The owner's tests, and none of the integration's."""
    said = project.run("poe", "test", "--verbose")
    assert set(re.findall(r"tests/[\w/]+\.py", said)) == {"tests/test_platform.py"}
    assert "SQLMesh works on DuckDB files that are thrown away" in said


@pytest.mark.parametrize("project", ["full"], indirect=True)
def test_the_tests_of_the_integration_run_in_parallel(project: Project) -> None:
    """By a verb of their own; here a few, all run in the template where they stand."""
    said = project.run("poe", "test-integration", "--verbose", "-k", "test_rooms or test_ledger")
    assert "[gw1]" in said and "sqlmesh_dagster/pure/test_ledger.py" in said
    assert "test_platform" not in said


def test_the_translator_of_the_readme_works(project: Project, tmp_path: Path) -> None:
    """In the place of the one that is there, it tags each model and keeps the raw files upstream."""
    root = shutil.copytree(
        project.root, tmp_path / "project", ignore=shutil.ignore_patterns(".venv")
    )
    example = re.search(r"  ```python\n(.*?)  ```\n", (root / "README.md").read_text(), re.DOTALL)
    assert example
    (transform,) = root.glob("src/*/defs/transform.py")
    code = transform.read_text()
    before, rest = code.split("class ProjectTranslator")
    after = rest.partition("@dg.definitions")[2]
    code = f"{before}{dedent(example[1])}\n\n@dg.definitions{after}"
    transform.write_text(code)

    pasted = Project(root, {**project.environment, "PYTHONPATH": str(root / "src")})
    show = "[print(s.key.to_user_string(), dict(s.tags)) for s in defs().resolve_all_asset_specs()]"
    package = transform.parents[1].name
    shown = pasted.run("python", "-c", f"from {package}.definitions import defs; {show}")
    assets = dict(line.split(" ", 1) for line in shown.splitlines())
    assert "raw/payments" in assets and not [key for key in assets if "/raw/" in key]
    tagged = {key for key, tags in assets.items() if "'domain': 'repairs'" in tags}
    assert tagged == {key for key in assets if not key.startswith("raw/")} != set()


def test_one_command_builds_every_asset_and_reports_every_check(project: Project) -> None:
    """`poe run` on an empty warehouse, then the way to the UI; all of it in one process."""
    said = project.run("poe", "run")
    assert f"cd {project.root} && .venv/bin/poe dev" in said.splitlines()[-1]

    defined = json.loads(project.run("dg", "list", "defs", "--json"))
    assets = {asset["asset_key"] for asset in defined["assets"] if asset["is_executable"]}
    checks = {(check["asset_key"], check["name"]) for check in defined["asset_checks"]}
    with instance_of(project.root / "dagster_home") as instance:
        (run,) = instance.get_runs()
        events = [e.dagster_event for e in instance.all_logs(run.run_id) if e.dagster_event]
    materialized = [e.asset_key for e in events if e.is_step_materialization and e.asset_key]
    reported = [
        e.asset_check_evaluation_data
        for e in events
        if e.event_type_value == "ASSET_CHECK_EVALUATION"
    ]
    assert len(assets) > 3 and checks
    assert sorted(key.to_user_string() for key in materialized) == sorted(assets)
    assert {(check.asset_key.to_user_string(), check.check_name) for check in reported} == checks
    assert not [e for e in events if e.event_type_value == "STEP_WORKER_STARTING"]


@dataclass(frozen=True)
class Served:
    """A project's servers, and the warehouse that they work on."""

    ask: Ask
    warehouse: Path


@pytest.fixture(scope="module")
def server(warm_project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One for all tests of a project: starting it costs more than what they ask."""
    warehouse = tmp_path_factory.mktemp("served") / "warehouse.duckdb"
    shutil.copy(warm_project.root / "warehouse.duckdb", warehouse)
    environment = {**warm_project.environment, "WAREHOUSE_PATH": str(warehouse)}
    with served(warm_project.root, environment) as ask:
        yield Served(ask, warehouse)


def test_the_ui_launches_models_and_checks_and_ticks(project: Project, server: Served) -> None:
    """Webserver, daemon, code server and run worker are processes of their own, and agree."""
    asset = {"path": ["marts", "daily_revenue"]}
    check = {"assetKey": asset, "name": "not_null_workshop_code_revenue_date_revenue"}
    tick = """
        mutation ($selector: ScheduleSelector!, $at: Float!) {
          scheduleDryRun(selectorData: $selector, timestamp: $at) {
            ... on DryRunInstigationTick {
              evaluationResult { skipReason runRequests { assetSelection { path } } error { message } }
            }
          }
        }
    """
    ask = server.ask
    location = location_of(ask)
    schedule = {
        "repositoryLocationName": location,
        "repositoryName": "__repository__",
        "scheduleName": "sqlmesh_adaptive_schedule",
    }
    built = launch(ask, location, "__ASSET_JOB", assetSelection=[asset])
    checked = launch(ask, location, "__ASSET_JOB", assetSelection=[], assetCheckSelection=[check])
    # a dry run is of the first tick after its timestamp: midnight, of today and of next week
    before_today = time.time() // 86400 * 86400 - 1
    idle, due = (
        ask(tick, selector=schedule, at=at)["scheduleDryRun"]["evaluationResult"]
        for at in (before_today, before_today + 8 * 86400)
    )
    assert (built[1], checked[1]) == ("SUCCESS", "SUCCESS")
    assert "No model is due" in str(idle["skipReason"]), idle
    requested = [
        key["path"][-1] for request in due["runRequests"] for key in request["assetSelection"]
    ]
    assert "daily_revenue" in requested and "workshops" not in requested, due
    with instance_of(project.root / "dagster_home") as instance:
        events = [e.dagster_event for e in instance.all_logs(checked[0]) if e.dagster_event]
    kinds = {e.event_type_value for e in events}
    assert "ASSET_CHECK_EVALUATION" in kinds and "ASSET_MATERIALIZATION" not in kinds


@pytest.mark.parametrize("strategy", ["FROM_FAILURE", "FROM_ASSET_FAILURE"])
def test_a_reexecution_runs_what_failed_and_what_is_below_it(
    project: Project, server: Served, strategy: str
) -> None:
    """The raw data was wrong and is fixed: the models that succeeded are left alone."""
    ask, warehouse = server.ask, server.warehouse
    warehouse.unlink()  # each strategy begins with nothing
    location_of_failure = ["staging", "payments"]
    raw = {"assetSelection": [{"path": ["raw", "payments"]}], "assetCheckSelection": []}
    models = [["reference", "workshops"], location_of_failure]
    models.append(["marts", "daily_revenue"])
    location = location_of(ask)
    launch(ask, location, "__ASSET_JOB", **raw)
    with duckdb.connect(str(warehouse)) as connection:
        connection.execute("DELETE FROM raw.payments")
    selection = [{"path": path} for path in models]
    failed = launch(ask, location, "__ASSET_JOB", assetSelection=selection)
    launch(ask, location, "__ASSET_JOB", **raw)
    again = reexecute(ask, failed[0], strategy)
    assert (failed[1], again[1]) == ("FAILURE", "SUCCESS")
    with instance_of(project.root / "dagster_home") as instance:
        events = [e.dagster_event for e in instance.all_logs(again[0]) if e.dagster_event]
    built = [e.asset_key.path for e in events if e.is_step_materialization and e.asset_key]
    assert built == models[1:]
