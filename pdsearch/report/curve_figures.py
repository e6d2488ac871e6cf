"""Figures over epochs or tasks: learning curves, dead units and diagnostics."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from pdsearch.report.trial_figures import name_of, note, short_name
from pdsearch.study import TrialRow
from pdsearch.style import (
    INK,
    UNNAMED,
    axis,
    chart,
    colour,
    epoch_axis,
    faint,
    label,
    named_line,
    scatter,
)

Entry = Mapping[str, Any]
"""What a run recorded of one epoch or task."""

Quantity = Callable[[Entry], float | None]
"""A function that reads a quantity from an entry."""


def _finite(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _known(values: Mapping[str, Any] | None) -> list[float]:
    """Return the finite values among those of all layers."""
    return [value for value in map(_finite, (values or {}).values()) if value is not None]


def _mean(values: Mapping[str, Any] | None) -> float | None:
    """Return the mean over the layers whose value is known."""
    known = _known(values)
    return sum(known) / len(known) if known else None


def _weight_norm(entry: Entry) -> float | None:
    """Return the L2 norm of all layers' weights together."""
    known = _known(entry.get("weight_norms"))
    return math.hypot(*known) if known else None


def _diagnosed(entry: Entry) -> Entry:
    return entry.get("diagnostics") or {}


DIAGNOSED: dict[str, tuple[Quantity, bool]] = {
    "cosine to the exact gradient": (lambda e: _diagnosed(e).get("cosine"), False),
    "norm ratio to the exact gradient": (lambda e: _diagnosed(e).get("norm_ratio"), False),
    "units that came back, mean over layers": (lambda e: _mean(_diagnosed(e).get("revived")), True),
    "units that died, mean over layers": (lambda e: _mean(_diagnosed(e).get("died")), True),
}
"""Quantities of diagnostics by title: how to read each, and whether it is a fraction."""

QUANTITIES: dict[str, tuple[Quantity, bool]] = {
    "value": (lambda e: e.get("accuracy", e.get("value")), True),
    "training loss": (lambda e: e.get("loss"), False),
    "accuracy after the task": (lambda e: e.get("final_accuracy"), True),
    "L2 norm of all weights": (_weight_norm, False),
    "dead units, mean over layers": (lambda e: _mean(e.get("dead")), True),
    **DIAGNOSED,
}
"""All quantities over epochs or tasks, in the same form."""

EXPLAINED = (
    "Measured after each {unit}. Cosine and norm ratio compare the pseudo-gradient with the exact "
    "gradient of the same network on a fixed batch of training images, over all its weights. A "
    "unit came back if it was inactive for all images one {unit} before and is active for one now; "
    "it died in the reverse case."
)


def highlighted(
    rows: Sequence[TrialRow], best: TrialRow | None
) -> list[tuple[str, TrialRow, dict[str, Any]]]:
    """Return the trials that figures name (best, baseline, references) with their lines."""
    named: list[tuple[str, TrialRow, dict[str, Any]]] = []
    if best is not None:
        named.append((f"best: {name_of(best)}", best, named_line("candidate", 0)))
    references = 0
    for row in rows:
        if row.status != "failed" and row.kind in ("baseline", "reference"):
            references += row.kind == "reference"
            named.append((short_name(row), row, named_line(row.kind, references)))
    return named


def _steps(entries: Sequence[Entry], read: Quantity) -> tuple[list[int], list[float | None]]:
    """Return the epochs or tasks, and the quantity at each, rounded to six digits."""
    values = [_finite(read(entry)) for entry in entries]
    shown = [None if value is None else float(f"{value:.6g}") for value in values]
    return [int(entry["epoch"]) for entry in entries], shown


def by_epoch(
    rows: Sequence[TrialRow],
    best: TrialRow | None,
    quantity: str,
    *,
    unit: str,
    title: str = "",
    percent: bool | None = None,
) -> go.Figure | None:
    """Draw a quantity over epochs or tasks: named trials in colour, the others faint behind them.

    `title` and `percent` override the quantity's name and `QUANTITIES`.
    """
    read, share = QUANTITIES[quantity]
    named = highlighted(rows, best)
    loud = {row.number for _, row, _ in named}
    drawn = [_background([row for row in rows if row.number not in loud], read)]
    for name, row, line in reversed(named):
        epochs, values = _steps(row.epochs, read)
        notes = [
            "" if value is None else f"{label(name)}<br>{unit} {epoch}: {value:.4g}"
            for epoch, value in zip(epochs, values, strict=True)
        ]
        marker = {"size": 5, "color": line["color"]}
        mode = "lines+markers"
        drawn.append(
            scatter(epochs, values, name=name, notes=notes, mode=mode, line=line, marker=marker)
        )
    drawn = [one for one in drawn if any(y is not None for y in one.y or ())]
    if not drawn:
        return None
    positive = [y for one in drawn for y in one.y if y is not None and y > 0]
    log = quantity == "training loss" and max(positive, default=0) > 30 * min(positive, default=1)
    return chart(
        drawn,
        xaxis=epoch_axis(unit, max((len(row.epochs) for row in rows), default=1)),
        yaxis=axis(
            title or quantity,
            percent=share if percent is None else percent,
            type="log" if log else "linear",
            rangemode="tozero" if quantity.startswith("dead") else "normal",
        ),
        legend={"traceorder": "reversed"},
    )


def _background(rows: Sequence[TrialRow], read: Quantity) -> go.Scatter:
    """Draw all unnamed trials as one line with gaps."""
    xs: list[int | None] = []
    ys: list[float | None] = []
    notes: list[str] = []
    for row in rows:
        if row.epochs and row.duplicate_of is None:
            epochs, values = _steps(row.epochs, read)
            xs += [*epochs, None]
            ys += [*values, None]
            notes += [note(row)] * (len(epochs) + 1)
    return scatter(
        xs,
        ys,
        name="other trials",
        notes=notes,
        mode="lines+markers",
        line=UNNAMED,
        marker={"size": 3, "color": faint(INK, 0.5)},
    )


def by_step(runs: Sequence[Sequence[Entry]], read: Quantity) -> dict[int, list[float]]:
    """Return, for each epoch or task, a quantity's values in the runs that got that far."""
    found: dict[int, list[float]] = {}
    for entry in itertools.chain.from_iterable(runs):
        if (value := read(entry)) is not None:
            found.setdefault(int(entry["epoch"]), []).append(value)
    return dict(sorted(found.items()))


def dead_by_layer(
    rows: Sequence[TrialRow], best: TrialRow | None, *, unit: str
) -> go.Figure | None:
    """Draw each layer's fraction of dead units after the last epoch or task, for named trials."""
    traces = []
    for name, row, line in highlighted(rows, best):
        if dead := row.epochs[-1].get("dead") if row.epochs else None:
            notes = [
                f"{label(name)}<br>{label(layer)}: {share:.2%} dead"
                for layer, share in dead.items()
            ]
            traces.append(
                go.Bar(
                    x=[label(layer) for layer in dead],
                    y=[_finite(share) for share in dead.values()],
                    name=label(name),
                    marker={"color": line["color"]},
                    hoverinfo="text",
                    hovertext=notes,
                )
            )
    if not traces:
        return None
    return chart(
        traces,
        barmode="group",
        bargap=0.25,
        xaxis=axis("layer, from the input", type="category"),
        yaxis=axis(f"dead units after the last {unit}", percent=True, rangemode="tozero"),
    )


def by_layer(runs: Sequence[Sequence[Entry]], *, unit: str) -> dict[str, go.Figure]:
    """Draw each layer's cosine and norm ratio, the mean over some runs, over epochs or tasks.

    Returns:
        Figures by title; empty if nothing was measured.
    """
    entries = itertools.chain.from_iterable(runs)
    layers = dict.fromkeys(layer for e in entries for layer in _diagnosed(e).get("layers") or ())
    found = {}
    for place, title in enumerate(list(DIAGNOSED)[:2]):
        lines = {layer: by_step(runs, _of_layer(layer, place)) for layer in layers}
        traces: list[go.Scatter] = []
        for layer, values in lines.items():
            if not values:
                continue
            means = {step: sum(some) / len(some) for step, some in values.items()}
            notes = [f"{label(layer)}<br>{unit} {at}: {mean:.4g}" for at, mean in means.items()]
            traces.append(
                scatter(
                    list(means),
                    list(means.values()),
                    name=layer or "the model itself",
                    notes=notes,
                    mode="lines",
                    line={"color": colour(len(traces)), "width": 2},
                )
            )
        if traces:
            xaxis = epoch_axis(unit, max(map(len, runs)))
            found[f"{title}, by layer"] = chart(traces, xaxis=xaxis, yaxis=axis(title))
    return found


def _of_layer(layer: str, place: int) -> Quantity:
    """Return how to read a layer's cosine (place 0) or norm ratio (place 1)."""
    return lambda entry: (_diagnosed(entry).get("layers") or {}).get(layer, (None, None))[place]
