"""Fitting float32 tables to g: the cheapest layout that is good enough.

Near zeros and in tails the tolerance is a quarter of g itself, down to 2.5e-7, so that neither a
sign nor a value above 1e-6 is lost.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from pdsearch.kernels.certify import Certificate
from pdsearch.kernels.layout import (
    TOP,
    Cells,
    Tree,
    chebyshev,
    floor_ordinal,
    from_ordinal,
    horner,
    ordinal,
    widths,
)

__all__ = ["LARGEST_FITTED", "LIMIT", "SIGN_FLOOR", "fit", "mirrored"]

Array = np.ndarray[Any, Any]
Function = Callable[[Array], Array]
Prove = Callable[[Cells | Tree, float], Certificate | None]

LIMIT = 1e-5  # absolute error of g; a table that is worse is not used
WITHIN = 4e-6  # what fits aim at
LAST = 8e-6  # what they aim at where that cannot be had
LARGEST_FITTED = 1e9  # in size of a g that is fitted: float32 has no digits for LIMIT long before
SIGN_FLOOR = 1e-6  # a g above this in size never changes its sign or becomes zero


def fit(
    g: Function, breakpoints: tuple[float, ...], prove: Prove
) -> tuple[Cells | Tree, Certificate] | None:
    """The cheapest layout within the limit, and the proof that it is; None where there is none.

    Args:
        g: float64 arrays to float64 arrays.
        breakpoints: where g may jump or bend.
        prove: tries to certify a layout, given the error that was found at sample points.
    """
    edges = sorted({e for b in breakpoints if abs(e := floor_ordinal(b)) < floor_ordinal(TOP)})
    points = _check_points(edges)
    wanted = g(points.astype(np.float64))
    if not (np.abs(wanted) < LARGEST_FITTED).all():
        return None
    # In the order of their cost in the kernel.
    attempts: list[Callable[[], Cells | Tree | None]] = [
        lambda: _tree(g, edges, most=4, degree=1),
        lambda: _tree(g, edges, most=8, degree=1),
        lambda: _tree(g, edges, most=4, degree=3),
        lambda: _side(g, degree=3),
        lambda: _tree(g, edges, most=8, degree=3),
        lambda: _side(g, degree=5),
        lambda: _sides(g),
        lambda: _polished_sides(g),
        lambda: _tree(g, edges, most=16, degree=5),
        lambda: _tree(g, edges, most=32, degree=5),
        lambda: _tree(g, edges, most=32, degree=5, within=LAST),
    ]
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
        if worst <= LIMIT and not lost.any() and (proof := prove(layout, worst)) is not None:
            return layout, proof
    return None


def _check_points(edges: list[int]) -> Array:
    """About 20 000 float32 numbers: even, even in the logarithm, around breakpoints."""
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


def mirrored(g: Function) -> tuple[int, dict[str, Any]] | None:
    """The sign of x to fit, and the fields of `Cells` that give the other side from it.

    The other side is constant, or both add up to one; None where neither is so.
    """
    points = np.concatenate([np.geomspace(1e-30, 1e30, 301), np.linspace(1e-3, 30, 3_001)])
    below, above = g(-points), g(points)
    if np.all(above == above[0]):
        return -1, {"offset": float(above[0]), "slope": 0.0}
    if np.all(below == below[0]) and g(np.zeros(1))[0] == below[0]:
        return 1, {"offset": float(below[0]), "slope": 0.0, "inverted": True}
    if np.all(np.abs(below + above - 1.0) <= 1e-12):
        return -1, {"offset": 1.0, "slope": -1.0}
    return None


def _side(g: Function, degree: int) -> Cells | None:
    found = mirrored(g)
    return None if found is None else _cells(g, degree, sign=found[0], **found[1])


def _sides(g: Function) -> Cells | None:
    return _cells(g, 5, sign=0)


_NEARLY = 3.0  # times its tolerance that the best of `_sides` may be off to be worth a polish


def _polished_sides(g: Function, within: float = LAST) -> Cells | None:
    """Sides whose polynomials have the least greatest error, and a tail between its extremes.

    For tails of powers, which the layout follows nearly well enough: the next cheapest one costs
    the kernel half as much again.
    """
    cells = _cells(g, 5, sign=0, worst=_NEARLY)
    if cells is None:
        return None
    half = 0.5 ** (cells.mantissa + 1)
    v = half * np.cos(np.arange(33) / 32 * np.pi)
    distance = np.maximum((widths(16, cells.mantissa, v) - 1) / cells.scale, 1e-30)
    rows = np.empty_like(cells.coefficients)
    for row in range(len(rows)):
        side, stretch = (1 if row >= 16 else -1), row % 16
        wanted = g(side * distance[stretch])
        points, allowed = v, _tolerance(wanted, within)
        if stretch == 15:  # beyond it, what it is at its end
            far = g(side * distance[stretch, 0] * np.geomspace(1.0, 1e8, 25))
            points = np.append(points, np.full(len(far), half))
            wanted, allowed = np.append(wanted, far), np.append(allowed, np.full(len(far), within))
        found = _least_greatest(points / half, wanted, allowed, degree=5)
        if found is None:
            return None
        rows[row] = (found / half ** np.arange(6)).astype(np.float32)
    return replace(cells, coefficients=rows)


def _least_greatest(u: Array, wanted: Array, allowed: Array, *, degree: int) -> Array | None:
    """Coefficients whose greatest error over what is allowed is least, if that is at most one."""
    from scipy import optimize

    basis = np.vander(u, degree + 1, increasing=True) / allowed[:, None]
    ones, aim = np.ones((len(u), 1)), wanted / allowed
    # About the polynomial of least squares: what is left is of the size of the tolerances.
    start = np.linalg.lstsq(basis, aim)[0]
    off = aim - basis @ start
    solved = optimize.linprog(
        np.append(np.zeros(degree + 1), 1.0),
        A_ub=np.block([[basis, -ones], [-basis, -ones]]),
        b_ub=np.concatenate([off, -off]),
        bounds=[(None, None)] * (degree + 1) + [(0.0, 1.0)],
        method="highs",
    )
    return start + solved.x[:-1] if solved.status == 0 else None


def _cells(g: Function, degree: int, *, sign: int, worst: float = 1.0, **rest: Any) -> Cells | None:
    """Try every scale and split between even and logarithmic stretches; the best if good.

    Args:
        g: the function.
        degree: of the polynomials.
        sign: of the x that the stretches are of; 0: 16 for each sign.
        worst: times its tolerance that it may be off at most.
        rest: further fields of `Cells`.
    """
    two_sided = sign == 0
    size = 16 if two_sided else 32
    nodes, solve = chebyshev(degree)
    checks = np.linspace(-1, 1, 8)
    best: tuple[float, Cells] | None = None
    for mantissa in range(5, -1, -1):
        if size >> mantissa == 0:
            continue
        half = 0.5 ** (mantissa + 1)
        w = widths(size, mantissa, np.concatenate([nodes, checks]) * half)
        distance = (w - 1)[None] / _SCALES[:, None, None]
        sides = [sign] if not two_sided else [-1, 1]
        # Not at 0 itself, where g may jump: it belongs to the stretch below.
        values = np.stack([g(np.maximum(distance, 1e-30) * s) for s in sides], axis=1)
        at_nodes, wanted = values[..., : degree + 1], values[..., degree + 1 :]
        coefficients = at_nodes @ solve
        found = coefficients @ np.vander(checks, degree + 1, increasing=True).T
        # Beyond the last stretch g stays what it is at its end.
        reach = distance[:, -1, -1]
        beyond = reach[:, None] * np.geomspace(1.0, 1e8, 25)
        far = np.stack([g(beyond * s) for s in sides], axis=1)
        # Where it is to be polished, a tail may end in a number that is not a quarter near to it.
        ending = _tolerance(far) if worst <= 1.0 else WITHIN
        score = np.maximum(
            (np.abs(found - wanted) / _tolerance(wanted)).max(axis=(1, 2, 3)),
            (np.abs(found[:, :, -1, -1, None] - far) / ending).max(axis=(1, 2)),
        )
        at = int(np.argmin(score))
        if best is None or score[at] < best[0]:
            rows = coefficients[at].reshape(-1, degree + 1) / half ** np.arange(degree + 1)
            cells = Cells(two_sided, mantissa, float(_SCALES[at]), rows.astype(np.float32), **rest)
            best = (float(score[at]), cells)
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
        # The breakpoint itself goes to the left if the last polynomial holds there too; otherwise
        # the next stretch begins with it, and ends with it where g has a value of its own there.
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
        """Columns (n, 1 + coefficients), and which of the n are good."""
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
        """The furthest end up to which one polynomial is good enough, and its column."""
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
