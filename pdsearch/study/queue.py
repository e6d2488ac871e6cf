"""Trials that are tried again: a killed process leaves its own marked as running.

Optuna's heartbeats expire them after a grace period; a process of this machine that is gone is seen
at once.
"""

import json
from collections.abc import Callable, Container, Iterable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import optuna
import sqlalchemy
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from pdsearch.study.innards import backend_of, storage_of, trial_id
from pdsearch.study.owner import Owner, owner_of

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

HEARTBEAT = 30  # seconds between signs of life
GRACE = 120  # seconds without one until a trial counts as abandoned
ORPHAN = 30  # seconds until a trial that nobody signed counts as abandoned; signing takes ms
ATTEMPTS = 3  # how often a trial is tried before it is given up

KEPT = ("kind", "candidate", "criteria", "continues", "past", "looks")

INTERRUPTED = "interrupted"
"""Why a trial failed that nobody but the user ended."""

CONTINUES = "pdsearch:continues"
"""The number of the trial that a trial goes on with."""


def current(trials: "Iterable[FrozenTrial]") -> "list[FrozenTrial]":
    """The trials of a study, without those that a later one goes on with and surplus ones.

    Nor those that somebody else added, finished, of whose candidate nothing is known.
    """
    found = [
        t
        for t in trials
        if t.user_attrs.get("pdsearch:status") != "surplus"
        and ("pdsearch:candidate" in t.user_attrs or t.state.name not in ("COMPLETE", "PRUNED"))
    ]
    taken_up = {t.user_attrs.get(CONTINUES) for t in found if t.state.name != "FAIL"}
    return [trial for trial in found if trial.number not in taken_up]


def take_up(study: "optuna.Study", trial: "FrozenTrial", *, past: int) -> None:
    """Queues a stopped trial again, to go on past the step at which it was stopped.

    A finished trial cannot be changed in Optuna, so that another one takes its place.
    """
    _queue(study, trial, {CONTINUES: trial.number, "pdsearch:past": past})


def requeue(study: "optuna.Study", trial: "FrozenTrial", *, released: bool = False) -> bool:
    """Queues a failed trial again with what it needs to go on; whether it did.

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
    further = {"failed_trial": trial.number, **trial.system_attrs, "retry_history": history}
    _queue(study, trial, {}, system=further)
    return True


def drop_retries(study: "optuna.Study") -> None:
    """Ends the waiting retries of a study that has come to its total without them.

    Two processes may begin its last trial at once. Where one of them is killed there, its trial is
    queued again, and nobody needs it. What a user has queued stays.
    """
    storage = storage_of(study)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        if "failed_trial" not in trial.system_attrs or CONTINUES in trial.user_attrs:
            continue
        number = trial_id(trial)
        # Taken first, as every process takes what waits: of several only one gets it.
        if storage.set_trial_state_values(number, state=TrialState.RUNNING):
            storage.set_trial_user_attr(number, "pdsearch:status", "surplus")
            storage.set_trial_state_values(number, state=TrialState.FAIL)


def given_up(trials: "Iterable[FrozenTrial]", *, kinds: Container[str]) -> "FrozenTrial | None":
    """A trial of these kinds that failed at every attempt and was not begun again since."""
    latest: dict[str, FrozenTrial] = {}
    for trial in current(trials):  # in the order of their numbers
        if trial.user_attrs.get("pdsearch:kind") in kinds:
            latest[json.dumps(trial.user_attrs["pdsearch:candidate"], sort_keys=True)] = trial
    return next((trial for trial in latest.values() if _is_over(trial)), None)


def never_to_go_on(trials: "Iterable[FrozenTrial]") -> set[int]:
    """The numbers of stopped trials whose continuation failed at every attempt."""
    return {
        trial.user_attrs[CONTINUES]
        for trial in trials
        if CONTINUES in trial.user_attrs and _is_over(trial)
    }


def _is_over(trial: "FrozenTrial") -> bool:
    """Whether it failed and is not to be tried again."""
    attempts = 1 + len(trial.system_attrs.get("retry_history", []))
    over = attempts >= ATTEMPTS and trial.user_attrs.get("pdsearch:reason") != INTERRUPTED
    return trial.state.name == "FAIL" and over


def _queue(
    study: "optuna.Study",
    trial: "FrozenTrial",
    further: Mapping[str, Any],
    *,
    system: Mapping[str, Any] | None = None,
) -> None:
    """Queues a trial with the parameters of another, and what is kept of it."""
    kept = {f"pdsearch:{key}" for key in KEPT}
    attributes = {key: value for key, value in trial.user_attrs.items() if key in kept}
    attributes.update(further)
    going_on = CONTINUES in attributes
    study.add_trial(
        optuna.create_trial(
            state=TrialState.WAITING,
            params=trial.params,
            distributions=trial.distributions,
            user_attrs=attributes,
            system_attrs=dict(system or {}),
            # What it reached before is compared with others' meanwhile.
            intermediate_values=trial.intermediate_values if going_on else {},
        )
    )


def fail_dead_trials(
    study: "optuna.Study",
    *,
    note: Callable[[str], None] | None = None,
    mine: bool = False,
    ended: Container[int] = (),
) -> list[int]:
    """Fails and requeues the running trials whose process is gone; returns their numbers.

    Args:
        study: an open study.
        note: told of each.
        mine: release this process's own trials instead, which it no longer runs.
        ended: release those of these processes of this machine too, which this one has ended.
    """
    here = Owner.here()
    found = []
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        owner = owner_of(trial.user_attrs.get("pdsearch:owner"))
        released = owner is not None and (
            owner == here
            if mine and owner.pid == here.pid
            else owner.pid in ended and owner.alive() is False
        )
        if mine:
            gone = released
        elif owner is None:
            age = datetime.now() - (trial.datetime_start or datetime.now())
            gone = age > timedelta(seconds=ORPHAN)
        elif owner == here:
            gone = True  # called between trials only: this process runs none
        else:
            alive = owner.alive()
            gone = alive is False or (alive is None and _never_beat(study, trial))
        if not gone or (queued := _fail(study, trial, released=released)) is None:
            continue
        found.append(trial.number)
        if note is not None and not released:
            where = f"process {owner.pid}" if owner else "process"
            then = "it will be tried again" if queued else f"given up after {ATTEMPTS} attempts"
            note(f"trial {trial.number}: its {where} is gone; {then}")
    return found


def _never_beat(study: "optuna.Study", trial: "FrozenTrial") -> bool:
    """Whether another machine's trial was begun long ago without ever a heartbeat.

    Optuna expires only trials that had one; a worker killed within its first milliseconds had none.
    """
    age = datetime.now() - (trial.datetime_start or datetime.now())
    backend = backend_of(study)
    if age < timedelta(seconds=GRACE) or backend is None:
        return False
    query = sqlalchemy.text("SELECT COUNT(*) FROM trial_heartbeats WHERE trial_id = :trial")
    with backend.engine.connect() as connection:
        return connection.execute(query, {"trial": trial_id(trial)}).scalar() == 0


def _fail(study: "optuna.Study", trial: "FrozenTrial", *, released: bool) -> bool | None:
    """Whether a trial is tried again after this; None where somebody else has ended it."""
    storage, number = storage_of(study), trial_id(trial)
    reason = INTERRUPTED if released else "its process was killed"
    try:
        storage.set_trial_user_attr(number, "pdsearch:reason", reason)
        if not storage.set_trial_state_values(number, state=TrialState.FAIL):
            return None
    except UpdateFinishedTrialError:
        return None  # somebody else was faster
    return requeue(study, storage.get_trial(number), released=released)
