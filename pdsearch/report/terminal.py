"""Shapes and criteria in a terminal: one-line plots, and a plot with axes."""

import math
import sys
import textwrap
from typing import TYPE_CHECKING

from pdsearch.report import shapes
from pdsearch.text import bound, number, place

if TYPE_CHECKING:
    from pdsearch.criteria import Report, Result
    from pdsearch.family import Candidate

__all__ = ["criteria_text", "shape_plot", "sparkline"]

LOW, HIGH = -5.0, 3.0
BLOCKS, ASCII = "▁▂▃▄▅▆▇█", ".:=+*%#@"


def takes_unicode(asked: bool | None) -> bool:
    """Return what was asked for, or what stdout takes."""
    if asked is not None:
        return asked
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"


def sparkline(candidate: "Candidate", *, width: int = 24, unicode: bool | None = None) -> str:
    """Draw g from x = −5 to 3 in one line of `width` characters.

    A column's height is g's value, a full block being 1 or more; `·` is 0, `-` negative.

    Args:
        candidate: the pseudo-derivative.
        width: in characters.
        unicode: block characters, or ASCII; None: what stdout takes.
    """
    blocks = takes_unicode(unicode)
    levels, zero = (BLOCKS, "·") if blocks else (ASCII, "_")
    text = ""
    for i in range(width):
        value = shapes.evaluate(candidate, LOW + (HIGH - LOW) * (i + 0.5) / width)
        if math.isnan(value):
            text += "?"
        elif abs(value) < 1e-3:
            text += zero
        elif value < 0:
            text += "-"
        else:
            text += levels[min(math.ceil(value * len(levels)) - 1, len(levels) - 1)]
    return text


def shape_plot(
    candidate: "Candidate", *, width: int = 64, height: int = 10, unicode: bool | None = None
) -> str:
    """Draw g with axes, with the step dotted; braille dots, or ASCII.

    Args:
        candidate: the pseudo-derivative.
        width: of the plot's area, in characters.
        height: of the plot's area, in lines.
        unicode: braille dots, or ASCII; None: what stdout takes.
    """
    braille = takes_unicode(unicode)
    across, down = (2, 4) if braille else (1, 1)
    columns, rows = width * across, height * down
    xs = [LOW + (HIGH - LOW) * (i + 0.5) / columns for i in range(columns)]
    ys = [shapes.evaluate(candidate, place) for place in xs]
    low, high = shapes.span(ys)

    def row(value: float) -> int:
        return round((high - value) / (high - low) * (rows - 1))

    dots: set[tuple[int, int]] = set()
    marks: set[tuple[int, int]] = set()
    last = None
    for i, value in enumerate(ys):
        if not low <= value <= high:
            last = None
            continue
        here = row(value)
        # Steep stretches are joined, so that a jump is a line and not a hole.
        ends = (here, here) if last is None else (min(here, last), max(here, last))
        dots |= {(i, j) for j in range(ends[0], ends[1] + 1)}
        last = here
        if i % (2 * across) == 0:
            marks.add((i, row(1.0 if xs[i] > 0 else 0.0)))
    cell = _braille if braille else _ascii
    lines = []
    labels = {row(1.0) // down: "1", row(0.0) // down: "0"}
    for j in range(height):
        body = "".join(cell(dots, marks, i, j) for i in range(width))
        lines.append(f"{labels.get(j, ''):>4} {'│' if braille else '|'}{body}".rstrip())
    rule = "─" if braille else "-"
    ticks = [" "] * (width + 2)
    for value in range(math.ceil(LOW), math.floor(HIGH) + 1):
        at = round((value - LOW) / (HIGH - LOW) * width)
        label = str(value).replace("-", "−" if braille else "-")
        at = min(max(0, at - len(label) // 2), width - len(label))
        ticks[at : at + len(label)] = label
    lines.append("     " + ("└" if braille else "+") + rule * width)
    lines.append("      " + "".join(ticks).rstrip())
    dotted = "⠂" if braille else "."
    lines.append(f"      g(x), and the step ({dotted}), ReLU's own derivative")
    return "\n".join(lines)


_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))


def _braille(dots: set[tuple[int, int]], marks: set[tuple[int, int]], i: int, j: int) -> str:
    bits = 0
    for down in range(4):
        for across in range(2):
            if (2 * i + across, 4 * j + down) in dots | marks:
                bits |= _DOTS[down][across]
    return chr(0x2800 + bits) if bits else " "


def _ascii(dots: set[tuple[int, int]], marks: set[tuple[int, int]], i: int, j: int) -> str:
    return "*" if (i, j) in dots else "." if (i, j) in marks else " "


def criteria_text(
    report: "Report",
    candidate: "Candidate | None" = None,
    *,
    width: int = 100,
    unicode: bool | None = None,
) -> str:
    """Return a report as text: the shape, then each criterion with verdict, value and witness.

    Args:
        report: of `check`.
        candidate: whose shape is drawn; none is drawn without it.
        width: of the terminal, in characters.
        unicode: whether it shows more than ASCII; None: what stdout takes.
    """
    fancy = takes_unicode(unicode)
    # A formula that was typed is its own name: once is enough.
    named = candidate is None or report.target != candidate.formula
    lines = textwrap.wrap(report.target, width, subsequent_indent="  ") if named else []
    if candidate is not None:
        lines += textwrap.wrap(
            f"g(x) = {candidate.formula}",
            width,
            subsequent_indent="       ",
            break_on_hyphens=False,
        )
        plot = shape_plot(candidate, width=max(16, min(64, width - 8)), unicode=unicode)
        lines += ["", *plot.splitlines()]
    lines.append("")
    marks = ("✔", "✘", "?") if fancy else ("yes", "NO", "?")
    for result in report.criteria:
        lines += _result_lines(result, marks, width)
    required = [result for result in report.criteria if result.required]
    failing = [result.name for result in required if not result.passed]
    verdict = f"not shown to hold: {', '.join(failing)}" if failing else "all hold"
    last = f"required (*) by profile {report.profile}: {len(required)}; {verdict}"
    lines += textwrap.wrap(last, width, subsequent_indent="  ", break_on_hyphens=False)
    text = "\n".join(lines)
    return text if fancy else _to_ascii(text)


def _result_lines(result: "Result", marks: tuple[str, str, str], width: int) -> list[str]:
    mark = marks[2] if result.verdict == "undecided" else marks[0] if result.passed else marks[1]
    value = number(result.value)
    limit = bound(result.bound)
    figures = ", ".join(part for part in (value, f"bound {limit}" if limit else "") if part)
    head = (
        f"{mark:>3} {'*' if result.required else ' '} {result.name:18}{result.verdict:10}{figures}"
    )
    rest = [result.statement]
    if result.witness:
        rest.append(f"witness: {place(result.witness)}")
    if result.detail:
        rest.append(result.detail)
    lines = [head.rstrip()]
    for text in rest:
        lines += textwrap.wrap(
            text,
            width,
            initial_indent="      ",
            subsequent_indent="        ",
            break_on_hyphens=False,
        )
    return [*lines, ""]


_PLAIN = {"−": "-", "±": "+-", "≥": ">=", "≤": "<=", "∞": "inf", "×": "x", "α": "alpha"}


def _to_ascii(text: str) -> str:
    for fancy, plain in _PLAIN.items():
        text = text.replace(fancy, plain)
    return text.encode("ascii", "backslashreplace").decode("ascii")
