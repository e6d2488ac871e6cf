"""Figures of shapes: candidates next to the step, a family's fan, witnesses and proofs."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import plotly.graph_objects as go
from optuna.distributions import FloatDistribution, IntDistribution

from pdsearch.criteria import ProofBox
from pdsearch.errors import InputError
from pdsearch.family import Candidate, Family, at_share
from pdsearch.report import shapes
from pdsearch.report.style import INK, axis, chart, colour, faint, label, scatter

LOW, HIGH = -6.0, 4.0
FAN = 7
"""Curves of a family for each parameter."""

STEP = "step (ReLU)"


def plot(
    target: Candidate | Family | Sequence[Candidate], *, low: float = LOW, high: float = HIGH
) -> go.Figure:
    """Draw the shape of a pseudo-derivative next to the step, ReLU's own derivative.

    Args:
        target: A candidate; several candidates, drawn together; or a family, drawn as a fan of
            curves over the range of each of its parameters, one parameter at a time.
        low: Left end of the x axis.
        high: Right end of the x axis.

    Returns:
        A plotly figure with `.show()` and `.write_html(path)`.

    Raises:
        InputError: The target is none of these, or low ≥ high.
    """
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise InputError(f"low must be below high, got low = {low}, high = {high}")
    if isinstance(target, Family):
        return family_figure(target, low=low, high=high)
    several: list[Any] = list(target) if isinstance(target, list | tuple) else [target]
    if several and all(isinstance(one, Candidate) for one in several):
        return shapes_figure(several, low=low, high=high)
    raise InputError(
        f"plot needs a Candidate, several of them, or a Family, got {type(target).__name__}"
    )


def _step(low: float, high: float) -> go.Scatter:
    line = {"color": INK, "width": 2, "dash": "dot"}
    note = f"{STEP}: the true derivative of max(x, 0)"
    return scatter(*shapes.step(low, high), name=STEP, notes=note, mode="lines", line=line)


def _curve(
    candidate: Candidate,
    name: str,
    *,
    low: float,
    high: float,
    progress: float = 0.0,
    line: Mapping[str, Any],
) -> go.Scatter:
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


def _frame(curves: Sequence[go.Scatter], low: float, high: float) -> go.Figure:
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
    candidates: Sequence[Candidate],
    *,
    labels: Sequence[str] | None = None,
    dashed: Sequence[Candidate] = (),
    low: float = LOW,
    high: float = HIGH,
) -> go.Figure:
    """Draw candidates next to the step, with the `dashed` ones thinner for comparison."""
    curve = partial(_curve, low=low, high=high)
    curves = []
    labels = labels or [candidate.name for candidate in candidates]
    for i, (candidate, name) in enumerate(zip(candidates, labels, strict=True)):
        line = {"color": colour(i), "width": 3.2 if i == 0 else 2.2}
        curves.append(curve(candidate, name, line=line))
        if candidate.annealed:
            line = {"color": colour(i), "width": 1.6, "dash": "dash"}
            curves.append(curve(candidate, f"{name}, t = 0.5", progress=0.5, line=line))
    for i, candidate in enumerate(dashed, start=len(candidates)):
        line = {"color": colour(i), "width": 1.6, "dash": "dash"}
        curves.append(curve(candidate, candidate.name, line=line))
    return _frame([*curves, _step(low, high)], low, high)


def family_figure(family: Family, *, low: float = LOW, high: float = HIGH) -> go.Figure:
    """Draw the default, and a fan of curves over each parameter's range, selected by buttons."""
    curve = partial(_curve, low=low, high=high)
    fans: dict[str, list[go.Scatter]] = {}
    for name in family.parameters:
        values = _fan_values(family.space[name])
        for i, value in enumerate(values):
            line = {"color": _tone(i / max(1, len(values) - 1)), "width": 1.8}
            member = family.bind(**{name: value})
            fans.setdefault(name, []).append(curve(member, f"{name} = {value:.4g}", line=line))
    if family.annealed:
        for t in (0.0, 0.25, 0.5, 0.75, 1.0):
            line = {"color": _tone(t), "width": 1.8}
            one = curve(family.default, f"t = {t:g}", progress=t, line=line)
            fans.setdefault("t", []).append(one)
    line = {"color": colour(0), "width": 3.4}
    default = curve(family.default, f"default {family.default.name}", line=line)

    def shown(choice: str) -> list[bool]:
        return [name == choice for name in fans for _ in fans[name]] + [True, True]

    curves = [*(one for fan in fans.values() for one in fan), _step(low, high), default]
    figure = _frame(curves, low, high)
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


def criteria_figure(
    candidate: Candidate,
    results: Sequence[Mapping[str, Any]],
    *,
    proofs: Mapping[str, Sequence[ProofBox]] | None = None,
) -> go.Figure:
    """Draw the shape with the step, and mark where each refuted criterion fails.

    `results` are entries of `Report.to_dict()["criteria"]`. `proofs` are boxes by criterion, hidden
    until selected in the legend.
    """
    marked = [(entry, _ends(entry)) for entry in results]
    found = [(entry, ends) for entry, ends in marked if ends is not None]
    # The axis extends to witnesses, except those far out, which would flatten the picture.
    near = [end for _, ends in found for end in ends if abs(end) <= 60]
    low = min([LOW, *(end - 1 for end in near if end < LOW)])
    high = max([HIGH, *(end + 1 for end in near if end > HIGH)])
    line = {"color": colour(0), "width": 3}
    curve = _curve(candidate, candidate.name, low=low, high=high, line=line)
    figure = _frame([curve, _step(low, high)], low, high)
    for i, (entry, ends) in enumerate(found):
        visible = [end for end in ends if low <= end <= high]
        if not visible:
            continue
        tone, name = colour(i + 4), str(entry["name"])
        where = f"at x = {ends[0]:.8g}"
        if len(ends) == 2:
            where = f"over x in [{ends[0]:.8g}, {ends[1]:.8g}]"
            figure.add_vrect(
                x0=max(low, ends[0]), x1=min(high, ends[1]),
                fillcolor=faint(tone, 0.12), line_width=0, layer="below",
            )  # fmt: skip
        figure.add_trace(
            scatter(
                visible,
                [shapes.evaluate(candidate, end) for end in visible],
                name=f"{name} fails",
                notes=f"{label(name)}: {label(entry['statement'])}<br>fails {where}",
                marker={
                    "color": tone, "size": 11, "symbol": "circle-open-dot", "line": {"width": 2.5},
                },
            )
        )  # fmt: skip
    bottom, top = figure.layout.yaxis.range
    for i, (criterion, boxes) in enumerate((proofs or {}).items()):
        figure.add_trace(_proof(criterion, boxes, colour(i + 7), within=(low, high, bottom, top)))
    if proofs:
        figure.update_layout(barmode="overlay")
    return figure


def _proof(
    criterion: str,
    boxes: Sequence[ProofBox],
    tone: str,
    *,
    within: tuple[float, float, float, float],
) -> go.Bar:
    """Draw a proof's boxes as bars with their numbers, hidden until selected in the legend."""
    low, high, bottom, top = within
    drawn = []
    for box in _merged([box for box in boxes if box.x[0] < high and box.x[1] > low], high - low):
        # Boxes are cut just beyond the edge of the picture, where their sides are not seen.
        left, right = max(box.x[0], low - 1), min(box.x[1], high + 1)
        least, most = max(box.g[0], bottom - 1), min(box.g[1], top + 1)
        ends = [("−∞" if a == -math.inf else "∞" if a == math.inf else f"{a:.6g}") for a in box.x]
        text = f"x from {ends[0]} to {ends[1]}:<br>g is from {box.g[0]:.6g} to {box.g[1]:.6g}"
        drawn.append((left, right, least, most, text))
    count = f"{len(boxes)} box" + ("es" if len(boxes) > 1 else "")
    return go.Bar(
        name=f"proof of {criterion} ({count})",
        visible="legendonly",
        x=[(left + right) / 2 for left, right, *_ in drawn],
        width=[right - left for left, right, *_ in drawn],
        base=[least for _, _, least, _, _ in drawn],
        # The box of a constant has no height and is drawn as a thin line.
        y=[max(most - least, 0.004 * (top - bottom)) for _, _, least, most, _ in drawn],
        marker={"color": faint(tone, 0.22), "line": {"color": tone, "width": 1}},
        hoverinfo="text",
        hovertext=[f"{criterion} is proved by boxes<br>{text}" for *_, text in drawn],
    )


def _merged(boxes: Sequence[ProofBox], width: float) -> list[ProofBox]:
    """Join neighbours narrower than about a pixel; the result is still an enclosure."""
    found: list[ProofBox] = []
    for box in boxes:
        last = found[-1] if found else None
        if last is not None and box.x[1] - last.x[0] < width / 600:
            hull = (min(last.g[0], box.g[0]), max(last.g[1], box.g[1]))
            found[-1] = replace(last, x=(last.x[0], box.x[1]), g=hull)
        else:
            found.append(box)
    return found


def _ends(entry: Mapping[str, Any]) -> tuple[float, ...] | None:
    """Return a witness's place on the x axis: a point, or the two ends of an interval."""
    place = (entry.get("witness") or {}).get("x")
    values = place if isinstance(place, list | tuple) else [place]
    finite = [float(v) for v in values if isinstance(v, int | float) and math.isfinite(v)]
    return tuple(finite) if finite and len(finite) == len(values) else None
