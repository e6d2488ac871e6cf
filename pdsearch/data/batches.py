"""Batches: cropped, mirrored and normalised as tensors, on the device."""

from typing import NamedTuple

import torch
import torch.nn.functional as F

PADDING = 4  # pixels on each side before the crop: He et al. 2016, arXiv:1512.03385, section 4.2


def channel_statistics(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and standard deviation of each channel, in pixel values (0..255).

    Args:
        images: ``(n, 3, height, width)``, uint8.

    Returns:
        Two float32 tensors of shape ``(3,)``. A channel without variation gets deviation 1.
    """
    means, deviations = [], []
    values = torch.arange(256, dtype=torch.float64)
    for channel in range(images.shape[1]):
        # Counts are exact, whatever the order and the number of threads.
        counts = torch.zeros(256, dtype=torch.float64)
        for part in images[:, channel].split(4096):
            counts += torch.bincount(part.reshape(-1), minlength=256)
        weights = counts / counts.sum()
        mean = (weights * values).sum()
        variance = (weights * (values - mean) ** 2).sum()
        means.append(mean)
        deviations.append(variance.sqrt() if variance > 0 else torch.ones_like(variance))
    return torch.stack(means).float(), torch.stack(deviations).float()


def normalise(images: torch.Tensor, mean: torch.Tensor, deviation: torch.Tensor) -> torch.Tensor:
    """Return ``(image − mean)/deviation`` by channel: uint8 ``(n, 3, h, w)`` to float32."""
    return (images.float() - mean.view(1, -1, 1, 1)) / deviation.view(1, -1, 1, 1)


class Shifts(NamedTuple):
    """Where each image of an epoch is cropped, and whether it is mirrored.

    Attributes:
        rows: ``(n,)``, int64, the crop's first row in the padded image, 0..8.
        columns: ``(n,)``, int64, its first column.
        mirrored: ``(n,)``, bool.
    """

    rows: torch.Tensor
    columns: torch.Tensor
    mirrored: torch.Tensor

    def part(self, start: int, stop: int) -> "Shifts":
        """Return those of the images ``start:stop`` of the epoch."""
        return Shifts(*(values[start:stop] for values in self))

    def to(self, device: torch.device) -> "Shifts":
        """Return the same on another device."""
        return Shifts(*(values.to(device) for values in self))


def draw_shifts(count: int, *, mirror: bool, generator: torch.Generator) -> Shifts:
    """Draw the crops and flips of ``count`` images, on the CPU: every device sees the same."""
    rows = torch.randint(0, 2 * PADDING + 1, (count,), generator=generator)
    columns = torch.randint(0, 2 * PADDING + 1, (count,), generator=generator)
    coin = torch.rand(count, generator=generator) < 0.5
    return Shifts(rows, columns, coin if mirror else torch.zeros_like(coin))


def augment(images: torch.Tensor, shifts: Shifts) -> torch.Tensor:
    """Pad images with 4 black pixels, crop each where ``shifts`` says, and mirror some.

    One gather for the whole batch: 2.3 ms for 512 images on two cores; a training step takes 150.

    Args:
        images: ``(n, channels, height, width)``, uint8 or floating.
        shifts: of n images, on the same device.

    Returns:
        A tensor like ``images``.
    """
    n, channels, height, width = images.shape
    padded = F.pad(images, (PADDING,) * 4)
    across = torch.arange(width, device=images.device)
    down = torch.arange(height, device=images.device)
    columns = shifts.columns[:, None] + torch.where(
        shifts.mirrored[:, None], across.flip(0), across
    )
    rows = shifts.rows[:, None] + down
    index = rows[:, :, None] * (width + 2 * PADDING) + columns[:, None, :]
    index = index.view(n, 1, height * width).expand(n, channels, height * width)
    return padded.flatten(2).gather(2, index).view(n, channels, height, width)
