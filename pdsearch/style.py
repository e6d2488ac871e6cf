"""What all figures share: colours, lines, axes, layout and hover texts."""

import html
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go  # in quotes in signatures: its classes take 0.1 s to load

from pdsearch.text import printable

INK = "#7d8590"
"""The step and ReLU: a grey that is visible on white and on black."""

PALETTE = (
    "#2f7ed8", "#e0701a", "#1a9c78", "#a05fd0", "#d6455d", "#1b9fb5", "#8f8a17", "#c2569f",
    "#6b7fe3", "#b07d48",
)  # fmt: skip

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'DejaVu Sans', sans-serif"


def colour(index: int) -> str:
    """Return a colour of the palette, which repeats."""
    return PALETTE[index % len(PALETTE)]


def faint(hex_colour: str, opacity: float) -> str:
    """Return the colour with the given opacity."""
    red, green, blue = (int(hex_colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity:g})"


UNNAMED = {"color": faint(INK, 0.38), "width": 1}
"""The line of the rows that a figure does not name."""


def named_line(kind: str, number: int) -> dict[str, Any]:
    """Return the line of a row that a figure names; `number` chooses a reference's colour."""
    if kind == "baseline":
        return {"color": INK, "width": 3}
    if kind == "candidate":
        return {"color": colour(0), "width": 3}
    dash = "dash" if kind in ("reference", "given") else "dot"
    return {"color": colour(number), "width": 2, "dash": dash}


def label(text: object) -> str:
    """Return a text escaped for plotly, whose labels interpret tags, entities and %{…}."""
    return html.escape(printable(text)).replace("%{", "%&#123;")


def scatter(
    x: Sequence[Any],
    y: Sequence[Any],
    *,
    name: str | None = None,
    notes: Sequence[str] | str | None = None,
    mode: str = "markers",
    **more: Any,
) -> "go.Scatter":
    """Draw points or lines.

    Without a name, the trace has no entry in the legend. `notes` are the hover texts, one for each
    point or one for all; without them and `hovertemplate`, hovering shows nothing.
    """
    shown = "skip" if notes is None and "hovertemplate" not in more else "text"
    return go.Scatter(
        x=x,
        y=y,
        mode=mode,
        name=None if name is None else label(name),
        hoverinfo=shown,
        hovertext=notes,
        **{"showlegend": name is not None, **more},
    )


def axis(title: str = "", *, percent: bool = False, **more: Any) -> dict[str, Any]:
    """Return an axis with its title; fractions get tick labels in percent."""
    ticks = {"tickformat": ".1%"} if percent else {}
    return {"title": {"text": label(title), "standoff": 8}, **ticks, **more}


def epoch_axis(unit: str, most: int) -> dict[str, Any]:
    """Return the axis of epochs or tasks, with a tick at each if there are at most 12."""
    return axis(unit, dtick=1 if most <= 12 else None)


AXIS: dict[str, Any] = {
    "showline": True,
    "linecolor": "#adb5bd",
    "gridcolor": "rgba(125,133,144,0.18)",
    "zeroline": False,
    "ticks": "outside",
    "tickcolor": "#adb5bd",
    "ticklen": 4,
    "automargin": True,
    "title": {"standoff": 10},
}

LAYOUT: dict[str, Any] = {
    "template": "none",
    "font": {"family": FONT, "size": 13, "color": "#24292f"},
    "paper_bgcolor": "white",
    "plot_bgcolor": "white",
    "margin": {"l": 58, "r": 18, "t": 24, "b": 48},
    "hoverlabel": {"align": "left", "font": {"family": FONT, "size": 12}},
    "hovermode": "closest",
    "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": "#adb5bd", "activecolor": INK},
    "legend": {
        "orientation": "h",
        "x": 0,
        "xanchor": "left",
        "y": 1.02,
        "yanchor": "bottom",
        "bgcolor": "rgba(0,0,0,0)",
    },
}


def chart(traces: Sequence[Any], **changes: Any) -> "go.Figure":
    """Return a figure with the shared layout; nested settings are merged into it."""
    layout = dict(LAYOUT)
    for name, value in changes.items():
        shared = AXIS if name in ("xaxis", "yaxis") else LAYOUT.get(name)
        if isinstance(shared, dict) and isinstance(value, dict):
            value = {**shared, **value}
        layout[name] = value
    return go.Figure(traces, layout)
