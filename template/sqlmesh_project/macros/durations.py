"""Durations between two moments."""

from sqlglot import exp
from sqlmesh import macro
from sqlmesh.core.macros import MacroEvaluator


@macro()
def hours_between(evaluator: MacroEvaluator, start: exp.Expression, end: exp.Expression) -> str:
    """Hours from `start` to `end` with a fraction, as in `@hours_between(started_at, ended_at)`."""
    return f"DATE_DIFF('minute', {start.sql('duckdb')}, {end.sql('duckdb')}) / 60.0"
