"""One training run of one candidate."""

import dataclasses
import functools
import hashlib
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pdsearch.autograd import convert, relu_sites, replace_relus
from pdsearch.data import Dataset
from pdsearch.errors import InputError
from pdsearch.family import Drawn
from pdsearch.models import build_model, example_images
from pdsearch.networks import Shape
from pdsearch.trial.checkpoint import Checkpoint, read_checkpoint, restore, write_checkpoint
from pdsearch.trial.convolution import hasten
from pdsearch.trial.loop import (
    Evaluation,
    Loop,
    OnBatch,
    Split,
    TrialData,
    derive_seed,
    kept_bytes,
)
from pdsearch.trial.records import (
    EpochRecord,
    Look,
    RateSearch,
    TaskRecord,
    TrialResult,
    record_of,
    value_of,
)
from pdsearch.trial.remedies import Renewal, towards_initial
from pdsearch.trial.settings import TrialSettings, learning_rate_at
from pdsearch.trial.speed import memory_format, resolve_device, resolve_settings, surroundings
from pdsearch.trial.stream import Stream, weight_norms

# Seconds of training that a killed run may lose, in addition to the epoch it was in. AlexNet's
# checkpoint takes 0.05 s: after each epoch of 2 s, a fortieth of a study's time.
SAVE_EVERY = 30.0

OnEpoch = Callable[[EpochRecord], None]
OnLook = Callable[[Look], None]


def run_trial(
    candidate: Drawn,
    settings: TrialSettings,
    dataset: Dataset,
    *,
    seed: int,
    device: str = "auto",
    threads: int | None = None,
    split: Split = "validation",
    on_epoch: OnEpoch | None = None,
    on_batch: OnBatch | None = None,
    looks: int = 1,
    on_look: OnLook | None = None,
    checkpoint: Path | None = None,
    save_last: bool = True,
    module: Callable[[], nn.Module] | None = None,
    model_source: str | None = None,
    directory: Path | None = None,
    diagnostics: bool | None = None,
) -> TrialResult:
    r"""Train a model with a pseudo-derivative in place of its ReLUs' derivative.

    Initial weights, validation split, order of batches, crops, flips and dropout masks depend on
    the seed alone, so the runs of a seed are paired. On one machine, with one number of threads and
    with `precision` and `memory_format` decided, a run repeats bit for bit, whether interrupted or
    not. The process must not train anything else meanwhile: dropout draws from torch's default
    generator, whose state is restored at the end.

    With `settings.stream`, a task takes the place of an epoch in records, `on_epoch` and
    checkpoints. See `pdsearch.trial.stream`.

    Training progress advances with every step: :math:`t = s/(S - 1)` at step s = 0, …, S − 1 of the
    whole run, so a family that anneals to the step ends with the step.

    Args:
        candidate: the pseudo-derivative, or one for each group of ReLUs.
        settings: of the run; `learning_rates` is ignored (see `run_over_learning_rates`).
        dataset: the data; `settings.dataset` is ignored.
        seed: of everything random.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        threads: CPU threads during the run; default: torch's setting.
        split: `validation`: train on the training set without the part held back, and evaluate on
            that part. `test`: train on the whole training set and evaluate on the test set, for a
            final confirmation only. A stream draws its images from one or the other.
        on_epoch: called after each epoch, and for each epoch restored from a checkpoint. An
            exception in it ends the run, which writes a checkpoint first.
        on_batch: called as `on_batch(done, total)` after each batch of the whole run.
        looks: number of parts of the first epoch.
        on_look: called with an evaluation after each of these parts but the last, which changes
            nothing in the run. An exception in it ends the run.
        checkpoint: a file to resume from if it exists; that of a finished run gives the result at
            once. It is written after an epoch if the last time is 30 s ago or the run stops there.
            The caller removes it.
        save_last: whether it is always written after the last epoch.
        module: makes an activation that replaces each ReLU instead, as a control.
        model_source: `pdsearch.models.source_digest` of the model's file as it must be; None: any.
        directory: the folder that `path.py` in `settings.model` is relative to.
        diagnostics: whether records hold diagnostics, which change nothing in the run; default:
            `settings.diagnostics`.

    Raises:
        InputError: the settings do not fit the data or this machine.
        UnsupportedError: the model's ReLUs cannot be replaced.
    """
    if split not in ("validation", "test"):
        raise InputError(f"split must be 'validation' or 'test', got {split!r}")
    place = resolve_device(device)
    with surroundings(place, threads=threads):
        identity = _identity(candidate, settings, dataset, seed, place, split, module)
        saved = read_checkpoint(checkpoint, identity=identity) if checkpoint is not None else None
        if saved is None:
            settings = resolve_settings(settings, dataset, place, directory=directory)
        else:
            settings = TrialSettings.model_validate(saved.state["settings"])
        kind = TrialData if settings.stream is None else Stream
        source = kind.of(dataset, settings, seed=seed, split=split, device=place)
        torch.manual_seed(derive_seed(seed, "weights"))
        classes = len(dataset.classes)
        model = build_model(
            classes=classes,
            shape=dataset.shape,
            source=model_source,
            directory=directory,
            **settings.network,
        )
        model, names = _converted(model, candidate, module, settings, shape=dataset.shape)
        model = model.to(place).to(memory_format=memory_format(settings.memory_format))
        optimizer = _optimizer(model, settings)
        state, remedies = _remedies(model, optimizer, settings, seed=seed)
        if saved is not None:
            restore(saved, model=state, optimizer=optimizer)
            kept = saved.state["kept_bytes"]
        else:
            kept = kept_bytes(model, source.task(0), settings)
        if place.type == "cpu" and not settings.compile:
            hasten(model)
        loop = Loop(
            model=model,
            optimizer=optimizer,
            settings=settings,
            data=source.task(0),
            seed=seed,
            annealed=candidate.annealed and module is None,
            on_batch=on_batch,
            **remedies,
        )
        write = None
        if checkpoint is not None:
            write = functools.partial(
                write_checkpoint, checkpoint, identity=identity, model=state, optimizer=optimizer
            )
        run = _Run(loop, names, source, kept, write, on_epoch)
        if saved is not None:
            run.resume(saved)
        run.train(
            look_at=_looks(loop, looks, on_look),
            diagnostics=settings.diagnostics if diagnostics is None else diagnostics,
            save_last=save_last,
        )
    return run.result()


def _remedies(
    model: nn.Module, optimizer: torch.optim.Optimizer, settings: TrialSettings, *, seed: int
) -> tuple[nn.Module, dict[str, Any]]:
    """Return what a checkpoint holds, and what the loop calls around each step."""
    calls: dict[str, Any] = {}
    if settings.l2_init:
        calls["before_step"] = towards_initial(model, settings.l2_init)
    if settings.continual_backprop is None:
        return model, calls
    renewal = Renewal(model, optimizer, settings, seed=seed)
    calls["after_step"] = renewal.after_step
    return nn.ModuleList([model, renewal]), calls


def _converted(
    model: nn.Module,
    candidate: Drawn,
    module: Callable[[], nn.Module] | None,
    settings: TrialSettings,
    *,
    shape: Shape,
) -> tuple[nn.Module, list[str]]:
    """The model with its ReLUs replaced, and their names."""
    example = example_images(shape)
    names = [site.name for site in relu_sites(model, example)]
    if module is None:
        return convert(model, candidate, example=example, **settings.sites), names
    return replace_relus(model, module, example=example, **settings.sites), names


def _looks(loop: Loop, looks: int, on_look: OnLook | None) -> dict[int, Callable[[], None]]:
    """The looks within the first epoch, by the batch after which each is due."""
    steps = loop.data.steps
    if not 1 <= looks <= steps:
        raise InputError(f"looks must be from 1 to the {steps} batches of an epoch, got {looks}")
    if on_look is None:
        return {}

    def look(number: int) -> None:
        found = loop.evaluate([])
        on_look(Look(number, found.loss, found.accuracy))

    return {number * steps // looks: functools.partial(look, number) for number in range(1, looks)}


@dataclasses.dataclass(eq=False)
class _Run:
    """A run under way: the records of its rounds (epochs, or a stream's tasks), its checkpoint.

    `names` are those of the model's ReLUs, `write` writes a checkpoint with a state.
    """

    loop: Loop
    names: list[str]
    source: TrialData | Stream
    kept_bytes: int
    write: Callable[..., None] | None
    on_epoch: OnEpoch | None
    records: list[EpochRecord] = dataclasses.field(default_factory=list)
    diverged: str | None = None

    def resume(self, saved: Checkpoint) -> None:
        """Take the records of a checkpoint, and report them."""
        self.records = [record_of(record, self.loop.settings) for record in saved.state["epochs"]]
        self.diverged = saved.state["diverged"]
        for record in self.records:
            if self.on_epoch is not None:
                self.on_epoch(record)

    def train(
        self, *, look_at: dict[int, Callable[[], None]], diagnostics: bool, save_last: bool
    ) -> None:
        """Train the remaining rounds; see `run_trial`."""
        rounds = self.loop.settings.rounds
        before = None
        if diagnostics and len(self.records) < rounds:
            self.loop.data = self.source.task(max(0, len(self.records) - 1))
            before = self.loop.evaluate(self.names)
        saved_at = time.perf_counter()
        while self.diverged is None and len(self.records) < rounds:
            found = self._round(before, look_at=look_at)
            if found is None:
                self.save()
                break
            before = found if diagnostics else None
            ends = len(self.records) == rounds
            due = (ends and save_last) or time.perf_counter() - saved_at >= SAVE_EVERY
            if due:
                self.save()
                saved_at = time.perf_counter()
            if self.on_epoch is not None:
                try:
                    self.on_epoch(self.records[-1])
                except BaseException:  # pruned or interrupted: it may be resumed
                    if not due:
                        self.save()
                    raise

    def _round(
        self, before: Evaluation | None, *, look_at: dict[int, Callable[[], None]]
    ) -> Evaluation | None:
        """Train a round, record it, and return its evaluation; None if training diverged.

        Args:
            before: the evaluation at the beginning, for diagnostics.
            look_at: called after these batches of the first epoch.
        """
        loop, settings, number = self.loop, self.loop.settings, len(self.records)
        begin = time.perf_counter()
        loop.data = self.source.task(number)
        trained = loop.train_round(number, after=look_at)
        self.diverged = trained.diverged
        if self.diverged is not None:
            return None
        found = loop.evaluate(self.names)
        steps = loop.data.steps
        last = (number + 1) * settings.epochs_a_round * steps - 1
        record = EpochRecord(
            epoch=number + 1,
            loss=trained.loss,
            accuracy=found.accuracy,
            dead=found.dead,
            seconds=time.perf_counter() - begin,
            learning_rate=learning_rate_at(settings, last, steps=steps),
            evaluation_loss=found.loss,
            diagnostics=loop.diagnose(before, found) if before is not None else None,
        )
        if settings.stream is not None:
            record = TaskRecord(
                **{**vars(record), "accuracy": trained.accuracy},
                final_accuracy=found.accuracy,
                weight_norms=weight_norms(loop.model),
            )
        self.records.append(record)
        return found

    def save(self) -> None:
        """Write the checkpoint, if there is one."""
        if self.write is not None:
            self.write(
                state={
                    "settings": self.loop.settings.model_dump(mode="json"),
                    "epochs": [dataclasses.asdict(record) for record in self.records],
                    "kept_bytes": self.kept_bytes,
                    "diverged": self.diverged,
                }
            )

    def result(self) -> TrialResult:
        """The result of the run."""
        settings = self.loop.settings
        seconds = sum(record.seconds for record in self.records)
        steps = len(self.records) * settings.epochs_a_round * self.loop.data.steps
        images = steps * settings.batch_size
        value = math.nan
        if self.diverged is None:
            value = value_of([record.accuracy for record in self.records], settings)
        return TrialResult(
            epochs=tuple(self.records),
            value=value,
            diverged=self.diverged,
            seconds=seconds,
            images_per_second=images / seconds if seconds else 0.0,
            kept_bytes=self.kept_bytes,
            settings=settings,
        )


def run_over_learning_rates(
    candidate: Drawn,
    settings: TrialSettings,
    dataset: Dataset,
    *,
    on_epoch: Callable[[float, EpochRecord], None] | None = None,
    looks: int = 1,
    on_look: OnLook | None = None,
    checkpoint: Path | None = None,
    save_last: bool = False,
    **options: Any,
) -> RateSearch:
    """Train a candidate at each of `settings.learning_rates` and keep the best.

    Args:
        candidate: the pseudo-derivative.
        settings: of the runs; without `learning_rates`, `learning_rate` alone is tried.
        dataset: the data.
        on_epoch: called as `on_epoch(rate, record)`; an exception in it ends the search.
        looks: as for `run_trial`, in the run of the first rate alone.
        on_look: likewise.
        checkpoint: `<stem>-<rate><suffix>` next to it is the file of each rate.
        save_last: whether the last epoch of the only rate is written too. With several rates it
            always is, because more training follows.
        **options: as for `run_trial`.
    """
    results: dict[float, TrialResult] = {}
    rates = settings.learning_rates or (settings.learning_rate,)
    for number, rate in enumerate(rates):
        results[rate] = run_trial(
            candidate,
            settings.model_copy(update={"learning_rate": rate, "learning_rates": ()}),
            dataset,
            on_epoch=functools.partial(on_epoch, rate) if on_epoch is not None else None,
            looks=looks if number == 0 else 1,
            on_look=on_look,
            checkpoint=checkpoint and checkpoint.with_stem(f"{checkpoint.stem}-{rate:g}"),
            save_last=save_last or len(rates) > 1,
            **options,
        )
        settings = results[rate].settings  # a probe decides once, for all rates
    best = max(
        results, key=lambda rate: -math.inf if results[rate].diverged else results[rate].value
    )
    return RateSearch(best, results[best], results)


def _optimizer(model: nn.Module, settings: TrialSettings) -> torch.optim.Optimizer:
    kinds = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    options: dict[str, Any] = {"betas": (settings.momentum, 0.999)}
    if settings.optimizer == "sgd":
        options = {"momentum": settings.momentum, "nesterov": settings.nesterov}
    return kinds[settings.optimizer](
        model.parameters(),
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        fused=True,
        **options,
    )


def _identity(
    candidate: Drawn,
    settings: TrialSettings,
    dataset: Dataset,
    seed: int,
    device: torch.device,
    split: str,
    module: Callable[[], nn.Module] | None,
) -> str:
    """A digest of everything that decides the numbers of a run."""
    activation: Any = candidate.to_dict() if module is None else repr(module())
    if candidate.annealed and module is None:
        # Earlier versions set t once an epoch, so their checkpoints belong to other runs.
        activation = [activation, "progress by step"]
    parts = [
        activation,
        settings.model_dump(mode="json"),
        dataset.fingerprint,
        seed,
        device.type,
        split,
        str(torch.__version__),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
