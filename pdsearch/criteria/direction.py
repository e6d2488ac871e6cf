"""The criterion for a direction: no gradient that passes pushes an inactive unit further down."""

import sympy

from pdsearch.criteria.family import FamilyShape, decide_criterion
from pdsearch.criteria.records import NEVER_PUSHES_DOWN, Demands
from pdsearch.criteria.result import Result
from pdsearch.criteria.shape import Shape
from pdsearch.enclosure.search import Budget
from pdsearch.expression import x
from pdsearch.family import Candidate, Family, side


def never_pushes_down(
    target: Candidate | Family, demands: Demands, budget: Budget | None
) -> list[Result]:
    """Decide it for a candidate or a family whose only direction is "up"; otherwise return [].

    With direction "up", a gradient passes where x ≤ 0 only if grad_output < 0. Its step raises the
    pre-activation where g ≥ 0.
    """
    expression = _below(target.expression)
    if isinstance(target, Candidate):
        if target.direction != "up":
            return []
        return [NEVER_PUSHES_DOWN.check(Shape(expression, budget=budget), demands)]
    if target.directions != ("up",):
        return []
    held = {symbol.name for symbol in expression.free_symbols}
    lower = Family(
        target.name,
        expression,
        space={name: d for name, d in target.space.items() if name in held},
        defaults={name: v for name, v in target.defaults.items() if name in held},
    )
    shape = FamilyShape(lower, demands)
    return [decide_criterion(shape, NEVER_PUSHES_DOWN.name, (budget or Budget()).fresh())]


def _below(expression: sympy.Expr) -> sympy.Expr:
    return sympy.Piecewise((0, x > 0), (side(expression, positive=False), True))
