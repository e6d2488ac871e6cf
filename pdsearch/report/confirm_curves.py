"""Curves of a confirmation: each row by epoch or task, the mean of its seeds and their spread."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from pdsearch.report.inside import INSIDE
from pdsearch.report.markup import plain
from pdsearch.report.study_figures import epoch_axis, mean_dead, value_axis, weight_norm
from pdsearch.report.style import INK, PALETTE, colour, faint, layout
from pdsearch.statistics import mean_std

if TYPE_CHECKING:
    from pdsearch.confirm import Confirmation, Row

__all__ = ["row_curves"]

Read = Callable[[Mapping[str, Any]], float | None]

_EPOCHS: dict[str, tuple[Read, bool]] = {
    "test accuracy": (lambda entry: entry.get("accuracy"), True),
    "training loss": (lambda entry: entry.get("loss"), False),
}
_TASKS: dict[str, tuple[Read, bool]] = {
    "accuracy within the task": (lambda entry: entry.get("accuracy"), True),
    "accuracy after the task": (lambda entry: entry.get("final_accuracy"), True),
    "dead units, mean over layers": (mean_dead, True),
    "L2 norm of all weights": (weight_norm, False),
}


def row_curves(confirmation: "Confirmation") -> dict[str, go.Figure]:
    """Accuracy and loss by epoch, or what grows over a stream's tasks; and what diagnostics saw.

    Returns:
        Figures by their titles; those of which nothing is known are left out.
    """
    quantities = {**(_EPOCHS if confirmation.stream is None else _TASKS), **INSIDE}
    made = {
        title: _figure(confirmation, read, title=title, percent=percent)
        for title, (read, percent) in quantities.items()
    }
    return {title: figure for title, figure in made.items() if figure is not None}


def _figure(
    confirmation: "Confirmation", read: Read, *, title: str, percent: bool
) -> go.Figure | None:
    figure, stream = go.Figure(), confirmation.stream is not None
    for number, row in enumerate(confirmation.rows):
        points = _points(row, read)
        if points:
            tone = INK if row.kind == "baseline" else colour(number - 1)
            dash = "solid" if row.kind in ("baseline", "candidate", "given") else "dash"
            if number > len(PALETTE):
                dash = "dot"  # the colours begin again
            unit = _unit(confirmation)
            _add(figure, row.name, points, tone=tone, dash=dash, unit=unit)
    if not figure.data:
        return None
    figure.update_layout(
        layout(
            xaxis=epoch_axis(
                _unit(confirmation), max(len(run) for row in confirmation.rows for run in row.runs)
            ),
            yaxis={**value_axis(percent, title), **({"rangemode": "tozero"} if stream else {})},
        )
    )
    return figure


def _unit(confirmation: "Confirmation") -> str:
    return "epoch" if confirmation.stream is None else "task"


def _points(row: "Row", read: Read) -> list[tuple[int, float, float]]:
    """Epoch or task, mean and standard deviation over the runs that came as far."""
    by_epoch: dict[int, list[float]] = {}
    for run in row.runs:
        for entry in run:
            value = read(entry)
            if value is not None:
                by_epoch.setdefault(int(entry["epoch"]), []).append(value)
    points = []
    for epoch in sorted(by_epoch):
        mean, std = mean_std(by_epoch[epoch])
        points.append((epoch, mean, std or 0.0))
    return points


def _add(
    figure: go.Figure,
    name: str,
    points: list[tuple[int, float, float]],
    *,
    tone: str,
    dash: str,
    unit: str,
) -> None:
    epochs = [epoch for epoch, _, _ in points]
    if any(std for _, _, std in points):
        edge = [mean + std for _, mean, std in points]
        edge += [mean - std for _, mean, std in reversed(points)]
        figure.add_trace(
            go.Scatter(
                x=epochs + epochs[::-1],
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
            x=epochs,
            y=[mean for _, mean, _ in points],
            mode="lines",
            name=plain(name),
            legendgroup=plain(name),
            line={"color": tone, "width": 2.5, "dash": dash},
            hoverinfo="text",
            hovertext=[
                f"{plain(name)}<br>{unit} {epoch}: {mean:.4g} ± {std:.2g}"
                for epoch, mean, std in points
            ],
        )
    )
