"""The `[trial]` section of a study file, and the learning rate of each step."""

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from pdsearch.text import counted

Share = Annotated[float, Field(gt=0, lt=1)]
Rate = Annotated[float, Field(gt=0)]

LATER = frozenset(
    {
        "width",
        "depth",
        "stream",
        "activation",
        "normalisation",
        "l2_init",
        "continual_backprop",
        "early_rate",
        "diagnostics",
        "image_size",
        "channels",
        "mirror",
        "only",
        "skip",
    }
)
"""Keys that version 0.1 did not have. At their defaults they are not dumped, so that settings, and
the digests of them, stay the same."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class StreamSettings(_Section):
    """`stream` in the `[trial]` section: tasks that a model is trained on one after the other."""

    tasks: int = Field(60, ge=1, description="tasks, each of `epochs` epochs")
    images: int = Field(1600, ge=2, description="images, drawn once and the same for every task")
    change: Literal["labels", "pixels"] = Field(
        "labels",
        description="labels: each task draws every image's label anew, uniformly; pixels: each "
        "task moves the pixels of all its images by one permutation, and labels stay",
    )
    last: int = Field(
        10, ge=1, description="tasks at the end of the stream whose mean accuracy is the value"
    )

    @model_validator(mode="before")
    @classmethod
    def _short_streams(cls, data: Any) -> Any:
        """Let a stream of fewer than ten tasks count them all where `last` is omitted."""
        tasks = data.get("tasks") if isinstance(data, Mapping) else None
        if isinstance(tasks, int) and not isinstance(tasks, bool) and 1 <= tasks < 10:
            return {"last": tasks, **data}
        return data

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.last > self.tasks:
            raise ValueError(f"last must be at most the {self.tasks} tasks, got {self.last}")
        return self


class RenewalSettings(_Section):
    """`continual_backprop` in `[trial]`: units of little use are replaced (Dohare et al. 2024)."""

    replacement_rate: float = Field(
        1e-4, gt=0, le=1, description="share of a layer's mature units replaced at each step"
    )
    maturity: int = Field(100, ge=0, description="steps for which a new unit is protected")
    decay: float = Field(0.99, ge=0, lt=1, description="of the running mean of a unit's utility")


class EarlyRateSettings(_Section):
    """`early_rate` in `[trial]`: another learning rate for the beginning of a run."""

    factor: float = Field(gt=0, description="what the schedule's rate is multiplied by")
    until: float = Field(1.0, gt=0, le=1, description="for this share of the run's steps")


class TrialSettings(_Section):
    """The `[trial]` section of a study file; every key has a default."""

    model: str = Field(
        "alexnet",
        min_length=1,
        description="alexnet, mlp, a classifier of torchvision such as resnet18, or "
        "path.py:function, called as function(classes=N), and with shape=(channels, height, width) "
        "if it has such a parameter ([data sets](data.md))",
    )
    dataset: str = Field(
        "cifar10",
        min_length=1,
        description="digits, cifar10, cifar100, fashion_mnist, svhn, stl10, folder:PATH with "
        "image files in PATH/train/CLASS/ and PATH/test/CLASS/, or arrays:PATH with "
        "PATH/train_images.npy and so on ([data sets](data.md))",
    )
    image_size: int | None = Field(
        None,
        ge=8,
        le=1024,
        description="side that the images are resized to, in pixels; default: 32 for folder:, else "
        "the data set's own. arrays: keeps its own",
    )
    channels: Literal[1, 3] | None = Field(
        None,
        description="1: grey images; 3: RGB, or grey in three equal channels; default: the data "
        "set's own, 3 for folder: and digits. arrays: keeps its own",
    )
    validation: Share = Field(
        0.1, description="share of the training set held back, stratified by class and seeded"
    )
    epochs: int = Field(
        8,
        ge=1,
        le=1_000_000,
        description="passes over the training set; with a stream, over each task's images",
    )
    batch_size: int = Field(
        256,
        ge=1,
        description="images per step; the last, incomplete batch of an epoch is dropped",
    )
    optimizer: Literal["sgd", "adam", "adamw"] = Field(
        "sgd", description="torch's optimiser of that name"
    )
    learning_rate: Rate = Field(
        0.02, description="the rate, or the peak or start of the schedule where it has one"
    )
    learning_rates: tuple[Rate, ...] = Field(
        (),
        description="when given, every candidate, ReLU and the references included, tries each "
        "instead of learning_rate, and its best counts; a trial takes as many times longer. They "
        "are tried in this order, and a pruner, halving above all, judges by the first ones",
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="SGD's momentum; Adam's beta1")
    nesterov: bool = Field(False, description="Nesterov's form of the momentum (sgd only)")
    weight_decay: float = Field(
        5e-4, ge=0, description="on every parameter, as Krizhevsky et al. 2012; decoupled in adamw"
    )
    schedule: Literal["constant", "step", "cosine", "one-cycle"] = Field(
        "one-cycle",
        description="constant; step: times step_factor at each of the milestones; cosine: to 0 "
        "(Loshchilov and Hutter, arXiv:1608.03983); one-cycle: from a 25th of the rate up to it "
        "over the first 30 % of the steps and down to 1e-4 of where it began, both along cosines "
        "(Smith and Topin, arXiv:1708.07120, with the defaults of torch's OneCycleLR and a "
        "constant momentum)",
    )
    milestones: tuple[Share, ...] = Field(
        (0.5, 0.75), description="schedule step: shares of the epochs after which the rate drops"
    )
    step_factor: float = Field(0.1, gt=0, le=1, description="schedule step: the factor of a drop")
    augment: bool = Field(
        True,
        description="random crops of the image padded by an eighth of its side (4 of 32 pixels), "
        "and random mirroring",
    )
    mirror: bool | None = Field(
        None,
        description="whether augment mirrors; default: not the digits of digits and svhn, whose "
        "class it may change; all others",
    )
    initialisation: Literal["pytorch", "caffe", "he"] = Field(
        "pytorch", description="of the weights; caffe is for alexnet only"
    )
    dropout: float | None = Field(
        None, ge=0, lt=1, description="of every dropout layer; default: the model's own"
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="bfloat16: by autocast, with weights and their updates in float32; auto: "
        "the faster one in a short probe",
    )
    memory_format: Literal["auto", "contiguous", "channels_last"] = Field(
        "auto",
        description="of images and weights in memory; auto: channels_last, except that float32 on "
        "a CPU takes whichever a short timing finds faster",
    )
    compile: bool = Field(
        False, description="train through torch.compile, which takes time to compile first"
    )
    only: tuple[str, ...] = Field(
        (),
        description="patterns of the ReLUs that get a candidate's derivative; the others keep "
        "their own, for ReLU's trial and the references too. A pattern is one of names "
        "(`features.*`) or a slice by depth (`[:3]`: the first three in a forward pass), as for "
        "`convert` ([op.md](op.md)); default: all",
    )
    skip: tuple[str, ...] = Field(
        (), description="patterns of ReLUs that keep their own derivative, also of those in only"
    )
    width: int = Field(128, ge=1, le=65_536, description="model mlp: units in each hidden layer")
    depth: int = Field(3, ge=1, le=1_000, description="model mlp: hidden layers")
    stream: StreamSettings | None = Field(
        None,
        description="train on a stream of tasks ([streams](streams.md)) instead of on the training "
        'set: `{tasks = 60, images = 1600, change = "labels", last = 10}`, every key optional. '
        "augment is then false; schedule (restarted in each task) defaults to constant and "
        "weight_decay to 0",
    )
    activation: Literal["relu", "crelu"] = Field(
        "relu",
        description="model mlp: crelu is ReLU of a layer's output and of its negative, side by "
        "side (Shang et al., arXiv:1603.05201)",
    )
    normalisation: Literal["none", "layer"] = Field(
        "none", description="model mlp: layer puts a LayerNorm before each activation"
    )
    l2_init: float = Field(
        0.0,
        ge=0,
        description="strength λ of λ·‖θ − θ₀‖² in the loss, towards the initial weights θ₀ (Kumar "
        "et al., arXiv:2308.11958)",
    )
    continual_backprop: RenewalSettings | None = Field(
        None,
        description="model mlp: replace the least useful units a few at a time (Dohare et al. "
        "2024, doi 10.1038/s41586-024-07711-7): `{replacement_rate = 1e-4, maturity = 100, decay = "
        "0.99}`, every key optional",
    )
    early_rate: EarlyRateSettings | None = Field(
        None,
        description="multiply the learning rate at the beginning of the run, as a control of "
        "pseudo-derivatives that fade: `{factor = 1.3, until = 0.25}`",
    )
    diagnostics: bool = Field(
        False,
        description="after each epoch or task, compare the gradient with the exact one and count "
        "units that died and came back ([full budget](full_budget.md))",
    )

    @model_validator(mode="before")
    @classmethod
    def _what_a_stream_implies(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and data.get("stream") is not None:
            return {"augment": False, "schedule": "constant", "weight_decay": 0.0, **data}
        return data

    @model_serializer(mode="wrap")
    def _as_before(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = type(self).model_fields
        return {
            key: value
            for key, value in dump(self).items()
            if key not in LATER or getattr(self, key) != fields[key].default
        }

    @property
    def network(self) -> dict[str, Any]:
        """Arguments of `build_model`."""
        mlp = ("width", "depth", "activation", "normalisation")
        return {
            "spec": self.model,
            "initialisation": self.initialisation,
            "dropout": self.dropout,
            "mlp": {name: getattr(self, name) for name in mlp},
        }

    @property
    def sites(self) -> dict[str, Any]:
        """Arguments of `convert`: the ReLUs that get a candidate's derivative."""
        return {"only": self.only or None, "skip": self.skip}

    @property
    def measure(self) -> str:
        """A trial's value, in words."""
        return "validation accuracy" if self.stream is None else "accuracy in the last tasks"

    @property
    def unit(self) -> str:
        """What a run reports one by one: its epochs, or the tasks of its stream."""
        return "epoch" if self.stream is None else "task"

    @property
    def rounds(self) -> int:
        """Number of units that a run reports: its epochs, or the tasks of its stream."""
        return self.epochs if self.stream is None else self.stream.tasks

    @property
    def epochs_a_round(self) -> int:
        """Epochs of each unit that a run reports."""
        return 1 if self.stream is None else self.epochs

    @property
    def passes(self) -> int:
        """Epochs of the whole run, over all tasks of a stream."""
        return self.rounds * self.epochs_a_round

    def altered(self, changes: Mapping[str, Any]) -> Self:
        """Return the settings with some replaced; `ValidationError` if they do not fit together."""
        return type(self).model_validate({**self.model_dump(mode="json"), **changes})

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if conflicts := [*self._conflicts_of_network(), *self._conflicts_of_training()]:
            raise ValueError("; ".join(conflicts))
        return self

    def _conflicts_of_network(self) -> Iterator[str]:
        for name in ("activation", "normalisation", "continual_backprop"):
            if self.model != "mlp" and getattr(self, name) != type(self).model_fields[name].default:
                yield f"{name} is for model 'mlp' only, not {self.model!r}"
        if self.continual_backprop is not None:
            if (self.activation, self.normalisation) != ("relu", "none"):
                yield "continual_backprop needs activation 'relu' without normalisation"
            if self.compile:
                yield "continual_backprop cannot be compiled: set compile = false"

    def _conflicts_of_training(self) -> Iterator[str]:
        if self.stream is not None and self.augment:
            yield "augment must be false with a stream, which trains on given images"
        if self.stream is not None and self.batch_size > self.stream.images:
            yield (
                f"batch_size must be at most the {self.stream.images} images of a stream's task, "
                f"got {self.batch_size}"
            )
        if self.nesterov and self.optimizer != "sgd":
            yield f"nesterov is for optimizer 'sgd' only, not {self.optimizer!r}"
        if self.nesterov and self.momentum == 0:
            yield "nesterov needs a momentum above 0"
        if list(self.milestones) != sorted(set(self.milestones)):
            yield f"milestones must ascend, got {list(self.milestones)}"
        if len(set(self.learning_rates)) < len(self.learning_rates):
            yield f"learning_rates holds a rate twice: {list(self.learning_rates)}"


def length_of(trial: Mapping[str, Any]) -> str:
    """Return a run's length in words, from its dumped settings: `8 epochs`, or a stream's tasks."""
    stream, epochs = trial.get("stream"), trial["epochs"]
    if not stream:
        return counted(epochs, "epoch")
    drawn = "labels drawn anew" if stream["change"] == "labels" else "pixels permuted anew"
    return f"a stream of {stream['tasks']} tasks ({drawn}) of {counted(epochs, 'epoch')} each"


def where_in(trial: Mapping[str, Any]) -> str:
    """Return model and data set in words, from dumped settings: `alexnet (features.*) on digits`.

    In parentheses are the ReLUs that a candidate serves, unless it serves all.
    """
    parts = [", ".join(trial.get("only") or ())]
    parts += [f"without {', '.join(trial['skip'])}"] if trial.get("skip") else []
    sites = " ".join(part for part in parts if part)
    return f"{trial['model']}{f' ({sites})' if sites else ''} on {trial['dataset']}"


def learning_rate_at(settings: TrialSettings, step: int, *, steps: int) -> float:
    """Return the learning rate of a step.

    It depends on the step alone, so that a resumed run needs no scheduler's state. With a stream,
    the schedule restarts in each task.

    Args:
        settings: of the trial.
        step: 0 for the first of the whole run.
        steps: batches an epoch.
    """
    peak, early = settings.learning_rate, settings.early_rate
    if early is not None and step < early.until * settings.passes * steps:
        peak *= early.factor
    total = settings.epochs * steps
    step %= total  # a stream continues with the next task
    if settings.schedule == "step":
        done = step // steps  # epochs
        drops = sum(done >= round(share * settings.epochs) for share in settings.milestones)
        return peak * settings.step_factor**drops
    if settings.schedule == "cosine":
        return peak * (1 + math.cos(math.pi * step / total)) / 2
    if settings.schedule == "one-cycle":
        start = peak / 25
        end = start / 1e4
        top = 0.3 * total - 1
        if step <= top:
            return _cosine(start, peak, step / top)
        return _cosine(peak, end, (step - top) / (total - 1 - top))
    return peak


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
