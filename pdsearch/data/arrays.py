"""Arrays of images in files, mapped into memory: for images of any kind, and for many of them.

A folder holds `train_images.npy`, `train_labels.npy`, `test_images.npy` and `test_labels.npy`, as
`numpy.save` writes them, and perhaps `classes.txt`. Only the parts of the images that a batch needs
are read from the disk.
"""

import hashlib
import json
import logging
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pdsearch.data.cache import digest
from pdsearch.data.dataset import PARTS, Dataset, fingerprint
from pdsearch.errors import InputError, one_line
from pdsearch.files import replacing

log = logging.getLogger(__name__)

Array = np.ndarray[Any, np.dtype[Any]]

CLASSES = "classes.txt"

MOST_CLASSES = 10**6


def root_of(spec: str, text: str, *, directory: Path | None) -> Path:
    """Return the folder that a data set `KIND:PATH` names.

    Raises:
        InputError: it names none, or there is none.
    """
    kind = spec.partition(":")[0]
    if not text.strip():
        raise InputError(f"dataset '{kind}:' names no folder: write {kind}:PATH")
    if "\0" in text:
        raise InputError(f"the path of data set {spec!r} holds a NUL character")
    root = ((directory or Path.cwd()) / Path(text).expanduser()).resolve()
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise InputError(f"data set {spec!r}: {root} {what}")
    return root


def load_arrays(
    spec: str, root: Path, *, classes: tuple[str, ...] | None = None, cache: Path
) -> Dataset:
    """Load a folder of arrays; see `load_dataset`. Its images stay in the files.

    A file in the cache keeps the checksum, under a digest of the files' sizes and times, because
    reading all images takes a while. `classes` are the names of the classes; default: those of
    `classes.txt`, else their numbers.
    """
    arrays = {part: _mapped(root / f"{part}.npy", spec) for part in PARTS}
    images = {part: _images(arrays[f"{part}_images"], part, spec) for part in ("train", "test")}
    shapes = {part: some.shape[1:] for part, some in images.items()}
    if shapes["train"] != shapes["test"]:
        raise InputError(
            f"data set {spec!r}: training images of {_times(shapes['train'])}, but test images of "
            f"{_times(shapes['test'])}: save both in one shape"
        )
    labels = {
        part: _labels(arrays[f"{part}_labels"], part, spec, count=len(images[part]))
        for part in ("train", "test")
    }
    classes = _checked(root, labels, spec, classes)
    tensors = {
        "train_images": _as_tensor(images["train"]),
        "train_labels": torch.from_numpy(labels["train"]),
        "test_images": _as_tensor(images["test"]),
        "test_labels": torch.from_numpy(labels["test"]),
    }
    facts = _facts(root, tensors, classes, cache=cache)
    warn_of_training_images(facts["shared"], len(labels["test"]), spec)
    return Dataset(
        name=spec,
        train_images=tensors["train_images"],
        train_labels=tensors["train_labels"],
        test_images=tensors["test_images"],
        test_labels=tensors["test_labels"],
        classes=classes,
        fingerprint=facts["fingerprint"],
    )


def _mapped(path: Path, spec: str) -> Array:
    if not path.is_file():
        raise InputError(
            f"data set {spec!r}: there is no file {path}; the folder must hold "
            f"{', '.join(f'{part}.npy' for part in PARTS)}, as numpy.save writes them"
        )
    try:
        # Mapped read-only: the system refuses a private mapping that is larger than the memory.
        found: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(
            f"data set {spec!r}: {path} is not an array as numpy.save writes it "
            f"({one_line(error)[:120]})"
        ) from error
    return found


def _images(array: Array, part: str, spec: str) -> Array:
    what = f"data set {spec!r}: {part}_images.npy holds"
    if array.dtype != np.uint8:
        raise InputError(
            f"{what} {array.dtype}, but uint8 is needed: scale the values to 0..255 and save "
            'array.astype("uint8")'
        )
    if array.ndim not in (3, 4) or 0 in array.shape:
        raise InputError(
            f"{what} {_times(array.shape)}, but (images, channels, height, width) or, for grey "
            "ones, (images, height, width) is needed, none of them 0"
        )
    if array.ndim == 4 and array.shape[3] <= 4 < array.shape[1]:
        raise InputError(
            f"{what} {_times(array.shape)}, which looks like channels last: save "
            "array.transpose(0, 3, 1, 2).copy()"
        )
    if not array.flags.c_contiguous:
        raise InputError(f"{what} an array in Fortran order: save numpy.ascontiguousarray(array)")
    return array[:, None] if array.ndim == 3 else array


def _labels(array: Array, part: str, spec: str, *, count: int) -> Array:
    what = f"data set {spec!r}: {part}_labels.npy holds"
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise InputError(
            f"{what} {array.dtype} of shape {_times(array.shape)}, but one whole number per image "
            "is needed: the place of its class, from 0"
        )
    if len(array) != count:
        raise InputError(f"{what} {len(array)} labels, but {part}_images.npy {count} images")
    return np.array(array, dtype=np.int64)


def _checked(
    root: Path, labels: dict[str, Array], spec: str, names: tuple[str, ...] | None
) -> tuple[str, ...]:
    """The names of the classes, if the labels agree with them."""
    low = min(int(some.min()) for some in labels.values())
    high = max(int(some.max()) for some in labels.values())
    file, source = root / CLASSES, ""
    if names is None and file.is_file():
        try:
            lines = file.read_text(encoding="utf-8").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{file} cannot be read as text ({one_line(error)})") from error
        names, source = tuple(line.strip() for line in lines if line.strip()), f" in {CLASSES}"
    if names is None:
        names = tuple(map(str, range(min(high, MOST_CLASSES - 1) + 1)))
    where = f"data set {spec!r}: labels"
    if low < 0 or high >= len(names):
        wrong = low if low < 0 else high
        raise InputError(
            f"{where} must be from 0 to {max(len(names), 1) - 1}, one per class{source}, got "
            f"{wrong}"
        )
    if len(names) < 2:
        raise InputError(f"{where} name one class only, but at least 2 are needed")
    if without := np.flatnonzero(np.bincount(labels["train"], minlength=len(names)) == 0).tolist():
        raise InputError(
            f"{where} leave class {names[without[0]]!r} without a training image: number the "
            "classes without gaps"
        )
    return names


def _as_tensor(array: Array) -> torch.Tensor:
    with warnings.catch_warnings():
        # torch has no read-only tensors, and warns. Nothing writes to a data set's images.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def _times(shape: Iterable[int]) -> str:
    return "×".join(map(str, shape))


# -------------------------------------------------------------------------------- its whole content


def _facts(
    root: Path, tensors: dict[str, torch.Tensor], classes: tuple[str, ...], *, cache: Path
) -> dict[str, Any]:
    """What takes reading all images: the fingerprint, and the test images seen in training."""
    stats = [(root / f"{part}.npy").stat() for part in PARTS]
    states = [f"{s.st_size} {s.st_mtime_ns} {s.st_ctime_ns} {s.st_ino}" for s in stats]
    key = digest("\n".join([*states, *classes]))
    file = cache / f"arrays-{digest(str(root))[:16]}.json"
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
        if kept["key"] == key:
            return {"fingerprint": str(kept["fingerprint"]), "shared": int(kept["shared"])}
    except (OSError, ValueError, KeyError, TypeError):
        pass  # there is none, or it is damaged: read the images
    facts = {
        "key": key,
        "fingerprint": fingerprint(tensors, classes),
        "shared": training_images(tensors["train_images"], tensors["test_images"]),
    }
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as partial:
            partial.write_text(json.dumps(facts), encoding="utf-8")
    except OSError as error:
        log.info("the checksum of %s is not kept: cannot write %s (%s)", root, file, error)
    return facts


def training_images(train: torch.Tensor, test: torch.Tensor) -> int:
    """Count the test images that are training images too."""
    known = set(map(_digest, train.numpy()))
    return sum(_digest(image) in known for image in test.numpy())


def warn_of_training_images(same: int, total: int, name: str) -> None:
    """Warn if test images are training images too: linked, copied, or in the same folder."""
    which = f"{same} of {total} test images are training images"
    if same == total:
        which = "each test image is a training image"
    if same:
        log.warning(
            "data set %r: %s too (the same folder, links or copies): a confirmation needs images "
            "that no training saw",
            name,
            which,
        )


def _digest(image: Array) -> bytes:
    return hashlib.blake2b(image.tobytes(), digest_size=16).digest()
