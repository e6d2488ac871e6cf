"""A family over the box of its parameters: pieces, programs and cells, made once for all of it."""

import functools
import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from statistics import NormalDist
from typing import cast

import sympy
from flint import arb, ctx
from optuna.distributions import FloatDistribution, IntDistribution
from sympy import S

from pdsearch.criteria import decide
from pdsearch.criteria.result import Demands, Result
from pdsearch.criteria.shape import Shape
from pdsearch.enclosure import interval as iv
from pdsearch.enclosure.algebra import expanded
from pdsearch.enclosure.clock import OutOfReachError
from pdsearch.enclosure.defined import is_defined
from pdsearch.enclosure.integral import mass
from pdsearch.enclosure.interval import Interval
from pdsearch.enclosure.nodes import derivative, prepare
from pdsearch.enclosure.numbers import is_computable
from pdsearch.enclosure.pieces import Domain, Piece, cut
from pdsearch.enclosure.program import Program, rational_interval
from pdsearch.enclosure.search import Budget, Smooth
from pdsearch.expression import exact, symbol, t, x
from pdsearch.family import Candidate, Family

Box = tuple[Interval, ...]

CERTIFIED: Mapping[str, Callable[[Shape, Demands], Result]] = {
    "alive_below_zero": decide.alive_below_zero,
    "consistent": decide.consistent,
    "limits": decide.limits,
    "sign_preserving": decide.sign_preserving,
    "bounded": decide.bounded,
    "non_decreasing": decide.non_decreasing,
    "gain": decide.gain,
}
"""The certified criteria of a bound candidate."""

_CELLS = 96
"""Cells of equal normal probability for integrals over a box."""


@dataclass(frozen=True)
class _Cell:
    """A stretch of the line, its normal probability, and the piece that holds all of it."""

    lo: float
    hi: float
    weight: Interval
    piece: int | None

    @property
    def tail(self) -> int | None:
        """0 for the cell that ends at -oo, -1 for the one at oo."""
        return 0 if math.isinf(self.lo) else (-1 if math.isinf(self.hi) else None)


class FamilyShape:
    """A family's pieces and programs, made once for all boxes of its parameters."""

    def __init__(self, family: Family, demands: Demands) -> None:
        self.family = family
        self.demands = demands
        self.names = family.parameters
        self.distributions = [
            cast("FloatDistribution | IntDistribution", family.space[name]) for name in self.names
        ]
        # A parameter that is known to be positive simplifies better.
        self.symbols = tuple(
            sympy.Symbol(name, positive=True) if d.low > 0 else symbol(name)
            for name, d in zip(self.names, self.distributions, strict=True)
        )
        # A bound candidate's 0.7 is 7/10, which is not the float 0.7: the box holds both.
        self.box: Box = tuple(
            (_decimal_interval(d.low)[0], _decimal_interval(d.high)[1], 0)
            for d in self.distributions
        )
        replaced = {symbol(s.name): s for s in self.symbols} | {t: S.Zero}
        self.expression = cast(sympy.Expr, family.expression.xreplace(replaced))
        self.domain = Domain(self.symbols, self.box)
        self._no_pieces = ""
        self._candidates: dict[tuple[tuple[float, ...], str], Result] = {}
        self._means: dict[tuple[Box, int], tuple[float, float]] = {}
        self.offsets: dict[tuple[Box, bool], list[Interval]] = {}
        self.trends: dict[tuple[int, Box, int], int] = {}
        self._programs: dict[tuple[int | None, int | None], Program] = {}

    @functools.cached_property
    def pieces(self) -> list[Piece]:
        """Pieces whose ends may depend on the parameters.

        Raises:
            OutOfReachError: they cannot be found in time; asked again, at once.
        """
        if self._no_pieces:
            raise OutOfReachError(self._no_pieces)
        try:
            return cut(self.expression, self.domain)
        except OutOfReachError as error:
            self._no_pieces = str(error)
            raise

    @functools.cached_property
    def _undefined(self) -> str | None:
        return is_defined(self.expression, self.domain, Budget(boxes=2000, seconds=1.0))

    def is_defined(self, box: Box) -> bool:
        """Whether g is shown to be a finite real number for every x and all parameters of a box."""
        if self._undefined is None:
            return True
        budget = Budget(boxes=400, seconds=1.0)
        return is_defined(self.expression, Domain(self.symbols, box), budget) is None

    @functools.cached_property
    def functions(self) -> list[Smooth]:
        """G on each piece, as a function of position and parameters."""
        return [Smooth.on(piece, self.domain) for piece in self.pieces]

    @functools.cached_property
    def program(self) -> Program:
        """G as it was written, of x and the parameters."""
        return Program(prepare(self.expression), (x, *self.symbols))

    @functools.cached_property
    def tail_start(self) -> float:
        """|x| from which both unbounded pieces apply."""
        return max(self.functions[0].start[0], self.functions[-1].start[0])

    @functools.cached_property
    def cells(self) -> "list[_Cell]":
        """The line in cells on which integrals over a box are bounded, from left to right."""
        # Only ends that are floats: otherwise a sliver of a cell would lie in the next piece.
        fixed = {
            index: (float(piece.lo), float(piece.hi))
            for index, piece in enumerate(self.pieces)
            if not piece.tail and decide.is_float(piece.lo) and decide.is_float(piece.hi)
        }
        ends = frozenset(end for pair in fixed.values() for end in pair)
        return [
            _Cell(
                lo, hi, (least, most, 0),
                next((i for i, (left, right) in fixed.items() if left <= lo and hi <= right), None),
            )
            for lo, hi, least, most in _cells(self.tail_start, ends)
        ]  # fmt: skip

    def on_cell(self, piece: int | None, slope: int | None = None) -> Program:
        """G, or its derivative in a parameter at fixed x, on a piece or (None) on the whole line.

        Of a piece's own formula no condition is left that is open at the ends of a cell.
        """
        if (piece, slope) not in self._programs:
            expression = self.expression if piece is None else self.pieces[piece].expression
            if slope is not None:
                expression = derivative(expression, self.symbols[slope])
            self._programs[piece, slope] = Program(prepare(expression), (x, *self.symbols))
        return self._programs[piece, slope]

    @functools.cached_property
    def moving_jumps(self) -> list[bool]:
        """Whether a jump may move with each parameter.

        A bend may, as of `Min`: a Lipschitz function is the integral of its derivative.
        """
        return [
            any(
                piece.lo.has(parameter) and not _joins(left, piece)
                for left, piece in itertools.pairwise(self.pieces)
            )
            or any(decide.may_jump(piece.expression) for piece in self.pieces)
            for parameter in self.symbols
        ]

    @functools.cached_property
    def at_breakpoints(self) -> list[tuple[sympy.Expr, sympy.Expr | None, sympy.Expr]]:
        """Left limit, value and right limit at each breakpoint, in the parameters."""
        found = []
        for left, right in itertools.pairwise(self.pieces):
            if left.tail or right.tail:
                continue
            place = left.hi
            before, value, after = (
                _at(expression, place)
                for expression in (left.expression, self.expression, right.expression)
            )
            found.append((sympy.nan if before is None else before, value,
                          sympy.nan if after is None else after))  # fmt: skip
        return found

    def candidate_at(self, box: Box, share: float = 0.5) -> Candidate:
        """A candidate inside of a box: its middle, or a corner for share 0 or 1."""
        values: dict[str, float] = {}
        for name, d, (lo, hi, _) in zip(self.names, self.distributions, box, strict=True):
            value = lo if share == 0.0 else (hi if share == 1.0 else between(lo, hi, log=d.log))
            values[name] = self._allowed(d, value)
        return self.family.bind(**values)

    @staticmethod
    def _allowed(d: FloatDistribution | IntDistribution, value: float) -> float:
        if isinstance(d, IntDistribution):
            return int(min(max(round(value), d.low), d.high))
        return min(max(value, d.low), d.high)

    def bound_result(self, criterion: str, candidate: Candidate) -> Result:
        """The criterion's result for one candidate, kept."""
        key = (tuple(candidate.parameters.values()), criterion)
        if key not in self._candidates:
            shape = Shape(candidate.expression, budget=Budget(boxes=2000, seconds=1.0))
            self._candidates[key] = CERTIFIED[criterion](shape, self.demands)
        return self._candidates[key]

    def mean_at(self, corner: Box, power: int) -> tuple[float, float]:
        """The normal mean of |g - c|^power at one point of the space, kept.

        At the very floats of the corner: a candidate's parameters are their decimals, which may lie
        half an ulp beside them.
        """
        if (corner, power) not in self._means:
            values = {
                symbol: sympy.Rational(*Fraction(lo).as_integer_ratio())
                for symbol, (lo, _, _) in zip(self.symbols, corner, strict=True)
            }
            one = Shape(
                cast(sympy.Expr, self.expression.xreplace(values)),
                budget=Budget(boxes=2000, seconds=1.0),
            )
            name, scale = ("consistent", 1.0) if power == 1 else ("gain", 0.5)
            value = CERTIFIED[name](one, self.demands).value
            if not isinstance(value, tuple):  # out of reach
                return 0.0, math.inf
            self._means[corner, power] = (value[0] * scale, value[1] * scale)
        return self._means[corner, power]

    def point_box(self, candidate: Candidate) -> Box:
        """The degenerate box of a candidate's parameters."""
        return tuple((float(v), float(v), 0) for v in candidate.parameters.values())

    def over(self, place: float | Fraction, box: Box) -> Interval:
        """G at one x for all parameters of a box."""
        exact = Fraction(place)
        assert Fraction(float(exact)) == exact
        at = float(exact)
        return self.program.enclose(((at, at, 0), *box))


def _decimal_interval(value: float) -> Interval:
    """The floats around a number as it is written."""
    number = exact(value)
    nearest, written = float(value), Fraction(int(number.p), int(number.q))
    lo, hi, _ = rational_interval(written)
    return (min(lo, nearest), max(hi, nearest), 0)


def _at(expression: sympy.Expr, place: sympy.Expr) -> sympy.Expr | None:
    """The expression at a place that may depend on the parameters; None where sympy has none."""
    if not is_computable(expression, {x: place}):
        return None
    try:
        return cast(sympy.Expr, expression.xreplace({x: place}))
    except ValueError:  # sympy's Min and Max: "the argument is not comparable"
        return None


def _joins(left: Piece, right: Piece) -> bool:
    """Whether two neighbouring pieces meet without a jump."""
    place = right.lo
    after, before = _at(right.expression, place), _at(left.expression, place)
    return after is not None and before is not None and bool(expanded(after - before) == 0)


def between(lo: float, hi: float, *, log: bool) -> float:
    """The middle of a range in its own scale."""
    if lo == hi:
        return lo
    if log and lo > 0:
        return math.sqrt(lo) * math.sqrt(hi)
    return lo + (hi - lo) / 2


@functools.lru_cache(maxsize=64)
def _cells(tail: float, more: frozenset[float]) -> tuple[tuple[float, float, float, float], ...]:
    """Cells of the line with lower and upper bounds of their normal probability.

    Of equal probability within, and cut at 0, where the tails start, and where it is asked for.
    """
    normal = NormalDist()
    inner = {normal.inv_cdf(i / _CELLS) for i in range(1, _CELLS)}
    inner |= {0.0, 3.0, -3.0, *more}
    ends = sorted({e for e in inner if abs(e) < tail} | {tail, -tail})
    cells = []
    with ctx.workprec(64):
        for lo, hi in itertools.pairwise([-math.inf, *ends, math.inf]):
            low = arb(-1e4) if lo == -math.inf else arb(lo)
            high = arb(1e4) if hi == math.inf else arb(hi)
            least, most, _ = iv.ball_interval(mass(low, high))
            # Beyond 1e4 lies less than 1e-300.
            cells.append((lo, hi, max(least, 0.0), most + 1e-300))
    return tuple(cells)
