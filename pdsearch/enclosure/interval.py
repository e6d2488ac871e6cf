"""Interval arithmetic on float end points, every result rounded outward.

A value is a triple ``(lo, hi, flag)``: every real value that the expression takes where it is
defined lies in ``[lo, hi]``. An infinite end point means "unbounded" and is not itself a value, so
``0 * inf`` is 0 here: zero times any real number is zero.

Sums are rounded only where they are inexact (by Knuth's TwoSum), so that zeros at the ends of a box
stay zeros; other results are rounded by ``math.nextafter``. Arb (python-flint), whose balls are
rigorous, evaluates transcendental functions at the end points.
"""

import math
from fractions import Fraction
from typing import Final

from flint import arb, fmpq

Interval = tuple[float, float, int]

Box = tuple[Interval, ...]
"""An interval for each variable."""

INF: Final = math.inf
UNDEFINED: Final = 1
"""The expression may have no real value somewhere in the box (a pole, the log of a negative)."""
JUMP: Final = 2
"""A condition is undecided in the box: the expression may jump there."""

WHOLE: Final[Interval] = (-INF, INF, 0)
NOWHERE: Final[Interval] = (-INF, INF, UNDEFINED)

_nextafter = math.nextafter


def down(value: float) -> float:
    """The next float below."""
    return _nextafter(value, -INF)


def up(value: float) -> float:
    """The next float above."""
    return _nextafter(value, INF)


def ball_interval(ball: arb) -> Interval:
    """The floats around an Arb ball."""
    if not ball.is_finite():
        return (-INF, INF, UNDEFINED if ball.is_nan() else 0)
    lo = float(ball.lower())
    hi = float(ball.upper())
    if lo == hi and ball.is_exact() and arb(lo) == ball:
        return (lo, hi, 0)
    return (_nextafter(lo, -INF), _nextafter(hi, INF), 0)


def rational_interval(value: Fraction) -> Interval:
    """The floats around an exact rational."""
    try:
        nearest = float(value)
    except OverflowError:
        return (1.7e308, INF, 0) if value > 0 else (-INF, -1.7e308, 0)
    exact = Fraction(nearest)
    lo = nearest if exact <= value else down(nearest)
    return (lo, nearest if exact >= value else up(nearest), 0)


def to_arb(value: Fraction | float | int) -> arb:
    """A rational as an Arb ball at the working precision."""
    if isinstance(value, Fraction):
        return arb(fmpq(value.numerator, value.denominator))
    return arb(value)


def weak_sign(a: Interval) -> int | None:
    """1 if a ≥ 0, -1 if a ≤ 0; None if both signs may occur, or a is flagged."""
    if a[2]:
        return None
    return 1 if a[0] >= 0.0 else (-1 if a[1] <= 0.0 else None)


def strict_sign(a: Interval) -> int | None:
    """1 if a > 0, -1 if a < 0; None if neither is certain, or a is flagged."""
    if a[2]:
        return None
    return 1 if a[0] > 0.0 else (-1 if a[1] < 0.0 else None)


def add(a: Interval, b: Interval) -> Interval:
    """The sum a + b."""
    p, q = a[0], b[0]
    lo = p + q
    if lo - p != q or lo - q != p:
        lo = -INF if p == -INF or q == -INF else _round_sum(p, q, lo, -INF)
    p, q = a[1], b[1]
    hi = p + q
    if hi - p != q or hi - q != p:
        hi = INF if p == INF or q == INF else _round_sum(p, q, hi, INF)
    return (lo, hi, a[2] | b[2])


def _round_sum(p: float, q: float, total: float, side: float) -> float:
    """``total = fl(p + q)`` moved to ``side`` where the rounding error points there."""
    if p in (INF, -INF) or q in (INF, -INF):
        # An unbounded end on the other side, such as the largest float + inf.
        return total if not math.isnan(total) else side
    if total in (INF, -INF):
        return total if total == side else _nextafter(total, side)
    part = total - p
    error = (p - (total - part)) + (q - part)
    if error == 0.0 or (error > 0.0) != (side > 0.0):
        return total
    return _nextafter(total, side)


def negate(a: Interval) -> Interval:
    """-a."""
    return (-a[1], -a[0], a[2])


def _product(p: float, q: float, side: float) -> float:
    """p·q rounded to ``side``; exact for factors 0 and ±1."""
    if p == 0.0 or q == 0.0:
        return 0.0
    if p == 1.0:
        return q
    if q == 1.0:
        return p
    if p == -1.0:
        return -q
    if q == -1.0:
        return -p
    value = p * q
    if value in (INF, -INF) and (p in (INF, -INF) or q in (INF, -INF)):
        return value
    return _nextafter(value, side)


def multiply(a: Interval, b: Interval) -> Interval:
    """The product a · b."""
    a0, a1, b0, b1 = a[0], a[1], b[0], b[1]
    flag = a[2] | b[2]
    if a0 >= 0.0:
        if b0 >= 0.0:
            lo = _product(a0, b0, -INF)
            return (lo if lo > 0.0 else 0.0, _product(a1, b1, INF), flag)
        if b1 <= 0.0:
            hi = _product(a0, b1, INF)
            return (_product(a1, b0, -INF), hi if hi < 0.0 else 0.0, flag)
        return (_product(a1, b0, -INF), _product(a1, b1, INF), flag)
    if a1 <= 0.0:
        if b0 >= 0.0:
            hi = _product(a1, b0, INF)
            return (_product(a0, b1, -INF), hi if hi < 0.0 else 0.0, flag)
        if b1 <= 0.0:
            lo = _product(a1, b1, -INF)
            return (lo if lo > 0.0 else 0.0, _product(a0, b0, INF), flag)
        return (_product(a0, b1, -INF), _product(a0, b0, INF), flag)
    if b0 >= 0.0:
        return (_product(a0, b1, -INF), _product(a1, b1, INF), flag)
    if b1 <= 0.0:
        return (_product(a1, b0, -INF), _product(a0, b0, INF), flag)
    return (
        min(_product(a0, b1, -INF), _product(a1, b0, -INF)),
        max(_product(a0, b0, INF), _product(a1, b1, INF)),
        flag,
    )


def _reciprocal(value: float, side: float) -> float:
    if value in (1.0, -1.0):
        return value
    if value in (INF, -INF):
        return 0.0
    quotient = 1.0 / value if abs(value) > 5e-309 else math.copysign(INF, value)
    return _nextafter(quotient, side)


def reciprocal(a: Interval) -> Interval:
    """1 / a; flagged undefined where a may be zero."""
    lo, hi = a[0], a[1]
    if lo > 0.0 or hi < 0.0:
        below, above = _reciprocal(hi, -INF), _reciprocal(lo, INF)
        if lo > 0.0:
            return (max(below, 0.0), above, a[2])
        return (below, min(above, 0.0), a[2])
    flag = a[2] | UNDEFINED
    if lo == 0.0 and hi > 0.0:
        return (max(_reciprocal(hi, -INF), 0.0), INF, flag)
    if hi == 0.0 and lo < 0.0:
        return (-INF, min(_reciprocal(lo, INF), 0.0), flag)
    return (-INF, INF, flag)


def integer_power(a: Interval, exponent: int) -> Interval:
    """The power a ** exponent, for a whole exponent other than 0."""
    if exponent < 0:
        return reciprocal(integer_power(a, -exponent))
    lo, hi = a[0], a[1]
    if exponent == 1:
        return a
    if exponent % 2:
        return (_power(lo, exponent, -INF), _power(hi, exponent, INF), a[2])
    if lo >= 0.0:
        return (max(_power(lo, exponent, -INF), 0.0), _power(hi, exponent, INF), a[2])
    if hi <= 0.0:
        return (max(_power(hi, exponent, -INF), 0.0), _power(lo, exponent, INF), a[2])
    return (0.0, _power(max(-lo, hi), exponent, INF), a[2])


def _power(value: float, exponent: int, side: float) -> float:
    if value in (0.0, 1.0):
        return value
    if value in (INF, -INF):
        return value**exponent
    if exponent == 2:
        return _nextafter(value * value, side)
    lo, hi, _ = ball_interval(arb(value) ** exponent)
    return lo if side < 0.0 else hi


def square_root(a: Interval) -> Interval:
    """√a."""
    lo, hi, flag = a
    if lo < 0.0:
        flag |= UNDEFINED
        if hi < 0.0:
            return NOWHERE
        lo = 0.0
    return (_root(lo, -INF), _root(hi, INF), flag)


def _root(value: float, side: float) -> float:
    root = math.sqrt(value)
    # A whole root below 2**26 has an exact square, so equality shows that it is the root.
    if root == INF or (root.is_integer() and root < 67_108_864.0 and root * root == value):
        return root
    return max(_nextafter(root, side), 0.0)


def absolute(a: Interval) -> Interval:
    """|a|."""
    lo, hi, flag = a
    if lo >= 0.0:
        return a
    if hi <= 0.0:
        return (-hi, -lo, flag)
    return (0.0, max(-lo, hi), flag)


def sign(a: Interval) -> Interval:
    """The sign, flagged as a jump where a may change sign."""
    lo, hi, flag = a
    low = 1.0 if lo > 0.0 else (0.0 if lo == 0.0 else -1.0)
    high = -1.0 if hi < 0.0 else (0.0 if hi == 0.0 else 1.0)
    return (low, high, flag | (JUMP if low != high else 0))


def step(a: Interval, at_zero: Interval) -> Interval:
    """Heaviside(a, at_zero)."""
    lo, hi, flag = a
    if lo > 0.0:
        return (1.0, 1.0, flag)
    if hi < 0.0:
        return (0.0, 0.0, flag)
    if lo == hi == 0.0:
        return (at_zero[0], at_zero[1], flag | at_zero[2])
    low, high = min(0.0, at_zero[0]), max(1.0, at_zero[1])
    if lo == 0.0:
        low = min(1.0, at_zero[0])
    if hi == 0.0:
        high = max(0.0, at_zero[1])
    return (low, high, flag | at_zero[2] | JUMP)


def minimum(a: Interval, b: Interval) -> Interval:
    """min(a, b)."""
    return (min(a[0], b[0]), min(a[1], b[1]), a[2] | b[2])


def maximum(a: Interval, b: Interval) -> Interval:
    """max(a, b)."""
    return (max(a[0], b[0]), max(a[1], b[1]), a[2] | b[2])


def hull(a: Interval, b: Interval) -> Interval:
    """The smallest interval that contains both."""
    return (min(a[0], b[0]), max(a[1], b[1]), a[2] | b[2])
