"""The tables of a candidate, made from its formula and checked against it."""

import functools
from dataclasses import dataclass

import numpy as np
import torch

from pdsearch.codegen import rounded
from pdsearch.enclosure.algebra import nesting
from pdsearch.family import Candidate
from pdsearch.kernels.accuracy import corrected
from pdsearch.kernels.certify import Certificate, Prover
from pdsearch.kernels.fit import Fitted, fit, fit_tree
from pdsearch.kernels.pieces import at_start, breakpoints, function

__all__ = ["Codes", "Segments", "codes", "every_input", "every_value", "fitted", "segments"]

MOST_NESTED = 12
"""Functions within functions in a g that gets a table; the library's have three. Cutting the line
of 1 - exp(1 - exp(…)), nested as deeply as a formula may be, alone takes ten seconds."""


@dataclass(frozen=True, eq=False)
class Segments:
    """A float32 table.

    Attributes:
        values: as fused.cpp reads it.
        proof: of how far it may be from g.
    """

    values: torch.Tensor
    proof: Certificate

    @property
    def slow(self) -> bool:
        """Whether AVX-512 takes longer than chords: a search among 32 ends, then polynomials."""
        kind, size, degree = self.values[:3].tolist()
        return kind == 2 and size == 32 and degree > 1


@functools.lru_cache(maxsize=256)
def segments(candidate: Candidate, *, gpu: bool = False) -> Segments | None:
    """Return the float32 table of a candidate, or None if none can be proved accurate enough.

    Args:
        candidate: the pseudo-derivative.
        gpu: whether the GPU's kernel is to read it: always a Tree, and within `FINE_LIMIT`.
    """
    found = fitted(candidate, finely=gpu)
    return None if found is None else Segments(torch.from_numpy(found[0].table()), found[1])


def fitted(candidate: Candidate, *, finely: bool = False) -> Fitted | None:
    """Return polynomials for a candidate and the proof of their error; None if there is none.

    Args:
        candidate: the pseudo-derivative.
        finely: see `fit_tree`; otherwise the CPU's cheapest.
    """
    expression = at_start(candidate)
    if nesting(expression) > MOST_NESTED:
        return None
    prover = Prover(expression)
    make = fit_tree if finely else fit
    return make(function(candidate), breakpoints(prover.pieces), prover.prove)


def every_input(dtype: torch.dtype) -> torch.Tensor:
    """Return all 65 536 values of a 16-bit dtype, by their bits."""
    return torch.arange(65_536, dtype=torch.int32, device="cpu").to(torch.uint16).view(dtype)


@functools.lru_cache(maxsize=128)  # 128 KiB each
def every_value(candidate: Candidate, dtype: torch.dtype) -> torch.Tensor:
    """Return g at all 65 536 values of a 16-bit dtype, correctly rounded.

    Values beyond the dtype's largest number become that number; g at infinity is g at the largest
    input. Where the formula's text has too few digits, ball arithmetic replaces it.
    """
    largest = torch.finfo(dtype).max
    points = every_input(dtype).double().clamp(-largest, largest).numpy()
    g = function(candidate)(points)
    use = np.flatnonzero(~np.isnan(points))
    use = use[np.argsort(points[use], kind="stable")]
    bits = 1 - int(np.log2(torch.finfo(dtype).eps))
    g[use] = corrected(candidate, points[use], g[use], bits)
    return rounded(torch.from_numpy(g), dtype).clamp(-largest, largest)


# -------------------------------------------------------------------------------- a byte an element

LEVELS = 252  # the highest code of a value; the codes of 0, 1 and NaN follow it
SIGNED_LEVELS = 124  # the same where a code tells the sign of x: 128 is added where x > 0


@dataclass(frozen=True, eq=False)
class Codes:
    """One byte an element: the value of the float32 table, rounded to one of 256.

    The values are the middles of equal steps, so that only 0 becomes 0 and no sign changes.

    Attributes:
        table: the float32 table with the steps in its header.
        values: float32 (256,), exact in float16.
        error: bound on abs(value − g): half a step, the table's error, and the values' rounding.
    """

    table: torch.Tensor
    values: torch.Tensor
    error: float


@functools.lru_cache(maxsize=256)
def codes(candidate: Candidate, *, signed: bool, gpu: bool = False) -> Codes:
    """Return the codes of a candidate that has a float32 table.

    Args:
        candidate: the pseudo-derivative.
        signed: whether a code also tells the sign of x, which a fade and a direction need; the
            steps are then twice as wide.
        gpu: whether the GPU's kernel is to read the table.
    """
    found = segments(candidate, gpu=gpu)
    assert found is not None  # `plan` checked
    top = SIGNED_LEVELS if signed else LEVELS
    low, high = min(0.0, found.proof.low), max(0.0, found.proof.high)
    margin = found.proof.error + 1e-6 * (high - low)
    low, high = low - margin, high + margin
    steps = np.float32((top - 2) / max(high - low, 1e-6))
    first = np.float32(-np.floor(low * float(steps)))
    middle = (np.arange(top + 1) - float(first) + 0.5) / float(steps)
    values = np.full(128 if signed else 256, np.nan, dtype=np.float32)
    values[: top + 1] = middle.astype(np.float16)
    values[top + 1 : top + 3] = 0.0, 1.0
    table = found.values.clone()
    # `Header` of fused.cpp: levels, first; top, above.
    table[10], table[11] = float(steps), float(first)
    table[14], table[15] = top, 128 if signed else 0
    rounding = float(np.abs(values[: top + 1] - middle).max())
    error = 0.5 / float(steps) + rounding + found.proof.error + 1e-6
    both = np.concatenate([values, values]) if signed else values
    return Codes(table, torch.from_numpy(both), error)
