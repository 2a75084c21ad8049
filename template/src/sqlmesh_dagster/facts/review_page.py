"""A review as one page of Markdown: the same in a terminal, in Dagster and in a pull request. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sqlmesh_dagster.definition.markdown import cell, counted, fenced
from sqlmesh_dagster.facts.gates import Stop
from sqlmesh_dagster.facts.plan_summary import table
from sqlmesh_dagster.facts.review import (
    CheckReview,
    ColumnProfile,
    ModelReview,
    Profile,
    Review,
    Touched,
)

MARK = "<!-- sqlmesh_dagster review -->"
"""The first line of the page: a comment that begins with it is brought up to date in place."""
_LATE = "The environment is built. What comes after a plan, such as `after_all`, failed in it:"
_MOST_COLUMNS = 30
_NONE = "-"


def page(review: Review, stops: Sequence[Stop]) -> str:
    """All of it; long tables and diffs are cut, and say so."""
    return "\n\n".join([MARK, *_sections(review, stops)])


def _sections(review: Review, stops: Sequence[Stop]) -> Iterator[str]:
    yield f"## Review of environment `{review.environment}`"
    yield _verdict(review, stops)
    if review.late_failure:
        yield _LATE
        yield fenced(review.late_failure)
    yield from _changes(review)
    yield from _data(review.models)
    yield from _touched(review.touched)
    yield from _checks(review)
    if not review.problem:
        yield from _cost(review)
    yield from review.plan.text_diffs()


def _verdict(review: Review, stops: Sequence[Stop]) -> str:
    commit = f" Commit `{review.commit[:12]}`." if review.commit else ""
    if review.problem:
        lines = "".join(f"\n- {stop}" for stop in stops)
        return (
            f"{_differ(len(review.plan.changes))} from `{review.against}`. **The environment could not"
            f" be built**, so that nothing is known of their data.{commit}\n"
            f"{lines}\n\n{fenced(review.problem)}"
        )
    if not review.models and review.plan.is_empty:
        return f"Nothing differs from `{review.against}`.{commit}"
    number = sum(t.is_touched for t in review.touched)
    moved = sum(m.is_touched for m in review.models)
    what = (
        f"{_differ(len(review.models))} from `{review.against}`{_moved(moved, len(review.models))}."
        f" {number} of {len(review.touched)} readers are touched.{commit}"
    )
    if not stops:
        return f"{what}\n\n**Nothing stops a promotion.**"
    lines = "\n".join(f"- {stop}" for stop in stops)
    return f"{what}\n\n**A promotion is stopped:**\n\n{lines}"


def _moved(moved: int, of: int) -> str:
    """Of how many of the models that differ the data do, too."""
    whose = "its" if of == 1 else "their"
    if moved in (0, of):
        return f", and so do {whose} data" if moved else f"; {whose} data are equal"
    return f"; the data of {moved} of them {'differs' if moved == 1 else 'differ'}"


def _changes(review: Review) -> Iterator[str]:
    if review.plan.changes:
        yield "### Changes"
        yield table(
            ("model", "change", "category"),
            [(c.name, c.kind, c.category) for c in review.plan.changes],
        )


def _data(models: Sequence[ModelReview]) -> Iterator[str]:
    read = [model for model in models if not model.is_same_table]
    if not models:
        return
    yield "### Data"
    if read:
        yield table(
            ("model", "rows before", "after", "only before", "only after", "equal rows"),
            [_row(model) for model in read],
        )
    same = [model.name for model in models if model.is_same_table]
    if same:
        names = ", ".join(f"`{name}`" for name in same[:20]) + (", …" if len(same) > 20 else "")
        yield f"The same table as before, so that nothing of it differs: {names}."
    for model in read:
        yield from _details(model)


def _row(model: ModelReview) -> tuple[str, ...]:
    found = model.comparison
    return (
        model.name,
        _number(model.rows_before),
        _number(model.rows_after),
        _number(found.only_before if found else None),
        _number(found.only_after if found else None),
        _percent(found.equal_percent) if found else _NONE,
    )


def _details(model: ModelReview) -> Iterator[str]:
    parts = list(_parts(model))
    if parts:
        yield f"#### `{model.name}`"
        yield from parts


def _parts(model: ModelReview) -> Iterator[str]:
    if model.scope:
        yield f"Compared: {model.scope}."
    if model.columns:
        yield table(
            ("column", "change", "before", "after"),
            [(c.name, c.fate, c.before or "", c.after or "") for c in model.columns],
        )
    moved = model.comparison.moved if model.comparison else ()
    if moved:
        by = ", ".join(f"`{name}`" for name in model.comparison.key) if model.comparison else ""
        yield f"Values of rows with the same {by}; columns that are not named are equal."
        rows = [(c.name, _percent(c.percent), _number(c.matched - c.equal)) for c in moved]
        yield table(("column", "equal values", "rows that differ"), rows[:_MOST_COLUMNS])
        if len(rows) > _MOST_COLUMNS:
            yield f"… and {counted(len(rows) - _MOST_COLUMNS, 'more column')}"
    if model.profiles:
        yield table(
            ("column", "nulls", "distinct", "minimum", "maximum"),
            [_profile(profile) for profile in model.profiles[:_MOST_COLUMNS]],
        )
    if model.samples:
        columns = tuple(model.samples[0])
        yield table(columns, [tuple(row.get(c, "") for c in columns) for row in model.samples])
    yield from model.notes


def _profile(column: ColumnProfile) -> tuple[str, ...]:
    sides = (column.before, column.after)

    def both(of: str) -> str:
        shown = [_fact(side, of) for side in sides]
        return shown[0] if shown[0] == shown[1] else f"{shown[0]} → {shown[1]}"

    return (column.name, *map(both, ("nulls", "distinct", "minimum", "maximum")))


def _fact(side: Profile | None, of: str) -> str:
    if side is None:
        return _NONE
    facts: dict[str, int | str | None] = {
        "nulls": side.nulls,
        "distinct": side.distinct,
        "minimum": side.minimum,
        "maximum": side.maximum,
    }
    value = facts[of]
    return _NONE if value is None else f"{value:,}" if isinstance(value, int) else value


def _touched(found: Sequence[Touched]) -> Iterator[str]:
    if not found:
        return
    yield "### Who is touched"
    reached = [t for t in found if t.is_touched]
    if reached:
        yield table(
            ("who", "", "reads what is removed or retyped", "reads what else changed"),
            [(t.reader.name, _kind(t), _names(t.lost), _names(t.changed)) for t in reached],
        )
        if any(not t.is_certain for t in reached):
            yield "(?) Which columns it reads is not known, so that any of them may be meant."
    spared = [f"{t.reader.kind} `{t.reader.name}`" for t in found if not t.is_touched]
    if spared:
        more = f" and {len(spared) - 50} more" if len(spared) > 50 else ""
        yield f"Downstream of the change, and not touched: {', '.join(spared[:50])}{more}."


def _kind(touched: Touched) -> str:
    owner = f", {touched.reader.owner}" if touched.reader.owner else ""
    return f"{touched.reader.kind}{owner}{'' if touched.is_certain else ' (?)'}"


def _names(names: Sequence[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _checks(review: Review) -> Iterator[str]:
    tests = review.plan.unit_tests
    if not review.checks and not tests:
        return
    yield "### Checks"
    told = [c for c in review.checks if c.fate != "passing"]
    if told:
        order = ("newly failing", "newly passing", "still failing", "unknown", "removed")
        told.sort(key=lambda c: (order.index(c.fate), c.model, c.kind, c.name))
        header = ("model", "check", "", "found before", "after")
        yield table(header, [_check(c) for c in told])
    passing = [c for c in review.checks if c.fate == "passing"]
    audits = sum(c.kind == "audit" for c in passing)
    passing_audits = f"{counted(audits, 'audit')} pass{'es' if audits == 1 else ''} as before."
    yield f"{passing_audits} {_code(review)}"


def _differ(models: int) -> str:
    return f"{counted(models, 'model')} {'differs' if models == 1 else 'differ'}"


def _code(review: Review) -> str:
    """Unit tests and linter, in a sentence."""
    tests = review.plan.unit_tests
    failing = [c for c in review.checks if c.kind != "audit" and c.after and c.blocking]
    failed = sum(c.kind == "unit test" for c in failing)
    errors = sum((c.after or 0) for c in failing if c.kind == "linter")
    of_tests = (
        f"{failed} of {tests} unit tests fail"
        if failed
        else f"{counted(tests, 'unit test')} passed"
    )
    of_linter = f"finds {counted(errors, 'error')}" if errors else "found no error"
    return f"{of_tests}, and the linter {of_linter}."


def _check(check: CheckReview) -> tuple[str, ...]:
    fate = f"{check.fate}{'' if check.blocking else ', a warning'}"
    name = check.name if check.kind == "audit" else f"{check.kind}: {check.name}"
    if check.kind == "unit test":
        return (check.model, name, fate, _verdict_of(check.before), _verdict_of(check.after))
    after = cell(check.problem) if check.problem else _number(check.after)
    return (check.model, name, fate, _number(check.before), after)


def _verdict_of(found: int | None) -> str:
    return _NONE if found is None else "fails" if found else "passes"


def _cost(review: Review) -> Iterator[str]:
    yield "### Cost of a promotion"
    if review.costs:
        yield table(
            ("model", "to build", "intervals", "rows, about", "seconds, about"),
            [
                (c.name, c.what, _number(c.intervals), _number(c.rows), _seconds(c.seconds))
                for c in review.costs
            ],
        )
    unknown = sum(c.seconds is None for c in review.costs)
    total = f"About {_seconds(review.seconds)} seconds" if review.costs else "Nothing to build"
    if review.costs and review.seconds is None:
        total = "How long it takes is not known: nothing of it was built before"
    elif unknown:
        total += f", and {counted(unknown, 'model')} of which nothing is known"
    built = _seconds(review.built_seconds)
    here = f" Building this environment took {built} seconds." if review.built_seconds else ""
    used = f"{counted(review.reused, 'model')} {'is used as it is' if review.reused == 1 else 'are used as they are'}"
    yield f"{total}; {used}.{here}"


def _number(value: int | None) -> str:
    return _NONE if value is None else f"{value:,}"


def _percent(value: float) -> str:
    """Never 100 where something differs, nor 0 where something is equal."""
    if value in (0.0, 100.0):
        return f"{value:.0f} %"
    return f"{min(max(value, 0.01), 99.99):.2f} %"


def _seconds(value: float | None) -> str:
    return _NONE if value is None else f"{value:,.1f}"
