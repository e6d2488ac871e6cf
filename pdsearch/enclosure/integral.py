"""Certified integrals against the standard normal density.

A smooth stretch goes to Arb's adaptive Gauss-Legendre integration (`acb.integral`, rigorous error
bounds from analyticity). Where a sign is undecided the stretch is bisected; what remains is so
short that its bound, sup·mass, is below 1e-7. Tails are bounded by sup·mass, or where g grows by
the sup of g·exp(-y²/8).
"""

import math
from collections.abc import Callable
from fractions import Fraction

import sympy
from flint import acb, arb, ctx, fmpq

from pdsearch.enclosure import clock
from pdsearch.enclosure import interval as iv
from pdsearch.enclosure.algebra import multiplied_out
from pdsearch.enclosure.interval import Interval
from pdsearch.enclosure.nodes import prepare, tail_form
from pdsearch.enclosure.pieces import Domain, Piece
from pdsearch.enclosure.pieces import y as y_symbol
from pdsearch.enclosure.program import Program
from pdsearch.enclosure.search import Budget, Smooth
from pdsearch.expression import x

PRECISION = 64
REACH = 12
"""Beyond |x| = 12 lies a mass of 3.6e-33: only bounded, not integrated."""


def mass(lo: arb, hi: arb) -> arb:
    """Φ(hi) - Φ(lo) for the standard normal distribution."""
    root = arb(2).sqrt()
    if lo > 0:
        return ((lo / root).erfc() - (hi / root).erfc()) / 2
    return ((-hi / root).erfc() - (-lo / root).erfc()) / 2


def gaussian_integral(
    pieces: list[Piece], power: int, budget: Budget, *, shift: Callable[[Piece], int]
) -> Interval:
    """Enclose the integral of |g(x) - c|^power times the standard normal density.

    Args:
        pieces: a bound candidate's, from left to right.
        power: 1 or 2.
        budget: shared; integration falls back to wider bounds when it is spent.
        shift: the constant c on a piece (the step's value there).
    """
    with ctx.workprec(PRECISION):
        total = arb(0)
        for piece in pieces:
            part = _piece_integral(piece, power, shift(piece), budget)
            if part is None:
                return iv.WHOLE
            total += part
        return iv.ball_interval(total)


def _number(value: sympy.Expr) -> arb:
    return Program(prepare(value), ()).ball(())


def _piece_integral(piece: Piece, power: int, shift: int, budget: Budget) -> arb | None:
    piece = piece.with_expression(piece.expression - shift) if shift else piece
    if piece.local == sympy.S.Zero:  # no question to sympy's assumptions, which may factor
        return arb(0)
    function = Smooth.on(piece, Domain())
    if not piece.tail:
        lo, hi = _number(piece.lo), _number(piece.hi)
        formula = prepare(piece.expression)
        if piece.mirrored:
            lo, hi = hi, lo
        return _stretch(function, formula, lo, hi, 0.0, 1.0, power, budget)
    local = piece.local
    start = piece.start[0]
    total = arb(0)
    reach = max(float(REACH), start)
    if start < reach:
        # In the tail's own variable y, so that the formula is the one that encloses well.
        total = _stretch(
            function, local, arb(start), arb(reach), start, reach, power, budget, position=None
        )
    rest = _tail(function, local, reach, power)
    return None if rest is None else total + rest


def _tail(function: Smooth, local: sympy.Expr, start: float, power: int) -> arb | None:
    """Bound the integral of |f(y)|^power φ(y) over [start, ∞)."""
    box = ((start, math.inf, 0),)
    lo, hi, flag = function.enclose(box)
    size = max(-lo, hi)
    root = arb(2).sqrt()
    if not flag & iv.UNDEFINED and math.isfinite(size):
        bound = arb(size) ** power * (arb(start) / root).erfc() / 2
        return _up_to(bound)
    damping = sympy.exp(-(y_symbol**2) / (8 * power))
    damped = tail_form(prepare(multiplied_out(local * damping)), y_symbol)
    program = Program(damped, (y_symbol,), tail=box)
    lo, hi, flag = program.enclose(box)
    size = max(-lo, hi)
    if flag & iv.UNDEFINED or not math.isfinite(size):
        return None
    # ∫ |f|^p φ ≤ size^p ∫ exp(y²/8 - y²/2)/√(2π) = size^p · √(4/3) · Q(start·√(3/4))
    scale = (arb(3) / 4).sqrt()
    return _up_to(arb(size) ** power / scale * (arb(start) * scale / root).erfc() / 2)


def _up_to(bound: arb) -> arb:
    """The ball of everything between 0 and the bound."""
    top = bound.upper()
    return arb(top / 2, top / 2)


def _stretch(
    function: Smooth,
    formula: sympy.Expr,
    lo: arb,
    hi: arb,
    first: float,
    last: float,
    power: int,
    budget: Budget,
    *,
    position: sympy.Symbol | None = x,
) -> arb:
    """Integrate between lo and hi, the places of the local coordinates first and last."""
    variable = y_symbol if position is None else x
    program = Program(formula, (variable,))

    def place(local: float) -> arb:
        # Exact ends, so that neighbouring stretches meet.
        share = Fraction(local) - Fraction(first)
        share /= Fraction(last) - Fraction(first)
        return lo + (hi - lo) * arb(fmpq(share.numerator, share.denominator))

    runs: list[tuple[float, float, int]] = []
    if power == 1:
        # Most shapes change sign once; the rest of the interval joins into two long runs.
        stack = [(first, last)]
        while stack:
            clock.check()
            a, b = stack.pop()
            low, high, flag = function.enclose(((a, b, 0),))
            sign = 0
            if not flag & (iv.UNDEFINED | iv.JUMP):
                if low < 0.0 < high:
                    slope = function.slope_sign(((a, b, 0),), 0)
                    if slope:
                        at_a, at_b = (function.enclose(((e, e, 0),)) for e in (a, b))
                        low, high = (at_a[0], at_b[1]) if slope > 0 else (at_b[0], at_a[1])
                sign = 1 if low >= 0.0 else (-1 if high <= 0.0 else 0)
            # Below 1e-13 the sign may be rounding noise, and the integral is as small.
            if (
                sign == 0
                and max(-low, high) > 1e-13
                and b - a > 2.0**-24 * (last - first)
                and budget.spend()
            ):
                middle = a + (b - a) / 2.0
                stack += [(middle, b), (a, middle)]
                continue
            if runs and sign and runs[-1][2] == sign:
                runs[-1] = (runs[-1][0], b, sign)
            else:
                runs.append((a, b, sign))
    else:
        runs.append((first, last, 1))
    total = arb(0)
    for a, b, sign in runs:
        total += _run(function, program, place, a, b, sign, power, budget)
        if not total.is_finite():
            break
    return total


def _run(
    function: Smooth,
    program: Program,
    place: Callable[[float], arb],
    first: float,
    last: float,
    sign: int,
    power: int,
    budget: Budget,
) -> arb:
    lo, hi = place(first), place(last)
    if lo > hi:
        lo, hi = hi, lo
    low, high, flag = iv.absolute(function.enclose(((first, last, 0),)))
    undefined = bool(flag & iv.UNDEFINED) or not math.isfinite(high)
    if sign and not undefined and not budget.over():
        value = _arb_integral(program, lo, hi, sign, power)
        if value is not None:
            return value
    # Where a pole or worse remains on so short a stretch, nothing finite will be shown.
    shortest = 2.0**-20 if undefined else 1e-9
    if sign and last - first > shortest and budget.spend() and not budget.over():
        middle = first + (last - first) / 2.0
        part = _run(function, program, place, first, middle, sign, power, budget)
        if not part.is_finite():
            return part
        return part + _run(function, program, place, middle, last, sign, power, budget)
    if undefined:
        return arb(0, math.inf)
    weight = mass(lo, hi)
    return weight * arb((low + high) / 2, (high - low) / 2 + high * 1e-15) ** power


def _arb_integral(program: Program, lo: arb, hi: arb, sign: int, power: int) -> arb | None:
    """Arb's integral of (sign·f)^power φ, or None where it finds no usable bound."""
    norm = 1 / (2 * arb.pi()).sqrt()

    choices = program.choices((iv.ball_interval(lo.union(hi)),))
    if choices is None:
        return None

    def integrand(z: acb, analytic: bool) -> acb:
        if clock.time_is_up():
            return acb(arb.nan(), arb.nan())
        value = program.complex_ball((z,), choices)
        if power == 2:
            value = value * value
        return value * (-(z * z) / 2).exp()

    result = acb.integral(
        integrand,
        acb(lo),
        acb(hi),
        rel_tol=arb(2) ** -40,
        abs_tol=arb(2) ** -44,
        eval_limit=1500,
    )
    real = result.real
    if not real.is_finite() or float(real.rad()) > 1e-7:
        return None
    return sign**power * real * norm
