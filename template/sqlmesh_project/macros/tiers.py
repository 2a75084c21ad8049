"""Named bands of a number."""

from sqlglot import exp
from sqlmesh import macro
from sqlmesh.core.macros import MacroEvaluator


@macro()
def tier(
    evaluator: MacroEvaluator, value: exp.Expression, **floors: exp.Expression
) -> exp.Expression:
    """Name of the highest band that `value` reaches.

    `@tier(spent, regular := 100, devoted := 300)` gives 'devoted' from 300 on, 'regular' from 100
    on, and NULL below.
    """
    case = exp.Case()
    for name, floor in sorted(floors.items(), key=lambda band: -float(band[1].name)):
        case = case.when(exp.GTE(this=value.copy(), expression=floor), exp.Literal.string(name))
    return case
