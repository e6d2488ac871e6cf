"""Certified integrals against the standard normal density.

Arb integrates smooth stretches by adaptive Gauss-Legendre quadrature (`acb.integral`, with rigorous
error bounds from analyticity). Where a sign is undecided the stretch is bisected; the remainder is
so short that its bound, sup·mass, is below 1e-7. Tails are bounded by sup·mass or, where g grows,
by the sup of g·exp(-y²/8).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeVar

import sympy
from flint import acb, arb, ctx

from pdsearch.enclosure import clock
from pdsearch.enclosure import interval as iv
from pdsearch.enclosure.algebra import multiplied_out
from pdsearch.enclosure.interval import Interval, to_arb
from pdsearch.enclosure.nodes import prepare, tail_form
from pdsearch.enclosure.numbers import enclosed
from pdsearch.enclosure.pieces import Domain, Piece, y
from pdsearch.enclosure.program import Program
from pdsearch.enclosure.search import Bisection, Budget, Smooth
from pdsearch.expression import x

V = TypeVar("V")

PRECISION = 64
REACH = 12
"""The mass beyond |x| = 12 is 3.6e-33: it is bounded, not integrated."""


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
        pieces: Those of a bound candidate, from left to right.
        power: 1 or 2.
        budget: Shared; once it is spent, wider bounds replace integration.
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
    if piece.local == sympy.S.Zero:  # sympy's assumptions are not asked: they may factor
        return arb(0)
    function = Smooth.on(piece, Domain())
    if not piece.tail:
        places = enclosed(piece.lo), enclosed(piece.hi)
        if piece.mirrored:
            places = places[::-1]
        program = Program(prepare(piece.expression), (x,))
        return _Integral(function, program, places, (0.0, 1.0), power, budget).value()
    start = piece.start[0]
    reach = max(float(REACH), start)
    total = arb(0)
    if start < reach:
        # In the tail's own variable y, whose formula has tighter enclosures.
        program = Program(piece.local, (y,))
        places = arb(start), arb(reach)
        total = _Integral(function, program, places, (start, reach), power, budget).value()
    rest = _tail(function, reach, power)
    return None if rest is None else total + rest


def _tail(function: Smooth, start: float, power: int) -> arb | None:
    """Bound the integral of |f(y)|^power φ(y) over [start, ∞)."""
    box = ((start, math.inf, 0),)
    root, scale = arb(2).sqrt(), arb(1)
    found = _bounds(function.enclose(box))
    if found is None:
        # ∫ |f|^p φ ≤ size^p ∫ exp(y²/8 - y²/2)/√(2π) = size^p · √(4/3) · Q(start·√(3/4))
        damping = sympy.exp(-(y**2) / (8 * power))
        damped = tail_form(prepare(multiplied_out(function.local * damping)), y)
        found = _bounds(Program(damped, (y,), tail=box).enclose(box))
        scale = (arb(3) / 4).sqrt()
    if found is None:
        return None
    top = (arb(found[1]) ** power / scale * (arb(start) * scale / root).erfc() / 2).upper()
    return arb(top / 2, top / 2)  # everything between 0 and the bound


def _bounds(value: Interval) -> tuple[float, float] | None:
    """Bounds of the size of a value; None where it may be undefined or unbounded."""
    low, high, flag = iv.absolute(value)
    return None if flag & iv.UNDEFINED or not math.isfinite(high) else (low, high)


Part = tuple[float, float]
"""The ends of a part of a piece, in its own variable."""


@dataclass(frozen=True)
class _Integral:
    """The integral of |f|^power φ between two places.

    Attributes:
        function: f in the piece's own variable, for bounds.
        program: f for Arb's integration.
        places: The two places, for the program.
        whole: The same in the piece's own variable.
        power: 1 or 2.
        budget: Shared.
    """

    function: Smooth
    program: Program
    places: tuple[arb, arb]
    whole: Part
    power: int
    budget: Budget

    def value(self) -> arb:
        """Integrate over runs of one sign."""
        # Most shapes change sign once: neighbours of one sign join into long runs.
        runs: list[tuple[Part, int]] = []
        for part, sign in self._by_sign() if self.power == 1 else [(self.whole, 1)]:
            if runs and sign and runs[-1][1] == sign:
                runs[-1] = ((runs[-1][0][0], part[1]), sign)
            else:
                runs.append((part, sign or 0))
        total = arb(0)
        for part, sign in runs:
            total += self._over_a_run(part, sign)
            if not total.is_finite():
                break
        return total

    def _ends(self, part: Part) -> tuple[arb, arb]:
        # Exact shares, so that neighbouring parts meet.
        first, last = map(Fraction, self.whole)
        lo, hi = (
            self.places[0]
            + (self.places[1] - self.places[0]) * to_arb((Fraction(end) - first) / (last - first))
            for end in part
        )
        return (hi, lo) if lo > hi else (lo, hi)

    def _from_the_left(
        self,
        whole: Part,
        judge: Callable[[Part], V | None],
        shortest: Callable[[Part], float],
    ) -> Bisection[Part, V]:
        """Parts from left to right; one that is not longer than the shortest is not cut."""

        def cut(part: Part) -> Sequence[Part] | None:
            first, last = part
            middle = first + (last - first) / 2.0
            long = last - first > shortest(part)
            return ((first, middle), (middle, last)) if long else None

        return Bisection([whole], judge=judge, cut=cut, budget=self.budget, key=lambda one: one[0])

    def _by_sign(self) -> Bisection[Part, int]:
        """Parts from left to right with the sign of the function; None or 0 if it is not known."""
        function, shortest = self.function, 2.0**-24 * (self.whole[1] - self.whole[0])

        def sign(part: Part) -> int | None:
            clock.check()
            box = ((*part, 0),)
            low, high, flag = function.enclose(box)
            if not flag & (iv.UNDEFINED | iv.JUMP):
                if low < 0.0 < high and (slope := function.slope_sign(box, 0)):
                    at_a, at_b = (function.enclose(((end, end, 0),)) for end in part)
                    low, high = (at_a[0], at_b[1]) if slope > 0 else (at_b[0], at_a[1])
                if low >= 0.0 or high <= 0.0:
                    return 1 if low >= 0.0 else -1
            # Below 1e-13 the sign may be rounding noise, and the integral is as small.
            return None if max(-low, high) > 1e-13 else 0

        return self._from_the_left(self.whole, sign, lambda _: shortest)

    def _over_a_run(self, run: Part, sign: int) -> arb:
        """Integrate where the function has one sign; 0 means that it is not known."""

        def bounds(part: Part) -> tuple[float, float] | None:
            return _bounds(self.function.enclose(((*part, 0),)))

        def integrated(part: Part) -> arb | None:
            if not sign or bounds(part) is None or self.budget.over():
                return None
            return self._by_arb(*self._ends(part), sign)

        def shortest(part: Part) -> float:
            # If a pole or worse remains on so short a part, no finite bound exists.
            return math.inf if not sign else (1e-9 if bounds(part) is not None else 2.0**-20)

        total = arb(0)
        for part, value in self._from_the_left(run, integrated, shortest):
            if value is None:
                found = bounds(part)
                if found is None:
                    return arb(0, math.inf)
                low, high = found
                size = arb((low + high) / 2, (high - low) / 2 + high * 1e-15)
                value = mass(*self._ends(part)) * size**self.power
            total += value
        return total

    def _by_arb(self, lo: arb, hi: arb, sign: int) -> arb | None:
        """Arb's integral of (sign·f)^power φ, or None where it finds no usable bound."""
        choices = self.program.choices((iv.ball_interval(lo.union(hi)),))
        if choices is None:
            return None

        def integrand(z: acb, analytic: bool) -> acb:
            if clock.time_is_up():
                return acb(arb.nan(), arb.nan())
            value = self.program.complex_ball((z,), choices)
            if self.power == 2:
                value = value * value
            return value * (-(z * z) / 2).exp()

        real = acb.integral(
            integrand,
            acb(lo),
            acb(hi),
            rel_tol=arb(2) ** -40,
            abs_tol=arb(2) ** -44,
            eval_limit=1500,
        ).real
        if not real.is_finite() or float(real.rad()) > 1e-7:
            return None
        return sign**self.power * real * (1 / (2 * arb.pi()).sqrt())
