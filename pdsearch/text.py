"""Formatting of numbers and tables for the terminal, the HTML report and Markdown.

A missing value becomes an empty text.
"""

import html
from collections.abc import Callable, Iterable, Sequence
from typing import Any

__all__ = [
    "bound",
    "columns",
    "counted",
    "duration",
    "ends",
    "escaped",
    "html_table",
    "interval",
    "number",
    "p_value",
    "percent",
    "place",
    "points",
    "printable",
    "signed",
    "spread",
]


def number(value: Any, digits: int = 5, *, error: bool = True) -> str:
    """Return a number, or an enclosure as midpoint and error; a wide one as its two ends.

    Args:
        value: A number, a pair of ends (None: infinite), text, or None.
        digits: Significant digits.
        error: Whether to show an enclosure's half-width.
    """
    if value is None:
        return ""
    if isinstance(value, tuple | list):
        low, high = value
        if low is None or high is None:
            return interval(value)
        middle, half = (low + high) / 2, (high - low) / 2
        if half > 0.05 * abs(middle):
            return f"[{low:.3g}, {high:.3g}]"
        shown = f"{middle:.{digits}g}"
        return f"{shown} ± {half:.1g}" if half > 0 and error else shown
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)


def interval(ends: Iterable[Any], digits: int = 5) -> str:
    """Return an interval; None stands for an infinite end."""
    low, high = ends
    return f"[{number(low, digits) or '−∞'}, {number(high, digits) or '∞'}]"


def bound(value: Any) -> str:
    """Return a criterion's bound: a number, a range, or text."""
    return interval(value) if isinstance(value, tuple | list) else number(value)


def place(witness: Any) -> str:
    """Return a witness as text: the place on the x axis and the parameters."""
    parts = []
    for name, value in (witness or {}).items():
        if isinstance(value, tuple | list):
            parts.append(f"{name} in {interval(value, 8)}")
        else:
            parts.append(f"{name} = {number(value, 8) or '±∞'}")
    return ", ".join(parts)


def percent(fraction: float | None) -> str:
    """Return a fraction in percent with two decimals."""
    return "" if fraction is None else f"{100 * fraction:.2f} %"


def counted(number: int, word: str) -> str:
    """Return `1 epoch`, `2 epochs`."""
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def points(difference: float | None) -> str:
    """Return a difference of two fractions in signed percentage points."""
    return "" if difference is None else f"{100 * difference:+z.2f}"


def signed(value: float | None) -> str:
    """Return a signed number with two decimals."""
    return "" if value is None else f"{value:+z.2f}"


def ends(
    pair: tuple[float, float] | None,
    shown: Callable[[float], str] = points,
    form: str = "[{}, {}]",
) -> str:
    """Return the two ends of a confidence interval, each formatted by `shown`."""
    return "" if pair is None else form.format(*map(shown, pair))


def spread(mean: float, std: float | None) -> str:
    """Return a mean of fractions and its standard deviation, in percent without the % sign."""
    return f"{100 * mean:.2f}" + ("" if std is None else f" ± {100 * std:.2f}")


def p_value(value: float | None) -> str:
    """Return a p-value with three decimals, or two digits below 0.001."""
    if value is None:
        return ""
    return f"{value:.3f}" if value >= 0.001 else f"{value:.1e}"


def duration(seconds: float | None) -> str:
    """Return a duration in seconds, minutes or hours."""
    if seconds is None:
        return ""
    if seconds < 90:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 5400 else f"{seconds / 3600:.3g} h"


def printable(text: object) -> str:
    """Return the text with � in place of control characters, NUL and lone surrogates."""
    text = str(text)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else "�" for c in text)


def escaped(text: object) -> str:
    """Return the text on one line, with line breaks and control characters escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))


def html_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return rows as an HTML table; every text is escaped."""

    def cells(tag: str, row: Sequence[object]) -> str:
        inner = (f"<{tag}>{html.escape(printable(text))}</{tag}>" for text in row)
        return f"<tr>{''.join(inner)}</tr>"

    body = "".join(cells("td", row) for row in rows)
    return f"<table><thead>{cells('th', head)}</thead><tbody>{body}</tbody></table>"


def columns(rows: Sequence[Sequence[str]], *, right: Iterable[int] = (), indent: str = "") -> str:
    """Return rows of equal length as aligned columns; `right` are the right-aligned ones."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    right = set(right)
    lines = []
    for row in rows:
        cells = (
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append((indent + "  ".join(cells)).rstrip())
    return "\n".join(lines)
