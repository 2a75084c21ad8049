"""The generated sample on a real Spark: a standalone master and two workers, and the state on a real Postgres.

By hand: `pip install "pyspark>=3.5,<3.6"`, Java 17, and then `pytest tests/robustness/test_spark.py -m storm`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import duckdb
import pytest

from tests.conftest import Render
from tests.postgres import Server, postgres
from tests.test_generated_projects import Project, with_tools_of

pytestmark = pytest.mark.storm
pyspark = pytest.importorskip("pyspark")
_SECRET = "correct-horse-battery"
_LOOK = """
import json, sys
from pyspark.sql import SparkSession

builder = SparkSession.builder.enableHiveSupport()
for name, value in json.loads(sys.argv[1]).items():
    builder = builder.config(name, value)
spark = builder.getOrCreate()
names = [
    f"{schema}.{table.name}"
    for schema in sys.argv[2:]
    for table in spark.catalog.listTables(schema)
]
print(json.dumps({
    name: sorted(
        [str(value) for value in row]
        for row in spark.table(name).select(*sorted(spark.table(name).columns)).collect()
    )
    if name in ("reference__dev.services", "marts__dev.workshop_demand", "marts__dev.daily_revenue")
    else spark.table(name).count()
    for name in names
}))
"""
_WITH_ALL_ROWS = (
    "reference__dev.services",
    "marts__dev.workshop_demand",
    "marts__dev.daily_revenue",
)
_SCHEMAS = ("reference__dev", "staging__dev", "intermediate__dev", "marts__dev")
_SLOW = """
MODEL (name marts.slow, kind FULL, dialect spark, owner 'us', description 'Sleeps.', grain id);

SELECT 1::INT AS id, JAVA_METHOD('java.lang.Thread', 'sleep', CAST(900000 AS BIGINT))::TEXT AS waited;
"""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def _cluster(folder: Path) -> Iterator[str]:
    """The master's address; each worker gives one core and a gigabyte."""
    start = str(Path(pyspark.__file__).parent / "bin/spark-class")
    port, page = _free_port(), _free_port()
    place = f"spark://127.0.0.1:{port}"
    of_master = ["org.apache.spark.deploy.master.Master", "--host", "127.0.0.1"]
    of_master += ["--port", str(port), "--webui-port", str(page)]
    of_worker = ["org.apache.spark.deploy.worker.Worker", place, "--host", "127.0.0.1"]
    of_worker += ["--cores", "1", "--memory", "1g", "--webui-port", "0", "--work-dir"]
    commands = [of_master, [*of_worker, str(folder / "one")], [*of_worker, str(folder / "two")]]
    environment = {**os.environ, "SPARK_LOCAL_IP": "127.0.0.1", "PYSPARK_PYTHON": sys.executable}
    with ExitStack() as stack:
        log = stack.enter_context((folder / "cluster.log").open("wb"))
        processes = [
            subprocess.Popen([start, *command], stdout=log, stderr=log, env=environment)
            for command in commands
        ]
        try:
            _wait_for_workers(page, len(commands) - 1)
            yield place
        finally:
            for process in processes:
                process.kill()
                process.wait()


def _wait_for_workers(page: int, number: int) -> None:
    deadline = time.monotonic() + 120
    while True:
        try:
            with urlopen(f"http://127.0.0.1:{page}/json/", timeout=5) as answer:
                if json.load(answer)["aliveworkers"] == number:
                    return
        except OSError:
            pass
        assert time.monotonic() < deadline
        time.sleep(0.5)


def _on_duckdb(file: Path) -> dict[str, Any]:
    """Of three tables all rows, as texts; of the others how many."""
    with duckdb.connect() as connection:
        connection.execute(f"ATTACH '{file}' AS warehouse (READ_ONLY)")
        connection.execute("USE warehouse")

        def rows(what: str) -> list[tuple[Any, ...]]:
            return connection.execute(what).fetchall()

        names = [
            f"{schema}.{name}"
            for schema, name in rows(
                "SELECT table_schema, table_name FROM information_schema.tables"
            )
            if schema in _SCHEMAS
        ]

        def all_of(name: str) -> list[list[str]]:
            columns = ", ".join(sorted(str(column[0]) for column in rows(f"DESCRIBE {name}")))
            found = rows(f"SELECT {columns} FROM {name}")
            return sorted([str(value) for value in row] for row in found)

        return {
            name: all_of(name)
            if name in _WITH_ALL_ROWS
            else rows(f"SELECT count(*) FROM {name}")[0][0]
            for name in names
        }


@dataclass(frozen=True)
class OnSpark:
    """The project on a cluster."""

    root: Path
    master: str
    settings: Mapping[str, str]
    state: Mapping[str, str]

    def project(self, **more: str) -> Project:
        """With further settings of Spark."""
        variables = {"SQLMESH_GATEWAY": "spark", "WAREHOUSE_MASTER": self.master, **self.state}
        variables |= {"WAREHOUSE_OPTIONS": json.dumps({"config": {**self.settings, **more}})}
        variables |= {"PYTHONPATH": str(self.root / "src"), "PYSPARK_PYTHON": sys.executable}
        return Project(self.root, with_tools_of(Path(sys.executable), **variables))

    def rows(self, folder: Path) -> dict[str, Any]:
        """As `_on_duckdb`."""
        program = folder / "look.py"
        program.write_text(_LOOK)
        cluster = json.dumps({"spark.master": self.master, **self.settings})
        said = self.project().run("python", str(program), cluster, *_SCHEMAS)
        found: dict[str, Any] = json.loads(said.splitlines()[-1])
        return found


def test_the_sample_is_built_on_a_cluster(render: Render, tmp_path: Path) -> None:
    """Promise: by answers and environment alone, with DuckDB's rows; then idle, a model and partitions built again.

    `intermediate.job_status` is by a unique key: what it needs after its first load is MERGE, and so a
    lake format.
    """
    root = Path(shutil.copytree(render(warehouse="spark"), tmp_path / "project"))
    expected = _laptop(root, tmp_path)
    with postgres() as server, _cluster(tmp_path) as master:
        server.create_database("state")
        on = _on(root, master, server, tmp_path)
        spark = on.project()
        assert "FAIL" not in spark.run("poe", "doctor")
        said = spark.run("poe", "run")
        assert "17 built" in said, said
        assert on.rows(tmp_path) == expected
        assert "1 up to date" in spark.run("poe", "run", "marts.daily_revenue")
        print(spark.run("poe", "rebuild", "marts.daily_revenue", "--no-downstream"))
        _with_partitions(root)
        days = ("--partition-range", "2025-01-01...2025-01-07")
        print(spark.run("dg", "launch", "--assets", 'key:"marts/daily_revenue"', *days))
        assert on.rows(tmp_path) == expected


def test_a_run_that_is_stopped_ends_its_jobs(render: Render, tmp_path: Path) -> None:
    """Promise: while an executor sleeps for a quarter of an hour; nothing is recorded, and the next run builds it."""
    root = Path(shutil.copytree(render(warehouse="spark"), tmp_path / "project"))
    for folder in ("models", "tests", "audits"):
        shutil.rmtree(root / "sqlmesh_project" / folder)
    model = root / "sqlmesh_project/models/slow.sql"
    model.parent.mkdir()
    model.write_text(_SLOW.lstrip())
    with postgres() as server, _cluster(tmp_path) as master:
        server.create_database("state")
        on = _on(root, master, server, tmp_path)
        _cancel(on)
        assert server.query("state", "SELECT count(*) FROM sqlmesh._intervals") == [(0,)]
        model.write_text(_SLOW.lstrip().replace("900000", "1"))
        assert "1 built" in on.project().run("poe", "run", "marts.slow")


def _on(root: Path, master: str, server: Server, folder: Path) -> OnSpark:
    place = f"jdbc:derby:;databaseName={folder}/metastore;create=true"
    settings = {
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.ui.enabled": "false",
        "spark.executor.memory": "512m",
        "spark.sql.shuffle.partitions": "2",
        "spark.sql.warehouse.dir": str(folder / "data"),
        "spark.sql.legacy.createHiveTableByDefault": "false",
        "spark.hadoop.javax.jdo.option.ConnectionURL": place,
    }
    state = {"HOST": "127.0.0.1", "PORT": str(server.port), "USER": "postgres"}
    state |= {"PASSWORD": _SECRET, "DATABASE": "state"}
    return OnSpark(root, master, settings, {f"STATE_{n}": v for n, v in state.items()})


def _laptop(root: Path, folder: Path) -> dict[str, Any]:
    """What the same project builds on its DuckDB file."""
    home, file = folder / "home", folder / "file.duckdb"
    home.mkdir()
    places = {"WAREHOUSE_PATH": str(file), "DAGSTER_HOME": str(home)}
    variables = {**places, "PYTHONPATH": str(root / "src")}
    Project(root, with_tools_of(Path(sys.executable), **variables)).run("poe", "run")
    return _on_duckdb(file)


def _with_partitions(root: Path) -> None:
    (file,) = (root / "src").glob("*/defs/transform.py")
    text = file.read_text()
    text = text.replace('raw/{node.name}"', 'raw/{node.name}", settings=_SETTINGS')
    text = text.replace("import ModelRecord", "import TranslatorSettings, ModelRecord")
    line = "_SETTINGS = TranslatorSettings(partitions=True)\n\n\nclass "
    file.write_text(text.replace("class ", line, 1))


def _cancel(on: OnSpark) -> None:
    """Stops a run while its job works."""
    port = str(_free_port())
    project = on.project(**{"spark.ui.enabled": "true", "spark.ui.port": port})
    command = shutil.which("poe", path=project.environment["PATH"])
    assert command
    run = subprocess.Popen(
        [command, "run", "marts.slow"],
        cwd=on.root,
        env=project.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        _wait_for_a_job(port, run)
        os.killpg(run.pid, signal.SIGINT)
        began = time.monotonic()
        said, _ = run.communicate(timeout=300)
        print(f"{time.monotonic() - began:.0f} s to the end of the run", said)
        assert run.returncode != 0
    finally:
        with suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)


def _wait_for_a_job(port: str, run: subprocess.Popen[str]) -> None:
    """Until one works for more than ten seconds, by the application's own page."""
    place = f"http://127.0.0.1:{port}/api/v1/applications"
    since: dict[int, float] = {}
    deadline = time.monotonic() + 400
    while not any(time.monotonic() - at > 10 for at in since.values()):
        assert run.poll() is None, run.communicate()
        assert time.monotonic() < deadline
        time.sleep(1)
        with suppress(OSError, ValueError):  # its first page says that it starts, in plain text
            (application,) = json.load(urlopen(place, timeout=5))
            working = f"{place}/{application['id']}/jobs?status=running"
            now = [job["jobId"] for job in json.load(urlopen(working, timeout=5))]
            since = {number: since.get(number, time.monotonic()) for number in now}
