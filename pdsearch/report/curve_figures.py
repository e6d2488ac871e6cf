"""Figures over epochs or tasks: learning curves, dead units, and what diagnostics saw."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from pdsearch.report.style import INK, axis, colour, epoch_axis, faint, label, layout, scatter
from pdsearch.report.trial_figures import name_of, note

if TYPE_CHECKING:
    from pdsearch.study import TrialRow

__all__ = [
    "DIAGNOSED",
    "EXPLAINED",
    "QUANTITIES",
    "Quantity",
    "by_epoch",
    "by_layer",
    "dead_by_layer",
    "steps",
]

Quantity = Callable[[Mapping[str, Any]], float | None]
"""How a quantity is read from the entry of an epoch or task."""


def _finite(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _mean(values: Mapping[str, Any] | None) -> float | None:
    """Return the mean over the layers whose value is known."""
    known = [value for value in map(_finite, (values or {}).values()) if value is not None]
    return sum(known) / len(known) if known else None


def _weight_norm(entry: Mapping[str, Any]) -> float | None:
    """Return the L2 norm of all layers' weights together."""
    norms = map(_finite, (entry.get("weight_norms") or {}).values())
    known = [norm for norm in norms if norm is not None]
    return math.hypot(*known) if known else None


def _diagnosed(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    return entry.get("diagnostics") or {}


DIAGNOSED: dict[str, tuple[Quantity, bool]] = {
    "cosine to the exact gradient": (lambda e: _diagnosed(e).get("cosine"), False),
    "norm ratio to the exact gradient": (lambda e: _diagnosed(e).get("norm_ratio"), False),
    "units that came back, mean over layers": (lambda e: _mean(_diagnosed(e).get("revived")), True),
    "units that died, mean over layers": (lambda e: _mean(_diagnosed(e).get("died")), True),
}
"""What diagnostics measure, by title: how it is read, and whether it is a share."""

QUANTITIES: dict[str, tuple[Quantity, bool]] = {
    "value": (lambda e: e.get("accuracy", e.get("value")), True),
    "training loss": (lambda e: e.get("loss"), False),
    "accuracy after the task": (lambda e: e.get("final_accuracy"), True),
    "L2 norm of all weights": (_weight_norm, False),
    "dead units, mean over layers": (lambda e: _mean(e.get("dead")), True),
    **DIAGNOSED,
}
"""Every quantity over epochs or tasks, likewise."""

EXPLAINED = (
    "Measured after each {unit}. Cosine and norm ratio compare the pseudo-gradient with the exact "
    "gradient of the same network on a fixed batch of training images, over all its weights. A "
    "unit came back if it was inactive for all images one {unit} before and is active for one now; "
    "it died in the reverse case."
)


def highlighted(
    rows: Sequence["TrialRow"], best: "TrialRow | None"
) -> list[tuple[str, "TrialRow", dict[str, Any]]]:
    """Return the trials that figures name (best, baseline, references) with their lines' styles."""
    named: list[tuple[str, TrialRow, dict[str, Any]]] = []
    if best is not None:
        named.append((f"best: {name_of(best)}", best, {"color": colour(0), "width": 3}))
    references = 0
    for row in rows:
        if row.status == "failed":
            continue
        if row.kind == "baseline":
            named.append(("ReLU", row, {"color": INK, "width": 3}))
        elif row.kind == "reference":
            references += 1
            line = {"color": colour(references), "width": 2, "dash": "dash"}
            named.append((name_of(row), row, line))
    return named


def steps(
    entries: Sequence[Mapping[str, Any]], read: Quantity
) -> tuple[list[int], list[float | None]]:
    """Return the epochs or tasks, and the quantity at each to six digits: no screen shows more."""
    values = [_finite(read(entry)) for entry in entries]
    shown = [None if value is None else float(f"{value:.6g}") for value in values]
    return [int(entry["epoch"]) for entry in entries], shown


def by_epoch(
    rows: Sequence["TrialRow"],
    best: "TrialRow | None",
    quantity: str,
    *,
    unit: str,
    title: str = "",
    percent: bool | None = None,
) -> go.Figure | None:
    """Draw a quantity over epochs or tasks: named trials in colour, all others faint behind them.

    Args:
        rows: the trials.
        best: the best candidate's.
        quantity: one of `QUANTITIES`.
        unit: "epoch" or "task".
        title: of its axis; the quantity where empty.
        percent: whether it is a share, where that is not what `QUANTITIES` has.
    """
    read, share = QUANTITIES[quantity]
    named = highlighted(rows, best)
    loud = {row.number for _, row, _ in named}
    drawn = [_background([row for row in rows if row.number not in loud], read)]
    for name, row, line in reversed(named):
        epochs, values = steps(row.epochs, read)
        notes = [
            "" if value is None else f"{label(name)}<br>{unit} {epoch}: {value:.4g}"
            for epoch, value in zip(epochs, values, strict=True)
        ]
        marker = {"size": 5, "color": line["color"]}
        mode = "lines+markers"
        drawn.append(
            scatter(epochs, values, name=name, notes=notes, mode=mode, line=line, marker=marker)
        )
    figure = go.Figure([one for one in drawn if any(y is not None for y in one.y or ())])
    if not figure.data:
        return None
    most = max((len(row.epochs) for row in rows), default=1)
    positive = [y for one in figure.data for y in one.y if y is not None and y > 0]
    log = quantity == "training loss" and max(positive, default=0) > 30 * min(positive, default=1)
    figure.update_layout(
        layout(
            xaxis=epoch_axis(unit, most),
            yaxis=axis(
                title or quantity,
                percent=share if percent is None else percent,
                type="log" if log else "linear",
                rangemode="tozero" if quantity.startswith("dead") else "normal",
            ),
            legend={"traceorder": "reversed"},
        )
    )
    return figure


def _background(rows: Sequence["TrialRow"], read: Quantity) -> go.Scatter:
    """Draw all trials that have no name, as one line with gaps."""
    xs: list[int | None] = []
    ys: list[float | None] = []
    notes: list[str] = []
    for row in rows:
        if row.epochs and row.duplicate_of is None:
            epochs, values = steps(row.epochs, read)
            xs += [*epochs, None]
            ys += [*values, None]
            notes += [note(row)] * (len(epochs) + 1)
    return scatter(
        xs,
        ys,
        name="other trials",
        notes=notes,
        mode="lines+markers",
        line={"color": faint(INK, 0.38), "width": 1},
        marker={"size": 3, "color": faint(INK, 0.5)},
    )


# ----------------------------------------------------------------------------------- by layer


def dead_by_layer(
    rows: Sequence["TrialRow"], best: "TrialRow | None", *, unit: str
) -> go.Figure | None:
    """Draw each layer's share of dead units after the last epoch or task, for the named trials."""
    figure = go.Figure()
    for name, row, line in highlighted(rows, best):
        dead = row.epochs[-1].get("dead") if row.epochs else None
        if dead:
            figure.add_trace(
                go.Bar(
                    x=[label(layer) for layer in dead],
                    y=[_finite(share) for share in dead.values()],
                    name=label(name),
                    marker={"color": line["color"]},
                    hoverinfo="text",
                    hovertext=[
                        f"{label(name)}<br>{label(layer)}: {share:.2%} dead"
                        for layer, share in dead.items()
                    ],
                )
            )
    if not figure.data:
        return None
    title = f"dead units after the last {unit}"
    figure.update_layout(
        layout(
            barmode="group",
            bargap=0.25,
            xaxis=axis("layer, from the input", type="category"),
            yaxis=axis(title, percent=True, rangemode="tozero"),
        )
    )
    return figure


def by_layer(runs: Sequence[Sequence[Mapping[str, Any]]], *, unit: str) -> dict[str, go.Figure]:
    """Draw cosine and norm ratio of each layer, the mean over some runs, over epochs or tasks.

    Returns:
        Figures by title; none where nothing was measured.
    """
    found = {}
    for place, title in enumerate(list(DIAGNOSED)[:2]):
        lines = _layers(runs, place)
        figure = go.Figure()
        for number, (layer, points) in enumerate(lines.items()):
            notes = [f"{label(layer)}<br>{unit} {at}: {value:.4g}" for at, value in points.items()]
            figure.add_trace(
                scatter(
                    list(points),
                    list(points.values()),
                    name=layer or "the model itself",
                    notes=notes,
                    mode="lines",
                    line={"color": colour(number), "width": 2},
                )
            )
        if lines:
            figure.update_layout(
                layout(xaxis=epoch_axis(unit, max(map(len, runs))), yaxis=axis(title))
            )
            found[f"{title}, by layer"] = figure
    return found


def _layers(runs: Sequence[Sequence[Mapping[str, Any]]], place: int) -> dict[str, dict[int, float]]:
    """Return, by layer and epoch, the mean over the runs that came as far."""
    gathered: dict[str, dict[int, list[float]]] = {}
    for entry in (entry for run in runs for entry in run):
        for layer, pair in (_diagnosed(entry).get("layers") or {}).items():
            if pair[place] is not None:
                epochs = gathered.setdefault(layer, {})
                epochs.setdefault(int(entry["epoch"]), []).append(pair[place])
    return {
        layer: {epoch: sum(v) / len(v) for epoch, v in sorted(epochs.items())}
        for layer, epochs in gathered.items()
    }
