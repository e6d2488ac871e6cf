"""Decoded data sets on disk: a safetensors file each, mapped into memory by every process."""

import contextlib
import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from pdsearch.data.dataset import FORMAT, PARTS, Dataset, fingerprint, tensors_of

log = logging.getLogger(__name__)


def cache_directory() -> Path:
    """The folder that cached data sets are kept in: ``PDSEARCH_CACHE``, else XDG's cache folder."""
    if own := os.environ.get("PDSEARCH_CACHE"):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification: a relative path is invalid and to be ignored.
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "pdsearch"


def cached(name: str, cache: Path, *, stem: str, key: str, build: Callable[[], Dataset]) -> Dataset:
    """What ``build`` makes, from the cache file where there is a good one."""
    path = cache / f"{stem}-{key[:24]}.safetensors"
    if (dataset := _read_cache(path, name=name, key=key)) is not None:
        return dataset
    with _locked(path):
        # Another process may have built it while this one waited for the lock.
        if (dataset := _read_cache(path, name=name, key=key)) is not None:
            return dataset
        dataset = build()
        try:
            _write_cache(path, dataset, key=key)
            _drop_stale(path, stem=stem)
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
    # A name of its own and a rename: readers see the old file or the whole new one.
    handle, temporary = tempfile.mkstemp(prefix=".writing-", dir=path.parent)
    os.close(handle)
    try:
        save_file(tensors_of(dataset), temporary, metadata={"pdsearch": json.dumps(described)})
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def _drop_stale(path: Path, *, stem: str) -> None:
    """Removes the files of the folder's earlier states; a process that has one open keeps it."""
    for other in path.parent.glob(f"{stem}-*.safetensors"):
        if other != path:
            other.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Lets one process at a time build ``path``; the others then read what it built.

    Only work is saved: without the lock (no ``fcntl``, a file system that has none, a read-only
    folder) every process builds, and the rename still leaves one whole file. The system drops the
    lock of a process that dies.
    """
    try:
        import fcntl

        path.parent.mkdir(parents=True, exist_ok=True)
        lock = open(path.with_suffix(".lock"), "w")  # noqa: SIM115  # closed below, after the yield
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError:
            lock.close()
            raise
    except (ImportError, OSError) as error:
        log.info("no lock for %s (%s)", path, error)
        yield
        return
    try:
        yield
    finally:
        lock.close()


def digest(text: str) -> str:
    """Of a text and the cache's format, hexadecimal."""
    return hashlib.sha256(f"{FORMAT}\n{text}".encode("utf-8", "surrogateescape")).hexdigest()


def one_line(error: BaseException) -> str:
    """An error's message without line breaks."""
    return " ".join((str(error) or type(error).__name__).split())
