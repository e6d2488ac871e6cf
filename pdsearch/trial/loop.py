"""The training loop: batches, steps, evaluations and measurements."""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn

from pdsearch.autograd import set_progress
from pdsearch.data import (
    Dataset,
    augment,
    channel_statistics,
    draw_shifts,
    normalise,
    stratified_split,
)
from pdsearch.errors import InputError
from pdsearch.trial.diagnostics import agreement, batch_size, share, turnover
from pdsearch.trial.records import Diagnosis
from pdsearch.trial.settings import TrialSettings, learning_rate_at
from pdsearch.trial.speed import autocast, memory_format

WINDOW = 16  # batches between two checks of the loss: on a GPU each check waits for the device
EXPLODED = 20  # times ln(classes), the loss of guessing
EVALUATION_BATCH = 1000  # images of up to 3×32×32, proportionately fewer larger ones

Split = Literal["validation", "test"]
OnBatch = Callable[[int, int], None]

_STATISTICS: dict[tuple[Any, ...], tuple[torch.Tensor, torch.Tensor]] = {}
"""Mean and deviation of the training images, computed once a process and split."""


@dataclass(frozen=True, eq=False)
class TrialData:
    """The data of a run. `train` indexes `images`, `evaluation` indexes `evaluation_images`.

    Images are uint8, or float32 and already normalised. They lie on the run's device, or on the CPU
    (perhaps mapped from a file) if they are too large for it; see `batch`.
    """

    images: torch.Tensor
    labels: torch.Tensor
    train: torch.Tensor
    evaluation_images: torch.Tensor
    evaluation: torch.Tensor
    evaluation_labels: torch.Tensor
    device: torch.device
    mean: torch.Tensor
    deviation: torch.Tensor
    mirror: bool
    classes: int
    steps: int

    @classmethod
    def of(
        cls,
        dataset: Dataset,
        settings: TrialSettings,
        *,
        seed: int,
        split: Split,
        device: torch.device,
    ) -> "TrialData":
        """Return the training and evaluation parts of a data set.

        Raises:
            InputError: a batch is larger than the training part.
        """
        images, labels = dataset.train_images, dataset.train_labels
        if split == "test":
            train = torch.arange(len(labels))
            held_images, held_labels = dataset.test_images, dataset.test_labels
            held = torch.arange(len(held_labels))
        else:
            train, held = stratified_split(labels, share=settings.validation, seed=seed)
            held_images, held_labels = images, labels[held]
        if settings.batch_size > len(train):
            raise InputError(
                f"batch_size {settings.batch_size} is larger than the {len(train)} images of "
                f"{dataset.name} to train on: make it at most that"
            )
        key = (dataset.fingerprint, split, settings.validation, seed)
        if key not in _STATISTICS:
            _STATISTICS[key] = channel_statistics(images, train)
        mean, deviation = _STATISTICS[key]
        same = held_images is images
        images = images.to(_home(images, device))
        return cls(
            images=images,
            labels=labels.to(device),
            train=train,
            evaluation_images=images if same else held_images.to(_home(held_images, device)),
            evaluation=held.to(device),
            evaluation_labels=held_labels.to(device),
            device=device,
            mean=mean.to(device),
            deviation=deviation.to(device),
            mirror=dataset.mirror if settings.mirror is None else settings.mirror,
            classes=len(dataset.classes),
            steps=len(train) // settings.batch_size,
        )

    def task(self, number: int) -> "TrialData":
        """Return the data itself: outside a stream, every round has the same."""
        return self

    def batch(self, rows: torch.Tensor) -> torch.Tensor:
        """Return training images on the run's device."""
        return _rows(self.images, rows, self.device)

    def evaluation_batch(self, part: slice) -> torch.Tensor:
        """Return evaluation images on the run's device."""
        return _rows(self.evaluation_images, self.evaluation[part], self.device)

    def normalised(self, images: torch.Tensor) -> torch.Tensor:
        """Return images of this data normalised."""
        if images.is_floating_point():
            return images
        return normalise(images, self.mean, self.deviation)


def _home(images: torch.Tensor, device: torch.device) -> torch.device:
    """Return where images are kept: on the device, if they take at most half of its free memory."""
    if device.type != "cuda":
        return device
    free, _ = torch.cuda.mem_get_info(device)
    return device if images.nbytes <= free // 2 else torch.device("cpu")


def _rows(images: torch.Tensor, rows: torch.Tensor, device: torch.device) -> torch.Tensor:
    # `images[…]` takes three times as long for a batch of floats.
    return images.index_select(0, rows.to(images.device)).to(device)


@dataclass(frozen=True)
class Training:
    """The training steps of an epoch or a stream's task; see `EpochRecord` and `TaskRecord`."""

    loss: float
    accuracy: float
    diverged: str | None = None


@dataclass(frozen=True, eq=False)
class Evaluation:
    """A model on the evaluation set; `inactive` has each ReLU's units with no input > 0."""

    accuracy: float
    loss: float
    inactive: dict[str, torch.Tensor]

    @property
    def dead(self) -> dict[str, float]:
        """The share of inactive units, for each ReLU."""
        return {name: share(units) for name, units in self.inactive.items()}


@dataclass(eq=False, kw_only=True)
class Loop:
    """Trains a model for an epoch, and evaluates it.

    Attributes:
        annealed: whether the model holds a pseudo-derivative that changes with training progress.
        before_step: called between each backward pass and the optimiser's step.
        after_step: called after the optimiser's step, with its number in the run.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    settings: TrialSettings
    data: TrialData
    seed: int
    annealed: bool
    on_batch: OnBatch | None
    before_step: Callable[[], None] | None = None
    after_step: Callable[[int], None] | None = None

    def __post_init__(self) -> None:
        # Only the training step: an evaluation takes a small share of the time, and has hooks.
        self.forward = torch.compile(self.model) if self.settings.compile else self.model

    def train(
        self, epoch: int, *, after: Mapping[int, Callable[[], None]] | None = None
    ) -> Training:
        """Train one epoch of the run (from 0, over all tasks of a stream).

        `after[n]` is called after batch n of it, and may evaluate the model.
        """
        settings, data = self.settings, self.data
        device, size = data.device, settings.batch_size
        limit = EXPLODED * math.log(data.classes)
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "batches", epoch))
        order = data.train[torch.randperm(len(data.train), generator=generator)].to(device)
        labels = data.labels[order]
        height, width = data.images.shape[2:]
        shifts = draw_shifts(
            len(order), size=(height, width), mirror=data.mirror, generator=generator
        ).to(device)
        torch.manual_seed(derive_seed(self.seed, "dropout", epoch))
        self.model.train()
        total, right = 0.0, 0
        recent: list[torch.Tensor] = []
        named: list[torch.Tensor] = []
        all_steps = settings.passes * data.steps
        for step in range(data.steps):
            done = epoch * data.steps + step
            if self.annealed:
                set_progress(self.model, done / max(1, all_steps - 1))
            part = slice(step * size, (step + 1) * size)
            images = data.batch(order[part])
            if settings.augment:
                images = augment(images, shifts.part(part.start, part.stop))
            rate = learning_rate_at(settings, done, steps=data.steps)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.zero_grad(set_to_none=True)
            with autocast(settings.precision, device):
                logits = self.forward(self._prepared(images))
                loss = F.cross_entropy(logits, labels[part])
            loss.backward()
            if self.before_step is not None:
                self.before_step()
            self.optimizer.step()
            if self.after_step is not None:
                self.after_step(done)
            recent.append(loss.detach())
            named.append(logits.detach())
            # On a CPU the check costs nothing.
            broken = device.type == "cpu" and not math.isfinite(recent[-1].item())
            if broken or len(recent) == WINDOW or step == data.steps - 1:
                losses = torch.stack(recent).tolist()
                mean = sum(losses) / len(losses)
                where = f"in {self._name_of(epoch)}, batch {step + 1} of {data.steps}"
                if not math.isfinite(mean):
                    return Training(math.nan, math.nan, f"the loss is not finite {where}")
                if mean > limit:
                    reason = f"the loss exploded to {mean:.3g} {where} (limit {limit:.3g})"
                    return Training(mean, math.nan, reason)
                total += sum(losses)
                recently = labels[part.stop - size * len(named) : part.stop]
                right += int((torch.cat(named).argmax(1) == recently).sum())
                recent.clear()
                named.clear()
            if self.on_batch is not None:
                self.on_batch(done + 1, all_steps)
            if after and step + 1 in after:
                after[step + 1]()
                self.model.train()
        return Training(total / data.steps, right / (data.steps * size))

    def train_round(
        self, number: int, *, after: Mapping[int, Callable[[], None]] | None = None
    ) -> Training:
        """Train an epoch, or all epochs of a stream's task (from 0); the means are over its steps.

        `after` is as for `train`, in the first epoch of the run.
        """
        epochs = self.settings.epochs_a_round
        each = []
        for epoch in range(number * epochs, (number + 1) * epochs):
            each.append(self.train(epoch, after=after if epoch == 0 else None))
            if each[-1].diverged is not None:
                return each[-1]
        return Training(sum(e.loss for e in each) / epochs, sum(e.accuracy for e in each) / epochs)

    def _name_of(self, epoch: int) -> str:
        if self.settings.stream is None:
            return f"epoch {epoch + 1}"
        task, within = divmod(epoch, self.settings.epochs)
        return f"task {task + 1}, epoch {within + 1}"

    @torch.inference_mode()
    def evaluate(self, names: list[str]) -> Evaluation:
        """Evaluate the model, and find the inactive units of the ReLUs of these names.

        It draws no random numbers, so training is the same with and without it.
        """
        data = self.data
        self.model.eval()
        correct = torch.zeros((), dtype=torch.int64, device=data.device)
        losses = []
        with _largest_inputs(self.model, names) as largest:
            size = EVALUATION_BATCH * 3 * 32 * 32 // data.images[0].numel()
            size = max(1, min(EVALUATION_BATCH, size))
            for start in range(0, len(data.evaluation_labels), size):
                part = slice(start, start + size)
                with autocast(self.settings.precision, data.device):
                    logits = self.model(self._prepared(data.evaluation_batch(part)))
                labels = data.evaluation_labels[part]
                correct += (logits.argmax(1) == labels).sum()
                losses.append(F.cross_entropy(logits.float(), labels, reduction="sum"))
        inactive = {name: top <= 0 for name, top in largest.items()}
        count = len(data.evaluation_labels)
        # Added up on the host, in float64: not every device has it.
        loss = sum(torch.stack(losses).tolist())
        return Evaluation(correct.item() / count, loss / count, inactive)

    def diagnose(self, before: Evaluation, now: Evaluation) -> Diagnosis:
        """Diagnose a round, evaluated before and now, on the first training images of the run."""
        settings, data = self.settings, self.data
        images = settings.epochs_a_round * len(data.train)
        chosen = data.train[: batch_size(images)].to(data.device)
        net, layers = agreement(
            self.model,
            self._prepared(data.batch(chosen)),
            data.labels[chosen],
            precision=autocast(settings.precision, data.device),
        )
        return Diagnosis(*net, layers, *turnover(before.inactive, now.inactive))

    def _prepared(self, images: torch.Tensor) -> torch.Tensor:
        layout = memory_format(self.settings.memory_format)
        return self.data.normalised(images).contiguous(memory_format=layout)


@contextmanager
def _largest_inputs(model: nn.Module, names: list[str]) -> Iterator[dict[str, torch.Tensor]]:
    """Yield the largest input that each unit before a ReLU has seen, by the ReLU's name.

    A module that is called twice in a forward pass has two entries, `name` and `name:2`.
    """
    largest: dict[str, torch.Tensor] = {}
    calls: Counter[str] = Counter()

    def look(name: str, input: torch.Tensor) -> None:
        calls[name] += 1
        key = name if calls[name] == 1 else f"{name}:{calls[name]}"
        # The units of a map (n, c, h, w) are its channels, of tokens (n, length, c) their features.
        units = 1 if input.dim() in (2, 4) else input.dim() - 1
        top = input.amax(dim=[d for d in range(input.dim()) if d != units])
        largest[key] = torch.maximum(largest[key], top) if key in largest else top

    hooks = [model.register_forward_pre_hook(lambda *_: calls.clear())]
    for name in names:
        relu = model.get_submodule(name)
        hooks.append(
            relu.register_forward_pre_hook(lambda _, inputs, name=name: look(name, inputs[0]))
        )
    try:
        yield largest
    finally:
        for hook in hooks:
            hook.remove()


def kept_bytes(model: nn.Module, data: TrialData, settings: TrialSettings) -> int:
    """Return the bytes of activations that autograd keeps for an image; each storage counts once.

    The model runs in evaluation mode: neither running statistics nor the random state change.
    """
    images = data.normalised(data.batch(data.train[:2]))
    own = {value.untyped_storage().data_ptr() for value in model.state_dict().values()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> None:
        # Holding the storage keeps its address from being reused. The graph gets nothing, as no
        # backward pass follows: a tensor given back to the node that made it would be a cycle that
        # is never collected.
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage

    training = model.training
    model.eval()
    with (
        torch.enable_grad(),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda nothing: nothing),
        autocast(settings.precision, data.device),
    ):
        output = model(images)
    model.train(training)
    total = sum(storage.nbytes() for storage in kept.values())
    del output
    return total // len(images)


def derive_seed(seed: int, *purpose: object) -> int:
    """Derive a seed for each purpose, so that no two random streams of a run coincide."""
    digest = hashlib.sha256(json.dumps([seed, *purpose]).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
