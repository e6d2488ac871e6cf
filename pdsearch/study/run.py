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
from pdsearch.errors import PdsearchError
from pdsearch.family import Candidate, Family
from pdsearch.study.added import check_added, refusal, widened
from pdsearch.study.innards import ENQUEUED, ask, beating, expire, storage_of, trial_id
from pdsearch.study.kept import PREFIX
from pdsearch.study.owner import Owner
from pdsearch.study.progress import Display
from pdsearch.study.queue import (
    CONTINUES,
    INTERRUPTED,
    current,
    drop_retries,
    fail_dead_trials,
    requeue,
    take_up,
)
from pdsearch.study.rows import best_of, candidate_from, counts_of
from pdsearch.study.rungs import rung_steps
from pdsearch.study.sharing import pruned, share, twin_of
from pdsearch.study.space import (
    FIXED,
    CandidateSampler,
    make_pruner,
    offered,
    suggest,
)
from pdsearch.study.standing import check_fixed, earns, hopeless, is_surplus, leads, next_to_go_on
from pdsearch.study.stored import StoredStudy
from pdsearch.study.train import Reached, Trainer, checkpoint_path, drop_checkpoints
from pdsearch.study.twins import Shape
from pdsearch.text import first_line

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
        wanted: whether to go on, asked between epochs and trials: False once an interruption came
            or the process that started this one ended.
        extra_criteria: of one's own, beside the required ones.
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
            name: stored.families[name] for name in stored.study.user_attrs[PREFIX + "searched"]
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
        """Runs trials until the study's total is reached.

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
            if self._goes_on(finish=counted >= self._settings.trials and not running + waiting):
                self._one()
                continue
            if counted >= self._settings.trials:
                break
            if counted + running >= self._settings.trials and not (waiting and not running):
                # By halving, what runs may yet earn another its going on.
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
                if PREFIX + "stopped" in trial.user_attrs:
                    candidate = candidate_from(trial.user_attrs[PREFIX + "candidate"])
                    drop_checkpoints(self._checkpoint_for(candidate))
        self._display.study(min(counted, self._settings.trials), best=self._best())

    def check_wanted(self) -> None:
        """Raises KeyboardInterrupt where the work is to end."""
        interrupt.check()
        if not self._wanted():
            raise KeyboardInterrupt

    def _goes_on(self, *, finish: bool) -> bool:
        """Queues a stopped trial that may go on; whether there was one. See `rungs`.

        Args:
            finish: nothing else is left to do: a study in which no candidate has come to its end
                takes its best one there.
        """
        epochs = self._epochs()
        if self._settings.pruner != "halving" or epochs is None:
            return False
        found = next_to_go_on(
            self._study,
            epochs=epochs,
            looks=self._trainer.looks,
            minimize=self._stored.minimize,
            finish=finish and self._best() is None,
        )
        if found is None:
            return False
        trial, past = found
        take_up(self._study, trial, past=past)
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
            raise  # nothing can be stored: whoever goes on with the study finds the trial
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
                    trial.set_user_attr(PREFIX + "reason", INTERRUPTED)
                elif again:
                    reason = f"{type(error).__name__}: {first_line(error)}"[:500]
                    trial.set_user_attr(PREFIX + "status", "failed")
                    trial.set_user_attr(PREFIX + "reason", reason)
            return None, TrialState.FAIL, None if again else error

    def _tell(
        self, trial: optuna.Trial, values: tuple[float, ...] | None, state: TrialState
    ) -> None:
        """Stores how a trial ended, unless it was given to somebody else.

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
        return storage_of(self._study).get_trial(number)

    def _after(self, trial: FrozenTrial) -> None:
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED):
            self._given_up = 0
            # One that was stopped may go on from there.
            if self._checkpoint is not None and PREFIX + "stopped" not in trial.user_attrs:
                drop_checkpoints(self._checkpoint)
        elif trial.user_attrs.get(PREFIX + "status") == "failed" and not requeue(
            self._study, trial
        ):
            self._given_up += 1
            if trial.user_attrs.get(PREFIX + "kind") in FIXED or self._given_up >= GIVEN_UP:
                raise hopeless(trial)
        rows = self._stored.trials()
        row = next((row for row in rows if row.number == trial.number), None)
        if row is not None:
            best = best_of(rows, minimize=self._stored.minimize)
            done = counts_of(rows)["total"]
            self._display.end(row, done=done, best=best.value if best else None)

    def _release(self) -> None:
        """Gives an interrupted trial back to the queue, whatever state it is in."""
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
            if trial.user_attrs.get(PREFIX + "kind") in FIXED and trial.intermediate_values:
                self._seen_epochs = max(trial.intermediate_values)
                break
        return self._seen_epochs

    # ---------------------------------------------------------------------------------- one trial

    def _sign(self, study: "optuna.Study", trial: FrozenTrial) -> None:
        """Writes whose trial it is: what tells a dead process's trials from a live one's."""
        self._current = trial_id(trial)
        owner = self._owner.to_dict()
        storage_of(study).set_trial_user_attr(self._current, PREFIX + "owner", owner)

    def _objective(self, trial: optuna.Trial) -> tuple[float, ...]:
        began = time.monotonic()
        try:
            if is_surplus(self._study, trial, total=self._settings.trials):
                trial.set_user_attr(PREFIX + "status", "surplus")
                raise _Dropped
            try:
                return self._attempt(trial)
            finally:
                if not self._lost(trial):
                    trial.set_user_attr(PREFIX + "seconds", time.monotonic() - began)
        except UpdateFinishedTrialError:
            raise _Dropped from None

    def _lost(self, trial: optuna.Trial) -> bool:
        return self._trial(trial_id(trial)).state != TrialState.RUNNING

    def _attempt(self, trial: optuna.Trial) -> tuple[float, ...]:
        kind = trial.user_attrs.get(PREFIX + "kind", "candidate")
        kept = trial.user_attrs.get(PREFIX + "candidate")
        if kept is not None:
            candidate = candidate_from(kept)
        else:
            enqueued = self._trial(trial_id(trial)).system_attrs.get(ENQUEUED)
            if enqueued is not None and (why := refusal(enqueued, self._searched)):
                trial.set_user_attr(PREFIX + "reason", why)
                raise _Dropped
            candidate = suggest(
                trial,
                self._searched,
                flat=self._settings.sampler == "nsga2",
                spaces=widened(self._spaces, self._searched, enqueued or {}),
            )
            trial.set_user_attr(PREFIX + "candidate", candidate.to_dict())
        if PREFIX + "kind" not in trial.user_attrs:
            trial.set_user_attr(PREFIX + "kind", kind)
        if kind not in FIXED and PREFIX + "criteria" not in trial.user_attrs:
            self._gate(trial, candidate)
        if CONTINUES not in trial.user_attrs:
            trials = current(self._study.get_trials(deepcopy=False))
            twin = twin_of(candidate, trials, self._shapes, finished=kind in FIXED)
            if twin is not None:
                return share(trial, twin)
        return self._train(trial, candidate, fixed=kind in FIXED)

    def _gate(self, trial: optuna.Trial, candidate: Candidate) -> None:
        """Ends a candidate that fails a required criterion before it costs anything."""
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
        trial.set_user_attr(PREFIX + "criteria", report.to_dict())
        failed = [entry.name for entry in report.criteria if entry.required and not entry.passed]
        if self._settings.sampler in ("tpe", "nsga2"):
            # They can tell "not allowed" from "not good"; CMA-ES warns, GP never sees these trials.
            trial.set_constraint("criteria", float(len(failed)))
        if failed:
            raise pruned(trial, "ruled_out", f"does not hold: {', '.join(failed)}")

    def _train(
        self, trial: optuna.Trial, candidate: Candidate, *, fixed: bool
    ) -> tuple[float, ...]:
        seed = self._settings.seed
        self._checkpoint = self._checkpoint_for(candidate)
        self._checkpoint.parent.mkdir(parents=True, exist_ok=True)
        records: list[dict[str, Any]] = []
        looks: list[dict[str, Any]] = []
        past = trial.user_attrs.get(PREFIX + "past", 0)
        reported = set(self._trial(trial_id(trial)).intermediate_values)
        rungs: tuple[int, ...] = ()
        single = len(self._settings.objectives) == 1
        minimize = self._stored.minimize
        epochs, unit = self._epochs(), self._trainer.unit
        last = None if epochs is None else epochs * self._trainer.looks
        if self._settings.pruner == "halving" and epochs is not None and not fixed:
            rungs = rung_steps(epochs=epochs, looks=self._trainer.looks)
        began = time.monotonic()

        def on_step(at: Reached) -> None:
            self.check_wanted()
            if self._recruit is not None and last is not None:
                self._look_for_help((time.monotonic() - began) / at.step, at.step, last)
            # A process that was stopped past the grace period learns here that it lost its trial.
            if self._lost(trial):
                raise _Dropped
            epoch = at.step / self._trainer.looks
            if at.most is not None:
                best = self._best()
                hopeful = best is None or at.most >= best
                if single and not fixed and not hopeful and self._settings.pruner != "none":
                    why = f"pruned after {unit} {epoch:.3g}: predicted to stay below {best:.4f}"
                    raise pruned(trial, "pruned", why)
                return
            if at.record is not None:
                kept = records if at.whole else looks
                kept.append({**at.record, "value": at.value})
                trial.set_user_attr(PREFIX + ("epochs" if at.whole else "looks"), kept)
                self._display.epoch(epoch, at.value)
            if not single:
                return
            if at.step not in reported:  # before it was stopped
                trial.report(at.standing, at.step)
            # The baseline and the references are never pruned, but asking writes their values into
            # the rungs, so that candidates are measured against them.
            over = fixed or at.step == last
            mine = (self._study, trial.number, at.step, at.standing)
            if trial.should_prune() and not over and not leads(*mine, minimize=minimize):
                raise pruned(trial, "pruned", f"pruned after {unit} {epoch:.3g}")
            if at.step in rungs and at.step > past and not earns(*mine, minimize=minimize):
                trial.set_user_attr(PREFIX + "stopped", at.step)
                raise pruned(trial, "pruned", f"stopped after {unit} {epoch:.3g}")

        self._display.begin(candidate.name, epochs=epochs, unit=unit)
        with interrupt.exposed():
            outcome = self._trainer(
                candidate,
                seed=seed,
                on_step=interrupt.deferring(on_step),
                on_batch=self._on_batch,
                checkpoint=self._checkpoint,
            )
        if outcome.diverged is not None:
            raise pruned(trial, "diverged", outcome.diverged)
        if outcome.learning_rate is not None:
            trial.set_user_attr(PREFIX + "learning_rate", outcome.learning_rate)
        trial.set_user_attr(PREFIX + "status", "complete")
        return outcome.values

    def _on_batch(self, done: int, total: int) -> None:
        self.check_wanted()
        self._display.batch(done, total)

    def _checkpoint_for(self, candidate: Candidate) -> Path:
        folder = self._stored.output / "checkpoints"
        return checkpoint_path(folder, candidate, seed=self._settings.seed)

    def _look_for_help(self, seconds: float, step: int, last: int) -> None:
        """Has further workers started once it is known that the study is long enough for them."""
        counted, running, _ = self._tally()
        trials = self._settings.trials - counted - running
        assert self._recruit is not None
        if trials > 0 and self._recruit(seconds * (last - step + trials * last), trials):
            self._recruit = None
