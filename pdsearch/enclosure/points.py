"""What an expression in x is at one exact point: as a ball, as an exact number, its sign."""

import functools
from typing import cast

import sympy
from flint import arb, ctx
from sympy import S

from pdsearch.enclosure.algebra import expanded, has_long_power
from pdsearch.enclosure.interval import ball_interval
from pdsearch.enclosure.nodes import prepare
from pdsearch.enclosure.numbers import enclosed, exact_sign, float_ends, is_computable
from pdsearch.enclosure.program import Program
from pdsearch.expression import x


@functools.lru_cache(maxsize=1024)
def _compiled(expression: sympy.Expr) -> Program:
    return Program(prepare(expression), (x,))


def at_place(expression: sympy.Expr, place: sympy.Expr) -> sympy.Expr | None:
    """An expression at a place that may hold parameters; None where sympy has no such form."""
    if not is_computable(expression, {x: place}):
        return None
    try:
        return cast(sympy.Expr, expression.xreplace({x: place}))
    except ValueError:  # sympy's Min and Max: "the argument is not comparable"
        return None


def ball_at(expression: sympy.Expr, place: sympy.Expr, *, precision: int = 128) -> arb:
    """Return a ball around an expression at a point; nan where it is undefined or undecided."""
    if place.is_Integer:  # exactly, for conditions such as x == 10**300
        precision = max(precision, abs(int(place)).bit_length() + 64)
    with ctx.workprec(precision):
        value = _compiled(expression).ball([enclosed(place, precision=precision)])
        return value if value.is_finite() else arb.nan()


def ends_at(expression: sympy.Expr, place: sympy.Expr) -> tuple[float, float] | None:
    """Return the floats around an expression at an exact point; None where it is not known."""
    value = evaluated(expression, place)
    if value is not None:
        return float_ends(value)
    ball = ball_at(expression, place)
    return ball_interval(ball)[:2] if ball.is_finite() else None


def sign_at(expression: sympy.Expr, place: sympy.Expr, less: sympy.Expr = S.Zero) -> int | None:
    """The exact sign of an expression less another at an exact point; None if it is not known."""
    ball = ball_at(expression, place) - ball_at(less, place)
    if ball > 0:
        return 1
    if ball < 0:
        return -1
    value, other = evaluated(expression, place), evaluated(less, place)
    return None if value is None or other is None else exact_sign(value - other)


def size_less(expression: sympy.Expr, place: sympy.Expr, bound: sympy.Expr) -> int | None:
    """The sign of |f| less a bound at an exact point; None where it is not known."""
    signs = (sign_at(expression, place, bound), sign_at(-bound, place, expression))
    if 1 in signs:
        return 1
    return None if None in signs else max(cast("tuple[int, int]", signs))


@functools.lru_cache(maxsize=4096)
def evaluated(expression: sympy.Expr, place: sympy.Expr) -> sympy.Expr | None:
    """An expression in x at an exact point; None where it is undefined or conditions stay open."""
    arm = _arm_at(expression, place)
    if arm is None or not is_computable(arm, {x: place}):
        return None
    if has_long_power(arm):
        with sympy.evaluate(False):
            value = arm.xreplace({x: place})
    else:
        try:
            value = _substituted(arm, place)
        except ValueError:  # sympy's Min and Max: "the argument is not comparable"
            return None
    if value.free_symbols or value.has(sympy.nan, sympy.zoo, sympy.oo, S.NegativeInfinity):
        return None
    if value.has(sympy.Piecewise, sympy.I):
        return None
    return cast(sympy.Expr, value) if enclosed(value, precision=106).is_finite() else None


def _substituted(expression: sympy.Expr, place: sympy.Expr) -> sympy.Expr:
    """The expression at a point; what is hidden there of a zero is written out for Min and Max.

    At a breakpoint that is a cube root, say, two of their arguments are the same number in forms of
    which sympy cannot tell the greater.
    """
    try:
        return cast(sympy.Expr, expression.xreplace({x: place}))
    except ValueError:
        arm = _arm_at(expression, place)
        if isinstance(expression, sympy.Piecewise):
            return _substituted(arm, place) if arm is not None else sympy.nan
        args = (expanded(_substituted(cast(sympy.Expr, a), place)) for a in expression.args)
        return cast(sympy.Expr, expression.func(*args))


def _arm_at(expression: sympy.Expr, place: sympy.Expr) -> sympy.Expr | None:
    """The arm of a Piecewise that applies at a point; the expression itself if it is none."""
    if isinstance(expression, sympy.Piecewise):
        for value, condition in expression.args:
            if not is_computable(condition, {x: place}):
                return None
            truth = condition.xreplace({x: place})
            if truth == sympy.true:
                return _arm_at(cast(sympy.Expr, value), place)
            if truth != sympy.false:
                return None
        return None  # a gap
    return expression
