"""Figures of a confirmation: differences to ReLU, and each row over epochs or tasks."""

from typing import Any

import plotly.graph_objects as go

from pdsearch.confirm import Confirmation, Row
from pdsearch.errors import shortened
from pdsearch.report.curve_figures import DIAGNOSED, QUANTITIES, by_step
from pdsearch.statistics import mean_std
from pdsearch.style import (
    INK,
    PALETTE,
    axis,
    chart,
    colour,
    epoch_axis,
    faint,
    label,
    scatter,
)
from pdsearch.text import ends, p_value, points

_TONES = {"candidate": 0, "given": 0, "forward_control": 3, "activation": 3, "remedy": 3}


def forest(confirmation: Confirmation) -> go.Figure | None:
    """Draw paired differences to ReLU with their 95 % intervals, in percentage points."""
    compared = [r for r in confirmation.rows if r.kind != "baseline" and r.difference is not None]
    if not compared:
        return None
    compared.reverse()
    traces = []
    for i, row in enumerate(compared):
        tone, text = colour(_TONES.get(row.kind, 1)), _note(row)
        if row.ci95 is not None:
            line = {"color": tone, "width": 3.5}
            interval = [100 * end for end in row.ci95]
            traces.append(scatter(interval, [i, i], notes=text, mode="lines", line=line))
        symbol = "diamond" if row.significant else "diamond-open"
        marker = {"size": 13, "color": tone, "symbol": symbol, "line": {"width": 2, "color": tone}}
        middle = 100 * (row.difference or 0.0)
        traces.append(scatter([middle], [i], notes=text, marker=marker))
        traces.append(_seeds(confirmation, row, i))
    what = "test accuracy" if confirmation.stream is None else "accuracy in the last tasks"
    bare = {"showgrid": False, "showline": False, "showticklabels": False, "ticks": ""}
    figure = chart(
        traces,
        xaxis=axis(f"{what} − ReLU's, points"),
        yaxis={"range": [-0.5, len(compared) - 0.35], **bare},
        # Names stand above their intervals: next to them, long ones leave no room on a phone.
        annotations=[
            {
                "x": 0, "xref": "paper", "xanchor": "left", "y": i + 0.32, "showarrow": False,
                "text": label(shortened(row.name, 60)), "font": {"size": 12},
            }
            for i, row in enumerate(compared)
        ],
        height=90 + 52 * len(compared),
        margin={"l": 14, "r": 18, "t": 12, "b": 48},
    )  # fmt: skip
    figure.add_vline(x=0, line={"color": INK, "width": 1.6, "dash": "dot"})
    return figure


def _note(row: Row) -> str:
    lines = [label(row.name), f"{points(row.difference)} points over ReLU, {row.seeds} seeds"]
    if row.ci95 is not None:
        lines.append(f"95 % interval {ends(row.ci95, form='{} to {}')} (paired t)")
    if row.ci95_bootstrap is not None:
        lines.append(f"bootstrap {ends(row.ci95_bootstrap, form='{} to {}')}")
    if row.p_adjusted is not None:
        lines.append(f"adjusted p = {p_value(row.p_adjusted)}")
    return "<br>".join(lines)


def _seeds(confirmation: Confirmation, row: Row, place: int) -> go.Scatter:
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


# The quantity in `QUANTITIES` by the title of its figure.
_EPOCHS = {"test accuracy": "value", "training loss": "training loss"}
_TASKS = {"accuracy within the task": "value"} | {
    name: name
    for name in (
        "accuracy after the task",
        "dead units, mean over layers",
        "L2 norm of all weights",
    )
}


def unit_of(confirmation: Confirmation) -> str:
    """Return the unit of a run's records: "epoch" or "task"."""
    return "epoch" if confirmation.stream is None else "task"


def row_curves(confirmation: Confirmation) -> dict[str, go.Figure]:
    """Draw accuracy and loss over epochs, or the quantities of a stream; and the diagnostics.

    Returns:
        Figures by title, without those that have no data.
    """
    stream = confirmation.stream is not None
    unit = unit_of(confirmation)
    found = {}
    for title, quantity in ((_TASKS if stream else _EPOCHS) | {n: n for n in DIAGNOSED}).items():
        read, percent = QUANTITIES[quantity]
        traces = []
        for number, row in enumerate(confirmation.rows):
            if values := by_step(row.runs, read):
                traces += _row(row, number, values, unit)
        if traces:
            most = max(len(run) for row in confirmation.rows for run in row.runs)
            zero = {"rangemode": "tozero"} if stream else {}
            yaxis = axis(title, percent=percent, **zero)
            found[title] = chart(traces, xaxis=epoch_axis(unit, most), yaxis=yaxis)
    return found


def _row(row: Row, number: int, values: dict[int, list[float]], unit: str) -> list[go.Scatter]:
    """Draw a row's mean over its seeds, and a band of one standard deviation around it."""
    tone = INK if row.kind == "baseline" else colour(number - 1)
    dash = "solid" if row.kind in ("baseline", "candidate", "given") else "dash"
    if number > len(PALETTE):
        dash = "dot"  # the colours repeat
    means, stds, notes = [], [], []
    for epoch, some in values.items():
        mean, std = mean_std(some)
        means.append(mean)
        stds.append(std or 0.0)
        notes.append(f"{label(row.name)}<br>{unit} {epoch}: {mean:.4g} ± {stds[-1]:.2g}")
    epochs = list(values)
    group: dict[str, Any] = {"mode": "lines", "legendgroup": label(row.name)}
    line = {"color": tone, "width": 2.5, "dash": dash}
    middle = scatter(epochs, means, name=row.name, notes=notes, line=line, **group)
    if not any(stds):
        return [middle]
    above = [m + s for m, s in zip(means, stds, strict=True)]
    below = [m - s for m, s in zip(means, stds, strict=True)]
    band = scatter(
        epochs + epochs[::-1],
        above + below[::-1],
        fill="toself",
        fillcolor=faint(tone, 0.13),
        line={"width": 0},
        **group,
    )
    return [band, middle]
