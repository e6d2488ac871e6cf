"""How far the text of a formula is from the formula, by ball arithmetic at many points.

Floats of one dtype have no shortage of points, so this is a measurement: what is stated is several
times the worst that was found, and places where formulas break are among the points.
"""

import itertools
import math
from typing import Any

import numpy as np

from pdsearch.enclosure import cut
from pdsearch.family import Candidate
from pdsearch.kernels.pieces import Values, at_progress, breakpoints
from pdsearch.reach import Exact

__all__ = ["ABSOLUTE", "RELATIVE", "corrected", "measured_error"]

Array = np.ndarray[Any, Any]

MARGIN = 16.0
"""Times the worst error found: rounding errors scatter by less between neighbours."""
RELATIVE = 1e-12
ABSOLUTE = 1e-15
"""What the text of any formula may be off, relative to g and absolutely: sixteen digits, less what
a large argument of exp takes, and what is left of a difference next to a zero of g."""
EVERY = 48  # of the 16-bit inputs in their order, one is compared; two bad neighbours, and all are


def measured_error(candidate: Candidate, progress: float) -> float:
    """Bound on abs(text - g) - 1e-12·abs(g) - 1e-15 in float64, measured; 0 where none was found.

    Where the two sides of a condition differ by no more than their rounding, either arm may be
    taken: breakpoints themselves are left out.
    """
    expression = at_progress(candidate, progress)
    g, exact = Values(candidate, progress), Exact(expression)
    points = _points(candidate, progress, g)
    values = g(points)
    largest = float(np.finfo(np.float64).max)
    worst = 0.0
    for point, value in zip(points.tolist(), values.tolist(), strict=True):
        wanted = exact.value(point)
        if wanted is not None:
            wanted = min(max(wanted, -largest), largest)
            worst = max(worst, abs(value - wanted) - RELATIVE * abs(wanted) - ABSOLUTE)
    return min(MARGIN * worst, largest)


def _points(candidate: Candidate, progress: float, g: Values) -> Array:
    """Numbers of all sizes, evenly about zero, beside breakpoints and zeros of g."""
    largest = np.finfo(np.float64).max
    sizes = np.geomspace(1e-6, 1e30, 145)
    # Beside the breakpoints: at one that no float64 is, which arm is taken is up to its rounding.
    parts = [-sizes, sizes, np.linspace(-24, 24, 193), np.array([-largest, 0.0, largest])]
    edges = breakpoints(cut(at_progress(candidate, progress)))
    with np.errstate(over="ignore"):
        parts += [np.nextafter(edge, [-math.inf, math.inf]) for edge in edges]
    points = np.unique(np.clip(np.concatenate(parts), -largest, largest))
    points = np.setdiff1d(points, edges)
    signs = np.sign(g(points))
    for place in np.flatnonzero(signs[1:] * signs[:-1] < 0):
        low, high, sign = points[place], points[place + 1], signs[place]
        for _ in range(60):
            middle = low + (high - low) / 2
            low, high = (middle, high) if np.sign(g(middle)) == sign else (low, middle)
        points = np.append(points, [low, high])
    return np.setdiff1d(points, edges)


def corrected(
    candidate: Candidate, progress: float, points: Array, values: Array, bits: int
) -> Array:
    """The text's values where they round to `bits` as g does, and g where they may not.

    Args:
        candidate: the pseudo-derivative.
        progress: its t.
        points: finite, float64, in order.
        values: the text's, at the points.
        bits: of the mantissa that the values are going to be rounded to, the leading one counted.
    """
    exact = Exact(at_progress(candidate, progress))
    found = values.copy()
    # What lies next to the middle between two numbers, where rounding turns.
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
