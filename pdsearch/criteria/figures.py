"""The figure of a report: the shape, where criteria fail, and the boxes of their proofs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go  # in quotes in signatures: its classes take 0.1 s to load

from pdsearch.family import Candidate
from pdsearch.family.figures import HIGH, LOW, curve, frame, step
from pdsearch.family.shapes import evaluate
from pdsearch.style import colour, faint, label, scatter

if TYPE_CHECKING:
    from pdsearch.criteria.api import ProofBox


def criteria_figure(
    candidate: Candidate,
    results: Sequence[Mapping[str, Any]],
    *,
    proofs: Mapping[str, Sequence["ProofBox"]] | None = None,
) -> "go.Figure":
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
    drawn = curve(candidate, candidate.name, low=low, high=high, line=line)
    figure = frame([drawn, step(low, high)], low, high)
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
                [evaluate(candidate, end) for end in visible],
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
    boxes: "Sequence[ProofBox]",
    tone: str,
    *,
    within: tuple[float, float, float, float],
) -> "go.Bar":
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


def _merged(boxes: "Sequence[ProofBox]", width: float) -> "list[ProofBox]":
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
