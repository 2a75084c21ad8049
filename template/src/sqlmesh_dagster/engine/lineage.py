"""Which columns a model's columns are made of, from its rendered query.

Importing this module imports SQLMesh.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from functools import lru_cache

from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.lineage import lineage
from sqlglot.optimizer.scope import Scope, build_scope

from sqlmesh_dagster.upstream.internals import Model, SQLMeshError

_log = logging.getLogger(__name__)
ColumnSources = tuple[tuple[str, str], ...]
"""Pairs of a table's FQN and the name of a column of it."""


def column_lineages(models: Mapping[str, Model]) -> dict[str, Mapping[str, ColumnSources]]:
    """The sources of each model's columns, by FQN; embedded models are looked through."""
    direct = {fqn: _direct_sources(model) for fqn, model in models.items()}

    def visible(fqn: str, column: str) -> Iterator[tuple[str, str]]:
        model = models.get(fqn)
        if model is None or not model.kind.is_embedded:
            yield fqn, column
            return
        for source in direct[fqn].get(column, ()):
            yield from visible(*source)

    return {
        fqn: {
            name: tuple(sorted({seen for source in sources for seen in visible(*source)}))
            for name, sources in columns.items()
        }
        for fqn, columns in direct.items()
    }


def _direct_sources(model: Model) -> Mapping[str, ColumnSources]:
    """The sources of each column that has any; a Python model and a seed have none.

    SQLMesh's own `lineage` qualifies the query again for each model; the query that a load has
    rendered is qualified already.
    """
    if not model.is_sql:
        return {}
    try:
        query = model.render_query()
        return sources_of(query, model.dialect) if query else {}
    except (
        SqlglotError,
        SQLMeshError,
        ValueError,
    ):  # lineage is optional; a load reports errors of queries
        _log.info("The columns of `%s` cannot be traced.", model.name, exc_info=True)
        return {}


def sources_of(query: exp.Query, dialect: str) -> dict[str, ColumnSources]:
    """The sources of each column of a qualified query that has any.

    Raises:
        SqlglotError: It cannot be traced.
    """
    scope = build_scope(query)
    if scope is None:
        return {}
    trace, found = _Trace(), {}
    for place, name in enumerate(query.named_selects):
        sources = trace.sources(scope, place)
        if sources is None:
            sources = _slowly(query, scope, name, dialect)
        if sources:
            found[name] = tuple(sorted(sources))
    return found


def _slowly(query: exp.Query, scope: Scope, name: str, dialect: str) -> frozenset[tuple[str, str]]:
    """Whatever the query is; looks at all columns for each, so that 2,000 of them take 6 seconds."""
    node = lineage(
        exp.column(name, quoted=True),
        query,
        scope=scope,
        trim_selects=False,
        dialect=dialect,
        copy=False,
    )
    return frozenset(
        (_fqn(leaf.source), _column_name(leaf.name, dialect))
        for leaf in node.walk()
        if isinstance(leaf.source, exp.Table) and leaf.name != "*"
    )


class _Trace:
    """The sources of the columns of a query without subqueries in its columns, each looked at once."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], frozenset[tuple[str, str]] | None] = {}
        self._places: dict[int, dict[str, int]] = {}

    def sources(self, scope: Scope, place: int) -> frozenset[tuple[str, str]] | None:
        """Of the column at a place; None where only sqlglot's own way is sure."""
        key = (id(scope), place)
        if key not in self._known:
            self._known[key] = None  # a query that reads itself
            self._known[key] = self._found(scope, place)
        return self._known[key]

    def _found(self, scope: Scope, place: int) -> frozenset[tuple[str, str]] | None:
        if isinstance(scope.expression, exp.SetOperation):
            parts = [self.sources(part, place) for part in scope.union_scopes or ()]
            return self._together(parts) if parts else None
        if not isinstance(scope.expression, exp.Select):
            return None
        selects = scope.expression.selects
        if place >= len(selects) or selects[place].find(exp.Query, exp.Star):
            return None
        columns = selects[place].find_all(exp.Column)
        return self._together([self._of_column(scope, column) for column in columns])

    def _of_column(self, scope: Scope, column: exp.Column) -> frozenset[tuple[str, str]] | None:
        source = scope.sources.get(column.table)
        if isinstance(source, exp.Table) and not source.args.get("pivots"):
            return frozenset([(_fqn(source), column.name)])
        if not isinstance(source, Scope) or source.is_udtf or scope.pivots:
            return None
        place = self._place(source, column.name)
        return None if place is None else self.sources(source, place)

    def _place(self, scope: Scope, name: str) -> int | None:
        if id(scope) not in self._places:
            query = scope.expression
            names = query.named_selects if isinstance(query, exp.Query) else []
            self._places[id(scope)] = {n: i for i, n in reversed(list(enumerate(names)))}
        return self._places[id(scope)].get(name)

    def _together(
        self, parts: list[frozenset[tuple[str, str]] | None]
    ) -> frozenset[tuple[str, str]] | None:
        if any(part is None for part in parts):
            return None
        return frozenset(source for part in parts for source in part or ())


def _fqn(table: exp.Table) -> str:
    return ".".join(
        f'"{quoted}"' for part in table.parts if (quoted := part.name.replace('"', '""'))
    )


@lru_cache(maxsize=4096)
def _column_name(text: str, dialect: str) -> str:
    """The column of `"table"."column"`; the same few are asked for again and again."""
    return exp.to_column(text, dialect=dialect).name


def columns_read(query: exp.Expr | None) -> dict[str, frozenset[str]] | None:
    """The columns of each table that a qualified query reads, in any of its clauses; by the table's FQN.

    Returns:
        None where that cannot be told.
    """
    scope = build_scope(query) if query is not None else None
    if scope is None:
        return None
    found: dict[str, set[str]] = {}
    for each in scope.traverse():
        tables = {a: s for a, s in each.sources.items() if isinstance(s, exp.Table)}
        for table in tables.values():
            found.setdefault(_fqn(table), set())
        for column in each.columns:
            source = tables.get(column.table)
            if source is not None:
                found[_fqn(source)].add(column.name)
            elif not column.table and tables:
                return None  # it may be any table's
        selects = each.expression.selects if isinstance(each.expression, exp.Query) else []
        if any(select.is_star for select in selects):
            return None
    return {fqn: frozenset(names) for fqn, names in found.items()}
