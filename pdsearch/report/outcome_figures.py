"""Figures of the confirmation and of the learned criteria."""

from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from pdsearch.report.markup import plain
from pdsearch.report.style import INK, colour, faint, layout

if TYPE_CHECKING:
    from pdsearch.confirm import Confirmation
    from pdsearch.insight import Insight, Learned

__all__ = ["forest", "insight_scatter"]


def forest(confirmation: "Confirmation") -> go.Figure | None:
    """Paired differences to ReLU with their 95 % intervals, in percentage points."""
    compared = [r for r in confirmation.rows if r.kind != "baseline" and r.difference is not None]
    if not compared:
        return None
    compared.reverse()
    what = "test accuracy" if confirmation.stream is None else "accuracy in the last tasks"
    figure = go.Figure()
    for i, row in enumerate(compared):
        tone = colour(0) if row.kind in ("candidate", "given") else colour(1)
        if row.kind in ("forward_control", "activation", "remedy"):
            tone = colour(3)
        middle = 100 * (row.difference or 0.0)
        boot, exact = row.ci95_bootstrap, row.ci95
        text = f"{plain(row.name)}<br>{middle:+.2f} points over ReLU, {row.seeds} seeds"
        if exact is not None:
            text += f"<br>95 % interval {100 * exact[0]:+.2f} to {100 * exact[1]:+.2f} (paired t)"
        if boot is not None:
            text += f"<br>bootstrap {100 * boot[0]:+.2f} to {100 * boot[1]:+.2f}"
        if row.p_adjusted is not None:
            text += f"<br>adjusted p = {row.p_adjusted:.3g}"
        if exact is not None:
            figure.add_trace(
                go.Scatter(
                    x=[100 * exact[0], 100 * exact[1]], y=[i, i], mode="lines",
                    line={"color": tone, "width": 3.5}, hoverinfo="text", hovertext=text,
                    showlegend=False,
                )
            )  # fmt: skip
        figure.add_trace(
            go.Scatter(
                x=[middle], y=[i], mode="markers", hoverinfo="text", hovertext=text,
                marker={
                    "size": 13, "color": tone,
                    "symbol": "diamond" if row.significant else "diamond-open",
                    "line": {"width": 2, "color": tone},
                },
                showlegend=False,
            )
        )  # fmt: skip
        figure.add_trace(_pairs(confirmation, row, i))
    figure.add_vline(x=0, line={"color": INK, "width": 1.6, "dash": "dot"})
    figure.update_layout(
        layout(
            xaxis={
                "title": {
                    "text": f"{what} − ReLU's, points",
                    "standoff": 8,
                },
            },
            # Names stand above their intervals: beside them, long ones leave no room on a phone.
            annotations=[
                {
                    "x": 0,
                    "xref": "paper",
                    "xanchor": "left",
                    "y": i + 0.32,
                    "showarrow": False,
                    "text": plain(_short(row.name)),
                    "font": {"size": 12},
                }
                for i, row in enumerate(compared)
            ],
            yaxis={
                "range": [-0.5, len(compared) - 0.35],
                "showgrid": False,
                "showline": False,
                "showticklabels": False,
                "ticks": "",
            },
            height=90 + 52 * len(compared),
            margin={"l": 14, "r": 18, "t": 12, "b": 48},
        )
    )
    return figure


def _short(name: str, most: int = 44) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def _pairs(confirmation: "Confirmation", row: Any, place: int) -> go.Scatter:
    """Each seed's own difference, small and faint, just below its row."""
    baseline = next((r for r in confirmation.rows if r.kind == "baseline"), None)
    known = (
        {} if baseline is None else dict(zip(baseline.seed_values, baseline.accuracy, strict=True))
    )
    pairs = [
        (seed, 100 * (value - known[seed]))
        for seed, value in zip(row.seed_values, row.accuracy, strict=True)
        if seed in known
    ]
    return go.Scatter(
        x=[difference for _, difference in pairs],
        y=[place - 0.22] * len(pairs),
        mode="markers",
        marker={"size": 6, "color": faint(INK, 0.55)},
        hoverinfo="text",
        hovertext=[f"seed {seed}: {difference:+.2f} points" for seed, difference in pairs],
        showlegend=False,
    )


def insight_scatter(insight: "Insight", learned: "Learned", *, percent: bool) -> go.Figure:
    """Accuracy of the trials against one criterion's value."""
    figure = go.Figure()
    kinds = (("candidate", colour(0)), ("reference", colour(1)), ("baseline", INK))
    for kind, tone in kinds:
        some = [
            (value, point)
            for value, point in zip(learned.values, insight.points, strict=True)
            if value is not None and point.kind == kind
        ]
        figure.add_trace(
            go.Scatter(
                x=[value for value, _ in some],
                y=[point.accuracy for _, point in some],
                mode="markers",
                name=kind,
                marker={"size": 7, "color": tone},
                hoverinfo="text",
                hovertext=[
                    f"trial {p.trial}: {plain(p.name)}<br>{plain(learned.name)} = {value:.5g}"
                    f"<br>{p.accuracy:.4g}"
                    for value, p in some
                ],
            )
        )
    figure.update_layout(
        layout(
            xaxis={
                "title": {"text": plain(learned.measure), "standoff": 6},
                "nticks": 6,
            },
            yaxis={"nticks": 6, **({"tickformat": ".1%"} if percent else {})},
            showlegend=False,
            margin={"l": 48, "r": 10, "t": 8, "b": 42},
        )
    )
    return figure
