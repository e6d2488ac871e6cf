"""A stream of tasks, which a network is trained on one after the other.

Networks that keep learning new tasks lose the ability to (loss of plasticity: Lyle et al. 2023,
arXiv:2303.01486; Dohare et al. 2024, doi 10.1038/s41586-024-07711-7). A stream measures this. Its
images are drawn once and are the same for every task: in a search from the training set without the
part held back, in a confirmation from the test set. From task to task changes

- `labels`: each image's label, drawn anew uniformly over the classes; or
- `pixels`: the place of each pixel, by one permutation for all images and channels of a task.

The model keeps its weights and the optimiser's state. The value of the trial is the mean accuracy
in the training forward passes of the last tasks (see `TaskRecord`). It measures how well the
network still learns; random labels leave nothing to generalise.
"""

from dataclasses import dataclass, replace

import torch
from torch import nn

from pdsearch.data import Dataset, stratified_split
from pdsearch.errors import InputError
from pdsearch.trial.loop import Split, TrialData, derive_seed
from pdsearch.trial.settings import StreamSettings, TrialSettings


@dataclass(frozen=True, eq=False)
class Stream:
    """The tasks of a run, drawn from its seed alone: the runs of a seed have the same tasks.

    `data` has the images ``(images, channels, h, w)``, float32 and normalised, with their own
    labels.
    """

    data: TrialData
    settings: StreamSettings
    seed: int

    @classmethod
    def of(
        cls,
        dataset: Dataset,
        settings: TrialSettings,
        *,
        seed: int,
        split: Split,
        device: torch.device,
    ) -> "Stream":
        """Draw the images of a run, whose settings have a stream.

        Raises:
            InputError: the data set has fewer images than the stream needs.
        """
        stream = settings.stream
        assert stream is not None
        whole = TrialData.of(dataset, settings, seed=seed, split=split, device=device)
        images, labels, pool = whole.images, whole.labels, whole.train
        if split == "test":
            images, labels = whole.evaluation_images, whole.evaluation_labels
            pool = torch.arange(len(labels))
        _check_room(stream, len(pool), dataset=dataset.name)
        generator = torch.Generator().manual_seed(derive_seed(seed, "stream images"))
        drawn = torch.randperm(len(pool), generator=generator)[: stream.images]
        chosen = pool[drawn]
        drawn_images = images[chosen.to(images.device)].to(device)
        data = replace(
            _on(whole, whole.normalised(drawn_images), labels[chosen.to(device)]),
            train=torch.arange(stream.images),
            steps=stream.images // settings.batch_size,
        )
        return cls(data, stream, seed)

    def task(self, number: int) -> TrialData:
        """Return the data of a task (from 0)."""
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "stream task", number))
        images, labels = self.data.images, self.data.labels
        if self.settings.change == "labels":
            drawn = torch.randint(self.data.classes, labels.shape, generator=generator)
            labels = drawn.to(labels.device)
        else:
            height, width = images.shape[2:]
            order = torch.randperm(height * width, generator=generator).to(images.device)
            images = images.flatten(2)[:, :, order].view_as(images)
        return _on(self.data, images, labels)

    @property
    def counted(self) -> range:
        """The tasks (from 0) that the value is a mean over."""
        return range(self.settings.tasks - self.settings.last, self.settings.tasks)


def _on(data: TrialData, images: torch.Tensor, labels: torch.Tensor) -> TrialData:
    """The data with these images, to train on and to evaluate on."""
    return replace(
        data,
        images=images,
        labels=labels,
        evaluation_images=images,
        evaluation=torch.arange(len(images), device=images.device),
        evaluation_labels=labels,
    )


def check_room(settings: TrialSettings, dataset: Dataset) -> None:
    """Check that there are as many images as a stream, if any, draws in search and confirmation.

    Raises:
        InputError: there are fewer.
    """
    if settings.stream is None:
        return
    share = settings.validation
    train, _ = stratified_split(dataset.train_labels, share=share, seed=0, classes=dataset.classes)
    _check_room(settings.stream, len(train), dataset=f"{dataset.name} less those held back")
    where = f"the test set of {dataset.name}, which a confirmation draws from"
    _check_room(settings.stream, len(dataset.test_labels), dataset=where)


def _check_room(stream: StreamSettings, available: int, *, dataset: str) -> None:
    if stream.images > available:
        raise InputError(
            f"trial.stream.images: must be ≤ {available}, the images of {dataset}, got "
            f"{stream.images}"
        )


def weight_norms(model: nn.Module) -> dict[str, float]:
    """Return the L2 norm of each layer's weight, by the layer's name."""
    return {
        name.removesuffix(".weight"): parameter.detach().float().norm().item()
        for name, parameter in model.named_parameters()
        if name.endswith("weight") and parameter.dim() > 1
    }
