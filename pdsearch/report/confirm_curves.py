"""Curves of a confirmation: each row over its tasks, the mean of its seeds and their spread."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from pdsearch.report.markup import plain
from pdsearch.report.study_figures import mean_dead, value_axis, weight_norm
from pdsearch.report.style import INK, PALETTE, colour, faint, layout
from pdsearch.statistics import mean_std

if TYPE_CHECKING:
    from pdsearch.confirm import Confirmation, Row

__all__ = ["stream_curves"]

Read = Callable[[Mapping[str, Any]], float | None]


def stream_curves(confirmation: "Confirmation") -> dict[str, go.Figure]:
    """Of a stream: accuracy within and after each task, dead units and the weights' norm.

    Returns:
        Figures by their titles; those of which nothing is known are left out.
    """
    quantities: dict[str, tuple[Read, bool]] = {
        "accuracy within the task": (lambda entry: entry.get("accuracy"), True),
        "accuracy after the task": (lambda entry: entry.get("final_accuracy"), True),
        "dead units, mean over layers": (mean_dead, True),
        "L2 norm of all weights": (weight_norm, False),
    }
    made = {
        title: _figure(confirmation, read, title=title, percent=percent)
        for title, (read, percent) in quantities.items()
    }
    return {title: figure for title, figure in made.items() if figure is not None}


def _figure(
    confirmation: "Confirmation", read: Read, *, title: str, percent: bool
) -> go.Figure | None:
    figure = go.Figure()
    for number, row in enumerate(confirmation.rows):
        points = _points(row, read)
        if points:
            tone = INK if row.kind == "baseline" else colour(number - 1)
            dash = "solid" if row.kind in ("baseline", "candidate", "given") else "dash"
            if number > len(PALETTE):
                dash = "dot"  # the colours begin again
            _add(figure, row.name, points, tone=tone, dash=dash)
    if not figure.data:
        return None
    figure.update_layout(
        layout(
            xaxis={"title": {"text": "task", "standoff": 8}},
            yaxis={**value_axis(percent, title), "rangemode": "tozero"},
        )
    )
    return figure


def _points(row: "Row", read: Read) -> list[tuple[int, float, float]]:
    """Task, mean and standard deviation over the runs that came as far."""
    by_task: dict[int, list[float]] = {}
    for run in row.runs:
        for entry in run:
            value = read(entry)
            if value is not None:
                by_task.setdefault(int(entry["epoch"]), []).append(value)
    points = []
    for task in sorted(by_task):
        mean, std = mean_std(by_task[task])
        points.append((task, mean, std or 0.0))
    return points


def _add(
    figure: go.Figure,
    name: str,
    points: list[tuple[int, float, float]],
    *,
    tone: str,
    dash: str,
) -> None:
    tasks = [task for task, _, _ in points]
    if any(std for _, _, std in points):
        edge = [mean + std for _, mean, std in points]
        edge += [mean - std for _, mean, std in reversed(points)]
        figure.add_trace(
            go.Scatter(
                x=tasks + tasks[::-1],
                y=edge,
                fill="toself",
                fillcolor=faint(tone, 0.13),
                line={"width": 0},
                mode="lines",
                hoverinfo="skip",
                showlegend=False,
                legendgroup=plain(name),
            )
        )
    figure.add_trace(
        go.Scatter(
            x=tasks,
            y=[mean for _, mean, _ in points],
            mode="lines",
            name=plain(name),
            legendgroup=plain(name),
            line={"color": tone, "width": 2.5, "dash": dash},
            hoverinfo="text",
            hovertext=[
                f"{plain(name)}<br>task {task}: {mean:.4g} ± {std:.2g}"
                for task, mean, std in points
            ],
        )
    )
