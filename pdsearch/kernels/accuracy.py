"""How far the text of a formula is from the formula itself, by ball arithmetic at many points.

float64 has too many numbers to try them all, so this is a measurement: the stated error is several
times the largest one found, and the points include the places where formulas lose digits.
"""

import functools
import itertools
import math

import numpy as np

from pdsearch.enclosure import cut
from pdsearch.family import Candidate
from pdsearch.kernels.layout import Array, Function
from pdsearch.kernels.pieces import at_start, breakpoints, function
from pdsearch.reach import Exact

__all__ = ["ABSOLUTE", "RELATIVE", "corrected", "measured_error"]

LARGEST = float(np.finfo(np.float64).max)
MARGIN = 16.0
"""Factor on the largest error found: rounding errors of neighbours scatter by less."""
RELATIVE = 1e-12
ABSOLUTE = 1e-15
"""What the text of any formula may be off, relative to g and absolutely: sixteen digits, less those
lost to a large argument of exp, or to a difference next to a zero of g."""
EVERY = 48  # of the 16-bit inputs in order, one in so many is compared; all between two bad ones


@functools.lru_cache(maxsize=256)
def measured_error(candidate: Candidate) -> float:
    """Return a measured bound on abs(text - g) - 1e-12·abs(g) - 1e-15 in float64; often 0.

    Breakpoints themselves are not measured: where the two sides of a condition differ by no more
    than their rounding, either arm may be taken.
    """
    exact = Exact(at_start(candidate))
    g = function(candidate)
    points = _points(candidate, g)
    worst = 0.0
    for point, value in zip(points.tolist(), g(points).tolist(), strict=True):
        wanted = exact.value(point)
        if wanted is not None:
            wanted = min(max(wanted, -LARGEST), LARGEST)
            worst = max(worst, abs(value - wanted) - RELATIVE * abs(wanted) - ABSOLUTE)
    return min(MARGIN * worst, LARGEST)


def _points(candidate: Candidate, g: Function) -> Array:
    """Return numbers of all sizes, even steps about zero, and neighbours of breaks and zeros."""
    sizes = np.geomspace(1e-6, 1e30, 145)
    parts = [-sizes, sizes, np.linspace(-24, 24, 193), np.array([-LARGEST, 0.0, LARGEST])]
    edges = breakpoints(cut(at_start(candidate)))
    with np.errstate(over="ignore"):
        parts += [np.nextafter(edge, [-math.inf, math.inf]) for edge in edges]
    points = np.unique(np.clip(np.concatenate(parts), -LARGEST, LARGEST))
    points = np.setdiff1d(points, edges)
    signs = np.sign(g(points))
    for place in np.flatnonzero(signs[1:] * signs[:-1] < 0):
        low, high, sign = points[place], points[place + 1], signs[place]
        for _ in range(60):
            middle = low + (high - low) / 2
            low, high = (middle, high) if np.sign(g(middle)) == sign else (low, middle)
        points = np.append(points, [low, high])
    return np.setdiff1d(points, edges)


def corrected(candidate: Candidate, points: Array, values: Array, bits: int) -> Array:
    """Return the text's values, replaced by g itself where they may round to another number.

    Args:
        candidate: the pseudo-derivative.
        points: finite, float64, in order.
        values: what the text gives at the points.
        bits: of the mantissa that the values will be rounded to, the leading one included.
    """
    exact = Exact(at_start(candidate))
    found = values.copy()
    # Near the middle between two numbers of that many bits, rounding turns.
    mantissa, _ = np.frexp(values)
    steps = np.abs(mantissa) * 2.0 ** (bits + 1)
    near = (np.abs(steps - np.rint(steps)) < 1e-8 * steps) & (np.rint(steps) % 2 == 1)
    unsure = set(np.flatnonzero(near | ~np.isfinite(values)).tolist())
    sample = [*range(0, len(points), EVERY), len(points) - 1]
    wrong = [not _agree(exact.value(float(points[i])), float(values[i])) for i in sample]
    for place, (start, end) in enumerate(itertools.pairwise(sample)):
        if wrong[place] or wrong[place + 1]:
            unsure.update(range(start, end + 1))
    for index in sorted(unsure):
        value = exact.value(float(points[index]))
        if value is not None:
            found[index] = value
    return found


def _agree(wanted: float | None, value: float) -> bool:
    return wanted is None or abs(value - wanted) <= 1e-10 * abs(wanted) + 1e-60
