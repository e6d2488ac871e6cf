"""A formula over a box of its parameters: its smooth pieces, and certified evaluation."""

import functools
import itertools
import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import sympy
from flint import ctx
from sympy import S

from pdsearch.criteria.means import Means
from pdsearch.enclosure import interval as iv
from pdsearch.enclosure.algebra import factored
from pdsearch.enclosure.clock import OutOfReachError
from pdsearch.enclosure.defined import is_defined
from pdsearch.enclosure.interval import Box, to_arb
from pdsearch.enclosure.nodes import exponentials, prepare
from pdsearch.enclosure.numbers import as_float, at_place, ends_at, sign_at
from pdsearch.enclosure.pieces import Domain, Piece, cut
from pdsearch.enclosure.program import Program
from pdsearch.enclosure.search import Budget, Smooth, minimum
from pdsearch.expression import t, x
from pdsearch.expression.values import rational

UNBOUNDED_BEYOND = 1e9
"""A supremum above this is reported as at least this: the search for it stops."""


@dataclass(frozen=True)
class Extreme:
    """A certified enclosure [lo, hi] of the infimum or the supremum of g.

    Attributes:
        lo: Its lower bound.
        hi: Its upper bound.
        piece: The number of the piece on which it was found.
        complete: Whether every piece was searched to the end.
    """

    lo: float
    hi: float
    piece: int
    complete: bool


class Shape:
    """A pseudo-derivative, cut into smooth pieces once for all criteria and boxes.

    Args:
        expression: g in `x`, maybe `t`, which is taken at 0, and the domain's parameters.
        domain: The parameters and their ranges; none for a candidate.
        budget: What each decision may cost.
    """

    def __init__(
        self,
        expression: sympy.Expr,
        *,
        domain: Domain | None = None,
        budget: Budget | None = None,
    ) -> None:
        self.expression = exponentials(expression.xreplace({t: S.Zero}))
        self.domain = domain or Domain()
        self.budget = budget or Budget()
        self.symbols = self.domain.symbols
        self.box: Box = self.domain.box
        self._no_pieces = ""
        self._differences: dict[tuple[sympy.Expr, ...], Program | None] = {}

    @functools.cached_property
    def pieces(self) -> list[Piece]:
        """The smooth pieces, from left to right, cut at 0 as well; ends may hold parameters.

        Raises:
            OutOfReachError: They cannot be found in time; a second call fails at once.
        """
        if self._no_pieces:
            raise OutOfReachError(self._no_pieces)
        try:
            return cut(self.expression, self.domain)
        except OutOfReachError as error:
            self._no_pieces = str(error)
            raise

    @functools.cached_property
    def functions(self) -> list[Smooth]:
        """The function g on each piece, of position and parameters."""
        return [Smooth.on(piece, self.domain) for piece in self.pieces]

    @functools.cached_property
    def program(self) -> Program:
        """The function g as it was written, of x and the parameters."""
        return Program(prepare(self.expression), (x, *self.symbols))

    @functools.cached_property
    def means(self) -> Means:
        """Its means over x ~ N(0, 1)."""
        return Means(self.expression, self.domain, self.pieces, self.functions)

    @functools.cached_property
    def breakpoints(self) -> list[tuple[Piece, sympy.Expr, Piece]]:
        """Each place where g may bend, jump or have a single different value, between its pieces.

        The start of an unbounded piece is not a breakpoint: it lies beyond all of them.
        """
        return [
            (left, left.hi, right)
            for left, right in itertools.pairwise(self.pieces)
            if not (left.tail or right.tail)
        ]

    @functools.cached_property
    def _undefined(self) -> str | None:
        return is_defined(self.expression, self.domain, self.budget.fresh())

    def undefined(self, box: Box = ()) -> str | None:
        """Return None if g is proved to be a finite real number for every x, else what is open.

        Args:
            box: A part of the parameters' ranges.
        """
        if self._undefined is None or not box:
            return self._undefined
        budget = Budget(boxes=400, seconds=1.0)
        return is_defined(self.expression, Domain(self.symbols, box), budget)

    def order_at(
        self, place: sympy.Expr, greater: sympy.Expr, lesser: sympy.Expr, box: Box = ()
    ) -> int | None:
        """Return the sign of the difference of two expressions at a place.

        Returns:
            For a candidate the exact sign. Over a box 1 if the difference is ≥ 0 for all of it, -1
            if it is < 0. None where it is not known.
        """
        if not box:
            return sign_at(greater, place, lesser)
        key = (place, greater, lesser)
        if key not in self._differences:
            ends = at_place(greater, place), at_place(lesser, place)
            self._differences[key] = (
                None
                if ends[0] is None or ends[1] is None
                else Program(prepare(factored(ends[0] - ends[1])), self.symbols)
            )
        difference = self._differences[key]
        lo, hi, flag = iv.NOWHERE if difference is None else difference.enclose(box)
        if flag & iv.UNDEFINED:
            return None
        return 1 if lo >= 0.0 else (-1 if hi < 0.0 else None)

    def ends(self, place: float | Fraction, box: Box = ()) -> tuple[Any, Any] | None:
        """Return certified bounds of g at an exact rational, for all parameters of a box.

        Returns:
            Floats, for a candidate Arb numbers; None where g is undefined or not decided.
        """
        if not math.isfinite(place):
            return None
        exact = Fraction(place)
        if box:
            at = float(exact)
            assert Fraction(at) == exact
            lo, hi, flag = self.program.enclose(((at, at, 0), *box))
            return None if flag & iv.UNDEFINED else (lo, hi)
        for bits in (128, 512, 2048):
            with ctx.workprec(bits):
                value = self.program.ball([to_arb(exact)])
                if value.is_finite():
                    return value.lower(), value.upper()
        return None

    @functools.cached_property
    def infimum(self) -> Extreme:
        """The infimum of a candidate's g, as tight as a small budget makes it."""
        return self._infimum(self.functions, 1)

    @functools.cached_property
    def supremum(self) -> Extreme:
        """The supremum of a candidate's g, found in the same way."""
        low = self._infimum([function.negated for function in self.functions], -1)
        return Extreme(-low.hi, -low.lo, low.piece, low.complete)

    def _infimum(self, functions: list[Smooth], sign: int) -> Extreme:
        """The infimum of sign · g."""
        boxes = max(self.budget.boxes // 20, 200)
        lows = [
            minimum(f, Budget(boxes, self.budget.seconds), below=-UNBOUNDED_BEYOND)
            for f in functions
        ]
        best = min(range(len(lows)), key=lambda i: (lows[i].hi, lows[i].lo))
        lo, hi = min(low.lo for low in lows), lows[best].hi
        # No open piece contains the breakpoints themselves.
        for _, place, _ in self.breakpoints:
            ends = ends_at(self.expression, place)
            if ends is None:
                lo = -math.inf
                continue
            low, high = ends if sign > 0 else (-ends[1], -ends[0])
            lo, hi = min(lo, low), min(hi, high)
        return Extreme(lo, hi, best, all(low.complete for low in lows))

    def x_at(self, index: int, local: float) -> Fraction | float:
        """The x of a local coordinate on a candidate's piece: exact if rational, else a near float.

        An end of the line is an infinite float.
        """
        piece = self.pieces[index]
        if math.isinf(local):
            return math.copysign(math.inf, piece.tail_side)
        place = piece.position.xreplace({piece.variable: sympy.Rational(*local.as_integer_ratio())})
        return rational(place) if place.is_Rational else as_float(place)
