"""Figures of shapes: candidates next to the step, and a family's fan."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go  # in quotes in signatures: its classes take 0.1 s to load
from optuna.distributions import FloatDistribution, IntDistribution

from pdsearch.family import shapes
from pdsearch.family.ranges import at_share
from pdsearch.style import INK, axis, chart, colour, faint, label, scatter

if TYPE_CHECKING:
    from pdsearch.family.definition import Candidate, Family

LOW, HIGH = -6.0, 4.0
FAN = 7
"""Curves of a family for each parameter."""

STEP = "step (ReLU)"


def step(low: float, high: float) -> "go.Scatter":
    """Draw the step."""
    line = {"color": INK, "width": 2, "dash": "dot"}
    note = f"{STEP}: the true derivative of max(x, 0)"
    return scatter(*shapes.step(low, high), name=STEP, notes=note, mode="lines", line=line)


def curve(
    candidate: "Candidate",
    name: str,
    *,
    low: float,
    high: float,
    progress: float = 0.0,
    line: Mapping[str, Any],
) -> "go.Scatter":
    """Draw a candidate's g at training progress t."""
    xs, ys = shapes.curve(candidate, low, high, progress=progress)
    # Six digits exceed a screen's resolution; one template for all points keeps the page small.
    note = f"{label(name)}<br>g(x) = {_wrapped(candidate.formula)}"
    return scatter(
        [float(f"{x:.9g}") for x in xs],
        [None if math.isnan(y) else float(f"{y:.6g}") for y in ys],
        name=name,
        hovertemplate=f"x = %{{x:.4g}}, g = %{{y:.5g}}<br>{note}<extra></extra>",
        mode="lines",
        # Otherwise plotly omits points, and bends become corners.
        line={**line, "simplify": False},
    )


def _wrapped(formula: str, width: int = 70) -> str:
    """Return a formula wrapped at spaces for a hover text."""
    lines = textwrap.wrap(formula, width, break_long_words=False, break_on_hyphens=False)
    return "<br>&nbsp;&nbsp;&nbsp;".join(label(line) for line in lines[:12])


def frame(curves: "Sequence[go.Scatter]", low: float, high: float) -> "go.Figure":
    """Draw curves with both axes through zero."""
    heights = [float(y) for one in curves for y in one.y if y is not None]
    line = {"type": "line", "layer": "below", "line": {"color": faint(INK, 0.45), "width": 1}}
    return chart(
        curves,
        xaxis=axis("pre-activation x", range=[low, high]),
        yaxis=axis("pseudo-derivative g(x)", range=list(shapes.span(heights))),
        shapes=[
            {**line, "x0": 0, "x1": 0, "yref": "paper", "y0": 0, "y1": 1},
            {**line, "xref": "paper", "x0": 0, "x1": 1, "y0": 0, "y1": 0},
        ],
    )


def shapes_figure(
    candidates: "Sequence[Candidate]",
    *,
    labels: Sequence[str] | None = None,
    dashed: "Sequence[Candidate]" = (),
    low: float = LOW,
    high: float = HIGH,
) -> "go.Figure":
    """Draw candidates next to the step, with the `dashed` ones thinner for comparison."""
    draw = partial(curve, low=low, high=high)
    curves = []
    labels = labels or [candidate.name for candidate in candidates]
    for i, (candidate, name) in enumerate(zip(candidates, labels, strict=True)):
        line = {"color": colour(i), "width": 3.2 if i == 0 else 2.2}
        curves.append(draw(candidate, name, line=line))
        if candidate.annealed:
            line = {"color": colour(i), "width": 1.6, "dash": "dash"}
            curves.append(draw(candidate, f"{name}, t = 0.5", progress=0.5, line=line))
    for i, candidate in enumerate(dashed, start=len(candidates)):
        line = {"color": colour(i), "width": 1.6, "dash": "dash"}
        curves.append(draw(candidate, candidate.name, line=line))
    return frame([*curves, step(low, high)], low, high)


def family_figure(family: "Family", *, low: float = LOW, high: float = HIGH) -> "go.Figure":
    """Draw the default, and a fan of curves over each parameter's range, selected by buttons."""
    draw = partial(curve, low=low, high=high)
    fans: dict[str, list[go.Scatter]] = {}
    for name in family.parameters:
        values = _fan_values(family.space[name])
        for i, value in enumerate(values):
            line = {"color": _tone(i / max(1, len(values) - 1)), "width": 1.8}
            member = family.bind(**{name: value})
            fans.setdefault(name, []).append(draw(member, f"{name} = {value:.4g}", line=line))
    if family.annealed:
        for t in (0.0, 0.25, 0.5, 0.75, 1.0):
            line = {"color": _tone(t), "width": 1.8}
            one = draw(family.default, f"t = {t:g}", progress=t, line=line)
            fans.setdefault("t", []).append(one)
    line = {"color": colour(0), "width": 3.4}
    default = draw(family.default, f"default {family.default.name}", line=line)

    def shown(choice: str) -> list[bool]:
        return [name == choice for name in fans for _ in fans[name]] + [True, True]

    curves = [*(one for fan in fans.values() for one in fan), step(low, high), default]
    figure = frame(curves, low, high)
    for trace, visible in zip(figure.data, shown(next(iter(fans), "")), strict=True):
        trace.visible = visible
    if len(fans) > 1:
        buttons = [
            {"label": f"vary {choice}", "method": "update", "args": [{"visible": shown(choice)}]}
            for choice in fans
        ]
        menu = {
            "type": "buttons", "direction": "right", "buttons": buttons, "showactive": True,
            "x": 0, "xanchor": "left", "y": 1.0, "yanchor": "bottom", "pad": {"b": 6},
        }  # fmt: skip
        figure.update_layout(
            updatemenus=[menu],
            legend={"orientation": "v", "x": 1.01, "y": 1, "yanchor": "top"},
        )
    return figure


def _fan_values(distribution: Any) -> list[float]:
    ranged: FloatDistribution | IntDistribution = distribution
    low, high = float(ranged.low), float(ranged.high)
    if low == high:
        return [low]
    if ranged.step:
        count = min(FAN, round((high - low) / ranged.step) + 1)
        steps = [
            round(i * (high - low) / ranged.step / max(1, count - 1)) * ranged.step
            for i in range(count)
        ]
        return list(dict.fromkeys(low + offset for offset in steps))
    inner = [at_share(low, high, i / (FAN - 1), log=ranged.log) for i in range(FAN - 1)]
    return [*inner, high]


def _tone(share: float) -> str:
    """Return a colour from blue through violet to orange, visible on white and on black."""
    ends = ((64, 145, 220), (150, 105, 200), (230, 120, 40))
    first, second, within = (
        (ends[0], ends[1], share * 2) if share < 0.5 else (ends[1], ends[2], share * 2 - 1)
    )
    red, green, blue = (round(a + (b - a) * within) for a, b in zip(first, second, strict=True))
    return f"rgb({red},{green},{blue})"
