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


def test_the_last_step_knows_that_it_is() -> None:
    """Promise: each notes how it ended; a failure counts for what is below it, in this run alone."""
    with dg.DagsterInstance.ephemeral() as instance:
        run = instance.create_run_for_job(_job())
        other = instance.create_run_for_job(_job())

        def finish(step: str, *, is_success: bool, run_id: str = run.run_id) -> bool:
            upstream = {name: frozenset(above) for name, above in UPSTREAM.items()}
            marks = RunMarks(
                instance, run_id, RunPlan(step, upstream, {}, frozenset()), frozenset(MODELS)
            )
            return marks.finish(is_success=is_success)

        assert not finish("d", is_success=True)
        assert not finish("a", is_success=True)
        assert finish("b", is_success=False), "`c` is skipped"
        for step in ("d", "a", "b"):
            assert not finish(step, is_success=True, run_id=other.run_id)
        assert finish("c", is_success=False, run_id=other.run_id)


def test_a_run_that_is_gone_has_not_begun() -> None:
    """Promise: a run that somebody has deleted meanwhile is no error."""
    with dg.DagsterInstance.ephemeral() as instance:
        plan = RunPlan("a", {"a": frozenset()}, {}, frozenset())
        assert not RunMarks(instance, "gone", plan, frozenset({"a"})).has_begun()


def test_what_is_no_step_of_the_run_skips_nothing() -> None:
    """Promise: a step of which nothing is known stops nobody's wait."""
    assert not are_all_done({"a"}, {}, (), ())
    assert are_all_done({"a"}, {}, {"a"}, ())
    assert not are_all_done({"a"}, {"a": ["b", "c"], "b": ["c"]}, (), ())
    assert are_all_done({"a"}, {"a": ["b", "c"], "b": ["c"]}, (), {"c"})


def _job() -> dg.JobDefinition:
    @dg.job
    def empty() -> None:
        """Does nothing."""

    return empty
