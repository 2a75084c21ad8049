"""A run that is being stopped: what it says, when, and when it gives up."""

from __future__ import annotations

import sys

import pytest

from sqlmesh_dagster.guard.cancel import CancelToken
from sqlmesh_dagster.guard.stopping import OtherWork, Patience, Stopping
from sqlmesh_dagster.upstream.dagster import is_process_of_run


class _Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_it_says_at_once_and_again_what_it_waits_for() -> None:
    """Promise: the model by its name; pauses grow to a minute, so that a long wait fills no log."""
    said: list[tuple[float, str]] = []
    clock = _Clock()
    stopping = Stopping(None, lambda text: said.append((clock.now, text)), clock)
    for second in range(300):
        clock.now = float(second)
        assert stopping.look({"demo.slow": second + 5.0}) is Patience.WAIT
    assert [at for at, _ in said] == [0, 10, 30, 70, 130, 190, 250]
    assert "`demo.slow` (for 5 s)" in said[0][1] and "`cancel_timeout`" in said[0][1]
    assert "told to stop 10 s ago" in said[1][1]


def test_each_sentence_of_a_wait_is_a_whole_one() -> None:
    """Promise: what is built, since when it is to stop, how it ends, and when it is waited for no longer."""
    said: list[str] = []
    clock = _Clock()
    clock.now = 100.0
    stopping = Stopping(None, said.append, clock)
    stopping.look({"b": 1.0, "a": 12.3})
    clock.now = 110.0
    stopping.look({})
    assert said == [
        "This run is being stopped, and waits for what is being built: `a` (for 12 s), `b` (for 1 s)."
        " Queries are interrupted; a Python model ends by itself."
        " `cancel_timeout` limits how long that may take.",
        "This run is being stopped, and waits for SQLMesh to end what it does."
        " It was told to stop 10 s ago.",
    ]


def test_what_is_done_beside_the_models_is_said_and_given_up_as_they_are() -> None:
    """Promise: `before_all`, a signal, a unit test by name; never the views of an environment half made."""
    said: list[str] = []
    clock = _Clock()
    stopping = Stopping(5, said.append, clock)
    before_all, views = (
        OtherWork("`before_all`", 7.0),
        OtherWork("the views", 2.0, can_be_left=False),
    )
    assert stopping.look({}, other=before_all) is Patience.WAIT
    clock.now = 10.0
    assert stopping.look({}, other=views) is Patience.WAIT
    assert stopping.look({}, other=before_all) is Patience.GIVE_UP
    assert said == [
        "This run is being stopped, and waits for `before_all` (for 7 s)."
        " Queries are interrupted; Python ends by itself. After 5 s it is given up.",
        "This run is being stopped, and waits for the views (for 2 s). It was told to stop 10 s ago.",
    ]


def test_a_token_knows_since_when_something_is_done_beside_the_models() -> None:
    """Promise: it is what was noted last, and nothing once that has ended."""
    token = CancelToken()
    assert token.other_work.what == ""
    token.now_does("the unit tests", can_be_left=False)
    assert (token.other_work.what, token.other_work.can_be_left) == ("the unit tests", False)
    assert 0 <= token.other_work.seconds < 60
    token.now_does("")
    assert token.other_work.what == ""


def test_it_does_not_say_that_queries_are_interrupted_where_no_driver_can() -> None:
    """Promise: who waits knows that the query ends by itself."""
    said: list[str] = []
    Stopping(60, said.append, _Clock()).look({"demo.slow": 5.0}, can_interrupt=False)
    assert "driver cannot interrupt a query" in said[0] and "are interrupted" not in said[0]
    assert "After 60 s it is given up" in said[0]


def test_it_gives_up_once_after_the_limit_and_only_on_a_model() -> None:
    """Promise: what SQLMesh records beside the models is not cut short."""
    clock = _Clock()
    stopping = Stopping(5, lambda text: None, clock)
    found = []
    for second in range(12):
        clock.now = 100.0 + second
        running = {} if second < 8 else {"demo.slow": 1.0}
        found.append(stopping.look(running))
    assert found == [Patience.GIVE_UP if second == 8 else Patience.WAIT for second in range(12)]


def test_the_limit_itself_is_over() -> None:
    """Promise: a limit of five seconds is no sixth one."""
    clock = _Clock()
    clock.now = 100.0
    stopping = Stopping(5, lambda text: None, clock)
    stopping.look({"demo.slow": 1.0})
    clock.now = 104.9
    assert stopping.look({"demo.slow": 1.0}) is Patience.WAIT
    clock.now = 105.0
    assert stopping.look({"demo.slow": 1.0}) is Patience.GIVE_UP


def test_a_second_signal_counts_only_some_seconds_after_the_first() -> None:
    """Promise: a terminal's Ctrl-C, which reaches a process twice, ends no wait; a person's second does."""
    clock = _Clock()
    stopping = Stopping(None, lambda text: None, clock)
    assert not stopping.is_told_again()
    stopping.look({})
    clock.now = 4.9
    assert not stopping.is_told_again()
    clock.now = 5.0
    assert stopping.is_told_again()
    clock.now = 100.0
    later = Stopping(None, lambda text: None, clock)
    later.look({})
    assert not later.is_told_again()


def test_only_a_process_that_dagster_started_for_a_run_may_be_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Promise: not a shell's, a test's or a code server's, which others need."""
    assert not is_process_of_run()
    for command, is_of_run in (("execute_run", True), ("execute_step", True), ("grpc", False)):
        monkeypatch.setattr(sys, "argv", ["dagster", "api", command])
        assert is_process_of_run() is is_of_run
