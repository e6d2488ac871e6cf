"""The study's loop: draw, gate, train, report, prune; kill it at any time and run it again.

A study's total counts the trials that are complete, pruned or ruled out. Failed ones are tried
again. Several processes may run one study: all they share is its storage.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from pdsearch import interrupt
from pdsearch.criteria import FamilyGate, gate
from pdsearch.errors import PdsearchError, first_line
from pdsearch.family import Candidate, Family
from pdsearch.study.attributes import StudyAttrs, TrialAttrs
from pdsearch.study.families import check_added, offered, refusal, suggest, widened
from pdsearch.study.innards import ENQUEUED, StoredTrial, ask, beating, trial_id
from pdsearch.study.machine import Owner
from pdsearch.study.progress import Display
from pdsearch.study.pruning import earns, leads, make_pruner, next_to_continue, rung_steps
from pdsearch.study.queue import (
    ENDED,
    INTERRUPTED,
    check_fixed,
    current,
    drop_retries,
    expire,
    fail_dead_trials,
    hopeless,
    is_surplus,
    queue_continued,
    requeue,
)
from pdsearch.study.rows import best_of, counts_of
from pdsearch.study.sampler import CandidateSampler
from pdsearch.study.stored import StoredStudy
from pdsearch.study.trainer import Reached, Trainer, checkpoint_path, drop_checkpoints
from pdsearch.study.twins import Shape, pruned, share, twin_of

POLL = 1.0  # seconds between looks at the storage while others run the last trials
GIVEN_UP = 3  # trials in a row that fail at every attempt end the study: it is not their fault

Machine = (OSError, RuntimeError, MemoryError)
"""What another attempt may get over: memory, files, CUDA. A wrong program fails every time."""


class _Dropped(Exception):
    """A trial ended without a result: not needed, given to somebody else, or enqueued wrongly."""


class Session:
    """One process's part in a study.

    Args:
        stored: the study.
        trainer: how a candidate is trained.
        display: where progress is shown.
        wanted: whether to continue, asked between epochs and trials: False once an interruption
            came or the process that started this one ended.
        extra_criteria: custom ones, in addition to the required ones.
        recruit: called as `recruit(seconds, trials)` after an epoch, with what is left to train
            for one process alone, until it gives True: others are there to help now.
    """

    def __init__(
        self,
        stored: StoredStudy,
        trainer: Trainer,
        display: Display,
        *,
        wanted: Callable[[], bool] = lambda: True,
        extra_criteria: tuple[Callable[..., Any], ...] = (),
        recruit: Callable[[float, int], bool] | None = None,
    ) -> None:
        self._stored = stored
        self._study = stored.study
        self._settings = stored.settings.study
        self._trainer = trainer
        self._display = display
        self._wanted = wanted
        self._extra = extra_criteria
        self._recruit = recruit
        self._searched: Mapping[str, Family] = {
            name: stored.families[name] for name in StudyAttrs(stored.study).searched or ()
        }
        self._gates = stored.gates
        self._spaces = {
            name: offered(family, self._gates.get(name)) for name, family in self._searched.items()
        }
        self._shapes: dict[int, Shape] = {}
        self._current: int | None = None
        self._checkpoint: Path | None = None
        self._given_up = 0
        self._seen_epochs: int | None = None
        self._owner = Owner.here()
        self._study.sampler = CandidateSampler(self._settings, self._sign)

    # ----------------------------------------------------------------------------------- the loop

    def run(self, *, until_total: bool) -> None:
        """Run trials until the study's total is reached.

        Args:
            until_total: wait for trials that other processes run, and take over those that die;
                a worker leaves when nothing is left to begin.
        """
        check_added(self._study.get_trials(deepcopy=False), self._searched)
        fail_dead_trials(self._study, note=self._display.note)
        waited = False
        while True:
            self.check_wanted()
            check_fixed(self._study, wait=POLL)
            counted, running, waiting = self._tally()
            if self._continue_one(
                finish=counted >= self._settings.trials and not running + waiting
            ):
                self._one()
                continue
            if counted >= self._settings.trials:
                break
            if counted + running >= self._settings.trials and not (waiting and not running):
                # By halving, what runs may yet let another one be continued.
                if not until_total and self._settings.pruner != "halving":
                    break
                if not waited:
                    self._display.say(f"waiting for {running} trial(s) that other processes run")
                waited = True
                interrupt.pause(POLL)
                self._expire()
                continue
            self._study.pruner = make_pruner(
                self._settings, epochs=self._epochs(), looks=self._trainer.looks
            )
            self._one()
        if counted >= self._settings.trials:
            drop_retries(self._study)
        if until_total and self._settings.pruner == "halving":
            for trial in self._study.get_trials(deepcopy=False, states=(TrialState.PRUNED,)):
                candidate = TrialAttrs(trial).drawn() if "stopped" in TrialAttrs(trial) else None
                if candidate is not None:
                    drop_checkpoints(self._checkpoint_for(candidate))
        self._display.study(min(counted, self._settings.trials), best=self._best())

    def check_wanted(self) -> None:
        """Raise KeyboardInterrupt where the work is to end."""
        interrupt.check()
        if not self._wanted():
            raise KeyboardInterrupt

    def _continue_one(self, *, finish: bool) -> bool:
        """Queue a stopped trial that may be continued; whether there was one. See `pruning`.

        Args:
            finish: nothing else is left to do: a study in which no candidate has come to its end
                takes its best one there.
        """
        epochs = self._epochs()
        if self._settings.pruner != "halving" or epochs is None:
            return False
        found = next_to_continue(
            self._study,
            epochs=epochs,
            looks=self._trainer.looks,
            minimize=self._stored.minimize,
            finish=finish and self._best() is None,
        )
        if found is None:
            return False
        trial, past = found
        queue_continued(self._study, trial, past=past)
        return True

    def _tally(self) -> tuple[int, int, int]:
        """How many trials are counted, run by anybody, and wait."""
        states = [trial.state for trial in current(self._study.get_trials(deepcopy=False))]
        counted = states.count(TrialState.COMPLETE) + states.count(TrialState.PRUNED)
        return counted, states.count(TrialState.RUNNING), states.count(TrialState.WAITING)

    def _expire(self) -> None:
        fail_dead_trials(self._study, note=self._display.note)
        expire(self._study)

    def _one(self) -> None:
        """One trial, and its end: what is stored of it, and whether it is tried again."""
        self._current, self._checkpoint = None, None
        try:
            expire(self._study)
            trial = ask(self._study)
            with beating(self._study, trial):
                values, state, error = self._outcome(trial)
            self._tell(trial, values, state)
            if error is not None:
                raise error
        except (StorageInternalError, SQLAlchemyError):
            raise  # nothing can be stored: whoever resumes the study finds the trial
        except BaseException:
            self._release()
            raise
        if self._current is not None:
            self._after(self._trial(self._current))

    def _outcome(
        self, trial: optuna.Trial
    ) -> tuple[tuple[float, ...] | None, TrialState, BaseException | None]:
        """How a trial ended: its values, its state, and what ends the study with it."""
        try:
            return self._objective(trial), TrialState.COMPLETE, None
        except optuna.TrialPruned:
            return None, TrialState.PRUNED, None
        except _Dropped:
            return None, TrialState.FAIL, None
        except (StorageInternalError, SQLAlchemyError):
            raise
        except BaseException as error:
            again = isinstance(error, Machine) and not isinstance(error, PdsearchError)
            if not self._lost(trial):
                if isinstance(error, KeyboardInterrupt):
                    TrialAttrs(trial).reason = INTERRUPTED
                elif again:
                    reason = f"{type(error).__name__}: {first_line(error)}"[:500]
                    TrialAttrs(trial).write(status="failed", reason=reason)
            return None, TrialState.FAIL, None if again else error

    def _tell(
        self, trial: optuna.Trial, values: tuple[float, ...] | None, state: TrialState
    ) -> None:
        """Store how a trial ended, unless it was given to somebody else.

        As it is where this process was stopped (or cut off) longer than the grace period: the trial
        is tried again from its checkpoint.
        """
        if not self._lost(trial):
            try:
                self._study.tell(trial, values, state=state)
                return
            except (ValueError, UpdateFinishedTrialError):
                if not self._lost(trial):
                    raise
        if state != TrialState.FAIL:
            self._display.note(f"trial {trial.number} was given to another process meanwhile")
        self._current = None

    def _trial(self, number: int) -> FrozenTrial:
        """A trial as it is stored now, by its number in the storage."""
        return StoredTrial(self._study, number).read()

    def _after(self, trial: FrozenTrial) -> None:
        attrs = TrialAttrs(trial)
        if trial.state in ENDED:
            self._given_up = 0
            # One that was stopped may be continued from there.
            if self._checkpoint is not None and "stopped" not in attrs:
                drop_checkpoints(self._checkpoint)
        elif attrs.status == "failed" and not requeue(self._study, trial):
            self._given_up += 1
            if attrs.fixed or self._given_up >= GIVEN_UP:
                raise hopeless(trial)
        rows = self._stored.trials()
        row = next((row for row in rows if row.number == trial.number), None)
        if row is not None:
            best = best_of(rows, minimize=self._stored.minimize)
            done = counts_of(rows)["total"]
            self._display.end(row, done=done, best=best.value if best else None)

    def _release(self) -> None:
        """Give an interrupted trial back to the queue, whatever state it is in."""
        if self._current is not None:
            trial = self._trial(self._current)
            if trial.state == TrialState.FAIL:
                requeue(self._study, trial, released=True)
        fail_dead_trials(self._study, mine=True)

    def _best(self) -> float | None:
        best = self._stored.best()
        return best.value if best else None

    def _epochs(self) -> int | None:
        """Epochs of a whole trial: the trainer's word, or what the baseline took."""
        if self._trainer.epochs is not None:
            return self._trainer.epochs
        if self._seen_epochs is not None:
            return self._seen_epochs
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            if TrialAttrs(trial).fixed and trial.intermediate_values:
                self._seen_epochs = max(trial.intermediate_values)
                break
        return self._seen_epochs

    # ---------------------------------------------------------------------------------- one trial

    def _sign(self, study: "optuna.Study", trial: FrozenTrial) -> None:
        """Write whose trial it is: what tells a dead process's trials from a live one's."""
        self._current = trial_id(trial)
        TrialAttrs(StoredTrial(study, trial)).owner = self._owner.to_dict()

    def _objective(self, trial: optuna.Trial) -> tuple[float, ...]:
        began = time.monotonic()
        try:
            if is_surplus(self._study, trial, total=self._settings.trials):
                TrialAttrs(trial).status = "surplus"
                raise _Dropped
            try:
                return self._attempt(trial)
            finally:
                if not self._lost(trial):
                    TrialAttrs(trial).seconds = time.monotonic() - began
        except UpdateFinishedTrialError:
            raise _Dropped from None

    def _lost(self, trial: optuna.Trial) -> bool:
        return self._trial(trial_id(trial)).state != TrialState.RUNNING

    def _attempt(self, trial: optuna.Trial) -> tuple[float, ...]:
        attrs = TrialAttrs(trial)
        candidate = attrs.drawn() or self._draw(trial)
        if "kind" not in attrs:
            attrs.kind = "candidate"
        if not attrs.fixed and "criteria" not in attrs:
            self._gate(trial, candidate)
        if "continues" not in attrs:
            trials = current(self._study.get_trials(deepcopy=False))
            twin = twin_of(candidate, trials, self._shapes, finished=attrs.fixed)
            if twin is not None:
                return share(trial, twin)
        return self._train(trial, candidate)

    def _draw(self, trial: optuna.Trial) -> Candidate:
        enqueued = self._trial(trial_id(trial)).system_attrs.get(ENQUEUED)
        if enqueued is not None and (why := refusal(enqueued, self._searched)):
            TrialAttrs(trial).reason = why
            raise _Dropped
        candidate = suggest(
            trial,
            self._searched,
            flat=self._settings.sampler == "nsga2",
            spaces=widened(self._spaces, self._searched, enqueued or {}),
        )
        TrialAttrs(trial).candidate = candidate.to_dict()
        return candidate

    def _gate(self, trial: optuna.Trial, candidate: Candidate) -> None:
        """End a candidate that fails a required criterion before it costs anything."""
        criteria = self._stored.settings.criteria
        settled = self._gates.get(candidate.family.name, FamilyGate())
        with interrupt.exposed():
            report = gate(
                candidate,
                profile=criteria.profile,
                thresholds=criteria.bounds(),
                extra=self._extra,
                known=settled.known,
            )
        TrialAttrs(trial).criteria = report.to_dict()
        failed = [entry.name for entry in report.criteria if entry.required and not entry.passed]
        if self._settings.sampler in ("tpe", "nsga2"):
            # They can tell "not allowed" from "not good"; CMA-ES warns, GP never sees these trials.
            trial.set_constraint("criteria", float(len(failed)))
        if failed:
            raise pruned(trial, "ruled_out", f"does not hold: {', '.join(failed)}")

    def _train(self, trial: optuna.Trial, candidate: Candidate) -> tuple[float, ...]:
        self._checkpoint = self._checkpoint_for(candidate)
        self._checkpoint.parent.mkdir(parents=True, exist_ok=True)
        epochs = self._epochs()
        self._display.begin(candidate.name, epochs=epochs, unit=self._trainer.unit)
        training = _Training(self, trial, epochs=epochs)
        with interrupt.exposed():
            outcome = self._trainer(
                candidate,
                seed=self._settings.seed,
                on_step=interrupt.deferring(training.on_step),
                on_batch=self._on_batch,
                checkpoint=self._checkpoint,
            )
        if outcome.diverged is not None:
            raise pruned(trial, "diverged", outcome.diverged)
        if outcome.learning_rate is not None:
            TrialAttrs(trial).learning_rate = outcome.learning_rate
        TrialAttrs(trial).status = "complete"
        return outcome.values

    def _on_batch(self, done: int, total: int) -> None:
        self.check_wanted()
        self._display.batch(done, total)

    def _checkpoint_for(self, candidate: Candidate) -> Path:
        folder = self._stored.output / "checkpoints"
        return checkpoint_path(folder, candidate, seed=self._settings.seed)

    def _look_for_help(self, seconds: float, step: int, last: int) -> None:
        """Have further workers started once it is known that the study is long enough for them."""
        counted, running, _ = self._tally()
        trials = self._settings.trials - counted - running
        assert self._recruit is not None
        if trials > 0 and self._recruit(seconds * (last - step + trials * last), trials):
            self._recruit = None


class _Training:
    """A trial that trains: what is stored of each step, and whether it continues after it.

    Args:
        session: whose trial it is.
        trial: Optuna's.
        epochs: of a whole trial; None where that is not known yet.
    """

    def __init__(self, session: Session, trial: optuna.Trial, *, epochs: int | None) -> None:
        self._session, self._trial = session, trial
        self._trainer, self._settings = session._trainer, session._settings
        attrs = TrialAttrs(trial)
        self._fixed, self._past = attrs.fixed, attrs.past or 0
        self._reported = set(session._trial(trial_id(trial)).intermediate_values)
        self._kept: dict[str, list[dict[str, Any]]] = {"epochs": [], "looks": []}
        self._last = None if epochs is None else epochs * self._trainer.looks
        self._rungs: tuple[int, ...] = ()
        if self._settings.pruner == "halving" and epochs is not None and not self._fixed:
            self._rungs = rung_steps(epochs=epochs, looks=self._trainer.looks)
        self._minimize = session._stored.minimize
        self._began = time.monotonic()

    def on_step(self, at: Reached) -> None:
        """Store what a step came to.

        Raises:
            optuna.TrialPruned: the trial ends here.
            KeyboardInterrupt: the work is to end.
        """
        session, trial = self._session, self._trial
        session.check_wanted()
        if session._recruit is not None and self._last is not None:
            seconds = (time.monotonic() - self._began) / at.step
            session._look_for_help(seconds, at.step, self._last)
        # A process that was stopped past the grace period learns here that it lost its trial.
        if session._lost(trial):
            raise _Dropped
        epoch = at.step / self._trainer.looks
        if at.most is not None:
            self._hope(at.most, epoch)
            return
        if at.record is not None:
            key = "epochs" if at.whole else "looks"
            self._kept[key].append({**at.record, "value": at.value})
            TrialAttrs(trial).write(**{key: self._kept[key]})
            session._display.epoch(epoch, at.value)
        if len(self._settings.objectives) == 1:
            self._compare(at, epoch)

    def _hope(self, most: float, epoch: float) -> None:
        """End a candidate whose prediction stays below the best."""
        best = self._session._best()
        prunes = self._settings.pruner != "none" and len(self._settings.objectives) == 1
        hopeful = best is None or most >= best
        if prunes and not self._fixed and not hopeful:
            why = f"pruned after {self._trainer.unit} {epoch:.3g}: predicted to stay below"
            raise pruned(self._trial, "pruned", f"{why} {best:.4f}")

    def _compare(self, at: Reached, epoch: float) -> None:
        """Report a step's value to the pruner, and end a trial that is not good enough."""
        trial, unit = self._trial, self._trainer.unit
        if at.step not in self._reported:  # before it was stopped
            trial.report(at.standing, at.step)
        # The baseline and the references are never pruned, but asking writes their values into the
        # rungs, so that candidates are measured against them.
        over = self._fixed or at.step == self._last
        mine = (self._session._study, trial.number, at.step, at.standing)
        if trial.should_prune() and not over and not leads(*mine, minimize=self._minimize):
            raise pruned(trial, "pruned", f"pruned after {unit} {epoch:.3g}")
        due = at.step in self._rungs and at.step > self._past
        if due and not earns(*mine, minimize=self._minimize):
            TrialAttrs(trial).stopped = at.step
            raise pruned(trial, "pruned", f"stopped after {unit} {epoch:.3g}")
