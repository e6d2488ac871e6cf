"""A folder of images: ``PATH/train/<class>/`` and ``PATH/test/<class>/``."""

import math
import os
import shutil
import unicodedata
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from pdsearch.data.arrays import Array, load_arrays, training_images, warn_of_training_images
from pdsearch.data.cache import cached, digest
from pdsearch.data.dataset import SIZE, Dataset
from pdsearch.data.images import DECODING
from pdsearch.data.images import read_image as _read_image
from pdsearch.errors import InputError
from pdsearch.files import locked, replacing_folder

IN_MEMORY = 2**31
"""Bytes of decoded images up to which a folder is decoded in memory: else into mapped files."""

EXTENSIONS = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
# Thumbnails and copies by file managers and storage boxes, like names with a leading dot.
IGNORED = ("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r")
IGNORED_FOLDERS = (
    *("@eadir", "@tmp", "@recycle", "#recycle", "#snapshot", "__macosx", "lost+found"),
    *("$recycle.bin", "system volume information", "__pycache__"),
)


def load_folder(
    spec: str, root: Path, *, size: int = SIZE, channels: int = 3, cache: Path
) -> Dataset:
    """Load a folder of image files; see `load_dataset`."""
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
    form = [] if (size, channels) == (SIZE, 3) else [f"{size} {channels}"]
    key = digest("\n".join([str(DECODING), *form, *lines]))
    stem = f"folder-{digest(' '.join([str(root), *form]))[:16]}"
    paths, split = [path for path, _ in every], sum(map(len, train))
    labels = _labels(train), _labels(test)
    shape = (len(paths), channels, size, size)
    if math.prod(shape) > IN_MEMORY:
        place = cache / f"{stem}-{key[:24]}"
        if not place.is_dir():
            _decode_to_files(spec, place, paths, shape, split, labels)
            for other in cache.glob(f"{stem}-*/"):
                if other != place:
                    shutil.rmtree(other, ignore_errors=True)
        return load_arrays(spec, place, classes=tuple(classes), cache=cache)

    def build() -> Dataset:
        images = np.empty(shape, dtype=np.uint8)
        _decode(paths, images)
        return Dataset(
            name=spec,
            train_images=torch.from_numpy(images[:split]),
            train_labels=torch.from_numpy(labels[0]),
            test_images=torch.from_numpy(images[split:]),
            test_labels=torch.from_numpy(labels[1]),
            classes=tuple(classes),
        )

    dataset = cached(spec, cache, stem=stem, key=key, build=build)
    same = training_images(dataset.train_images, dataset.test_images)
    warn_of_training_images(same, len(dataset.test_labels), spec)
    return dataset


def _decode_to_files(
    spec: str,
    place: Path,
    paths: Sequence[str],
    shape: tuple[int, ...],
    split: int,
    labels: tuple[Array, Array],
) -> None:
    """Decode images into a new folder of arrays, which `load_arrays` maps into memory.

    Raises:
        InputError: there is no room for it.
    """
    needed = math.prod(shape)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(place.parent).free
        if needed > free:
            raise InputError(
                f"data set {spec!r}: its {shape[0]} images take {needed / 1e9:.1f} GB decoded, but "
                f"{place.parent} has {free / 1e9:.1f} GB free: make room, name another folder by "
                "PDSEARCH_CACHE, or choose a smaller trial.image_size"
            )
        with locked(place.with_suffix(".lock")):
            if place.is_dir():
                return  # another process decoded it meanwhile
            with replacing_folder(place) as partial:
                for part, some, own in (
                    ("train", paths[:split], labels[0]),
                    ("test", paths[split:], labels[1]),
                ):
                    file = partial / f"{part}_images.npy"
                    images = np.lib.format.open_memmap(
                        file, mode="w+", dtype=np.uint8, shape=(len(some), *shape[1:])
                    )
                    _reserve(file)
                    _decode(some, images)
                    images.flush()
                    np.save(partial / f"{part}_labels.npy", own)
    except OSError as error:
        raise InputError(
            f"data set {spec!r}: its images take {needed / 1e9:.1f} GB decoded, and "
            f"{place} cannot be written ({error.strerror or error}): name another folder by "
            "PDSEARCH_CACHE, or choose a smaller trial.image_size"
        ) from error


def _reserve(file: Path) -> None:
    """Give a sparse file its room on the disk: writing to a mapping of a full disk kills."""
    if hasattr(os, "posix_fallocate"):
        with file.open("r+b") as stream:
            os.posix_fallocate(stream.fileno(), 0, file.stat().st_size)


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


def _labels(files: Sequence[Sequence[object]]) -> Array:
    return np.repeat(np.arange(len(files)), [len(part) for part in files])


def _decode(paths: Sequence[str], images: Array) -> None:
    """Decode image files into an array ``(n, channels, size, size)``, uint8."""
    channels, size = images.shape[1:3]

    def decode(index: int) -> None:
        images[index] = _read_image(paths[index], size=size, channels=channels)

    # Pillow's decoders release the interpreter lock. After an error `map` cancels the rest.
    with ThreadPoolExecutor(max_workers=min(16, os.cpu_count() or 1)) as pool:
        list(pool.map(decode, range(len(paths))))


def _first(parts: Sequence[str]) -> str:
    shown = ", ".join(parts[:6])
    return shown if len(parts) <= 6 else f"{shown} and {len(parts) - 6} more"
