"""Files that several processes share: the cache folder, atomic writes, locks."""

import contextlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pdsearch.errors import InputError

__all__ = [
    "cache_directory",
    "check_place",
    "locked",
    "replacing",
    "replacing_folder",
    "write_text",
]


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
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder next to `path`, which becomes `path` at the end unless there is one.

    After an error the new folder is removed.
    """
    partial = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}.part")
    partial.mkdir()
    try:
        yield partial
        if not path.exists():
            os.replace(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


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


def write_text(text: str, path: Path, *, force: bool) -> Path:
    """Write a UTF-8 text file atomically; `force` replaces an existing regular file.

    Raises:
        InputError: The file cannot or may not be written.
    """
    check_place(path, force=force)
    try:
        with (
            replacing(path) as partial,
            open(partial, "x", encoding="utf-8", newline="\n") as stream,
        ):
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from None
    return path


def check_place(path: Path, *, force: bool) -> None:
    """Check that a file can be written, before its content is computed.

    Raises:
        InputError: The file cannot or may not be written.
    """
    if "\0" in str(path):
        raise InputError(f"{str(path)!r} is no file name: it holds a NUL character")
    try:
        if path.is_symlink():
            raise InputError(f"{path} is a symbolic link: give the file that it points to instead")
        if path.is_dir():
            raise InputError(f"{path} is a directory: give the name of a file in it")
        if not path.parent.is_dir():
            raise InputError(f"{path} cannot be written: there is no folder {path.parent}")
        if path.exists():
            if not path.is_file():
                raise InputError(f"{path} is a device or a pipe: give the name of a regular file")
            if not force:
                raise InputError(f"{path} exists already: give another name, or --force")
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from None
