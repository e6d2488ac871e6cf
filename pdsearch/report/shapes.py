"""Points of a pseudo-derivative's curve, its jumps drawn as jumps. Needs no torch."""

import functools
import itertools
import math
from typing import TYPE_CHECKING

import sympy

from pdsearch.enclosure import Program, cut
from pdsearch.expression import exact, t, x

if TYPE_CHECKING:
    from pdsearch.family import Candidate

__all__ = ["breakpoints", "curve", "evaluate", "span", "step"]

DIGITS = 53
"""Working precision in bits: a picture needs no more than a double."""


@functools.lru_cache(maxsize=4_096)
def _program(expression: sympy.Expr) -> Program:
    return Program(expression, (x,))


def _at(candidate: "Candidate", progress: float) -> sympy.Expr:
    return candidate.expression.xreplace({t: exact(progress)})


def evaluate(candidate: "Candidate", point: float, *, progress: float = 0.0) -> float:
    """G at a point; nan where it cannot be told, as at an irrational breakpoint itself."""
    return _values(_program(_at(candidate, progress)), [point])[0]


def _values(program: Program, points: list[float]) -> list[float]:
    values = (float(program.at([point], precision=DIGITS).mid()) for point in points)
    return [value if math.isfinite(value) else math.nan for value in values]


@functools.lru_cache(maxsize=4_096)
def _breakpoints(expression: sympy.Expr) -> tuple[float, ...]:
    ends = [piece.lo for piece in cut(expression)]
    return tuple(sorted({float(end) for end in ends if end.is_finite}))


def breakpoints(candidate: "Candidate", *, progress: float = 0.0) -> tuple[float, ...]:
    """Where g may bend or jump, 0 always among them."""
    return _breakpoints(_at(candidate, progress))


def curve(
    candidate: "Candidate",
    low: float = -6.0,
    high: float = 4.0,
    *,
    count: int = 241,
    progress: float = 0.0,
) -> tuple[list[float], list[float]]:
    """Points (x, g(x)) to join by lines: a grid, and each breakpoint from both sides.

    Args:
        candidate: the pseudo-derivative.
        low: left end.
        high: right end.
        count: points of the grid.
        progress: t.
    """
    aside = 1e-9 * (high - low)
    places = {low + (high - low) * i / (count - 1) for i in range(count)}
    for place in breakpoints(candidate, progress=progress):
        if low < place < high:
            places |= {place - aside, place + aside}
    xs = sorted(places)
    return xs, _values(_program(_at(candidate, progress)), xs)


def step(low: float = -6.0, high: float = 4.0) -> tuple[list[float], list[float]]:
    """ReLU's own derivative."""
    return [low, 0.0, 0.0, high], [0.0, 0.0, 1.0, 1.0]


def span(values: list[float]) -> tuple[float, float]:
    """A range for g's axis: the step, and what the curves reach beyond it, up to a limit."""
    finite = [value for value in itertools.chain(values, (0.0, 1.0)) if math.isfinite(value)]
    low, high = max(min(finite), -2.0), min(max(finite), 3.0)
    margin = 0.06 * (high - low)
    return low - margin, high + margin
