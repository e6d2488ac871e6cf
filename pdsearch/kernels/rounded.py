"""Polynomials that round to g in bfloat16, found out at every input.

Such a number has 65 536 values, so that nothing here is sampled: the kernel itself computes all
of them, and is to look up those in a band of sizes of x if they do not come out as the correctly
rounded g: where g vanishes with all its digits to be kept (exponential tails), or goes on for ever
(the tails of powers). A table with which few inputs are looked up is good enough.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from pdsearch.kernels.fit import LARGEST_FITTED, mirrored
from pdsearch.kernels.layout import Cells, Tree, chebyshev, widths

__all__ = ["Rounded", "rounded"]

Array = np.ndarray[Any, Any]
Function = Callable[[Array], Array]
Layout = Cells | Tree

DEVIATION = 1.5  # of the pre-activations by whose normal distribution look-ups are counted
FEW = 1e-3  # share of inputs to be looked up that a table may have
MOST = 2e-2  # share that the best table may have; beyond it, all inputs are looked up
BAND = 12  # place in the header: look up |x| in (header[12], header[13]], cyclically
CLOSE = 0.25  # units in the last place that a polynomial is from g at most, besides rounding to it
ROUNDS = 6  # of fits, each on what the last one left wrong besides


@dataclass(frozen=True, eq=False)
class Targets:
    """What is wanted at finite inputs, in their order.

    Args:
        x: the inputs, float64; zero once.
        g: the exact values, float64.
        low: what rounds to the rounded g, and is close to g, begins here.
        high: and ends here.
    """

    x: Array
    g: Array
    low: Array
    high: Array

    @classmethod
    def of(cls, every: torch.Tensor, g: "Function") -> "Targets":
        """From the rounded values by the input's bits, and the function itself."""
        x = _all_inputs(every.dtype).double().numpy()
        use = np.flatnonzero(np.isfinite(x) & ~((x == 0) & np.signbit(x)))
        use = use[np.argsort(x[use])]
        x = x[use]
        largest = torch.finfo(every.dtype).max
        middle, exact = every.double().numpy()[use], np.clip(g(x), -largest, largest)
        far = torch.full_like(every, math.inf)
        below, above = (torch.nextafter(every, s * far).double().numpy()[use] for s in (-1, 1))
        unit = np.minimum(above - middle, middle - below)
        # A little inside, lest float32's own rounding carry a value over the edge; but an even
        # number has its edges, and g may lie on them (a line through exact ties).
        inside = 2e-5 * unit * (every.view(torch.int16).numpy()[use] & 1)
        low = np.maximum((below + middle) / 2 + inside, np.minimum(exact, middle) - CLOSE * unit)
        high = np.minimum((above + middle) / 2 - inside, np.maximum(exact, middle) + CLOSE * unit)
        return cls(x, exact, low, high)

    def part(self, where: Any) -> "Targets":
        """Those at an index."""
        return Targets(self.x[where], self.g[where], self.low[where], self.high[where])


@dataclass(frozen=True, eq=False)
class Rounded:
    """A table for bfloat16.

    Args:
        values: float32, as fused.cpp reads it.
        band: the sizes of x, above the first and up to the second, that are looked up; where the
            first is larger, those above the first and those up to the second.
        share: of inputs in the band, with pre-activations normal of deviation 1.5.
    """

    values: torch.Tensor
    band: tuple[float, float]
    share: float


def rounded(every: torch.Tensor, g: Function) -> Rounded | None:
    """The cheapest table with which few inputs are looked up; None where there is none.

    Args:
        every: (65 536,) the correctly rounded g by the input's bits, bfloat16.
        g: float64 arrays to float64 arrays.
    """
    if bool((every.abs() >= LARGEST_FITTED).any()):
        return None
    targets = Targets.of(every, g)
    best: Rounded | None = None
    for attempt in _attempts(g, targets):
        for layout in attempt():
            found = _looked_at(layout, every)
            if found.share <= FEW:
                return found
            if best is None or found.share < best.share:
                best = found
    return best if best is not None and best.share <= MOST else None


def _attempts(g: Function, targets: Targets) -> Iterator[Callable[[], Iterator[Layout]]]:
    """Layouts, those first that cost the kernel least."""
    found = mirrored(g)
    side = None if found is None else Cells(False, 0, 1.0, _empty(3), **found[1])
    yield lambda: _tree(targets, most=8, degree=1)
    if side is not None:
        yield lambda: _cells(g, targets, replace(side, coefficients=_empty(2)))
        yield lambda: _cells(g, targets, replace(side, coefficients=_empty(3)))
    both = Cells(True, 0, 1.0, _empty(3))
    yield lambda: _tree(targets, most=4, degree=3)
    yield lambda: _cells(g, targets, both)
    if side is not None:
        yield lambda: _cells(g, targets, replace(side, coefficients=_empty(5)))
    yield lambda: _cells(g, targets, replace(both, coefficients=_empty(5)))
    yield lambda: _tree(targets, most=8, degree=3)
    yield lambda: _tree(targets, most=8, degree=5)
    yield lambda: _tree(targets, most=16, degree=5)


def _looked_at(layout: Layout, every: torch.Tensor) -> Rounded:
    """Has the kernel compute every input, and finds the band in which it is not right."""
    values = torch.from_numpy(layout.table())
    inputs = _all_inputs(every.dtype)

    def wrong(low: float, high: float) -> Array:
        values[BAND], values[BAND + 1] = low, high
        found = torch.ops.pdsearch.scale_rounded(torch.ones_like(inputs), inputs, values, every)
        sizes = inputs[(found != every) & ~torch.isnan(inputs)].double().abs()
        return sizes.unique().numpy()

    sizes = wrong(math.inf, math.inf)  # none is looked up
    if len(sizes) == 0:
        return Rounded(values, (math.inf, math.inf), 0.0)
    # From the first to the last; or, beginning after the widest gap between them, far out and
    # around zero.
    bands = [(_before(sizes[0]), float(sizes[-1]))]
    if len(sizes) > 1:
        gap = int(np.argmax(np.diff(_mass(sizes))))
        bands.append((_before(sizes[gap + 1]), float(sizes[gap])))
    share, band = min((_share(*band), band) for band in bands)
    if share < 1 and len(wrong(*band)):
        raise AssertionError(f"looking up {band} does not mend {layout}")
    return Rounded(values, band, share)


def _before(size: float) -> float:
    """The bfloat16 size before this one; before zero, cyclically, infinity."""
    at = torch.tensor(size, dtype=torch.bfloat16, device="cpu")
    return math.inf if size == 0 else torch.nextafter(at, torch.zeros_like(at)).item()


def _mass(size: Array) -> Array:
    """Share of pre-activations up to a size."""
    from scipy import special

    return special.erf(size / (DEVIATION * math.sqrt(2)))


def _share(low: float, high: float) -> float:
    """Share of pre-activations in a band, which may go round."""
    inside = float(_mass(np.array(high)) - _mass(np.array(low)))
    return inside if low < high else 1.0 + inside


def _all_inputs(dtype: torch.dtype) -> torch.Tensor:
    return torch.arange(65_536, dtype=torch.int32, device="cpu").to(torch.uint16).view(dtype)


def _solve(targets: Targets, u: Array, degree: int, *, first: int = 0) -> Array:
    """A polynomial in u, float32, constant first, that lies in the intervals if there is one.

    Its lowest power is `first`: 1 where g goes through zero at u = 0 and all its digits are wanted.

    Weighted least squares; where that does not do, linear programming for the one that lies
    furthest inside (Lim and Nagarakatte, arXiv:2007.05344, on polynomials that round correctly).
    """
    half = max(float(np.abs(u).max()), 1e-38)
    powers = np.arange(first, degree + 1)
    width = np.maximum(targets.high - targets.low, 1e-45)
    basis = (u / half)[:, None] ** powers / width[:, None]
    found = np.linalg.lstsq(basis, targets.g / width)[0]
    values = basis @ found
    outside = np.maximum(targets.low / width - values, values - targets.high / width)
    if outside.max() > 0 and outside.max() < 1:  # else done, or hopeless
        found = _inside(basis, targets.low / width, targets.high / width, found)
    coefficients = np.zeros(degree + 1)
    coefficients[powers] = found / half**powers
    with np.errstate(over="ignore", under="ignore"):
        return coefficients.astype(np.float32)


def _inside(basis: Array, low: Array, high: Array, start: Array) -> Array:
    """What is furthest inside, low + d <= basis @ it <= high - d, or `start` if nothing is."""
    from scipy import optimize

    ones = np.ones((len(low), 1))
    move = basis @ start
    rows = np.block([[basis, ones], [-basis, ones]])
    free = basis.shape[1]
    solved = optimize.linprog(
        np.append(np.zeros(free), -1.0),
        A_ub=rows,
        b_ub=np.concatenate([high - move, move - low]),
        bounds=[(None, None)] * free + [(0.0, 0.3)],
        method="highs",
    )
    return start + solved.x[:free] if solved.status == 0 else start


def _bent(targets: Targets, u: Array, degree: int) -> Array:
    """`_solve` on some of the inputs, and on those besides that then turn out to be wrong."""
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
    """Indices of what a fit looks at: the numbers next to zero are thousands, and say the same."""
    size = np.abs(x)
    near = np.flatnonzero(size < 2.0**-11)
    rest = np.flatnonzero(size >= 2.0**-11)
    return np.concatenate([_spread(near, 9), _spread(rest, most)])


def _spread(indices: Array, most: int) -> Array:
    if len(indices) <= most:
        return indices
    return indices[np.unique(np.linspace(0, len(indices) - 1, most).astype(np.int64))]


# --------------------------------------------------------------------------------- Side and Sides

# Powers of two: between them w's rounding takes x's last digits, which decide next to zero where g
# crosses from one rounded value to another.
_SCALES = 2.0 ** np.arange(-9, 9)
# Of g, at sample points. The closer, the less is left for linear programming to mend, and the less
# far cells reach; half a unit in the last place is 2^-9.
_TOLERANCES = (2.0**-14, 2.0**-12, 2.0**-11, 2.0**-10)


def _empty(degree: int) -> Array:
    return np.zeros((32, degree + 1), dtype=np.float32)


def _cells(g: Function, targets: Targets, layout: Cells) -> Iterator[Cells]:
    """The layouts whose cells reach furthest from zero before one is not good enough."""
    degree = layout.coefficients.shape[1] - 1
    nodes, solve = chebyshev(degree)
    checks = np.linspace(-1, 1, 7)
    onto = solve @ np.vander(checks, degree + 1, increasing=True).T
    size = 16 if layout.two_sided else 32
    sides = [-1, 1] if layout.two_sided else [1 if layout.inverted else -1]
    furthest = {tolerance: (0.0, 0, 1.0) for tolerance in _TOLERANCES}
    for mantissa in range(5, -1, -1):
        if size >> mantissa == 0:
            continue
        half = 0.5 ** (mantissa + 1)
        w = widths(size, mantissa, np.concatenate([nodes, checks]) * half)
        distance = (w - 1)[None] / _SCALES[:, None, None]
        error = np.zeros((len(_SCALES), size))
        for side in sides:
            values = g(np.maximum(distance, 1e-30) * side)  # at 0 itself it may jump
            at_nodes, wanted = values[..., : degree + 1], values[..., degree + 1 :]
            # Next to a zero of g what counts is found out later, input by input.
            amount = np.abs(wanted)
            least = np.maximum(2.0**-6 * amount.max(axis=2, keepdims=True), 1e-45)
            off = np.abs(at_nodes @ onto - wanted) / np.maximum(amount, least)
            error = np.maximum(error, off.max(axis=2))
        ends = widths(size, mantissa, np.array([half]))[:, 0] - 1
        for tolerance in _TOLERANCES:
            good = error <= tolerance
            count = np.where(good.all(axis=1), size, np.argmin(good, axis=1))
            reach = np.concatenate([[0.0], ends])[count] / _SCALES
            top = int(np.argmax(reach))
            found = (float(reach[top]), mantissa, float(np.float32(_SCALES[top])))
            furthest[tolerance] = max(furthest[tolerance], found)
    for reach, mantissa, scale in dict.fromkeys(furthest.values()):
        if reach == 0.0:
            continue
        yield _filled(targets, replace(layout, mantissa=mantissa, scale=scale), sides)


def _filled(targets: Targets, layout: Cells, sides: list[int]) -> Cells:
    """The layout with a polynomial in each cell that holds inputs."""
    if len(sides) == 1:
        other = targets.part(np.flatnonzero(targets.x * sides[0] < 0)[::-1])
        targets = targets.part(np.flatnonzero(targets.x * sides[0] > 0))
        if layout.slope != 0:  # what the polynomial gives on the other side is to be right, too
            ends = [(end - layout.offset) / layout.slope for end in (other.low, other.high)]
            low = np.maximum(targets.low, np.minimum(*ends))
            targets = replace(targets, low=low, high=np.minimum(targets.high, np.maximum(*ends)))
    cell, v = layout.places(targets.x)
    rows = layout.coefficients.copy()
    degree = rows.shape[1] - 1
    nearest = (0, 16) if layout.two_sided else (0,)
    for at in np.unique(cell):
        here = np.flatnonzero(cell == at)
        if at in nearest:  # next to zero g may vanish, and v has no digits for that
            amount = np.abs(targets.g[here])
            here = here[amount >= 2.0**-12 * amount.max()]
        rows[at] = _bent(targets.part(here), v[here].astype(np.float64), degree)
    return replace(layout, coefficients=rows)


# ------------------------------------------------------------------------------------------- Tree

_REACHES = (math.inf, 16.0)  # sizes of x that the stretches are made for


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
    """A stretch's polynomial with its centre, in float32 with fused multiply-adds."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        u = (x - float(column[0])).astype(np.float32).astype(np.float64)
        p = np.full(len(x), float(column[-1]))
        for c in column[-2:0:-1]:
            p = (p * u + float(c)).astype(np.float32).astype(np.float64)
    return p


def _longest(targets: Targets, first: int, degree: int) -> tuple[int, Array | None]:
    """The furthest end up to which one polynomial is right, and its column; None: none is."""

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
