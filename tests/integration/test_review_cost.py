"""What a review reads, how it is stopped, and the same on a real Postgres."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pytest
from tests.sqlmesh_dagster.projects import NOW, Project

from tests.integration.test_plans import execute_of
from tests.postgres import Server, postgres

pytestmark = pytest.mark.slow

PROD = {"environment": "prod", "apply": True, "allow_production": True, "execution_time": NOW}
PR = {"environment": "pr", "execution_time": NOW}
ROWS = "SELECT i::INT AS id, (i * 2)::INT AS amount FROM range(1, 101) AS t(i)"
_PHYSICAL = re.compile(r'(?:FROM|JOIN)\s+"?(?:\w+"?\.)?"?sqlmesh__demo"?\."?demo__(\w+?)__\d', re.I)


@contextmanager
def tables_read(caplog: pytest.LogCaptureFixture) -> Iterator[set[str]]:
    """The models whose tables a query reads meanwhile; SQLMesh logs each statement."""
    found: set[str] = set()
    with caplog.at_level(logging.DEBUG, "sqlmesh.core.engine_adapter.base"):
        caplog.clear()
        yield found
        for record in caplog.records:
            if record.name == "sqlmesh.core.engine_adapter.base":
                found |= set(_PHYSICAL.findall(record.getMessage()))


@pytest.mark.parametrize("number", [20, pytest.param(500, marks=pytest.mark.storm)])
def test_a_review_reads_only_what_changed_and_what_depends_on_it(
    project: Project, instance: dg.DagsterInstance, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    """However many models there are beside it."""
    project.settings = {"environment": "prod"}
    project.model("root", ROWS, "kind FULL, grain id")
    for n in range(number):
        project.model(f"other_{n}", "SELECT id::INT AS id FROM demo.root", "kind FULL, grain id")
    project.model("changed", "SELECT id, amount FROM demo.root", "kind FULL, grain id")
    project.model("below", "SELECT id, amount FROM demo.changed", "kind FULL, grain id")
    run, _ = execute_of(project.definitions(), instance, "plan", **PROD)
    assert run.success, run.failed
    project.model(
        "changed", "SELECT id, amount + 1 AS amount FROM demo.root", "kind FULL, grain id"
    )
    definitions = project.definitions()
    began = time.process_time()
    with tables_read(caplog) as read:
        run, facts = execute_of(definitions, instance, "review", **PR)
    print(f"{number} models beside: {time.process_time() - began:.1f} CPU seconds")
    assert run.success, run.failed
    assert read == {"root", "changed", "below"}  # `root` because `changed` is built of it
    assert f"{number + 3} models are used as they are." in facts["sqlmesh/review"]


def test_a_review_that_is_stopped_ends_its_query_and_leaves_an_environment_to_go_on_with(
    project: Project, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    """While it compares a view of endless rows."""
    project.settings = {"environment": "prod"}
    project.model("endless", ROWS, "kind VIEW, grain id")
    run, _ = execute_of(project.definitions(), instance, "plan", **PROD)
    assert run.success, run.failed
    endless = "SELECT (a.range % 7)::INT AS id, 1::INT AS amount FROM range(100000000) AS a, range({n}) AS b"
    project.model("endless", endless.format(n=100000), "kind VIEW, grain id")
    code = (
        "from sqlmesh_dagster import sqlmesh_definitions_factory\n"
        f"definitions = sqlmesh_definitions_factory(project_dir={str(project.root)!r})\n"
        "job = definitions.resolve_job_def('sqlmesh_review_job')\n"
        f"job.execute_in_process(run_config={{'ops': {{'sqlmesh_review': {{'config': {PR!r}}}}}}})\n"
    )
    command = ["env", "--default-signal=INT", sys.executable, "-c", code]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    log = tmp_path / "log"
    with (
        log.open("w") as out,
        subprocess.Popen(command, env=environment, stdout=out, stderr=out) as review,
    ):
        deadline = time.monotonic() + 120
        while (
            "is compared with `prod`: 1 model." not in log.read_text()
            and time.monotonic() < deadline
        ):
            assert review.poll() is None, log.read_text()
            time.sleep(0.1)
        time.sleep(1)
        review.send_signal(signal.SIGINT)
        try:
            assert review.wait(30) != 0
        finally:
            review.kill()
    assert "is compared with `prod`: 1 model." in log.read_text()
    project.model("endless", f"{ROWS} WHERE i > 3", "kind VIEW, grain id")
    run, facts = execute_of(project.definitions(), instance, "review", **PR)
    assert run.success, run.failed
    assert "| warehouse.demo.endless | 100 | 97 | 3 | 0 | 97.00 % |" in facts["sqlmesh/review"]


_ON_POSTGRES = """
gateways:
  local:
    connection:
      type: postgres
      host: 127.0.0.1
      port: {port}
      user: postgres
      password: none
      database: analytics
default_gateway: local
model_defaults:
  dialect: postgres
  start: 2025-01-01
  cron: '@daily'
disable_anonymized_analytics: true
"""
_TYPES = """
    SELECT
      i::INT AS id,
      {amount} AS amount,
      CASE WHEN i % 5 = 0 THEN 'NaN'::DOUBLE PRECISION ELSE i / 3.0 END::DOUBLE PRECISION AS ratio,
      ('{{"a": ' || i || '}}')::JSONB AS facts,
      ARRAY[i, i + 1]::INT[] AS "list of",
      ('2025-01-01 00:00:00+00'::TIMESTAMPTZ + i * INTERVAL '1 hour')::TIMESTAMPTZ AS at
    FROM GENERATE_SERIES(1, 100) AS t(i)
    {where}
"""


def test_a_review_and_a_rollback_on_a_real_postgres(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """State and data there; values of all kinds, each number as by hand."""

    def rows(server: Server, schema: str) -> list[tuple[object, ...]]:
        return server.query("analytics", f"SELECT t::TEXT FROM {schema}.typed AS t ORDER BY id")

    typed = "kind FULL, grain id, audits (not_null(columns := (id)))"
    with postgres() as server:
        server.create_database("analytics")
        project.settings = {"environment": "prod"}
        project.write("config.yaml", _ON_POSTGRES.format(port=server.port))
        project.model("typed", _TYPES.format(amount="(i * 1.10)::DECIMAL(10, 2)", where=""), typed)
        project.model("view", "SELECT id, amount FROM demo.typed", "kind VIEW, grain id")
        run, _ = execute_of(project.definitions(), instance, "plan", **PROD)
        assert run.success, run.failed
        before = rows(server, "demo")

        amount = "CASE WHEN i % 10 = 0 THEN 0 ELSE i * 1.10 END::DECIMAL(10, 2)"
        project.model("typed", _TYPES.format(amount=amount, where="WHERE i > 3"), typed)
        run, facts = execute_of(project.definitions(), instance, "review", **PR)
        assert run.success, run.failed
        page = facts["sqlmesh/review"]
        assert "| analytics.demo.typed | 100 | 97 | 3 | 0 | 87.00 % |" in page
        assert "| amount | 89.69 % | 10 |" in page  # 10 of 97
        assert "columns that are not named are equal" in page and "| ratio |" not in page

        run, _ = execute_of(project.definitions(), instance, "plan", **PROD)
        assert run.success, run.failed
        assert len(rows(server, "demo")) == 97
        run, _ = execute_of(project.definitions(), instance, "rollback", apply=True)
        assert run.success, run.failed
        assert rows(server, "demo") == before
        assert server.query("analytics", "SELECT count(*) FROM demo.view") == [(100,)]
