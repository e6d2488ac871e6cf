"""Figures of a confirmation: differences to ReLU, and each row over epochs or tasks."""

from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from pdsearch.report.curve_figures import DIAGNOSED, QUANTITIES, Quantity
from pdsearch.report.style import (
    INK,
    PALETTE,
    axis,
    colour,
    epoch_axis,
    faint,
    label,
    layout,
    scatter,
)
from pdsearch.statistics import mean_std
from pdsearch.text import ends, p_value, points

if TYPE_CHECKING:
    from pdsearch.confirm import Confirmation, Row

__all__ = ["forest", "row_curves", "unit_of"]

_TONES = {"candidate": 0, "given": 0, "forward_control": 3, "activation": 3, "remedy": 3}


def forest(confirmation: "Confirmation") -> go.Figure | None:
    """Draw paired differences to ReLU with their 95 % intervals, in percentage points."""
    compared = [r for r in confirmation.rows if r.kind != "baseline" and r.difference is not None]
    if not compared:
        return None
    compared.reverse()
    figure = go.Figure()
    for i, row in enumerate(compared):
        tone, text = colour(_TONES.get(row.kind, 1)), _note(row)
        if row.ci95 is not None:
            line = {"color": tone, "width": 3.5}
            interval = [100 * end for end in row.ci95]
            figure.add_trace(scatter(interval, [i, i], notes=text, mode="lines", line=line))
        symbol = "diamond" if row.significant else "diamond-open"
        marker = {"size": 13, "color": tone, "symbol": symbol, "line": {"width": 2, "color": tone}}
        middle = 100 * (row.difference or 0.0)
        figure.add_trace(scatter([middle], [i], notes=text, marker=marker))
        figure.add_trace(_seeds(confirmation, row, i))
    figure.add_vline(x=0, line={"color": INK, "width": 1.6, "dash": "dot"})
    what = "test accuracy" if confirmation.stream is None else "accuracy in the last tasks"
    bare = {"showgrid": False, "showline": False, "showticklabels": False, "ticks": ""}
    figure.update_layout(
        layout(
            xaxis=axis(f"{what} − ReLU's, points"),
            yaxis={"range": [-0.5, len(compared) - 0.35], **bare},
            # Names stand above their intervals: next to them, long ones leave no room on a phone.
            annotations=[
                {
                    "x": 0, "xref": "paper", "xanchor": "left", "y": i + 0.32, "showarrow": False,
                    "text": label(_short(row.name)), "font": {"size": 12},
                }
                for i, row in enumerate(compared)
            ],
            height=90 + 52 * len(compared),
            margin={"l": 14, "r": 18, "t": 12, "b": 48},
        )
    )  # fmt: skip
    return figure


def _note(row: "Row") -> str:
    lines = [label(row.name), f"{points(row.difference)} points over ReLU, {row.seeds} seeds"]
    if row.ci95 is not None:
        lines.append(f"95 % interval {ends(row.ci95, form='{} to {}')} (paired t)")
    if row.ci95_bootstrap is not None:
        lines.append(f"bootstrap {ends(row.ci95_bootstrap, form='{} to {}')}")
    if row.p_adjusted is not None:
        lines.append(f"adjusted p = {p_value(row.p_adjusted)}")
    return "<br>".join(lines)


def _short(name: str, most: int = 44) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def _seeds(confirmation: "Confirmation", row: "Row", place: int) -> go.Scatter:
    """Draw each seed's own difference, small and faint, just below its row."""
    baseline = next((r for r in confirmation.rows if r.kind == "baseline"), None)
    known = dict(zip(baseline.seed_values, baseline.accuracy, strict=True)) if baseline else {}
    pairs = {
        seed: value - known[seed]
        for seed, value in zip(row.seed_values, row.accuracy, strict=True)
        if seed in known
    }
    return scatter(
        [100 * difference for difference in pairs.values()],
        [place - 0.22] * len(pairs),
        notes=[f"seed {seed}: {points(difference)} points" for seed, difference in pairs.items()],
        marker={"size": 6, "color": faint(INK, 0.55)},
    )


# ----------------------------------------------------------------------- over epochs or tasks

_EPOCHS = {"test accuracy": "value", "training loss": "training loss"}
_TASKS = {
    "accuracy within the task": "value",
    **{
        name: name
        for name in (
            "accuracy after the task",
            "dead units, mean over layers",
            "L2 norm of all weights",
        )
    },
}


def unit_of(confirmation: "Confirmation") -> str:
    """Return what a run reports one by one."""
    return "epoch" if confirmation.stream is None else "task"


def row_curves(confirmation: "Confirmation") -> dict[str, go.Figure]:
    """Draw accuracy and loss by epoch, or what grows over tasks; and what diagnostics saw.

    Returns:
        Figures by title; those of which nothing is known are left out.
    """
    shown = _EPOCHS if confirmation.stream is None else _TASKS
    found = {}
    for title, quantity in {**shown, **dict(zip(DIAGNOSED, DIAGNOSED, strict=True))}.items():
        read, percent = QUANTITIES[quantity]
        if traces := _traces(confirmation, read):
            zero = {} if confirmation.stream is None else {"rangemode": "tozero"}
            figure = go.Figure(traces)
            yaxis = axis(title, percent=percent, **zero)
            most = max(len(run) for row in confirmation.rows for run in row.runs)
            xaxis = epoch_axis(unit_of(confirmation), most)
            figure.update_layout(layout(xaxis=xaxis, yaxis=yaxis))
            found[title] = figure
    return found


def _traces(confirmation: "Confirmation", read: Quantity) -> list[go.Scatter]:
    """Draw each row's mean over the seeds that came as far, and the spread around it."""
    traces = []
    for number, row in enumerate(confirmation.rows):
        gathered: dict[int, list[float]] = {}
        for entry in (entry for run in row.runs for entry in run):
            if (value := read(entry)) is not None:
                gathered.setdefault(int(entry["epoch"]), []).append(value)
        if gathered:
            found = {epoch: mean_std(gathered[epoch]) for epoch in sorted(gathered)}
            traces += _row(row, number, found, unit_of(confirmation))
    return traces


def _row(
    row: "Row", number: int, found: dict[int, tuple[float, float | None]], unit: str
) -> list[go.Scatter]:
    tone = INK if row.kind == "baseline" else colour(number - 1)
    dash = "solid" if row.kind in ("baseline", "candidate", "given") else "dash"
    if number > len(PALETTE):
        dash = "dot"  # the colours begin again
    epochs = list(found)
    means = [mean for mean, _ in found.values()]
    stds = [std or 0.0 for _, std in found.values()]
    group: dict[str, Any] = {"legendgroup": label(row.name)}
    notes = [
        f"{label(row.name)}<br>{unit} {epoch}: {mean:.4g} ± {std:.2g}"
        for epoch, mean, std in zip(epochs, means, stds, strict=True)
    ]
    line = {"color": tone, "width": 2.5, "dash": dash}
    mean = scatter(epochs, means, name=row.name, notes=notes, mode="lines", line=line, **group)
    if not any(stds):
        return [mean]
    above = [m + s for m, s in zip(means, stds, strict=True)]
    below = [m - s for m, s in zip(means, stds, strict=True)]
    band = scatter(
        epochs + epochs[::-1],
        above + below[::-1],
        mode="lines",
        fill="toself",
        fillcolor=faint(tone, 0.13),
        line={"width": 0},
        **group,
    )
    return [band, mean]
