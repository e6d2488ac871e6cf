"""Atomic writing of text files."""

import os
import tempfile
from pathlib import Path

from pdsearch.errors import InputError
from pdsearch.files import replacing


def write_html(text: str, path: Path | str) -> Path:
    """Write a report atomically; an existing file is replaced.

    Raises:
        InputError: `path` is a directory, a link or a device, or its folder cannot be written to.
    """
    return write_text(text, Path(path), force=True)


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
