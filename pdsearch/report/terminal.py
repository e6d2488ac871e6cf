"""Shapes and criteria in a terminal: one-line plots, and a plot with axes."""

import math
import textwrap
from functools import partial
from typing import TYPE_CHECKING

from pdsearch.family import shapes
from pdsearch.text import bound, number, place

if TYPE_CHECKING:
    from pdsearch.criteria import Report, Result
    from pdsearch.family import Candidate

LOW, HIGH = -5.0, 3.0
BLOCKS, ASCII = "▁▂▃▄▅▆▇█", ".:=+*%#@"


def sparkline(candidate: "Candidate", *, width: int = 24, unicode: bool = True) -> str:
    """Draw g from x = −5 to 3 in one line of `width` characters, blocks or ASCII.

    A column's height is the value of g; a full block is 1 or more, `·` is 0 and `-` is negative.
    """
    levels, zero = (BLOCKS, "·") if unicode else (ASCII, "_")
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
    candidate: "Candidate", *, width: int = 64, height: int = 10, unicode: bool = True
) -> str:
    """Draw g with axes in braille dots or ASCII, and the step as a dotted line.

    The plot area has `width` characters and `height` lines.
    """
    across, down = (2, 4) if unicode else (1, 1)
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
        if last is None:
            last = here
        # Neighbours are joined, so that a jump is a line and not a hole.
        dots |= {(i, j) for j in range(min(here, last), max(here, last) + 1)}
        last = here
        if i % (2 * across) == 0:
            marks.add((i, row(1.0 if xs[i] > 0 else 0.0)))
    cell = _braille if unicode else _ascii
    side, corner, rule, minus, dotted = "│└─−⠂" if unicode else "|+--."
    labels = {row(1.0) // down: "1", row(0.0) // down: "0"}
    lines = []
    for j in range(height):
        body = "".join(cell(dots, marks, i, j) for i in range(width))
        lines.append(f"{labels.get(j, ''):>4} {side}{body}".rstrip())
    ticks = [" "] * (width + 2)
    for value in range(math.ceil(LOW), math.floor(HIGH) + 1):
        at = round((value - LOW) / (HIGH - LOW) * width)
        label = str(value).replace("-", minus)
        at = min(max(0, at - len(label) // 2), width - len(label))
        ticks[at : at + len(label)] = label
    lines.append(f"     {corner}{rule * width}")
    lines.append("      " + "".join(ticks).rstrip())
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
    unicode: bool = True,
) -> str:
    """Return a report as text: the candidate's shape, then each criterion with its evidence.

    `width` is the terminal's, in characters; `unicode` is whether it shows more than ASCII.
    """
    wrap = partial(textwrap.wrap, width=width, break_on_hyphens=False)
    lines = []
    # A formula that was typed is its own name and is shown only once.
    if candidate is None or report.target != candidate.formula:
        lines += textwrap.wrap(report.target, width, subsequent_indent="  ")
    if candidate is not None:
        lines += wrap(f"g(x) = {candidate.formula}", subsequent_indent="       ")
        plot = shape_plot(candidate, width=max(16, min(64, width - 8)), unicode=unicode)
        lines += ["", *plot.splitlines()]
    lines.append("")
    marks = {True: "✔", False: "✘"} if unicode else {True: "yes", False: "NO"}
    for result in report.criteria:
        mark = "?" if result.verdict == "undecided" else marks[bool(result.passed)]
        lines.append(_head(result, mark))
        for text in _details(result):
            lines += wrap(text, initial_indent="      ", subsequent_indent="        ")
        lines.append("")
    required = [result for result in report.criteria if result.required]
    failing = [result.name for result in required if not result.passed]
    verdict = f"not shown to hold: {', '.join(failing)}" if failing else "all hold"
    last = f"required (*) by profile {report.profile}: {len(required)}; {verdict}"
    lines += wrap(last, subsequent_indent="  ")
    text = "\n".join(lines)
    return text if unicode else _to_ascii(text)


def _head(result: "Result", mark: str) -> str:
    value, limit = number(result.value), bound(result.bound)
    figures = ", ".join(filter(None, (value, f"bound {limit}" if limit else "")))
    required = "*" if result.required else " "
    return f"{mark:>3} {required} {result.name:18}{result.verdict:10}{figures}".rstrip()


def _details(result: "Result") -> list[str]:
    witness = f"witness: {place(result.witness)}" if result.witness else ""
    return [result.statement, *filter(None, (witness, result.detail))]


_PLAIN = str.maketrans(
    {"−": "-", "±": "+-", "≥": ">=", "≤": "<=", "∞": "inf", "×": "x", "α": "alpha"}
)


def _to_ascii(text: str) -> str:
    return text.translate(_PLAIN).encode("ascii", "backslashreplace").decode("ascii")
