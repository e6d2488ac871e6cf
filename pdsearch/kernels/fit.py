"""Fitting float32 tables to g: the cheapest layout that is accurate enough.

Near zeros and in tails the tolerance is a quarter of g itself, down to 2.5e-7, so that no sign and
no value above 1e-6 is lost.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from scipy import optimize

from pdsearch.kernels.certify import LIMIT, SIGN_FLOOR, Certificate
from pdsearch.kernels.layout import (
    MOST_STRETCHES,
    TOP,
    Array,
    Cells,
    Function,
    Tree,
    chebyshev,
    floor_ordinal,
    from_ordinal,
    horner,
    ordinal,
    trials,
    widths,
)

__all__ = ["FINE_LIMIT", "LARGEST_FITTED", "fit", "fit_tree", "mirrored", "widest_slack"]

Prove = Callable[[Cells | Tree, float], Certificate | None]
Attempt = Callable[[], Cells | Tree | None]
Fitted = tuple[Cells | Tree, Certificate]

WITHIN = 4e-6  # the error that fits aim at
LAST = 8e-6  # and aim at in the last attempts
FINE_LIMIT = 2e-6  # absolute error of g in accurate tables: that of torch's operators in float32
FINE_WITHIN = 8e-7  # the error that their fits aim at: float32 arithmetic may add as much
LARGEST_FITTED = 1e9  # in size of a g that is fitted: float32 has no digits for LIMIT long before


def fit(g: Function, breakpoints: tuple[float, ...], prove: Prove) -> Fitted | None:
    """Return the CPU's cheapest layout within the limit and the proof of that; None if none is.

    Args:
        g: the function.
        breakpoints: where g may jump or bend.
        prove: tries to certify a layout, given its error at sample points.
    """
    edges = _edges(breakpoints)
    both = Cells(two_sided=True)
    # In the order of their cost in the kernel.
    attempts: list[Attempt] = [
        lambda: _tree(g, edges, most=4, degree=1),
        lambda: _tree(g, edges, most=8, degree=1),
        lambda: _tree(g, edges, most=4, degree=3),
        lambda: _cells(g, mirrored(g), degree=3),
        lambda: _tree(g, edges, most=8, degree=3),
        lambda: _cells(g, mirrored(g), degree=5),
        lambda: _cells(g, both, degree=5),
        lambda: _polished_sides(g, both),
        lambda: _tree(g, edges, most=16, degree=5),
        lambda: _tree(g, edges, most=32, degree=5),
        lambda: _tree(g, edges, most=32, degree=5, within=LAST),
    ]
    return _first(g, edges, attempts, prove, limit=LIMIT)


def fit_tree(g: Function, breakpoints: tuple[float, ...], prove: Prove) -> Fitted | None:
    """Return a Tree within `FINE_LIMIT` and the proof of that; None if there is none.

    It is for the GPU, whose kernel gathers coefficients from the L1 cache, so that registers do not
    bound their number, and for the ends of chords.

    Args:
        g: see `fit`.
        breakpoints: see `fit`.
        prove: see `fit`.
    """
    edges = _edges(breakpoints)
    attempts: list[Attempt] = [
        lambda: _tree(g, edges, most=8, degree=1, within=FINE_WITHIN),
        lambda: _tree(g, edges, most=MOST_STRETCHES, degree=5, within=FINE_WITHIN),
        # Next to a zero of g, a proof that no sign is lost may succeed with one polynomial and not
        # with another that is as close.
        lambda: _tree(g, edges, most=MOST_STRETCHES, degree=5, within=FINE_WITHIN / 2),
        lambda: _tree(g, edges, most=MOST_STRETCHES, degree=5, within=1.5 * FINE_WITHIN),
    ]
    return _first(g, edges, attempts, prove, limit=FINE_LIMIT)


def _edges(breakpoints: tuple[float, ...]) -> list[int]:
    return sorted({e for b in breakpoints if abs(e := floor_ordinal(b)) < floor_ordinal(TOP)})


def _first(
    g: Function, edges: list[int], attempts: list[Attempt], prove: Prove, *, limit: float
) -> Fitted | None:
    """Return the first layout that is proved to be within the limit."""
    points = _check_points(edges)
    wanted = g(points.astype(np.float64))
    if not (np.abs(wanted) < LARGEST_FITTED).all():
        return None
    for attempt in attempts:
        layout = attempt()
        if layout is None:
            continue
        extra = (
            from_ordinal(_around(ordinal(layout.ends))) if isinstance(layout, Tree) else points[:0]
        )
        where = np.concatenate([points, extra])
        aim = np.concatenate([wanted, g(extra.astype(np.float64))]) if len(extra) else wanted
        with np.errstate(all="ignore"):
            found = layout.evaluate(where).astype(np.float64)
            worst = float(np.abs(found - aim).max())
        lost = (np.abs(aim) > SIGN_FLOOR) & (np.sign(found) != np.sign(aim))
        if worst > limit or lost.any():
            continue
        if (proof := prove(layout, worst)) is not None and proof.error <= limit:
            return layout, proof
    return None


def _check_points(edges: list[int]) -> Array:
    """Return about 20 000 float32 numbers: even, even in the logarithm, around breakpoints."""
    far = np.geomspace(1e-30, TOP, 4_000)
    even = np.linspace(-24, 24, 9_601)
    near = from_ordinal(_around(np.array([*edges, 0], dtype=np.int64)))
    ends = np.array([-TOP, TOP, -1e-45, 1e-45])
    parts = [-far, far, even, near.astype(np.float64), ends]
    for edge in edges:  # on the scale of whatever happens between the breakpoints
        at = float(from_ordinal(np.array([edge]))[0])
        parts.append(at + max(abs(at), 1e-3) * np.linspace(-1, 1, 401))
    return np.unique(np.clip(np.concatenate(parts), -TOP, TOP).astype(np.float32))


def _around(ordinals: Array) -> Array:
    top = floor_ordinal(TOP)
    return np.clip((ordinals[:, None] + np.arange(-3, 4)).ravel(), -top, top)


def _tolerance(g: Array, within: float = WITHIN) -> Array:
    return np.clip(0.25 * np.abs(g), 2.5e-7, within)


# ------------------------------------------------------------------------------ Side and Sides

_SCALES = 2.0 ** np.arange(-8, 8.1, 0.5)


def mirrored(g: Function) -> Cells | None:
    """Return the empty Side in which one side of g gives the other.

    The other side is constant, or both add up to one; None where neither is so.
    """
    points = np.concatenate([np.geomspace(1e-30, 1e30, 301), np.linspace(1e-3, 30, 3_001)])
    below, above = g(-points), g(points)
    if np.all(above == above[0]):
        return Cells(False, offset=float(above[0]), slope=0.0)
    if np.all(below == below[0]) and g(np.zeros(1))[0] == below[0]:
        return Cells(False, offset=float(below[0]), slope=0.0, inverted=True)
    if np.all(np.abs(below + above - 1.0) <= 1e-12):
        return Cells(False, offset=1.0, slope=-1.0)
    return None


_NEARLY = 3.0  # times its tolerance that Sides may be off and still be worth polishing


def _polished_sides(g: Function, empty: Cells) -> Cells | None:
    """Return Sides with the least largest error, and a tail midway between its extremes.

    For tails of powers, which `_cells` follows nearly well enough. The next cheapest layout costs
    the kernel half as much again.
    """
    cells = _cells(g, empty, degree=5, worst=_NEARLY)
    if cells is None:
        return None
    half = 0.5 ** (cells.mantissa + 1)
    v = half * np.cos(np.arange(33) / 32 * np.pi)
    distance = np.maximum((widths(16, cells.mantissa, v) - 1) / cells.scale, 1e-30)
    rows = np.empty_like(cells.coefficients)
    for row in range(len(rows)):
        side, stretch = (1 if row >= 16 else -1), row % 16
        wanted = g(side * distance[stretch])
        points, allowed = v, _tolerance(wanted, LAST)
        if stretch == 15:  # beyond it, the table keeps its value at the end
            far = g(side * distance[stretch, 0] * np.geomspace(1.0, 1e8, 25))
            points = np.append(points, np.full(len(far), half))
            wanted, allowed = np.append(wanted, far), np.append(allowed, np.full(len(far), LAST))
        found = _least_greatest(points / half, wanted, allowed, degree=5)
        if found is None:
            return None
        rows[row] = (found / half ** np.arange(6)).astype(np.float32)
    return replace(cells, coefficients=rows)


def _least_greatest(u: Array, wanted: Array, allowed: Array, *, degree: int) -> Array | None:
    """Return coefficients with the least largest error relative to `allowed`, if at most one."""
    basis = np.vander(u, degree + 1, increasing=True) / allowed[:, None]
    aim = wanted / allowed
    # Around the least-squares polynomial, the remaining errors are of the size of the tolerances.
    start = np.linalg.lstsq(basis, aim)[0]
    off = aim - basis @ start
    found = widest_slack(basis, off, -off, sign=-1.0, most=1.0)
    return None if found is None else start + found


def widest_slack(
    basis: Array, above: Array, below: Array, *, sign: float, most: float
) -> Array | None:
    """Solve a linear program: basis·c + sign·d ≤ above and −basis·c + sign·d ≤ below.

    Args:
        basis: (points, coefficients).
        above: (points,).
        below: (points,).
        sign: 1: d is a margin to maximise; -1: d is an excess to minimise.
        most: 0 ≤ d ≤ most.

    Returns:
        c, or None if there is no solution.
    """
    slack = np.full((len(basis), 1), sign)
    free = basis.shape[1]
    solved = optimize.linprog(
        np.append(np.zeros(free), -sign),
        A_ub=np.block([[basis, slack], [-basis, slack]]),
        b_ub=np.concatenate([above, below]),
        bounds=[(None, None)] * free + [(0.0, most)],
        method="highs",
    )
    return solved.x[:free] if solved.status == 0 else None


def _cells(g: Function, empty: Cells | None, degree: int, worst: float = 1.0) -> Cells | None:
    """Return the best of every scale and split between even and logarithmic stretches.

    Args:
        g: the function.
        empty: the layout to fill; None: there is none.
        degree: of the polynomials.
        worst: how many times its tolerance the layout may be off.
    """
    if empty is None:
        return None
    nodes, solve = chebyshev(degree)
    checks = np.linspace(-1, 1, 8)
    best: tuple[float, Cells] | None = None
    for mantissa, distance, values in trials(g, empty, _SCALES, np.concatenate([nodes, checks])):
        at_nodes, wanted = values[..., : degree + 1], values[..., degree + 1 :]
        coefficients = at_nodes @ solve
        found = coefficients @ np.vander(checks, degree + 1, increasing=True).T
        # Beyond the last stretch the table keeps its value at the end.
        reach = distance[:, -1, -1]
        beyond = reach[:, None] * np.geomspace(1.0, 1e8, 25)
        far = np.stack([g(beyond * sign) for sign in empty.signs], axis=1)
        # A tail that will be polished may end in a number further off than a quarter of it.
        ending = _tolerance(far) if worst <= 1.0 else WITHIN
        score = np.maximum(
            (np.abs(found - wanted) / _tolerance(wanted)).max(axis=(1, 2, 3)),
            (np.abs(found[:, :, -1, -1, None] - far) / ending).max(axis=(1, 2)),
        )
        at = int(np.argmin(score))
        if best is None or score[at] < best[0]:
            half = 0.5 ** (mantissa + 1)
            rows = coefficients[at].reshape(-1, degree + 1) / half ** np.arange(degree + 1)
            filled = replace(
                empty,
                mantissa=mantissa,
                scale=float(_SCALES[at]),
                coefficients=rows.astype(np.float32),
            )
            best = (float(score[at]), filled)
    return best[1] if best is not None and best[0] <= worst else None


# ---------------------------------------------------------------------------------------- Tree


def _tree(
    g: Function, edges: list[int], *, most: int, degree: int, within: float = WITHIN
) -> Tree | None:
    """Cut the line greedily from left to right, each stretch as long as its error allows."""
    if len(edges) >= most:
        return None
    fitter = _Stretches(g, degree, within)
    ends: list[int] = []
    columns: list[Array] = []
    first, top = floor_ordinal(-TOP), floor_ordinal(TOP)
    for edge in [*edges, top + 1]:
        while first <= min(edge - 1, top):
            found = fitter.longest(first, min(edge - 1, top))
            if found is None or len(ends) == most:
                return None
            ends.append(found[0])
            columns.append(found[1])
            first = found[0] + 1
        if edge > top:
            break
        # The breakpoint belongs to the left stretch if its polynomial holds there too. Otherwise it
        # begins the next stretch, and ends it too where g has another value just after it.
        if not columns:
            continue
        point = from_ordinal(np.array([edge]))
        wanted = g(point.astype(np.float64))
        at = horner(columns[-1][1:], point - columns[-1][0])
        if np.all(np.abs(at - wanted) <= _tolerance(wanted, within)):
            ends[-1] = edge
            first = edge + 1
    table = np.array(columns, dtype=np.float32)
    inner = from_ordinal(np.array(ends[:-1], dtype=np.int64))
    return Tree(inner, table[:, 0], table[:, 1:])


class _Stretches:
    """Polynomials for stretches of float32 numbers, given by their first and last ordinal."""

    def __init__(self, g: Function, degree: int, within: float) -> None:
        self.g, self.degree, self.within = g, degree, within
        self.nodes, self.solve = chebyshev(degree)
        self.checks = np.concatenate([np.cos(np.arange(19) / 18 * np.pi), self.nodes])

    def fit(self, first: Array, last: Array) -> tuple[Array, Array]:
        """Return columns (n, 1 + coefficients), and which of the n are accurate enough."""
        a, b = (from_ordinal(o).astype(np.float64)[:, None] for o in (first, last))
        centre = (0.5 * (a + b)).astype(np.float32)
        half = np.maximum(0.5 * (b - a), 1e-300)
        share = np.arange(17) / 16
        steps = first[:, None] + ((last - first)[:, None] * share).astype(np.int64)
        near = np.stack([np.minimum(first + 1, last), np.maximum(last - 1, first)], axis=1)
        even = np.clip(centre + half * self.checks, a, b).astype(np.float32)
        points = np.concatenate([from_ordinal(steps), even, from_ordinal(near)], axis=1)
        points = np.clip(points, a, b).astype(np.float32)
        nodes = centre.astype(np.float64) + half * self.nodes
        values = self.g(np.concatenate([nodes, points.astype(np.float64)], axis=1))
        at_nodes, wanted = values[:, : self.degree + 1], values[:, self.degree + 1 :]
        powers = np.arange(self.degree + 1)
        with np.errstate(all="ignore"):
            fitted = (at_nodes @ self.solve) / half**powers
            # A stretch on which g hardly changes takes the value at its outer end.
            outer = np.where(np.abs(a) > np.abs(b), wanted[:, :1], wanted[:, 16:17])
            allowed = _tolerance(wanted, self.within)
            flat = (np.abs(wanted - outer) <= allowed).all(axis=1, keepdims=True)
            fitted = np.where(flat, outer * (powers == 0), fitted).astype(np.float32)
            centre = np.where(flat, np.float32(0), centre)
            found = horner(fitted[:, None, :], points - centre)
            good = np.isfinite(fitted).all(axis=1) & (np.abs(found - wanted) <= allowed).all(axis=1)
        return np.concatenate([centre, fitted], axis=1), good

    def longest(self, first: int, last: int) -> tuple[int, Array] | None:
        """Return the furthest end up to which one polynomial is accurate enough, and its column."""
        good, bad = first - 1, last + 1
        column = None
        tried = np.unique(np.array([first, last], dtype=np.int64))
        for _ in range(14):
            columns, holds = self.fit(np.full(len(tried), first), tried)
            holding = np.flatnonzero(holds)
            if len(holding):
                at = holding[-1]
                good, column = int(tried[at]), columns[at]
                bad = int(tried[at + 1]) if at + 1 < len(tried) else bad
            else:
                bad = int(tried[0])
            low = max(good, first)
            if column is None and bad <= first:
                break
            begin, end, limit = from_ordinal(np.array([first, low, bad])).astype(np.float64)
            if good >= last or (good > first and limit - end < 0.02 * (end - begin)):
                break
            tried = np.unique(low + ((bad - low) * (np.arange(1, 13) / 13)).astype(np.int64))
            tried = tried[(tried > good) & (tried < bad)]
            if len(tried) == 0:
                break
        return None if column is None else (good, column)
