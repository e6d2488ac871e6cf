"""When two candidates count as one: their g are the same wherever training looks."""

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pdsearch.enclosure import cut
from pdsearch.expression import exact, t
from pdsearch.family import fading

if TYPE_CHECKING:
    import torch

    from pdsearch.family import Candidate

SAME = 1e-6
"""Two candidates whose g differ by no more than this over [-6, 6] are one."""

SPAN = 6.0  # of x, to either side of 0

GRID = 960  # points of the first grid

TIMES = (0.0, 0.5, 1.0)
"""Training's progress at which an annealed g is looked at."""


@dataclass(frozen=True, eq=False)
class Shape:
    """What is compared of a candidate.

    Attributes:
        candidate: whose g it is.
        values: of g on a grid over [-6, 6] at three times of training, `(3, 960)`, float64.
    """

    candidate: "Candidate"
    values: "torch.Tensor"

    @functools.cached_property
    def weights(self) -> tuple[float, ...]:
        """How it fades: the weight of g against the step over training; empty where it does not."""
        faded = fading(self.candidate.family)
        if faded is None:
            return ()
        return tuple(faded.weight(self.candidate, step / 1000) for step in range(1001))

    @functools.cached_property
    def edges(self) -> tuple[float, ...]:
        """Where g may jump as far as it can be told exactly, within [-6, 6].

        A grid sees a jump, but not just where it is. Places that no polynomial with rational roots
        gives (`exp(x) > 0.6`) are not among them.
        """
        found = {0.0}
        for time in TIMES if self.candidate.annealed else TIMES[:1]:
            pieces = cut(self.candidate.expression.xreplace({t: exact(time)}))
            found |= {float(piece.lo) for piece in pieces[1:]}
        return tuple(sorted(place for place in found if abs(place) <= SPAN))


def shape_of(candidate: "Candidate") -> Shape:
    """What `same_shape` compares."""
    import torch

    # An even number of points: what g is at 0 itself decides nothing.
    grid = torch.linspace(-SPAN, SPAN, GRID, dtype=torch.float64)
    return Shape(candidate, _values(candidate, grid))


def same_shape(one: Shape, other: Shape) -> bool:
    """Whether two g differ nowhere by more than `SAME`.

    On the grid, on one 64 times as fine where that shows nothing, and beside each one's jumps.
    """
    import torch

    if one.candidate.direction != other.candidate.direction:
        return False
    if not float((one.values - other.values).abs().max()) <= SAME:  # nan is not the same
        return False
    if len(one.weights) != len(other.weights):
        return False
    if any(abs(a - b) > SAME for a, b in zip(one.weights, other.weights, strict=True)):
        return False
    edges = torch.tensor(sorted({*one.edges, *other.edges}), dtype=torch.float64)
    fine = torch.linspace(-SPAN, SPAN, 64 * GRID, dtype=torch.float64)
    # Jumps nearer than that to one another are at one place.
    beside = torch.cat([edges - SAME, edges + SAME, fine])
    apart = _values(one.candidate, beside) - _values(other.candidate, beside)
    return float(apart.abs().max()) <= SAME


def _values(candidate: "Candidate", points: "torch.Tensor") -> "torch.Tensor":
    """G at the points, a row for each of `TIMES`."""
    import torch

    if not candidate.annealed:
        return candidate(points).expand(len(TIMES), -1)
    return torch.stack([candidate(points, t=time) for time in TIMES])
