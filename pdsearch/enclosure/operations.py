"""The operations of a compiled expression, each in three arithmetics.

Float intervals give enclosures, Arb balls values at points, complex balls integrals.
"""

from collections.abc import Callable
from dataclasses import dataclass
from operator import add, mul, neg
from typing import Any

import sympy
from flint import acb, arb
from sympy import Add, Heaviside, Max, Min, S
from sympy.logic.boolalg import And, Not, Or

from pdsearch.enclosure import functions as fn
from pdsearch.enclosure import interval as iv
from pdsearch.enclosure.interval import Interval, to_arb
from pdsearch.enclosure.nodes import arccot, erfc_ratio, sech2, sigmoid_bell
from pdsearch.expression import RELATIONS, sigmoid, softplus
from pdsearch.expression.values import rational


class UndecidedError(ArithmeticError):
    """A condition could not be decided at the working precision."""


@dataclass(frozen=True)
class Operation:
    """One operation in each arithmetic.

    A condition's interval is (may hold, may fail, flag).

    Attributes:
        interval: On float intervals.
        ball: On Arb balls.
        complex: On complex balls; None where it has no analytic form.
        choose: From intervals, the analytic function that it equals all over a box, or None. Only
            an operation that bends or jumps has one.
    """

    interval: Callable[..., Any]
    ball: Callable[..., Any]
    complex: Callable[..., Any] | None = None
    choose: Callable[..., Callable[..., Any] | None] | None = None


# ------------------------------------------------------------------------ analytic functions


def _acb_nan() -> acb:
    return acb(arb.nan(), arb.nan())


def _acb_atan(z: acb) -> acb:
    # The branch cuts run from ±i to ±i∞; Arb's atan does not check them.
    if z.real.contains(0) and float(abs(z.imag).upper()) >= 1.0:
        return _acb_nan()
    return z.atan()


def _acb_softplus(z: acb) -> acb:
    if float(z.real.mid()) > 0.0:
        return z + (1 + (-z).exp()).log(analytic=True)
    return (1 + z.exp()).log(analytic=True)


def _named(name: str, interval: Callable[[Interval], Interval]) -> Operation:
    """A function whose name in Arb is known; Arb finds no finite value on a ball with a pole."""
    return Operation(interval, getattr(arb, name), getattr(acb, name))


def _ball_real_power(a: arb, b: arb) -> arb:
    return arb(0) if a.is_zero() and b > 0 else a**b


# ---------------------------------------------------------------------- what bends or jumps


def _argument(index: int) -> Callable[..., Any]:
    return lambda *values: values[index]


_FIRST, _SECOND = _argument(0), _argument(1)


def _ball_sign(a: arb) -> int:
    """The sign of a ball.

    Raises:
        UndecidedError: It contains zero and other numbers.
    """
    if a > 0:
        return 1
    if a < 0:
        return -1
    if a.is_zero():
        return 0
    raise UndecidedError


def _absolute_choice(a: Interval) -> Callable[..., Any] | None:
    return _FIRST if a[0] >= 0.0 else ((lambda z: z * -1) if a[1] <= 0.0 else None)


def _constant_choice(above: int, below: int) -> Callable[..., Callable[..., Any] | None]:
    """One constant above zero and another below."""

    def choose(a: Interval, *_: Interval) -> Callable[..., Any] | None:
        if not (a[0] > 0.0 or a[1] < 0.0):
            return None
        return lambda *_: acb(above if a[0] > 0.0 else below)

    return choose


def _extreme_choice(
    lower: Callable[..., Any], upper: Callable[..., Any]
) -> Callable[..., Callable[..., Any] | None]:
    """The function to use where the first argument is the lower one, and where it is the upper."""
    return lambda a, b: lower if a[1] <= b[0] else (upper if b[1] <= a[0] else None)


def _ball_step(a: arb, at_zero: arb) -> arb:
    sign = _ball_sign(a)
    return at_zero if sign == 0 else arb(1 if sign > 0 else 0)


def _relation(kind: str) -> Operation:
    """The condition ``difference kind 0``."""
    holds = RELATIONS[kind]
    if_above, if_below, if_zero = (holds(sign, 0) for sign in (1, -1, 0))

    def interval(difference: Interval) -> tuple[bool, bool, int]:
        lo, hi, flag = difference
        above, below, zero = hi > 0.0, lo < 0.0, lo <= 0.0 <= hi
        return (
            (above and if_above) or (below and if_below) or (zero and if_zero),
            (above and not if_above) or (below and not if_below) or (zero and not if_zero),
            flag,
        )

    return Operation(interval, lambda difference: bool(holds(_ball_sign(difference), 0)))


def _interval_piecewise(*values: Any) -> Interval:
    result: Interval | None = None
    arms = 0
    flag = 0
    for value, condition in zip(values[::2], values[1::2], strict=True):
        may, may_not, condition_flag = condition
        flag |= condition_flag
        if may:
            arms += 1
            result = value if result is None else iv.hull(result, value)
        if not may_not:
            break
    else:
        flag |= iv.UNDEFINED  # a gap: no arm is certain to apply
    if result is None:
        return iv.NOWHERE
    if arms > 1:
        flag |= iv.JUMP
    return (result[0], result[1], result[2] | flag)


def _ball_piecewise(*values: Any) -> Any:
    for value, condition in zip(values[::2], values[1::2], strict=True):
        if isinstance(condition, UndecidedError):
            return condition
        if condition:
            return value
    return arb.nan()


def _arm_choice(*values: Any) -> Callable[..., Any] | None:
    for index, (may, may_not, _flag) in enumerate(values[1::2]):
        if may:
            return None if may_not else _argument(2 * index)
    return None


# ---------------------------------------------------------------------------------- the table

MULTIPLY = Operation(iv.multiply, mul, mul)
NEGATE = Operation(iv.negate, neg, neg)
RECIPROCAL = Operation(iv.reciprocal, lambda a: 1 / a, lambda a: 1 / a)
SQRT = Operation(iv.square_root, arb.sqrt, lambda a: a.sqrt(analytic=True))
POWER = Operation(fn.real_power, _ball_real_power, lambda a, b: a.pow(b, analytic=True))
PIECEWISE = Operation(_interval_piecewise, _ball_piecewise, choose=_arm_choice)
NOWHERE = Operation(lambda: iv.NOWHERE, arb.nan, _acb_nan)

CONDITIONS = {kind: _relation(kind) for kind in RELATIONS}
"""Comparisons of a difference with 0, by sympy's `rel_op`."""

FOLDED: dict[type, Operation] = {
    Add: Operation(iv.add, add, add),
    Min: Operation(iv.minimum, arb.min, choose=_extreme_choice(_FIRST, _SECOND)),
    Max: Operation(iv.maximum, arb.max, choose=_extreme_choice(_SECOND, _FIRST)),
    And: Operation(lambda a, b: (a[0] and b[0], a[1] or b[1], a[2] | b[2]), lambda a, b: a and b),
    Or: Operation(lambda a, b: (a[0] or b[0], a[1] and b[1], a[2] | b[2]), lambda a, b: a or b),
}
"""Operations of two arguments, which sympy writes for any number of them."""

FUNCTIONS: dict[type, Operation] = {
    sympy.exp: _named("exp", fn.exponential),
    sympy.log: Operation(fn.logarithm, arb.log, lambda a: a.log(analytic=True)),
    sympy.sin: _named("sin", fn.sine),
    sympy.cos: _named("cos", fn.cosine),
    sympy.tanh: _named("tanh", fn.tanh),
    sympy.sinh: _named("sinh", fn.sinh),
    sympy.cosh: _named("cosh", fn.cosh),
    sympy.atan: Operation(fn.atan, arb.atan, _acb_atan),
    sympy.erf: _named("erf", fn.erf),
    sympy.erfc: _named("erfc", fn.erfc),
    sigmoid: Operation(fn.sigmoid, fn.ball_sigmoid, fn.ball_sigmoid),
    softplus: Operation(fn.softplus, fn.arb_softplus, _acb_softplus),
    arccot: Operation(fn.arccot, fn.arb_arccot, lambda a: acb.pi() / 2 - _acb_atan(a)),
    sigmoid_bell: Operation(fn.bell, fn.ball_bell, fn.ball_bell),
    sech2: Operation(fn.sech2, fn.ball_sech2, fn.ball_sech2),
    erfc_ratio: Operation(fn.erfc_ratio, fn.arb_erfc_ratio),
    sympy.Abs: Operation(iv.absolute, abs, choose=_absolute_choice),
    sympy.sign: Operation(iv.sign, lambda a: arb(_ball_sign(a)), choose=_constant_choice(1, -1)),
    Heaviside: Operation(iv.step, _ball_step, choose=_constant_choice(1, 0)),
    Not: Operation(lambda a: (a[1], a[0], a[2]), lambda a: not a),
}
"""Operations of as many arguments as the node has."""


def integer_power(exponent: int) -> Operation:
    """A whole power."""
    return Operation(
        lambda a: iv.integer_power(a, exponent), lambda a: a**exponent, lambda a: a**exponent
    )


def constant(value: Any) -> Operation:
    """A rational, π, e, or the truth of a condition; without arguments."""
    if isinstance(value, bool):
        return Operation(lambda: (value, not value, 0), lambda: value, lambda: value)

    def ball() -> arb:
        if value.is_Rational:
            return to_arb(rational(value))
        return arb.pi() if value is S.Pi else arb(1).exp()

    def interval() -> Interval:
        if value.is_Rational:
            return iv.rational_interval(rational(value))
        return iv.ball_interval(ball())

    return Operation(interval, ball, lambda: acb(ball()))
