"""Whether a model is stale, and what of it is built again: the rule, as pure functions.

A model is stale when an input has changed since the model was last built:

| input                                  | is another one when                                     |
|----------------------------------------|---------------------------------------------------------|
| an asset outside SQLMesh               | its data version is not the recorded one                |
| the same, and nothing was recorded     | that version was first loaded after the model was built |
| a model that is a table                | this run builds it again, or what *it* contains differs |
| a view                                 | never itself: what it reads counts                      |

What is built of a stale model is its policy, which follows from its kind; see `new_data`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone

from sqlmesh_dagster.definition.new_data import Policy, policies_of
from sqlmesh_dagster.definition.partitions import Interval, merged
from sqlmesh_dagster.options import Build
from sqlmesh_dagster.settings import WithoutRange

_FOR_THE_CLOCK = (
    "`build: due` builds only what is due by cron. Launch it with `build: stale` to build it now."
)
UNKNOWN = "?"
"""The version of an input that existed, if the version is not known."""


@dataclass(frozen=True)
class Load:
    """An asset outside SQLMesh, as it was materialized or observed at one time.

    Attributes:
        version: Its data version.
        pointer: Place of the event in Dagster's log.
        at: Epoch milliseconds.
        run_id: The Dagster run that loaded it.
        span: The time that the loaded rows are of, if the asset says so.
        since: When this version was first loaded, and no other after it; None if that is this load.
    """

    version: str
    pointer: int
    at: int
    run_id: str = ""
    span: Interval | None = None
    since: int | None = None


@dataclass(frozen=True)
class Input:
    """One input as a model was built from it; the `version` of a model covers its inputs, too."""

    version: str
    pointer: int = 0


Inputs = Mapping[str, Input]
"""By label; a label is an asset key as the UI shows it."""


@dataclass(frozen=True)
class Recorded:
    """What Dagster knows of a model's last build.

    Attributes:
        table: SQLMesh's version of the table that the record is of.
        at: Epoch milliseconds.
    """

    inputs: Inputs
    table: str | None
    at: int


@dataclass(frozen=True)
class Subject:
    """A model, as the project's files and Dagster know it.

    Attributes:
        label: Its asset key.
        sources: Labels of the tables that it reads, views looked through.
        unit: SQLMesh's interval unit.
    """

    label: str
    fqn: str
    kind: str
    sources: tuple[str, ...]
    policy: Policy
    unit: str = "day"
    is_view: bool = False
    recorded: Recorded | None = None


@dataclass(frozen=True)
class Table:
    """The same model, as SQLMesh's state knows it.

    Attributes:
        version: SQLMesh's version of its table.
        built_at: When its data last changed, epoch milliseconds.
        done: What is recorded as done.
        is_due: Whether it is due by cron.
        is_restatable: Whether SQLMesh may build all of it again when it is asked to.
        refusal: Why nothing of it may be built again, and what to do.
    """

    version: str | None
    done: tuple[Interval, ...] = ()
    built_at: int | None = None
    is_due: bool = False
    is_restatable: bool = True
    refusal: str | None = None

    @property
    def whole(self) -> tuple[Interval, ...]:
        """From the begin of what is done to its end."""
        return ((self.done[0][0], self.done[-1][1]),) if self.done else ()


@dataclass(frozen=True)
class Change:
    """An input that has changed since the model was built.

    Attributes:
        since: Epoch milliseconds; None where this run changes it.
        spans: The time that changed; None if nobody knows.
        is_new: Whether this run made the change.
    """

    label: str
    since: int | None
    spans: tuple[Interval, ...] | None
    is_new: bool


@dataclass(frozen=True)
class Verdict:
    """What is done with one model because of its inputs.

    Attributes:
        rebuild: The time to be built again; empty for none.
        only_audits: Whether its audits run, and nothing is built.
        left: Why a stale model is not built, and how to build it now; sentences, the first without
            its begin.
    """

    changes: tuple[Change, ...] = ()
    rebuild: tuple[Interval, ...] = ()
    only_audits: bool = False
    left: str | None = None


@dataclass(frozen=True)
class Known:
    """What is known before SQLMesh is asked; labels are asset keys as the UI shows them.

    Attributes:
        subjects: The selected models and the tables that they read, by label, upstream first.
        selected: Labels.
        loads: The assets outside SQLMesh as they are now.
        history: What was loaded of them since the oldest record, oldest first.
        run_id: The Dagster run that asks.
    """

    subjects: Mapping[str, Subject]
    selected: frozenset[str]
    loads: Mapping[str, Load]
    history: Mapping[str, tuple[Load, ...]] = field(default_factory=dict)
    run_id: str = ""
    build: Build = "stale"
    without_range: WithoutRange = "newest"


def contents(inputs: Inputs) -> str:
    """A version of a model's content, which changes when it is built from other inputs."""
    text = json.dumps(sorted((label, made_of.version) for label, made_of in inputs.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def judge(known: Known, tables: Mapping[str, Table]) -> dict[str, Verdict]:
    """The verdict on each stale model. Only selected ones are built again, or left for a reason.

    Args:
        tables: Of all subjects that are deployed.
    """
    verdicts: dict[str, Verdict] = {}
    for label, subject in known.subjects.items():
        table = tables.get(label)
        if table is None or not table.done:
            continue
        changes = tuple(_changes(subject, table, known, tables, verdicts))
        if changes and label in known.selected:
            verdicts[label] = _verdict(subject, table, changes, known)
        elif changes:
            verdicts[label] = Verdict(changes)
    return verdicts


def inputs_before(subject: Subject, table: Table | None, loads: Mapping[str, Load]) -> Inputs:
    """What the model was last built from; by time if nothing is recorded of its table."""
    recorded = subject.recorded
    if recorded is not None and table is not None and recorded.table == table.version:
        return recorded.inputs
    built_at = table.built_at if table is not None else None
    return {
        label: Input(load.version, load.pointer)
        if built_at is not None and (load.at if load.since is None else load.since) <= built_at
        else Input(UNKNOWN)
        for label in subject.sources
        if (load := loads.get(label)) is not None
    }


def inputs_after(
    before: Inputs,
    subject: Subject,
    verdict: Verdict,
    table: Table | None,
    built: Iterable[Interval],
    now: Inputs,
) -> Inputs:
    """What the model is built from, after these intervals of it were built.

    If a change begins before the intervals that were built, it is not in it: the model stays stale.

    Args:
        before: What it was built from until then.
        now: Every input as it is now.
    """
    covered = merged(built)
    unmet = {c.label for c in verdict.changes if not _is_met(c, covered, subject, table)}
    after = {label: now[label] for label in subject.sources if label in now and label not in unmet}
    return {**{label: before.get(label, Input(UNKNOWN)) for label in unmet}, **after}


def _is_met(
    change: Change, covered: Sequence[Interval], subject: Subject, table: Table | None
) -> bool:
    """Whether what was built includes a change: all intervals that changed, or else the newest."""
    if subject.policy == "all" or table is None or not table.done:
        return bool(covered)
    if change.spans is not None and subject.policy != "newest":
        return all(_lies_in(span, covered) for span in _touched(change.spans, subject, table))
    return bool(covered) and covered[-1][1] >= table.done[-1][1]


def widened(span: Interval, unit: str) -> Interval:
    """The whole intervals of a unit, in UTC, that a span touches."""
    return _floor(span[0], unit), _ceiling(span[1], unit)


def _changes(
    subject: Subject,
    table: Table,
    known: Known,
    tables: Mapping[str, Table],
    verdicts: Mapping[str, Verdict],
) -> Iterable[Change]:
    before = inputs_before(subject, table, known.loads)
    for label in subject.sources:
        model = known.subjects.get(label)
        if model is None:
            change = _loaded(label, before.get(label), known)
        else:
            change = _rebuilt(model, before.get(label), known, tables, verdicts.get(label))
        if change is not None:
            yield change


def _loaded(label: str, before: Input | None, known: Known) -> Change | None:
    """The change of an asset outside SQLMesh since the model was built."""
    now = known.loads.get(label)
    if now is None or (before is not None and before.version == now.version):
        return None
    new = list(_new_loads(before, known.history.get(label) or (now,)))
    spans = [load.span for load in new if load.span is not None]
    is_told = before is not None and before.version != UNKNOWN and len(spans) == len(new)
    return Change(
        label=label,
        since=min((load.at for load in new), default=now.at),
        spans=tuple(merged(spans)) if is_told else None,
        is_new=now.run_id == known.run_id,
    )


def _new_loads(before: Input | None, history: Sequence[Load]) -> Iterable[Load]:
    """The loads with other data than the load before."""
    version = before.version if before else None
    for load in history:
        if (before is None or load.pointer > before.pointer) and load.version != version:
            yield load
        if before is None or load.pointer > before.pointer:
            version = load.version


def _rebuilt(
    model: Subject,
    before: Input | None,
    known: Known,
    tables: Mapping[str, Table],
    verdict: Verdict | None,
) -> Change | None:
    """The change of a table that SQLMesh builds since the model was built."""
    table = tables.get(model.label)
    if verdict is not None and verdict.rebuild:
        return Change(model.label, None, _passed_on(model, verdict), is_new=_is_new(verdict))
    is_selected = model.label in known.selected
    if is_selected and verdict is not None and table is not None and table.is_due:
        return Change(model.label, None, None, is_new=_is_new(verdict))
    if before is None or before.version == UNKNOWN or model.recorded is None:
        return None
    if before.version == contents(model.recorded.inputs):
        return None
    return Change(model.label, model.recorded.at, None, is_new=False)


def _is_new(verdict: Verdict) -> bool:
    return any(change.is_new for change in verdict.changes)


def _passed_on(model: Subject, verdict: Verdict) -> tuple[Interval, ...] | None:
    """The time of a model's rows that are built again."""
    spans = [change.spans for change in verdict.changes]
    given = [span for each in spans if each is not None for span in each]
    if len([each for each in spans if each is not None]) < len(spans):
        return None
    is_by_time = model.kind == "INCREMENTAL_BY_TIME_RANGE"
    return (
        tuple(merged(widened(span, model.unit) for span in given)) if is_by_time else tuple(given)
    )


def _verdict(subject: Subject, table: Table, changes: tuple[Change, ...], known: Known) -> Verdict:
    if known.build == "due" and not any(change.is_new for change in changes):
        return Verdict(changes, left=_FOR_THE_CLOCK)
    if table.refusal:
        return Verdict(changes, left=table.refusal)
    if subject.policy == "nothing":
        return Verdict(changes, left=_why_not(subject, table))
    rebuild, left = _again(subject, table, changes, known.without_range)
    return Verdict(changes, rebuild, only_audits=subject.is_view and bool(rebuild), left=left)


def _again(
    subject: Subject, table: Table, changes: Sequence[Change], without_range: WithoutRange
) -> tuple[tuple[Interval, ...], str | None]:
    """What is built again, or why nothing is."""
    if subject.policy == "all":
        return table.whole, None
    wanted: list[Interval] = []
    left = None
    for change in changes:
        if subject.policy == "touched" and change.spans is not None:
            wanted.extend(_touched(change.spans, subject, table))
        elif subject.policy == "touched" and without_range == "nothing":
            left = (
                f"the time of the new data in `{change.label}` is not known. Launch it with"
                " `build: all`, between `start` and `end`."
            )
        elif newest := _newest(subject, table):
            wanted.append(newest)
        else:
            left = "it has one interval only: built again, it would begin without rows."
    return tuple(merged(wanted)), None if wanted else left


def _why_not(subject: Subject, table: Table) -> str:
    others = [policy for policy in policies_of(subject.kind)[1:] if policy != "nothing"]
    tag = f"`dagster:new_data:{others[0]}`" if others else None
    if policies_of(subject.kind)[0] != "nothing":
        reason = "its tag `dagster:new_data:nothing` says so."
    else:
        reason = f"only you can know whether a model of kind {subject.kind} may be built again."
    now = " Launch it with `build: all` to build all of it now." if table.is_restatable else ""
    always = f" The tag {tag} lets each run take new data." if tag else ""
    return f"{reason}{now}{always}"


def _touched(
    spans: Iterable[Interval], subject: Subject, table: Table | None
) -> Iterable[Interval]:
    """The whole intervals of these times that are done; those that are not done are due anyway."""
    for span in merged(widened(span, subject.unit) for span in spans):
        for low, high in table.done if table else ():
            if max(low, span[0]) < min(high, span[1]):
                yield max(low, span[0]), min(high, span[1])


def _newest(subject: Subject, table: Table) -> Interval | None:
    """The newest interval that is done; SQLMesh adds those of the model's `lookback`. None if it is
    the only one, and the model would begin again without rows.
    """
    first, end = table.done[0][0], table.done[-1][1]
    low = _floor(end - 1, subject.unit)
    is_by_time = subject.kind == "INCREMENTAL_BY_TIME_RANGE"
    return (max(low, first), end) if is_by_time or low > first else None


def _lies_in(span: Interval, covered: Collection[Interval]) -> bool:
    return any(low <= span[0] and span[1] <= high for low, high in covered)


_STEPS = {
    "day": timedelta(days=1),
    "hour": timedelta(hours=1),
    "half_hour": timedelta(minutes=30),
    "quarter_hour": timedelta(minutes=15),
    "five_minute": timedelta(minutes=5),
}
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def _floor(at: int, unit: str) -> int:
    moment = _EPOCH + timedelta(milliseconds=at)
    if unit == "year":
        return _milliseconds(datetime(moment.year, 1, 1, tzinfo=timezone.utc))
    if unit == "month":
        return _milliseconds(datetime(moment.year, moment.month, 1, tzinfo=timezone.utc))
    step = int(_STEPS[unit] / timedelta(milliseconds=1))
    return at - at % step


def _ceiling(at: int, unit: str) -> int:
    floor = _floor(at, unit)
    if floor == at:
        return at
    longest = {"year": timedelta(days=366), "month": timedelta(days=31), **_STEPS}[unit]
    return _floor(floor + int(longest / timedelta(milliseconds=1)), unit)


def _milliseconds(moment: datetime) -> int:
    return round((moment - _EPOCH) / timedelta(milliseconds=1))
