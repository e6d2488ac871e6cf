"""A bound candidate's shape: its pieces, its exact values at breakpoints, certified evaluation."""

import functools
import itertools
import math
from fractions import Fraction
from typing import cast

import sympy
from flint import arb, ctx, fmpq
from sympy import S

from pdsearch.enclosure.clock import OutOfReachError
from pdsearch.enclosure.defined import is_defined
from pdsearch.enclosure.nodes import prepare
from pdsearch.enclosure.numbers import as_float
from pdsearch.enclosure.pieces import Domain, Piece, cut
from pdsearch.enclosure.points import ends_at, evaluated, sign_at
from pdsearch.enclosure.program import Program, UndecidedError
from pdsearch.enclosure.search import Budget, Minimum, Smooth, minimum
from pdsearch.expression import t, x

UNBOUNDED_BEYOND = 1e9
"""A supremum above this is reported as at least this: the search for it stops."""


class Shape:
    """One pseudo-derivative, cut into smooth pieces once for all criteria.

    Args:
        expression: g in `x` and maybe `t`, without other symbols; taken at t = 0.
        budget: what each decision may cost.
    """

    def __init__(self, expression: sympy.Expr, *, budget: Budget | None = None) -> None:
        self.expression = cast(sympy.Expr, expression.xreplace({t: S.Zero}))
        self.budget = budget or Budget()
        self.domain = Domain()
        self._no_pieces = ""

    @functools.cached_property
    def pieces(self) -> list[Piece]:
        """The smooth pieces, from left to right, cut at 0 as well.

        Raises:
            OutOfReachError: they cannot be found in time; asked again, at once.
        """
        if self._no_pieces:
            raise OutOfReachError(self._no_pieces)
        try:
            return cut(self.expression)
        except OutOfReachError as error:
            self._no_pieces = str(error)
            raise

    @functools.cached_property
    def functions(self) -> list[Smooth]:
        """G on each piece."""
        return [Smooth.on(piece, self.domain) for piece in self.pieces]

    @functools.cached_property
    def program(self) -> Program:
        """G as it was written, for certified evaluation at a point."""
        return Program(prepare(self.expression), (x,))

    @functools.cached_property
    def breakpoints(self) -> list[tuple[Piece, sympy.Expr, Piece]]:
        """Each place where g may bend, jump or have a value of its own, between its pieces.

        Where an unbounded piece starts is no such place: it lies beyond all of them.
        """
        return [
            (left, left.hi, right)
            for left, right in itertools.pairwise(self.pieces)
            if not (left.tail or right.tail)
        ]

    @functools.cached_property
    def undefined(self) -> str | None:
        """What is not shown of the formula's being a finite real number everywhere; None if all."""
        return is_defined(self.expression, self.domain, self.budget.fresh())

    def value_at(self, place: sympy.Expr) -> sympy.Expr | None:
        """G at an exact point as an exact number; None where it is undefined or not decided."""
        return evaluated(self.expression, place)

    def sign_at(self, place: sympy.Expr) -> int | None:
        """The exact sign of g at an exact point; None where it is undefined or not decided."""
        return sign_at(self.expression, place)

    def ball(self, place: Fraction | float, *, precision: int = 128) -> arb | None:
        """G at an exact rational point, certified; None where it is undefined or undecided."""
        exact = Fraction(place)
        for bits in (precision, 4 * precision, 16 * precision):
            with ctx.workprec(bits):
                try:
                    value = self.program.ball([arb(fmpq(exact.numerator, exact.denominator))])
                except UndecidedError:
                    continue
                if value.is_finite():
                    return value
        return None

    @functools.cached_property
    def infimum(self) -> "Extreme":
        """The infimum of g, as tight as a small budget makes it."""
        return self._extreme(1)

    @functools.cached_property
    def supremum(self) -> "Extreme":
        """The supremum of g, as the infimum of -g, negated."""
        return self._extreme(-1)

    def _extreme(self, sign: int) -> "Extreme":
        lows: list[Minimum] = []
        for piece, function in zip(self.pieces, self.functions, strict=True):
            oriented = function if sign > 0 else negated(function)
            lows.append(
                minimum(
                    oriented,
                    Budget(boxes=max(self.budget.boxes // 20, 200), seconds=self.budget.seconds),
                    below=-UNBOUNDED_BEYOND,
                )
            )
            del piece
        best = min(range(len(lows)), key=lambda i: (lows[i].hi, lows[i].lo))
        lo = min(low.lo for low in lows)
        hi = lows[best].hi
        # Values at breakpoints themselves, which no open piece holds.
        for _, place, _ in self.breakpoints:
            ends = ends_at(self.expression, place)
            if ends is None:
                lo = -math.inf
                continue
            low, high = ends if sign > 0 else (-ends[1], -ends[0])
            lo, hi = min(lo, low), min(hi, high)
        complete = all(low.complete for low in lows)
        point = lows[best].point
        return Extreme(sign, lo, hi, best, point, complete)

    def x_at(self, index: int, local: float) -> Fraction | None:
        """X of a local coordinate on a piece, if rational; else the nearest float of it."""
        piece = self.pieces[index]
        exact = Fraction(local)
        place = piece.position.xreplace(
            {piece.variable: sympy.Rational(exact.numerator, exact.denominator)}
        )
        if place.is_Rational:
            return Fraction(int(place.p), int(place.q))
        return Fraction(as_float(place))


class Extreme:
    """An enclosure of inf g (sign 1) or of -sup g (sign -1)."""

    def __init__(
        self,
        sign: int,
        lo: float,
        hi: float,
        piece: int,
        point: tuple[float, ...] | None,
        complete: bool,
    ) -> None:
        self.sign, self.lo, self.hi = sign, lo, hi
        self.piece, self.point, self.complete = piece, point, complete

    @property
    def interval(self) -> tuple[float, float]:
        """The enclosure of inf g, or of sup g."""
        return (self.lo, self.hi) if self.sign > 0 else (-self.hi, -self.lo)


def negated(function: Smooth) -> Smooth:
    """-f on the same piece."""
    return Smooth(
        -function.local,
        function.variables[0],
        function.domain,
        function.start,
        plain=None if function.plain is None else -function.plain,
        depth=function.depth,
    )
