"""Twins: candidates with the same g wherever training evaluates it; they share one result."""

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import optuna
from optuna.trial import FrozenTrial, TrialState

from pdsearch import interrupt
from pdsearch.enclosure import cut
from pdsearch.expression import exact, t
from pdsearch.family import Candidate, Drawn, fading, parts_of
from pdsearch.study.attributes import TrialAttrs
from pdsearch.study.queue import ENDED

if TYPE_CHECKING:
    import torch

SAME = 1e-6
"""The largest difference over [-6, 6] between two g that count as the same."""

SPAN = 6.0  # of x, to either side of 0

GRID = 960  # points of the first grid

TIMES = (0.0, 0.5, 1.0)
"""The progress of training at which an annealed g is compared."""


Curves = Mapping[str, "Curve"]
"""The g of each group of layers; that of a candidate for all of them has the group ""."""


def curves_of(drawn: Drawn) -> Curves:
    """Return the g of a candidate, or of each group, as they are compared with others."""
    return {group: Curve(part) for group, part in parts_of(drawn).items()}


def same(one: Curves, other: Curves) -> bool:
    """Whether two candidates have the same g in every layer; all are of one study.

    A candidate for all layers is compared with the one of each group.
    """
    groups = one if "" in other else other
    return all(_of(one, group).same(_of(other, group)) for group in groups)


def _of(curves: Curves, group: str) -> "Curve":
    return curves[group] if group in curves else curves[""]


@dataclass(frozen=True, eq=False)
class Curve:
    """The g of a candidate, as it is compared with others."""

    candidate: Candidate

    def at(self, points: "torch.Tensor") -> "torch.Tensor":
        """Return g at the points, a row for each of `TIMES`."""
        import torch

        if not self.candidate.annealed:
            return self.candidate(points).expand(len(TIMES), -1)
        return torch.stack([self.candidate(points, t=time) for time in TIMES])

    @functools.cached_property
    def values(self) -> "torch.Tensor":
        """Its values on a grid over [-6, 6] at three times of training, `(3, 960)`, float64."""
        import torch

        # An even number of points leaves out 0, where the value of g does not matter.
        return self.at(torch.linspace(-SPAN, SPAN, GRID, dtype=torch.float64))

    @functools.cached_property
    def weights(self) -> tuple[float, ...]:
        """The weight of g against the step function during training; empty without a fade."""
        faded = fading(self.candidate.family)
        if faded is None:
            return ()
        return tuple(faded.weight(self.candidate, step / 1000) for step in range(1001))

    @functools.cached_property
    def edges(self) -> tuple[float, ...]:
        """Where g may jump, within [-6, 6]: a grid shows a jump, but not its exact place.

        They are the places that can be computed exactly: not that of `exp(x) > 0.6`, which is no
        rational root of a polynomial.
        """
        found = {0.0}
        for time in TIMES if self.candidate.annealed else TIMES[:1]:
            pieces = cut(self.candidate.expression.xreplace({t: exact(time)}))
            found |= {float(piece.lo) for piece in pieces[1:]}
        return tuple(sorted(place for place in found if abs(place) <= SPAN))

    def same(self, other: "Curve") -> bool:
        """Whether two g differ nowhere by more than `SAME`.

        They are compared on the grid, on one 64 times as fine, and next to the jumps of each.
        """
        import torch

        if self.candidate.direction != other.candidate.direction:
            return False
        if not float((self.values - other.values).abs().max()) <= SAME:  # also if it is nan
            return False
        if len(self.weights) != len(other.weights):
            return False
        if any(abs(a - b) > SAME for a, b in zip(self.weights, other.weights, strict=True)):
            return False
        edges = torch.tensor(sorted({*self.edges, *other.edges}), dtype=torch.float64)
        fine = torch.linspace(-SPAN, SPAN, 64 * GRID, dtype=torch.float64)
        # Jumps closer together than SAME are at the same place.
        points = torch.cat([edges - SAME, edges + SAME, fine])
        return float((self.at(points) - other.at(points)).abs().max()) <= SAME


# --------------------------------------------------------------------------------- shared results


def twin_of(
    candidate: Drawn,
    trials: Iterable[FrozenTrial],
    curves: dict[int, Curves],
    *,
    finished: bool,
) -> FrozenTrial | None:
    """Return an earlier trial of the same g with a result to share; None if there is none.

    Args:
        candidate: the new trial's.
        trials: the study's.
        curves: a cache by trial number, which this function fills.
        finished: whether the other trial must be complete.
    """
    states = (TrialState.COMPLETE,) if finished else ENDED
    with interrupt.exposed():
        mine = curves_of(candidate)
        for other in trials:
            attrs = TrialAttrs(other)
            if other.state not in states or attrs.status == "ruled_out":
                continue
            if other.number not in curves and (drawn := attrs.drawn()) is not None:
                curves[other.number] = curves_of(drawn)
            if other.number in curves and same(mine, curves[other.number]):
                return other
    return None


def share(trial: optuna.Trial, twin: FrozenTrial) -> tuple[float, ...]:
    """Give a trial the result of its twin.

    Raises:
        optuna.TrialPruned: the twin was pruned.
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
    """Store why a trial ends early, and return the exception that ends it."""
    TrialAttrs(trial).write(status=status, reason=reason)
    return optuna.TrialPruned(reason)
