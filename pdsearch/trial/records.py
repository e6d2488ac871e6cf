"""What a training run comes to."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pdsearch.trial.settings import TrialSettings


@dataclass(frozen=True)
class Diagnosis:
    r"""What a network looked like inside after an epoch, or a stream's task.

    With :math:`p` the gradient of the mean cross entropy of a fixed batch by the pseudo-derivative
    and :math:`e` the exact one of the same network (dropout off, batch normalisation by its running
    statistics), over all parameters or those of one layer:

    Attributes:
        cosine: :math:`p \cdot e / (\lVert p\rVert\lVert e\rVert)`; None where one of them is 0 or
            not finite, or the network holds no pseudo-derivative.
        norm_ratio: :math:`\lVert p\rVert / \lVert e\rVert`; None likewise.
        layers: the same by the layer's name, as a pair (cosine, norm ratio).
        revived: for each ReLU, as `EpochRecord.dead`, the share of its units that were inactive for
            all images of the evaluation set one round before and are active for one now.
        died: the reverse.
    """

    cosine: float | None
    norm_ratio: float | None
    layers: dict[str, tuple[float | None, float | None]]
    revived: dict[str, float]
    died: dict[str, float]


@dataclass(frozen=True)
class EpochRecord:
    """What an epoch came to.

    Attributes:
        epoch: its number, from 1.
        loss: mean cross entropy of its training batches, in nats, as they were trained on.
        accuracy: on the validation set (or the test set, where that was asked for) after the
            epoch, a fraction.
        dead: for each ReLU, by its name in the model, the fraction of units whose input was
            ≤ 0 for every image of that set and at every position. A unit is a channel (of a
            convolution's map) or an element (of a vector). Where a module is called more than
            once in a forward pass, `name:2` and so on are its later calls.
        seconds: wall time, the evaluation included.
        learning_rate: of its last step.
        evaluation_loss: mean cross entropy on the set that `accuracy` is of, in nats; None in
            records from before it was kept.
        diagnostics: a look inside; None where none was asked for.
    """

    epoch: int
    loss: float
    accuracy: float
    dead: dict[str, float]
    seconds: float
    learning_rate: float
    evaluation_loss: float | None = None
    diagnostics: Diagnosis | None = None


@dataclass(frozen=True)
class TaskRecord(EpochRecord):
    """What a task of a stream came to; it takes the place of an epoch.

    Attributes:
        epoch: the task's number, from 1.
        loss: mean cross entropy of all its training batches, in nats.
        accuracy: within the task: the share of images that were named rightly in the training
            forward passes, each before the step that trained on it, over all steps of all epochs
            of the task. It is high where the network learns the task fast.
        dead: as of an epoch, on the task's images after the task.
        seconds: wall time, the evaluation included.
        learning_rate: of its last step.
        evaluation_loss: mean cross entropy on the task's images after the task, in nats.
        final_accuracy: on the task's images after the task, in evaluation mode.
        weight_norms: by a layer's name, the L2 norm of its weight after the task, biases and
            parameters with fewer than two dimensions excepted.
    """

    final_accuracy: float = 0.0
    weight_norms: dict[str, float] = field(default_factory=dict)


def record_of(entry: dict[str, Any], settings: TrialSettings) -> EpochRecord:
    """A record from its fields, as a checkpoint keeps them."""
    kept = dict(entry)
    if looked := entry.get("diagnostics"):
        layers = {name: tuple(pair) for name, pair in looked["layers"].items()}
        kept["diagnostics"] = Diagnosis(**{**looked, "layers": layers})
    return EpochRecord(**kept) if settings.stream is None else TaskRecord(**kept)


def value_of(accuracies: Sequence[float], settings: TrialSettings) -> float:
    """The value of a run, from the accuracies of its epochs or tasks so far.

    The last epoch's; of a stream, the mean over its last `stream.last` tasks, or over all where
    there are fewer.
    """
    if settings.stream is None:
        return accuracies[-1]
    last = accuracies[-settings.stream.last :]
    return sum(last) / len(last)


@dataclass(frozen=True)
class Look:
    """A look at a run within its first epoch.

    Attributes:
        number: of the look, from 1.
        loss: mean cross entropy on the validation set, in nats.
        accuracy: on the same set, a fraction.
    """

    number: int
    loss: float
    accuracy: float


@dataclass(frozen=True)
class TrialResult:
    """What a training run came to.

    Attributes:
        epochs: the finished epochs, or a stream's finished tasks.
        value: the accuracy that counts, see `value_of`; NaN where the run diverged.
        diverged: why and where the run was stopped; None for one that was not.
        seconds: wall time of the finished epochs, those before a resumption included.
        images_per_second: training images in that time (the evaluations' time counts too).
        kept_bytes: what the backward pass keeps of one image's forward pass, without weights.
        settings: what it was trained with, `precision` and `memory_format` decided.
    """

    epochs: tuple[EpochRecord, ...]
    value: float
    diverged: str | None
    seconds: float
    images_per_second: float
    kept_bytes: int
    settings: TrialSettings


@dataclass(frozen=True)
class RateSearch:
    """One candidate's runs over a grid of learning rates.

    Attributes:
        learning_rate: the rate of the best run.
        best: the best run: the highest value, the earlier in the grid where two are equal; the
            first where all diverged.
        results: every run by its rate.
    """

    learning_rate: float
    best: TrialResult
    results: dict[float, TrialResult]
