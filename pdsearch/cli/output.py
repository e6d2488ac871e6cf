"""Output of the command line: data to stdout, everything else to stderr."""

import argparse
import contextlib
import json
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator
from typing import Any, TextIO

from pdsearch.masking import mask
from pdsearch.plain import plain
from pdsearch.text import escaped

_data: TextIO | None = None


@contextlib.contextmanager
def data_only() -> Iterator[None]:
    """Reserve stdout for `emit`, because anything a user's model prints would break the JSON."""
    global _data
    before, _data = _data, sys.stdout
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        _data = before


def _stdout() -> TextIO:
    return _data or sys.stdout


def note(text: str) -> None:
    """Write one line to stderr, with passwords masked, and `; ` in place of line breaks."""
    line = escaped("; ".join(line.strip() for line in text.splitlines() if line.strip()))
    # If nobody reads stderr any more, the exit status still reports the result.
    with contextlib.suppress(BrokenPipeError, ValueError):
        print(mask(line), file=sys.stderr, flush=True)


def emit(text: str) -> None:
    """Write text to stdout; a closed pipe, as by `head`, is no error."""
    encoding = _stdout().encoding or "ascii"
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding), file=_stdout())
    except BrokenPipeError:
        _discard_stdout()


def emit_json(data: Any) -> None:
    """Write exactly one JSON document to stdout, with null for non-finite numbers."""
    emit(json.dumps(plain(data), indent=2, allow_nan=False))


def emit_result(arguments: argparse.Namespace, data: Any, text: Callable[[], str]) -> None:
    """Write the data as JSON if --json is given, else the text."""
    if arguments.json:
        emit_json(data)
    else:
        emit(text())


def flush() -> None:
    """Flush stdout now, so that a closed pipe is handled here."""
    try:
        _stdout().flush()
    except BrokenPipeError:
        _discard_stdout()


def _discard_stdout() -> None:
    # Otherwise the interpreter's own flush at exit fails again, with a traceback.
    os.dup2(os.open(os.devnull, os.O_WRONLY), _stdout().fileno())


def takes_unicode() -> bool:
    """Return whether stdout can encode more than ASCII."""
    return (_stdout().encoding or "").lower().replace("-", "") == "utf8"


def can_draw() -> bool:
    """Return whether stdout is a terminal that shows block characters."""
    return _stdout().isatty() and takes_unicode() and os.environ.get("TERM") != "dumb"


def width() -> int:
    """Return the terminal's width, from 40 to 100; 100 if stdout is not a terminal."""
    if not _stdout().isatty():
        return 100
    return max(40, min(100, shutil.get_terminal_size().columns))


def wrapped(text: str) -> list[str]:
    """Wrap a long text into indented lines of the terminal's width."""
    return textwrap.wrap(
        text, width(), initial_indent="    ", subsequent_indent="        ", break_on_hyphens=False
    )
