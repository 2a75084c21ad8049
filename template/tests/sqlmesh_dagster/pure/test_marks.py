"""When the last step of a Dagster run is done: those that never start are not waited for."""

from __future__ import annotations

import dagster as dg

from sqlmesh_dagster.run.marks import RunMarks, are_all_done
from sqlmesh_dagster.upstream.dagster import RunPlan

UPSTREAM = {
    "load": [],
    "a": ["load"],
    "b": ["a"],
    "python": ["b"],
    "c": ["python"],
    "d": [],
}
MODELS = {"a", "b", "c", "d"}


def test_all_are_done_when_each_is_finished_or_skipped() -> None:
    """Promise: a failure skips what is below it, through steps that are no models, too."""
    assert are_all_done(MODELS, UPSTREAM, MODELS, ())
    assert not are_all_done(MODELS, UPSTREAM, {"a", "b", "d"}, ())
    assert are_all_done(MODELS, UPSTREAM, {"a", "b", "d"}, {"b"})
    assert are_all_done(MODELS, UPSTREAM, {"d"}, {"load"})
    assert not are_all_done(MODELS, UPSTREAM, {"a", "b", "c"}, {"b"})


def test_a_retry_of_a_run_begins_anew() -> None:
    """Promise: the tags that Dagster copies from the first run are not believed."""
    with dg.DagsterInstance.ephemeral() as instance:
        first = instance.create_run_for_job(_job())
        plan = RunPlan("a", {"a": frozenset()}, {}, frozenset())
        marks = RunMarks(instance, first.run_id, plan, frozenset({"a"}))
        assert not marks.has_begun()
        marks.begin()
        assert marks.has_begun()
        assert marks.finish(is_success=True)
        tags = instance.get_run_by_id(first.run_id).tags  # type: ignore[union-attr]
        second = instance.create_run_for_job(_job(), tags=tags)
        assert not RunMarks(instance, second.run_id, plan, frozenset({"a"})).has_begun()


def _job() -> dg.JobDefinition:
    @dg.job
    def empty() -> None:
        """Does nothing."""

    return empty
