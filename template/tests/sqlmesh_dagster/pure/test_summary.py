"""What a terminal says of the newest run, from runs of small assets without SQLMesh."""

from __future__ import annotations

from collections.abc import Iterator

import dagster as dg
import pytest

from sqlmesh_dagster.run.summary import next_step, summarize


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """An instance without runs."""
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


@dg.asset
def loaded() -> None:
    """An asset that succeeds."""


@dg.asset
def broken() -> None:
    """An asset that fails."""
    raise dg.Failure("The file is missing. Add it.")


def test_an_instance_without_runs_says_so(instance: dg.DagsterInstance) -> None:
    """Promise: nothing is made up."""
    assert list(summarize(instance)) == ["There is no run yet."]
    assert next_step(instance).startswith("Not done.")


def test_a_run_that_succeeded_is_done(instance: dg.DagsterInstance) -> None:
    """Promise: the last line leads to the UI."""
    assert dg.materialize([loaded], instance=instance).success
    *_, last = summarize(instance)
    assert "ended as SUCCESS: 1 materialized" in last
    assert next_step(instance).startswith("Done. Open the UI on http://localhost:3000:  cd ")


def test_a_run_that_failed_is_never_called_done(instance: dg.DagsterInstance) -> None:
    """Promise: the error stands once, with its words, and the next step is to look at the log."""
    dg.materialize([loaded, broken], instance=instance, raise_on_error=False)
    lines = list(summarize(instance))
    assert lines.count("FAILED: step broken: The file is missing. Add it.") == 1
    assert next_step(instance).startswith("Not done.")
