"""The trainer on images, by `pdsearch.trial`: each learning rate, each length of a horizon."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pdsearch.family import Candidate
from pdsearch.plain import plain
from pdsearch.study.horizon import noise, weights
from pdsearch.study.settings import StudyFile
from pdsearch.study.trainer import OnBatch, OnStep, Outcome, Reached

if TYPE_CHECKING:
    from pdsearch.data import Dataset
    from pdsearch.trial import RateSearch, TrialResult

WORST_LOSS = 1e9
"""In nats, for what has no loss to be compared by: worse than any, and finite, for a percentile of
infinities is no number."""

LOOKS = 4
"""Looks within the first epoch where halving may prune and the study file names no number."""

BATCHES_A_LOOK = 10
"""Batches that each of them has at least. Over 16 shapes (AlexNet, 10 000 images of CIFAR-10,
batches of 256, one-cycle, 6 epochs) the rank correlation of the negated validation loss with the
final accuracy was -0.55 after 6 batches, 0.75 after 8, 0.86 after 10 and 0.90 after 12."""


class ImageTrainer:
    """Trains by `pdsearch.trial` on the study's model and data set."""

    def __init__(
        self,
        settings: StudyFile,
        dataset: "Dataset",
        *,
        device: str,
        threads: int | None,
        source: str | None = None,
    ) -> None:
        """Take what the model's file held when the study began; None: what it holds now."""
        import torch

        from pdsearch.models import source_digest
        from pdsearch.trial import resolve_device

        self._settings = settings
        self._dataset = dataset
        self._device = device
        self._threads = threads
        self._legs = settings.legs
        self.epochs: int | None = sum(self._legs) * max(1, len(settings.trial.learning_rates))
        self.unit = settings.trial.unit
        self.looks = looks_of(settings, images=len(dataset.train_labels))
        # A study that was deleted, or an older torch, may have left checkpoints of the same name
        # behind: what they were made with is part of it.
        self._source = source or source_digest(settings.trial.model, directory=settings.directory)
        made_with = [
            settings.trial.model_dump(mode="json"),
            self._source,
            dataset.fingerprint,
            str(torch.__version__),
            resolve_device(device).type,
        ]
        text = json.dumps(made_with, sort_keys=True)
        self._made_with = hashlib.sha256(text.encode()).hexdigest()[:8]

    def __call__(
        self,
        candidate: Candidate,
        *,
        seed: int,
        on_step: OnStep,
        on_batch: OnBatch,
        checkpoint: Path | None,
    ) -> Outcome:
        """Train at the study's learning rate, or at each of several, the best counting.

        With a horizon it does so for each length, and what counts is predicted from all of them.
        """
        if checkpoint is not None:
            checkpoint = checkpoint.with_stem(f"{checkpoint.stem}-{self._made_with}")
        legs: list[_Leg] = []
        for length in self._legs:
            leg = _Leg(self._settings, length, legs, looks=self.looks, on_step=on_step)
            legs.append(leg)
            file = checkpoint
            if checkpoint is not None and len(self._legs) > 1:
                file = checkpoint.with_stem(f"{checkpoint.stem}-{length}")
            found = leg.train(
                candidate,
                self._dataset,
                seed=seed,
                device=self._device,
                threads=self._threads,
                on_batch=on_batch,
                checkpoint=file,
                save_last=len(legs) < len(self._legs),
                model_source=self._source,
                directory=self._settings.directory,
            )
            if found.best.diverged is not None:
                return Outcome((math.nan,), diverged=found.best.diverged)
            if 1 < len(legs) < len(self._legs):
                on_step(self._hope(legs))
        values = legs[-1].predicted()
        rate = max(values, key=lambda one: values[one])
        if not math.isfinite(values[rate]):
            return Outcome((math.nan,), diverged="every learning rate diverged at some length")
        result = found.results[rate]
        return Outcome(
            tuple(
                values[rate] if name == "accuracy" else self._objective(name, result)
                for name in self._settings.study.objectives
            ),
            learning_rate=rate if self._settings.trial.learning_rates else None,
        )

    def _objective(self, name: str, result: Any) -> float:
        if name == "dead_units":
            dead = list(result.epochs[-1].dead.values())
            return float(sum(dead) / len(dead)) if dead else 0.0
        return float(result.kept_bytes)

    def tie_margin(self, best: float) -> float:
        """One standard error of the difference of two such values, as if independent."""
        return self._error(best, self._legs)

    def _error(self, value: float, lengths: Sequence[int]) -> float:
        """The same for values that are predicted from some of a trial's lengths."""
        share = min(max(value, 0.0), 1.0)
        stream = self._settings.trial.stream
        if stream is not None:
            images = float(stream.images * stream.last)
        else:
            images = max(1.0, self._settings.trial.validation * len(self._dataset.train_labels))
        horizon = self._settings.study.horizon
        larger = 1.0 if horizon is None else noise(lengths, horizon=horizon)
        return larger * math.sqrt(2 * share * (1 - share) / images)

    def _hope(self, legs: Sequence["_Leg"]) -> Reached:
        """What a candidate may come to, as far as its lengths tell."""
        predicted = max(legs[-1].predicted().values())
        error = self._error(predicted, [leg.length for leg in legs])
        step = legs[-1].end * self.looks
        return Reached(step, predicted, predicted, None, most=predicted + 2 * error)


class _Leg:
    """One length of a trial's training, at each of its learning rates; the usual trial has one."""

    def __init__(
        self,
        settings: StudyFile,
        length: int,
        before: Sequence["_Leg"],
        *,
        looks: int,
        on_step: OnStep,
    ) -> None:
        self._study, self._looks, self._on_step = settings.study, looks, on_step
        self._settings = settings.trial
        if settings.study.horizon is not None:
            self._settings = settings.trial.model_copy(update={"epochs": length})
        self.length = length
        self._rates = self._settings.learning_rates or (self._settings.learning_rate,)
        self._before = tuple(before)
        self._begin = sum(leg.length for leg in before) * len(self._rates)  # epochs
        self._found: RateSearch | None = None

    def train(self, candidate: Candidate, dataset: "Dataset", **options: Any) -> "RateSearch":
        """Train at each rate, telling of each step; see `run_over_learning_rates`."""
        from pdsearch.trial import EpochRecord, Look, run_over_learning_rates, value_of

        settings, rates = self._settings, self._rates
        by_loss = self._study.compares == "loss"
        # Over several rates a candidate is as good as its best so far: all take them in the same
        # order, so that values at one step compare. One that diverged on its way counts no longer.
        nothing = 0.0, -WORST_LOSS if by_loss else 0.0
        best: dict[float, tuple[int, float, float]] = {}  # epochs, value and standing by rate
        reports: dict[float, list[float]] = {}  # accuracies of its epochs by rate
        reached = self._begin * self._looks  # the last step that was reported
        looks = self._looks

        def standing(accuracy: float, loss: float | None) -> float:
            if not by_loss:
                return accuracy
            return -WORST_LOSS if loss is None or math.isnan(loss) else -loss

        def so_far(rate: float) -> tuple[float, float]:
            counting = [
                entry[1:]
                for other, entry in best.items()
                if other == rate or entry[0] == settings.rounds
            ]
            value, stands = (max(column) for column in zip(nothing, *counting, strict=True))
            return value, stands

        def on_epoch(rate: float, record: EpochRecord) -> None:
            nonlocal reached
            epoch = self._begin + rates.index(rate) * settings.rounds + record.epoch
            accuracies = reports.setdefault(rate, [])
            accuracies.append(record.accuracy)
            worth = value_of(accuracies, settings)
            value, stands = so_far(rate)
            # The steps of a rate that diverged pass with what the others came to, so that a pruner
            # asks of everyone at every step.
            for step in _steps(reached, epoch * looks, looks=looks):
                reached = step
                self._on_step(Reached(step, value, stands, None))
            reached = epoch * looks
            best[rate] = (
                record.epoch,
                worth,
                standing(worth, record.evaluation_loss),
            )
            entry = {**plain(asdict(record)), "epoch": epoch}
            if record.diagnostics is None:
                del entry["diagnostics"]
            self._on_step(Reached(reached, *so_far(rate), entry))

        def looked(look: Look) -> None:
            nonlocal reached
            reached = look.number
            entry = {**plain(asdict(look)), "of": looks}
            stands = standing(look.accuracy, look.loss)
            self._on_step(Reached(look.number, look.accuracy, stands, entry, whole=False))

        self._found = run_over_learning_rates(
            candidate,
            settings,
            dataset,
            on_epoch=on_epoch,
            looks=1 if self._before else looks,
            on_look=looked,
            **options,
        )
        return self._found

    def predicted(self) -> dict[float, float]:
        """By learning rate, the value that counts; minus infinity where it diverged."""
        legs = (*self._before, self)
        horizon = self._study.horizon
        shares = (
            (1.0,) if horizon is None else weights([leg.length for leg in legs], horizon=horizon)
        )
        found = {}
        for rate in self._rates:
            results = [leg._result(rate) for leg in legs]
            whole = not any(result.diverged for result in results)
            # A weight may be negative: what diverged must not count for the candidate.
            found[rate] = (
                sum(share * result.value for share, result in zip(shares, results, strict=True))
                if whole
                else -math.inf
            )
        return found

    @property
    def end(self) -> int:
        """Epochs of the trial up to its end, over all rates."""
        return self._begin + self._settings.rounds * len(self._rates)

    def _result(self, rate: float) -> "TrialResult":
        assert self._found is not None
        return self._found.results[rate]


def looks_of(settings: StudyFile, *, images: int) -> int:
    """Steps of an epoch for the pruner: the study file's `looks`, or what halving is worth.

    Args:
        settings: of the study.
        images: of the training set, those held back included.
    """
    study, trial = settings.study, settings.trial
    if trial.stream is not None:
        return 1  # how the first task begins says nothing of the last ones
    if study.looks is not None or study.pruner != "halving":
        return study.looks or 1
    batches = int(images * (1 - trial.validation)) // trial.batch_size
    return max(1, min(LOOKS, batches // BATCHES_A_LOOK))


def _steps(after: int, before: int, *, looks: int) -> list[int]:
    """The steps between two that a run over its epochs would have reported."""
    return [step for step in range(after + 1, before) if step < looks or step % looks == 0]
