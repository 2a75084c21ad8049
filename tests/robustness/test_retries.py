"""Runs that failed and are tried again, by the daemon or in the UI: what failed and what is below it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
_FLAKY = ["top", "beside", "flaky", "below_flaky", "both", "broken", "below_broken"]
_CHECKED = ["source", "weekly", "below_weekly", "checked", "below_checked", "joined"]


@dataclass(frozen=True)
class _Served:
    """A project that webserver, daemon and code server serve."""

    project: Generated
    ask: Ask
    location: str

    def launch(self, names: list[str], **more: Any) -> tuple[str, str]:
        """Materializes models: run id and status."""
        selection = [{"path": ["demo", name]} for name in names]
        return launch(self.ask, self.location, "__ASSET_JOB", assetSelection=selection, **more)

    def retry_of(self, run_id: str) -> tuple[str, str]:
        """Waits for the run that the daemon launches in place of another, and for its end."""
        tag = "dagster/auto_retry_run_id"
        wait_until(lambda: tag in self.tags(run_id), self.project.root / "dev.log")
        retry = self.tags(run_id)[tag]
        return retry, end_of(self.ask, retry)

    def started(self, run_id: str) -> set[str]:
        """The models whose steps a run has started."""
        steps = self.project.recorded(run_id).started
        return {step.removeprefix("demo__") for step in steps}

    def tags(self, run_id: str) -> dict[str, str]:
        """A run's tags."""
        with self.project.instance() as instance:
            run = instance.get_run_by_id(run_id)
            assert run is not None
            return dict(run.tags)


def _flaky(project: Generated, marker: Path) -> None:
    """A model that fails once, one that always does, and models next to and below them."""
    project.model("top", "SELECT 1::BIGINT AS n")
    project.model("beside", "SELECT n::BIGINT AS n FROM demo.top")
    body = f"""
    if not Path({str(marker)!r}).exists():
        Path({str(marker)!r}).touch()
        raise ConnectionError("the network is away")
    return 2
    """
    project.python_model("flaky", body, depends_on=["demo.top"])
    project.model("below_flaky", "SELECT n::BIGINT AS n FROM demo.flaky")
    project.model("both", "SELECT f.n::BIGINT AS n FROM demo.below_flaky AS f, demo.beside AS b")
    project.model("broken", "SELECT error('stays broken')::BIGINT AS n FROM demo.top")
    project.model("below_broken", "SELECT n::BIGINT AS n FROM demo.broken")


def _checked(project: Generated) -> None:
    """A model whose audit fails while its raw data is wrong, and models next to and below it."""
    project.model("source", "SELECT 1::BIGINT AS n")
    project.model("weekly", "SELECT n::BIGINT AS n FROM demo.source", "kind FULL, cron '@weekly'")
    project.model("below_weekly", "SELECT n::BIGINT AS n FROM demo.weekly")
    project.model(
        "checked",
        "SELECT r.n::BIGINT AS n FROM demo.source AS s, raw.numbers AS r",
        "kind FULL, audits (not_null(columns := (n)))",
    )
    project.model("below_checked", "SELECT n::BIGINT AS n FROM demo.checked")
    project.model(
        "joined", "SELECT b.n::BIGINT AS n FROM demo.below_checked AS b, demo.below_weekly AS w"
    )


@pytest.fixture(scope="module")
def platform(render: Render, tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Served]:
    """Both sets of models, served with the settings that the template has."""
    folder = tmp_path_factory.mktemp("retries")
    project = Generated.tiny(render, folder / "project", before_all=_BEFORE_ALL)
    _flaky(project, folder / "tried")
    _checked(project)
    with served(project.root, project.environment) as ask:
        yield _Served(project, ask, location_of(ask))


def test_the_daemon_retries_what_failed_as_often_as_it_is_told(platform: _Served) -> None:
    """Promise: once it is asked for, a failure that passes is fixed without a hand, only failed
    models and what is below them run again, and one that stays is a failed run each time, to the limit.
    """
    project = platform.project
    first = platform.launch(_FLAKY, config=run_config(), tags={"dagster/max_retries": "2"})
    second = platform.retry_of(first[0])
    third = platform.retry_of(second[0])
    assert [first[1], second[1], third[1]] == ["FAILURE"] * 3
    assert platform.started(first[0]) == {"top", "beside", "flaky", "broken"}
    assert platform.started(second[0]) == {"flaky", "below_flaky", "both", "broken"}
    assert platform.started(third[0]) == {"broken"}
    assert "the network is away" in project.recorded(first[0]).failed["demo__flaky"]
    assert project.recorded(second[0]).materialized == ["flaky", "below_flaky", "both"]
    assert [project.sqlmesh_runs(run[0]) for run in (first, second, third)] == [1, 1, 1]
    assert project.query("FROM demo__dev.both") == [(2,)]
    assert platform.tags(third[0])["dagster/will_retry"] == "false"


def test_a_reexecution_after_the_data_was_mended_runs_what_failed_and_what_is_below(
    platform: _Served,
) -> None:
    """Promise: what succeeded or was up to date, above, next to and below, is left alone; and nothing
    is retried by itself unless it was asked for.
    """
    project = platform.project
    failed, again, values = [], [], []
    # Where models were idle, FROM_ASSET_FAILURE asks for them again: they have no materialization.
    for day, strategy in enumerate(("FROM_ASSET_FAILURE", "FROM_FAILURE"), start=10):
        config = run_config(now=f"2025-01-{day}T00:30:00")
        failed.append(platform.launch(_CHECKED, config=config))
        project.query(f"UPDATE raw.numbers SET n = {day}")
        again.append(reexecute(platform.ask, failed[-1][0], strategy))
        values.append(project.query("FROM demo__dev.joined"))
        project.query("UPDATE raw.numbers SET n = NULL")
    assert [status for _, status in (*failed, *again)] == ["FAILURE"] * 2 + ["SUCCESS"] * 2
    assert values == [[(10,)], [(11,)]]
    first = {"source", "weekly", "below_weekly", "checked"}
    assert [platform.started(run_id) for run_id, _ in failed] == [first] * 2
    assert project.recorded(failed[1][0]).unchanged == ["weekly"]
    rest = ["checked", "below_checked", "joined"]
    assert [platform.started(run_id) for run_id, _ in again] == [set(rest)] * 2
    assert [project.recorded(run_id).materialized for run_id, _ in again] == [rest] * 2
    assert [platform.tags(run_id)["dagster/will_retry"] for run_id, _ in failed] == ["false"] * 2
