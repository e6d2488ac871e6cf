"""Elementary functions of intervals, evaluated by Arb at the ends and rounded outward.

Monotone and even functions need their ends only; sine and cosine count their turns. Far out, where
Arb's exponents would leave the floats, a bound with room to spare stands in.
"""

import math
from collections.abc import Callable

from flint import arb

from pdsearch.enclosure.interval import (
    INF,
    NOWHERE,
    UNDEFINED,
    Interval,
    ball_interval,
    down,
    multiply,
    up,
)


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
    low, high = -INF, INF
    if lo >= -700.0:  # sinh(700) is 5.07e303
        low = 1e303 if lo > 700.0 else _sinh_small((lo, lo, 0))[0]
    if hi <= 700.0:
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
