"""Whether the arms of a Piecewise leave a gap, or hide one another."""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import sympy
from sympy.core.relational import Relational
from sympy.logic.boolalg import Boolean

from pdsearch.errors import FormulaError
from pdsearch.expression.functions import RELATIONS, x

# sympy joins neighbouring arms of equal value into one condition in conjunctive form, whose size
# is the product of the sizes of the parts.
_MOST_CLAUSES = 32
_MOST_NODES = 60


def check_arms(arms: Sequence[tuple[sympy.Expr, Boolean]]) -> None:
    """Refuse a Piecewise with a gap, or with an arm that can never be taken.

    Decided exactly where x is compared with numbers, or with one parameter's multiple throughout;
    elsewhere the last condition must be True.

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
    """Keep comparisons small and plain.

    sympy looks for a common denominator of some, and simplifies those that hold a Piecewise.

    Raises:
        FormulaError: it is too large, or compares a Piecewise.
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
    """Each condition's truth on each bound and between; None where that cannot be decided."""
    relations = {r for c in conditions for r in c.atoms(Relational)}
    bounds: dict[Relational, sympy.Expr] = {}
    for relation in relations:
        bound = _bound(relation)
        if bound is None:
            return None
        bounds[relation] = bound
    distinct = set(bounds.values())
    if all(b.is_Rational for b in distinct):
        ordered = sorted(distinct)
    elif len(distinct) == 1:
        ordered = list(distinct)
    else:
        return None
    place = {bound: Fraction(number) for number, bound in enumerate(ordered)}
    places = {relation: place[bound] for relation, bound in bounds.items()}
    # Cells: the bounds themselves, and a point on each side of each.
    cells = [Fraction(2 * i - 1, 2) for i in range(len(ordered) + 1)] + list(place.values())
    return [[_holds(c, cell, places) for cell in cells] for c in conditions]


def _bound(relation: Any) -> sympy.Expr | None:
    """The b of a relation that says `x … b`, where it does."""
    if relation.lhs == x and not relation.rhs.has(x):
        return relation.rhs
    difference = relation.lhs - relation.rhs
    slope = difference.coeff(x, 1)
    rest = difference - slope * x
    if not slope.is_Rational or slope == 0 or rest.has(x):
        return None
    return -rest / slope


def _holds(condition: Any, cell: Fraction, place: dict[Any, Fraction]) -> bool:
    if condition in (sympy.true, sympy.false):
        return bool(condition == sympy.true)
    if isinstance(condition, sympy.And):
        return all(_holds(a, cell, place) for a in condition.args)
    if isinstance(condition, sympy.Or):
        return any(_holds(a, cell, place) for a in condition.args)
    if isinstance(condition, sympy.Not):
        return not _holds(condition.args[0], cell, place)
    side = cell - place[condition]
    if side != 0 and condition.lhs != x and (condition.lhs - condition.rhs).coeff(x, 1) < 0:
        side = -side
    return bool(RELATIONS[condition.rel_op](side, 0))
