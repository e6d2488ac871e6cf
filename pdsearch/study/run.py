"""The study's loop: one trial after another, which can be killed at any time and resumed.

A study's total counts the trials that are complete, pruned or ruled out. Failed ones are retried.
Several processes may run one study; they share only its storage.
"""

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from pdsearch import interrupt
from pdsearch.errors import PdsearchError, first_line
from pdsearch.study.attempt import Attempt, Context, Dropped, lost
from pdsearch.study.attributes import TrialAttrs
from pdsearch.study.families import check_added
from pdsearch.study.innards import StoredTrial, ask, beating, expire, trial_id
from pdsearch.study.machine import Owner
from pdsearch.study.patience import STORAGE_ERRORS
from pdsearch.study.progress import Ends
from pdsearch.study.pruning import make_pruner, next_to_continue
from pdsearch.study.queue import (
    ENDED,
    INTERRUPTED,
    check_fixed,
    drop_retries,
    fail_dead_trials,
    hopeless,
    queue_continued,
    requeue,
    tally,
)
from pdsearch.study.sampler import CandidateSampler
from pdsearch.study.trainer import drop_checkpoints

POLL = 1.0  # seconds between two looks at the storage while other processes run the last trials
GIVEN_UP = 3  # trials in a row that fail at every attempt end the study: it is not their fault

Machine = (OSError, RuntimeError, MemoryError)
"""Errors of memory, files or CUDA, which a retry may avoid. A wrong program fails every time."""


class Session:
    """One process's part in a study."""

    def __init__(self, context: Context, *, follows: bool) -> None:
        """Prepare to run trials; with `follows`, those of other processes are shown too."""
        self._context = context
        self._stored, self._study = context.stored, context.stored.study
        self._settings = context.stored.settings.study
        self._trainer, self._display = context.trainer, context.display
        self._current: int | None = None
        self._attempt: Attempt | None = None
        self._mine: int | None = None  # the last trial that ended here
        self._given_up = 0
        self._epochs_seen: int | None = None
        self._ends = Ends(context.stored, context.display, of_others=follows)
        self._owner = Owner.here()
        self._study.sampler = CandidateSampler(self._settings, self._sign)

    # ----------------------------------------------------------------------------------- the loop

    def run(self, *, until_total: bool) -> None:
        """Run trials until the study reaches its total, or nothing is left to begin.

        With `until_total`, wait for trials that other processes run, and take over those that die.
        """
        total = self._settings.trials
        check_added(self._study.get_trials(deepcopy=False), self._context.groups)
        fail_dead_trials(self._study, note=self._display.note)
        waited = False
        while True:
            trials = check_fixed(self._study, wait=POLL)
            self._ends.show(trials, mine=self._mine)
            self._context.check_wanted()
            counted, running, waiting = tally(trials)
            done = counted >= total
            enough = done or (counted + running >= total and (running or not waiting))
            if self._continue_one(finish=done and not running + waiting) or not enough:
                self._one()
                continue
            # With halving, the result of a running trial may let another one continue.
            if done or not (until_total or self._context.halving):
                break
            if not waited:
                self._display.say(f"waiting for {running} trial(s) that other processes run")
            waited = True
            interrupt.pause(POLL)
            fail_dead_trials(self._study, note=self._display.note)
            expire(self._study, retry=requeue)
        if counted >= total:
            drop_retries(self._study)
        if until_total and self._context.halving:
            for trial in self._study.get_trials(deepcopy=False, states=(TrialState.PRUNED,)):
                candidate = TrialAttrs(trial).drawn() if "stopped" in TrialAttrs(trial) else None
                if candidate is not None:
                    seed = self._settings.seed
                    drop_checkpoints(self._context.checkpoint_for(candidate, seed=seed))

    def _continue_one(self, *, finish: bool) -> bool:
        """Queue a stopped trial that may continue; return whether there was one. See `pruning`.

        With `finish`, the best one may, unless a candidate is complete: nothing else is left to do.
        """
        epochs = self._epochs()
        if not self._context.halving or epochs is None:
            return False
        found = next_to_continue(
            self._study,
            epochs=epochs,
            looks=self._trainer.looks,
            minimize=self._stored.minimize,
            finish=finish and self._context.best() is None,
        )
        if found is None:
            return False
        trial, past = found
        queue_continued(self._study, trial, past=past)
        return True

    def _epochs(self) -> int | None:
        """Return the epochs of a whole trial: the trainer's, or those that the baseline took."""
        if self._trainer.epochs is not None:
            return self._trainer.epochs
        if self._epochs_seen is None:
            for trial in self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
                if TrialAttrs(trial).fixed and trial.intermediate_values:
                    self._epochs_seen = max(trial.intermediate_values)
                    break
        return self._epochs_seen

    # ---------------------------------------------------------------------------------- one trial

    def _one(self) -> None:
        """Run one trial, store how it ended, and queue it again if it is to be retried."""
        self._current, self._attempt = None, None
        epochs = self._epochs()
        self._study.pruner = make_pruner(self._settings, epochs=epochs, looks=self._trainer.looks)
        try:
            expire(self._study, retry=requeue)
            trial = ask(self._study)
            with beating(self._study, trial):
                values, state, error = self._outcome(trial, epochs)
            self._tell(trial, values, state)
            if error is not None:
                raise error
        except STORAGE_ERRORS:
            raise  # nothing can be stored: the process that resumes the study finds the trial
        except BaseException:
            self._release()
            raise
        if self._current is not None:
            self._after(self._trial(self._current))

    def _sign(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Store the trial's owner, which tells the trials of dead processes from others."""
        self._current = trial_id(trial)
        TrialAttrs(StoredTrial(study, trial)).owner = self._owner.to_dict()

    def _outcome(
        self, trial: optuna.Trial, epochs: int | None
    ) -> tuple[tuple[float, ...] | None, TrialState, BaseException | None]:
        """Run a trial; return its values, its state, and the error that ends the study, if any."""
        try:
            self._attempt = Attempt(self._context, trial, epochs=epochs)
            return self._attempt.run(), TrialState.COMPLETE, None
        except optuna.TrialPruned:
            return None, TrialState.PRUNED, None
        except Dropped:
            return None, TrialState.FAIL, None
        except STORAGE_ERRORS:
            raise
        except BaseException as error:
            again = isinstance(error, Machine) and not isinstance(error, PdsearchError)
            if not lost(self._study, trial):
                if isinstance(error, KeyboardInterrupt):
                    TrialAttrs(trial).reason = INTERRUPTED
                elif again:
                    reason = f"{type(error).__name__}: {first_line(error)}"[:500]
                    TrialAttrs(trial).write(status="failed", reason=reason)
            return None, TrialState.FAIL, None if again else error

    def _tell(
        self, trial: optuna.Trial, values: tuple[float, ...] | None, state: TrialState
    ) -> None:
        """Store how a trial ended, unless another process has it.

        That happens if this process was stopped or cut off for longer than the grace period. The
        other one continues from the trial's checkpoint.
        """
        try:
            self._study.tell(trial, values, state=state)
            return
        except (ValueError, UpdateFinishedTrialError):
            if not lost(self._study, trial):
                raise
        if state != TrialState.FAIL:
            self._display.note(f"trial {trial.number} was given to another process meanwhile")
        self._current = None

    def _trial(self, number: int) -> FrozenTrial:
        """Return a trial as it is stored now, by its number in the storage."""
        return StoredTrial(self._study, number).read()

    def _after(self, trial: FrozenTrial) -> None:
        """Retry a failed trial or give it up, and drop the checkpoints of others."""
        self._mine = trial.number
        attrs = TrialAttrs(trial)
        checkpoint = None if self._attempt is None else self._attempt.checkpoint
        if trial.state in ENDED:
            self._given_up = 0
            # A stopped trial may continue from its checkpoint.
            if checkpoint is not None and "stopped" not in attrs:
                drop_checkpoints(checkpoint)
        elif attrs.status == "failed" and not requeue(self._study, trial):
            self._given_up += 1
            if attrs.fixed or self._given_up >= GIVEN_UP:
                raise hopeless(trial)

    def _release(self) -> None:
        """Put an interrupted trial back into the queue, whatever its state."""
        if self._current is not None:
            trial = self._trial(self._current)
            if trial.state == TrialState.FAIL:
                requeue(self._study, trial, released=True)
        fail_dead_trials(self._study, mine=True)
