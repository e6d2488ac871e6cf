"""Which trials are stopped early: Optuna's pruners, and successive halving of our own.

`halving` is ASHA (Li et al. 2020, *A System for Massively Parallel Hyperparameter Tuning*,
arXiv:1810.05934, algorithm 2, with the factor 4 of its experiments). Optuna's
`SuccessiveHalvingPruner` decides only once: the first trials to reach a rung continue whatever they
are worth, and one that is not among the best when it gets there is over, even if worse ones come
after it. Here a candidate stops at each rung unless it is among the best quarter of those that have
got there, and is continued once it is: from its checkpoint, or from the start if it was stopped
within the first epoch.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import optuna
from optuna.trial import FrozenTrial, TrialState

from pdsearch.study.attributes import TrialAttrs
from pdsearch.study.queue import current, never_to_continue
from pdsearch.study.sampler import startup_trials
from pdsearch.study.settings import StudySection

PER_BRACKET = 20
"""Trials for each of Hyperband's brackets. With fewer it has the most pruning bracket alone, which
is successive halving: the last one prunes nothing, and would take half of a short study."""


def make_pruner(
    settings: StudySection, *, epochs: int | None, looks: int = 1
) -> optuna.pruners.BasePruner:
    """The study's pruner, its resources in steps.

    No trial is stopped within its first quarter (rounded up), for early epochs mislead, most under
    a one-cycle schedule. Successive halving, which is for those who would rather look at more
    candidates, is our own, and takes no pruner.

    Args:
        settings: the study's.
        epochs: of a whole trial; None where that is not yet known, and nothing is pruned.
        looks: steps of an epoch.
    """
    if epochs is None or epochs * looks < 2 or settings.pruner in ("none", "halving"):
        return optuna.pruners.NopPruner()
    quarter = max(1, math.ceil(epochs / 4))
    brackets = math.floor(math.log(epochs / quarter, 3)) + 1
    first = quarter * looks
    if settings.pruner == "hyperband" and brackets > 1 and settings.trials < PER_BRACKET * brackets:
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=first, reduction_factor=3)
    if settings.pruner == "median":
        return optuna.pruners.MedianPruner(
            n_startup_trials=startup_trials(settings), n_warmup_steps=first
        )
    return optuna.pruners.HyperbandPruner(
        min_resource=first, max_resource=epochs * looks, reduction_factor=3
    )


# --------------------------------------------------------------------------------- the rungs alone

FACTOR = 4
"""The best 1/FACTOR of a rung continue, and the next rung is FACTOR times as far."""

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
    """Which trial is continued next: the best of the highest rung where one is stopped that may."""
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


# ------------------------------------------------------------------------- a study's trials on them


def leads(study: optuna.Study, number: int, step: int, value: float, *, minimize: bool) -> bool:
    """Whether no other candidate was better after as many steps: such a one continues.

    A pruner asks for the best third of all, and the baseline and references come first. Where they
    are good, a short study would else end with every candidate pruned and none to name.
    """
    sign = -1 if minimize else 1
    return math.isfinite(value) and not any(
        sign * other.intermediate_values.get(step, -sign * math.inf) > sign * value
        for other in current(study.get_trials(deepcopy=False))
        if other.number != number and other.state != TrialState.FAIL and not TrialAttrs(other).fixed
    )


def earns(study: optuna.Study, number: int, step: int, value: float, *, minimize: bool) -> bool:
    """Whether it is among the best quarter of those that got as far, as things stand."""
    others = [
        other.intermediate_values[step]
        for other in current(study.get_trials(deepcopy=False))
        if other.number != number
        and other.state != TrialState.FAIL
        and step in other.intermediate_values
    ]
    return among_best(value, others, minimize=minimize)


def next_to_continue(
    study: optuna.Study, *, epochs: int, looks: int, minimize: bool, finish: bool
) -> tuple[FrozenTrial, int] | None:
    """A stopped trial that may be continued, and the step that it continues past.

    Args:
        study: an open study.
        epochs: of a whole trial.
        looks: steps of an epoch.
        minimize: whether a smaller value is better.
        finish: where none has earned it, take the best of the furthest to its end.
    """
    every = study.get_trials(deepcopy=False)
    trials = current(every)
    over = never_to_continue(every)
    runners = [
        _runner(trial, over=trial.number in over)
        for trial in trials
        if trial.state != TrialState.FAIL
    ]
    steps = rung_steps(epochs=epochs, looks=looks)
    up, past = next_up(runners, steps, minimize=minimize), None
    if up is None and finish:
        up, past = furthest(runners, steps, minimize=minimize), epochs * looks
    if up is None or up.stopped is None:
        return None
    trial = next(trial for trial in trials if trial.number == up.number)
    return trial, past or up.stopped


def _runner(trial: FrozenTrial, *, over: bool) -> Runner:
    """How a trial stands; one that may not be continued (`over`) is compared with all the same."""
    done = trial.state == TrialState.PRUNED and not over
    stopped = TrialAttrs(trial).stopped if done else None
    return Runner(trial.number, trial.intermediate_values, stopped)
