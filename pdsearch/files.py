"""Files that several processes share: the cache folder, atomic writes, locks."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

__all__ = ["cache_directory", "locked", "replacing"]


def cache_directory() -> Path:
    """Return the cache folder: `PDSEARCH_CACHE`, else `pdsearch` in the user's cache folder."""
    if own := os.environ.get("PDSEARCH_CACHE"):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification says to ignore relative paths.
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "pdsearch"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a new path next to `path`; the file written there replaces `path` atomically.

    Readers see either the old file or the complete new one. After an error the old file stays and
    the new one is removed. `tempfile` is not used because only the owner can read its files.
    """
    partial = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}.part")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        with contextlib.suppress(OSError):  # if this fails, the write failed too
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold a lock file; the system releases the lock even if the process is killed.

    Args:
        path: The lock file, created if missing.
        wait: Whether to wait while another process holds the lock.

    Yields:
        Whether the lock is held. Always True on Windows, which has no such locks.

    Raises:
        OSError: The file cannot be created, or its file system has no locks.
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
