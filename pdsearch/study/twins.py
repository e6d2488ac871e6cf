"""When two candidates count as one: their g are the same wherever training looks."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from pdsearch.family import Candidate

SAME = 1e-6
"""Two candidates whose g differ by no more than this over [-6, 6] are one."""


def shape_of(candidate: "Candidate") -> "torch.Tensor":
    """Values of g on a grid over [-6, 6] at three times of training, `(3, 960)`, float64."""
    import torch

    # An even number of points: what g is at 0 itself decides nothing.
    grid = torch.linspace(-6, 6, 960, dtype=torch.float64)
    times = (0.0, 0.5, 1.0) if candidate.annealed else (0.0,)
    return torch.stack([candidate(grid, t=time) for time in times]).expand(3, -1)


def same_shape(one: "torch.Tensor", other: "torch.Tensor") -> bool:
    """Whether two shapes, as of `shape_of`, differ nowhere by more than `SAME`."""
    return bool((one - other).abs().max() <= SAME)
