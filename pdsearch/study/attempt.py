"""One trial: draw a candidate, gate it, share a twin's result or train it, and stop it early."""

import contextlib
import functools
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from pdsearch import interrupt
from pdsearch.criteria import FamilyGate, Report, gate
from pdsearch.family import Drawn, Grouped, Range, parts_of
from pdsearch.study.attributes import TrialAttrs
from pdsearch.study.families import Groups, all_families, offered, refusal, suggest
from pdsearch.study.innards import ENQUEUED, StoredTrial, as_asked
from pdsearch.study.progress import Display
from pdsearch.study.pruning import earns, leads, rung_steps
from pdsearch.study.queue import current, is_surplus
from pdsearch.study.rows import gated
from pdsearch.study.stored import StoredStudy
from pdsearch.study.trainer import Reached, Trainer
from pdsearch.study.twins import Curves, pruned, share, twin_of


class Dropped(Exception):
    """A trial ended without a result: it is surplus, another process has it, or it is invalid."""


def lost(study: optuna.Study, trial: optuna.Trial) -> bool:
    """Whether another process has ended a trial, because this one was silent for too long."""
    return StoredTrial(study, trial).state() != TrialState.RUNNING


@dataclass(frozen=True, kw_only=True)
class Context:
    """What the trials of a process share.

    `progressed(seconds, step, last)` is called after each step, with the seconds per step and the
    number of the last step.
    """

    stored: StoredStudy
    trainer: Trainer
    display: Display
    wanted: Callable[[], bool]  # False once the process that started this one has ended
    progressed: Callable[[float, int, int], None]
    extra_criteria: tuple[Callable[..., Any], ...]  # custom ones, in addition to the required ones
    curves: dict[int, Curves] = field(default_factory=dict)  # compared before, by trial number

    @functools.cached_property
    def groups(self) -> Groups:
        """The families that candidates are drawn from, for each group of layers."""
        attrs = self.stored.attrs
        named = attrs.groups or {"": attrs.searched or []}
        families = self.stored.families
        return {group: {name: families[name] for name in own} for group, own in named.items()}

    @functools.cached_property
    def gates(self) -> dict[str, FamilyGate]:
        """What was decided for whole families, by name."""
        return self.stored.gates

    @functools.cached_property
    def spaces(self) -> dict[str, dict[str, Range]]:
        """The distributions that candidates are drawn from, by family."""
        return {
            name: offered(family, self.gates.get(name))
            for name, family in all_families(self.groups).items()
        }

    @functools.cached_property
    def halving(self) -> bool:
        """Whether trials stop at rungs, and may continue later."""
        return self.stored.settings.study.pruner == "halving"

    def check_wanted(self) -> None:
        """Raise KeyboardInterrupt if the work must end."""
        interrupt.check()
        if not self.wanted():
            raise KeyboardInterrupt

    def checkpoint_for(self, candidate: Drawn, *, seed: int) -> Path:
        """Return where a candidate's training at a seed is kept until it is finished."""
        text = json.dumps(candidate.to_dict(), sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        stem = "groups" if isinstance(candidate, Grouped) else candidate.family.name
        name = f"{stem}-{digest}-{seed}.safetensors"
        return self.stored.output / "checkpoints" / name

    def best(self) -> float | None:
        """Return the best candidate's value; None if there is none."""
        best = self.stored.best()
        return best.value if best else None


class Attempt:
    """A running trial; `epochs` are those of a whole one, None if still unknown."""

    def __init__(self, context: Context, trial: optuna.Trial, *, epochs: int | None) -> None:
        self._context, self._trial, self._attrs = context, trial, TrialAttrs(trial)
        self._study, self._settings = context.stored.study, context.stored.settings.study
        self._trainer = context.trainer
        self._minimize = context.stored.minimize
        self._fixed, self._past = self._attrs.fixed, self._attrs.past or 0
        self._given = as_asked(trial)
        self._others = self._study.get_trials(deepcopy=False)  # when this one began
        self._reported = set(self._given.intermediate_values)
        self._epochs, looks = epochs, self._trainer.looks
        self._last = None if epochs is None else epochs * looks
        self._rungs: tuple[int, ...] = ()
        if context.halving and epochs is not None and not self._fixed:
            self._rungs = rung_steps(epochs=epochs, looks=looks)
        self._kept: dict[str, list[dict[str, Any]]] = {"epochs": [], "looks": []}
        self._began = time.monotonic()
        self.checkpoint: Path | None = None  # until training begins

    def run(self) -> tuple[float, ...]:
        """Run the trial; return its values.

        Raises:
            optuna.TrialPruned: it ended early.
            Dropped: it ended without a result.
        """
        try:
            if is_surplus(self._trial, self._others, total=self._settings.trials):
                self._attrs.status = "surplus"
                raise Dropped
            try:
                return self._values()
            finally:
                with contextlib.suppress(UpdateFinishedTrialError):  # another process has it
                    self._attrs.seconds = time.monotonic() - self._began
        except UpdateFinishedTrialError:
            raise Dropped from None

    def _values(self) -> tuple[float, ...]:
        attrs = self._attrs
        candidate = attrs.drawn() or self._draw()
        if "kind" not in attrs:
            attrs.kind = "candidate"
        if not self._fixed and "criteria" not in attrs:
            self._gate(candidate)
        if "continues" not in attrs:
            trials = current(self._others)
            twin = twin_of(candidate, trials, self._context.curves, finished=self._fixed)
            if twin is not None:
                return share(self._trial, twin)
        return self._train(candidate)

    def _draw(self) -> Drawn:
        groups = self._context.groups
        enqueued = self._given.system_attrs.get(ENQUEUED)
        if enqueued is not None and (why := refusal(enqueued, groups)):
            self._attrs.reason = why
            raise Dropped
        candidate = suggest(
            self._trial,
            groups,
            self._settings.layers,
            self._context.spaces,
            flat=self._settings.sampler == "nsga2",
            enqueued=enqueued or {},
        )
        self._attrs.candidate = candidate.to_dict()
        return candidate

    def _gate(self, candidate: Drawn) -> None:
        """End the trial of a candidate that fails a required criterion, before it is trained.

        With groups, that is one that any group's candidate fails.
        """
        criteria = self._context.stored.settings.criteria
        reports: dict[str, Report] = {}
        with interrupt.exposed():
            for group, part in parts_of(candidate).items():
                reports[group] = gate(
                    part,
                    profile=criteria.profile,
                    thresholds=criteria.bounds(),
                    extra=self._context.extra_criteria,
                    known=self._context.gates.get(part.family.name, FamilyGate()).known,
                )
        self._attrs.criteria = found = gated(candidate, reports)
        failed = [one["name"] for one in found["criteria"] if one["required"] and not one["passed"]]
        if self._settings.sampler in ("tpe", "nsga2"):
            # They tell "not allowed" from "not good"; CMA-ES warns, GP never sees these trials.
            self._trial.set_constraint("criteria", float(len(failed)))
        if failed:
            raise pruned(self._trial, "ruled_out", f"does not hold: {', '.join(failed)}")

    # ----------------------------------------------------------------------------------- training

    def _train(self, candidate: Drawn) -> tuple[float, ...]:
        trainer, display = self._trainer, self._context.display
        self.checkpoint = self._context.checkpoint_for(candidate, seed=self._settings.seed)
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        display.begin(candidate.name, epochs=self._epochs, unit=trainer.unit)
        self._training_began = time.monotonic()
        with interrupt.exposed():
            outcome = trainer(
                candidate,
                seed=self._settings.seed,
                on_step=interrupt.deferring(self._on_step),
                on_batch=self._on_batch,
                checkpoint=self.checkpoint,
            )
        if outcome.diverged is not None:
            raise pruned(self._trial, "diverged", outcome.diverged)
        if outcome.learning_rate is not None:
            self._attrs.learning_rate = outcome.learning_rate
        self._attrs.status = "complete"
        return outcome.values

    def _on_batch(self, done: int, total: int) -> None:
        self._context.check_wanted()
        self._context.display.batch(done, total)

    def _on_step(self, at: Reached) -> None:
        """Store a step's result, and decide whether the trial continues.

        Raises:
            optuna.TrialPruned: it ends here.
            KeyboardInterrupt: the work must end.
        """
        self._context.check_wanted()
        if self._last is not None:
            seconds = (time.monotonic() - self._training_began) / at.step
            self._context.progressed(seconds, at.step, self._last)
        if lost(self._study, self._trial):
            raise Dropped
        epoch = at.step / self._trainer.looks
        if at.most is not None:
            self._compare_prediction(at.most, epoch)
            return
        if at.record is not None:
            key = "epochs" if at.whole else "looks"
            self._kept[key].append({**at.record, "value": at.value})
            self._attrs.write(**{key: self._kept[key]})
            self._context.display.epoch(epoch, at.value)
        if len(self._settings.objectives) == 1:
            self._compare(at, epoch)

    def _compare_prediction(self, most: float, epoch: float) -> None:
        """End the trial of a candidate that is predicted to stay below the best."""
        prunes = self._settings.pruner != "none" and len(self._settings.objectives) == 1
        if not prunes or self._fixed:
            return
        best = self._context.best()
        if best is not None and not most >= best:
            why = f"pruned after {self._trainer.unit} {epoch:.3g}: predicted to stay below"
            raise pruned(self._trial, "pruned", f"{why} {best:.4f}")

    def _compare(self, at: Reached, epoch: float) -> None:
        """Report a step's value to the pruner, and end the trial if it is not good enough."""
        trial, unit = self._trial, self._trainer.unit
        if at.step not in self._reported:  # by the stopped trial that this one continues
            trial.report(at.standing, at.step)
        # The baseline and the references are never pruned. But asking writes their values into the
        # pruner's rungs, which candidates are compared with.
        over = self._fixed or at.step == self._last
        mine = (self._study, trial.number, at.step, at.standing)
        if trial.should_prune() and not over and not leads(*mine, minimize=self._minimize):
            raise pruned(trial, "pruned", f"pruned after {unit} {epoch:.3g}")
        due = at.step in self._rungs and at.step > self._past
        if due and not earns(*mine, minimize=self._minimize):
            self._attrs.stopped = at.step
            raise pruned(trial, "pruned", f"stopped after {unit} {epoch:.3g}")
