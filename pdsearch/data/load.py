"""Data sets by name."""

from pathlib import Path

import numpy as np
import torch

from pdsearch.data.arrays import load_arrays, root_of
from pdsearch.data.cache import cached, digest
from pdsearch.data.convert import converted
from pdsearch.data.dataset import SIZE, Dataset, stratified_split
from pdsearch.data.download import downloaded
from pdsearch.data.folder import load_folder
from pdsearch.errors import InputError
from pdsearch.files import cache_directory

NAMED = ("digits", "cifar10", "cifar100", "fashion_mnist", "svhn", "stl10")


def load_dataset(
    spec: str,
    *,
    image_size: int | None = None,
    channels: int | None = None,
    directory: Path | None = None,
    cache: Path | None = None,
) -> Dataset:
    """Load a data set by name, decoding and caching it when it is read for the first time.

    * ``digits``: the 1797 8×8 digits of scikit-learn, each pixel repeated 4×4 to 32×32 and scaled
      from 0..16 to 0..255, in three equal channels. A stratified fifth, drawn with seed 0, is the
      test set: 1438 training and 359 test images. It is for trying things out, and is not mirrored.
    * ``cifar10``, ``cifar100`` (32×32 RGB), ``fashion_mnist`` (28×28 grey), ``svhn`` (32×32 RGB,
      without its extra training images; not mirrored), ``stl10`` (96×96 RGB, without its unlabelled
      images): as torchvision downloads and checks them (MD5).
    * ``folder:PATH``: image files in ``PATH/train/<class>/`` and ``PATH/test/<class>/`` (subfolders
      included), as ``torchvision.datasets.ImageFolder`` reads them. Images of 32×32 RGB are used
      unchanged. Any other is turned upright by its EXIF tag, put on white if it is transparent,
      converted to RGB (16-bit grey scaled to 8 bits), cropped to its central square and resized to
      32×32 (bicubic, antialiased). Of an animated image the first frame is used. Float and 32-bit
      TIFFs are refused, because their range is unknown. Hidden folders and those of file managers
      and storage boxes (``@eaDir``, ``__MACOSX``) are skipped. Test images that are training images
      too are warned about. Images of more than 2 GiB in total are decoded into files in the cache
      folder, which are mapped into memory.
    * ``arrays:PATH``: ``PATH/train_images.npy``, ``train_labels.npy``, ``test_images.npy`` and
      ``test_labels.npy``, as `numpy.save` writes them. Images are ``(n, channels, height, width)``
      or ``(n, height, width)``, uint8; labels ``(n,)``, whole numbers from 0. ``PATH/classes.txt``,
      if it exists, has a class name per line. The images are mapped into memory.

    A folder's cache file is named by the folder's path and a digest of each file's relative name,
    size, modification time and inode change time, which no program can set. Reading the contents
    instead takes 5.0 s rather than 0.3 s for 60 000 files in the page cache.

    Args:
        spec: the name.
        image_size: side that images are resized to, in pixels; default: as above.
        channels: 1: grey (ITU-R 601-2 luma); 3: RGB, or grey in three equal channels; default: as
            above.
        directory: the folder that ``PATH`` is relative to; default: the current folder.
        cache: the cache folder; default: the user's.

    Raises:
        InputError: the name is unknown, or a file or class of the folder cannot be used.
    """
    cache = cache_directory() if cache is None else cache
    kind, colon, text = spec.partition(":")
    if kind == "folder" and colon:
        root = root_of(spec, text, directory=directory)
        return load_folder(spec, root, size=image_size or SIZE, channels=channels or 3, cache=cache)
    if kind == "arrays" and colon:
        for name, value in (("image_size", image_size), ("channels", channels)):
            if value is not None:
                raise InputError(
                    f"trial.{name}: arrays keep their own, so omit it for data set {spec!r}, or "
                    "save other arrays"
                )
        return load_arrays(spec, root_of(spec, text, directory=directory), cache=cache)
    if spec not in NAMED:
        raise InputError(
            f"no data set {spec!r}: valid are {', '.join(NAMED)}, folder:PATH and arrays:PATH"
        )
    dataset = _digits() if spec == "digits" else downloaded(spec, cache)
    size = image_size or dataset.shape[1]
    channels = channels or dataset.shape[0]
    if (channels, size, size) == dataset.shape:
        return dataset
    return cached(
        spec,
        cache,
        stem=f"converted-{spec}-{size}-{channels}",
        key=digest(f"{dataset.fingerprint} {size} {channels}"),
        build=lambda: converted(dataset, size=size, channels=channels),
    )


def _digits() -> Dataset:
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = (digits.images * (255 / 16) + 0.5).astype(np.uint8).repeat(4, axis=1).repeat(4, axis=2)
    images = torch.from_numpy(grey)[:, None].expand(-1, 3, -1, -1).contiguous()
    labels = torch.from_numpy(digits.target.astype(np.int64))
    train, test = stratified_split(labels, share=0.2, seed=0)
    return Dataset(
        name="digits",
        train_images=images[train],
        train_labels=labels[train],
        test_images=images[test],
        test_labels=labels[test],
        classes=tuple(str(name) for name in digits.target_names),
        mirror=False,
    )
