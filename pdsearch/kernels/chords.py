"""Straight lines between many values of g, for processors that have no AVX-512.

A float32 number's upper half is a bfloat16 number. Between neighbours of these, no wider than 1/128
of x, most shapes are straight enough; a quarter of that serves almost all others. A look-up by the
highest bits is cheaper than a polynomial, unless the polynomial's coefficients stay in registers.
"""

import functools
from dataclasses import dataclass

import numpy as np
import torch

from pdsearch.family import Candidate
from pdsearch.kernels.certify import LIMIT
from pdsearch.kernels.layout import TOP, Array, Stretch, Tree
from pdsearch.kernels.table import fitted

__all__ = ["Chords", "chords"]

FREE = (16, 14)
"""Lowest bits of a float32 number that say where in its chord it lies: the first that suffices."""
FEWEST = 8
"""Straight stretches that stay in registers even with AVX2; chords are no faster than these."""
ROUNDING = 4 * 2.0**-24
"""Relative to the two ends: the difference, two multiply-adds' roundings and that of an end."""


@dataclass(frozen=True, eq=False)
class Chords:
    """A table of chords.

    Attributes:
        values: float32 (2^(32 − free) + 2,), as `on_chords` of fused.h reads it.
        error: proved bound on abs(chord − g) at every float32 number, arithmetic included.
    """

    values: torch.Tensor
    error: float


@functools.lru_cache(maxsize=128)  # 256 KiB or 1 MiB each
def chords(candidate: Candidate) -> Chords | None:
    """Return the chords of a candidate; None where they serve it badly.

    Their ends lie on polynomials p that are proved to be close to g. Where a chord overlaps with a
    stretch of these, its distance from p is at most that at the ends of the overlap and what p
    bends away from a straight line in between, h²/8·p″ over a length h.
    """
    found = fitted(candidate, finely=True)
    if found is None:
        return None
    layout, proof = found
    assert isinstance(layout, Tree)  # the only one that is fitted finely
    if len(layout.centres) <= FEWEST and not layout.coefficients[:, 2:].any():
        return None
    for free in FREE:
        values = _values(layout, free)
        error = proof.error + _distance(layout, values, free)
        if error <= LIMIT:
            return Chords(torch.from_numpy(values), error)
    return None


def _values(layout: Tree, free: int) -> Array:
    points = _points(free)
    tiny = np.float32(1e-45)
    points[0], points[_place(-0.0, free)] = tiny, -tiny
    values = layout.evaluate(points).astype(np.float64)
    for signed in _finite(free):
        values[signed][1:-1] -= _halfway(values[signed])
    at_zero = layout.evaluate(np.zeros(1, dtype=np.float32))
    return np.concatenate([values, values[-1:], at_zero]).astype(np.float32)


def _place(x: float, free: int) -> int:
    return int(np.float32(x).view(np.uint32)) >> free


def _finite(free: int) -> tuple[slice, slice]:
    """Return where the finite numbers of each sign begin a chord."""
    zero, infinite = _place(-0.0, free), _place(np.inf, free)
    return slice(0, infinite), slice(zero, zero + infinite)


def _halfway(values: Array) -> Array:
    """Return what to take off inner values, so that chords err as much above the curve as below it.

    A chord of length h is off by h²·p″/8 in the middle; half of that is a sixteenth of the second
    difference. Where this is not smooth, p has a bend, and its value is right.
    """
    second = np.diff(values, 2)
    size = np.pad(np.abs(second), 1)
    bent = size[1:-1] > 2.5 * np.minimum(size[:-2], size[2:])
    return np.where(bent, 0.0, second / 16)


def _points(free: int) -> Array:
    """Return the numbers that begin a chord; the largest ones for what is not finite."""
    bits = np.arange(1 << (32 - free), dtype=np.uint32) << free
    points = bits.view(np.float32).copy()
    infinite, negative = _place(np.inf, free), _place(-0.0, free)
    points[infinite:negative], points[negative + infinite :] = TOP, -TOP
    return points


def _distance(layout: Tree, values: Array, free: int) -> float:
    """Bound how far the chords are from the polynomials, over all stretches."""
    points = _points(free).astype(np.float64)
    ends = values.astype(np.float64)
    worst = 0.0
    for stretch in layout.stretches():
        for signed in _finite(free):
            inner, outer = points[signed], points[signed.start + 1 : signed.stop + 1]
            low, high = np.minimum(inner, outer), np.maximum(inner, outer)
            at = signed.start + np.flatnonzero((low < stretch.last) & (high > stretch.first))
            if len(at):
                x = np.stack([points[at], points[at + 1]])
                given = np.stack([ends[at], ends[at + 1]])
                worst = max(worst, float(_off(stretch, x, given).max()))
    return worst


def _off(stretch: Stretch, x: Array, given: Array) -> Array:
    """Bound abs(chord − p) where chords and a stretch with the polynomial p overlap.

    Args:
        stretch: the polynomial.
        x: (2, chords), the ends of the chords.
        given: (2, chords), the values there.
    """
    polynomial = np.polynomial.Polynomial([float(c) for c in stretch.coefficients])
    slope = float(stretch.slope)
    inside = np.clip(x, stretch.first, stretch.last)
    part = (inside - x[0]) / (x[1] - x[0])
    u = slope * inside + float(stretch.shift)
    ends = given[0] + part * (given[1] - given[0]) - polynomial(u)
    # In between, p bends away by at most length²/8 · p″, to the side that the sign of p″ tells.
    length, middle = np.abs(u[1] - u[0]), u.mean(axis=0)
    third = np.polynomial.Polynomial(np.abs(polynomial.deriv(3).coef))(np.abs(u).max(axis=0))
    second, spread = polynomial.deriv(2)(middle), length / 2 * third
    above = ends.max(axis=0) + length**2 / 8 * np.maximum(second + spread, 0)
    below = ends.min(axis=0) + length**2 / 8 * np.minimum(second - spread, 0)
    return np.maximum(above, -below) + ROUNDING * np.abs(given).sum(axis=0)
