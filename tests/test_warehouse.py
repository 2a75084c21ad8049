"""The generated sample on a real Postgres, by answers and environment alone."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tests.conftest import Render
from tests.postgres import Server, postgres
from tests.test_generated_projects import Project, with_tools_of

_SCHEMAS = ("raw", "reference", "staging", "intermediate", "marts")
_SECRET = "correct-horse-battery"


@dataclass(frozen=True)
class Platform:
    """A generated project whose commands work on Postgres, and on a DuckDB file."""

    server: Server
    root: Path
    tools: Path

    def on_postgres(self, **more: str) -> Project:
        """As where Dagster runs for others."""
        place = {"HOST": "127.0.0.1", "PORT": str(self.server.port), "USER": "postgres"}
        place |= {"PASSWORD": _SECRET, "DATABASE": "analytics"}
        variables = {f"WAREHOUSE_{name}": value for name, value in place.items()}
        return self._project("postgres", SQLMESH_GATEWAY="postgres", **{**variables, **more})

    def on_duckdb(self, **more: str) -> Project:
        """As on a laptop."""
        place = str(self._home("duckdb") / "file.duckdb")
        return self._project("duckdb", WAREHOUSE_PATH=place, **more)

    def state_apart(self) -> dict[str, str]:
        """The variables of a state in another database."""
        place = {"HOST": "127.0.0.1", "PORT": str(self.server.port), "USER": "postgres"}
        place |= {"PASSWORD": _SECRET, "DATABASE": "state"}
        return {f"STATE_{name}": value for name, value in place.items()}

    def in_postgres(self, environment: str) -> dict[str, list[tuple[Any, ...]]]:
        """The rows of each relation."""
        found = self.server.query(
            "analytics",
            "SELECT table_schema, table_name FROM information_schema.tables WHERE table_schema IN"
            f" ({_listed(environment)}) ORDER BY 1, 2",
        )
        return {
            f"{schema}.{name}": _sorted(
                self.server.query("analytics", f'SELECT * FROM "{schema}"."{name}"')
            )
            for schema, name in found
        }

    def in_duckdb(self, environment: str) -> dict[str, list[tuple[Any, ...]]]:
        """The rows of each relation."""
        with duckdb.connect() as file:
            place = self._home("duckdb") / "file.duckdb"
            file.execute(f"ATTACH '{place}' AS warehouse (READ_ONLY)")
            file.execute("USE warehouse")
            found = file.execute(
                "SELECT table_schema, table_name FROM information_schema.tables WHERE table_catalog ="
                f" 'warehouse' AND table_schema IN ({_listed(environment)}) ORDER BY 1, 2"
            ).fetchall()
            return {
                f"{schema}.{name}": _sorted(
                    file.execute(f'SELECT * FROM "{schema}"."{name}"').fetchall()
                )
                for schema, name in found
            }

    def _home(self, name: str) -> Path:
        home = self.root.parent / name
        if not home.exists():
            shutil.copytree(self.root / "dagster_home", home)
        return home

    def _project(self, home: str, **variables: str) -> Project:
        variables |= {"DAGSTER_HOME": str(self._home(home)), "PYTHONPATH": str(self.root / "src")}
        return Project(self.root, with_tools_of(Path(sys.executable), self.tools, **variables))


def _listed(environment: str) -> str:
    names = [name if name == "raw" else f"{name}{environment}" for name in _SCHEMAS]
    return ", ".join(f"'{name}'" for name in names)


def _sorted(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Numbers compare by value, and no driver's order counts."""
    plain = [tuple(float(v) if isinstance(v, Decimal) else v for v in row) for row in rows]
    return sorted(plain, key=repr)


@pytest.fixture(scope="module")
def platform(
    render: Render, tmp_path_factory: pytest.TempPathFactory, warm_python: Path
) -> Iterator[Platform]:
    """The full sample with the answer `postgres`, and an empty server."""
    root = tmp_path_factory.mktemp("warehouse") / "project"
    shutil.copytree(render(warehouse="postgres"), root)
    with postgres() as server:
        server.create_database("analytics")
        server.create_database("state")
        yield Platform(server, root, warm_python)


@pytest.mark.generated
def test_every_relation_is_that_of_duckdb(platform: Platform) -> None:
    """Promise: the Quick start's command builds the same on both, with the state in the warehouse."""
    said = platform.on_postgres().run("poe", "run")
    assert _SECRET not in said
    platform.on_duckdb().run("poe", "run")
    ours, theirs = platform.in_postgres("__dev"), platform.in_duckdb("__dev")
    assert len(theirs) == 23 and list(ours) == list(theirs)
    assert [name for name in theirs if ours[name] != theirs[name]] == []


@pytest.fixture(scope="module")
def after(platform: Platform) -> Project:
    """The project with production on the DuckDB file, and the variables of a Postgres to which it moves."""
    before = platform.on_duckdb(SQLMESH_ENVIRONMENT="prod")
    before.run("poe", "load")
    before.run("poe", "promote", "--yes")
    before.run("poe", "run")
    kept = {name: before.environment[name] for name in ("WAREHOUSE_PATH", "DAGSTER_HOME")}
    there = platform.on_postgres(SQLMESH_ENVIRONMENT="prod").environment
    return Project(platform.root, {**there, **kept})


def _empty(platform: Platform) -> None:
    for name in ("analytics", "state"):
        platform.server.query("postgres", f"DROP DATABASE {name} WITH (FORCE)")
        platform.server.create_database(name)


def _assert_nothing_is_lost(platform: Platform, after: Project) -> None:
    ran = after.run("poe", "run")
    assert "17 up to date" in ran, ran
    ours, theirs = platform.in_postgres(""), platform.in_duckdb("")
    assert list(ours) == list(theirs) != []
    assert [name for name in theirs if ours[name] != theirs[name]] == []


@pytest.mark.storm
def test_production_moves_from_the_file_to_postgres(platform: Platform, after: Project) -> None:
    """Promise: the sample's production by one command; the next run builds nothing, and rows are equal."""
    _empty(platform)
    said = after.run("poe", "move", "--yes")
    assert "Moved: " in said and _SECRET not in said
    _assert_nothing_is_lost(platform, after)


@pytest.mark.storm
@pytest.mark.parametrize(
    ("last", "times", "is_apart"),
    [("From ", 1, False), ("copied raw.", 1, True), ("copied ", 14, False)],
    ids=["before", "between, with the state apart", "after"],
)
def test_a_move_that_is_killed_goes_on(
    platform: Platform, after: Project, last: str, times: int, is_apart: bool
) -> None:
    """Promise: `kill -9` before, between and after the rows; no run begins there, the same command ends it."""
    _empty(platform)
    apart = platform.state_apart() if is_apart else {}
    project = Project(after.root, {**after.environment, **apart})
    said = _killed_after(project, last, times)
    refused = subprocess.run(
        ["poe", "run"],
        cwd=project.root,
        env=project.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if refused.returncode == 0 or "`poe move` takes it along" not in refused.stdout:
        pytest.fail(refused.stdout + refused.stderr)
    assert "***" not in refused.stdout  # which would hide the command to paste
    again = project.run("poe", "move", "--yes")
    assert "Moved: " in again and again.count("there  ") >= said.count("copied ") - 1, again
    _assert_nothing_is_lost(platform, project)
    assert "Nothing was changed" in project.run("poe", "move", "--yes")


def _killed_after(project: Project, begin: str, times: int) -> str:
    """A move that is killed when it has said so many lines that begin so; what it has said."""
    process = subprocess.Popen(  # what `poe move` starts, in a session that is not its own
        [sys.executable, "-m", "sqlmesh_dagster.commands", "move", "--yes"],
        cwd=project.root,
        env=project.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    said = ""
    assert process.stdout is not None
    for line in process.stdout:
        said += line
        times -= line.startswith(begin)
        if times <= 0:
            break
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert times <= 0 and "Moved" not in said, said
    return said


@pytest.mark.storm
def test_a_day_on_postgres_with_the_state_apart(platform: Platform) -> None:
    """Promise: run, doctor, plan, apply, promote and rebuild, as on DuckDB, with the state in another database."""
    server = platform.server
    server.query("postgres", "DROP DATABASE analytics")
    server.create_database("analytics")
    on = platform.on_postgres(**platform.state_apart())
    prod = platform.on_postgres(**platform.state_apart(), SQLMESH_ENVIRONMENT="prod")
    assert "FAIL" not in on.run("poe", "doctor")
    assert "17 built" in on.run("poe", "run")
    assert "17 up to date" in on.run("poe", "run")
    assert "Nothing to do" in on.run("poe", "plan")

    model = platform.root / "sqlmesh_project/models/marts/part_sales.sql"
    text = model.read_text()
    model.write_text(text.replace("\nFROM ", ",\n  1::INT AS sold /* Always 1 */\nFROM ", 1))
    try:
        assert "part_sales" in on.run("poe", "plan")
        assert "1 changed" in on.run("poe", "apply")
        on.run("poe", "promote", "--yes")
        assert set(platform.in_postgres("")) > {"marts.part_sales", "staging.payments"}
        assert platform.in_postgres("")["marts.part_sales"]
        assert "1 built" in prod.run("poe", "rebuild", "marts.part_sales", "--no-downstream")
    finally:
        model.write_text(text)
