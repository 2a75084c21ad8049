"""What stops a promotion: compares a review with the owner's rules. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sqlmesh_dagster.definition.markdown import counted
from sqlmesh_dagster.facts.review import CheckReview, Review, Touched


@dataclass(frozen=True)
class Gates:
    """The owner's rules; None switches one off.

    Attributes:
        removed_columns: Whether a removed column that somebody reads stops a promotion.
        retyped_columns: The same of a column with another type.
        fewer_rows_percent: More than that many per cent of a model's rows gone.
        failing_checks: Whether a newly failing check does, or what comes after a plan.
        cost_minutes: An estimate above that.
        require_review: Whether a promotion needs a review at all.
        override_by: Who may promote all the same; nobody if it is empty.
    """

    removed_columns: bool = True
    retyped_columns: bool = False
    fewer_rows_percent: float | None = 5.0
    failing_checks: bool = True
    cost_minutes: float | None = None
    require_review: bool = False
    override_by: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stop:
    """A rule that a change breaks.

    Attributes:
        rule: As it is named in the owner's file.
        text: What breaks it, in a sentence.
    """

    rule: str
    text: str

    def __str__(self) -> str:
        return f"`{self.rule}`: {self.text}"


def stops(gates: Gates, review: Review) -> tuple[Stop, ...]:
    """Every rule that the change breaks, in the order of the file."""
    return (
        *_lost(gates, review),
        *_rows(gates, review),
        *_checks(gates, review),
        *_cost(gates, review),
    )


def _lost(gates: Gates, review: Review) -> Iterator[Stop]:
    rules = {"removed": gates.removed_columns, "retyped": gates.retyped_columns}
    for model in review.models:
        for change in model.columns:
            name = f"{model.name}.{change.name}"
            readers = [t for t in review.touched if name in t.lost]
            if readers and rules.get(change.fate):
                text = f"`{name}` is {change.fate}, and {_read_it(readers)}."
                yield Stop(f"{change.fate}_columns", text)
        if model.change == "removed" and gates.removed_columns:
            readers = [t for t in review.touched if model.name in t.reader.reads]
            if readers:
                text = f"`{model.name}` is removed, and {_read_it(readers)}."
                yield Stop("removed_columns", text)


def _read_it(readers: Sequence[Touched]) -> str:
    shown = ", ".join(f"{t.reader.kind} `{t.reader.name}`" for t in readers[:5])
    more = f" and {len(readers) - 5} more" if len(readers) > 5 else ""
    may = "" if any(t.is_certain for t in readers) else "may "
    return f"{shown}{more} {may}{'read' if may or len(readers) > 1 else 'reads'} it"


def _rows(gates: Gates, review: Review) -> Iterator[Stop]:
    most = gates.fewer_rows_percent
    for model in review.models if most is not None else ():
        if most is not None and model.fewer_rows_percent > most:
            yield Stop(
                "fewer_rows_percent",
                f"`{model.name}` has {model.fewer_rows_percent:.1f} % fewer rows:"
                f" {model.rows_after:,} in place of {model.rows_before:,}; {most:g} % are allowed.",
            )


def _checks(gates: Gates, review: Review) -> Iterator[Stop]:
    for check in review.checks if gates.failing_checks else ():
        if check.fate == "newly failing" and not check.is_warning_of_linter:
            found = _in_a_sentence(check.problem or _found(check))
            yield Stop("failing_checks", f"`{check.name}` of `{check.model}` newly fails: {found}.")
    if review.late_failure and gates.failing_checks:
        found = _in_a_sentence(review.late_failure)
        yield Stop(
            "failing_checks", f"What comes after a plan, such as `after_all`, fails: {found}."
        )


def _in_a_sentence(text: str) -> str:
    return " ".join(text.split()).removesuffix(".")


def _found(check: CheckReview) -> str:
    if check.kind == "unit test":
        return "the unit test fails"
    if check.kind == "audit":
        return f"finds {counted(check.after or 0, 'row')}"
    return f"finds {counted(check.after or 0, 'place')}, as the linter says"


def _cost(gates: Gates, review: Review) -> Iterator[Stop]:
    if gates.cost_minutes is None:
        return
    seconds = review.seconds
    if seconds is not None and seconds > 60 * gates.cost_minutes:
        text = f"The promotion builds for about {seconds / 60:.1f} minutes"
        yield Stop("cost_minutes", f"{text}; {gates.cost_minutes:g} are allowed.")
