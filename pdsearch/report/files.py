"""Writing a text file whole or not at all."""

import os
import tempfile
from pathlib import Path

from pdsearch.errors import InputError
from pdsearch.files import replacing

__all__ = ["check_place", "write_html", "write_text"]


def write_html(text: str, path: Path | str) -> Path:
    """Write a report; an older one at the same place is replaced, in one step.

    Raises:
        InputError: `path` is a directory, a link or a device, or its folder cannot be written to.
    """
    return write_text(text, Path(path), force=True)


def write_text(text: str, path: Path, *, force: bool) -> Path:
    """Write UTF-8 text through a file beside `path` that then takes its place.

    Args:
        text: what to write.
        path: where; its folder must exist.
        force: whether a regular file that is there may be replaced.

    Returns:
        `path`.

    Raises:
        InputError: the place cannot or may not be written to.
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
    """Check that a file can be written there, before its content is made.

    Raises:
        InputError: it cannot, or may not.
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
