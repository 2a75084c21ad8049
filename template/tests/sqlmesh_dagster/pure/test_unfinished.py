"""How long a run waits for somebody else's plan of its environment, by a clock that nobody waits for."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from sqlmesh.core.config import DuckDBConnectionConfig
from sqlmesh.core.config.connection import ConnectionConfig, PostgresConnectionConfig
from sqlmesh.core.environment import Environment

from sqlmesh_dagster.engine import unfinished
from sqlmesh_dagster.engine.unfinished import await_plan
from sqlmesh_dagster.errors import EnvironmentNotFinalizedError
from sqlmesh_dagster.guard.cancel import CancelToken, RunCancelled
from sqlmesh_dagster.settings import ProjectSettings

_SERVER = PostgresConnectionConfig.model_construct(  # unchecked: not every project has the driver
    type_="postgres",
    host="db.example.com",
    user="ada",
    password="none",
    port=5432,
    database="state",
)
_FILE = DuckDBConnectionConfig(database="state.duckdb")


@dataclass
class State:
    """A state in which a plan of `dev` ends at a second of a clock, which stands still but for sleep."""

    connection: ConnectionConfig
    ends_at: float
    is_stopped_at: float = float("inf")
    now: float = 0.0
    said: list[str] = field(default_factory=list)
    cancel_token: CancelToken = field(default_factory=CancelToken)

    @property
    def state_reader(self) -> State:
        """As a context has it."""
        return self

    def get_environment(self, name: str) -> Environment:
        """Unfinished until the plan has ended."""
        finalized = 1 if self.now >= self.ends_at else None
        return Environment(name=name, snapshots=[], start_at=0, plan_id="", finalized_ts=finalized)

    def sleep(self, seconds: float) -> None:
        """Time passes; somebody stops the run at its second."""
        self.now += seconds
        if self.now >= self.is_stopped_at:
            self.cancel_token.cancel()

    def awaited(self, monkeypatch: pytest.MonkeyPatch, *, may_finish: bool, most: float) -> bool:
        """Whether the environment is unfinished after the wait."""
        clock = SimpleNamespace(monotonic=lambda: self.now, sleep=self.sleep)
        monkeypatch.setattr(unfinished, "time", clock)
        monkeypatch.setattr(unfinished, "state_connection", lambda _: self.connection)
        context: Any = self
        settings = ProjectSettings(project_dir=".", environment="dev", wait_timeout=most)
        found = await_plan(
            context, settings, lambda _, text: self.said.append(text), may_finish=may_finish
        )
        return unfinished.is_unfinished(found)


@pytest.mark.parametrize(("most", "seconds"), [(600.0, 60.0), (60.0, 60.0), (7.0, 7.0), (0.0, 0.0)])
def test_a_run_that_deploys_waits_a_minute_for_a_dead_plan(
    monkeypatch: pytest.MonkeyPatch, most: float, seconds: float
) -> None:
    """Promise: on a server, where the plan may be at work elsewhere; then it is this run's to finish."""
    state = State(_SERVER, ends_at=float("inf"))
    assert state.awaited(monkeypatch, may_finish=True, most=most)
    assert state.now == seconds
    assert len(state.said) == (1 if seconds else 0)
    assert all(f"up to {seconds:g} s. Then this run applies" in text for text in state.said)


@pytest.mark.parametrize("may_finish", [True, False])
def test_a_plan_that_ends_in_time_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, may_finish: bool
) -> None:
    """Promise: no longer than it takes, and nothing of it is done a second time."""
    state = State(_SERVER, ends_at=20.0)
    assert not state.awaited(monkeypatch, may_finish=may_finish, most=600.0)
    assert state.now == 20.0 and len(state.said) == 1
    ended = State(_SERVER, ends_at=0.0)
    assert not ended.awaited(monkeypatch, may_finish=may_finish, most=600.0) and not ended.said


def test_a_run_that_may_not_deploy_waits_as_long_as_its_setting_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Promise: then it fails with the environment and the command that finishes the plan."""
    state = State(_SERVER, ends_at=float("inf"))
    with pytest.raises(EnvironmentNotFinalizedError, match="`dev`"):
        state.awaited(monkeypatch, may_finish=False, most=90.0)
    assert (
        state.now == 90.0 and "up to 90 s. If no plan is at work, stop this run." in state.said[0]
    )


@pytest.mark.parametrize("may_finish", [True, False])
def test_nobody_else_works_on_a_duckdb_file(
    monkeypatch: pytest.MonkeyPatch, may_finish: bool
) -> None:
    """Promise: who has opened it is alone, so that the plan is dead, and nothing is waited for."""
    state = State(_FILE, ends_at=float("inf"))
    if may_finish:
        assert state.awaited(monkeypatch, may_finish=True, most=600.0)
    else:
        with pytest.raises(EnvironmentNotFinalizedError):
            state.awaited(monkeypatch, may_finish=False, most=600.0)
    assert state.now == 0.0 and not state.said


def test_a_run_that_waits_can_be_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: at the next look."""
    state = State(_SERVER, ends_at=float("inf"), is_stopped_at=3.0)
    with pytest.raises(RunCancelled):
        state.awaited(monkeypatch, may_finish=True, most=600.0)
    assert state.now == 3.0
