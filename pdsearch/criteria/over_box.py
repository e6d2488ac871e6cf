"""Criteria over one box of a family's parameters: proved or refuted for every point of it.

Refuted means that it fails for every point: the same x fails for all of them, or a certified share
or integral does.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from statistics import NormalDist
from typing import Any, cast

import sympy
from flint import arb, ctx
from optuna.distributions import FloatDistribution, IntDistribution
from sympy import S, oo

from pdsearch.criteria import decide
from pdsearch.criteria.result import PROVED, REFUTED, SLACK, UNDECIDED, Demands, Result
from pdsearch.criteria.shape import Shape, negated
from pdsearch.enclosure import interval as iv
from pdsearch.enclosure.integral import mass
from pdsearch.enclosure.interval import Interval
from pdsearch.enclosure.limits import limit_at_infinity
from pdsearch.enclosure.nodes import NOT_SMOOTH, derivative, prepare
from pdsearch.enclosure.pieces import Domain, Piece, cut
from pdsearch.enclosure.program import Program, rational_interval
from pdsearch.enclosure.search import Budget, Smooth, minimum
from pdsearch.expression import exact, symbol, t, x
from pdsearch.family import Candidate, Family

Box = tuple[Interval, ...]
Verdict = tuple[str, Mapping[str, Any] | None]
"""proved | refuted | undecided for a box, and where it fails if the same x fails all over it."""

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
        self._candidates: dict[tuple[tuple[float, ...], str], Result] = {}
        self._means: dict[tuple[Box, int], tuple[float, float]] = {}
        self.offsets: dict[tuple[Box, bool], list[Interval]] = {}
        self.trends: dict[tuple[int, Box, int], int] = {}
        self._programs: dict[tuple[int | None, int | None], Program] = {}

    @functools.cached_property
    def pieces(self) -> list[Piece]:
        """Pieces whose ends may depend on the parameters."""
        return cut(self.expression, self.domain)

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
            value: sympy.Expr | None = self.expression.xreplace({x: place})
            if value is not None and value.has(sympy.Piecewise, *NOT_SMOOTH):
                value = sympy.piecewise_fold(value) if not value.has(x) else None
            found.append(
                (left.expression.xreplace({x: place}), value, right.expression.xreplace({x: place}))
            )
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
            assert isinstance(value, tuple)
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


def _joins(left: Piece, right: Piece) -> bool:
    """Whether two neighbouring pieces meet without a jump."""
    place = right.lo
    jump = right.expression.xreplace({x: place}) - left.expression.xreplace({x: place})
    return bool(sympy.expand(jump).is_zero)


def between(lo: float, hi: float, *, log: bool) -> float:
    """The middle of a range in its own scale."""
    if lo == hi:
        return lo
    if log and lo > 0:
        return math.sqrt(lo) * math.sqrt(hi)
    return lo + (hi - lo) / 2


# ------------------------------------------------------------------- one box, one criterion


def _floor_holds(shape: FamilyShape, box: Box, budget: Budget, *, floor: float, sign: int) -> bool:
    """Whether sign·g ≥ floor for every x and all parameters of the box."""
    for function in shape.functions:
        oriented = function if sign > 0 else _negated(function)
        low = minimum(oriented, budget, above=floor, below=floor, box=(function.start, *box))
        if not (low.complete and low.lo >= floor):
            return False
    for _, value, _ in shape.at_breakpoints:
        if value is None:
            return False
        lo, hi, flag = Program(prepare(value), shape.symbols).enclose(box)
        if flag & iv.UNDEFINED or (lo if sign > 0 else -hi) < floor:
            return False
    return True


@functools.lru_cache(maxsize=4096)
def _negated(function: Smooth) -> Smooth:
    return negated(function)


def _sign_preserving(shape: FamilyShape, box: Box, budget: Budget) -> Verdict:
    if _floor_holds(shape, box, budget, floor=0.0, sign=1):
        return PROVED, None
    return _same_place(shape, box, "sign_preserving", lambda value: value[1] < 0.0)


def _bounded(shape: FamilyShape, box: Box, budget: Budget) -> Verdict:
    bound = shape.demands.number("bounded") + SLACK
    if all(_floor_holds(shape, box, budget, floor=-bound, sign=sign) for sign in (1, -1)):
        return PROVED, None
    return _same_place(shape, box, "bounded", lambda value: value[0] > bound or value[1] < -bound)


def _same_place(
    shape: FamilyShape, box: Box, criterion: str, fails: Callable[[Interval], bool]
) -> Verdict:
    """Whether the witness of the box's middle fails all over the box."""
    middle = shape.candidate_at(box)
    result = shape.bound_result(criterion, middle)
    if result.verdict != REFUTED or result.witness is None:
        return UNDECIDED, None
    place = result.witness["x"]
    value = shape.over(place, box)
    if not value[2] & iv.UNDEFINED and fails(value):
        return REFUTED, {**middle.parameters, "x": place}
    return UNDECIDED, None


def _non_decreasing(shape: FamilyShape, box: Box, budget: Budget) -> Verdict:
    if _rises(shape, box, budget):
        return PROVED, None
    middle = shape.candidate_at(box)
    result = shape.bound_result("non_decreasing", middle)
    if result.verdict == REFUTED and result.witness is not None:
        first, second = (shape.over(place, box) for place in result.witness["x"])
        if not (first[2] | second[2]) & iv.UNDEFINED and first[0] > second[1]:
            return REFUTED, {**middle.parameters, "x": result.witness["x"]}
    return UNDECIDED, None


def _rises(shape: FamilyShape, box: Box, budget: Budget) -> bool:
    for piece in shape.pieces:
        if not piece.smooth and decide.may_jump(piece.expression):
            return False
    for left, value, right in shape.at_breakpoints:
        if value is None:
            return False
        for first, second in ((left, value), (value, right)):
            difference = sympy.factor(second - first)
            if difference.is_zero:
                continue
            lo, _, flag = Program(prepare(difference), shape.symbols).enclose(box)
            if flag or lo < 0.0:
                return False
    for piece, function in zip(shape.pieces, shape.functions, strict=True):
        if not function.local.has(piece.variable):
            continue
        slope = function.partial(0)
        rising = slope if piece.rising else _negated(slope)
        low = minimum(rising, budget, above=0.0, below=0.0, box=(function.start, *box))
        if not (low.complete and low.lo >= 0.0):
            return False
    return True


def _limits(shape: FamilyShape, box: Box, budget: Budget) -> Verdict:
    del budget
    open_ = False
    for piece, wanted, end in (
        (shape.pieces[0], S.Zero, -math.inf),
        (shape.pieces[-1], S.One, math.inf),
    ):
        limit = limit_at_infinity(piece.local, Domain(shape.symbols, box))
        if limit is None:
            open_ = True
            continue
        failing = {**shape.candidate_at(box).parameters, "x": end}
        if limit in (oo, -oo):
            return REFUTED, failing
        difference = sympy.expand(limit - wanted)
        if difference.is_zero:
            continue
        lo, hi, flag = Program(prepare(difference), shape.symbols).enclose(box)
        if not flag and (lo > 0.0 or hi < 0.0):
            return REFUTED, failing
        open_ = True
    return (UNDECIDED if open_ else PROVED), None


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


def means(
    shape: FamilyShape, box: Box, budget: Budget, *, power: int
) -> Iterator[tuple[float, float]]:
    """Enclosures of the normal mean of |g - c|^power for all parameters of the box.

    Each costs more than the one before and is tighter: cells over the whole box; where the mean is
    monotone in a parameter, over that parameter's ends; and where it is in all of them, the
    integrals at two corners, to nine digits.
    """
    yield _cell_mean(shape, box, budget, power=power)
    least, most = (_extreme_corner(shape, box, budget, power=power, end=end) for end in (0, 1))
    if least != most:
        yield (
            _cell_mean(shape, least, budget, power=power)[0],
            _cell_mean(shape, most, budget, power=power)[1],
        )
    if all(lo == hi for corner in (least, most) for lo, hi, _ in corner):
        yield shape.mean_at(least, power)[0], shape.mean_at(most, power)[1]


def _cell_mean(shape: FamilyShape, box: Box, budget: Budget, *, power: int) -> tuple[float, float]:
    low, high = [], []
    offsets = _offsets(shape, box, budget, step=power == 1)
    for cell, offset in zip(shape.cells, offsets, strict=True):
        size = iv.absolute(offset)
        if power == 2:
            size = iv.integer_power(size, 2)
        if size[2] & iv.UNDEFINED:
            size = (0.0, math.inf, 0)
        low.append(size[0] * cell.weight[0])
        high.append(size[1] * cell.weight[1])
    return math.fsum(low) * (1 - 1e-12), math.fsum(high) * (1 + 1e-12)


def _offsets(shape: FamilyShape, box: Box, budget: Budget, *, step: bool) -> list[Interval]:
    """G minus the step (if asked for) on each cell, for all parameters of the box."""
    known = shape.offsets.get((box, step))
    if known is not None:
        return known
    found = []
    for cell in shape.cells:
        budget.spend()
        if cell.tail is not None:
            value = shape.functions[cell.tail].enclose(((shape.tail_start, math.inf, 0), *box))
        else:
            value = shape.on_cell(cell.piece).enclose(((cell.lo, cell.hi, 0), *box))
        found.append(iv.add(value, (-1.0, -1.0, 0)) if step and cell.lo >= 0.0 else value)
    if len(shape.offsets) > 8:  # a box is asked of again at once, or never
        shape.offsets.clear()
    shape.offsets[box, step] = found
    return found


def _extreme_corner(shape: FamilyShape, box: Box, budget: Budget, *, power: int, end: int) -> Box:
    """The face of the box on which the mean is least (end 0) or greatest (end 1)."""
    face = list(box)
    for index, (lo, hi, _) in enumerate(box):
        if lo == hi:
            continue
        trend = _trend(shape, index, tuple(face), budget, power=power)
        if trend:
            side = hi if (trend > 0) == bool(end) else lo
            face[index] = (side, side, 0)
    return tuple(face)


def _trend(shape: FamilyShape, index: int, box: Box, budget: Budget, *, power: int) -> int:
    """1 where the normal mean of |g - c|^power grows with a parameter, -1 where it falls, else 0.

    From an enclosure of the mean's derivative: the sum over cells of ∂|g - c|^power times the
    probability.
    """
    if shape.moving_jumps[index]:
        return 0
    if (index, box, power) not in shape.trends:
        if len(shape.trends) > 64:
            shape.trends.clear()
        shape.trends[index, box, power] = _trend_of(shape, index, box, budget, power=power)
    return shape.trends[index, box, power]


def _trend_of(shape: FamilyShape, index: int, box: Box, budget: Budget, *, power: int) -> int:
    total: Interval = (0.0, 0.0, 0)
    offsets = _offsets(shape, box, budget, step=power == 1)
    for cell, offset in zip(shape.cells, offsets, strict=True):
        budget.spend()
        if cell.tail is not None:
            tail = shape.functions[cell.tail].partial(index + 1)
            change = tail.enclose(((shape.tail_start, math.inf, 0), *box))
        else:
            change = shape.on_cell(cell.piece, index).enclose(((cell.lo, cell.hi, 0), *box))
        if (change[2] | offset[2]) & iv.UNDEFINED:
            return 0
        change = (change[0], change[1], 0)
        if power == 2:
            change = iv.multiply(change, (offset[0], offset[1], 0))
        elif offset[0] < 0.0:
            turned = iv.negate(change)
            change = turned if offset[1] <= 0.0 else iv.hull(change, turned)
        total = iv.add(total, iv.multiply(change, cell.weight))
        if total[0] == -math.inf and total[1] == math.inf:
            return 0
    return 1 if total[0] >= 0.0 else (-1 if total[1] <= 0.0 else 0)


def _consistent(shape: FamilyShape, box: Box, budget: Budget) -> Verdict:
    bound = shape.demands.number("consistent") + SLACK
    return _compared(shape, box, means(shape, box, budget, power=1), -math.inf, bound)


def _gain(shape: FamilyShape, box: Box, budget: Budget) -> Verdict:
    low, high = shape.demands.range("gain")
    found = means(shape, box, budget, power=2)
    return _compared(shape, box, found, (low - SLACK) / 2, (high + SLACK) / 2)


def _compared(
    shape: FamilyShape, box: Box, found: Iterator[tuple[float, float]], low: float, high: float
) -> Verdict:
    for lo, hi in found:
        if low <= lo and hi <= high:
            return PROVED, None
        if hi < low or lo > high:
            return REFUTED, dict(shape.candidate_at(box).parameters)
    return UNDECIDED, None


def _alive(shape: FamilyShape, box: Box, budget: Budget) -> Verdict:
    """Cells of [-R, 0), bisected where |g| ≥ ε is open for the box, down to 2⁻¹² of the length."""
    demands = shape.demands
    bound = demands.number("alive_below_zero") + SLACK
    least = iv.down(demands.epsilon)
    radius = demands.radius
    dead = open_ = 0.0
    stack = [(-radius * (i + 1) / 16, -radius * i / 16) for i in range(16)]
    finest = radius / 2**12
    while stack:
        a, b = stack.pop()
        budget.spend()
        lo, hi, flag = iv.absolute(shape.program.enclose(((a, b, 0), *box)))
        if not flag & iv.UNDEFINED and (lo > demands.epsilon or (lo >= demands.epsilon)):
            continue
        if not flag & iv.UNDEFINED and hi < least:
            dead += b - a
        elif b - a <= finest or open_ > (bound + 0.02) * radius:
            open_ += b - a
        else:
            middle = (a + b) / 2
            stack += [(a, middle), (middle, b)]
        if dead > (bound + 1e-9) * radius:
            witness = shape.bound_result("alive_below_zero", shape.candidate_at(box)).witness
            return REFUTED, {**shape.candidate_at(box).parameters, **(witness or {})}
    if (dead + open_) / radius * (1 + 1e-12) <= bound:
        return PROVED, None
    return UNDECIDED, None


OVER_A_BOX: Mapping[str, Callable[[FamilyShape, Box, Budget], Verdict]] = {
    "alive_below_zero": _alive,
    "consistent": _consistent,
    "limits": _limits,
    "sign_preserving": _sign_preserving,
    "bounded": _bounded,
    "non_decreasing": _non_decreasing,
    "gain": _gain,
}
