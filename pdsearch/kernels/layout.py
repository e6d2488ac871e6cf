"""How a float32 table is laid out: the first 16 numbers, then the coefficients.

`fused.cpp` reads it; what each layout means is told there. `evaluate` does in NumPy what the kernel
does, operation by operation in float32, so that a table can be checked where no kernel is.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["TOP", "Cells", "Tree", "floor_ordinal", "from_ordinal", "ordinal"]

Array = np.ndarray[Any, Any]

TOP = float(np.finfo(np.float32).max)
STRETCHES = 32


def ordinal(values: Array) -> Array:
    """float32 numbers as integers in the same order, neighbours next to each other."""
    bits = np.asarray(values, dtype=np.float32).view(np.int32).astype(np.int64)
    return np.where(bits >= 0, bits, -(bits & 0x7FFFFFFF))


def from_ordinal(ordinals: Array) -> Array:
    """The float32 numbers of `ordinal`; 0 is +0."""
    ordinals = np.asarray(ordinals, dtype=np.int64)
    bits = np.where(ordinals >= 0, ordinals, -ordinals | 0x80000000).astype(np.uint32)
    return bits.view(np.float32)


def floor_ordinal(value: float) -> int:
    """The ordinal of the largest float32 that is not above `value`."""
    near = np.float32(np.clip(value, -TOP, TOP))
    at = int(ordinal(np.array([near]))[0])
    return at - 1 if float(near) > value else at


def horner(coefficients: Array, u: Array) -> Array:
    """Polynomials by Horner's rule in float32 (but for the kernel's fused multiply-adds).

    Args:
        coefficients: (..., degree + 1), float32, constant first.
        u: (...), float32.
    """
    p = coefficients[..., -1] + np.zeros_like(u)
    for k in range(coefficients.shape[-1] - 2, -1, -1):
        p = p * u + coefficients[..., k]
    return p


@dataclass(frozen=True, eq=False)
class Cells:
    """Layouts Side (32 stretches of |x|) and Sides (16 for each sign).

    Args:
        two_sided: Sides.
        mantissa: bits of w's mantissa in the index, 0 to 5.
        scale: w = |x|·scale + 1.
        coefficients: (32, degree + 1) float32, by stretch; in Sides the last 16 are x > 0.
        offset: Side: the other side is offset + slope · the polynomial.
        slope: see offset.
        inverted: Side: the other side is x <= 0 rather than x > 0.
    """

    two_sided: bool
    mantissa: int
    scale: float
    coefficients: Array
    offset: float = 0.0
    slope: float = 1.0
    inverted: bool = False

    @property
    def octaves(self) -> int:
        """Octaves of w that have stretches."""
        return (16 if self.two_sided else 32) >> self.mantissa

    @property
    def furthest(self) -> float:
        """The largest w: just below the end of the last stretch."""
        return float(np.nextafter(np.float32(2.0**self.octaves), np.float32(0)))

    @property
    def centre(self) -> float:
        """Of the mantissa in each stretch."""
        return 1.0 + 0.5 ** (self.mantissa + 1)

    def evaluate(self, x: Array) -> Array:
        """G at float32 numbers."""
        wide = np.abs(x).astype(np.float64) * float(np.float32(self.scale)) + 1.0
        with np.errstate(over="ignore"):
            w = np.minimum(wide.astype(np.float32), np.float32(self.furthest))
        bits = w.view(np.uint32)
        free = 23 - self.mantissa
        stretch = (bits >> free).astype(np.int64) - (127 << self.mantissa)
        above = x > 0
        if self.two_sided:
            stretch = stretch + 16 * above
        mantissa = ((bits & np.uint32((1 << free) - 1)) | np.uint32(0x3F800000)).view(np.float32)
        p = horner(self.coefficients[stretch], mantissa - np.float32(self.centre))
        if self.two_sided:
            return p
        other = above ^ self.inverted
        return np.where(other, np.float32(self.offset) + np.float32(self.slope) * p, p)

    def table(self) -> Array:
        """As the kernel reads it."""
        degree = self.coefficients.shape[1] - 1
        header = np.zeros(16, dtype=np.float32)
        header[:10] = (
            float(self.two_sided),
            STRETCHES,
            degree,
            self.mantissa,
            self.scale,
            self.furthest,
            self.centre,
            float(self.inverted),
            self.offset,
            self.slope,
        )
        # The kernel indexes with the low bits of exponent and mantissa as they are.
        size = 16 if self.two_sided else 32
        places = ((127 << self.mantissa) + np.arange(size)) % size
        rows = np.zeros((STRETCHES, degree + 1), dtype=np.float32)
        for start in range(0, STRETCHES, size):
            rows[start + places] = self.coefficients[start : start + size]
        return np.concatenate([header, rows.T.ravel()])


@dataclass(frozen=True, eq=False)
class Tree:
    """Layout Tree: stretches with any ends.

    Args:
        ends: float32, in order; stretch i is (ends[i-1], ends[i]], the last has no end.
        centres: float32, one a stretch.
        coefficients: (stretches, degree + 1) float32, of x - centre.
    """

    ends: Array
    centres: Array
    coefficients: Array

    def evaluate(self, x: Array) -> Array:
        """G at float32 numbers."""
        z = np.clip(x, np.float32(-TOP), np.float32(TOP))
        stretch = np.searchsorted(self.ends, z, side="left")
        return horner(self.coefficients[stretch], z - self.centres[stretch])

    def table(self) -> Array:
        """As the kernel reads it."""
        used, degree = len(self.centres), self.coefficients.shape[1] - 1
        size = next(s for s in (4, 8, 16, 32) if s >= used)
        degree_used = degree if size <= 8 else 5
        header = np.zeros(16, dtype=np.float32)
        header[:3] = 2.0, size, degree_used
        rows = np.zeros((degree_used + 3, size), dtype=np.float32)
        rows[0] = np.inf
        rows[0, : used - 1] = self.ends
        rows[1, :used] = self.centres
        rows[2 : 3 + degree, :used] = self.coefficients.T
        return np.concatenate([header, rows.ravel()])
