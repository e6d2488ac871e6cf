"""Trials that wait: retries after their process was killed, and continuations of stopped trials.

Optuna's heartbeats expire an abandoned trial after a grace period. The end of a process on this
machine is seen at once.
"""

import json
import time
from collections.abc import Callable, Container, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from pdsearch.errors import PdsearchError
from pdsearch.study.attributes import FIXED, TrialAttrs
from pdsearch.study.innards import StoredTrial, has_beat
from pdsearch.study.machine import Owner, owner_of
from pdsearch.study.storage import GRACE

ORPHAN = 30  # seconds until a trial without an owner counts as abandoned; signing takes ms
ATTEMPTS = 3  # how often a trial is attempted before it is given up

INHERITED = ("kind", "candidate", "criteria", "continues", "past", "looks")
"""The attributes that a trial inherits when it is queued again."""

INTERRUPTED = "interrupted"
"""The reason of a failed trial that the user interrupted."""

ENDED = (TrialState.COMPLETE, TrialState.PRUNED)
"""The states of trials with a result."""


def current(trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """Return a study's trials without surplus ones and those that a later trial continues.

    Finished trials that pdsearch did not make are omitted: they have no known candidate.
    """
    found = []
    for trial in trials:
        attrs = TrialAttrs(trial)
        ours = "candidate" in attrs or trial.state not in ENDED
        if ours and attrs.status != "surplus":
            found.append(trial)
    continued = {TrialAttrs(t).continues for t in found if t.state != TrialState.FAIL}
    return [trial for trial in found if trial.number not in continued]


def tally(trials: Iterable[FrozenTrial]) -> tuple[int, int, int]:
    """Return how many of a study's trials count towards the total, are running, and wait."""
    states = [trial.state for trial in current(trials)]
    counted = sum(states.count(state) for state in ENDED)
    return counted, states.count(TrialState.RUNNING), states.count(TrialState.WAITING)


def is_surplus(trial: optuna.Trial, trials: Sequence[FrozenTrial], *, total: int) -> bool:
    """Whether earlier trials make this one superfluous: two workers may see one need at once."""
    continues = TrialAttrs(trial).continues
    if continues is not None:
        return any(
            TrialAttrs(other).continues == continues
            and other.number < trial.number
            and other.state != TrialState.FAIL
            for other in trials
        )
    ahead = 0
    for other in current(trials):
        live = other.state in (TrialState.RUNNING, TrialState.WAITING)
        ahead += other.state in ENDED or (live and other.number < trial.number)
    return ahead >= total


# ------------------------------------------------------------------------------------ queued again


def queue_continued(study: optuna.Study, trial: FrozenTrial, *, past: int) -> None:
    """Queue a continuation of a stopped trial, which may not stop again up to the step `past`.

    Optuna does not change finished trials, so another one takes its place.
    """
    _queue(study, trial, TrialAttrs.named(continues=trial.number, past=past), {})


def requeue(study: optuna.Study, trial: FrozenTrial, *, released: bool = False) -> bool:
    """Queue a failed trial again with what it needs to continue; return whether it was queued.

    If it was `released`, the user interrupted its process, which does not use up an attempt.
    """
    history = list(trial.system_attrs.get("retry_history", []))
    if not released:
        history.append(trial.number)
    if len(history) >= ATTEMPTS:
        return False
    system = {"failed_trial": trial.number, **trial.system_attrs, "retry_history": history}
    _queue(study, trial, {}, system)
    return True


def _queue(
    study: optuna.Study, trial: FrozenTrial, further: dict[str, Any], system: dict[str, Any]
) -> None:
    """Queue a trial with the parameters and the inherited attributes of another."""
    attributes = TrialAttrs(trial).only(*INHERITED) | further
    continues = TrialAttrs(attributes).continues is not None
    study.add_trial(
        optuna.create_trial(
            state=TrialState.WAITING,
            params=trial.params,
            distributions=trial.distributions,
            user_attrs=attributes,
            system_attrs=system,
            # Other trials are compared with them meanwhile.
            intermediate_values=trial.intermediate_values if continues else {},
        )
    )


def drop_retries(study: optuna.Study) -> None:
    """End the waiting retries of a study that has reached its total without them.

    Two processes may begin its last trial at once. If one of them is killed, its trial is queued
    again, although it is not needed. Trials that a user queued stay.
    """
    for trial in study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        if "failed_trial" not in trial.system_attrs or "continues" in TrialAttrs(trial):
            continue
        stored = StoredTrial(study, trial)
        # Claim it first, as for running: only one of several processes succeeds.
        if stored.set_state(TrialState.RUNNING):
            TrialAttrs(stored).status = "surplus"
            stored.set_state(TrialState.FAIL)


# ---------------------------------------------------------------------------------------- given up


def check_fixed(study: optuna.Study, *, wait: float) -> list[FrozenTrial]:
    """Read a study's trials; none of the baseline and the references may be given up.

    Every comparison needs them. Such a trial may have been killed at each attempt, which only its
    last process has seen. After `wait` seconds it is looked at again, because a process that has
    just failed it may requeue it.

    Raises:
        PdsearchError: one was given up.
    """
    trials = study.get_trials(deepcopy=False)
    first = _given_up(trials)
    if first is None:
        return trials
    time.sleep(wait)
    trials = study.get_trials(deepcopy=False)
    again = _given_up(trials)
    if again is not None and again.number == first.number:
        raise hopeless(again)
    return trials


def hopeless(trial: FrozenTrial) -> PdsearchError:
    """Return the error for a trial that is given up."""
    attrs = TrialAttrs(trial)
    kind, reason = attrs.kind or "candidate", attrs.reason or "no reason known"
    return PdsearchError(f"trial {trial.number} ({kind}) failed at every attempt, last: {reason}")


def _given_up(trials: Iterable[FrozenTrial]) -> FrozenTrial | None:
    """Return a baseline or reference that failed at every attempt and was not begun again."""
    latest: dict[str, FrozenTrial] = {}
    for trial in current(trials):  # in the order of their numbers
        attrs = TrialAttrs(trial)
        if attrs.kind in FIXED:
            latest[json.dumps(attrs.candidate, sort_keys=True)] = trial
    return next((trial for trial in latest.values() if _is_over(trial)), None)


def never_to_continue(trials: Iterable[FrozenTrial]) -> set[int | None]:
    """Return the numbers of stopped trials whose continuation failed at every attempt."""
    return {
        TrialAttrs(trial).continues
        for trial in trials
        if "continues" in TrialAttrs(trial) and _is_over(trial)
    }


def _is_over(trial: FrozenTrial) -> bool:
    """Whether a trial failed and will not be retried."""
    attempts = 1 + len(trial.system_attrs.get("retry_history", []))
    over = attempts >= ATTEMPTS and TrialAttrs(trial).reason != INTERRUPTED
    return trial.state == TrialState.FAIL and over


# ---------------------------------------------------------------------------------- dead processes


def fail_dead_trials(
    study: optuna.Study,
    *,
    note: Callable[[str], None] | None = None,
    mine: bool = False,
    ended: Container[int] = (),
) -> list[int]:
    """Fail and requeue the running trials whose process has ended; return their numbers.

    Args:
        study: the study.
        note: called with a line for each.
        mine: instead release this process's own trials, which it no longer runs.
        ended: processes that this one has ended: also release their trials.
    """
    here = Owner.here()
    found = []
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        owner = owner_of(TrialAttrs(trial).owner)
        released = owner is not None and (
            (mine and owner == here) or (owner.pid in ended and owner.alive() is False)
        )
        gone = released or (not mine and _is_gone(study, trial, owner, here))
        if not gone or (queued := _fail(study, trial, released=released)) is None:
            continue
        found.append(trial.number)
        if note is not None and not released:
            where = f"process {owner.pid}" if owner else "process"
            then = "it will be tried again" if queued else f"given up after {ATTEMPTS} attempts"
            note(f"trial {trial.number}: its {where} is gone; {then}")
    return found


def _is_gone(study: optuna.Study, trial: FrozenTrial, owner: Owner | None, here: Owner) -> bool:
    """Whether no process runs a running trial."""
    age = datetime.now() - (trial.datetime_start or datetime.now())
    if owner is None:
        return age > timedelta(seconds=ORPHAN)
    if owner == here:
        return True  # called between trials, when this process runs none
    alive = owner.alive()
    # Optuna expires only trials with a heartbeat. On another machine, a worker may have been killed
    # before its first one.
    unheard = alive is None and age >= timedelta(seconds=GRACE)
    return alive is False or (unheard and not has_beat(study, trial))


def _fail(study: optuna.Study, trial: FrozenTrial, *, released: bool) -> bool | None:
    """Fail a trial; return whether it will be retried, None if another process has ended it."""
    stored = StoredTrial(study, trial)
    try:
        TrialAttrs(stored).reason = INTERRUPTED if released else "its process was killed"
        if not stored.set_state(TrialState.FAIL):
            return None
    except UpdateFinishedTrialError:
        return None
    return requeue(study, stored.read(), released=released)
