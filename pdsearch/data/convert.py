"""Images of another size, or in grey."""

from dataclasses import replace

import torch
import torch.nn.functional as F

from pdsearch.data.dataset import Dataset

_CHUNK = 2**24  # bytes of images converted at a time


def converted(dataset: Dataset, *, size: int, channels: int) -> Dataset:
    """Return a data set in memory whose images are ``(channels, size, size)``.

    Args:
        dataset: of square images in one or three channels.
        size: side, in pixels. Images are resized by bicubic interpolation, antialiased.
        channels: 1: RGB becomes grey; 3: grey is repeated.
    """
    parts = (dataset.train_images, dataset.test_images)
    train, test = (_converted(images, size=size, channels=channels) for images in parts)
    return replace(dataset, train_images=train, test_images=test, fingerprint="")


def _converted(images: torch.Tensor, *, size: int, channels: int) -> torch.Tensor:
    found = torch.empty(len(images), channels, size, size, dtype=torch.uint8)
    step = max(1, _CHUNK // images[0].numel())
    for start in range(0, len(images), step):
        part = images[start : start + step]
        if channels < part.shape[1]:
            part = grey(part)
        if part.shape[-1] != size:
            part = F.interpolate(
                part, (size, size), mode="bicubic", antialias=True, align_corners=False
            )
        found[start : start + step] = part
    return found


def grey(images: torch.Tensor) -> torch.Tensor:
    """Return RGB images in grey, ``(n, 3, h, w)`` to ``(n, 1, h, w)``, uint8.

    That is ITU-R 601-2 luma, in Pillow's fixed-point arithmetic: `Image.convert("L")`.
    """
    red, green, blue = images.int().unbind(1)
    luma = (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16
    return luma.to(torch.uint8)[:, None]
