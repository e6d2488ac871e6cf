"""The trainer on images: each learning rate, and each length that a horizon needs."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import pdsearch.trial
from pdsearch.data import Dataset
from pdsearch.family import Drawn
from pdsearch.models import source_digest
from pdsearch.plain import plain
from pdsearch.study.horizon import noise, weights
from pdsearch.study.settings import StudyFile
from pdsearch.study.trainer import OnBatch, OnStep, Outcome, Reached
from pdsearch.trial import EpochRecord, Look, RateSearch, TrialResult, value_of

WORST_LOSS = 1e9
"""The loss, in nats, of a run without a comparable one: worse than any, but finite, because a
percentile of infinities is not a number."""

LOOKS = 4
"""Default number of looks within the first epoch with halving."""

BATCHES_A_LOOK = 10
"""Least number of batches between two looks. Over 16 shapes (AlexNet, 10 000 images of CIFAR-10,
batches of 256, one-cycle, 6 epochs) the rank correlation of the negated validation loss with the
final accuracy was -0.55 after 6 batches, 0.75 after 8, 0.86 after 10 and 0.90 after 12."""


class ImageTrainer:
    """Trains on the study's data set and model, whose file held `source` when the study began."""

    def __init__(
        self,
        settings: StudyFile,
        dataset: Dataset,
        *,
        device: str,
        threads: int | None,
        source: str | None = None,
    ) -> None:
        self._settings = settings
        self._dataset = dataset
        self._device = device
        self._threads = threads
        self._lengths = settings.legs
        self.epochs: int | None = sum(self._lengths) * max(1, len(settings.trial.learning_rates))
        self.unit = settings.trial.unit
        self.looks = looks_of(settings, images=len(dataset.train_labels))
        self._source = source or source_digest(settings.trial.model, directory=settings.directory)
        # A deleted study or an older torch may have left checkpoints of the same name, so the name
        # includes what they were made with.
        made_with = [
            settings.trial.model_dump(mode="json"),
            self._source,
            dataset.fingerprint,
            str(torch.__version__),
            pdsearch.trial.resolve_device(device).type,
        ]
        text = json.dumps(made_with, sort_keys=True)
        self._made_with = hashlib.sha256(text.encode()).hexdigest()[:8]

    def __call__(
        self,
        candidate: Drawn,
        *,
        seed: int,
        on_step: OnStep,
        on_batch: OnBatch,
        checkpoint: Path | None,
    ) -> Outcome:
        """Train at the study's learning rate, or at each of several, of which the best counts.

        With a horizon, do so for each length, and predict the value from all of them.
        """
        if checkpoint is not None:
            checkpoint = checkpoint.with_stem(f"{checkpoint.stem}-{self._made_with}")
        legs: list[_Leg] = []
        for number, length in enumerate(self._lengths, start=1):
            before = sum(self._lengths[: number - 1])
            leg = _Leg(self._settings, length, before, looks=self.looks, on_step=on_step)
            legs.append(leg)
            file = checkpoint
            if checkpoint is not None and len(self._lengths) > 1:
                file = checkpoint.with_stem(f"{checkpoint.stem}-{length}")
            found = leg.train(
                candidate,
                self._dataset,
                seed=seed,
                device=self._device,
                threads=self._threads,
                on_batch=on_batch,
                checkpoint=file,
                save_last=number < len(self._lengths),
                model_source=self._source,
                directory=self._settings.directory,
            )
            if found.best.diverged is not None:
                return Outcome((math.nan,), diverged=found.best.diverged)
            if 1 < number < len(self._lengths):
                on_step(self._hope(legs))
        values = self._predicted(legs)
        rate = max(values, key=lambda one: values[one])
        if not math.isfinite(values[rate]):
            return Outcome((math.nan,), diverged="every learning rate diverged at some length")
        result = found.results[rate]
        dead = list(result.epochs[-1].dead.values())
        objectives = {
            "accuracy": values[rate],
            "dead_units": sum(dead) / len(dead) if dead else 0.0,
            "kept_bytes": float(result.kept_bytes),
        }
        return Outcome(
            tuple(objectives[name] for name in self._settings.study.objectives),
            learning_rate=rate if self._settings.trial.learning_rates else None,
        )

    def tie_margin(self, best: float) -> float:
        """Return one standard error of the difference of two such values, as if independent."""
        return self._error(best, self._lengths)

    def _error(self, value: float, lengths: Sequence[int]) -> float:
        """Return that error for values that are predicted from some of a trial's lengths."""
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
        """Return the highest plausible value of a candidate, from the lengths so far."""
        predicted = max(self._predicted(legs).values())
        error = self._error(predicted, [leg.length for leg in legs])
        step = legs[-1].end * self.looks
        return Reached(step, predicted, predicted, None, most=predicted + 2 * error)

    def _predicted(self, legs: Sequence["_Leg"]) -> dict[float, float]:
        """Return the value that counts by learning rate; minus infinity if a run diverged."""
        horizon, lengths = self._settings.study.horizon, [leg.length for leg in legs]
        shares = (1.0,) if horizon is None else weights(lengths, horizon=horizon)
        found = {}
        for rate in legs[0].rates:
            results = [leg.results[rate] for leg in legs]
            # A weight may be negative, and a diverged run must not count in favour.
            diverged = any(result.diverged for result in results)
            weighted = (share * result.value for share, result in zip(shares, results, strict=True))
            found[rate] = -math.inf if diverged else sum(weighted)
        return found


class _Leg:
    """One length of a trial's training, at each of its learning rates; usually the only one.

    `before` is the sum of the lengths before it.
    """

    def __init__(
        self, settings: StudyFile, length: int, before: int, *, looks: int, on_step: OnStep
    ) -> None:
        self._looks, self._on_step = looks, on_step
        self._by_loss = settings.study.compares == "loss"
        self._settings = settings.trial
        if settings.study.horizon is not None:
            self._settings = settings.trial.model_copy(update={"epochs": length})
        self.length = length
        self.rates = self._settings.learning_rates or (self._settings.learning_rate,)
        self._begin = before * len(self.rates)
        self.end = self._begin + self._settings.rounds * len(self.rates)
        self.results: dict[float, TrialResult] = {}
        self._reached = self._begin * looks  # the last step that was reported
        self._accuracies: dict[float, list[float]] = {}  # after each epoch, by rate
        self._best: dict[float, tuple[int, float, float]] = {}  # epochs, value, standing by rate

    def train(self, candidate: Drawn, dataset: Dataset, **options: Any) -> RateSearch:
        """Train at each rate, and report each step; see `run_over_learning_rates`."""
        found = pdsearch.trial.run_over_learning_rates(
            candidate,
            self._settings,
            dataset,
            on_epoch=self._on_epoch,
            looks=1 if self._begin else self._looks,
            on_look=self._on_look,
            **options,
        )
        self.results = found.results
        return found

    def _on_epoch(self, rate: float, record: EpochRecord) -> None:
        looks = self._looks
        epoch = self._begin + self.rates.index(rate) * self._settings.rounds + record.epoch
        # A pruner decides about every candidate at every step. So the steps that a diverged rate
        # skipped are reported with the best value of the others.
        value, stands = self._so_far(rate)
        for step in range(self._reached + 1, epoch * looks):
            if step < looks or step % looks == 0:
                self._on_step(Reached(step, value, stands, None))
        accuracies = self._accuracies.setdefault(rate, [])
        accuracies.append(record.accuracy)
        worth = value_of(accuracies, self._settings)
        self._best[rate] = record.epoch, worth, self._standing(worth, record.evaluation_loss)
        self._reached = epoch * looks
        entry = {**plain(asdict(record)), "epoch": epoch}
        if record.diagnostics is None:
            del entry["diagnostics"]
        self._on_step(Reached(self._reached, *self._so_far(rate), entry))

    def _on_look(self, look: Look) -> None:
        self._reached = look.number
        entry = {**plain(asdict(look)), "of": self._looks}
        stands = self._standing(look.accuracy, look.loss)
        self._on_step(Reached(look.number, look.accuracy, stands, entry, whole=False))

    def _standing(self, accuracy: float, loss: float | None) -> float:
        """Return what a pruner compares: larger is better."""
        if not self._by_loss:
            return accuracy
        return -WORST_LOSS if loss is None or math.isnan(loss) else -loss

    def _so_far(self, rate: float) -> tuple[float, float]:
        """Return the best value and standing of this rate and of those that came to their end.

        All candidates try the rates in the same order, so that values at one step compare.
        """
        counting = [
            entry[1:]
            for other, entry in self._best.items()
            if other == rate or entry[0] == self._settings.rounds
        ]
        nothing = 0.0, -WORST_LOSS if self._by_loss else 0.0
        value, stands = (max(column) for column in zip(nothing, *counting, strict=True))
        return value, stands


def looks_of(settings: StudyFile, *, images: int) -> int:
    """Return the steps per epoch: the study file's `looks`, or the default of its pruner.

    `images` are those of the training set, including those held back.
    """
    study, trial = settings.study, settings.trial
    if trial.stream is not None:
        return 1  # the start of the first task says nothing about the last ones
    if study.looks is not None or study.pruner != "halving":
        return study.looks or 1
    batches = int(images * (1 - trial.validation)) // trial.batch_size
    return max(1, min(LOOKS, batches // BATCHES_A_LOOK))
