"""Runs that failed and are tried again, by the daemon or in the UI: what failed and what is below it."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.sqlmesh_dagster.projects import run_config

from tests.conftest import Render
from tests.robustness.projects import Generated, wait_until
from tests.webserver import Ask, end_of, launch, location_of, reexecute, served

pytestmark = pytest.mark.generated

_BEFORE_ALL = [
    "CREATE SCHEMA IF NOT EXISTS raw",
    "CREATE TABLE IF NOT EXISTS raw.numbers AS SELECT NULL::BIGINT AS n",
]


def _started(project: Generated, run_id: str) -> set[str]:
    return {step.removeprefix("warehouse__demo__") for step in project.recorded(run_id).started}


def _tags(project: Generated, run_id: str) -> dict[str, str]:
    with project.instance() as instance:
        run = instance.get_run_by_id(run_id)
        assert run is not None
        return dict(run.tags)


def _retry_of(ask: Ask, project: Generated, run_id: str) -> tuple[str, str]:
    """Waits for the run that the daemon launches in place of another, and for its end."""
    tag = "dagster/auto_retry_run_id"
    wait_until(lambda: tag in _tags(project, run_id), project.root / "dev.log")
    retry = _tags(project, run_id)[tag]
    return retry, end_of(ask, retry)


def test_the_daemon_retries_what_failed_as_often_as_it_is_told(
    render: Render, tmp_path: Path
) -> None:
    """Promise: once `max_retries` is set, a failure that passes is mended without a hand, only failed
    models and what is below them run again, and one that stays is a failed run each time, to the limit.
    """
    project = Generated.tiny(render, tmp_path / "project")
    project.replace("dagster_home/dagster.yaml", "max_retries: 0", "max_retries: 2")
    marker = tmp_path / "tried"
    project.model("top", "SELECT 1::BIGINT AS n")
    project.model("beside", "SELECT n::BIGINT AS n FROM demo.top")
    body = f"""
    if not Path({str(marker)!r}).exists():
        Path({str(marker)!r}).touch()
        raise ConnectionError("the network is away")
    return 2
    """
    project.python_model("flaky", body, depends_on=["demo.top"])
    project.model("below", "SELECT n::BIGINT AS n FROM demo.flaky")
    project.model("both", "SELECT f.n::BIGINT AS n FROM demo.below AS f, demo.beside AS b")
    project.model("broken", "SELECT error('stays broken')::BIGINT AS n FROM demo.top")
    project.model("below_broken", "SELECT n::BIGINT AS n FROM demo.broken")
    with served(project.root, project.environment) as ask:
        location = location_of(ask)
        first = launch(ask, location, "__ASSET_JOB", config=run_config())
        second = _retry_of(ask, project, first[0])
        third = _retry_of(ask, project, second[0])
    assert [first[1], second[1], third[1]] == ["FAILURE"] * 3
    assert _started(project, first[0]) == {"top", "beside", "flaky", "broken"}
    assert _started(project, second[0]) == {"flaky", "below", "both", "broken"}
    assert _started(project, third[0]) == {"broken"}
    assert "the network is away" in project.recorded(first[0]).failed["warehouse__demo__flaky"]
    assert project.recorded(second[0]).materialized == ["flaky", "below", "both"]
    assert [project.sqlmesh_runs(run[0]) for run in (first, second, third)] == [1, 1, 1]
    assert project.query("FROM demo__dev.both") == [(2,)]
    assert _tags(project, third[0])["dagster/will_retry"] == "false"


def test_a_reexecution_after_the_data_was_mended_runs_what_failed_and_what_is_below(
    render: Render, tmp_path: Path
) -> None:
    """Promise: what succeeded or was up to date, above, beside and below, is left alone; and nothing
    is retried by itself unless it was asked for.
    """
    project = Generated.tiny(render, tmp_path / "project", before_all=_BEFORE_ALL)
    project.model("top", "SELECT 1::BIGINT AS n")
    project.model("weekly", "SELECT n::BIGINT AS n FROM demo.top", "kind FULL, cron '@weekly'")
    project.model("below_weekly", "SELECT n::BIGINT AS n FROM demo.weekly")
    project.model(
        "checked",
        "SELECT r.n::BIGINT AS n FROM demo.top AS t, raw.numbers AS r",
        "kind FULL, audits (not_null(columns := (n)))",
    )
    project.model("below", "SELECT n::BIGINT AS n FROM demo.checked")
    project.model("both", "SELECT b.n::BIGINT AS n FROM demo.below AS b, demo.below_weekly AS w")
    failed, again, values = [], [], []
    with served(project.root, project.environment) as ask:
        location = location_of(ask)
        for day, strategy in enumerate(("FROM_ASSET_FAILURE", "FROM_FAILURE"), start=10):
            config = run_config(now=f"2025-01-{day}T00:30:00")
            failed.append(launch(ask, location, "__ASSET_JOB", config=config))
            project.query(f"UPDATE raw.numbers SET n = {day}")
            again.append(reexecute(ask, failed[-1][0], strategy))
            values.append(project.query("FROM demo__dev.both"))
            project.query("UPDATE raw.numbers SET n = NULL")
    assert [status for _, status in (*failed, *again)] == ["FAILURE"] * 2 + ["SUCCESS"] * 2
    assert values == [[(10,)], [(11,)]]
    above = {"top", "weekly", "below_weekly", "checked"}
    assert [_started(project, run_id) for run_id, _ in failed] == [above] * 2
    assert project.recorded(failed[1][0]).observed == ["weekly"]
    assert [_started(project, run_id) for run_id, _ in again] == [{"checked", "below", "both"}] * 2
    assert [project.recorded(run_id).materialized for run_id, _ in again] == [
        ["checked", "below", "both"]
    ] * 2
    assert [_tags(project, run_id)["dagster/will_retry"] for run_id, _ in failed] == ["false"] * 2
