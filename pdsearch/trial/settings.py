"""What a training run is made of: the `[trial]` section of a study file, and the learning rate."""

import math
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Share = Annotated[float, Field(gt=0, lt=1)]
Rate = Annotated[float, Field(gt=0)]


class TrialSettings(BaseModel):
    """The `[trial]` section of a study file; every key has a default."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    model: str = Field(
        "alexnet",
        min_length=1,
        description="alexnet (for 32×32 images), a classifier of torchvision such as resnet18, or "
        "path.py:function, called as function(classes=N)",
    )
    dataset: str = Field(
        "cifar10",
        min_length=1,
        description="digits, cifar10, cifar100, or folder:PATH with PATH/train/CLASS/ and "
        "PATH/test/CLASS/ full of images (cut square and resized to 32×32 where they are not)",
    )
    validation: Share = Field(
        0.1, description="share of the training set held back, stratified by class and seeded"
    )
    epochs: int = Field(8, ge=1, le=1_000_000, description="passes over the training set")
    batch_size: int = Field(
        256,
        ge=1,
        description="images a step; what does not fill a batch is left out of that epoch, whose "
        "order is drawn anew each time",
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
        "instead of learning_rate, and its best counts; a trial takes as many times longer. "
        "In this order: a pruner, halving above all, judges by the first ones before it knows the "
        "others",
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
        "(Smith and Topin, arXiv:1708.07120, with the defaults of torch's OneCycleLR; momentum "
        "stays)",
    )
    milestones: tuple[Share, ...] = Field(
        (0.5, 0.75), description="schedule step: shares of the epochs after which the rate drops"
    )
    step_factor: float = Field(0.1, gt=0, le=1, description="schedule step: the factor of a drop")
    augment: bool = Field(
        True,
        description="random crops of the image padded by 4 pixels, and random mirroring where "
        "it keeps the class",
    )
    initialisation: Literal["pytorch", "caffe", "he"] = Field(
        "pytorch", description="of the weights; caffe is for alexnet only"
    )
    dropout: float | None = Field(
        None, ge=0, lt=1, description="of every dropout layer; the model's own when left out"
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="bfloat16: by autocast, with weights and their updates in float32; auto: "
        "what a short measured probe finds faster",
    )
    memory_format: Literal["auto", "contiguous", "channels_last"] = Field(
        "auto",
        description="of images and weights in memory; auto: channels_last, but for float32 on a "
        "CPU what the probe finds faster",
    )
    compile: bool = Field(
        False,
        description="train through torch.compile, which takes time to begin with",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.nesterov and self.optimizer != "sgd":
            raise ValueError(f"nesterov is for optimizer 'sgd' only, not {self.optimizer!r}")
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0")
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones must ascend, got {list(self.milestones)}")
        if len(set(self.learning_rates)) < len(self.learning_rates):
            raise ValueError(f"learning_rates holds a rate twice: {list(self.learning_rates)}")
        return self


def learning_rate_at(settings: TrialSettings, step: int, *, steps: int) -> float:
    """The learning rate of a step.

    A function of the step alone, so that a resumed run needs no scheduler's state.

    Args:
        settings: of the trial.
        step: 0 for the first of the whole run.
        steps: batches an epoch.
    """
    peak = settings.learning_rate
    total = settings.epochs * steps
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
