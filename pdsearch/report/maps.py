"""Maps: a family's parameter box cut into proved, refuted and undecided parts.

One parameter makes a strip, two make a plane; of more only the shares of the box are shown.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from pdsearch.family import at_share
from pdsearch.report.style import axis, faint, layout
from pdsearch.report.terminal import takes_unicode
from pdsearch.text import columns, number

if TYPE_CHECKING:
    from pdsearch.criteria import FamilyMap, Part
    from pdsearch.family import Family

__all__ = ["VERDICTS", "map_figure", "map_plot", "maps_text", "moving", "share"]

VERDICTS = ("proved", "refuted", "undecided")
TONES = {"proved": "#1a9c78", "refuted": "#d6455d", "undecided": "#7d8590"}
# So that a map does not hang on colour.
PATTERNS = {"proved": "", "refuted": "/", "undecided": "."}
FILLS = {"proved": "█", "refuted": "░", "undecided": "?"}
ASCII = {"proved": "#", "refuted": ".", "undecided": "?"}


def moving(family: "Family") -> list[str]:
    """Return the parameters that have a range; one held at a value is no side of the map."""
    return [name for name in family.space if (ends := _ends(family, name))[0] < ends[1]]


def _ends(family: "Family", name: str) -> tuple[float, float]:
    """Return a parameter's range."""
    d: Any = family.space[name]
    return float(d.low), float(d.high)


def share(one: "FamilyMap", verdict: str) -> str:
    """Return the share of the box with a verdict, as text; only all of it is shown as 100 %."""
    percent = 100 * one.share(verdict)
    if 0 < percent < 0.05:
        return "< 0.1 %"
    if 99.95 <= percent < 100 and len({part.verdict for part in one.parts}) > 1:
        return "> 99.9 %"
    return f"{percent:.1f} %"


def _scale(family: "Family", name: str) -> bool:
    """Return whether a parameter's axis is logarithmic."""
    return bool(getattr(family.space[name], "log", False))


# ------------------------------------------------------------------------------ in a terminal


def map_plot(
    family: "Family", one: "FamilyMap", *, width: int = 60, height: int = 12, unicode: bool = True
) -> str:
    """Draw the map in characters, each for the part that holds its middle; "" in more than 2-D.

    Args:
        family: whose parameters span the map.
        one: the map.
        width: of the plot's area, in characters.
        height: of a plane's, in lines.
        unicode: block characters, or ASCII.
    """
    names = moving(family)
    if len(names) not in (1, 2):
        return ""
    fills = FILLS if unicode else ASCII
    columns = _middles(family, names[0], width)
    rows = _middles(family, names[1], height)[::-1] if len(names) == 2 else [None]
    labels = [""] * len(rows)
    if len(names) == 2:
        labels[-1], labels[0] = map(number, _ends(family, names[1]))
        labels[len(rows) // 2] = names[1] + (" (log)" if _scale(family, names[1]) else "")
    margin = max(6, *(len(label) + 1 for label in labels))
    lines = []
    for label, across in zip(labels, rows, strict=True):
        cells = []
        for along in columns:
            point = {names[0]: along} | ({} if across is None else {names[1]: across})
            part = next((p for p in one.parts if _holds(p, point)), None)
            cells.append(fills[part.verdict] if part else " ")
        lines.append(f"{label:>{margin - 1}} {''.join(cells)}")
    low, high = map(number, _ends(family, names[0]))
    scale = " (log)" if _scale(family, names[0]) else ""
    lines.append(
        " " * margin + low + f"{names[0]}{scale}".center(width - len(low) - len(high)) + high
    )
    return "\n".join(lines)


def maps_text(
    family: "Family", maps: Sequence["FamilyMap"], *, width: int = 100, unicode: bool | None = None
) -> str:
    """Draw the shares of each verdict as a table, and each map of one or two parameters as a plot.

    Args:
        family: whose parameters span the maps.
        maps: one a criterion.
        width: of the terminal, in characters.
        unicode: whether it shows more than ASCII; None: what stdout takes.
    """
    fancy = takes_unicode(unicode)
    rows: list[tuple[str, ...]] = [("share of the parameter space", *VERDICTS)]
    rows += [(one.criterion, *(share(one, verdict) for verdict in VERDICTS)) for one in maps]
    lines = ["", columns(rows, right=range(1, 4))]
    plots = {
        one.criterion: map_plot(family, one, width=max(20, min(60, width - 14)), unicode=fancy)
        for one in maps
    }
    drawn = {criterion: plot for criterion, plot in plots.items() if plot}
    for criterion, plot in drawn.items():
        lines += ["", criterion, plot]
    if drawn:
        fills = FILLS if fancy else ASCII
        lines += ["", "      " + ", ".join(f"{fills[verdict]} {verdict}" for verdict in VERDICTS)]
    return "\n".join(lines)


def _middles(family: "Family", name: str, count: int) -> list[float]:
    low, high = _ends(family, name)
    log = _scale(family, name)
    return [at_share(low, high, (i + 0.5) / count, log=log) for i in range(count)]


def _holds(part: "Part", point: dict[str, float]) -> bool:
    return all(
        part.ranges[name][0] <= value <= part.ranges[name][1] for name, value in point.items()
    )


# ------------------------------------------------------------------------------------ figures


def map_figure(family: "Family", one: "FamilyMap") -> go.Figure | None:
    """Draw the map as rectangles, a colour and pattern for each verdict; None in more than 2-D."""
    names = moving(family)
    if len(names) not in (1, 2):
        return None
    figure = go.Figure()
    for verdict in VERDICTS:
        parts = [part for part in one.parts if part.verdict == verdict]
        if not parts:
            continue
        xs: list[float | None] = []
        ys: list[float | None] = []
        for part in parts:
            left, right = part.ranges[names[0]]
            bottom, top = part.ranges[names[1]] if len(names) == 2 else (0.0, 1.0)
            xs += [left, right, right, left, left, None]
            ys += [bottom, bottom, top, top, bottom, None]
        tone = TONES[verdict]
        pattern = {"shape": PATTERNS[verdict], "fgcolor": tone, "size": 7, "fillmode": "overlay"}
        figure.add_trace(
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
    axes: dict[str, Any] = {"xaxis": _axis(family, names[0])}
    axes["yaxis"] = (
        _axis(family, names[1])
        if len(names) == 2
        else {"range": [0, 1], "showticklabels": False, "ticks": "", "showgrid": False}
    )
    figure.update_layout(layout(**axes))
    return figure


def _axis(family: "Family", name: str) -> dict[str, Any]:
    ends = list(_ends(family, name))
    if _scale(family, name):
        return axis(name, type="log", range=[math.log10(end) for end in ends])
    return axis(name, range=ends)
