"""Data sets as tensors: decoded once, cached on disk, batched on the device.

Images are ``(n, channels, height, width)`` uint8 tensors, labels ``(n,)`` int64.
"""

from pdsearch.data.batches import Shifts, augment, channel_statistics, draw_shifts, normalise
from pdsearch.data.dataset import Dataset, stratified_split
from pdsearch.data.load import load_dataset
from pdsearch.files import cache_directory

__all__ = [
    "Dataset",
    "Shifts",
    "augment",
    "cache_directory",
    "channel_statistics",
    "draw_shifts",
    "load_dataset",
    "normalise",
    "stratified_split",
]
