"""Writes tests/data/criteria_table.json: what the criteria must say of each library family.

    python tests/make_criteria_table.py [FAMILY ...]     all of them if none is named

Independent of `pdsearch.enclosure`: every formula is evaluated node by node in mpmath, integrals
are Gauss-Legendre sums on 2 880 stretches, extremes come from a grid and a ternary search, shares
import sympy
from typing import Any
from bisection, limits from x = ±1e12, monotonicity from a grid of 30 000 points at 50 digits. None
of that is a proof; that is the point of comparing.
"""

import itertools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mpmath
import sympy
from tree_oracle import oracle

from pdsearch.expression import t, x
from pdsearch.family import library

Function = Callable[[Any], Any]  # of and to mpmath numbers

STEPS = 120  # stretches in a unit of x: all default breakpoints are multiples of 1/120
REACH = 12
FINEST_HALF = mpmath.mpf(2) ** -25  # rounds to 0 in float16 at or below it


def g_of(expression: sympy.Expr) -> Function:
    """The function of one mpmath number."""
    cache: dict[Any, Any] = {}

    def g(value: Any) -> Any:
        if value not in cache:
            cache[value] = oracle(expression, {x: mpmath.mpf(value)})
        return cache[value]

    return g


def integral(f: Function) -> Any:
    """Gauss-Legendre with four nodes on each stretch of [-12, 12]; the rest weighs 1e-32."""
    nodes = [
        (sign * node, weight)
        for node, weight in (
            (mpmath.sqrt(mpmath.mpf(3) / 7 - mpmath.mpf(2) / 7 * mpmath.sqrt(mpmath.mpf(6) / 5)),
             (18 + mpmath.sqrt(30)) / 36),
            (mpmath.sqrt(mpmath.mpf(3) / 7 + mpmath.mpf(2) / 7 * mpmath.sqrt(mpmath.mpf(6) / 5)),
             (18 - mpmath.sqrt(30)) / 36),
        )
        for sign in (1, -1)
    ]  # fmt: skip
    total = mpmath.mpf(0)
    for i in range(-REACH * STEPS, REACH * STEPS):
        middle, half = (mpmath.mpf(i) + mpmath.mpf(1) / 2) / STEPS, mpmath.mpf(1) / (2 * STEPS)
        for node, weight in nodes:
            at = middle + half * node
            total += weight * half * f(at) * mpmath.npdf(at)
    return total


def grid() -> list[Any]:
    """[-12, 12] densely, then geometrically to ±1e6; odd offsets keep off breakpoints."""
    near = [(mpmath.mpf(i) + mpmath.mpf("0.37")) / 1000 for i in range(-REACH * 1000, REACH * 1000)]
    far = [REACH * mpmath.mpf("1.01") ** k for k in range(1, 1140)]
    return [-v for v in reversed(far)] + near + far


def refined(f: Function, points: list[Any], values: list[Any]) -> Any:
    """The greatest of f near the greatest of its values on a grid."""
    best = max(range(len(points)), key=lambda i: values[i])
    low, high = points[max(best - 1, 0)], points[min(best + 1, len(points) - 1)]
    for _ in range(80):
        a, b = low + (high - low) / 3, high - (high - low) / 3
        if f(a) < f(b):
            low = a
        else:
            high = b
    return max(values[best], f((low + high) / 2))


def dead_share(g: Function) -> Any:
    """The share of [-3, 0) on which |g| < 1e-6, its ends found by bisection."""
    count = 1201
    edges = [-3 + mpmath.mpf(3) * i / count for i in range(count + 1)]
    edges[-1] = -(mpmath.mpf(10) ** -30)
    zeros = []
    for left, right in itertools.pairwise(edges):
        if g(left) * g(right) < 0:  # dead around the zero, though neither neighbour is
            low, high = left, right
            for _ in range(60):
                middle = (low + high) / 2
                low, high = (middle, high) if g(middle) * g(left) > 0 else (low, middle)
            zeros.append(low)
    edges = sorted(edges + zeros)
    dead = [abs(g(edge)) < mpmath.mpf("1e-6") for edge in edges]
    total = mpmath.mpf(0)
    for left, right, a, b in zip(edges, edges[1:], dead, dead[1:], strict=False):
        if a == b:
            total += (right - left) if a else 0
            continue
        low, high = left, right
        for _ in range(60):
            middle = (low + high) / 2
            if (abs(g(middle)) < mpmath.mpf("1e-6")) == a:
                low = middle
            else:
                high = middle
        total += (low - left) if a else (right - low)
    return total / 3


def entry(expression: sympy.Expr) -> dict[str, dict[str, Any]]:
    """Numbers and verdicts for one formula."""
    g = g_of(expression)
    points = grid()
    with mpmath.workdps(50):
        values = [g(point) for point in points]
        falls = any(b < a - mpmath.mpf(10) ** -44
                    for a, b in itertools.pairwise(values))  # fmt: skip
        low, high = (
            -refined(lambda v: -g(v), points, [-v for v in values]),
            refined(g, points, values),
        )
        ends = [g(mpmath.mpf("-1e12")), g(mpmath.mpf("1e12"))]
    with mpmath.workdps(25):
        share = dead_share(g)
        consistent = integral(lambda v: abs(g(v) - (1 if v > 0 else 0)))
        gain = 2 * integral(lambda v: g(v) ** 2)
    supremum = max(-low, high)
    reach = [-3 * mpmath.mpf("1.02") ** k for k in range(505)]
    half = any(abs(g(point)) > FINEST_HALF for point in reach)

    def verdict(holds: object) -> str:
        return "proved" if holds else "refuted"

    return {
        "forward_is_relu": {"verdict": "measured", "passed": True},
        "alive_below_zero": {"verdict": verdict(share <= 0.01), "value": float(share)},
        "consistent": {"verdict": verdict(consistent <= 0.4), "value": float(consistent)},
        "cheap": {"verdict": "measured"},
        "limits": {"verdict": verdict(abs(ends[0]) < 1e-9 and abs(ends[1] - 1) < 1e-9)},
        "sign_preserving": {"verdict": verdict(low >= 0), "value": float(low)},
        "bounded": {
            "verdict": verdict(supremum <= mpmath.mpf("1.500001")), "value": float(supremum)
        },
        "non_decreasing": {"verdict": verdict(not falls)},
        "gain": {"verdict": verdict(0.5 <= gain <= 2), "value": float(gain)},
        "alive_in_half": {"verdict": "measured", "passed": bool(half)},
    }  # fmt: skip


def main() -> None:
    """Write the table, or some rows of it."""
    path = Path(__file__).parent / "data" / "criteria_table.json"
    names = sys.argv[1:]
    table = json.loads(path.read_text(encoding="utf-8")) if names else {}
    families = library()
    for name in names or families:
        expression = families[name].default.expression
        table[name] = entry(expression.xreplace({t: 0}))
    ordered = {name: table[name] for name in sorted(table)}
    path.write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
