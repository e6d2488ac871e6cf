"""Elementary functions of intervals, evaluated by Arb at the ends and rounded outward.

Monotone and even functions need only the ends; sine and cosine count their turns. Far out, where
Arb's exponents would leave the floats, a generous bound replaces the evaluation.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

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

Ends = tuple[float, float]
"""The floats around a function's value at a point."""


def _at_point(
    function: Callable[[arb], arb],
    *,
    span: Ends = (-INF, INF),
    below: Ends | Callable[[float], Ends] = NOWHERE[:2],
    above: Ends | Callable[[float], Ends] = NOWHERE[:2],
) -> Callable[[float], Ends]:
    """A function of one float, evaluated by Arb.

    Args:
        function: What Arb evaluates.
        span: Where. Beyond it the exponents leave the floats, or the function is constant.
        below: Lower and upper bound of the function below the span.
        above: The same above it.
    """

    @functools.lru_cache(maxsize=20_000)  # bounded memory in long searches
    def evaluate(value: float) -> Ends:
        if not span[0] <= value <= span[1]:
            far = below if value < span[0] else above
            return far(value) if callable(far) else far
        return ball_interval(function(arb(value)))[:2]

    return evaluate


def _monotone(
    point: Callable[[float], Ends], *, rising: bool = True, least: float = -INF, most: float = INF
) -> Callable[[Interval], Interval]:
    """A monotone function of an interval, with values between ``least`` and ``most``."""

    def apply(a: Interval) -> Interval:
        first, last = (a[0], a[1]) if rising else (a[1], a[0])
        return (max(point(first)[0], least), min(point(last)[1], most), a[2])

    return apply


def _even(
    point: Callable[[float], Ends], at_zero: float, *, rising: bool
) -> Callable[[Interval], Interval]:
    """An even function of an interval, monotone in |u|, with values of one sign."""
    at_0 = (at_zero, at_zero)

    def apply(a: Interval) -> Interval:
        lo, hi, flag = a
        near = 0.0 if lo <= 0.0 <= hi else min(abs(lo), abs(hi))
        far = max(abs(lo), abs(hi))
        at_near = at_0 if near == 0.0 else point(near)
        at_far = at_0 if far == 0.0 else point(far)
        first, last = (at_near, at_far) if rising else (at_far, at_near)
        return (max(first[0], at_zero if rising else 0.0), last[1], flag)

    return apply


def ball_sigmoid(z: Any) -> Any:
    """1 / (1 + exp(-z)) of a real or complex ball, in the form that is stable on its side of 0."""
    if float(z.real.mid()) < 0.0:
        power = z.exp()
        return power / (1 + power)
    return 1 / (1 + (-z).exp())


def ball_bell(z: Any) -> Any:
    """σ(z)·σ(-z) = 1 / (4 cosh²(z/2)) of a real or complex ball."""
    power = (-z if float(z.real.mid()) > 0.0 else z).exp()
    return power / (1 + power) ** 2


def ball_sech2(z: Any) -> Any:
    """1 / cosh²(z) of a real or complex ball."""
    return 4 * ball_bell(2 * z)


def arb_softplus(value: arb) -> arb:
    """log(1 + exp(value))."""
    if value > 0:
        return value + (-value).exp().log1p()
    return value.exp().log1p()


def arb_erfc_ratio(value: arb) -> arb:
    """exp(-u²)·2/√π / erfc(u): minus the logarithmic derivative of erfc; increasing."""
    return 2 * (-value * value).exp() / (arb.pi().sqrt() * value.erfc())


def arb_arccot(value: arb) -> arb:
    """π/2 - atan(u), without cancellation for large u."""
    if value > 1:
        return (1 / value).atan()
    return arb.pi() / 2 - value.atan()


_log_at = _at_point(lambda v: v.log())


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


# Beyond its span, each function is as near to its limit as the bounds state.
exponential = _monotone(
    # exp(700) is above 1.01e304, exp(-700) below 9.9e-305
    _at_point(lambda v: v.exp(), span=(-700.0, 700.0), below=(0.0, 1e-304), above=(1e304, INF)),
    least=0.0,
)
sinh = _monotone(
    # sinh(700) is 5.07e303
    _at_point(lambda v: v.sinh(), span=(-700.0, 700.0), below=(-INF, -1e303), above=(1e303, INF))
)
softplus = _monotone(
    _at_point(arb_softplus, span=(-700.0, 700.0), below=(0.0, 1e-304), above=lambda v: (v, up(v))),
    least=0.0,
)
sigmoid = _monotone(
    _at_point(ball_sigmoid, span=(-700.0, 700.0), below=(0.0, 1e-303), above=(down(1.0), 1.0)),
    least=0.0,
    most=1.0,
)
tanh = _monotone(
    _at_point(
        lambda v: v.tanh(), span=(-400.0, 400.0), below=(-1.0, up(-1.0)), above=(down(1.0), 1.0)
    ),
    least=-1.0,
    most=1.0,
)
erf = _monotone(
    _at_point(
        lambda v: v.erf(), span=(-27.0, 27.0), below=(-1.0, up(-1.0)), above=(down(1.0), 1.0)
    ),
    least=-1.0,
    most=1.0,
)
erfc = _monotone(
    # erfc(26) is 5.7e-296
    _at_point(lambda v: v.erfc(), span=(-26.0, 26.0), below=(down(2.0), 2.0), above=(0.0, 1e-290)),
    rising=False,
    least=0.0,
    most=2.0,
)
# Upper bounds of π/2 and π.
atan = _monotone(_at_point(lambda v: v.atan()), least=-up(math.pi / 2), most=up(math.pi / 2))
arccot = _monotone(_at_point(arb_arccot), rising=False, least=0.0, most=up(math.pi))
erfc_ratio = _monotone(
    # between u and 2u + 2 for u > 0
    _at_point(
        arb_erfc_ratio,
        span=(-26.0, 1e4),
        below=(0.0, 1e-290),
        above=lambda v: (v, up(up(2.0 * v) + 2.0)),
    ),
    least=0.0,
)
cosh = _even(
    _at_point(lambda v: v.cosh(), span=(-700.0, 700.0), above=(5e303, INF)), 1.0, rising=True
)
bell = _even(_at_point(ball_bell, span=(-690.0, 690.0), above=(0.0, 1e-299)), 0.25, rising=False)
sech2 = _even(_at_point(ball_sech2, span=(-340.0, 340.0), above=(0.0, 1e-290)), 1.0, rising=False)


def _wave(a: Interval, *, shifted: bool) -> Interval:
    """sin(a), or sin(a + π/2) if shifted; extremes are found by counting half periods."""
    lo, hi, flag = a
    if not hi - lo < 6.28 or max(abs(lo), abs(hi)) > 1e15:
        return (-1.0, 1.0, flag)
    function = arb.cos if shifted else arb.sin
    first = ball_interval(function(arb(lo)))
    last = ball_interval(function(arb(hi)))
    low, high = min(first[0], last[0]), max(first[1], last[1])
    # sin has its maxima at π/2 + 2πk, its minima at -π/2 + 2πk; cos at 2πk and π + 2πk.
    pi = arb.pi()
    for offset, peak in ((0, True), (1, False)) if shifted else ((0.5, True), (-0.5, False)):
        first_turn = (arb(lo) / pi - offset) / 2
        last_turn = (arb(hi) / pi - offset) / 2
        last_whole = math.floor(up(float(last_turn.upper())))
        if last_whole >= math.ceil(down(float(first_turn.lower()))):
            if peak:
                high = 1.0
            else:
                low = -1.0
    return (max(low, -1.0), min(high, 1.0), flag)


sine = functools.partial(_wave, shifted=False)
cosine = functools.partial(_wave, shifted=True)


def real_power(a: Interval, exponent: Interval) -> Interval:
    """The power a ** exponent as exp(exponent · log a); a must not be negative."""
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
