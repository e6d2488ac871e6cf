"""The tables of a candidate, made from its formula and checked against it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pdsearch.enclosure import cut
from pdsearch.enclosure.algebra import nesting
from pdsearch.family import Candidate
from pdsearch.kernels.accuracy import corrected
from pdsearch.kernels.certify import Certificate, Effort, certify
from pdsearch.kernels.fit import LIMIT, SIGN_FLOOR, fit
from pdsearch.kernels.layout import Cells, Tree
from pdsearch.kernels.pieces import Values, at_progress, breakpoints

__all__ = ["LIMIT", "Codes", "Segments", "codes", "every_value", "segments"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Segments:
    """A float32 table.

    Args:
        values: as fused.cpp reads it.
        layout: its kind, for people.
        proof: of how far it may be from g.
    """

    values: torch.Tensor
    layout: str
    proof: Certificate


MOST_NESTED = 12
"""Functions within functions in a g that a table is made of; the library's have three. Cutting the
line of 1 - exp(1 - exp(…)), nested as deeply as a formula may be, alone takes ten seconds."""


def segments(candidate: Candidate, progress: float) -> Segments | None:
    """The float32 table of a candidate, or None where none can be proved good enough."""
    expression = at_progress(candidate, progress)
    if nesting(expression) > MOST_NESTED:
        return None
    pieces, effort = cut(expression), Effort()

    def prove(layout: Cells | Tree, worst: float) -> Certificate | None:
        return certify(
            pieces, expression, layout, aim=worst, limit=LIMIT, floor=SIGN_FLOOR, effort=effort
        )

    found = fit(Values(candidate, progress), breakpoints(pieces), prove)
    if found is None:
        return None
    layout, proof = found
    values = layout.table()
    kind = ("side", "sides", "tree")[int(values[0])]
    name = f"{kind} of {int(values[1])}, degree {int(values[2])}"
    return Segments(torch.from_numpy(values), name, proof)


def every_value(candidate: Candidate, progress: float, dtype: torch.dtype) -> torch.Tensor:
    """G at all 65 536 values of a 16-bit dtype, correctly rounded.

    Beyond the dtype's largest number it is that number; at infinities, what it is at the largest
    input. The formula's text is compared with ball arithmetic on the way, and replaced by it where
    its digits do not suffice.
    """
    inputs = torch.arange(65_536, dtype=torch.int32, device="cpu").to(torch.uint16).view(dtype)
    # Infinities as the dtype's own largest number, which is where its inputs end.
    largest = torch.finfo(dtype).max
    points = inputs.double().clamp(-largest, largest).numpy()
    g = Values(candidate, progress)(points)
    use = np.flatnonzero(~np.isnan(points))
    use = use[np.argsort(points[use], kind="stable")]
    bits = 1 - int(np.log2(torch.finfo(dtype).eps))
    g[use] = corrected(candidate, progress, points[use], g[use], bits)
    return torch.from_numpy(round_to_odd(g)).to(dtype).clamp(-largest, largest)


def round_to_odd(values: Array) -> Array:
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

LEVELS = 252  # the highest code of a value; those of 0, 1 and NaN follow it
SIGNED_LEVELS = 124  # likewise where a code tells the sign of x, by 128 more where x > 0


@dataclass(frozen=True, eq=False)
class Codes:
    """One byte an element: the value of the float32 table, rounded to one of 256.

    The values are the middles of even steps, so that none but 0 itself becomes 0 and no sign turns.

    Args:
        table: the float32 table with the steps in its header.
        values: float32 (256,), exact in float16.
        error: bound on abs(value − g): half a step, the table's error, and the values' rounding.
    """

    table: torch.Tensor
    values: torch.Tensor
    error: float


def codes(found: Segments, *, signed: bool = False) -> Codes:
    """The codes of a float32 table.

    Args:
        found: the table.
        signed: whether a code also tells the sign of x, which a fade and a direction ask for; the
            steps are then twice as wide.
    """
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
    table[10], table[11] = float(steps), float(first)
    table[14], table[15] = top, 128 if signed else 0
    rounding = float(np.abs(values[: top + 1] - middle).max())
    error = 0.5 / float(steps) + rounding + found.proof.error + 1e-6
    return Codes(
        table, torch.from_numpy(np.concatenate([values, values]) if signed else values), error
    )
