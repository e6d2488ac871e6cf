"""Polynomials that round to g in bfloat16, checked at every input.

bfloat16 has only 65 536 values, so nothing is sampled: the kernel itself computes all of them. A
band of sizes of x in which the result is not the correctly rounded g is looked up instead: next to
zeros of g in which all digits count (exponential tails), or out to the largest numbers (tails of
powers). A table is good enough if few inputs are looked up.
"""

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy import special

from pdsearch.family import Candidate
from pdsearch.kernels.fit import LARGEST_FITTED, mirrored, widest_slack
from pdsearch.kernels.layout import Array, Cells, Function, Tree, chebyshev, trials, widths
from pdsearch.kernels.pieces import function
from pdsearch.kernels.table import every_input, every_value

__all__ = ["Rounded", "rounded"]

DEVIATION = 1.5  # of the normal pre-activations over which look-ups are counted
FEW = 1e-3  # share of inputs looked up with which a table is taken at once
MOST = 2e-2  # share that the best table may have; beyond it, all inputs are looked up
BAND = 12  # place in the header: look up |x| in (header[12], header[13]], cyclically
CLOSE = 0.25  # units in the last place from g to a polynomial that rounds to it, at most
ROUNDS = 6  # of fits, each including the inputs that the last one got wrong


@dataclass(frozen=True, eq=False)
class Targets:
    """The values wanted at finite inputs, in their order.

    Attributes:
        x: the inputs, float64; zero once.
        g: the exact values, float64.
        low: lower end of what rounds to the rounded g and is close to g.
        high: upper end of that.
    """

    x: Array
    g: Array
    low: Array
    high: Array

    @classmethod
    def of(cls, every: torch.Tensor, g: Function) -> "Targets":
        """Return the targets for the rounded values, by the input's bits, and the exact ones."""
        x = every_input(every.dtype).double().numpy()
        use = np.flatnonzero(np.isfinite(x) & ~((x == 0) & np.signbit(x)))
        use = use[np.argsort(x[use])]
        x = x[use]
        largest = torch.finfo(every.dtype).max
        middle, exact = every.double().numpy()[use], np.clip(g(x), -largest, largest)
        far = torch.full_like(every, math.inf)
        below, above = (torch.nextafter(every, s * far).double().numpy()[use] for s in (-1, 1))
        unit = np.minimum(above - middle, middle - below)
        # A little inside, so that float32's own rounding carries no value over the edge. The
        # edges belong to even numbers, though, and g may lie on them (a line through exact ties).
        inside = 2e-5 * unit * (every.view(torch.int16).numpy()[use] & 1)
        low = np.maximum((below + middle) / 2 + inside, np.minimum(exact, middle) - CLOSE * unit)
        high = np.minimum((above + middle) / 2 - inside, np.maximum(exact, middle) + CLOSE * unit)
        return cls(x, exact, low, high)

    def part(self, where: Any) -> "Targets":
        """Return the targets at an index."""
        return Targets(self.x[where], self.g[where], self.low[where], self.high[where])


@dataclass(frozen=True, eq=False)
class Rounded:
    """A table for bfloat16.

    Attributes:
        values: float32, as fused.cpp reads it, the band of sizes that are looked up included.
        share: of inputs in the band, for normal pre-activations with standard deviation 1.5.
    """

    values: torch.Tensor
    share: float


@functools.lru_cache(maxsize=256)
def rounded(candidate: Candidate) -> Rounded | None:
    """Return the cheapest table with which few inputs are looked up; None if there is none."""
    every, g = every_value(candidate, torch.bfloat16), function(candidate)
    if bool((every.abs() >= LARGEST_FITTED).any()):
        return None
    targets = Targets.of(every, g)
    best: Rounded | None = None
    for attempt in _attempts(g, targets):
        for layout in attempt():
            found = _checked(layout, every)
            if found.share <= FEW:
                return found
            if best is None or found.share < best.share:
                best = found
    return best if best is not None and best.share <= MOST else None


def _attempts(
    g: Function, targets: Targets
) -> Iterator[Callable[[], Iterator[Cells] | Iterator[Tree]]]:
    """Yield layouts, the cheapest for the kernel first."""
    side, both = mirrored(g), Cells(two_sided=True)
    yield lambda: _tree(targets, most=8, degree=1)
    yield lambda: _cells(g, targets, side, degree=2)
    yield lambda: _cells(g, targets, side, degree=3)
    yield lambda: _tree(targets, most=4, degree=3)
    yield lambda: _cells(g, targets, both, degree=3)
    yield lambda: _cells(g, targets, side, degree=5)
    yield lambda: _cells(g, targets, both, degree=5)
    yield lambda: _tree(targets, most=8, degree=3)
    yield lambda: _tree(targets, most=8, degree=5)
    yield lambda: _tree(targets, most=16, degree=5)


def _checked(layout: Cells | Tree, every: torch.Tensor) -> Rounded:
    """Let the kernel compute every input, and find the band in which it is wrong."""
    values = torch.from_numpy(layout.table())
    inputs = every_input(every.dtype)

    def wrong(low: float, high: float) -> Array:
        values[BAND], values[BAND + 1] = low, high
        found = torch.ops.pdsearch.scale_rounded(torch.ones_like(inputs), inputs, values, every)
        sizes = inputs[(found != every) & ~torch.isnan(inputs)].double().abs()
        return sizes.unique().numpy()

    sizes = wrong(math.inf, math.inf)  # none is looked up
    if len(sizes) == 0:
        return Rounded(values, 0.0)
    # From the first to the last; or around zero and far out, without the widest gap.
    bands = [(_before(sizes[0]), float(sizes[-1]))]
    if len(sizes) > 1:
        gap = int(np.argmax(np.diff(_mass(sizes))))
        bands.append((_before(sizes[gap + 1]), float(sizes[gap])))
    share, band = min((_share(*band), band) for band in bands)
    if share < 1 and len(wrong(*band)):
        raise AssertionError(f"looking up {band} does not mend {layout}")
    return Rounded(values, share)


def _before(size: float) -> float:
    """Return the bfloat16 size before this one; before zero, cyclically, infinity."""
    at = torch.tensor(size, dtype=torch.bfloat16, device="cpu")
    return math.inf if size == 0 else torch.nextafter(at, torch.zeros_like(at)).item()


def _mass(size: Array) -> Array:
    """Return the share of pre-activations up to a size."""
    return special.erf(size / (DEVIATION * math.sqrt(2)))


def _share(low: float, high: float) -> float:
    """Return the share of pre-activations in a band, which may wrap around."""
    inside = float(_mass(np.array(high)) - _mass(np.array(low)))
    return inside if low < high else 1.0 + inside


def _solve(targets: Targets, u: Array, degree: int, *, first: int = 0) -> Array:
    """Return a polynomial in u, float32, constant first, inside the intervals if there is one.

    By weighted least squares. If that fails, linear programming finds the polynomial furthest
    inside (Lim and Nagarakatte, arXiv:2007.05344, on polynomials that round correctly).

    Args:
        targets: the values wanted.
        u: where.
        degree: of the polynomial.
        first: its lowest power: 1 if g crosses zero at u = 0 and all its digits are needed.
    """
    half = max(float(np.abs(u).max()), 1e-38)
    powers = np.arange(first, degree + 1)
    width = np.maximum(targets.high - targets.low, 1e-45)
    basis = (u / half)[:, None] ** powers / width[:, None]
    found = np.linalg.lstsq(basis, targets.g / width)[0]
    values = basis @ found
    outside = np.maximum(targets.low / width - values, values - targets.high / width)
    if 0 < outside.max() < 1:  # else finished, or hopeless
        above, below = targets.high / width - values, values - targets.low / width
        mend = widest_slack(basis, above, below, sign=1.0, most=0.3)
        found = found if mend is None else found + mend
    coefficients = np.zeros(degree + 1)
    coefficients[powers] = found / half**powers
    with np.errstate(over="ignore", under="ignore"):
        return coefficients.astype(np.float32)


def _bent(targets: Targets, u: Array, degree: int) -> Array:
    """Solve for some of the inputs, and again with those that turn out to be wrong."""
    few = _thinned(targets.x, 300)
    for _ in range(ROUNDS):
        coefficients = _solve(targets.part(few), u[few], degree)
        values = np.polynomial.polynomial.polyval(u, coefficients.astype(np.float64))
        wrong = np.flatnonzero((values < targets.low) | (values > targets.high))
        if len(wrong) == 0 or len(wrong) > len(u) // 4:
            break
        few = np.union1d(few, _spread(wrong, 30))
    return coefficients


def _thinned(x: Array, most: int) -> Array:
    """Return the indices used in a fit: of the thousands of numbers next to zero, only a few."""
    size = np.abs(x)
    near = np.flatnonzero(size < 2.0**-11)
    rest = np.flatnonzero(size >= 2.0**-11)
    return np.concatenate([_spread(near, 9), _spread(rest, most)])


def _spread(indices: Array, most: int) -> Array:
    if len(indices) <= most:
        return indices
    return indices[np.unique(np.linspace(0, len(indices) - 1, most).astype(np.int64))]


# --------------------------------------------------------------------------------- Side and Sides

# Powers of two: in between, w's rounding drops x's last digits. Near zero they decide where g
# crosses from one rounded value to the next.
_SCALES = 2.0 ** np.arange(-9, 9)
# Of g, at sample points. The tighter, the less linear programming has to mend, and the less far
# the cells reach; half a unit in the last place is 2^-9.
_TOLERANCES = (2.0**-14, 2.0**-12, 2.0**-11, 2.0**-10)


def _cells(g: Function, targets: Targets, empty: Cells | None, degree: int) -> Iterator[Cells]:
    """Yield the layouts whose cells reach furthest from zero before one is not good enough."""
    if empty is None:
        return
    nodes, solve = chebyshev(degree)
    checks = np.linspace(-1, 1, 7)
    onto = solve @ np.vander(checks, degree + 1, increasing=True).T
    furthest = {tolerance: (0.0, 0, 1.0) for tolerance in _TOLERANCES}
    for mantissa, _, values in trials(g, empty, _SCALES, np.concatenate([nodes, checks])):
        at_nodes, wanted = values[..., : degree + 1], values[..., degree + 1 :]
        # Next to a zero of g, the relative error is checked later, input by input.
        amount = np.abs(wanted)
        least = np.maximum(2.0**-6 * amount.max(axis=-1, keepdims=True), 1e-45)
        error = (np.abs(at_nodes @ onto - wanted) / np.maximum(amount, least)).max(axis=(1, 3))
        ends = widths(empty.size, mantissa, np.array([0.5 ** (mantissa + 1)]))[:, 0] - 1
        for tolerance in _TOLERANCES:
            good = error <= tolerance
            count = np.where(good.all(axis=1), empty.size, np.argmin(good, axis=1))
            reach = np.concatenate([[0.0], ends])[count] / _SCALES
            top = int(np.argmax(reach))
            found = (float(reach[top]), mantissa, float(np.float32(_SCALES[top])))
            furthest[tolerance] = max(furthest[tolerance], found)
    rows = np.zeros((32, degree + 1), dtype=np.float32)
    for reach, mantissa, scale in dict.fromkeys(furthest.values()):
        if reach > 0.0:
            yield _filled(
                targets, replace(empty, mantissa=mantissa, scale=scale, coefficients=rows)
            )


def _filled(targets: Targets, layout: Cells) -> Cells:
    """Return the layout with a polynomial in each cell that holds inputs."""
    if not layout.two_sided:
        (sign,) = layout.signs
        other = targets.part(np.flatnonzero(targets.x * sign < 0)[::-1])
        targets = targets.part(np.flatnonzero(targets.x * sign > 0))
        if layout.slope != 0:  # the polynomial must be right on the other side, too
            ends = [(end - layout.offset) / layout.slope for end in (other.low, other.high)]
            low = np.maximum(targets.low, np.minimum(*ends))
            targets = replace(targets, low=low, high=np.minimum(targets.high, np.maximum(*ends)))
    cell, v = layout.places(targets.x)
    rows = layout.coefficients.copy()
    degree = rows.shape[1] - 1
    nearest = (0, 16) if layout.two_sided else (0,)
    for at in np.unique(cell):
        here = np.flatnonzero(cell == at)
        if at in nearest:  # next to zero g may vanish, and v has too few digits for that
            amount = np.abs(targets.g[here])
            here = here[amount >= 2.0**-12 * amount.max()]
        rows[at] = _bent(targets.part(here), v[here].astype(np.float64), degree)
    return replace(layout, coefficients=rows)


# ------------------------------------------------------------------------------------------- Tree

_REACHES = (math.inf, 16.0)  # sizes of x that the stretches cover


def _tree(targets: Targets, *, most: int, degree: int) -> Iterator[Tree]:
    """Cut greedily from left to right into at most `most` stretches."""
    for reach in _REACHES:
        near = targets.part(np.flatnonzero(np.abs(targets.x) <= reach))
        made = _cut(near, most, degree)
        if made is not None:
            yield made
            return


def _cut(targets: Targets, most: int, degree: int) -> Tree | None:
    ends: list[float] = []
    columns: list[Array] = []
    first = 0
    while first < len(targets.x):
        if len(columns) == most:
            return None
        first, column = _longest(targets, first, degree)
        if column is None:
            return None
        columns.append(column)
        ends.append(targets.x[first - 1])
    table = np.array(columns, dtype=np.float32)
    return Tree(np.array(ends[:-1], dtype=np.float32), table[:, 0], table[:, 1:])


def _horner(column: Array, x: Array) -> Array:
    """Evaluate a stretch's column in float32 with fused multiply-adds."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        u = (x - float(column[0])).astype(np.float32).astype(np.float64)
        p = np.full(len(x), float(column[-1]))
        for c in column[-2:0:-1]:
            p = (p * u + float(c)).astype(np.float32).astype(np.float64)
    return p


def _longest(targets: Targets, first: int, degree: int) -> tuple[int, Array | None]:
    """Return the furthest end up to which one polynomial is right, and its column if one is."""

    def fitted(last: int) -> tuple[bool, Array]:
        part = targets.part(slice(first, last))
        few = _thinned(part.x, 200)
        some = part.part(few)
        near, far = np.sort(np.abs(part.x[[0, -1]]))
        flat = np.zeros(degree + 2, dtype=np.float32)
        flat[1] = np.clip(some.g.mean(), some.low.max(), some.high.min())
        columns = [flat]
        if far < 1e6:
            centre = np.float32(0.5 * (part.x[0] + part.x[-1]))
            fits = [(centre, _solve(some, some.x - float(centre), degree))]
            if near < 0.01 * far:
                fits.append((np.float32(0), _solve(some, some.x, degree, first=1)))
            columns += [np.concatenate([[middle], column]) for middle, column in fits]
        for column in columns:
            found = _horner(column, part.x)
            if ((found >= part.low) & (found <= part.high)).all():
                return True, column.astype(np.float32)
        return False, columns[-1].astype(np.float32)

    good, column = first, None
    bad = len(targets.x) + 1
    trial = bad - 1
    while bad - good > 1:
        holds, made = fitted(trial)
        if holds:
            good, column = trial, made
        else:
            bad = trial
        trial = (good + bad) // 2
    return good, column
