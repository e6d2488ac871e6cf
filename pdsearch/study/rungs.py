"""Successive halving that takes up again what it has stopped.

This is ASHA (Li et al. 2020, *A System for Massively Parallel Hyperparameter Tuning*,
arXiv:1810.05934, algorithm 2, with the factor 4 of its experiments). Optuna's
`SuccessiveHalvingPruner` decides but once: who gets to a rung first goes on, whatever it is worth,
and who is not among the best when it gets there is over, even if worse ones come after it. Here a
candidate stops at each rung unless it is among the best quarter of those that have got there, and
is taken up again once it is: from its checkpoint, or anew if it was stopped within the first epoch.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

FACTOR = 4
"""The best 1/FACTOR of a rung go on, and the next rung is FACTOR times as far."""

WORTH = 1.5
"""A rung from which the end is less than this many times as far saves too little to stop there."""


@dataclass(frozen=True)
class Runner:
    """How a trial stands, whatever process runs it or has run it.

    Attributes:
        number: of its trial.
        values: what is compared, by step.
        stopped: the step at which it was stopped; None of one that runs, is finished or has
            diverged, and of the baseline and the references, which are compared but never stop.
    """

    number: int
    values: Mapping[int, float]
    stopped: int | None


def rung_steps(*, epochs: int, looks: int) -> tuple[int, ...]:
    """The steps at which candidates are compared, ascending.

    A rung is due at 1, 4, 16, … steps, and held at the first step from there on that is reported:
    `looks` in the first epoch, then one an epoch.

    Args:
        epochs: of a whole trial.
        looks: steps of an epoch.
    """
    last = epochs * looks
    found: list[int] = []
    due = 1
    while True:
        step = due if due <= looks else math.ceil(due / looks) * looks
        if step * WORTH > last:
            return tuple(found)
        if not found or step > found[-1]:
            found.append(step)
        due *= FACTOR


def among_best(value: float, others: Iterable[float], *, minimize: bool) -> bool:
    """Whether a value is among the best quarter of a rung; the first three there never are."""
    if not math.isfinite(value):
        return False
    sign = -1 if minimize else 1
    rest = [sign * other for other in others if not math.isnan(other)]
    better = sum(other > sign * value for other in rest)
    return better < (len(rest) + 1) // FACTOR


def next_up(
    runners: Sequence[Runner], rungs: Sequence[int], *, minimize: bool = False
) -> Runner | None:
    """Whose turn it is to go on: the best of the highest rung where one is stopped that may."""
    for step in reversed(rungs):
        there = [runner for runner in runners if step in runner.values]
        may = [
            runner
            for runner in there
            if runner.stopped == step
            and among_best(
                runner.values[step],
                [other.values[step] for other in there if other is not runner],
                minimize=minimize,
            )
        ]
        if may:
            return _best(may, step, minimize=minimize)
    return None


def furthest(
    runners: Sequence[Runner], rungs: Sequence[int], *, minimize: bool = False
) -> Runner | None:
    """The best of those stopped at the highest rung: a study without it would name no candidate."""
    for step in reversed(rungs):
        may = [
            runner
            for runner in runners
            if runner.stopped == step and math.isfinite(runner.values[step])
        ]
        if may:
            return _best(may, step, minimize=minimize)
    return None


def _best(runners: Sequence[Runner], step: int, *, minimize: bool) -> Runner:
    sign = 1 if minimize else -1
    return min(runners, key=lambda runner: (sign * runner.values[step], runner.number))
