"""Certified integrals against the standard normal density.

A smooth stretch goes to Arb's adaptive Gauss-Legendre integration (`acb.integral`, rigorous error
bounds from analyticity). Where a sign is undecided the stretch is bisected; what remains is so
short that its bound, sup·mass, is below 1e-7. Tails are bounded by sup·mass, or where g grows by
the sup of g·exp(-y²/8).
"""

import math
from collections.abc import Callable, Sequence
from fractions import Fraction

import sympy
from flint import acb, arb, ctx

from pdsearch.enclosure import clock
from pdsearch.enclosure import interval as iv
from pdsearch.enclosure.algebra import multiplied_out
from pdsearch.enclosure.interval import Interval, to_arb
from pdsearch.enclosure.nodes import prepare, tail_form
from pdsearch.enclosure.numbers import enclosed
from pdsearch.enclosure.pieces import Domain, Piece
from pdsearch.enclosure.pieces import y as y_symbol
from pdsearch.enclosure.program import Program
from pdsearch.enclosure.search import Bisection, Budget, Smooth
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
        pieces: A bound candidate's, from left to right.
        power: 1 or 2.
        budget: Shared; integration falls back to wider bounds when it is spent.
        shift: The constant c on a piece (the step's value there).
    """
    with ctx.workprec(PRECISION):
        total = arb(0)
        for piece in pieces:
            part = _piece_integral(piece, power, shift(piece), budget)
            if part is None:
                return iv.WHOLE
            total += part
        return iv.ball_interval(total)


def _piece_integral(piece: Piece, power: int, shift: int, budget: Budget) -> arb | None:
    piece = piece.with_expression(piece.expression - shift) if shift else piece
    if piece.local == sympy.S.Zero:  # no question to sympy's assumptions, which may factor
        return arb(0)
    function = Smooth.on(piece, Domain())
    if not piece.tail:
        places = enclosed(piece.lo), enclosed(piece.hi)
        if piece.mirrored:
            places = places[::-1]
        program = Program(prepare(piece.expression), (x,))
        return _stretch(function, program, places, (0.0, 1.0), power, budget)
    local = piece.local
    start = piece.start[0]
    total = arb(0)
    reach = max(float(REACH), start)
    if start < reach:
        # In the tail's own variable y, so that the formula is the one that encloses well.
        program = Program(local, (y_symbol,))
        total = _stretch(function, program, (arb(start), arb(reach)), (start, reach), power, budget)
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


Stretch = tuple[float, float]
"""The ends of a part of a piece, in its own variable."""


def _stretch(
    function: Smooth,
    program: Program,
    places: tuple[arb, arb],
    whole: Stretch,
    power: int,
    budget: Budget,
) -> arb:
    """Integrate between two places, which have the local coordinates of the stretch's ends."""

    def place(local: float) -> arb:
        # Exact shares, so that neighbouring stretches meet.
        first, last = map(Fraction, whole)
        return places[0] + (places[1] - places[0]) * to_arb(
            (Fraction(local) - first) / (last - first)
        )

    # Most shapes change sign once; the rest of the interval joins into two long runs.
    runs: list[tuple[float, float, int]] = []
    if power == 1:
        for (a, b), sign in _by_sign(function, whole, budget):
            if runs and sign and runs[-1][2] == sign:
                runs[-1] = (runs[-1][0], b, sign)
            else:
                runs.append((a, b, sign or 0))
    else:
        runs.append((*whole, 1))
    total = arb(0)
    for a, b, sign in runs:
        total += _run(function, program, place, (a, b), sign, power, budget)
        if not total.is_finite():
            break
    return total


def _halves(stretch: Stretch) -> tuple[Stretch, Stretch]:
    first, last = stretch
    middle = first + (last - first) / 2.0
    return (first, middle), (middle, last)


def _by_sign(function: Smooth, whole: Stretch, budget: Budget) -> Bisection[Stretch, int]:
    """Stretches from left to right with the sign of the function; None or 0 if it is not known."""
    shortest = 2.0**-24 * (whole[1] - whole[0])

    def sign(stretch: Stretch) -> int | None:
        clock.check()
        box = ((*stretch, 0),)
        low, high, flag = function.enclose(box)
        if not flag & (iv.UNDEFINED | iv.JUMP):
            if low < 0.0 < high and (slope := function.slope_sign(box, 0)):
                at_a, at_b = (function.enclose(((end, end, 0),)) for end in stretch)
                low, high = (at_a[0], at_b[1]) if slope > 0 else (at_b[0], at_a[1])
            if low >= 0.0 or high <= 0.0:
                return 1 if low >= 0.0 else -1
        # Below 1e-13 the sign may be rounding noise, and the integral is as small.
        return None if max(-low, high) > 1e-13 else 0

    def cut(stretch: Stretch) -> Sequence[Stretch] | None:
        long = stretch[1] - stretch[0] > shortest
        return _halves(stretch) if long and budget.spend() else None

    return Bisection([whole], judge=sign, cut=cut, key=lambda stretch: stretch[0])


def _run(
    function: Smooth,
    program: Program,
    place: Callable[[float], arb],
    whole: Stretch,
    sign: int,
    power: int,
    budget: Budget,
) -> arb:
    """Integrate over a stretch on which the function has a sign, 0 where it is not known."""

    def ends(stretch: Stretch) -> tuple[arb, arb]:
        lo, hi = place(stretch[0]), place(stretch[1])
        return (hi, lo) if lo > hi else (lo, hi)

    def bounds(stretch: Stretch) -> tuple[float, float] | None:
        low, high, flag = iv.absolute(function.enclose(((*stretch, 0),)))
        return None if flag & iv.UNDEFINED or not math.isfinite(high) else (low, high)

    def integrated(stretch: Stretch) -> arb | None:
        if not sign or bounds(stretch) is None or budget.over():
            return None
        return _arb_integral(program, *ends(stretch), sign, power)

    def cut(stretch: Stretch) -> Sequence[Stretch] | None:
        if not sign:
            return None
        # Where a pole or worse remains on so short a stretch, nothing finite will be shown.
        shortest = 1e-9 if bounds(stretch) is not None else 2.0**-20
        long = stretch[1] - stretch[0] > shortest
        return _halves(stretch) if long and budget.spend() and not budget.over() else None

    total = arb(0)
    for stretch, value in Bisection(
        [whole], judge=integrated, cut=cut, key=lambda stretch: stretch[0]
    ):
        if value is None:
            found = bounds(stretch)
            if found is None:
                return arb(0, math.inf)
            low, high = found
            size = arb((low + high) / 2, (high - low) / 2 + high * 1e-15)
            value = mass(*ends(stretch)) * size**power
        total += value
    return total


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
