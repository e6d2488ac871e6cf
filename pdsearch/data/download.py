"""Data sets that torchvision downloads."""

import contextlib
import json
import socket
import sys
import urllib.error
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pdsearch.data.cache import cached, digest
from pdsearch.data.dataset import Dataset
from pdsearch.errors import InputError, one_line


@dataclass(frozen=True)
class Source:
    """A data set of torchvision.

    Attributes:
        kind: the name of its class in `torchvision.datasets`.
        parts: the arguments that select the training and the test part.
        files: its files and checksums, from the class.
        where: what to put where by hand if there is no network.
        images: its images ``(n, channels, height, width)`` from an object of the class.
        labels: the name of its labels.
        classes: their names; None: those of the class.
        mirror: whether a mirrored image keeps its class.
    """

    kind: str
    parts: tuple[dict[str, Any], dict[str, Any]]
    files: Callable[[Any], Any]
    where: Callable[[Any], str]
    images: Callable[[Any], Any]
    labels: str
    classes: tuple[str, ...] | None = None
    mirror: bool = True


_TRAIN = ({"train": True}, {"train": False})
_SPLIT = ({"split": "train"}, {"split": "test"})


def _archive(source: Any) -> str:
    return f"put {source.filename} from {source.url} there (MD5 {source.tgz_md5})"


def _cifar(kind: str) -> Source:
    return Source(
        kind,
        _TRAIN,
        files=lambda source: [source.train_list, source.test_list, source.meta],
        where=_archive,
        images=lambda own: own.data.transpose(0, 3, 1, 2),
        labels="targets",
    )


SOURCES = {
    "cifar10": _cifar("CIFAR10"),
    "cifar100": _cifar("CIFAR100"),
    "fashion_mnist": Source(
        "FashionMNIST",
        _TRAIN,
        files=lambda source: source.resources,
        where=lambda source: (
            f"put {', '.join(name for name, _ in source.resources)} from {source.mirrors[0]} into "
            "FashionMNIST/raw there"
        ),
        images=lambda own: own.data.numpy()[:, None],
        labels="targets",
    ),
    "svhn": Source(
        "SVHN",
        _SPLIT,
        files=lambda source: [source.split_list[part] for part in ("train", "test")],
        where=lambda source: (
            f"put {' and '.join(source.split_list[part][0] for part in ('train', 'test'))} there"
        ),
        images=lambda own: own.data,
        labels="labels",
        classes=tuple("0123456789"),
        mirror=False,
    ),
    "stl10": Source(
        "STL10",
        _SPLIT,
        files=lambda source: [source.train_list, source.test_list],
        where=_archive,
        images=lambda own: own.data,
        labels="labels",
    ),
}


def downloaded(name: str, cache: Path) -> Dataset:
    """Load a data set of `SOURCES`, downloading it if it is not in the cache folder.

    Raises:
        InputError: it cannot be downloaded or read.
    """
    import torchvision.datasets

    source = SOURCES[name]
    kind = getattr(torchvision.datasets, source.kind)
    root = cache / "torchvision"

    def build() -> Dataset:
        timeout = socket.getdefaulttimeout()
        socket.setdefaulttimeout(30)  # torchvision sets none: a lost connection would hang for ever
        try:
            # torchvision may print to stdout, which is for data here.
            with contextlib.redirect_stdout(sys.stderr):
                train, test = (kind(root, **part, download=True) for part in source.parts)
                if not source.classes and not getattr(train, "classes", None):
                    raise RuntimeError("its file of class names is missing")
        # AssertionError: of torchvision, for a FashionMNIST file of the wrong length.
        except (OSError, RuntimeError, EOFError, ValueError, AssertionError) as error:
            reason = one_line(getattr(error, "reason", None) or error) or type(error).__name__
            network = isinstance(error, (urllib.error.URLError, TimeoutError, ConnectionError))
            network |= reason.startswith("Error downloading")
            what = "cannot be downloaded" if network else "cannot be read"
            raise InputError(
                f"data set {name!r} is not in {root} and {what} ({reason}): "
                f"{source.where(kind)}, or use dataset = 'folder:PATH'"
            ) from error
        finally:
            socket.setdefaulttimeout(timeout)
        return Dataset(
            name=name,
            train_images=_tensor(source.images(train)),
            train_labels=torch.as_tensor(getattr(train, source.labels)).long(),
            test_images=_tensor(source.images(test)),
            test_labels=torch.as_tensor(getattr(test, source.labels)).long(),
            classes=source.classes or tuple(train.classes),
            mirror=source.mirror,
        )

    return cached(name, cache, stem=name, key=digest(json.dumps(source.files(kind))), build=build)


def _tensor(images: Any) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(images))
