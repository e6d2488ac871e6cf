"""Trials that wait: those tried again after their process was killed, and those continued.

Optuna's heartbeats expire an abandoned trial after a grace period. A process of this machine that
is gone is seen at once.
"""

import json
import time
from collections.abc import Callable, Container, Iterable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from pdsearch.errors import PdsearchError
from pdsearch.study import innards
from pdsearch.study.attributes import FIXED, TrialAttrs
from pdsearch.study.innards import StoredTrial
from pdsearch.study.machine import Owner, owner_of
from pdsearch.study.storage import GRACE

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

ORPHAN = 30  # seconds until a trial that nobody signed counts as abandoned; signing takes ms
ATTEMPTS = 3  # how often a trial is tried before it is given up

INHERITED = ("kind", "candidate", "criteria", "continues", "past", "looks")
"""What a trial that is queued again keeps of the one before it."""

INTERRUPTED = "interrupted"
"""Why a trial failed that nobody but the user ended."""

ENDED = (TrialState.COMPLETE, TrialState.PRUNED)
"""The states of a trial that came to a result."""


def current(trials: "Iterable[FrozenTrial]") -> "list[FrozenTrial]":
    """Return a study's trials without the surplus ones and those that a later one continues.

    Finished trials that somebody else added are not among them: their candidate is not known.
    """
    found = []
    for trial in trials:
        attrs = TrialAttrs(trial)
        ours = "candidate" in attrs or trial.state not in ENDED
        if ours and attrs.status != "surplus":
            found.append(trial)
    continued = {TrialAttrs(t).continues for t in found if t.state != TrialState.FAIL}
    return [trial for trial in found if trial.number not in continued]


def is_surplus(study: "optuna.Study", trial: "optuna.Trial", *, total: int) -> bool:
    """Whether others have begun it, or enough: two workers may see the same need at once."""
    trials = study.get_trials(deepcopy=False)
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


def queue_continued(study: "optuna.Study", trial: "FrozenTrial", *, past: int) -> None:
    """Queue a stopped trial again, to continue past the step at which it was stopped.

    Optuna allows no change to a finished trial, so another one takes its place.
    """
    _queue(study, trial, TrialAttrs.named(continues=trial.number, past=past))


def requeue(study: "optuna.Study", trial: "FrozenTrial", *, released: bool = False) -> bool:
    """Queue a failed trial again with what it needs to continue; whether it was queued.

    Args:
        study: an open study.
        trial: the failed one.
        released: the user ended its process, which is no failure and uses up no attempt.
    """
    history = list(trial.system_attrs.get("retry_history", []))
    if not released:
        history.append(trial.number)
    if len(history) >= ATTEMPTS:
        return False
    system = {"failed_trial": trial.number, **trial.system_attrs, "retry_history": history}
    _queue(study, trial, {}, system=system)
    return True


def _queue(
    study: "optuna.Study",
    trial: "FrozenTrial",
    further: dict[str, Any],
    *,
    system: dict[str, Any] | None = None,
) -> None:
    """Queue a trial with the parameters of another, and what is kept of it."""
    attributes = TrialAttrs(trial).only(*INHERITED) | further
    going_on = TrialAttrs(attributes).continues is not None
    study.add_trial(
        optuna.create_trial(
            state=TrialState.WAITING,
            params=trial.params,
            distributions=trial.distributions,
            user_attrs=attributes,
            system_attrs=system or {},
            # What it reached before is compared with others' meanwhile.
            intermediate_values=trial.intermediate_values if going_on else {},
        )
    )


def drop_retries(study: "optuna.Study") -> None:
    """End the waiting retries of a study that has reached its total without them.

    Two processes may begin its last trial at once. Where one of them is killed there, its trial is
    queued again, and nobody needs it. What a user has queued stays.
    """
    for trial in study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        if "failed_trial" not in trial.system_attrs or "continues" in TrialAttrs(trial):
            continue
        stored = StoredTrial(study, trial)
        # Taken first, as every process takes what waits: of several only one gets it.
        if stored.set_state(TrialState.RUNNING):
            TrialAttrs(stored).status = "surplus"
            stored.set_state(TrialState.FAIL)


# ---------------------------------------------------------------------------------------- given up


def check_fixed(study: "optuna.Study", *, wait: float) -> None:
    """Check that neither the baseline nor a reference was given up: nothing compares without them.

    Also where it was killed at each attempt, which no process has seen but the last.

    Args:
        study: an open study.
        wait: seconds until it is believed: whoever has just failed one is about to queue it again.

    Raises:
        PdsearchError: one was.
    """
    first = _given_up(study.get_trials(deepcopy=False))
    if first is None:
        return
    time.sleep(wait)
    again = _given_up(study.get_trials(deepcopy=False))
    if again is not None and again.number == first.number:
        raise hopeless(again)


def hopeless(trial: "FrozenTrial") -> PdsearchError:
    """Return the error for a trial that is given up."""
    attrs = TrialAttrs(trial)
    kind, reason = attrs.kind or "candidate", attrs.reason or "no reason known"
    return PdsearchError(f"trial {trial.number} ({kind}) failed at every attempt, last: {reason}")


def _given_up(trials: "Iterable[FrozenTrial]") -> "FrozenTrial | None":
    """A baseline or reference that failed at every attempt and was not begun again since."""
    latest: dict[str, FrozenTrial] = {}
    for trial in current(trials):  # in the order of their numbers
        attrs = TrialAttrs(trial)
        if attrs.kind in FIXED:
            latest[json.dumps(attrs.candidate, sort_keys=True)] = trial
    return next((trial for trial in latest.values() if _is_over(trial)), None)


def never_to_continue(trials: "Iterable[FrozenTrial]") -> set[int | None]:
    """Return the numbers of stopped trials whose continuation failed at every attempt."""
    return {
        TrialAttrs(trial).continues
        for trial in trials
        if "continues" in TrialAttrs(trial) and _is_over(trial)
    }


def _is_over(trial: "FrozenTrial") -> bool:
    """Whether it failed and is not to be tried again."""
    attempts = 1 + len(trial.system_attrs.get("retry_history", []))
    over = attempts >= ATTEMPTS and TrialAttrs(trial).reason != INTERRUPTED
    return trial.state == TrialState.FAIL and over


# ---------------------------------------------------------------------------------- dead processes


def expire(study: "optuna.Study") -> None:
    """Fail the trials whose heartbeats have stopped, and queue them again."""
    innards.expire(study, retry=requeue)


def fail_dead_trials(
    study: "optuna.Study",
    *,
    note: Callable[[str], None] | None = None,
    mine: bool = False,
    ended: Container[int] = (),
) -> list[int]:
    """Fail and requeue the running trials whose process is gone; return their numbers.

    Args:
        study: an open study.
        note: called with a line for each.
        mine: release this process's own trials instead, which it no longer runs.
        ended: release those of these processes of this machine too, which this one has ended.
    """
    here = Owner.here()
    found = []
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        owner = owner_of(TrialAttrs(trial).owner)
        released = owner is not None and (
            owner == here
            if mine and owner.pid == here.pid
            else owner.pid in ended and owner.alive() is False
        )
        gone = released if mine else released or _is_gone(study, trial, owner, here)
        if not gone or (queued := _fail(study, trial, released=released)) is None:
            continue
        found.append(trial.number)
        if note is not None and not released:
            where = f"process {owner.pid}" if owner else "process"
            then = "it will be tried again" if queued else f"given up after {ATTEMPTS} attempts"
            note(f"trial {trial.number}: its {where} is gone; {then}")
    return found


def _is_gone(study: "optuna.Study", trial: "FrozenTrial", owner: Owner | None, here: Owner) -> bool:
    """Whether nobody runs a running trial."""
    if owner is None:
        return _age(trial) > timedelta(seconds=ORPHAN)
    if owner == here:
        return True  # called between trials only: this process runs none
    alive = owner.alive()
    return alive is False or (alive is None and _never_beat(study, trial))


def _age(trial: "FrozenTrial") -> timedelta:
    return datetime.now() - (trial.datetime_start or datetime.now())


def _never_beat(study: "optuna.Study", trial: "FrozenTrial") -> bool:
    """Whether another machine's trial was begun long ago without ever a heartbeat.

    Optuna expires only trials that had one; a worker killed within its first milliseconds had none.
    """
    return _age(trial) >= timedelta(seconds=GRACE) and not innards.has_beat(study, trial)


def _fail(study: "optuna.Study", trial: "FrozenTrial", *, released: bool) -> bool | None:
    """Whether a trial is tried again after this; None where somebody else has ended it."""
    stored = StoredTrial(study, trial)
    try:
        TrialAttrs(stored).reason = INTERRUPTED if released else "its process was killed"
        if not stored.set_state(TrialState.FAIL):
            return None
    except UpdateFinishedTrialError:
        return None  # somebody else was faster
    return requeue(study, stored.read(), released=released)
