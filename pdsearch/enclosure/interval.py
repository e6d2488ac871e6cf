"""Interval arithmetic on float end points, every result rounded outward.

A value is a triple ``(lo, hi, flag)``: every real value that the expression takes where it is
defined lies in ``[lo, hi]``. An infinite end point stands for "unbounded", not for a value, which
is why ``0 * inf`` is 0 here: zero times any real number is zero.

Sums are rounded only where they are inexact (Knuth's TwoSum tells), so that zeros at the ends of a
box stay zeros; ``math.nextafter`` does the rounding elsewhere. Transcendental functions are
evaluated at the end points by Arb (python-flint), whose balls are rigorous.
"""

import math
from collections.abc import Callable
from typing import Final

from flint import arb

Interval = tuple[float, float, int]

INF: Final = math.inf
UNDEFINED: Final = 1
"""Somewhere in the box the expression may have no real value (a pole, the log of a negative)."""
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


def add(a: Interval, b: Interval) -> Interval:
    """A + b."""
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
        # An unbounded end on the other side: only reached as max float + inf and the like.
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
    """A · b."""
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
    """A ** exponent for a whole exponent other than 0."""
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


def real_power(a: Interval, exponent: Interval) -> Interval:
    """A ** exponent through exp(exponent · log a); a must not be negative."""
    flag = a[2] | exponent[2]
    if a[0] < 0.0:
        flag |= UNDEFINED
        if a[1] < 0.0:
            return NOWHERE
        a = (0.0, a[1], flag)
    if a[0] == 0.0 and not exponent[0] > 0.0:
        flag |= UNDEFINED
    powers = exponential(multiply(exponent, logarithm((a[0], a[1], 0), zero_is_fine=True)))
    if a[1] == 0.0:
        return (0.0, 0.0, flag) if exponent[0] > 0.0 else NOWHERE
    return (powers[0], powers[1], flag)


def _at_point(
    function: Callable[[arb], arb], at_minus_infinity: float, at_plus_infinity: float
) -> Callable[[float], tuple[float, float]]:
    cache: dict[float, tuple[float, float]] = {}

    def evaluate(value: float) -> tuple[float, float]:
        known = cache.get(value)
        if known is not None:
            return known
        if value == INF:
            result = (at_plus_infinity, at_plus_infinity)
        elif value == -INF:
            result = (at_minus_infinity, at_minus_infinity)
        else:
            lo, hi, _ = ball_interval(function(arb(value)))
            result = (lo, hi)
        if len(cache) > 20_000:  # bounded memory in long searches
            cache.clear()
        cache[value] = result
        return result

    return evaluate


_exp_at_raw = _at_point(lambda v: v.exp(), 0.0, INF)


def _exp_at(value: float) -> tuple[float, float]:
    if -700.0 < value < 700.0 or value in (INF, -INF):
        return _exp_at_raw(value)
    if value > 0.0:
        return (1e304, INF)  # exp(700) is above 1.01e304
    return (0.0, 1e-304)  # exp(-700) is below 9.9e-305


def exponential(a: Interval) -> Interval:
    """exp(a)."""
    return (max(_exp_at(a[0])[0], 0.0), _exp_at(a[1])[1], a[2])


_log_at = _at_point(lambda v: v.log(), -INF, INF)


def logarithm(a: Interval, *, zero_is_fine: bool = False) -> Interval:
    """log(a)."""
    lo, hi, flag = a
    if lo <= 0.0:
        if not (zero_is_fine and lo == 0.0):
            flag |= UNDEFINED
        if hi < 0.0 or (hi == 0.0 and not zero_is_fine):
            return NOWHERE
        return (-INF, _log_at(hi)[1] if hi > 0.0 else -INF, flag)
    return (_log_at(lo)[0], _log_at(hi)[1], flag)


def _increasing(
    function: Callable[[arb], arb],
    at_minus_infinity: float,
    at_plus_infinity: float,
    *,
    least: float = -INF,
    most: float = INF,
) -> Callable[[Interval], Interval]:
    point = _at_point(function, at_minus_infinity, at_plus_infinity)

    def apply(a: Interval) -> Interval:
        return (max(point(a[0])[0], least), min(point(a[1])[1], most), a[2])

    return apply


def _even(
    function: Callable[[arb], arb],
    at_zero: float,
    at_infinity: float,
    *,
    rising: bool,
    least: float,
) -> Callable[[Interval], Interval]:
    """An even function, monotone in |u|."""
    point = _at_point(function, at_infinity, at_infinity)

    def apply(a: Interval) -> Interval:
        lo, hi, flag = a
        near = 0.0 if lo <= 0.0 <= hi else min(abs(lo), abs(hi))
        far = max(abs(lo), abs(hi))
        at_near = (at_zero, at_zero) if near == 0.0 else point(near)
        at_far = (at_zero, at_zero) if far == 0.0 else point(far)
        if rising:
            return (max(at_near[0], least), at_far[1], flag)
        return (max(at_far[0], least), at_near[1], flag)

    return apply


def arb_sigmoid(value: arb) -> arb:
    """1 / (1 + exp(-value)), each side of zero in its stable form."""
    if value < 0:
        power = value.exp()
        return power / (1 + power)
    return 1 / (1 + (-value).exp())


def arb_softplus(value: arb) -> arb:
    """log(1 + exp(value))."""
    if value > 0:
        return value + (-value).exp().log1p()
    return value.exp().log1p()


def arb_bell(value: arb) -> arb:
    """σ(u)·σ(-u) = 1 / (4 cosh²(u/2))."""
    size = abs(value)
    power = (-size).exp()
    return power / (1 + power) ** 2


def arb_sech2(value: arb) -> arb:
    """1 / cosh²(u)."""
    return 4 * arb_bell(2 * value)


def arb_erfc_ratio(value: arb) -> arb:
    """exp(-u²)·2/√π / erfc(u): minus the logarithmic derivative of erfc; increasing."""
    return 2 * (-value * value).exp() / (arb.pi().sqrt() * value.erfc())


def arb_arccot(value: arb) -> arb:
    """π/2 - atan(u), without cancellation for large u."""
    if value > 1:
        return (1 / value).atan()
    return arb.pi() / 2 - value.atan()


def _guarded(function: Callable[[arb], arb], limit: float) -> Callable[[arb], arb]:
    """Arguments beyond ±limit moved there: for bounded monotone functions with room to spare."""

    def apply(value: arb) -> arb:
        if abs(value) > limit:
            sign = 1 if value > 0 else -1
            near = function(arb(sign * limit))
            # Beyond ±limit the function lies between its value there and its limit, which is
            # within 1e-300 of it: the ball of that radius holds both.
            return near + arb(0, 1e-300)
        return function(value)

    return apply


sigmoid = _increasing(_guarded(arb_sigmoid, 700.0), 0.0, 1.0, least=0.0, most=1.0)
tanh = _increasing(_guarded(lambda v: v.tanh(), 400.0), -1.0, 1.0, least=-1.0, most=1.0)
erf = _increasing(_guarded(lambda v: v.erf(), 27.0), -1.0, 1.0, least=-1.0, most=1.0)
atan = _increasing(lambda v: v.atan(), -1.5707963267948968, 1.5707963267948968)
_arccot_at = _at_point(arb_arccot, 3.1415926535897936, 0.0)
_sinh_small = _increasing(lambda v: v.sinh(), -INF, INF)
_softplus_small = _increasing(arb_softplus, 0.0, INF, least=0.0)
_erfc_small = _at_point(lambda v: v.erfc(), 2.0, 0.0)
_cosh_small = _even(lambda v: v.cosh(), 1.0, INF, rising=True, least=1.0)
_bell_small = _even(arb_bell, 0.25, 0.0, rising=False, least=0.0)
_sech2_small = _even(arb_sech2, 1.0, 0.0, rising=False, least=0.0)
_ratio_small = _increasing(arb_erfc_ratio, 0.0, INF, least=0.0)


def arccot(a: Interval) -> Interval:
    """π/2 - atan(a)."""
    return (max(_arccot_at(a[1])[0], 0.0), _arccot_at(a[0])[1], a[2])


def erfc(a: Interval) -> Interval:
    """The complementary error function."""
    lo = 0.0 if a[1] > 26.0 else max(_erfc_small(a[1])[0], 0.0)
    if a[0] > 26.0:
        hi = 1e-290  # erfc(26) is 5.7e-296
    elif a[0] < -26.0:
        hi = 2.0
    else:
        hi = min(_erfc_small(a[0])[1], 2.0)
    return (lo, hi, a[2])


def sinh(a: Interval) -> Interval:
    """The hyperbolic sine."""
    lo, hi, flag = a
    if lo < -700.0:
        low = -INF
    else:  # sinh(700) is 5.07e303
        low = 1e303 if lo > 700.0 else _sinh_small((lo, lo, 0))[0]
    if hi > 700.0:
        high = INF
    else:
        high = -1e303 if hi < -700.0 else _sinh_small((hi, hi, 0))[1]
    return (low, high, flag)


def softplus(a: Interval) -> Interval:
    """log(1 + exp(a))."""
    lo, hi, flag = a
    low = 0.0 if lo < -700.0 else (lo if lo > 700.0 else _softplus_small((lo, lo, 0))[0])
    if hi < -700.0:
        high = 1e-304
    elif hi > 700.0:
        high = up(hi)
    else:
        high = _softplus_small((hi, hi, 0))[1]
    return (low, high, flag)


def _clipped(
    function: Callable[[Interval], Interval], limit: float, *, least: float, most: float
) -> Callable[[Interval], Interval]:
    """An even function evaluated within ±limit; beyond, only ``least`` and ``most`` are claimed."""

    def apply(a: Interval) -> Interval:
        lo, hi, flag = a
        if -limit <= lo and hi <= limit:
            return function(a)
        if lo > limit or hi < -limit:
            return (least, most, flag)
        inner = function((max(lo, -limit), min(hi, limit), 0))
        return (min(inner[0], least), max(inner[1], most), flag)

    return apply


cosh = _clipped(_cosh_small, 700.0, least=5e303, most=INF)
bell = _clipped(_bell_small, 690.0, least=0.0, most=1e-299)
sech2 = _clipped(_sech2_small, 340.0, least=0.0, most=1e-290)


def erfc_ratio(a: Interval) -> Interval:
    """The increasing function 2·exp(-u²)/(√π·erfc(u)), between u and 2u + 2 for u > 0."""
    lo, hi, flag = a
    low = 0.0 if lo < -26.0 else (lo if lo > 1e4 else _ratio_small((lo, lo, 0))[0])
    if hi == INF:
        high = INF
    elif hi > 1e4:
        high = up(up(2.0 * hi) + 2.0)
    else:
        high = 1e-290 if hi < -26.0 else _ratio_small((hi, hi, 0))[1]
    return (low, high, flag)


def _wave(a: Interval, shift: float) -> Interval:
    """sin(a + shift·π/2) for shift 0 or 1, extremes found by counting half periods."""
    lo, hi, flag = a
    if not hi - lo < 6.28 or max(abs(lo), abs(hi)) > 1e15:
        return (-1.0, 1.0, flag)
    function = arb.cos if shift else arb.sin
    first = ball_interval(function(arb(lo)))
    last = ball_interval(function(arb(hi)))
    low, high = min(first[0], last[0]), max(first[1], last[1])
    # sin has its maxima at π/2 + 2πk, its minima at -π/2 + 2πk; cos at 2πk and π + 2πk.
    pi = arb.pi()
    for offset, peak in ((0.5, True), (-0.5, False)) if not shift else ((0, True), (1, False)):
        first_turn = (arb(lo) / pi - offset) / 2
        last_turn = (arb(hi) / pi - offset) / 2
        last_whole = math.floor(up(float(last_turn.upper())))
        if last_whole >= math.ceil(down(float(first_turn.lower()))):
            if peak:
                high = 1.0
            else:
                low = -1.0
    return (max(low, -1.0), min(high, 1.0), flag)


def sine(a: Interval) -> Interval:
    """sin(a)."""
    return _wave(a, 0)


def cosine(a: Interval) -> Interval:
    """cos(a)."""
    return _wave(a, 1)


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
    """The smallest interval that holds both."""
    return (min(a[0], b[0]), max(a[1], b[1]), a[2] | b[2])


def intersection(a: Interval, b: Interval) -> Interval:
    """Where both enclose the same quantity: the tighter ends (flags of ``a``)."""
    lo, hi = max(a[0], b[0]), min(a[1], b[1])
    return (lo, hi, a[2]) if lo <= hi else a
