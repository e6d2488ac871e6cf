"""A folder of images: ``PATH/train/<class>/`` and ``PATH/test/<class>/``."""

import hashlib
import logging
import os
import unicodedata
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pdsearch.data.cache import cached, digest
from pdsearch.data.dataset import SIZE, Dataset
from pdsearch.data.images import DECODING
from pdsearch.data.images import read_image as _read_image
from pdsearch.errors import InputError

EXTENSIONS = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
# Thumbnails and copies by file managers and storage boxes, like names with a leading dot.
IGNORED = ("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r")
IGNORED_FOLDERS = (
    *("@eadir", "@tmp", "@recycle", "#recycle", "#snapshot", "__macosx", "lost+found"),
    *("$recycle.bin", "system volume information", "__pycache__"),
)

log = logging.getLogger(__name__)


def load_folder(spec: str, text: str, *, directory: Path | None, cache: Path) -> Dataset:
    """Load the folder `text`, relative to `directory`; see `load_dataset`."""
    if not text.strip():
        raise InputError("dataset 'folder:' names no folder: write folder:PATH")
    if "\0" in text:
        raise InputError(f"the path of data set {spec!r} holds a NUL character")
    root = ((directory or Path.cwd()) / Path(text).expanduser()).resolve()
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise InputError(f"data set {spec!r}: {root} {what}")
    for part in ("train", "test"):
        if not (root / part).is_dir():
            raise InputError(
                f"data set {spec!r}: {root} has no folder {part!r}; the layout is "
                "train/<class>/ and test/<class>/"
            )
    own, others = _classes(root / "train"), _classes(root / "test")
    classes = list(own)
    if own.keys() != others.keys():
        differences = [f"{name!r} only in train" for name in own if name not in others]
        differences += [f"{name!r} only in test" for name in others if name not in own]
        raise InputError(
            f"data set {spec!r}: train and test have different classes: {_first(differences)}"
        )
    if len(classes) < 2:
        found = f"only {classes[0]!r}" if classes else "none"
        raise InputError(
            f"data set {spec!r}: at least 2 class folders are needed in {root}/train, found {found}"
        )
    train = [_images_of(own[name]) for name in classes]
    test = [_images_of(others[name]) for name in classes]
    every = [file for files in (*train, *test) for file in files]
    lines = [
        f"{os.path.relpath(path, root)}\0{stat.st_size}\0{stat.st_mtime_ns}\0{stat.st_ctime_ns}"
        for path, stat in every
    ]
    key = digest("\n".join([str(DECODING), *lines]))

    def build() -> Dataset:
        images = _decode([path for path, _ in every])
        split = sum(map(len, train))
        return Dataset(
            name=spec,
            train_images=images[:split],
            train_labels=_labels(train),
            test_images=images[split:],
            test_labels=_labels(test),
            classes=tuple(classes),
        )

    dataset = cached(spec, cache, stem=f"folder-{digest(str(root))[:16]}", key=key, build=build)
    _warn_of_training_images(dataset)
    return dataset


def _warn_of_training_images(dataset: Dataset) -> None:
    """Warn if test images are training images too: linked, copied, or in the same folder."""
    known = set(map(_digest, dataset.train_images.numpy()))
    same = sum(_digest(image) in known for image in dataset.test_images.numpy())
    total = len(dataset.test_images)
    which = f"{same} of {total} test images are training images"
    if same == total:
        which = "each test image is a training image"
    if same:
        log.warning(
            "data set %r: %s too (the same folder, links or copies): a confirmation needs images "
            "that no training saw",
            dataset.name,
            which,
        )


def _digest(image: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    return hashlib.blake2b(image.tobytes(), digest_size=16).digest()


def _left_out(name: str) -> bool:
    return name.startswith(".") or name.lower() in IGNORED_FOLDERS


def _classes(folder: Path) -> dict[str, Path]:
    """The class folders by name; macOS and Linux may write one name in other code points."""
    found: dict[str, Path] = {}
    for entry in list(os.scandir(folder)):  # read to its end, which closes it
        if not entry.is_dir() or _left_out(entry.name):
            continue
        name = unicodedata.normalize("NFC", entry.name)
        if name in found:
            raise InputError(
                f"{folder} has two class folders called {name!r}, in composed and in decomposed "
                "letters: put their images into one"
            )
        found[name] = Path(entry.path)
    return dict(sorted(found.items()))


def _images_of(folder: Path) -> list[tuple[str, os.stat_result]]:
    """The image files below a class folder, in the order of their names."""
    found = []
    seen: set[tuple[int, int]] = set()
    for base, folders, _ in os.walk(folder, followlinks=True):
        here = os.stat(base)
        if (here.st_dev, here.st_ino) in seen:
            raise InputError(
                f"{base} leads to a folder of this class that is read already: remove the link"
            )
        seen.add((here.st_dev, here.st_ino))
        folders[:] = sorted(name for name in folders if not _left_out(name))
        for entry in sorted(os.scandir(base), key=lambda e: e.name):
            if entry.is_dir() or entry.name.startswith(".") or entry.name.lower() in IGNORED:
                continue
            if not entry.name.lower().endswith(EXTENSIONS):
                raise InputError(
                    f"{entry.path} is no image file: valid are {', '.join(EXTENSIONS)}; "
                    "move it out of the class folder"
                )
            try:
                found.append((entry.path, entry.stat()))
            except OSError as error:
                raise InputError(f"{entry.path} cannot be read: {error.strerror}") from error
    if not found:
        raise InputError(f"class folder {folder} holds no image")
    return found


def _labels(files: Sequence[Sequence[object]]) -> torch.Tensor:
    counts = torch.tensor([len(part) for part in files])
    return torch.repeat_interleave(torch.arange(len(files)), counts)


def _decode(paths: Sequence[str]) -> torch.Tensor:
    images = np.empty((len(paths), 3, SIZE, SIZE), dtype=np.uint8)

    def decode(index: int) -> None:
        images[index] = _read_image(paths[index]).transpose(2, 0, 1)

    # Pillow's decoders release the interpreter lock. After an error `map` cancels the rest.
    with ThreadPoolExecutor(max_workers=min(16, os.cpu_count() or 1)) as pool:
        list(pool.map(decode, range(len(paths))))
    return torch.from_numpy(images)


def _first(parts: Sequence[str]) -> str:
    shown = ", ".join(parts[:6])
    return shown if len(parts) <= 6 else f"{shown} and {len(parts) - 6} more"
