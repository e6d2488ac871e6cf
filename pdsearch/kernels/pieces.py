"""Where an expression in x is not smooth, and what it does on either side of zero."""

import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import sympy
import torch

from pdsearch import codegen
from pdsearch.enclosure import Piece, stretches
from pdsearch.enclosure.numbers import evaluated
from pdsearch.expression import exact, t
from pdsearch.family import Candidate

__all__ = ["Values", "at_progress", "breakpoints", "sides"]

Array = np.ndarray[Any, Any]


class Values:
    """g in float64 as a function of NumPy arrays, from the formula itself."""

    def __init__(self, candidate: Candidate, progress: float) -> None:
        self._kernel = codegen.kernel(candidate.family)
        self._values = codegen.parameter_values(candidate)
        self._progress = torch.tensor(progress, dtype=torch.float64, device="cpu")

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
    formulas = [formula for _, _, formula in stretches(expression)]
    if len(formulas) != 2 or any(formula.free_symbols for formula in formulas):
        return None
    below, above = formulas
    return (
        (as_float(below), as_float(above)) if evaluated(expression, sympy.S.Zero) == below else None
    )


def as_float(number: sympy.Expr) -> float:
    """The nearest float64; the largest for what is beyond it."""
    try:
        nearest = float(sympy.N(number, 30))
    except OverflowError:
        nearest = math.inf if number > 0 else -math.inf
    return min(max(nearest, -LARGEST), LARGEST)


LARGEST = float(np.finfo(np.float64).max)


def breakpoints(pieces: Sequence[Piece]) -> tuple[float, ...]:
    """Points at which g may jump or bend, in order.

    What `cut` cannot cut at makes the fit of a table fail there, which is noticed.
    """
    return tuple(sorted({as_float(piece.lo) for piece in pieces[1:]}))
