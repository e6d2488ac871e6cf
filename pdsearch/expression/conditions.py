"""Whether the arms of a Piecewise leave a gap, or hide one another."""

import functools
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import sympy
from sympy.core.relational import Relational
from sympy.logic.boolalg import Boolean

from pdsearch.errors import FormulaError
from pdsearch.expression.functions import RELATIONS, slope_and_rest, truth, x

# sympy joins neighbouring arms of equal value into one condition in conjunctive form, whose size
# is the product of the sizes of the parts.
_MOST_CLAUSES = 32
_MOST_NODES = 60


def check_arms(arms: Sequence[tuple[sympy.Expr, Boolean]]) -> None:
    """Refuse a Piecewise with a gap, or with an arm that can never be taken.

    Decided exactly if x is compared with numbers, or only with one multiple of a parameter.
    Otherwise the last condition must be True.

    Raises:
        FormulaError: naming the arm.
    """
    conditions = [condition for _, condition in arms]
    clauses = 1
    for condition in conditions:
        clauses *= max(1, len(condition.atoms(Relational)))
        if clauses > _MOST_CLAUSES and any(isinstance(c, sympy.And | sympy.Or) for c in conditions):
            raise FormulaError("the conditions of Piecewise are too many to combine: simplify them")
    table = _truth(conditions)
    if table is None:
        for number, condition in enumerate(conditions, start=1):
            if condition == sympy.false or condition in conditions[: number - 1]:
                raise _hidden(number, condition)
        if sympy.true in conditions[:-1]:
            number = conditions.index(sympy.true) + 2
            raise _hidden(number, conditions[number - 1])
        if conditions[-1] != sympy.true:
            raise _gap()
        return
    open_cells = [True] * len(table[0])
    for number, (condition, truths) in enumerate(zip(conditions, table, strict=True), start=1):
        if not any(a and b for a, b in zip(open_cells, truths, strict=True)):
            raise _hidden(number, condition)
        open_cells = [a and not b for a, b in zip(open_cells, truths, strict=True)]
    if any(open_cells):
        raise _gap()


def check_relation(relation: Any) -> None:
    """Refuse a comparison that is too large, or compares a Piecewise.

    sympy looks for a common denominator of some, and simplifies those with a Piecewise.

    Raises:
        FormulaError: it is one of these.
    """
    if relation.has(sympy.Piecewise):
        raise FormulaError("a Piecewise cannot be compared: compare x and parameters")
    if sum(1 for _ in sympy.preorder_traversal(relation)) > _MOST_NODES:
        raise FormulaError(f"a comparison has more than {_MOST_NODES} parts: simplify it")


def _hidden(number: int, condition: Boolean) -> FormulaError:
    return FormulaError(
        f"arm {number} of Piecewise ({condition}) overlaps the arms before it entirely: it can "
        "never be taken"
    )


def _gap() -> FormulaError:
    return FormulaError(
        "Piecewise has a gap: no arm is taken for some x; end it with an arm whose condition is "
        "True"
    )


def _truth(conditions: Sequence[Boolean]) -> list[list[bool]] | None:
    """Return each condition's truth on and between the bounds; None if it cannot be decided."""
    bounds = {r: _bound(r) for c in conditions for r in c.atoms(Relational)}
    distinct: set[Any] = set(bounds.values())
    if None in distinct:
        return None
    if len(distinct) > 1 and not all(b.is_Rational for b in distinct):
        return None
    place = {bound: Fraction(number) for number, bound in enumerate(sorted(distinct))}
    # Cells: the bounds themselves, and a point on each side of each.
    cells = [Fraction(2 * i - 1, 2) for i in range(len(distinct) + 1)] + list(place.values())

    def holds(relation: Any, cell: Fraction) -> bool:
        side = cell - place[bounds[relation]]
        if relation.lhs != x and slope_and_rest(relation)[0] < 0:
            side = -side
        return bool(RELATIONS[relation.rel_op](side, 0))

    return [[truth(c, functools.partial(holds, cell=cell)) for cell in cells] for c in conditions]


def _bound(relation: Any) -> sympy.Expr | None:
    """Return the b of a relation that is equivalent to `x … b`, if it is."""
    if relation.lhs == x and not relation.rhs.has(x):
        return relation.rhs
    slope, rest = slope_and_rest(relation)
    if not slope.is_Rational or slope == 0 or rest.has(x):
        return None
    return -rest / slope
