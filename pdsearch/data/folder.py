"""A folder of images: ``PATH/train/<class>/`` and ``PATH/test/<class>/``."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from pdsearch.data.cache import cached, digest, one_line
from pdsearch.data.dataset import SIZE, Dataset
from pdsearch.errors import InputError

EXTENSIONS = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
# Written by file managers; so are the names with a leading dot that are left out too.
IGNORED = frozenset({"thumbs.db", "desktop.ini"})

Progress = Callable[[str, int, int], None]
"""``progress(what, done, total)``: what is being done, and how many images of how many are done."""


def load_folder(
    spec: str, text: str, *, directory: Path | None, cache: Path, progress: Progress | None
) -> Dataset:
    """Loads the folder `text`, a relative one below `directory`; see `load_dataset`."""
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
    classes = _classes(root / "train")
    others = _classes(root / "test")
    if classes != others:
        differences = [f"{name!r} only in train" for name in classes if name not in others]
        differences += [f"{name!r} only in test" for name in others if name not in classes]
        raise InputError(
            f"data set {spec!r}: train and test have different classes: {_shortened(differences)}"
        )
    if len(classes) < 2:
        found = f"only {classes[0]!r}" if classes else "none"
        raise InputError(
            f"data set {spec!r}: at least 2 class folders are needed in {root}/train, found {found}"
        )
    train = [_images_of(root / "train" / name) for name in classes]
    test = [_images_of(root / "test" / name) for name in classes]
    key = digest(
        "\n".join(
            f"{os.path.relpath(path, root)}\0{stat.st_size}\0{stat.st_mtime_ns}\0{stat.st_ctime_ns}"
            for files in (*train, *test)
            for path, stat in files
        )
    )

    def build() -> Dataset:
        paths = [path for files in (*train, *test) for path, _ in files]
        images = _decode(paths, progress=progress, what=f"decoding {text}")
        split = sum(map(len, train))
        return Dataset(
            name=spec,
            train_images=images[:split],
            train_labels=_labels(train),
            test_images=images[split:],
            test_labels=_labels(test),
            classes=tuple(classes),
        )

    return cached(spec, cache, stem=f"folder-{digest(str(root))[:16]}", key=key, build=build)


def _classes(folder: Path) -> list[str]:
    return sorted(e.name for e in os.scandir(folder) if e.is_dir() and not e.name.startswith("."))


def _images_of(folder: Path) -> list[tuple[str, os.stat_result]]:
    """The image files below a class folder, in the order of their names."""
    found = []
    for base, folders, _ in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
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


def _decode(paths: Sequence[str], *, progress: Progress | None, what: str) -> torch.Tensor:
    images = np.empty((len(paths), 3, SIZE, SIZE), dtype=np.uint8)

    def decode(index: int) -> None:
        images[index] = _read_image(paths[index]).transpose(2, 0, 1)

    done = 0
    # Pillow's decoders release the interpreter lock.
    with ThreadPoolExecutor(max_workers=min(16, os.cpu_count() or 1)) as pool:
        try:
            for _ in pool.map(decode, range(len(paths)), chunksize=1):
                done += 1
                if progress is not None and (done % 500 == 0 or done == len(paths)):
                    progress(what, done, len(paths))
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return torch.from_numpy(images)


def _read_image(path: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """One image as ``(32, 32, 3)``, uint8."""
    try:
        with Image.open(path) as image:
            image.load()
            if image.mode == "RGB" and image.size == (SIZE, SIZE) and not image.getexif():
                return np.asarray(image)
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith(
                "I"
            ):  # 16-bit grey, which Pillow would clip rather than scale
                upright = Image.fromarray((np.asarray(upright) / 257).round().astype(np.uint8))
            if upright.has_transparency_data:
                layer = upright.convert("RGBA")
                upright = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
            square = ImageOps.fit(
                upright.convert("RGB"), (SIZE, SIZE), method=Image.Resampling.BICUBIC
            )
            return np.asarray(square)
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, …
        raise InputError(
            f"{path} cannot be read as an image ({one_line(error)}): repair or remove it"
        ) from error


def _shortened(parts: Sequence[str], limit: int = 6) -> str:
    shown = ", ".join(parts[:limit])
    return shown if len(parts) <= limit else f"{shown} and {len(parts) - limit} more"
