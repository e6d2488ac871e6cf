"""What all figures share: colours, axes, layout, and the texts that hovering shows."""

import html
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from pdsearch.text import printable

__all__ = [
    "INK",
    "PALETTE",
    "axis",
    "colour",
    "epoch_axis",
    "faint",
    "label",
    "layout",
    "scatter",
]

INK = "#7d8590"
"""The step and ReLU: a grey that shows on white and on black."""

PALETTE = (
    "#2f7ed8", "#e0701a", "#1a9c78", "#a05fd0", "#d6455d", "#1b9fb5", "#8f8a17", "#c2569f",
    "#6b7fe3", "#b07d48",
)  # fmt: skip

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'DejaVu Sans', sans-serif"


def colour(index: int) -> str:
    """Return a colour of the palette, which starts over at its end."""
    return PALETTE[index % len(PALETTE)]


def faint(hex_colour: str, opacity: float) -> str:
    """Return the colour with that opacity, for fills."""
    red, green, blue = (int(hex_colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity:g})"


def label(text: object) -> str:
    """Return a text for plotly, which reads tags, entities and %{…} in its labels."""
    return html.escape(printable(text)).replace("%{", "%&#123;")


def scatter(
    x: Sequence[Any],
    y: Sequence[Any],
    *,
    name: str | None = None,
    notes: Sequence[str] | str | None = None,
    mode: str = "markers",
    **more: Any,
) -> go.Scatter:
    """Draw points, or a line where `mode` says so.

    Args:
        x: where.
        y: how high.
        name: in the legend; the trace has no entry there without one.
        notes: what hovering shows, one for each point or one for all; nothing without, and
            without a `hovertemplate`.
        mode: plotly's.
        **more: other properties of plotly's scatter.
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
    """Return an axis with its title; shares are labelled in percent."""
    ticks = {"tickformat": ".1%"} if percent else {}
    return {"title": {"text": label(title), "standoff": 8}, **ticks, **more}


def epoch_axis(unit: str, most: int) -> dict[str, Any]:
    """Return the axis of epochs or tasks: whole numbers where there are few."""
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


def layout(**changes: Any) -> dict[str, Any]:
    """Return a figure's layout; nested settings are merged into the shared ones."""
    shared: dict[str, Any] = {
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
    for name, value in changes.items():
        if name.startswith(("xaxis", "yaxis")):
            value = {**AXIS, **value}
        if isinstance(value, dict) and isinstance(shared.get(name), dict):
            value = {**shared[name], **value}
        shared[name] = value
    return shared
