"""How a trial stands among the others of its study, whatever processes run them."""

import math
import time

import optuna
from optuna.trial import FrozenTrial, TrialState

from pdsearch.errors import PdsearchError
from pdsearch.study.kept import PREFIX
from pdsearch.study.queue import CONTINUES, current, given_up, never_to_go_on
from pdsearch.study.rungs import Runner, among_best, furthest, next_up, rung_steps
from pdsearch.study.space import FIXED


def hopeless(trial: FrozenTrial) -> PdsearchError:
    """The error for a trial that is given up."""
    kind = trial.user_attrs.get(PREFIX + "kind", "candidate")
    reason = trial.user_attrs.get(PREFIX + "reason", "no reason known")
    return PdsearchError(f"trial {trial.number} ({kind}) failed at every attempt, last: {reason}")


def check_fixed(study: optuna.Study, *, wait: float) -> None:
    """Looks whether the baseline or a reference was given up, without which nothing compares.

    Also where it was killed at each attempt, which no process has seen but the last.

    Args:
        study: an open study.
        wait: seconds until it is believed: whoever has just failed one is about to queue it again.

    Raises:
        PdsearchError: one was.
    """
    first = given_up(study.get_trials(deepcopy=False), kinds=FIXED)
    if first is None:
        return
    time.sleep(wait)
    again = given_up(study.get_trials(deepcopy=False), kinds=FIXED)
    if again is not None and again.number == first.number:
        raise hopeless(again)


def is_surplus(study: optuna.Study, trial: optuna.Trial, *, total: int) -> bool:
    """Whether others have begun it, or enough: two workers may see the same need at once."""
    trials = study.get_trials(deepcopy=False)
    continues = trial.user_attrs.get(CONTINUES)
    if continues is not None:
        return any(
            other.user_attrs.get(CONTINUES) == continues
            and other.number < trial.number
            and other.state != TrialState.FAIL
            for other in trials
        )
    ahead = 0
    for other in current(trials):
        live = other.state in (TrialState.RUNNING, TrialState.WAITING)
        done = other.state in (TrialState.COMPLETE, TrialState.PRUNED)
        ahead += done or (live and other.number < trial.number)
    return ahead >= total


def leads(study: optuna.Study, number: int, step: int, value: float, *, minimize: bool) -> bool:
    """Whether no other candidate was better after as many steps: such a one goes on.

    A pruner asks for the best third of all, and the baseline and references come first. Where they
    are good, a short study would else end with every candidate pruned and none to name.
    """
    sign = -1 if minimize else 1
    return math.isfinite(value) and not any(
        sign * other.intermediate_values.get(step, -sign * math.inf) > sign * value
        for other in current(study.get_trials(deepcopy=False))
        if other.number != number
        and other.state != TrialState.FAIL
        and other.user_attrs.get(PREFIX + "kind") not in FIXED
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


def next_to_go_on(
    study: optuna.Study, *, epochs: int, looks: int, minimize: bool, finish: bool
) -> tuple[FrozenTrial, int] | None:
    """A stopped trial that may go on, and the step that it goes on past; see `rungs`.

    Args:
        study: an open study.
        epochs: of a whole trial.
        looks: steps of an epoch.
        minimize: whether a smaller value is better.
        finish: where none has earned it, take the best of the furthest to its end.
    """
    every = study.get_trials(deepcopy=False)
    trials = current(every)
    over = never_to_go_on(every)
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
    """How a trial stands; `over` of one that may not go on, and is compared with all the same."""
    done = trial.state == TrialState.PRUNED and not over
    stopped = trial.user_attrs.get(PREFIX + "stopped") if done else None
    return Runner(trial.number, trial.intermediate_values, stopped)
