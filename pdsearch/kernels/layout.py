"""How a float32 table is laid out: the first 16 numbers, then the coefficients.

`fused.h` reads it and says what each layout means; the GPU's kernel reads Trees alone. `evaluate`
does in NumPy what the kernels do, operation by operation in float32, so that a table can be checked
without a kernel.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

__all__ = [
    "MOST_STRETCHES",
    "TOP",
    "Array",
    "Cells",
    "Function",
    "Stretch",
    "Tree",
    "chebyshev",
    "floor_ordinal",
    "from_ordinal",
    "horner",
    "ordinal",
    "trials",
    "widths",
]

Array = np.ndarray[Any, Any]
Function = Callable[[Array], Array]  # float64 arrays to float64 arrays of the same shape

TOP = float(np.finfo(np.float32).max)
STRETCHES = 32
MOST_STRETCHES = 64  # of a Tree; on the CPU, 32 fill the registers


def ordinal(values: Array) -> Array:
    """Return float32 numbers as integers in the same order, consecutive for neighbours."""
    bits = np.asarray(values, dtype=np.float32).view(np.int32).astype(np.int64)
    return np.where(bits >= 0, bits, -(bits & 0x7FFFFFFF))


def from_ordinal(ordinals: Array) -> Array:
    """Return the float32 numbers of `ordinal`; 0 is +0."""
    ordinals = np.asarray(ordinals, dtype=np.int64)
    bits = np.where(ordinals >= 0, ordinals, -ordinals | 0x80000000).astype(np.uint32)
    return bits.view(np.float32)


def floor_ordinal(value: float) -> int:
    """Return the ordinal of the largest float32 that is not above `value`."""
    near = np.float32(np.clip(value, -TOP, TOP))
    at = int(ordinal(np.array([near]))[0])
    return at - 1 if float(near) > value else at


def horner(coefficients: Array, u: Array) -> Array:
    """Evaluate polynomials by Horner's rule in float32; the kernel fuses its multiply-adds.

    Args:
        coefficients: (..., degree + 1), float32, constant first.
        u: (...), float32.
    """
    p = coefficients[..., -1] + np.zeros_like(u)
    for k in range(coefficients.shape[-1] - 2, -1, -1):
        p = p * u + coefficients[..., k]
    return p


HALF_ULP = 2.0**-24
"""Relative rounding error of a float32 operation."""


@dataclass(frozen=True)
class Stretch:
    """A stretch of the line on which a table is one polynomial, in exact numbers.

    Attributes:
        first: its lowest x, or a float64 below it.
        last: its highest x, or a float64 above it.
        slope: u = slope·x + shift.
        shift: see slope.
        coefficients: of the polynomial in u, constant first.
        noise: bound on what float32 arithmetic adds, whether multiply-adds are fused or not.
    """

    first: float
    last: float
    slope: Fraction
    shift: Fraction
    coefficients: tuple[Fraction, ...]
    noise: float


def _noise(coefficients: Array, reach: float, *, moved: float = HALF_ULP) -> float:
    """Bound Horner's rounding error for abs(u) ≤ reach, with u off by `moved` relative to reach.

    Higham, Accuracy and Stability of Numerical Algorithms, section 5.1: γ₂ₙ Σ|cₖ||u|ᵏ with n the
    degree; the error of u adds Σ k|cₖ||u|ᵏ⁻¹. A twentieth more covers second-order terms and
    underflow.
    """
    sizes = np.abs(np.trim_zeros(coefficients, "b").astype(np.float64))
    powers = np.arange(len(sizes))
    value = float((sizes * reach**powers).sum())
    slope = float((powers * sizes * reach ** np.maximum(powers, 1)).sum())
    return 1.05 * (2 * max(0, len(sizes) - 1) * HALF_ULP * value + moved * slope) + 1e-37


def widths(size: int, mantissa: int, v: Array) -> Array:
    """Return w of `Cells` at places v from each stretch's centre: (size, len(v))."""
    stretch = np.arange(size)
    octave, part = stretch >> mantissa, stretch & ((1 << mantissa) - 1)
    half = 0.5 ** (mantissa + 1)
    found: Array = 2.0 ** octave[:, None] * (1 + part[:, None] * 2 * half + half + v)
    return found


def chebyshev(degree: int) -> tuple[Array, Array]:
    """Return nodes in [-1, 1] and the matrix from values there to coefficients, constant first."""
    nodes = np.cos((2 * np.arange(degree + 1) + 1) / (2 * (degree + 1)) * np.pi)
    return nodes, np.linalg.inv(np.vander(nodes, increasing=True)).T


@dataclass(frozen=True, eq=False)
class Cells:
    """The layouts Side (32 stretches of |x|) and Sides (16 for each sign).

    Args:
        two_sided: whether the layout is Sides.
        offset: Side: the other side is offset + slope · the polynomial.
        slope: see offset.
        inverted: Side: the other side is x <= 0 rather than x > 0.
        mantissa: bits of w's mantissa in the index, 0 to 5.
        scale: w = |x|·scale + 1.
        coefficients: (32, degree + 1) float32, by stretch; in Sides the last 16 are x > 0.
    """

    two_sided: bool
    offset: float = 0.0
    slope: float = 1.0
    inverted: bool = False
    mantissa: int = 0
    scale: float = 1.0
    coefficients: Array = field(default_factory=lambda: np.zeros((STRETCHES, 0), dtype=np.float32))

    @property
    def size(self) -> int:
        """Stretches of one sign of x."""
        return 16 if self.two_sided else 32

    @property
    def signs(self) -> tuple[int, ...]:
        """The signs of x that have stretches."""
        return (-1, 1) if self.two_sided else (1 if self.inverted else -1,)

    @property
    def octaves(self) -> int:
        """Octaves of w that have stretches."""
        return self.size >> self.mantissa

    @property
    def furthest(self) -> float:
        """The largest w: just below the end of the last stretch."""
        return float(np.nextafter(np.float32(2.0**self.octaves), np.float32(0)))

    @property
    def centre(self) -> float:
        """Of the mantissa in each stretch."""
        return 1.0 + 0.5 ** (self.mantissa + 1)

    def evaluate(self, x: Array) -> Array:
        """Return g at float32 numbers."""
        stretch, v = self.places(x)
        p = horner(self.coefficients[stretch], v)
        if self.two_sided:
            return p
        other = (x > 0) ^ self.inverted
        return np.where(other, np.float32(self.offset) + np.float32(self.slope) * p, p)

    def places(self, x: Array) -> tuple[Array, Array]:
        """Return the stretch of each number, and v, the variable of its polynomial."""
        wide = np.abs(x).astype(np.float64) * float(np.float32(self.scale)) + 1.0
        with np.errstate(over="ignore"):
            w = np.minimum(wide.astype(np.float32), np.float32(self.furthest))
        bits = w.view(np.uint32)
        free = 23 - self.mantissa
        stretch = (bits >> free).astype(np.int64) - (127 << self.mantissa)
        if self.two_sided:
            stretch = stretch + 16 * (x > 0)
        mantissa = ((bits & np.uint32((1 << free) - 1)) | np.uint32(0x3F800000)).view(np.float32)
        return stretch, mantissa - np.float32(self.centre)

    def stretches(self) -> Iterator[Stretch]:
        """Yield every polynomial with the x at which it may be used, rounding of w included."""
        scale = Fraction(float(np.float32(self.scale)))
        for row, coefficients in enumerate(self.coefficients):
            octave, part = divmod(row % self.size, 1 << self.mantissa)
            low = 2.0**octave * (1 + part / (1 << self.mantissa))
            high = low + 2.0**octave / (1 << self.mantissa)
            # w is rounded twice where multiply-adds are not fused: it may cross into the next
            # stretch by a unit.
            reach = [
                max(0.0, float((Fraction(w) - 1) / scale) * (1 + side * 1e-15))
                for w, side in ((low * (1 - 3 * HALF_ULP), -1), (high * (1 + 3 * HALF_ULP), 1))
            ]
            # Of the part of w's mantissa below the bits of the index.
            centre = Fraction(self.centre) + Fraction(part, 1 << self.mantissa)
            slope, shift = scale / 2**octave, Fraction(1, 2**octave) - centre
            half = 0.5 ** (self.mantissa + 1)
            # v is exact except for w's rounding: a unit of w, of which 2^octave·v is a part.
            noise = _noise(coefficients, half, moved=2 * HALF_ULP / half)
            exact = tuple(Fraction(float(c)) for c in coefficients)
            ends = [(reach[0], reach[1], slope, shift, exact, noise)]
            if octave == self.octaves - 1 and part == (1 << self.mantissa) - 1:
                # Beyond, w stays at its furthest.
                u = Fraction(self.furthest) / 2**octave - centre
                value = sum((c * u**k for k, c in enumerate(exact)), start=Fraction(0))
                edge = (Fraction(self.furthest) * Fraction(1 - 5 * HALF_ULP) - 1) / scale
                start = max(0.0, float(edge) * (1 - 1e-15))
                ends.append((start, TOP, Fraction(0), Fraction(0), (value,), noise))
            for near, far, slope_, shift_, own, own_noise in ends:
                for side in [-1, 1] if not self.two_sided else [1 if row >= 16 else -1]:
                    other = not self.two_sided and (side > 0) != self.inverted
                    given, wrong = self._other_side(own, own_noise) if other else (own, own_noise)
                    first, last = (near, far) if side > 0 else (-far, -near)
                    yield Stretch(first, last, side * slope_, shift_, given, wrong)

    def _other_side(
        self, polynomial: tuple[Fraction, ...], noise: float
    ) -> tuple[tuple[Fraction, ...], float]:
        """Return the polynomial of a Side's other side, and its noise."""
        offset, factor = (Fraction(float(np.float32(v))) for v in (self.offset, self.slope))
        scaled = [factor * c for c in polynomial]
        size = float(abs(offset) + abs(factor) * sum(map(abs, polynomial)))
        return (scaled[0] + offset, *scaled[1:]), noise * abs(self.slope) + 3 * HALF_ULP * size

    def table(self) -> Array:
        """Return the table as the kernel reads it."""
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
        places = ((127 << self.mantissa) + np.arange(self.size)) % self.size
        rows = np.zeros((STRETCHES, degree + 1), dtype=np.float32)
        for start in range(0, STRETCHES, self.size):
            rows[start + places] = self.coefficients[start : start + self.size]
        return np.concatenate([header, rows.T.ravel()])


def trials(
    g: Function, layout: Cells, scales: Array, places: Array
) -> Iterator[tuple[int, Array, Array]]:
    """Yield, for each number of mantissa bits, g on the stretches at every scale.

    Args:
        g: the function.
        layout: which signs of x have stretches, and how many.
        scales: what to try.
        places: within a stretch, in [-1, 1].

    Yields:
        mantissa: bits of w's mantissa in the index.
        distance: abs(x), (scales, stretches, places).
        values: g, (scales, signs, stretches, places); not at 0 itself, where g may jump.
    """
    for mantissa in range(layout.size.bit_length() - 1, -1, -1):
        w = widths(layout.size, mantissa, places * 0.5 ** (mantissa + 1))
        distance = (w - 1)[None] / scales[:, None, None]
        values = [g(np.maximum(distance, 1e-30) * sign) for sign in layout.signs]
        yield mantissa, distance, np.stack(values, axis=1)


@dataclass(frozen=True, eq=False)
class Tree:
    """The layout Tree: stretches with any ends.

    Args:
        ends: float32, in order; stretch i is (ends[i-1], ends[i]], the last has no end.
        centres: float32, one per stretch.
        coefficients: (stretches, degree + 1) float32, of x - centre.
    """

    ends: Array
    centres: Array
    coefficients: Array

    def evaluate(self, x: Array) -> Array:
        """Return g at float32 numbers."""
        z = np.clip(x, np.float32(-TOP), np.float32(TOP))
        stretch = np.searchsorted(self.ends, z, side="left")
        return horner(self.coefficients[stretch], z - self.centres[stretch])

    def stretches(self) -> Iterator[Stretch]:
        """Yield every polynomial with the float32 numbers at which it is used."""
        ends = [-TOP, *map(float, self.ends), TOP]
        for row, (low, high) in enumerate(itertools.pairwise(ends)):
            first = float(np.nextafter(np.float32(low), np.float32(np.inf))) if row else low
            centre, coefficients = float(self.centres[row]), self.coefficients[row]
            reach = max(abs(first - centre), abs(high - centre))
            if not coefficients[1:].any():
                reach = 0.0  # an infinite one times 0 would be NaN
            yield Stretch(
                first,
                high,
                Fraction(1),
                -Fraction(centre),
                tuple(Fraction(float(c)) for c in np.trim_zeros(coefficients, "b"))
                or (Fraction(0),),
                _noise(coefficients, reach),
            )

    def table(self) -> Array:
        """Return the table as the kernel reads it."""
        used, degree = len(self.centres), self.coefficients.shape[1] - 1
        size = next(s for s in (4, 8, 16, 32, MOST_STRETCHES) if s >= used)
        degree_used = degree if size <= 8 else 5
        header = np.zeros(16, dtype=np.float32)
        header[:3] = 2.0, size, degree_used
        rows = np.zeros((degree_used + 3, size), dtype=np.float32)
        rows[0] = np.inf
        rows[0, : used - 1] = self.ends
        rows[1, :used] = self.centres
        rows[2 : 3 + degree, :used] = self.coefficients.T
        return np.concatenate([header, rows.ravel()])
