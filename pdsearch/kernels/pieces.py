"""Where an expression in x is not smooth, and what it does on either side of zero."""

import functools
import itertools
from typing import Any, cast

import numpy as np
import sympy
import torch

from pdsearch import codegen
from pdsearch.expression import exact, t, x
from pdsearch.family import Candidate

__all__ = ["Values", "at_progress", "breakpoints", "sides"]

Array = np.ndarray[Any, Any]


class Values:
    """g in float64 as a function of NumPy arrays, from the formula itself."""

    def __init__(self, candidate: Candidate, progress: float) -> None:
        self._kernel = codegen.kernel(candidate.family)
        self._values = codegen.parameter_values(candidate)
        self._progress = torch.tensor(progress, dtype=torch.float64)

    def __call__(self, points: Array) -> Array:
        """Values of g; same shape, float64."""
        with torch.no_grad():
            given = torch.from_numpy(np.ascontiguousarray(points, dtype=np.float64))
            return self._kernel(given, self._progress, self._values).numpy()


def at_progress(candidate: Candidate, progress: float) -> sympy.Expr:
    """The candidate's expression with t put in: it holds x alone."""
    return cast(sympy.Expr, candidate.expression.xreplace({t: exact(progress)}))


def sides(candidate: Candidate, progress: float) -> tuple[float, float] | None:
    """G below (and at) zero and above it, if that is all that g depends on; decided exactly."""
    expression = at_progress(candidate, progress)
    positive = sympy.Symbol("p", positive=True)
    below, above, zero = (
        sympy.sympify(expression.subs(x, point)) for point in (-positive, positive, sympy.S.Zero)
    )
    if below.free_symbols or above.free_symbols or zero != below:
        return None
    return float(below), float(above)


def breakpoints(candidate: Candidate, progress: float) -> tuple[float, ...]:
    """Points at which g may jump or bend, in order.

    Zeros of whatever decides between arms: differences of compared sides, of arguments of Min and
    Max, arguments of Abs, sign and Heaviside. More points than needed do no harm; one that is
    missed makes the fit of a table fail there, which is noticed.
    """
    expression = at_progress(candidate, progress)
    switches: set[sympy.Expr] = set()
    for node in sympy.preorder_traversal(expression):
        if isinstance(node, sympy.core.relational.Relational):
            switches.add(node.lhs - node.rhs)
        elif isinstance(node, sympy.Abs | sympy.sign | sympy.Heaviside):
            switches.add(node.args[0])
        elif isinstance(node, sympy.Min | sympy.Max):
            switches.update(a - b for a, b in itertools.combinations(node.args, 2))
    found: set[float] = set()
    for switch in switches:
        if x in switch.free_symbols:
            found.update(_zeros(switch))
    return tuple(sorted(found))


def _zeros(switch: sympy.Expr) -> list[float]:
    if switch.is_polynomial(x) and sympy.degree(switch, x) == 1:
        slope, offset = sympy.Poly(switch, x).all_coeffs()
        return [float(-offset / slope)]
    function = codegen.torch_function(switch)
    points = _search_points()
    with torch.no_grad():
        values = function(torch.from_numpy(points), 0.0).numpy()
    signs = np.sign(values)
    zeros = [float(p) for p in points[signs == 0][:64]]
    for i in np.flatnonzero(signs[:-1] * signs[1:] < 0)[:64]:
        low, high, sign = points[i], points[i + 1], signs[i]
        for _ in range(200):
            middle = 0.5 * (low + high)
            if middle in (low, high):
                break
            with torch.no_grad():
                here = float(function(torch.tensor([middle], dtype=torch.float64), 0.0))
            low, high = (middle, high) if np.sign(here) == sign else (low, middle)
        zeros.append(float(high))
    return zeros


@functools.cache
def _search_points() -> Array:
    logarithmic = np.geomspace(1e-6, 1e6, 4_000)
    return np.unique(
        np.concatenate([-logarithmic, [0.0], logarithmic, np.linspace(-50, 50, 8_001)])
    )
