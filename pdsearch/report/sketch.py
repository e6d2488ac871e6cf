"""A shape as a small picture in a line of text: SVG, without a library."""

import math
from typing import TYPE_CHECKING

from pdsearch.report import shapes
from pdsearch.report.markup import Markup, h

if TYPE_CHECKING:
    from pdsearch.family import Candidate

__all__ = ["sketch"]

LOW, HIGH, BOTTOM, TOP = -5.0, 3.0, -0.35, 1.35
WIDTH, HEIGHT = 84, 30


def sketch(candidate: "Candidate") -> Markup:
    """G from −5 to 3 with the step behind it, both cut off below −0.35 and above 1.35."""
    xs, ys = shapes.curve(candidate, LOW, HIGH, count=65)
    return h(
        "svg",
        h("path", d=_path(*shapes.step(LOW, HIGH)), class_="step"),
        h("path", d=_path(xs, ys), stroke="currentColor", stroke_width="1.8"),
        class_="spark",
        width=WIDTH,
        height=HEIGHT,
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        fill="none",
        role="img",
        aria_label=f"shape of {candidate.name}",
    )


def _path(xs: list[float], ys: list[float]) -> str:
    parts: list[str] = []
    last = ""
    for x, y in zip(xs, ys, strict=True):
        if math.isnan(y):
            continue
        across = (x - LOW) / (HIGH - LOW) * WIDTH
        down = (TOP - min(max(y, BOTTOM), TOP)) / (TOP - BOTTOM) * (HEIGHT - 2) + 1
        point = f"{across:.1f} {down:.1f}"
        if point != last:
            parts.append(point)
        last = point
    return "M" + "L".join(parts) if parts else ""
