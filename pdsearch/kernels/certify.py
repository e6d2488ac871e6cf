"""A proof of how far a float32 table may be from g.

The line is cut into cells on which both the table's polynomial p and g are one smooth formula. On a
cell, e = g − p is interpolated at Chebyshev points, with g in ball arithmetic. The coefficients
bound the interpolant; the rest is bounded by the size of g in the complex plane around the cell
(Trefethen, Approximation Theory and Approximation Practice, theorem 8.2). Where g is not known to
be analytic there, as in tails that reach to the largest float, intervals enclose g. A cell whose
bound is too wide is halved. Finally comes what float32 arithmetic may add.
"""

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import sympy
from flint import acb, arb, ctx, fmpq

from pdsearch.enclosure import Domain, Piece, Program, Smooth, cut
from pdsearch.enclosure.numbers import finite_float
from pdsearch.expression import x
from pdsearch.kernels.layout import TOP, Array, Cells, Stretch, Tree

__all__ = ["LIMIT", "SIGN_FLOOR", "Certificate", "Prover"]

LIMIT = 1e-5  # absolute error of g; a worse table is not used
SIGN_FLOOR = 1e-6  # a g above this in size never changes its sign or becomes zero

NODES = 16
RHO = 4.0
"""Bernstein's ellipse with semi-axes (ρ ± 1/ρ)/2: the interpolant of 16 points is within
4M/(ρ − 1)·ρ⁻¹⁵ ≈ 1.2e-9·M of a function that is analytic and at most M in it."""

PRECISION = 80  # bits
CELLS = 1_500  # in one proof at most; the library takes up to 320
WORK = 60_000
"""Cells times operations of g, over all tables tried for one candidate: a second or two. The
library takes up to 8 640."""
WIDEST = 1e3  # of a cell for interpolation: further out g hardly changes, and intervals do
FURTHEST = 1e300  # breakpoint: its neighbours must be floats too
NARROW = 2.0**-40  # relative: a cell is not cut below this


@dataclass(frozen=True)
class Certificate:
    """What was proved about a table.

    Attributes:
        error: bound on abs(table − g) at every float32 number, float32 arithmetic included.
        low: lower bound on g.
        high: upper bound on g.
    """

    error: float
    low: float
    high: float


@dataclass(frozen=True)
class _Side:
    """A piece of g with its two ways to enclose it."""

    piece: Piece
    program: Program  # in x
    smooth: Smooth  # in the piece's own variable
    first: float
    last: float


@dataclass(frozen=True)
class _Cell:
    side: _Side
    stretch: Stretch
    first: float
    last: float


class Prover:
    """Proofs about the tables of one g, at a limited total cost.

    Attributes:
        pieces: of g.
    """

    def __init__(self, expression: sympy.Expr, *, work: int = WORK) -> None:
        self.pieces = cut(expression)
        self._expression, self._left = expression, work

    @functools.cached_property
    def _sides(self) -> list[_Side]:
        return [
            _Side(
                piece,
                Program(piece.expression, (x,)),
                Smooth.on(piece, Domain()),
                float(piece.lo),
                float(piece.hi),
            )
            for piece in self.pieces
        ]

    def _spend(self, work: int) -> bool:
        self._left -= work
        return self._left >= 0

    def prove(self, layout: Cells | Tree, aim: float) -> Certificate | None:
        """Prove that a table is within `LIMIT` of g, and loses no sign.

        Args:
            layout: the table.
            aim: the expected error; cells are cut until their bound is not much above it.

        Returns:
            None where it could not be proved.
        """
        if any(abs(finite_float(piece.lo)) >= FURTHEST for piece in self.pieces[1:]):
            return None
        proved: list[tuple[float, float, float]] = []  # error, least and most g
        sides = self._sides  # made in the default precision
        with ctx.workprec(PRECISION):
            for piece in self.pieces[1:]:
                found = _at_breakpoint(self._expression, piece.lo, layout)
                if found is None or not _keeps(*found):
                    return None
                proved.append(found)
            cells = list(_cells(sides, list(layout.stretches())))
            looked = 0
            while cells:
                cell = cells.pop()
                looked += 1
                if looked > CELLS or not self._spend(cell.side.program.length):
                    return None
                error, least, most = _bounds(cell)
                found = (error + cell.stretch.noise, least, most)
                good = _keeps(*found) or (
                    found[0] <= LIMIT and _same_sign(cell.stretch, least, most)
                )
                if good and error <= max(1.3 * aim, 2e-7):
                    proved.append(found)
                elif (parts := _halves(cell)) is not None:
                    cells += parts
                elif good:
                    proved.append(found)
                else:
                    return None
        errors, lows, highs = zip(*proved, strict=True)
        return Certificate(max(errors), min(lows), max(highs))


def _keeps(error: float, least: float, most: float) -> bool:
    """Whether the error is allowed, and too small to turn a g above the floor to 0."""
    return error <= LIMIT and (max(least, -most) > error or max(-least, most) <= SIGN_FLOOR)


def _same_sign(stretch: Stretch, least: float, most: float) -> bool:
    """Whether the table is one number there, and that has the sign of g."""
    if any(stretch.coefficients[1:]):
        return False
    value = stretch.coefficients[0]
    return (value > stretch.noise and least >= 0) or (value < -stretch.noise and most <= 0)


def _cells(sides: list[_Side], stretches: list[Stretch]) -> Iterator[_Cell]:
    """Yield where pieces and stretches overlap in more than an end."""
    for stretch in stretches:
        for side in sides:
            first, last = max(stretch.first, side.first), min(stretch.last, side.last)
            if first < last:
                yield _Cell(side, stretch, first, last)


def _at_breakpoint(
    expression: sympy.Expr, place: sympy.Expr, layout: Cells | Tree
) -> tuple[float, float, float] | None:
    """Return the table's error and g at a breakpoint, where neither side may tend to g's value.

    If no float32 number lies there, the neighbouring cells are enough: the error is then 0.
    """
    point = np.clip(np.array([float(place)]), -TOP, TOP).astype(np.float32)
    got = float(layout.evaluate(point)[0])
    if not place.is_Rational or Fraction(int(place.p), int(place.q)) != Fraction(float(point[0])):
        return 0.0, got, got
    value = Program(expression, (x,)).ball([arb(float(point[0]))])
    if not value.is_finite():
        return None
    return _above(abs(value - arb(got))), _below(value), _above(value)


def _above(value: arb) -> float:
    return math.nextafter(float(value.upper()), math.inf)


def _below(value: arb) -> float:
    return math.nextafter(float(value.lower()), -math.inf)


def _exact(value: Fraction) -> arb:
    return arb(fmpq(value.numerator, value.denominator))


@functools.cache
def _interpolation() -> tuple[list[arb], Array]:
    """Return the Chebyshev points of the first kind, and the matrix from values to coefficients."""
    with ctx.workprec(PRECISION):
        points = [arb(fmpq(2 * j + 1, 2 * NODES)).cos_pi() for j in range(NODES)]
    angles = (2 * np.arange(NODES) + 1) * np.pi / (2 * NODES)
    matrix = 2 / NODES * np.cos(np.arange(NODES)[:, None] * angles)
    matrix[0] /= 2
    return points, matrix


def _bounds(cell: _Cell) -> tuple[float, float, float]:
    """Return a bound on abs(g − p) over a cell, and bounds on g there."""
    found = _interpolated(cell) if cell.last - cell.first <= WIDEST else None
    return found if found is not None else _enclosed(cell)


def _polynomial(stretch: Stretch, place: arb) -> arb:
    u = _exact(stretch.slope) * place + _exact(stretch.shift)
    total = arb(0)
    for coefficient in reversed(stretch.coefficients):
        total = total * u + _exact(coefficient)
    return total


def _interpolated(cell: _Cell) -> tuple[float, float, float] | None:
    """Return the bounds by interpolation; None if g is not known to be analytic around the cell."""
    first, last = arb(cell.first), arb(cell.last)
    middle, half = (first + last) / 2, (last - first) / 2
    wider = half * (1 + 2.0**-40)  # for the middle's own rounding
    along, across = wider * (RHO + 1 / RHO) / 2, wider * (RHO - 1 / RHO) / 2
    program = cell.side.program
    choices = None
    if not cell.side.piece.smooth:
        choices = program.choices(((cell.first, cell.last, 0),))
        if choices is None:
            return None
    around = acb(arb(middle, along), arb(0, across))
    most = abs(program.complex_ball([around], choices)).upper()
    points, matrix = _interpolation()
    places = [middle + half * point for point in points]
    values = [program.ball([place]) for place in places]
    if not most.is_finite() or not all(value.is_finite() for value in values):
        return None
    left = 4 * float(most) / (RHO - 1) * RHO ** (1 - NODES) * (1 + 1e-12)
    differences = [
        value - _polynomial(cell.stretch, place)
        for value, place in zip(values, places, strict=True)
    ]
    e, e_rest = _coefficients(differences, matrix)
    g, g_rest = _coefficients(values, matrix)
    spread = float(np.abs(g[1:]).sum()) + g_rest + left
    return float(np.abs(e).sum()) + e_rest + left, float(g[0]) - spread, float(g[0]) + spread


def _coefficients(values: list[arb], matrix: Array) -> tuple[Array, float]:
    """Return the Chebyshev coefficients, and what rounding and radii can change in their sum."""
    middles = np.array([float(value.mid()) for value in values])
    radius = max(float(value.rad()) for value in values)
    rest = 2 * NODES * radius + 4 * NODES * NODES * 2.0**-52 * float(np.abs(middles).max())
    return matrix @ middles, rest


def _enclosed(cell: _Cell) -> tuple[float, float, float]:
    """Return the bounds from an interval around g and one around p."""
    least, most, flag = cell.side.smooth.enclose((_local(cell),))
    if flag or not math.isfinite(most - least):
        return math.inf, -math.inf, math.inf
    middle = (Fraction(cell.first) + Fraction(cell.last)) / 2
    half = (Fraction(cell.last) - Fraction(cell.first)) / 2
    value = _polynomial(cell.stretch, arb(_exact(middle), _exact(half).upper()))
    if not value.is_finite():
        return math.inf, -math.inf, math.inf
    error = max(arb(most) - value.lower(), value.upper() - arb(least))
    return max(0.0, _above(error)), least, most


def _local(cell: _Cell) -> tuple[float, float, int]:
    """Return the cell in its piece's own variable, a little wider for rounding."""
    piece = cell.side.piece
    if piece.tail:
        low, high = sorted((abs(cell.first), abs(cell.last)))
        return max(low, piece.start[0]), high, 0
    low, high = float(piece.lo), float(piece.hi)
    ends = [
        place / low if piece.mirrored else (place - low) / (high - low)
        for place in (cell.first, cell.last)
    ]
    slack = 1e-15 * (abs(low) + abs(high)) / (high - low)
    return max(0.0, min(ends) - slack), min(1.0, max(ends) + slack), 0


def _halves(cell: _Cell) -> list[_Cell] | None:
    first, last = cell.first, cell.last
    size = max(abs(first), abs(last))
    if last - first <= NARROW * size or size < 1e-30:
        return None
    near = min(abs(first), abs(last))
    if near > 0.0 and size > 4.0 * near:
        middle = math.copysign(math.sqrt(near) * math.sqrt(size), first)
    elif near == 0.0 and size > 8.0:
        middle = math.copysign(4.0, first + last)
    else:
        middle = first + (last - first) / 2.0
    return [replace(cell, last=middle), replace(cell, first=middle)]
