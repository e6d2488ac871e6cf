"""Data sets by name."""

import contextlib
import json
import socket
import sys
import urllib.error
from pathlib import Path

import numpy as np
import torch

from pdsearch.data.cache import cached, digest
from pdsearch.data.dataset import Dataset, stratified_split
from pdsearch.data.folder import load_folder
from pdsearch.errors import InputError
from pdsearch.files import cache_directory


def load_dataset(spec: str, *, directory: Path | None = None, cache: Path | None = None) -> Dataset:
    """Load a data set by name, decoding and caching it when it is read for the first time.

    * ``digits``: the 1797 8×8 digits of scikit-learn, each pixel repeated 4×4 to 32×32 and scaled
      from 0..16 to 0..255, in three equal channels. A stratified fifth, drawn with seed 0, is the
      test set: 1438 training and 359 test images. It is for trying things out, and is not mirrored.
    * ``cifar10``, ``cifar100``: as torchvision downloads and checks them (MD5).
    * ``folder:PATH``: image files in ``PATH/train/<class>/`` and ``PATH/test/<class>/`` (subfolders
      included), as ``torchvision.datasets.ImageFolder`` reads them. Images of 32×32 RGB are used
      unchanged. Any other is turned upright by its EXIF tag, put on white if it is transparent,
      converted to RGB (16-bit grey scaled to 8 bits), cropped to its central square and resized to
      32×32 (bicubic, antialiased). Of an animated image the first frame is used. Float and 32-bit
      TIFFs are refused, because their range is unknown. Hidden folders and those of file managers
      and storage boxes (``@eaDir``, ``__MACOSX``) are skipped. Test images that are training images
      too are warned about.

    A folder's cache file is named by the folder's path and a digest of each file's relative name,
    size, modification time and inode change time, which no program can set. Reading the contents
    instead takes 5.0 s rather than 0.3 s for 60 000 files in the page cache.

    Args:
        spec: ``digits``, ``cifar10``, ``cifar100`` or ``folder:PATH``.
        directory: the folder that ``PATH`` is relative to; default: the current folder.
        cache: the cache folder; default: the user's.

    Raises:
        InputError: the name is unknown, or a file or class of the folder cannot be used.
    """
    cache = cache_directory() if cache is None else cache
    if spec == "digits":
        return _digits()
    if spec in ("cifar10", "cifar100"):
        return _cifar(spec, cache)
    kind, colon, text = spec.partition(":")
    if kind == "folder" and colon:
        return load_folder(spec, text, directory=directory, cache=cache)
    raise InputError(f"no data set {spec!r}: valid are digits, cifar10, cifar100 and folder:PATH")


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


def _cifar(name: str, cache: Path) -> Dataset:
    import torchvision.datasets

    source = getattr(torchvision.datasets, name.upper())
    checksums = json.dumps([source.train_list, source.test_list, source.meta])
    root = cache / "torchvision"

    def build() -> Dataset:
        timeout = socket.getdefaulttimeout()
        socket.setdefaulttimeout(30)  # torchvision sets none: a lost connection would hang for ever
        try:
            # torchvision may print to stdout, which is for data here.
            with contextlib.redirect_stdout(sys.stderr):
                train = source(root, train=True, download=True)
                test = source(root, train=False)
        except (OSError, RuntimeError, EOFError) as error:
            reason = getattr(error, "reason", None) or str(error) or type(error).__name__
            network = isinstance(error, (urllib.error.URLError, TimeoutError, ConnectionError))
            what = "cannot be downloaded" if network else "cannot be read"
            raise InputError(
                f"data set {name!r} is not in {root} and {what} ({reason}): put "
                f"{source.filename} from {source.url} there (MD5 {source.tgz_md5}), or use "
                "dataset = 'folder:PATH'"
            ) from error
        finally:
            socket.setdefaulttimeout(timeout)
        return Dataset(
            name=name,
            train_images=torch.from_numpy(train.data).permute(0, 3, 1, 2).contiguous(),
            train_labels=torch.tensor(train.targets),
            test_images=torch.from_numpy(test.data).permute(0, 3, 1, 2).contiguous(),
            test_labels=torch.tensor(test.targets),
            classes=tuple(train.classes),
        )

    return cached(name, cache, stem=name, key=digest(checksums), build=build)
