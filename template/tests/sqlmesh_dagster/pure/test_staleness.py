"""The rule by which a model is stale, in milliseconds: no database, no Dagster run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timezone

import dagster as dg
import pytest

from sqlmesh_dagster.definition.new_data import Policy, policies_of
from sqlmesh_dagster.facts.staleness import (
    Input,
    Inputs,
    Known,
    Load,
    Recorded,
    Subject,
    Table,
    Verdict,
    contents,
    inputs_after,
    inputs_before,
    judge,
    widened,
)
from sqlmesh_dagster.run.inputs import LOADED_RANGE, loaded_range


def _at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=timezone.utc).timestamp() * 1000)


def _span(first: str, end: str) -> tuple[int, int]:
    return _at(first), _at(end)


_DONE = _span("2025-01-01", "2025-01-10")
_TABLE = Table("t1", (_DONE,), built_at=100)


def _model(
    label: str,
    *sources: str,
    kind: str = "FULL",
    policy: Policy | None = None,
    inputs: Inputs | None = None,
    unit: str = "day",
) -> Subject:
    recorded = Recorded(inputs, "t1", 100) if inputs is not None else None
    chosen = policy or policies_of(kind)[0]
    return Subject(label, f'"{label}"', kind, sources, chosen, unit, recorded=recorded)


def _known(*subjects: Subject, loads: Mapping[str, Load], **more: object) -> Known:
    labels = {subject.label: subject for subject in subjects}
    known = Known(labels, frozenset(labels), loads)
    return replace(known, **more)  # type: ignore[arg-type]


def _verdicts(known: Known, tables: Mapping[str, Table] | None = None) -> dict[str, Verdict]:
    return judge(known, tables or dict.fromkeys(known.subjects, _TABLE))


_OLD, _NEW = Input("v1", 1), Load("v2", 2, at=200)


def test_the_same_version_is_fresh_however_new_the_event() -> None:
    """Promise: what counts is the data version."""
    known = _known(_model("m", "raw", inputs={"raw": _OLD}), loads={"raw": Load("v1", 9, at=999)})
    assert _verdicts(known) == {}


def test_another_version_is_new_data_since_it_was_loaded() -> None:
    """Promise: a whole table is built from its begin to its end."""
    verdict = _verdicts(_known(_model("m", "raw", inputs={"raw": _OLD}), loads={"raw": _NEW}))["m"]
    assert verdict.rebuild == (_DONE,)
    assert [(change.label, change.since) for change in verdict.changes] == [("raw", 200)]


def test_without_a_record_the_time_decides() -> None:
    """Promise: built before the load is stale, built after it is fresh."""
    known = _known(_model("m", "raw"), loads={"raw": _NEW})
    assert _verdicts(known)["m"].rebuild == (_DONE,)
    assert _verdicts(known, {"m": replace(_TABLE, built_at=200)}) == {}


def test_without_a_record_the_same_data_loaded_again_is_nothing_new() -> None:
    """Promise: what counts is when this version was first loaded."""
    again = replace(_NEW, at=500, since=150)
    assert _verdicts(_known(_model("m", "raw"), loads={"raw": again}))["m"].rebuild == (_DONE,)
    at_200 = {"m": replace(_TABLE, built_at=200)}
    assert _verdicts(_known(_model("m", "raw"), loads={"raw": again}), at_200) == {}


def test_a_record_of_another_table_does_not_count() -> None:
    """Promise: a new version of the model was built from what was there then."""
    known = _known(_model("m", "raw", inputs={"raw": _OLD}), loads={"raw": _NEW})
    assert _verdicts(known, {"m": replace(_TABLE, version="t2", built_at=300)}) == {}


def test_an_input_that_nothing_ever_loaded_makes_nothing_stale() -> None:
    """Promise: tables that Dagster does not know cannot be asked."""
    assert _verdicts(_known(_model("m", "raw", inputs={}), loads={})) == {}


def test_what_was_never_built_is_not_built_again() -> None:
    """Promise: that is due, and nothing else."""
    known = _known(_model("m", "raw"), loads={"raw": _NEW})
    assert _verdicts(known, {"m": Table("t1")}) == {}


def test_a_table_below_follows_what_is_built_again() -> None:
    """Promise: in the same run."""
    top = _model("top", "raw", inputs={"raw": _OLD})
    below = _model("below", "top", inputs={"top": Input(contents({"raw": _OLD}))})
    verdicts = _verdicts(_known(top, below, loads={"raw": _NEW}))
    assert verdicts["below"].rebuild == (_DONE,)


def test_a_table_below_follows_what_another_run_built_again() -> None:
    """Promise: by what the table above contains, and not by when it was built."""
    top = _model("top", "raw", inputs={"raw": Input("v2", 2)})
    below = _model("below", "top", inputs={"top": Input(contents({"raw": _OLD}))})
    known = _known(top, below, loads={"raw": _NEW})
    assert list(_verdicts(known)) == ["below"]
    even = replace(below, recorded=Recorded({"top": Input(contents({"raw": _NEW_INPUT}))}, "t1", 1))
    assert _verdicts(_known(top, even, loads={"raw": _NEW})) == {}


_NEW_INPUT = Input("v2", 77)


def test_a_table_that_nobody_selected_is_left_out() -> None:
    """Promise: what reads it is as fresh as it is."""
    top = _model("top", "raw", inputs={"raw": _OLD})
    below = _model("below", "top", inputs={"top": Input(contents({"raw": _OLD}))})
    known = _known(top, below, loads={"raw": _NEW}, selected=frozenset({"below"}))
    verdicts = _verdicts(known)
    assert "below" not in verdicts
    assert (verdicts["top"].rebuild, verdicts["top"].left) == ((), None)


def _daily(**more: object) -> Subject:
    daily = _model("m", "raw", kind="INCREMENTAL_BY_TIME_RANGE", inputs={"raw": _OLD})
    return replace(daily, **more)  # type: ignore[arg-type]


def _loads(*spans: tuple[int, int] | None) -> tuple[Load, ...]:
    return tuple(
        Load(f"v{place}", place, at=100 * place, span=span)
        for place, span in enumerate(spans, start=2)
    )


def _of(subject: Subject, *spans: tuple[int, int] | None, **more: object) -> Verdict:
    history = _loads(*spans)
    known = _known(subject, loads={"raw": history[-1]}, history={"raw": history}, **more)
    return _verdicts(known)["m"]


def test_the_spans_of_all_loads_since_are_built() -> None:
    """Promise: as whole intervals."""
    verdict = _of(
        _daily(),
        _span("2025-01-02T05:00:00", "2025-01-02T06:00:00"),
        _span("2025-01-05", "2025-01-07"),
    )
    assert verdict.rebuild == (
        _span("2025-01-02", "2025-01-03"),
        _span("2025-01-05", "2025-01-07"),
    )


def test_one_load_without_a_span_makes_the_time_unknown() -> None:
    """Promise: then the newest interval, or nothing, as the setting says."""
    spans = (_span("2025-01-02", "2025-01-03"), None)
    assert _of(_daily(), *spans).rebuild == (_span("2025-01-09", "2025-01-10"),)
    left = _of(_daily(), *spans, without_range="nothing")
    assert left.rebuild == ()
    assert "is not known" in str(left.left)


def test_a_load_of_what_was_there_already_needs_no_span() -> None:
    """Promise: it brought nothing."""
    first, second = _loads(_span("2025-01-02", "2025-01-03"), None)
    again = replace(second, version=first.version)
    known = _known(_daily(), loads={"raw": again}, history={"raw": (first, again)})
    assert _verdicts(known)["m"].rebuild == (_span("2025-01-02", "2025-01-03"),)


def test_a_month_is_built_whole() -> None:
    """Promise: the interval unit is the model's."""
    done = Table("t1", (_span("2024-11-01", "2025-03-01"),))
    history = _loads(_span("2024-12-31", "2025-01-02"))
    known = _known(_daily(unit="month"), loads={"raw": history[-1]}, history={"raw": history})
    assert _verdicts(known, {"m": done})["m"].rebuild == (_span("2024-12-01", "2025-02-01"),)


def test_what_is_not_done_is_left_to_the_clock() -> None:
    """Promise: of a time that is not due, nothing is built, and nothing is amiss."""
    verdict = _of(_daily(), _span("2025-01-10", "2025-01-11"))
    assert (verdict.rebuild, verdict.left) == ((), None)


def test_a_whole_table_below_passes_the_time_on() -> None:
    """Promise: a daily model that reads a whole table which reads new rows gets their days alone."""
    history = _loads(_span("2025-01-05", "2025-01-06"))
    top = _model("top", "raw", inputs={"raw": _OLD})
    daily = replace(_daily(), sources=("top",), recorded=Recorded({"top": Input("x")}, "t1", 1))
    known = _known(top, daily, loads={"raw": history[-1]}, history={"raw": history})
    assert _verdicts(known)["m"].rebuild == (_span("2025-01-05", "2025-01-06"),)


@pytest.mark.parametrize(
    "kind", ["INCREMENTAL_BY_UNIQUE_KEY", "SCD_TYPE_2_BY_COLUMN", "INCREMENTAL_UNMANAGED", "CUSTOM"]
)
def test_kinds_whose_repetition_may_lose_rows_are_left(kind: str) -> None:
    """Promise: with the reason and a next step."""
    verdict = _verdicts(
        _known(_model("m", "raw", kind=kind, inputs={"raw": _OLD}), loads={"raw": _NEW})
    )["m"]
    assert verdict.rebuild == ()
    assert "Launch it with `build: all`" in str(verdict.left)


def test_the_newest_interval_is_not_all_there_is() -> None:
    """Promise: a history that began with its newest interval would begin again, and is left."""
    subject = _model("m", "raw", kind="SCD_TYPE_2_BY_TIME", policy="newest", inputs={"raw": _OLD})
    known = _known(subject, loads={"raw": _NEW})
    assert _verdicts(known)["m"].rebuild == (_span("2025-01-09", "2025-01-10"),)
    single = Table("t1", (_span("2025-01-09", "2025-01-10"),))
    assert _verdicts(known, {"m": single})["m"].rebuild == ()


def test_due_builds_again_only_what_its_own_run_loaded() -> None:
    """Promise: as the schedule needs it, through to what is below."""
    top = _model("top", "raw", inputs={"raw": _OLD})
    below = _model("below", "top", inputs={"top": Input(contents({"raw": _OLD}))})
    known = _known(top, below, loads={"raw": replace(_NEW, run_id="r")}, build="due", run_id="r")
    assert [v.rebuild for v in _verdicts(known).values()] == [(_DONE,), (_DONE,)]
    verdicts = _verdicts(replace(known, run_id="another"))
    assert verdicts["top"].rebuild == ()
    assert "`build: stale`" in str(verdicts["top"].left)


def test_a_refusal_of_the_table_is_the_reason() -> None:
    """Promise: it stands as it is said."""
    known = _known(_model("m", "raw", inputs={"raw": _OLD}), loads={"raw": _NEW})
    verdict = _verdicts(known, {"m": replace(_TABLE, refusal="no.")})["m"]
    assert (verdict.rebuild, verdict.left) == ((), "no.")


def _after(built: tuple[int, int], span: tuple[int, int] | None) -> Inputs:
    subject = _daily()
    before = inputs_before(subject, _TABLE, {})
    verdict = _of(subject, span)
    return inputs_after(before, subject, verdict, _TABLE, [built], {"raw": Input("v2", 2)})


def test_a_build_of_other_days_leaves_the_model_stale() -> None:
    """Promise: only what holds the new rows makes the model fresh."""
    old_days = _span("2025-01-02", "2025-01-03")
    today = _span("2025-01-10", "2025-01-11")
    assert _after(today, old_days) == {"raw": _OLD}
    assert _after(old_days, old_days) == {"raw": Input("v2", 2)}
    assert _after(today, None) == {"raw": Input("v2", 2)}
    assert _after(old_days, None) == {"raw": _OLD}


def test_contents_differ_with_a_version_and_not_with_its_place() -> None:
    """Promise: loading the same again changes nothing below, either."""
    assert contents({"a": Input("1", 1)}) == contents({"a": Input("1", 5)})
    assert contents({"a": Input("1")}) != contents({"a": Input("2")})


@pytest.mark.parametrize(
    ("unit", "end"),
    [
        ("five_minute", "2025-01-31T23:05:00"),
        ("hour", "2025-02-01"),
        ("day", "2025-02-01"),
        ("month", "2025-02-01"),
        ("year", "2026-01-01"),
    ],
)
def test_a_span_is_widened_to_whole_intervals(unit: str, end: str) -> None:
    """Promise: in UTC, as SQLMesh counts them."""
    moment = _at("2025-01-31T23:00:00")
    low, high = widened((moment, moment + 1), unit)
    assert (low <= moment, high) == (True, _at(end))
    assert widened((low, high), unit) == (low, high)


@pytest.mark.parametrize(
    ("told", "span"),
    [
        ({"start": "2025-01-02", "end": "2025-01-03"}, _span("2025-01-02", "2025-01-04")),
        (
            {"start": "2025-01-02T05:00:00", "end": "2025-01-02T07:00:00+02:00"},
            (_at("2025-01-02T05:00:00"), _at("2025-01-02T05:00:00") + 1),
        ),
        (
            {"start": "2025-01-02T05:00:00Z", "end": "2025-01-02"},
            _span("2025-01-02T05:00:00", "2025-01-03"),
        ),
        ({"start": "2025-01-03", "end": "2025-01-01"}, None),
        ({"start": "yesterday", "end": "2025-01-01"}, None),
        ({"start": "2025-01-01"}, None),
        ("2025-01-01", None),
        (["2025-01-01", "2025-01-02"], None),
    ],
)
def test_a_range_names_its_first_and_its_last_row(told: object, span: object) -> None:
    """Promise: a date is the whole day, in UTC; what names no time is ignored, and fails nothing."""
    event = dg.AssetMaterialization("raw", metadata={LOADED_RANGE: told})  # type: ignore[dict-item]
    assert loaded_range(event.metadata) == span
    assert loaded_range({}) is None


@pytest.mark.parametrize(
    ("kind", "is_restatable", "told"),
    [
        (
            "INCREMENTAL_BY_UNIQUE_KEY",
            True,
            "only you can know whether a model of kind INCREMENTAL_BY_UNIQUE_KEY may be built again."
            " Launch it with `build: all` to build all of it now."
            " The tag `dagster:new_data:newest` lets each run take new data.",
        ),
        (
            "SCD_TYPE_2_BY_TIME",
            False,
            "only you can know whether a model of kind SCD_TYPE_2_BY_TIME may be built again."
            " The tag `dagster:new_data:newest` lets each run take new data.",
        ),
        (
            "MANAGED",
            False,
            "only you can know whether a model of kind MANAGED may be built again.",
        ),
        (
            "FULL",
            True,
            "its tag `dagster:new_data:nothing` says so."
            " Launch it with `build: all` to build all of it now.",
        ),
        (
            "INCREMENTAL_BY_TIME_RANGE",
            True,
            "its tag `dagster:new_data:nothing` says so."
            " Launch it with `build: all` to build all of it now."
            " The tag `dagster:new_data:newest` lets each run take new data.",
        ),
    ],
)
def test_what_is_left_says_why_and_how_to_build_it(
    kind: str, is_restatable: bool, told: str
) -> None:
    """Promise: by the kind, or the tag; with the ways that there are, and with what has changed."""
    subject = _model("m", "raw", kind=kind, policy="nothing", inputs={"raw": _OLD})
    table = replace(_TABLE, is_restatable=is_restatable)
    verdict = _verdicts(_known(subject, loads={"raw": _NEW}), {"m": table})["m"]
    assert (verdict.left, verdict.rebuild, verdict.only_audits) == (told, (), False)
    assert [change.label for change in verdict.changes] == ["raw"]


def test_every_reason_for_leaving_a_model_keeps_what_has_changed() -> None:
    """Promise: the run names the inputs, whoever decided."""
    known = _known(_model("m", "raw", inputs={"raw": _OLD}), loads={"raw": _NEW}, run_id="now")
    refused = _verdicts(known, {"m": replace(_TABLE, refusal="no.")})["m"]
    for verdict in (refused, _verdicts(replace(known, build="due"))["m"]):
        assert [(change.label, change.is_new) for change in verdict.changes] == [("raw", False)]


def test_a_view_is_audited_and_its_reader_is_built() -> None:
    """Promise: a view holds no rows; only a view that is built again is audited instead."""
    view = replace(_model("m", "raw", kind="VIEW", inputs={"raw": _OLD}), is_view=True)
    assert _verdicts(_known(view, loads={"raw": _NEW}))["m"].only_audits is True
    table = _model("m", "raw", inputs={"raw": _OLD})
    assert _verdicts(_known(table, loads={"raw": _NEW}))["m"].only_audits is False


def test_a_single_period_of_history_is_left_with_the_reason() -> None:
    """Promise: built again, it would begin without rows; a model by time may be."""
    single = {"m": Table("t1", (_span("2025-01-09", "2025-01-10"),))}
    history = _model("m", "raw", kind="SCD_TYPE_2_BY_TIME", policy="newest", inputs={"raw": _OLD})
    left = _verdicts(_known(history, loads={"raw": _NEW}), single)["m"]
    assert left.left == "it has one interval only: built again, it would begin without rows."
    by_time = _verdicts(_known(_daily(policy="newest"), loads={"raw": _NEW}), single)["m"]
    assert (by_time.rebuild, by_time.left) == ((_span("2025-01-09", "2025-01-10"),), None)


def test_unknown_time_with_nothing_to_build_names_the_input() -> None:
    """Promise: with the run option that says the time."""
    left = _of(_daily(), None, without_range="nothing").left
    assert left == (
        "the time of the new data in `raw` is not known. Launch it with"
        " `build: all`, between `start` and `end`."
    )


def _below(top: Subject, *, recorded: str = "x") -> Subject:
    return replace(
        _daily(), sources=(top.label,), recorded=Recorded({top.label: Input(recorded)}, "t1", 7)
    )


def test_a_model_by_time_passes_its_own_periods_on() -> None:
    """Promise: a day of a monthly table is a month of what reads it."""
    history = _loads(_span("2025-01-05", "2025-01-06"))
    top = replace(_daily(unit="month"), label="top", policy="touched")
    known = _known(top, _below(top), loads={"raw": history[-1]}, history={"raw": history})
    months = Table("t1", (_span("2025-01-01", "2025-02-01"),))
    verdicts = _verdicts(known, {"top": months, "m": months})
    assert [c.spans for c in verdicts["m"].changes] == [(_span("2025-01-01", "2025-02-01"),)]
    assert [c.label for c in verdicts["m"].changes] == ["top"]


def test_a_due_model_above_that_is_left_is_a_change_of_its_reader() -> None:
    """Promise: the clock builds it in this run; only if it is due and selected."""
    top = _model("top", "raw", kind="FULL", policy="nothing", inputs={"raw": _OLD})
    below = _below(top, recorded=contents({"raw": _OLD}))
    loads = {"raw": replace(_NEW, run_id="r")}
    known = _known(top, below, loads=loads, run_id="r")
    due = {"top": replace(_TABLE, is_due=True), "m": _TABLE}
    (change,) = _verdicts(known, due)["m"].changes
    assert (change.label, change.since, change.spans, change.is_new) == ("top", None, None, True)
    assert "m" not in _verdicts(known)
    assert "m" not in _verdicts(replace(known, selected=frozenset({"m"})), due)
    fresh = replace(known, loads={"raw": Load("v1", 1, at=1)})
    assert _verdicts(fresh, due) == {}
    assert [c.is_new for c in _verdicts(replace(known, run_id="other"), due)["m"].changes] == [
        False
    ]


def test_a_table_that_was_built_from_other_data_says_since_when() -> None:
    """Promise: since it was built, by another run; and nothing where either is not known."""
    top = _model("top", "raw", inputs={"raw": Input("v2", 2)})
    known = _known(top, _below(top), loads={"raw": _NEW})
    (change,) = _verdicts(known)["m"].changes
    assert (change.label, change.since, change.is_new) == ("top", 100, False)
    assert _verdicts(_known(top, _below(top, recorded="?"), loads={"raw": _NEW})) == {}
    unrecorded = replace(top, recorded=None)
    loads = {"raw": replace(_NEW, at=50)}
    assert _verdicts(_known(unrecorded, _below(unrecorded), loads=loads)) == {}


def test_a_model_that_is_not_deployed_hides_no_other() -> None:
    """Promise: each is judged for itself."""
    known = _known(
        _model("a", "raw", inputs={"raw": _OLD}),
        _model("b", "raw", inputs={"raw": _OLD}),
        loads={"raw": _NEW},
    )
    assert list(_verdicts(known, {"b": _TABLE})) == ["b"]


def test_only_loads_after_the_recorded_one_count() -> None:
    """Promise: by their place in the log; the recorded one itself brought nothing."""
    history = (
        Load("v0", 1, at=1, span=_span("2025-01-01", "2025-01-02")),
        Load("v1", 2, at=2, span=_span("2025-01-02", "2025-01-03")),
        Load("v1", 3, at=3),
        Load("v2", 4, at=4, span=_span("2025-01-04", "2025-01-05")),
    )
    subject = _daily(recorded=Recorded({"raw": Input("v1", 2)}, "t1", 100))
    known = _known(subject, loads={"raw": history[-1]}, history={"raw": history})
    verdict = _verdicts(known)["m"]
    assert verdict.rebuild == (_span("2025-01-04", "2025-01-05"),)
    assert verdict.changes[0].since == 4


def test_inputs_of_an_unrecorded_model_are_known_by_time_alone() -> None:
    """Promise: the version where it was there before, and else that it is unknown."""
    subject, loads = _model("m", "raw", "more", "none"), {"raw": _NEW, "more": Load("v9", 3, at=50)}
    built = {"raw": Input("?"), "more": Input("v9", 3)}
    assert inputs_before(subject, _TABLE, loads) == built
    nothing = {"raw": Input("?"), "more": Input("?")}
    assert inputs_before(subject, None, loads) == nothing


@pytest.mark.parametrize(
    ("policy", "built", "is_met"),
    [
        ("all", _span("2025-01-01", "2025-01-02"), True),
        ("touched", _span("2025-01-02", "2025-01-04"), False),
        ("touched", _span("2025-01-02", "2025-01-06"), True),
        ("newest", _span("2025-01-02", "2025-01-06"), False),
        ("newest", _span("2025-01-09", "2025-01-10"), True),
    ],
)
def test_a_change_is_in_what_was_built_by_the_models_policy(
    policy: Policy, built: tuple[int, int], is_met: bool
) -> None:
    """Promise: any build, the time that changed, or the newest."""
    subject = _daily(policy=policy)
    verdict = _of(subject, _span("2025-01-03", "2025-01-05"))
    after = inputs_after({"raw": _OLD}, subject, verdict, _TABLE, [built], {"raw": _NEW_INPUT})
    assert after == {"raw": _NEW_INPUT if is_met else _OLD}
    unknown = inputs_after({}, subject, verdict, _TABLE, [], {"raw": _NEW_INPUT})
    assert unknown == {"raw": Input("?")}
    for table in (None, Table("t1")):
        first = inputs_after({}, subject, verdict, table, [built], {"raw": _NEW_INPUT})
        assert first == {"raw": _NEW_INPUT}
