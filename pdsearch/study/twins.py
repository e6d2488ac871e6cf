"""When two candidates count as one, and how a trial then shares the result of an earlier one.

They count as one if their g are the same wherever training looks.
"""

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import optuna
from optuna.trial import FrozenTrial, TrialState

from pdsearch import interrupt
from pdsearch.enclosure import cut
from pdsearch.expression import exact, t
from pdsearch.family import fading
from pdsearch.study.attributes import TrialAttrs
from pdsearch.study.queue import ENDED

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
        """Where g may jump as far as it can be computed exactly, within [-6, 6].

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

    On the grid, on one 64 times as fine where that shows nothing, and next to each one's jumps.
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


# --------------------------------------------------------------------------------- shared results


def twin_of(
    candidate: "Candidate",
    trials: Iterable[FrozenTrial],
    shapes: dict[int, Shape],
    *,
    finished: bool,
) -> FrozenTrial | None:
    """An earlier trial of the same g that has a result to share.

    Args:
        candidate: the new trial's.
        trials: the study's, as they stand.
        shapes: of those that were compared with before, by their numbers; it grows.
        finished: whether the other must have come to its end.
    """
    with interrupt.exposed():
        shape = shape_of(candidate)
        for other in trials:
            attrs = TrialAttrs(other)
            drawn = attrs.drawn() if other.state in ENDED and attrs.status != "ruled_out" else None
            if drawn is None:
                continue
            if other.number not in shapes:
                shapes[other.number] = shape_of(drawn)
            stopped = finished and other.state != TrialState.COMPLETE
            if not stopped and same_shape(shape, shapes[other.number]):
                return other
    return None


def share(trial: optuna.Trial, twin: FrozenTrial) -> tuple[float, ...]:
    """Give a trial the result of the earlier one of the same g.

    Raises:
        optuna.TrialPruned: the other was.
    """
    its, own = TrialAttrs(twin), TrialAttrs(trial)
    first = twin.number if its.duplicate_of is None else its.duplicate_of
    own.duplicate_of = first
    for key, value in its.only("epochs", "looks", "learning_rate").items():
        trial.set_user_attr(key, value)
    for step, value in sorted(twin.intermediate_values.items()):
        trial.report(value, step)
    if twin.state == TrialState.PRUNED:
        why = f"same g as trial {first}: {its.reason or 'pruned'}"
        raise pruned(trial, its.status or "pruned", why)
    own.write(status="complete", reason=f"same g as trial {first}, whose result it shares")
    assert twin.values is not None
    return tuple(twin.values)


def pruned(trial: optuna.Trial, status: str, reason: str) -> optuna.TrialPruned:
    """What ends a trial early, which is stored with it."""
    TrialAttrs(trial).write(status=status, reason=reason)
    return optuna.TrialPruned(reason)
