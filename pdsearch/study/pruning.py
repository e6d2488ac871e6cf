"""Stopping trials early: Optuna's pruners, and our own successive halving.

`halving` is ASHA (Li et al. 2020, *A System for Massively Parallel Hyperparameter Tuning*,
arXiv:1810.05934, algorithm 2, with the factor 4 of its experiments). Optuna's
`SuccessiveHalvingPruner` decides only once: the first trials to reach a rung always continue, and a
trial that is not among the best when it gets there is over, even if worse ones follow. Here a
candidate stops at each rung unless it is among the best quarter of those that have reached it, and
continues once it is: from its checkpoint, or from the start if it stopped within the first epoch.
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
"""Trials per bracket of Hyperband. With fewer it gets only its most pruning bracket, which is
successive halving: the last bracket prunes nothing, and would take half of a short study."""


def make_pruner(
    settings: StudySection, *, epochs: int | None, looks: int = 1
) -> optuna.pruners.BasePruner:
    """Return the study's pruner, with its resources in steps.

    It stops no trial within its first quarter (rounded up), because early epochs mislead, most of
    all with a one-cycle schedule. While the epochs of a whole trial are unknown it stops none.
    `halving` is not a pruner of Optuna's.
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


# --------------------------------------------------------------------------------------- the rungs

FACTOR = 4
"""The best 1/FACTOR of a rung continue, and the next rung is FACTOR times as far."""

SAVING = 1.5
"""If the end is less than this many times as far as a rung, stopping there saves too little."""


@dataclass(frozen=True)
class Runner:
    """A trial on the rungs, with the compared values by step.

    `stopped` is the step at which it stopped. It is None if the trial runs, is finished or
    diverged, and for the baseline and the references, which are compared but never stop.
    """

    number: int
    values: Mapping[int, float]
    stopped: int | None


def rung_steps(*, epochs: int, looks: int) -> tuple[int, ...]:
    """Return the steps at which candidates are compared, ascending.

    A rung is due at 1, 4, 16, … steps, and takes place at the next step that is reported: each of
    `looks` in the first epoch, then one per epoch.
    """
    last = epochs * looks
    found: list[int] = []
    due = 1
    while True:
        step = due if due <= looks else math.ceil(due / looks) * looks
        if step * SAVING > last:
            return tuple(found)
        if not found or step > found[-1]:
            found.append(step)
        due *= FACTOR


def among_best(value: float, others: Iterable[float], *, minimize: bool) -> bool:
    """Whether a value is among the best quarter of a rung; the first three never are."""
    if not math.isfinite(value):
        return False
    sign = -1 if minimize else 1
    rest = [sign * other for other in others if not math.isnan(other)]
    better = sum(other > sign * value for other in rest)
    return better < (len(rest) + 1) // FACTOR


def next_up(
    runners: Sequence[Runner],
    rungs: Sequence[int],
    *,
    minimize: bool = False,
    earned: bool = True,
) -> Runner | None:
    """Return the trial to continue next: the best of the highest rung with one that may continue.

    With `earned`, only trials among the best quarter of a rung may; else all with a finite value.
    """
    sign = 1 if minimize else -1
    for step in reversed(rungs):
        values = {runner.number: runner.values[step] for runner in runners if step in runner.values}
        found = []
        for runner in runners:
            if runner.stopped == step:
                value = values[runner.number]
                rest = [other for number, other in values.items() if number != runner.number]
                best = among_best(value, rest, minimize=minimize)
                if best if earned else math.isfinite(value):
                    found.append(runner)
        if found:
            return min(found, key=lambda runner: (sign * values[runner.number], runner.number))
    return None


# ------------------------------------------------------------------------- a study's trials on them


def leads(study: optuna.Study, number: int, step: int, value: float, *, minimize: bool) -> bool:
    """Whether no other candidate was better at this step: such a one is never pruned.

    A pruner asks for the best third of all trials, the baseline and the references first. If these
    are good, a short study would end with every candidate pruned and without a best one.
    """
    sign = -1 if minimize else 1
    others = _others(study, number, step, fixed=False)
    return math.isfinite(value) and not any(sign * other > sign * value for other in others)


def earns(study: optuna.Study, number: int, step: int, value: float, *, minimize: bool) -> bool:
    """Whether a trial is currently among the best quarter of those that reached this step."""
    return among_best(value, _others(study, number, step), minimize=minimize)


def _others(study: optuna.Study, number: int, step: int, *, fixed: bool = True) -> list[float]:
    """Return the values of other trials at a step; without `fixed` those of candidates only."""
    return [
        other.intermediate_values[step]
        for other in current(study.get_trials(deepcopy=False))
        if other.number != number
        and other.state != TrialState.FAIL
        and step in other.intermediate_values
        and (fixed or not TrialAttrs(other).fixed)
    ]


def next_to_continue(
    study: optuna.Study, *, epochs: int, looks: int, minimize: bool, finish: bool
) -> tuple[FrozenTrial, int] | None:
    """Return a stopped trial to continue, and the step up to which it may not stop again.

    With `finish`, the best trial of the highest rung continues to its end if none has earned it.
    """
    every = study.get_trials(deepcopy=False)
    over = never_to_continue(every)
    trials = {t.number: t for t in current(every) if t.state != TrialState.FAIL}
    runners = [
        Runner(
            number,
            trial.intermediate_values,
            # One that may not continue is still compared with the others.
            TrialAttrs(trial).stopped
            if trial.state == TrialState.PRUNED and number not in over
            else None,
        )
        for number, trial in trials.items()
    ]
    steps = rung_steps(epochs=epochs, looks=looks)
    up, past = next_up(runners, steps, minimize=minimize), None
    if up is None and finish:
        up, past = next_up(runners, steps, minimize=minimize, earned=False), epochs * looks
    if up is None or up.stopped is None:
        return None
    return trials[up.number], past or up.stopped
