"""A candidate's g at t = 0 as code and as an expression, and where it is not smooth."""

import functools
from collections.abc import Sequence
from typing import cast

import numpy as np
import sympy
import torch

from pdsearch import codegen
from pdsearch.enclosure import Piece, stretches
from pdsearch.enclosure.numbers import evaluated, finite_float
from pdsearch.expression import t
from pdsearch.family import Candidate
from pdsearch.kernels.layout import Array, Function

__all__ = ["at_start", "breakpoints", "function", "sides"]


def function(candidate: Candidate) -> Function:
    """Return g at t = 0, from the formula itself: float64 arrays to arrays of the same shape."""
    kernel, values = codegen.kernel(candidate.family), codegen.parameter_values(candidate)
    start = torch.tensor(0.0, dtype=torch.float64, device="cpu")

    def g(points: Array) -> Array:
        with torch.no_grad():
            given = torch.from_numpy(np.ascontiguousarray(points, dtype=np.float64))
            return kernel(given, start, values).numpy()

    return g


def at_start(candidate: Candidate) -> sympy.Expr:
    """Return the candidate's expression at t = 0, which holds x alone."""
    return cast(sympy.Expr, candidate.expression.xreplace({t: sympy.S.Zero}))


@functools.lru_cache(maxsize=1_024)
def sides(candidate: Candidate) -> tuple[float, float] | None:
    """Return g at and below zero, and above it, if g depends on nothing else; decided exactly."""
    expression = at_start(candidate)
    formulas = [formula for _, _, formula in stretches(expression)]
    if len(formulas) != 2 or any(formula.free_symbols for formula in formulas):
        return None
    below, above = formulas
    if evaluated(expression, sympy.S.Zero) != below:
        return None
    return finite_float(below), finite_float(above)


def breakpoints(pieces: Sequence[Piece]) -> tuple[float, ...]:
    """Return the points at which g may jump or bend, in order.

    Where `cut` misses one, the fit of a table fails there, and that is noticed.
    """
    return tuple(sorted({finite_float(piece.lo) for piece in pieces[1:]}))
