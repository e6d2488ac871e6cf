"""The criterion of a direction: no gradient that passes pushes an inactive unit further down."""

from dataclasses import replace

import sympy

from pdsearch.criteria.family import CERTIFIED, FamilyShape, decide_criterion
from pdsearch.criteria.result import Demands, Result
from pdsearch.criteria.shape import Shape
from pdsearch.enclosure.search import Budget
from pdsearch.expression import x
from pdsearch.family import Candidate, Family, side

__all__ = ["NEVER_PUSHES_DOWN", "never_pushes_down"]

NEVER_PUSHES_DOWN = "never_pushes_down"
STATEMENT = (
    "where x <= 0 no gradient that passes lowers the unit: direction up, and g(x) >= 0 there"
)


def never_pushes_down(
    target: Candidate | Family, demands: Demands, budget: Budget | None
) -> list[Result]:
    """Decide it for a candidate, or a family whose only direction is "up"; else nothing.

    With direction "up" a gradient passes where x ≤ 0 only if grad_output < 0. The step that it
    gives raises the pre-activation where g ≥ 0, which is decided as `sign_preserving` is, of g
    below zero alone.

    Args:
        target: what is checked.
        demands: of the check; the profile `strict` requires it.
        budget: what the decision may cost.
    """
    if isinstance(target, Candidate):
        if target.direction != "up":
            return []
        shape = Shape(_below(target.expression), budget=budget)
        found = CERTIFIED["sign_preserving"](shape, demands)
    else:
        if target.directions != ("up",):
            return []
        expression = _below(target.expression)
        held = {symbol.name for symbol in expression.free_symbols}
        lower = Family(
            target.name,
            expression,
            space={name: d for name, d in target.space.items() if name in held},
            defaults={name: v for name, v in target.defaults.items() if name in held},
        )
        found = decide_criterion(
            FamilyShape(lower, demands), "sign_preserving", (budget or Budget()).fresh()
        )
    return [
        replace(
            found,
            name=NEVER_PUSHES_DOWN,
            statement=STATEMENT,
            required=demands.profile == "strict",
            source="ours",
        )
    ]


def _below(expression: sympy.Expr) -> sympy.Expr:
    return sympy.Piecewise((0, x > 0), (side(expression, positive=False), True))
