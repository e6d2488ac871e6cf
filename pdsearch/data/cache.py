"""Decoded data sets on disk: one safetensors file each, mapped into memory by every process."""

import contextlib
import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path

from pdsearch.data.dataset import FORMAT, PARTS, Dataset, fingerprint, tensors_of
from pdsearch.errors import one_line
from pdsearch.files import locked, replacing

log = logging.getLogger(__name__)


def cached(name: str, cache: Path, *, stem: str, key: str, build: Callable[[], Dataset]) -> Dataset:
    """Return the data set in the cache file, or build it and write the file."""
    path = cache / f"{stem}-{key[:24]}.safetensors"
    if (dataset := _read_cache(path, name=name, key=key)) is not None:
        return dataset
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(path.with_suffix(".lock")))
        except OSError as error:
            # A lock only saves work: without one every process builds, and the last file stays.
            log.info("no lock for %s (%s)", path, error)
        # Another process may have built it while this one waited for the lock.
        if (dataset := _read_cache(path, name=name, key=key)) is not None:
            return dataset
        dataset = build()
        try:
            _write_cache(path, dataset, key=key)
            # Files of earlier states of the data; a process that has one open keeps it.
            for other in cache.glob(f"{stem}-*.safetensors"):
                if other != path:
                    other.unlink(missing_ok=True)
        except OSError as error:
            log.warning(
                "the data set %s is used but not cached: cannot write %s (%s); "
                "PDSEARCH_CACHE names another folder",
                name,
                path,
                error.strerror or error,
            )
    return dataset


def _read_cache(path: Path, *, name: str, key: str) -> Dataset | None:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {part: file.get_tensor(part) for part in PARTS}
        described = json.loads(header["pdsearch"])
        classes = tuple(described["classes"])
        if described["key"] != key or described["fingerprint"] != fingerprint(tensors, classes):
            raise ValueError("its contents do not match its checksum")
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        log.warning("the cache file %s is damaged (%s): building it again", path, one_line(error))
        return None
    return Dataset(
        name=name,
        classes=classes,
        mirror=bool(described["mirror"]),
        fingerprint=described["fingerprint"],
        **tensors,
    )


def _write_cache(path: Path, dataset: Dataset, *, key: str) -> None:
    from safetensors.torch import save_file

    described = {
        "key": key,
        "classes": dataset.classes,
        "mirror": dataset.mirror,
        "fingerprint": dataset.fingerprint,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        save_file(tensors_of(dataset), partial, metadata={"pdsearch": json.dumps(described)})


def digest(text: str) -> str:
    """Return a digest of a text and the cache's format, hexadecimal."""
    return hashlib.sha256(f"{FORMAT}\n{text}".encode("utf-8", "surrogateescape")).hexdigest()
