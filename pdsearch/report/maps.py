"""Maps: a family's parameter box cut into proved, refuted and undecided parts.

A box with one side is drawn as a strip, with two as a plane. Of a box with more sides, only the
shares of the verdicts are shown.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from pdsearch.criteria import FamilyMap, Part
from pdsearch.family import Family, at_share
from pdsearch.style import axis, chart, faint
from pdsearch.text import columns, number

VERDICTS = ("proved", "refuted", "undecided")
TONES = {"proved": "#1a9c78", "refuted": "#d6455d", "undecided": "#7d8590"}
# Patterns make a map readable without colour.
PATTERNS = {"proved": "", "refuted": "/", "undecided": "."}
FILLS = {"proved": "█", "refuted": "░", "undecided": "?"}
ASCII = {"proved": "#", "refuted": ".", "undecided": "?"}


@dataclass(frozen=True)
class Side:
    """A side of the parameter box: a parameter's range, and whether its axis is logarithmic."""

    name: str
    low: float
    high: float
    log: bool

    @property
    def title(self) -> str:
        """The title of the axis in a terminal."""
        return f"{self.name} (log)" if self.log else self.name

    def middles(self, count: int) -> list[float]:
        """Return the midpoints of `count` equal parts of the axis."""
        shares = ((i + 0.5) / count for i in range(count))
        return [at_share(self.low, self.high, share, log=self.log) for share in shares]

    def axis(self) -> dict[str, Any]:
        """Return the axis of a figure."""
        if self.log:
            return axis(self.name, type="log", range=[math.log10(self.low), math.log10(self.high)])
        return axis(self.name, range=[self.low, self.high])


def sides(family: Family) -> list[Side]:
    """Return the sides of a family's parameter box, without parameters held at one value."""
    found: list[Side] = []
    for name, distribution in family.space.items():
        ranged: Any = distribution
        log = bool(getattr(ranged, "log", False))
        found.append(Side(name, float(ranged.low), float(ranged.high), log))
    return [side for side in found if side.low < side.high]


def share(one: FamilyMap, verdict: str) -> str:
    """Return a verdict's share of the box as text; only the whole box is shown as 100 %."""
    percent = 100 * one.share(verdict)
    if 0 < percent < 0.05:
        return "< 0.1 %"
    if 99.95 <= percent < 100 and len({part.verdict for part in one.parts}) > 1:
        return "> 99.9 %"
    return f"{percent:.1f} %"


def map_plot(
    family: Family, one: FamilyMap, *, width: int = 60, height: int = 12, unicode: bool = True
) -> str:
    """Draw a map in blocks or ASCII; "" in more than 2-D.

    A character shows the part that contains its midpoint. A plane has `width` characters and
    `height` lines.
    """
    box = sides(family)
    if len(box) not in (1, 2):
        return ""
    fills = FILLS if unicode else ASCII
    first = box[0]
    alongs = first.middles(width)
    rows: list[dict[str, float]] = [{}]
    labels = [""]
    if len(box) == 2:
        second = box[1]
        rows = [{second.name: value} for value in second.middles(height)[::-1]]
        labels = [""] * height
        labels[-1], labels[0] = number(second.low), number(second.high)
        labels[height // 2] = second.title
    margin = max(6, *(len(label) + 1 for label in labels))
    lines = []
    for label, across in zip(labels, rows, strict=True):
        cells = []
        for along in alongs:
            point = {first.name: along, **across}
            part = next((p for p in one.parts if _holds(p, point)), None)
            cells.append(fills[part.verdict] if part else " ")
        lines.append(f"{label:>{margin - 1}} {''.join(cells)}")
    low, high = number(first.low), number(first.high)
    lines.append(" " * margin + low + first.title.center(width - len(low) - len(high)) + high)
    return "\n".join(lines)


def maps_text(
    family: Family, maps: Sequence[FamilyMap], *, width: int = 100, unicode: bool = True
) -> str:
    """Return the shares of each verdict as a table, and maps of one or two parameters as plots.

    `width` is the terminal's, in characters; `unicode` is whether it shows more than ASCII.
    """
    rows: list[tuple[str, ...]] = [("share of the parameter space", *VERDICTS)]
    rows += [(one.criterion, *(share(one, verdict) for verdict in VERDICTS)) for one in maps]
    lines = ["", columns(rows, right=range(1, 4))]
    drawn = False
    for one in maps:
        if plot := map_plot(family, one, width=max(20, min(60, width - 14)), unicode=unicode):
            lines += ["", one.criterion, plot]
            drawn = True
    if drawn:
        fills = FILLS if unicode else ASCII
        lines += ["", "      " + ", ".join(f"{fills[verdict]} {verdict}" for verdict in VERDICTS)]
    return "\n".join(lines)


def _holds(part: Part, point: dict[str, float]) -> bool:
    return all(
        part.ranges[name][0] <= value <= part.ranges[name][1] for name, value in point.items()
    )


def map_figure(family: Family, one: FamilyMap) -> go.Figure | None:
    """Draw the map as rectangles, a colour and pattern for each verdict; None in more than 2-D."""
    box = sides(family)
    if len(box) not in (1, 2):
        return None
    plane = len(box) == 2
    traces = []
    for verdict in VERDICTS:
        xs: list[float | None] = []
        ys: list[float | None] = []
        for part in one.parts:
            if part.verdict == verdict:
                left, right = part.ranges[box[0].name]
                bottom, top = part.ranges[box[1].name] if plane else (0.0, 1.0)
                xs += [left, right, right, left, left, None]
                ys += [bottom, bottom, top, top, bottom, None]
        if not xs:
            continue
        tone = TONES[verdict]
        pattern = {"shape": PATTERNS[verdict], "fgcolor": tone, "size": 7, "fillmode": "overlay"}
        traces.append(
            go.Scatter(
                x=xs,
                y=ys,
                mode="lines",
                name=f"{verdict}: {share(one, verdict)}",
                fill="toself",
                fillcolor=faint(tone, 0.45),
                fillpattern={**pattern, "solidity": 0.2},
                line={"color": faint(tone, 0.7), "width": 0.6},
                hoveron="fills",
                hoverinfo="name",
            )
        )
    bare = {"range": [0, 1], "showticklabels": False, "ticks": "", "showgrid": False}
    return chart(traces, xaxis=box[0].axis(), yaxis=box[1].axis() if plane else bare)
