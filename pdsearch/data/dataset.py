"""A data set, in memory or mapped from files, and the split of its training part."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pdsearch.errors import InputError

SIZE = 32  # default side of a folder's images, in pixels
FORMAT = 1  # raise it when decoding changes: older cache files are then rebuilt


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set, in memory or mapped from files. Nothing may write to its images.

    Attributes:
        name: as given to `load_dataset`.
        train_images: ``(n, channels, height, width)``, uint8.
        train_labels: ``(n,)``, int64, indices into ``classes``.
        test_images: ``(m, channels, height, width)``, uint8; for a final confirmation, never for a
            search.
        test_labels: ``(m,)``, int64.
        classes: the names of the classes.
        mirror: whether a mirrored image keeps its class (a digit does not).
        fingerprint: sha256 of the tensors' bytes and the classes.
    """

    name: str
    train_images: torch.Tensor
    train_labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor
    classes: tuple[str, ...]
    mirror: bool = True
    fingerprint: str = ""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of its images."""
        channels, height, width = self.train_images.shape[1:]
        return channels, height, width

    def __post_init__(self) -> None:
        if not self.fingerprint:
            object.__setattr__(self, "fingerprint", fingerprint(tensors_of(self), self.classes))


def stratified_split(
    labels: torch.Tensor, *, share: float, seed: int, classes: Sequence[str] = ()
) -> tuple[torch.Tensor, torch.Tensor]:
    """Split indices so that each class gives the same share to the validation set.

    A class of n members gives ``floor(share·n + 1/2)``, but gives and keeps at least one.

    Args:
        labels: ``(n,)``, int64.
        share: the fraction held back, in (0, 1).
        seed: of NumPy's ``RandomState``, whose stream NEP 19 freezes: the split is the same
            everywhere.
        classes: their names, for the message.

    Returns:
        The indices that remain and those held back, each ascending, int64.

    Raises:
        InputError: a class has a single member, or share is not in (0, 1).
    """
    if not 0 < share < 1:
        raise InputError(f"the share held back for validation must be in (0, 1), got {share}")
    array = labels.numpy()
    random = np.random.RandomState(seed % 2**32)
    held = np.zeros(len(array), dtype=bool)
    for label in np.unique(array):
        members = np.flatnonzero(array == label)
        if len(members) < 2:
            name = repr(classes[label]) if classes else label
            raise InputError(
                f"class {name} has a single training image, but at least 2 are needed to hold some "
                "back for validation"
            )
        count = min(max(1, int(share * len(members) + 0.5)), len(members) - 1)
        held[random.permutation(members)[:count]] = True
    return torch.from_numpy(np.flatnonzero(~held)), torch.from_numpy(np.flatnonzero(held))


PARTS = ("train_images", "train_labels", "test_images", "test_labels")


def tensors_of(dataset: Dataset) -> dict[str, torch.Tensor]:
    """Return the four tensors of a data set by name, each contiguous."""
    return {part: getattr(dataset, part).contiguous() for part in PARTS}


def fingerprint(tensors: dict[str, torch.Tensor], classes: tuple[str, ...]) -> str:
    """Return the sha256 of the tensors and the classes, hexadecimal."""
    digest = hashlib.sha256(json.dumps([FORMAT, classes]).encode())
    for part, tensor in tensors.items():
        digest.update(f"{part} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()
