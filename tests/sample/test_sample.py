"""The sample project keeps its promises: same data everywhere, plain SQLMesh, a part that stands alone."""

import csv
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest
import yaml

from tests.sample.generate_raw_data import SERVICES, UNPAID_JOBS, money, write_raw_files

TEMPLATE = Path(__file__).parents[2] / "template"
RAW_FOLDER = TEMPLATE / "data" / "raw"
MINIMAL = TEMPLATE.parent / "includes" / "minimal_sample.yml"

FULL_MARTS = {
    "daily_revenue": 224,
    "monthly_finance": 9,
    "customer_value": 415,
    "part_sales": 68,
    "repair_turnaround": 21,
    "workshop_demand": 42,
}
MINIMAL_MARTS = {"daily_revenue": 224}


def keep_minimal() -> list[str]:
    """Return the paths of the minimal sample."""
    kept: list[str] = yaml.safe_load(MINIMAL.read_text(encoding="utf-8"))["keep"]
    return kept


def keep_all() -> Iterator[str]:
    """Yield the paths of the full sample."""
    generated = {".cache", "logs", "__pycache__"}
    for folder in ("sqlmesh_project", "data"):
        for path in sorted((TEMPLATE / folder).rglob("*")):
            relative = path.relative_to(TEMPLATE)
            if path.is_file() and not generated & set(relative.parts):
                yield relative.as_posix()


def copy_sample(kept: list[str], project: Path) -> None:
    """Copy the kept files, and nothing else, into a folder."""
    for path in kept:
        target = project / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(TEMPLATE / path, target)


def load_raw_files(project: Path) -> None:
    """Load as the generated project's ingest assets do; the declared types must fit."""
    with duckdb.connect(str(project / "warehouse.duckdb")) as connection:
        for path in sorted((project / "data" / "raw").glob("*.csv")):
            table = f"raw.{path.stem}"
            declared = connection.table(table)
            columns, types = declared.columns, declared.types
            connection.execute(
                f"CREATE OR REPLACE TABLE {table} AS SELECT * FROM read_csv('{path}')"
            )
            loaded = connection.table(table)
            assert (loaded.columns, loaded.types) == (columns, types), table


def run_sqlmesh(project: Path, *arguments: str) -> str:
    """Return what the command printed, on one line."""
    # Of what is installed with a project, its config needs the integration.
    source = str(TEMPLATE / "src")
    environment = {**os.environ, "MAX_FORK_WORKERS": "1", "PYTHONPATH": source}
    environment.pop("WAREHOUSE_PATH", None)
    command = Path(sys.executable).with_name("sqlmesh")
    # Another folder than the project's: the warehouse must not depend on it.
    elsewhere = project.parent / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    done = subprocess.run(
        [command, "-p", project / "sqlmesh_project", *arguments],
        cwd=elsewhere,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return " ".join(done.stdout.split())


def test_the_raw_files_are_what_the_generator_writes(tmp_path: Path) -> None:
    """Whoever changes the data changes the generator, and the other way round."""
    write_raw_files(tmp_path)
    written = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    shipped = {path.name: path.read_bytes() for path in RAW_FOLDER.iterdir()}
    assert written == shipped


def test_the_generator_charges_the_prices_of_the_seed() -> None:
    """Bills are computed from the seed, payments by the generator; they must agree."""
    seed = TEMPLATE / "sqlmesh_project" / "seeds" / "services.csv"
    with seed.open(encoding="utf-8", newline="") as file:
        stated = {
            row["service_code"]: (int(row["labour_minutes"]), row["labour_price"])
            for row in csv.DictReader(file)
        }
    assert stated == {code: (minutes, money(price)) for code, (minutes, price) in SERVICES.items()}


@pytest.mark.slow
@pytest.mark.usefixtures("warm_processes")
@pytest.mark.parametrize(
    ("kept", "marts", "warnings"),
    [
        pytest.param(list(keep_all()), FULL_MARTS, UNPAID_JOBS, id="full"),
        pytest.param(keep_minimal(), MINIMAL_MARTS, 0, id="minimal"),
    ],
)
def test_the_sample_works_with_the_sqlmesh_command_alone(
    tmp_path: Path, kept: list[str], marts: dict[str, int], warnings: int
) -> None:
    """Plan before the first load, load, run: every mart is filled, one audit warns on purpose."""
    project = tmp_path / "project"
    copy_sample(kept, project)
    run_sqlmesh(project, "lint")
    run_sqlmesh(project, "format", "--check")
    run_sqlmesh(project, "test")
    run_sqlmesh(project, "plan", "dev", "--auto-apply", "--no-prompts", "--skip-backfill")
    load_raw_files(project)

    output = run_sqlmesh(project, "run", "dev")

    assert output.count("[WARNING]") == bool(warnings), output
    assert f"{warnings} rows failed" in output or not warnings, output
    with duckdb.connect() as connection:
        connection.execute(f"ATTACH '{project / 'warehouse.duckdb'}' AS warehouse (READ_ONLY)")
        for mart, rows in marts.items():
            counted = connection.execute(f"SELECT COUNT(*) FROM warehouse.marts__dev.{mart}")
            assert counted.fetchone() == (rows,), mart
