"""Two tables, compared by the database: only numbers leave it, whatever their size.

Nothing is written: `Context.table_diff` makes a table in the warehouse, has no bound on what it reads, and
needs a grain that is unique. Importing this module imports SQLMesh.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from sqlglot import exp
from sqlglot.dialects.dialect import Dialect, NormalizationStrategy

from sqlmesh_dagster.facts.review import (
    ColumnChange,
    ColumnEquality,
    ColumnProfile,
    Profile,
    RowComparison,
)
from sqlmesh_dagster.upstream.internals import EngineAdapter

_Kind = Literal["number", "time", "text", "truth", "other"]
_KINDS: tuple[tuple[_Kind, frozenset[exp.DType]], ...] = (
    ("number", frozenset(exp.DataType.NUMERIC_TYPES)),
    ("time", frozenset(exp.DataType.TEMPORAL_TYPES)),
    ("text", frozenset(exp.DataType.TEXT_TYPES)),
    ("truth", frozenset({exp.DataType.Type.BOOLEAN})),
)
_OF_DAY = frozenset({exp.DType.TIME, exp.DType.TIMETZ})
"""Times without a date."""
_MOST_DIGITS = 38
_LONG_INTEGER = 20
"""Digits of a 64-bit integer."""
_VERY_LONG = frozenset({exp.DType.INT128, exp.DType.INT256, exp.DType.UINT128, exp.DType.UINT256})
"""As DuckDB's sums have them."""
_CASELESS = (
    NormalizationStrategy.CASE_INSENSITIVE,
    NormalizationStrategy.CASE_INSENSITIVE_UPPERCASE,
)
_CASELESS_COLUMNS = ("athena", "mysql", "doris", "starrocks")
"""Whose tables' names may have a case, and columns' names have none."""
_FLOATS = exp.DataType.FLOAT_TYPES | {exp.DType.UDOUBLE, exp.DType.DECFLOAT}
_HIDDEN = "***"
_SIDES: tuple[Literal["b", "a"], ...] = ("b", "a")
"""Before and after, as the queries name them."""


@dataclass(frozen=True)
class Table:
    """A table with its columns, as the database has them."""

    name: exp.Table
    columns: Mapping[str, exp.DataType]
    dialect: str

    @property
    def has_caseless_columns(self) -> bool:
        """Whether the engine takes `Amount` and `amount` for one column, also in quotes."""
        strategy = Dialect.get_or_raise(self.dialect).normalization_strategy
        return strategy in _CASELESS or self.dialect in _CASELESS_COLUMNS

    def type_of(self, name: str) -> str:
        """Of a column, in the database's words."""
        return self.columns[name].sql(dialect=self.dialect)

    def kind_of(self, name: str) -> _Kind:
        """What can be done with a column."""
        found = self.columns[name].this
        return next((kind for kind, types in _KINDS if found in types), "other")


@dataclass(frozen=True)
class Limits:
    """What may be read and shown.

    Attributes:
        rows: Tables with more are compared in part.
        samples: Rows that differ and are shown.
        is_masked: Whether no value of a column may be shown.
    """

    rows: int
    samples: int = 0
    is_masked: Callable[[str], bool] = lambda column: False


@dataclass(frozen=True)
class Measured:
    """The numbers of two tables."""

    rows_before: int
    rows_after: int
    comparison: RowComparison | None = None
    profiles: tuple[ColumnProfile, ...] = ()
    notes: tuple[str, ...] = ()
    scope: str = ""
    samples: tuple[Mapping[str, str], ...] = ()


@dataclass(frozen=True)
class Part:
    """A part of both tables, in words and as a condition."""

    text: str
    where: exp.Expr


@dataclass(frozen=True)
class Comparison:
    """Two tables of one model.

    Attributes:
        key: The columns that tell its rows apart, as the model says.
        part: What of them has to do with each other; None for all.
        newest: Gives the newest part, of about that share of the rows; None where it has no time.
    """

    adapter: EngineAdapter
    before: Table
    after: Table
    limits: Limits
    key: tuple[str, ...] = ()
    part: Part | None = None
    newest: Callable[[float], Part] | None = None
    notes: list[str] = field(default_factory=list)

    def measure(self) -> Measured:
        """All that is to be known of the two."""
        rows_before, rows_after = self._rows(self.before, None), self._rows(self.after, None)
        most = max(
            (rows_before, rows_after)
            if self.part is None
            else (self._rows(t, self.part) for t in (self.before, self.after))
        )
        part, is_large = self.part, most > self.limits.rows
        if is_large and self.newest is not None:
            part, is_large = self.newest(self.limits.rows / most), False
        key = self._unique_key(part)
        scope = part.text if part else ""
        profiles: tuple[ColumnProfile, ...] = ()
        samples: tuple[Mapping[str, str], ...] = ()
        comparison: RowComparison | None = None
        if key:
            comparison = self._by_key(key, part, is_large)
            if is_large:
                scope = f"a sample, of {self.limits.rows:,} keys of each side" + (
                    f", of {scope}" if scope else ""
                )
            if self.limits.samples and not is_large:
                samples = tuple(self._samples(key, part, comparison))
        else:
            profiles = tuple(self._profiles(part, is_large))
            if is_large:
                self.notes.append(
                    f"More than {self.limits.rows:,} rows and no key: only counts are compared."
                )
            else:
                comparison = self._whole(part)
        if self._is_in_another_order():
            self.notes.append("The columns that both have are in another order.")
        return Measured(
            rows_before, rows_after, comparison, profiles, tuple(self.notes), scope, samples
        )

    @property
    def shared(self) -> tuple[tuple[str, str], ...]:
        """Pairs of the names of each column that both have."""
        return tuple(_pairs(self.before, self.after))

    def _is_in_another_order(self) -> bool:
        """Whether who reads columns by their place reads others."""
        order = list(self.after.columns)
        places = [order.index(after) for _, after in self.shared]
        return places != sorted(places)

    # ------------------------------------------------------------------ how rows are told apart

    def _unique_key(self, part: Part | None) -> tuple[tuple[str, str], ...]:
        """The key, if it tells rows apart on both sides; what is wrong with it is noted."""
        if not self.key:
            self.notes.append(
                "The model has no `grain`: with one, rows are matched and each column is compared."
            )
            return ()
        by_name = {b.lower(): (b, a) for b, a in self.shared} | {b: (b, a) for b, a in self.shared}
        found = [by_name.get(name) or by_name.get(name.lower()) for name in self.key]
        lacking = [name for name, pair in zip(self.key, found, strict=True) if pair is None]
        if lacking:
            names = ", ".join(f"`{name}`" for name in lacking)
            self.notes.append(f"Rows cannot be matched: {names} of the grain is not on both sides.")
            return ()
        pairs = tuple(pair for pair in found if pair is not None)
        doubled = [
            (side, count)
            for side, table, place in (("before", self.before, 0), ("after", self.after, 1))
            if (count := self._doubled(table, [pair[place] for pair in pairs], part))
        ]
        if doubled:
            names = ", ".join(f"`{name}`" for name in self.key)
            told = " and ".join(f"{count:,} values of it {side}" for side, count in doubled)
            self.notes.append(
                f"**The grain {names} is not unique**: several rows share {told}. So rows are compared"
                " whole."
            )
            return ()
        return pairs

    def _doubled(self, table: Table, names: Sequence[str], part: Part | None) -> int:
        keys = [_column(name) for name in names]
        groups = _select(table, [exp.alias_(exp.Literal.number(1), "one")], part).group_by(*keys)
        groups = groups.having(exp.GT(this=_count(), expression=exp.Literal.number(1)))
        return self._number(exp.select(_count()).from_(groups.subquery("doubled")))

    # ------------------------------------------------------------------ comparing

    def _by_key(
        self, key: Sequence[tuple[str, str]], part: Part | None, is_large: bool
    ) -> RowComparison:
        rest = [pair for pair in self.shared if pair not in key]
        equal = [_equal(f"c_{number}") for number in range(len(rest))]
        both = exp.and_(_is_there("b"), _is_there("a"))
        row = self._row(
            exp.select(
                exp.Count(this=exp.column("here", "b")),
                exp.Count(this=exp.column("here", "a")),
                _sum(both),
                _sum(exp.and_(both, *equal)),
                *(_sum(exp.and_(both, each)) for each in equal),
            )
            .from_(self._side("b", key, rest, part, is_large))
            .join(self._side("a", key, rest, part, is_large), on=_same_key(key), join_type="full")
        )
        before, after, matched, whole, *each = row
        return RowComparison(
            key=tuple(b for b, _ in key),
            compared_before=before,
            compared_after=after,
            only_before=before - matched,
            only_after=after - matched,
            equal=whole,
            columns=tuple(
                ColumnEquality(a, matched, count) for (_, a), count in zip(rest, each, strict=True)
            ),
        )

    def _side(
        self,
        alias: Literal["b", "a"],
        key: Sequence[tuple[str, str]],
        rest: Sequence[tuple[str, str]],
        part: Part | None,
        is_large: bool,
    ) -> exp.Subquery:
        """One side: `here`, the key's columns as `k_0`, `n_0` …, and the others as `c_0` …"""
        rows = self._keyed(alias, key, rest, part)
        if not is_large:
            return rows.subquery(alias)
        chosen = exp.union(*(self._chosen(a, key, part) for a in _SIDES), distinct=True)
        names = [exp.column(c.alias, "r") for c in rows.expressions]
        on = exp.and_(*(exp.column(n, "r").eq(exp.column(n, "s")) for n in _key_names(key)))
        return (
            exp.select(*names)
            .from_(rows.subquery("r"))
            .join(chosen.subquery("s"), on=on)
            .subquery(alias)
        )

    def _chosen(
        self, alias: Literal["b", "a"], key: Sequence[tuple[str, str]], part: Part | None
    ) -> exp.Select:
        """As many keys as a sample has, by their hash: the same ones wherever they are."""
        names = _key_names(key)
        texts: list[exp.Expr] = [exp.column(name) for name in names if name.startswith("k_")]
        whole = texts[0]
        for text in texts[1:]:
            whole = exp.DPipe(this=whole, expression=text, safe=True)
        inner = (
            exp.select(*names)
            .from_(self._keyed(alias, key, (), part).subquery("keyed"))
            .order_by(exp.MD5(this=whole), *names)
            .limit(self.limits.rows)
        )
        return exp.select(*names).from_(inner.subquery("first"))

    def _keyed(
        self,
        alias: Literal["b", "a"],
        key: Sequence[tuple[str, str]],
        rest: Sequence[tuple[str, str]],
        part: Part | None,
    ) -> exp.Select:
        place, table = (0, self.before) if alias == "b" else (1, self.after)
        found = [exp.alias_(exp.Literal.number(1), "here")]
        for number, pair in enumerate(key):
            column = _column(pair[place])
            value = self._comparable(pair, place)
            if table.dialect == "postgres" and table.columns[pair[place]].this == exp.DType.DECIMAL:
                value = exp.func("TRIM_SCALE", value)  # else the text of 1.0 is not that of 1
            text = exp.func("COALESCE", _text(value), exp.Literal.string(""))
            found.append(exp.alias_(text, f"k_{number}"))
            found.append(exp.alias_(_case(column.is_(exp.null())), f"n_{number}"))
        found += [
            exp.alias_(self._comparable(pair, place), f"c_{number}")
            for number, pair in enumerate(rest)
        ]
        return _select(table, found, part)

    def _comparable(self, pair: tuple[str, str], place: int) -> exp.Expr:
        """A column in a form in which both sides can be compared: another type may need text."""
        kinds = (self.before.kind_of(pair[0]), self.after.kind_of(pair[1]))
        types = (self.before.columns[pair[0]], self.after.columns[pair[1]])
        column = _column(pair[place])
        if kinds[0] != kinds[1] or kinds[0] == "other":
            return _text(column)
        if types[0] == types[1]:
            return column
        wide = _wide(kinds[0], *types)
        return exp.cast(column, wide) if wide else column

    def _whole(self, part: Part | None) -> RowComparison | None:
        """Rows without a key: how many of each whole row both sides have."""
        if not self.shared:
            return None
        names = [f"c_{number}" for number in range(len(self.shared))]
        sides = [
            _select(
                table,
                [
                    exp.alias_(exp.Literal.number(int(place == 0)), "of_b"),
                    exp.alias_(exp.Literal.number(int(place == 1)), "of_a"),
                    *(
                        exp.alias_(self._comparable(pair, place), name)
                        for pair, name in zip(self.shared, names, strict=True)
                    ),
                ],
                part,
            )
            for place, table in enumerate((self.before, self.after))
        ]
        counted = (
            exp.select(
                exp.alias_(exp.Sum(this=exp.column("of_b")), "b"),
                exp.alias_(exp.Sum(this=exp.column("of_a")), "a"),
            )
            .from_(exp.union(*sides, distinct=False).subquery("rows_of_both"))
            .group_by(*names)
        )
        b, a = exp.column("b"), exp.column("a")
        fewer = exp.Case(ifs=[exp.If(this=b < a, true=b)], default=a)
        row = self._row(
            exp.select(
                *(
                    exp.func("COALESCE", exp.Sum(this=of), exp.Literal.number(0))
                    for of in (b, a, fewer)
                )
            ).from_(counted.subquery("counted"))
        )
        before, after, equal = row
        return RowComparison((), before, after, before - equal, after - equal, equal)

    # ------------------------------------------------------------------ what is shown of them

    def _profiles(self, part: Part | None, is_large: bool) -> Iterator[ColumnProfile]:
        before, after = (self._profile(t, part, is_large) for t in (self.before, self.after))
        known = dict(self.shared)
        for name, profile in before.items():
            yield ColumnProfile(name, profile, after.get(known.get(name, "")))
        for name, profile in after.items():
            if name not in known.values():
                yield ColumnProfile(name, None, profile)

    def _profile(self, table: Table, part: Part | None, is_large: bool) -> dict[str, Profile]:
        asked: list[exp.Expr] = [_count()]
        places: dict[str, dict[str, int]] = {}

        def ask(name: str, fact: str, what: exp.Expr) -> None:
            places.setdefault(name, {})[fact] = len(asked)
            asked.append(what)

        for name in table.columns:
            column, kind = _column(name), table.kind_of(name)
            ask(name, "there", exp.Count(this=column))
            if kind != "other" and not is_large:
                ask(name, "distinct", exp.Count(this=exp.Distinct(expressions=[column])))
            if self._is_shown(name, kind):
                ask(name, "minimum", exp.Min(this=column))
                ask(name, "maximum", exp.Max(this=column))
        row = self._row(_select(table, asked, part), is_number=False)

        def told(name: str, fact: str) -> Any:
            place = places[name].get(fact)
            return None if place is None else row[place]

        return {
            name: Profile(
                nulls=int(row[0]) - int(told(name, "there")),
                distinct=None if told(name, "distinct") is None else int(told(name, "distinct")),
                minimum=_shown(told(name, "minimum")),
                maximum=_shown(told(name, "maximum")),
            )
            for name in table.columns
        }

    def _is_shown(self, name: str, kind: _Kind) -> bool:
        """Numbers and times are; a text is somebody's, as in a sample."""
        if self.limits.is_masked(name):
            return False
        return kind in ("number", "time") or (kind == "text" and self.limits.samples > 0)

    def _samples(
        self, key: Sequence[tuple[str, str]], part: Part | None, found: RowComparison
    ) -> Iterator[Mapping[str, str]]:
        rest = [pair for pair in self.shared if pair not in key]
        moved = {column.name for column in found.moved}
        shown = [(number, a) for number, (_, a) in enumerate(rest) if a in moved]
        if not shown:
            return
        equal = exp.and_(*(_equal(f"c_{number}") for number, _ in shown))
        columns = [exp.column(f"k_{number}", "b") for number in range(len(key))]
        columns += [exp.column(f"c_{number}", side) for number, _ in shown for side in "ba"]
        rows = self.adapter.fetchall(
            exp.select(*columns)
            .from_(self._side("b", key, rest, part, False))
            .join(self._side("a", key, rest, part, False), on=_same_key(key))
            .where(exp.not_(exp.paren(equal)))
            .order_by(*(exp.column(f"k_{number}", "b") for number in range(len(key))))
            .limit(self.limits.samples),
            quote_identifiers=True,
        )
        for row in rows:
            values = [str(value) for value in row]
            named = {
                b: _HIDDEN if self.limits.is_masked(b) else value
                for (b, _), value in zip(key, values[: len(key)], strict=True)
            }
            for place, (_, name) in enumerate(shown):
                was, is_now = values[len(key) + 2 * place : len(key) + 2 * place + 2]
                named[name] = _HIDDEN if self.limits.is_masked(name) else f"{was} → {is_now}"
            yield named

    # ------------------------------------------------------------------ asking

    def _rows(self, table: Table, part: Part | None) -> int:
        return self._number(_select(table, [_count()], part))

    def _number(self, query: exp.Query) -> int:
        return int(self._row(query)[0])

    def _row(self, query: exp.Query, *, is_number: bool = True) -> list[Any]:
        row = self.adapter.fetchone(query, quote_identifiers=True) or ()
        return [int(value or 0) for value in row] if is_number else list(row)


def table_of(adapter: EngineAdapter, name: str) -> Table:
    """A table as the database has it now."""
    found = exp.to_table(name)
    return Table(found, adapter.columns(found), adapter.dialect)


def rows_of(adapter: EngineAdapter, table: Table) -> int:
    """All of its rows."""
    (count,) = adapter.fetchone(_select(table, [_count()], None), quote_identifiers=True) or (0,)
    return int(count)


def column_changes(before: Table, after: Table) -> Iterator[ColumnChange]:
    """What is lost first, then what is new."""
    pairs = dict(_pairs(before, after))
    for name in before.columns:
        other = pairs.get(name)
        if other is None:
            yield ColumnChange(name, "removed", before.type_of(name))
        elif before.columns[name] != after.columns[other]:
            yield ColumnChange(other, "retyped", before.type_of(name), after.type_of(other))
    for name in after.columns:
        if name not in pairs.values():
            yield ColumnChange(name, "added", None, after.type_of(name))


def _pairs(before: Table, after: Table) -> Iterator[tuple[str, str]]:
    """The names of each column that both have: in another case only where the engine doesn't care."""
    other_case = {c.lower(): c for c in after.columns if c not in before.columns}
    for name in before.columns:
        if name in after.columns:
            yield name, name
        elif before.has_caseless_columns and name.lower() in other_case:
            yield name, other_case.pop(name.lower())


def _wide(kind: _Kind, *types: exp.DataType) -> str | exp.DataType | None:
    """The type in which values of both are compared; None where the database compares them as they are.

    A `DOUBLE` holds no more than 15 digits, so that long numbers of different rows would be the same. An
    exact number without a precision, such as Postgres' `NUMERIC`, has no limit that a cast could keep.
    """
    if kind == "time":
        is_of_day = any(each.this in _OF_DAY for each in types)
        return "TEXT" if is_of_day else "TIMESTAMP"
    if kind != "number":
        return None
    if any(each.this in _FLOATS for each in types):
        return "DOUBLE"
    exact = [_digits(each) for each in types]
    if any(each is None for each in exact):
        return None
    whole, scale = (max(each[place] for each in exact if each) for place in (0, 1))
    if scale == 0:
        return None
    return f"DECIMAL({min(whole + scale, _MOST_DIGITS)}, {scale})"


def _digits(type_: exp.DataType) -> tuple[int, int] | None:
    """How many digits an exact number has before the point and behind it, at most."""
    if type_.this in exp.DataType.INTEGER_TYPES:
        return _MOST_DIGITS if type_.this in _VERY_LONG else _LONG_INTEGER, 0
    if type_.this != exp.DType.DECIMAL or len(type_.expressions) != 2:
        return None
    precision, scale = (int(each.name) for each in type_.expressions)
    return precision - scale, scale


def _select(table: Table, columns: Sequence[exp.Expr], part: Part | None) -> exp.Select:
    query = exp.select(*columns).from_(table.name.copy())
    return query.where(part.where.copy()) if part else query


def _column(name: str) -> exp.Column:
    return exp.column(name, quoted=True)


def _count() -> exp.Count:
    return exp.Count(this=exp.Star())


def _case(condition: exp.Expr) -> exp.Case:
    return exp.Case(
        ifs=[exp.If(this=condition, true=exp.Literal.number(1))], default=exp.Literal.number(0)
    )


def _sum(condition: exp.Expr) -> exp.Sum:
    return exp.Sum(this=_case(condition))


def _text(column: exp.Expr) -> exp.Expr:
    return exp.cast(column, "TEXT")


def _is_there(side: str) -> exp.Expr:
    return exp.column("here", side).eq(exp.Literal.number(1))


def _equal(name: str) -> exp.Expr:
    before, after = exp.column(name, "b"), exp.column(name, "a")
    return exp.paren(
        exp.or_(before.eq(after), exp.and_(before.is_(exp.null()), after.is_(exp.null())))
    )


def _key_names(key: Sequence[object]) -> list[str]:
    return [f"{letter}_{number}" for number in range(len(key)) for letter in "kn"]


def _same_key(key: Sequence[object]) -> exp.Expr:
    return exp.and_(*(exp.column(n, "b").eq(exp.column(n, "a")) for n in _key_names(key)))


def _shown(value: object) -> str | None:
    return None if value is None else str(value)
