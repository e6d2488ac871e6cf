"""The results of a training run, as plain data."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pdsearch.trial.settings import TrialSettings


@dataclass(frozen=True)
class Diagnosis:
    r"""Gradients and units after a round: an epoch, or a stream's task.

    :math:`p` is the gradient of the mean cross entropy of a fixed batch by the pseudo-derivative,
    :math:`e` the exact one of the same network (dropout off, batch normalisation by its running
    statistics), over all parameters or those of one layer.

    Attributes:
        cosine: :math:`p \cdot e / (\lVert p\rVert\lVert e\rVert)`; None if one of them is 0 or not
            finite, or the network holds no pseudo-derivative.
        norm_ratio: :math:`\lVert p\rVert / \lVert e\rVert`; None likewise.
        layers: the pair (cosine, norm ratio) of each layer, by its name.
        revived: for each ReLU, the share of its units that were inactive one round before and are
            active now (see `EpochRecord.dead`).
        died: the reverse.
    """

    cosine: float | None
    norm_ratio: float | None
    layers: dict[str, tuple[float | None, float | None]]
    revived: dict[str, float]
    died: dict[str, float]


@dataclass(frozen=True)
class EpochRecord:
    """An epoch.

    Attributes:
        epoch: its number, from 1.
        loss: mean cross entropy of its training batches, in nats, as they were trained on.
        accuracy: on the evaluation set (`validation` or `test`) after the epoch, a fraction.
        dead: by the ReLU's name in the model, the fraction of its units whose input was ≤ 0 for
            every image of that set and at every position. A unit is a channel (of a convolution's
            map) or an element (of a vector). A module called several times in a forward pass has
            further entries `name:2` and so on.
        seconds: wall time, the evaluation included.
        learning_rate: of its last step.
        evaluation_loss: mean cross entropy on that set, in nats; None in older records.
        diagnostics: None if none were asked for.
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
    """A task of a stream, which takes the place of an epoch; evaluated on its own images.

    Attributes:
        accuracy: the share of images classified correctly in the training forward passes, over all
            steps of the task: high if the network learns the task fast.
        final_accuracy: after the task, in evaluation mode.
        weight_norms: by the layer's name, the L2 norm of its weight after the task; without
            parameters of fewer than two dimensions.
    """

    final_accuracy: float = 0.0
    weight_norms: dict[str, float] = field(default_factory=dict)


def record_of(entry: dict[str, Any], settings: TrialSettings) -> EpochRecord:
    """Return a record from its fields, as a checkpoint keeps them."""
    kept = dict(entry)
    if looked := entry.get("diagnostics"):
        layers = {name: tuple(pair) for name, pair in looked["layers"].items()}
        kept["diagnostics"] = Diagnosis(**{**looked, "layers": layers})
    return EpochRecord(**kept) if settings.stream is None else TaskRecord(**kept)


def value_of(accuracies: Sequence[float], settings: TrialSettings) -> float:
    """Return a run's value from the accuracies of its epochs or tasks so far.

    The last epoch's; of a stream, the mean over its last `stream.last` tasks, or over all if there
    are fewer.
    """
    if settings.stream is None:
        return accuracies[-1]
    last = accuracies[-settings.stream.last :]
    return sum(last) / len(last)


@dataclass(frozen=True)
class Look:
    """An evaluation within the first epoch of a run.

    Attributes:
        number: of the look, from 1.
        loss: mean cross entropy on the evaluation set, in nats.
        accuracy: a fraction.
    """

    number: int
    loss: float
    accuracy: float


@dataclass(frozen=True)
class TrialResult:
    """A training run.

    Attributes:
        epochs: the finished epochs, or a stream's finished tasks.
        value: the accuracy that counts, see `value_of`; NaN if the run diverged.
        diverged: why and where the run stopped; None if it did not diverge.
        seconds: wall time of the finished epochs, those before a resumption included.
        images_per_second: training images in that time, which includes evaluations.
        kept_bytes: activations that the backward pass keeps for one image.
        settings: the run's, with `precision` and `memory_format` decided.
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
        best: the run of highest value, the earlier in the grid where two are equal; the first where
            all diverged.
        results: every run by its rate.
    """

    learning_rate: float
    best: TrialResult
    results: dict[float, TrialResult]
