"""A user's file: read whole and once, never without end; and a Python file, run as it was read."""

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
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from pdsearch.errors import InputError, first_line, without_middle

__all__ = ["UserFile", "read_bytes", "read_python", "run_file"]

PYTHON_LIMIT = 10_000_000
"""Bytes of a Python file: a long one of a person's has 200 000."""


def read_bytes(path: Path, *, limit: int, what: str) -> bytes:
    """Read a regular file.

    Args:
        path: may be a link to one, never to a device or a pipe, which may have no end.
        limit: in bytes.
        what: the file should be, for messages: "study file", "candidate's file".

    Raises:
        InputError: there is none, or it is no regular file, too large, or not readable.
    """
    shown = without_middle(str(path) if str(path).isprintable() else repr(str(path)))
    try:
        # Not to wait for whoever writes to a pipe; what was opened is what is looked at.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with open(handle, "rb") as file:
            found = os.fstat(handle)
            if stat.S_ISDIR(found.st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            if not stat.S_ISREG(found.st_mode):
                raise InputError(f"{shown} is a device or a pipe: give a {what}")
            data = file.read(limit + 1)  # a file of /proc has no size
    except FileNotFoundError:
        raise InputError(f"{shown} cannot be read: No such file, so no such {what}") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{shown} cannot be read: {reason}") from None
    if len(data) > limit:
        size = max(found.st_size, len(data))
        raise InputError(f"{shown} has {size:,} bytes: no {what} is that large")
    return data


@dataclass(frozen=True)
class UserFile:
    """A Python file as it was read: what is hashed and what runs are these bytes.

    Attributes:
        path: where it was read.
        source: its bytes.
    """

    path: Path
    source: bytes

    @functools.cached_property
    def text(self) -> str:
        """Its text, in UTF-8 or in what its first lines say.

        Raises:
            InputError: neither.
        """
        try:
            encoding, _ = tokenize.detect_encoding(io.BytesIO(self.source).readline)
            return io.TextIOWrapper(io.BytesIO(self.source), encoding).read()
        except (SyntaxError, ValueError) as error:
            raise self._failed(error) from error

    @functools.cached_property
    def digest(self) -> str:
        """A digest of the program: remarks and layout do not count.

        Raises:
            InputError: it is no program.
        """
        try:
            # Written out again: the tree itself differs from one version of Python to the next.
            program = ast.unparse(ast.parse(self.source))
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise self._failed(error) from error
        return hashlib.sha256(program.encode("utf-8", "surrogatepass")).hexdigest()[:16]

    def run(self) -> ModuleType:
        """The file as a module of its own, run anew at each call.

        Not by importlib: its compiled copies are told apart by size and second only, and a file
        that is edited and used again at once would run as it was.

        Raises:
            InputError: it fails, with the line.
        """
        where = str(self.path.resolve())
        stem = "".join(c if c.isidentifier() or c.isdecimal() else "_" for c in self.path.stem)
        # The path is in the name: two folders' model.py are two modules.
        name = f"pdsearch_file_{hashlib.sha256(os.fsencode(where)).hexdigest()[:16]}_{stem}"
        module = ModuleType(name)
        module.__file__ = str(self.path)
        # Functions, dataclasses and `inspect` look their module up; pickled models name it.
        before = sys.modules.get(name)
        sys.modules[name] = module
        try:
            # What the file prints must not end up in what the command line writes to stdout.
            with contextlib.redirect_stdout(sys.stderr):
                exec(compile(self.source, str(self.path), "exec"), module.__dict__)
        except InputError as error:
            self._forget(name, before)
            raise type(error)(f"{self.path}{self._line_in(error)}: {error}") from None
        except (Exception, SystemExit) as error:
            self._forget(name, before)
            raise self._failed(error) from error
        # A traceback and `inspect.getsource` show the text that runs, whatever the file says by
        # then. No time of modification: such an entry is never read anew.
        lines = self.text.splitlines(keepends=True)
        linecache.cache[str(self.path)] = (len(self.source), None, lines, str(self.path))
        return module

    @staticmethod
    def _forget(name: str, before: ModuleType | None) -> None:
        if before is None:
            sys.modules.pop(name, None)
        else:
            sys.modules[name] = before

    def _failed(self, error: BaseException) -> InputError:
        first = first_line(error)
        kind = type(error).__name__
        line = self._line_in(error)
        return InputError(f"{self.path}{line}: {kind}{': ' if first else ''}{first}")

    def _line_in(self, error: BaseException) -> str:
        here = (str(self.path), "<unknown>")
        if isinstance(error, SyntaxError) and error.filename in here and error.lineno:
            return f":{error.lineno}"
        traceback, line = error.__traceback__, ""
        while traceback is not None:
            if traceback.tb_frame.f_code.co_filename == str(self.path):
                line = f":{traceback.tb_lineno}"
            traceback = traceback.tb_next
        return line


def read_python(path: Path) -> UserFile:
    """Read a Python file, to hash it, to run it, or both.

    Raises:
        InputError: it cannot be read.
    """
    return UserFile(path, read_bytes(path, limit=PYTHON_LIMIT, what="Python file"))


def run_file(path: Path) -> ModuleType:
    """A user's Python file as a module; see `UserFile.run`.

    Raises:
        InputError: it cannot be read, or fails, with the line.
    """
    return read_python(path).run()
