"""The look at the lock's server, and what is said when that accepts and never answers."""

from __future__ import annotations

import threading

from sqlmesh_dagster.guard.heartbeat import beating


def test_a_server_that_never_answers_is_told_while_it_is_silent() -> None:
    """Promise: a person learns of it before the work ends, once for each silence."""
    answers, told = threading.Event(), threading.Semaphore(0)

    def look() -> None:
        answers.wait(10)

    with beating(look, told.release, every=0.01, silent=0.05):
        assert told.acquire(timeout=5)
        assert not told.acquire(timeout=0.2)
        answers.set()


def test_a_server_that_answers_is_asked_again_and_nothing_is_said() -> None:
    """Promise: no word where all is well."""
    asked, told = threading.Semaphore(0), threading.Event()
    with beating(asked.release, told.set, every=0.01, silent=5):
        assert all(asked.acquire(timeout=5) for _ in range(3))
    assert not told.is_set()
