"""A user's file, read whole and once within a limit; a Python file runs as it was read."""

import ast
import contextlib
import errno
import functools
import hashlib
import io
import linecache
import os
import stat
import sys
import tokenize
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from pdsearch.errors import InputError, first_line, without_middle

__all__ = ["UserFile", "read_bytes", "read_python", "run_file"]

PYTHON_LIMIT = 10_000_000
"""Bytes of a Python file: a long handwritten one has 200 000."""


def read_bytes(path: Path, *, limit: int, what: str) -> bytes:
    """Read a regular file.

    Args:
        path: of the file or a link to it; a device or a pipe may have no end.
        limit: in bytes.
        what: its purpose, for messages: "study file", "candidate's file".

    Raises:
        InputError: it does not exist, is not a regular file, is too large, or is not readable.
    """
    shown = without_middle(str(path) if str(path).isprintable() else repr(str(path)))
    try:
        # Without waiting for a pipe's writer; the checks are on the open file.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with open(handle, "rb") as file:
            found = os.fstat(handle)
            if stat.S_ISDIR(found.st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            if not stat.S_ISREG(found.st_mode):
                raise InputError(f"{shown} is a device or a pipe: give a {what}")
            data = file.read(limit + 1)  # a file of /proc has no size
    except FileNotFoundError:
        raise InputError(
            f"{shown} cannot be read: No such file (there is no such {what})"
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{shown} cannot be read: {reason}") from None
    if len(data) > limit:
        size = max(found.st_size, len(data))
        raise InputError(f"{shown} has {size:,} bytes: no {what} is that large")
    return data


@dataclass(frozen=True)
class UserFile:
    """A Python file as it was read: these bytes are hashed and run."""

    path: Path
    source: bytes

    @functools.cached_property
    def text(self) -> str:
        """Its text, in UTF-8 or the encoding that its first lines declare.

        Raises:
            InputError: it cannot be decoded.
        """
        try:
            encoding, _ = tokenize.detect_encoding(io.BytesIO(self.source).readline)
            return io.TextIOWrapper(io.BytesIO(self.source), encoding).read()
        except (SyntaxError, ValueError) as error:
            raise self._failed(error) from error

    @functools.cached_property
    def digest(self) -> str:
        """A digest of the program, without comments and layout.

        Raises:
            InputError: it is not valid Python.
        """
        try:
            # The tree itself differs from one version of Python to the next.
            program = ast.unparse(ast.parse(self.source))
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise self._failed(error) from error
        return hashlib.sha256(program.encode("utf-8", "surrogatepass")).hexdigest()[:16]

    def run(self) -> ModuleType:
        """Run the file and return it as a new module.

        importlib distinguishes compiled copies by size and second only, so a file edited and used
        again at once would run in its old version.

        Raises:
            InputError: it fails; with the line.
        """
        where = str(self.path.resolve())
        stem = "".join(c if c.isidentifier() or c.isdecimal() else "_" for c in self.path.stem)
        # With the path: the model.py of two folders are two modules.
        name = f"pdsearch_file_{hashlib.sha256(os.fsencode(where)).hexdigest()[:16]}_{stem}"
        module = ModuleType(name)
        module.__file__ = str(self.path)
        # Dataclasses, `inspect` and pickled models look the module up.
        before = sys.modules.get(name)
        sys.modules[name] = module
        try:
            # The command line's stdout is for data.
            with contextlib.redirect_stdout(sys.stderr):
                exec(compile(self.source, str(self.path), "exec"), module.__dict__)
        except BaseException as error:
            sys.modules.pop(name, None)
            if before is not None:
                sys.modules[name] = before
            if isinstance(error, InputError):
                raise type(error)(f"{self.path}{self._line_in(error)}: {error}") from None
            if isinstance(error, Exception | SystemExit):
                raise self._failed(error) from error
            raise
        # Tracebacks and `inspect.getsource` show the text that runs, even if the file has changed.
        # An entry without a modification time is never read again.
        lines = self.text.splitlines(keepends=True)
        linecache.cache[str(self.path)] = (len(self.source), None, lines, str(self.path))
        return module

    def _failed(self, error: BaseException) -> InputError:
        about = f"{self.path}{self._line_in(error)}: {type(error).__name__}"
        first = first_line(error)
        return InputError(f"{about}: {first}" if first else about)

    def _line_in(self, error: BaseException) -> str:
        here = (str(self.path), "<unknown>")
        if isinstance(error, SyntaxError) and error.filename in here and error.lineno:
            return f":{error.lineno}"
        lines = [
            line
            for frame, line in traceback.walk_tb(error.__traceback__)
            if frame.f_code.co_filename == str(self.path)
        ]
        return f":{lines[-1]}" if lines else ""


def read_python(path: Path) -> UserFile:
    """Read a Python file, to hash it or to run it; see `read_bytes`."""
    return UserFile(path, read_bytes(path, limit=PYTHON_LIMIT, what="Python file"))


def run_file(path: Path) -> ModuleType:
    """Read a Python file and run it as a module; see `UserFile.run`."""
    return read_python(path).run()
