"""Files that several processes share: the cache folder, writing in one step, locks."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

__all__ = ["cache_directory", "locked", "replacing"]


def cache_directory() -> Path:
    """Return the folder of caches: `PDSEARCH_CACHE`, else pdsearch's in the user's cache folder."""
    if own := os.environ.get("PDSEARCH_CACHE"):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification: a relative path is invalid and to be ignored.
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "pdsearch"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the name of a new file beside `path`, which takes its place when the block ends.

    Readers see the old file or the whole new one. After an error the old one stays, and the new
    one is removed. It is not made by `tempfile`, whose files only their owner can read.
    """
    partial = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}.part")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        with contextlib.suppress(OSError):  # a folder that refuses this refused the file too
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold a lock file, which the system releases however its holder ends; made if missing.

    Args:
        path: of the file, which holds nothing.
        wait: until no other process holds it.

    Yields:
        Whether the lock is held; without `wait`, False if another process holds it. On Windows,
        which has no such locks, always True.

    Raises:
        OSError: the file cannot be made, or its file system has no locks.
    """
    try:
        import fcntl
    except ImportError:
        yield True
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
