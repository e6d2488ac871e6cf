"""What the command line writes: data to stdout, everything else to stderr."""

import json
import math
import os
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["can_draw", "emit", "emit_json", "flush", "note", "plain", "table", "width"]


def one_line(text: str) -> str:
    """The text with line breaks joined by `; ` and control characters escaped."""
    joined = "; ".join(line.strip() for line in text.splitlines() if line.strip())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in joined)


def note(text: str) -> None:
    """One line on stderr."""
    try:
        print(one_line(text), file=sys.stderr, flush=True)
    except (BrokenPipeError, ValueError):
        return  # nobody is left to read it; the exit status still says how it went


def emit(text: str) -> None:
    """Text on stdout; a reader that has gone, such as `head`, is no error."""
    encoding = sys.stdout.encoding or "ascii"
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding))
    except BrokenPipeError:
        _discard_stdout()


def emit_json(data: Any) -> None:
    """Exactly one JSON document on stdout; non-finite numbers as null."""
    emit(json.dumps(plain(data), indent=2, allow_nan=False))


def flush() -> None:
    """Write out what is buffered, while a closed pipe can still be told from a bug."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _discard_stdout()


def _discard_stdout() -> None:
    # Otherwise the interpreter's own flush at exit fails again, with a traceback.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def plain(value: Any) -> Any:
    """The value as JSON can hold it: NaN and infinities become None, numpy's numbers Python's."""
    if value is None or isinstance(value, bool | str | int):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Iterable):
        return [plain(item) for item in value]
    if hasattr(value, "item"):
        return plain(value.item())
    raise TypeError(f"cannot be written as JSON: {type(value).__name__}")


def can_draw() -> bool:
    """Whether stdout is a terminal that shows block characters."""
    encoding = (sys.stdout.encoding or "").lower().replace("-", "")
    return sys.stdout.isatty() and encoding == "utf8" and os.environ.get("TERM") != "dumb"


def width() -> int:
    """Columns to fill: the terminal's up to 100, and 100 where stdout is none."""
    if not sys.stdout.isatty():
        return 100
    return max(40, min(100, shutil.get_terminal_size().columns))


def table(rows: Sequence[Sequence[str]], *, right: Iterable[int] = (), indent: str = "") -> str:
    """Rows of cells as aligned columns, two blanks apart; columns in `right` are right-aligned."""
    if not rows:
        return ""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    right = set(right)
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append((indent + "  ".join(cells)).rstrip())
    return "\n".join(lines)
