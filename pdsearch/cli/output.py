"""What the command line writes: data to stdout, everything else to stderr."""

import contextlib
import json
import os
import shutil
import sys
import textwrap
from collections.abc import Iterator
from typing import Any, TextIO

from pdsearch.masking import mask
from pdsearch.plain import plain
from pdsearch.text import escaped

__all__ = [
    "can_draw",
    "data_only",
    "emit",
    "emit_json",
    "flush",
    "note",
    "width",
    "wrapped",
]

_data: TextIO | None = None


@contextlib.contextmanager
def data_only() -> Iterator[None]:
    """Keep stdout for `emit` alone: what a user's model prints would break the JSON."""
    global _data
    before, _data = _data, sys.stdout
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        _data = before


def _stdout() -> TextIO:
    return _data or sys.stdout


def one_line(text: str) -> str:
    """Return the text with line breaks joined by `; ` and control characters escaped."""
    joined = "; ".join(line.strip() for line in text.splitlines() if line.strip())
    return escaped(joined)


def note(text: str) -> None:
    """Write one line to stderr, without the password of any URL in it."""
    try:
        print(mask(one_line(text)), file=sys.stderr, flush=True)
    except (BrokenPipeError, ValueError):
        return  # nobody is left to read it; the exit status still says how it went


def emit(text: str) -> None:
    """Write text to stdout; a reader that has gone, such as `head`, is no error."""
    encoding = _stdout().encoding or "ascii"
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding), file=_stdout())
    except BrokenPipeError:
        _discard_stdout()


def emit_json(data: Any) -> None:
    """Write exactly one JSON document to stdout, with null for numbers that are not finite."""
    emit(json.dumps(plain(data), indent=2, allow_nan=False))


def flush() -> None:
    """Write out what is buffered, while a closed pipe can still be told from a bug."""
    try:
        _stdout().flush()
    except BrokenPipeError:
        _discard_stdout()


def _discard_stdout() -> None:
    # Otherwise the interpreter's own flush at exit fails again, with a traceback.
    os.dup2(os.open(os.devnull, os.O_WRONLY), _stdout().fileno())


def can_draw() -> bool:
    """Return whether stdout is a terminal that shows block characters."""
    encoding = (_stdout().encoding or "").lower().replace("-", "")
    return _stdout().isatty() and encoding == "utf8" and os.environ.get("TERM") != "dumb"


def width() -> int:
    """Return the width of the terminal, at most 100; 100 if stdout is none."""
    if not _stdout().isatty():
        return 100
    return max(40, min(100, shutil.get_terminal_size().columns))


def wrapped(text: str) -> list[str]:
    """Break a long text into indented lines as wide as stdout."""
    return textwrap.wrap(
        text, width(), initial_indent="    ", subsequent_indent="        ", break_on_hyphens=False
    )
