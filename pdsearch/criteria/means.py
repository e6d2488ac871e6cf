"""Means over x ~ N(0, 1), enclosed for all parameters of a box.

Those of a candidate are integrals, to about nine digits. Over a box, means are bounded on cells of
the line.
"""

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import sympy
from flint import arb, ctx

from pdsearch.enclosure import clock
from pdsearch.enclosure import interval as iv
from pdsearch.enclosure.algebra import expanded
from pdsearch.enclosure.clock import OutOfReachError, time_limit
from pdsearch.enclosure.integral import gaussian_integral, mass
from pdsearch.enclosure.interval import Box, Interval
from pdsearch.enclosure.nodes import derivative, prepare
from pdsearch.enclosure.numbers import at_place, exact_sign, is_float
from pdsearch.enclosure.pieces import Domain, Piece, cut
from pdsearch.enclosure.program import Program
from pdsearch.enclosure.search import Budget, Smooth
from pdsearch.expression import x

_CELLS = 96
"""Cells of equal normal probability for means over a box."""

_AT_A_CORNER = Budget(boxes=2000, seconds=1.0)


@dataclass(frozen=True)
class _Cell:
    """A stretch of the line, its normal probability, and the piece that contains all of it."""

    lo: float
    hi: float
    weight: Interval
    piece: int | None

    @property
    def tail(self) -> int | None:
        """0 for the cell that ends at -oo, -1 for the one at oo."""
        return 0 if math.isinf(self.lo) else (-1 if math.isinf(self.hi) else None)


class Means:
    """Normal means of |g - c|^power, where c is the step for power 1 and 0 for power 2."""

    def __init__(
        self,
        expression: sympy.Expr,
        domain: Domain,
        pieces: list[Piece],
        functions: Sequence[Smooth],
    ) -> None:
        self.expression, self.symbols = expression, domain.symbols
        self.pieces, self.functions = pieces, functions
        self._offsets: dict[tuple[Box, bool], list[Interval]] = {}
        self._trends: dict[tuple[int, Box, int], int] = {}
        self._programs: dict[tuple[int | None, int | None], Program] = {}
        self._corners: dict[tuple[Box, int], tuple[float, float]] = {}

    def enclosures(self, box: Box, budget: Budget, *, power: int) -> Iterator[tuple[float, float]]:
        """Enclosures for all parameters of the box.

        Each costs more than the one before and is tighter: cells over the whole box; cells over the
        ends of each parameter in which the mean is monotone; and if it is monotone in all of them,
        the integrals at two corners. A candidate has only its integral.
        """
        if not box:
            yield _integral(self.pieces, budget, power=power)
            return
        yield self._on_cells(box, budget, power=power)
        least, most = (self._extreme_face(box, budget, power=power, end=end) for end in (0, 1))
        if least != most:
            yield (
                self._on_cells(least, budget, power=power)[0],
                self._on_cells(most, budget, power=power)[1],
            )
        if all(lo == hi for corner in (least, most) for lo, hi, _ in corner):
            yield self._at_corner(least, power)[0], self._at_corner(most, power)[1]

    def _on_cells(self, box: Box, budget: Budget, *, power: int) -> tuple[float, float]:
        low, high = [], []
        for cell, offset in self._cell_offsets(box, budget, power=power):
            size = iv.absolute(offset)
            if power == 2:
                size = iv.integer_power(size, 2)
            if size[2] & iv.UNDEFINED:
                size = (0.0, math.inf, 0)
            low.append(size[0] * cell.weight[0])
            high.append(size[1] * cell.weight[1])
        return math.fsum(low) * (1 - 1e-12), math.fsum(high) * (1 + 1e-12)

    def _cell_offsets(
        self, box: Box, budget: Budget, *, power: int
    ) -> Iterator[tuple[_Cell, Interval]]:
        """Each cell with the values of g - c on it, for all parameters of the box."""
        step = power == 1
        if (box, step) not in self._offsets:
            found = []
            for cell in self._cells:
                value = self._on_cell(cell, box, budget)
                found.append(iv.add(value, (-1.0, -1.0, 0)) if step and cell.lo >= 0.0 else value)
            if len(self._offsets) > 8:  # a box is used again at once, or never
                self._offsets.clear()
            self._offsets[box, step] = found
        return zip(self._cells, self._offsets[box, step], strict=True)

    def _on_cell(
        self, cell: _Cell, box: Box, budget: Budget, *, slope: int | None = None
    ) -> Interval:
        """The values of g, or of its derivative in a parameter at fixed x, on a cell."""
        budget.spend()
        clock.check()
        if cell.tail is not None:
            tail = self.functions[cell.tail]
            if slope is not None:
                tail = tail.partial(slope + 1)
            return tail.enclose(((self._tail_start, math.inf, 0), *box))
        key = (cell.piece, slope)
        if key not in self._programs:
            # The formula of a piece has no condition that is open at the ends of a cell.
            whole = self.expression if cell.piece is None else self.pieces[cell.piece].expression
            if slope is not None:
                whole = derivative(whole, self.symbols[slope])
            self._programs[key] = Program(prepare(whole), (x, *self.symbols))
        return self._programs[key].enclose(((cell.lo, cell.hi, 0), *box))

    def _extreme_face(self, box: Box, budget: Budget, *, power: int, end: int) -> Box:
        """The face of the box on which the mean is least (end 0) or greatest (end 1)."""
        face = list(box)
        for index, (lo, hi, _) in enumerate(box):
            if lo == hi:
                continue
            trend = self._trend(index, tuple(face), budget, power=power)
            if trend:
                side = hi if (trend > 0) == bool(end) else lo
                face[index] = (side, side, 0)
        return tuple(face)

    def _trend(self, index: int, box: Box, budget: Budget, *, power: int) -> int:
        """1 where the mean grows with a parameter, -1 where it falls, else 0.

        From an enclosure of the mean's derivative: the sum over cells of ∂|g - c|^power times the
        probability.
        """
        if self._moving_jumps[index]:
            return 0
        if (index, box, power) not in self._trends:
            if len(self._trends) > 64:
                self._trends.clear()
            self._trends[index, box, power] = self._trend_of(index, box, budget, power=power)
        return self._trends[index, box, power]

    def _trend_of(self, index: int, box: Box, budget: Budget, *, power: int) -> int:
        total: Interval = (0.0, 0.0, 0)
        for cell, offset in self._cell_offsets(box, budget, power=power):
            change = self._on_cell(cell, box, budget, slope=index)
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
        return iv.weak_sign(total) or 0

    def _at_corner(self, corner: Box, power: int) -> tuple[float, float]:
        """The mean at a corner of the space: at its exact floats, not at the decimals near them."""
        if (corner, power) not in self._corners:
            values = {
                symbol: sympy.Rational(*lo.as_integer_ratio())
                for symbol, (lo, _, _) in zip(self.symbols, corner, strict=True)
            }
            bound = self.expression.xreplace(values)
            try:
                with time_limit(1.5 * _AT_A_CORNER.seconds):
                    found = _integral(cut(bound), _AT_A_CORNER.fresh(), power=power)
            except OutOfReachError:
                return 0.0, math.inf
            self._corners[corner, power] = found
        return self._corners[corner, power]

    @functools.cached_property
    def _tail_start(self) -> float:
        """|x| from which both unbounded pieces apply."""
        return max(self.functions[0].start[0], self.functions[-1].start[0])

    @functools.cached_property
    def _cells(self) -> list[_Cell]:
        """The line in cells on which means over a box are bounded, from left to right."""
        # Only ends that are floats: otherwise a cell would reach into the next piece.
        fixed = {
            index: (float(piece.lo), float(piece.hi))
            for index, piece in enumerate(self.pieces)
            if not piece.tail and is_float(piece.lo) and is_float(piece.hi)
        }
        ends = frozenset(end for pair in fixed.values() for end in pair)
        return [
            _Cell(
                lo, hi, (least, most, 0),
                next((i for i, (left, right) in fixed.items() if left <= lo and hi <= right), None),
            )
            for lo, hi, least, most in _cells(self._tail_start, ends)
        ]  # fmt: skip

    @functools.cached_property
    def _moving_jumps(self) -> list[bool]:
        """Whether a jump may move with each parameter.

        A bend may move, such as one of `Min`: a Lipschitz function is the integral of its
        derivative.
        """
        return [
            any(
                piece.lo.has(parameter) and not _joins(left, piece)
                for left, piece in itertools.pairwise(self.pieces)
            )
            or any(piece.may_jump for piece in self.pieces)
            for parameter in self.symbols
        ]


def _integral(pieces: list[Piece], budget: Budget, *, power: int) -> tuple[float, float]:
    lo, hi, _ = gaussian_integral(
        pieces,
        power,
        budget,
        shift=lambda piece: int(power == 1 and exact_sign(piece.lo) in (0, 1)),
    )
    return max(lo, 0.0), hi


def _joins(left: Piece, right: Piece) -> bool:
    """Whether two neighbouring pieces meet without a jump."""
    place = right.lo
    after, before = at_place(right.expression, place), at_place(left.expression, place)
    return after is not None and before is not None and bool(expanded(after - before) == 0)


@functools.lru_cache(maxsize=64)
def _cells(tail: float, more: frozenset[float]) -> tuple[tuple[float, float, float, float], ...]:
    """Cells of the line with lower and upper bounds of their normal probability.

    Those between the tails have equal probability, and are also cut at 0, ±3 and the given places.
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
            # The probability beyond 1e4 is less than 1e-300.
            cells.append((lo, hi, max(least, 0.0), most + 1e-300))
    return tuple(cells)
