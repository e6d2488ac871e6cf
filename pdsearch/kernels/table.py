"""Tables of g for the fused kernels, made from the candidate's formula and checked against it.

float32: segments with a polynomial of degree 5, cut greedily from left to right at exact float32
numbers, each as long as its error stays within the tolerance. Near zeros and in tails the
tolerance is a quarter of g itself, down to 2.5e-7, so that neither a sign nor a value above 1e-6
is lost. A shape that 32 such segments cannot follow gets no table.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pdsearch.family import Candidate
from pdsearch.kernels.pieces import Values, breakpoints

__all__ = ["LIMIT", "Codes", "Segments", "codes", "every_value", "segments"]

Array = np.ndarray[Any, Any]

LIMIT = 1e-5  # absolute error of g in float32; a table that is worse is not used
DEGREE = 5
SIZES = (16, 32)
TOLERANCES = ((16, 1e-6), (16, 4e-6), (32, 1e-6), (32, 4e-6), (32, 8e-6))
SIGN_FLOOR = 1e-6  # a g above this in size never changes its sign or becomes zero
TOP = float(np.finfo(np.float32).max)

# Interpolation at Chebyshev's points, in the local variable v in [-1, 1].
_NODES = np.cos((2 * np.arange(DEGREE + 1) + 1) / (2 * (DEGREE + 1)) * np.pi)
_SOLVE = np.linalg.inv(np.vander(_NODES, increasing=True))
_CHECKS = np.concatenate([np.cos(np.arange(19) / 18 * np.pi), _NODES])


@dataclass(frozen=True, eq=False)
class Segments:
    """A float32 table: `values` as fused.cpp reads it, and the largest error that was found.

    Args:
        values: float32; inner ends, centres, coefficients c0 to c5, one row of 16 or 32 each.
        used: segments that are in use.
        error: largest abs(table − g) in float32 arithmetic over `checked` points, and a tenth more.
        checked: number of points.
    """

    values: torch.Tensor
    used: int
    error: float
    checked: int


# ------------------------------------------------------------------------------ float32 in order


def _ordinal(values: Array) -> Array:
    """float32 numbers as integers in the same order, neighbours next to each other."""
    bits = np.asarray(values, dtype=np.float32).view(np.int32).astype(np.int64)
    return np.where(bits >= 0, bits, -(bits & 0x7FFFFFFF))


def _from_ordinal(ordinals: Array) -> Array:
    ordinals = np.asarray(ordinals, dtype=np.int64)
    bits = np.where(ordinals >= 0, ordinals, -ordinals | 0x80000000).astype(np.uint32)
    return bits.view(np.float32)


def _floor(value: float) -> int:
    """The ordinal of the largest float32 that is not above `value`."""
    with np.errstate(over="ignore"):
        near = np.float32(np.clip(value, -TOP, TOP))
    at = int(_ordinal(np.array([near]))[0])
    return at - 1 if float(near) > value else at


# ------------------------------------------------------------------------------------- segments


def _tolerance(g: Array, within: float) -> Array:
    return np.clip(0.25 * np.abs(g), 2.5e-7, within)


def _polynomial(coefficients: Array, u: Array) -> Array:
    """Horner's rule in float32, as the kernel does it (but for its fused multiply-adds)."""
    p = coefficients[..., DEGREE, None] + np.zeros_like(u)
    for k in range(DEGREE - 1, -1, -1):
        p = p * u + coefficients[..., k, None]
    return p


@dataclass(frozen=True, eq=False)
class _Fit:
    centre: Array  # (n,) float32
    coefficients: Array  # (n, 6) float32
    good: Array  # (n,) bool


def _fit(g: Values, first: Array, last: Array, within: float) -> _Fit:
    """Fit one polynomial for each of n stretches [first, last] of ordinals, and check it."""
    a, b = _from_ordinal(first).astype(np.float64), _from_ordinal(last).astype(np.float64)
    centre = (0.5 * (a + b)).astype(np.float32)
    half = np.maximum(0.5 * (b - a), 1e-300)
    steps = first[:, None] + ((last - first)[:, None] * (np.arange(17) / 16)).astype(np.int64)
    near = np.stack([np.minimum(first + 1, last), np.maximum(last - 1, first)], axis=1)
    even = np.clip(centre[:, None] + half[:, None] * _CHECKS, a[:, None], b[:, None])
    points = np.concatenate(
        [even.astype(np.float32), _from_ordinal(steps), _from_ordinal(near)], axis=1
    )
    points = np.clip(points, a[:, None], b[:, None]).astype(np.float32)
    nodes = centre[:, None].astype(np.float64) + half[:, None] * _NODES
    wanted = g(np.concatenate([nodes, points.astype(np.float64)], axis=1))
    at_nodes, wanted = wanted[:, : DEGREE + 1], wanted[:, DEGREE + 1 :]
    with np.errstate(all="ignore"):
        fitted = (at_nodes @ _SOLVE.T) / half[:, None] ** np.arange(DEGREE + 1)
        # A stretch on which g hardly changes takes the value at its outer end.
        outer = np.where(np.abs(a) > np.abs(b), wanted[:, 19 + 6], wanted[:, 19 + 6 + 16])
        flat = (np.abs(wanted - outer[:, None]) <= _tolerance(wanted, within)).all(axis=1)
        fitted = np.where(flat[:, None], outer[:, None] * (np.arange(DEGREE + 1) == 0), fitted)
        centre = np.where(flat, np.float32(0), centre)
        coefficients = fitted.astype(np.float32)
        found = _polynomial(coefficients, points - centre[:, None])
        good = np.isfinite(coefficients).all(axis=1)
        good &= (np.abs(found - wanted) <= _tolerance(wanted, within)).all(axis=1)
    return _Fit(centre, coefficients, good)


def _longest(g: Values, first: int, last: int, within: float) -> tuple[int, Array] | None:
    """The furthest end up to which one polynomial is good enough, and its table column."""
    good, bad = first - 1, last + 1
    column = None
    candidates = np.unique(np.array([first, last], dtype=np.int64))
    for _ in range(14):
        fit = _fit(g, np.full(len(candidates), first), candidates, within)
        holding = np.flatnonzero(fit.good)
        if len(holding):
            best = holding[-1]
            if candidates[best] > good:
                good = int(candidates[best])
                column = np.concatenate([[fit.centre[best]], fit.coefficients[best]])
            bad = int(candidates[best + 1]) if best + 1 < len(candidates) else bad
        else:
            bad = int(candidates[0])
        if good >= last or bad <= good + 1:
            break
        ends = _from_ordinal(np.array([first, max(good, first), bad])).astype(np.float64)
        if column is not None and good > first and (ends[2] - ends[1]) < 0.02 * (ends[1] - ends[0]):
            break
        low = max(good, first)
        candidates = np.unique(low + ((bad - low) * (np.arange(1, 13) / 13)).astype(np.int64))
        candidates = candidates[(candidates > good) & (candidates < bad)]
        if len(candidates) == 0:
            break
    return None if column is None else (good, column)


def _cut(g: Values, edges: list[int], most: int, within: float) -> tuple[list[int], Array] | None:
    """Ends (ordinals, inclusive) and columns of at most `most` segments; None if it takes more."""
    ends: list[int] = []
    columns: list[Array] = []
    first, top = _floor(-TOP), _floor(TOP)
    for edge in [*edges, top + 1]:
        while first <= min(edge - 1, top):
            found = _longest(g, first, min(edge - 1, top), within)
            if found is None or len(ends) == most:
                return None
            ends.append(found[0])
            columns.append(found[1])
            first = found[0] + 1
        if edge > top:
            break
        # The breakpoint itself goes to the left if the last polynomial holds there too; otherwise
        # the next stretch begins with it, and ends with it where g has a value of its own there.
        point = _from_ordinal(np.array([edge]))
        wanted = g(point.astype(np.float64))
        column = columns[-1]
        at = _polynomial(column[None, 1:], point[None, :] - column[0])[0]
        if np.all(np.abs(at - wanted) <= _tolerance(wanted, within)):
            ends[-1] = edge
            first = edge + 1
    return ends, np.array(columns, dtype=np.float32)


def segments(candidate: Candidate, progress: float) -> Segments | None:
    """The float32 table of a candidate, or None where none is good enough."""
    g = Values(candidate, progress)
    top = _floor(TOP)
    edges = sorted({e for b in breakpoints(candidate, progress) if -top < (e := _floor(b)) < top})
    # A stretch that ends or begins at a breakpoint that is no float32 has its end one further.
    for most, within in TOLERANCES:
        cut = _cut(g, edges, most, within)
        if cut is None:
            continue
        ends, columns = cut
        size = next(s for s in SIZES if s >= len(ends))
        table = np.zeros((DEGREE + 3, size), dtype=np.float32)
        table[0] = np.inf
        table[0, : len(ends) - 1] = _from_ordinal(np.array(ends[:-1], dtype=np.int64))
        table[1:, : len(ends)] = columns.T
        error, checked = _check(g, table, ends)
        if error <= LIMIT:
            return Segments(torch.from_numpy(table).flatten(), len(ends), error, checked)
    return None


def _check(g: Values, table: Array, ends: list[int]) -> tuple[float, int]:
    """Largest error over 400 points a segment and its ends; infinite if a sign is lost."""
    starts = np.array([_floor(-TOP), *(e + 1 for e in ends[:-1])], dtype=np.int64)
    stops = np.array(ends, dtype=np.int64)
    share = np.linspace(0, 1, 200)
    ordinals = starts[:, None] + ((stops - starts)[:, None] * share).astype(np.int64)
    a, b = _from_ordinal(starts).astype(np.float64), _from_ordinal(stops).astype(np.float64)
    even = (a[:, None] * (1 - share) + b[:, None] * share).astype(np.float32)
    points = np.concatenate([_from_ordinal(ordinals), even], axis=1)
    points = np.clip(points, a[:, None], b[:, None]).astype(np.float32)
    wanted = g(points.astype(np.float64))
    n = len(ends)
    with np.errstate(all="ignore"):
        found = _polynomial(table[2:, :n].T, points - table[1, :n, None]).astype(np.float64)
    lost = (np.abs(wanted) > SIGN_FLOOR) & (np.sign(found) != np.sign(wanted))
    if lost.any() or not np.isfinite(found).all():
        return float("inf"), points.size
    return 1.1 * float(np.abs(found - wanted).max()), points.size


# ---------------------------------------------------------------- bfloat16 and float16, every value


def every_value(candidate: Candidate, progress: float, dtype: torch.dtype) -> torch.Tensor:
    """G at all 65 536 values of a 16-bit dtype, correctly rounded; two entries to spare."""
    inputs = torch.arange(65_536, dtype=torch.int32).to(torch.uint16).view(dtype)
    g = Values(candidate, progress)(inputs.double().numpy())
    result = torch.zeros(65_536 + 2, dtype=dtype)
    result[:65_536] = torch.from_numpy(_to_odd(g)).to(dtype)
    return result


def _to_odd(values: Array) -> Array:
    """float64 to float32, inexact ones to the neighbour with an odd last bit.

    Rounding that once more to 16 bits is then correct; to nearest twice would not be.
    """
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        single = values.astype(np.float32)
        back = single.astype(np.float64)
    even = (single.view(np.uint32) & 1) == 0
    move = even & (back != values) & np.isfinite(single)
    towards = np.where(values > back, np.float32(np.inf), np.float32(-np.inf))
    return np.where(move, np.nextafter(single, towards), single)


# -------------------------------------------------------------------------------- a byte an element


@dataclass(frozen=True, eq=False)
class Codes:
    """One byte an element: cells of inputs, and a value of g for each code.

    Args:
        cells: uint8 (65536,); the code of each 16-bit input, or of the float32 numbers that begin
            with these 16 bits. 255 stands for NaN and for cells in which g jumps.
        ends: float32; of parts of the line, for the cells in which g jumps.
        parts: uint8; their codes, one more than ends.
        values: float32 (256,).
        error: bound on abs(value − g) at every input.
    """

    cells: torch.Tensor
    ends: torch.Tensor
    parts: torch.Tensor
    values: torch.Tensor
    error: float


LEVELS = 254
NAN_CODE = 255


def codes(candidate: Candidate, progress: float, dtype: torch.dtype) -> Codes:
    """The codes of a candidate for a dtype (float32, bfloat16 or float16)."""
    g = Values(candidate, progress)
    if dtype != torch.float32:
        inputs = torch.arange(65_536, dtype=torch.int32).to(torch.uint16).view(dtype)
        given = inputs.double().numpy()
        values = g(given)
        nan = np.isnan(given)
        levels, chosen, error = _quantise(values, values, values[~nan])
        return Codes(
            torch.from_numpy(np.where(nan, NAN_CODE, chosen).astype(np.uint8)),
            torch.zeros(0),
            torch.zeros(1, dtype=torch.uint8),
            torch.from_numpy(levels),
            error,
        )
    high = np.arange(65_536, dtype=np.uint32) << 16
    inside = np.array([0, 0x3FFF, 0x7FFF, 0xBFFF, 0xFFFF], dtype=np.uint32)
    single = (high[:, None] | inside).view(np.float32)
    finite = np.asarray(np.isfinite(single).all(axis=1))
    samples = np.where(np.isfinite(single), single, 0).astype(np.float64)
    sampled = g(samples)
    low, top = sampled.min(axis=1), sampled.max(axis=1)
    point = _ordinal(np.array([-np.inf, np.inf], dtype=np.float32))
    starts, stops = [int(point[0])], [int(point[0])]
    jumps = sorted({_floor(b) for b in breakpoints(candidate, progress) if abs(b) < TOP})
    marked = np.zeros(65_536, dtype=bool)
    for cell in sorted(
        {_cell(j + d) for j in jumps for d in (-1, 0, 1)}, key=lambda c: _span(c)[0]
    ):
        marked[cell] = True
        begin, end = _span(cell)
        cuts = sorted({c for j in jumps for c in (j - 1, j) if begin <= c < end})
        starts += [begin, *(c + 1 for c in cuts)]
        stops += [*cuts, end]
    starts.append(int(point[1]))
    stops.append(int(point[1]))
    s, e = np.array(starts, dtype=np.int64), np.array(stops, dtype=np.int64)
    ordinals = s[:, None] + ((e - s)[:, None] * np.array([0, 0.25, 0.5, 0.75, 1])).astype(np.int64)
    part = g(_from_ordinal(ordinals).astype(np.float64))
    lows, tops = np.concatenate([low, part.min(axis=1)]), np.concatenate([top, part.max(axis=1)])
    plain = sampled[finite & ~marked].ravel()
    levels, chosen, error = _quantise(
        lows,
        tops,
        np.concatenate([plain, part.ravel()]),
        np.r_[finite & ~marked, np.ones(len(s), dtype=bool)],
    )
    cells = np.where(finite & ~marked, chosen[:65_536], NAN_CODE).astype(np.uint8)
    # Parts in order of the line; what lies between them is never asked for.
    ends: list[int] = []
    after: list[int] = []
    for first, last, code in zip(s, e, chosen[65_536:], strict=True):
        if (not ends or ends[-1] < first - 1) and first > point[0]:
            ends.append(int(first - 1))
            after.append(0)
        ends.append(int(last))
        after.append(int(code))
    return Codes(
        torch.from_numpy(cells),
        torch.from_numpy(_from_ordinal(np.array(ends[:-1], dtype=np.int64)).copy()),
        torch.tensor(after, dtype=torch.uint8),
        torch.from_numpy(levels),
        error,
    )


def _cell(ordinal: int) -> int:
    return int(_from_ordinal(np.array([ordinal])).view(np.uint32)[0] >> 16)


def _span(cell: int) -> tuple[int, int]:
    ends = np.array([cell << 16, cell << 16 | 0xFFFF], dtype=np.uint32).view(np.float32)
    low, high = sorted(int(o) for o in _ordinal(ends))
    return low, high


def _quantise(
    low: Array, top: Array, values: Array, used: Array | None = None
) -> tuple[Array, Array, float]:
    """Levels (float32, 256), the level of each range [low, top], and the largest error.

    Values on which g stays (0 and 1, mostly) are levels of their own; the rest is spread evenly,
    negative and positive separately: no code turns a sign or makes something zero.
    """
    used = np.isfinite(low) if used is None else used
    exact, counts = np.unique(low[used & (low == top)], return_counts=True)
    special = np.sort(exact[np.argsort(counts)[::-1][:8]][np.sort(counts)[::-1][:8] > 200])
    finite = values[np.isfinite(values)]
    reach = [float(-finite.min(initial=0.0)), float(finite.max(initial=0.0))]
    rest = LEVELS - len(special)
    shares = [max(1, round(rest * r / (sum(reach) or 1.0))) if r > 0 else 0 for r in reach]
    shares[int(reach[1] >= reach[0])] -= max(0, sum(shares) - rest)
    spread = [
        np.sign(i - 0.5) * reach[i] * (np.arange(n) + 0.5) / n for i, n in enumerate(shares) if n
    ]
    levels = np.unique(np.concatenate([special, *spread]).astype(np.float32))
    middle = 0.5 * (low + top)
    wide = levels.astype(np.float64)
    if len(wide) == 0:
        wide, levels = np.zeros(1), np.zeros(1, dtype=np.float32)
    right = np.clip(np.searchsorted(wide, middle), 0, len(wide) - 1)
    left = np.maximum(right - 1, 0)
    distance = np.abs(np.stack([wide[left], wide[right]]) - middle)
    # A level of the other sign, or zero for what is not zero, is no choice.
    for row, index in enumerate((left, right)):
        distance[row][(np.sign(wide[index]) != np.sign(middle))] += 1e3
        tip = np.isin(wide[index], special.astype(np.float32)) & (low != top)
        distance[row][tip] += 1e-9
    chosen = np.where(distance[0] < distance[1], left, right)
    error = np.maximum(np.abs(wide[chosen] - low), np.abs(wide[chosen] - top))
    # A cell was sampled at 5 points; between them g may go a quarter of its range further.
    error = error + 0.25 * (top - low)
    result = np.full(256, np.nan, dtype=np.float32)
    result[: len(levels)] = levels
    return result, chosen, float(error[used].max()) + 1e-7
