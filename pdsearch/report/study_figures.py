"""Figures of a study: its history, learning curves, dead units, parameters, confirmation."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from pdsearch.report.markup import plain
from pdsearch.report.style import INK, colour, faint, layout

if TYPE_CHECKING:
    from pdsearch.study import StoredStudy, TrialRow

__all__ = [
    "by_epoch",
    "compared",
    "dead_by_layer",
    "dead_over_time",
    "epoch_axis",
    "family_colours",
    "family_of",
    "highlighted",
    "history",
    "learning_curves",
    "levels",
    "note",
    "robust_range",
    "value_axis",
]

PERCENT = ".1%"


def family_colours(stored: "StoredStudy") -> dict[str, str]:
    """One colour a family, the baseline's grey; the palette's first is for the best."""
    names = [name for name in stored.families if name != "relu"]
    return {"relu": INK, **{name: colour(i + 1) for i, name in enumerate(names)}}


def family_of(row: "TrialRow") -> str:
    """The name of a trial's family."""
    return row.candidate.family.name if row.candidate is not None else "?"


def _name(row: "TrialRow") -> str:
    return row.candidate.name if row.candidate is not None else "not drawn yet"


def note(row: "TrialRow") -> str:
    """What hovering over a trial shows."""
    value = "no value" if row.value is None else f"{row.value:.4g}"
    reason = f"<br>{plain(row.reason)[:200]}" if row.reason else ""
    return f"trial {row.number}: {plain(_name(row))}<br>{row.status}, {value}{reason}"


def value_axis(percent: bool, title: str) -> dict[str, Any]:
    """Title and tick format of an axis of values."""
    return {"title": {"text": title, "standoff": 8}, **({"tickformat": PERCENT} if percent else {})}


def epoch_axis(unit: str, most: int) -> dict[str, Any]:
    """The axis of epochs or tasks: whole numbers where there are few."""
    return {"title": {"text": unit, "standoff": 8}, **({"dtick": 1} if most <= 12 else {})}


# ----------------------------------------------------------------------------------- history

_SYMBOLS = {"complete": "circle", "pruned": "circle-open", "diverged": "x-thin"}


def history(
    stored: "StoredStudy", rows: Sequence["TrialRow"], *, percent: bool, title: str
) -> go.Figure:
    """Each trial's value in the order of trials, the best so far, baseline and references."""
    figure = go.Figure()
    colours = family_colours(stored)
    drawn = [row for row in rows if row.kind == "candidate" and row.value is not None]
    for family in dict.fromkeys(family_of(row) for row in drawn):
        named = False
        for status, symbol in _SYMBOLS.items():
            chosen = [r for r in drawn if family_of(r) == family and r.status == status]
            if chosen:
                tone = colours.get(family, colour(0))
                figure.add_trace(
                    go.Scatter(
                        x=[row.number for row in chosen],
                        y=[row.value for row in chosen],
                        mode="markers",
                        name=plain(family),
                        legendgroup=family,
                        showlegend=not named,
                        marker={
                            "color": tone,
                            "size": 9,
                            "symbol": symbol,
                            "line": {"width": 1.6, "color": tone},
                        },
                        hoverinfo="text",
                        hovertext=[note(row) for row in chosen],
                    )
                )
                named = True
    complete = [row for row in drawn if row.status == "complete"]
    best: list[float] = []
    for row in complete:
        value = float(row.value or 0.0)
        best.append(value if not best else (min if stored.minimize else max)(best[-1], value))
    if complete:
        last = max(row.number for row in rows)
        figure.add_trace(
            go.Scatter(
                x=[row.number for row in complete] + [last],
                y=[*best, best[-1]],
                mode="lines",
                name="best so far",
                line={"shape": "hv", "color": colour(0), "width": 2},
                hoverinfo="skip",
            )
        )
    levels(figure, rows, colours)
    figure.update_layout(
        layout(
            xaxis={"title": {"text": "trial", "standoff": 8}, "rangemode": "tozero"},
            yaxis={
                **value_axis(percent, title),
                **robust_range([*drawn, *(r for _, r in compared(rows))]),
            },
        )
    )
    return figure


def compared(rows: Sequence["TrialRow"]) -> list[tuple[str, "TrialRow"]]:
    """The baseline and the references that have a value, by their names."""
    found: dict[str, TrialRow] = {}
    for row in rows:
        if row.kind != "candidate" and row.value is not None and row.status == "complete":
            found["ReLU" if row.kind == "baseline" else _name(row)] = row
    return list(found.items())


def levels(figure: go.Figure, rows: Sequence["TrialRow"], colours: Mapping[str, str]) -> None:
    """Lines across a figure at the values of the baseline (solid) and the references (dashed)."""
    for name, row in compared(rows):
        tone = colours.get(family_of(row), INK)
        line = {"color": tone, "width": 2, "dash": "solid" if row.kind == "baseline" else "dash"}
        figure.add_hline(y=row.value, line=line, layer="below")
        # A shape has no place in the legend; a line without points stands for it there.
        figure.add_trace(go.Scatter(x=[None], y=[None], mode="lines", name=plain(name), line=line))


def robust_range(rows: Sequence["TrialRow"]) -> dict[str, Any]:
    """An axis that a few early-stopped or failed trials do not flatten; zooming out shows them."""
    values = sorted(float(row.value) for row in rows if row.value is not None)
    complete = [float(r.value) for r in rows if r.value is not None and r.status == "complete"]
    if values and values[0] == values[-1]:
        room = max(0.02 * abs(values[0]), 1e-3)
        return {"range": [values[0] - room, values[0] + room]}
    if len(values) < 4 or not complete:
        return {}
    low, high = min(complete), max(complete)
    low = min(low, values[len(values) // 4])
    room = max(high - low, 1e-3)
    if values[0] >= low - 2 * room and values[-1] <= high + 2 * room:
        return {}
    return {"range": [low - 0.35 * room, high + 0.15 * room]}


# --------------------------------------------------------------------------- learning curves


def highlighted(
    rows: Sequence["TrialRow"], best: "TrialRow | None"
) -> list[tuple[str, "TrialRow"]]:
    """The rows that figures name: the best, the baseline, the references."""
    named = [] if best is None else [(f"best: {_name(best)}", best)]
    for row in rows:
        if row.kind == "baseline" and row.status != "failed":
            named.append(("ReLU", row))
        elif row.kind == "reference" and row.status != "failed":
            named.append((_name(row), row))
    return named


def _styles(named: Sequence[tuple[str, "TrialRow"]]) -> list[dict[str, Any]]:
    styles, used = [], 0
    for _, row in named:
        if row.kind == "baseline":
            styles.append({"color": INK, "width": 3})
        elif row.kind == "candidate":
            styles.append({"color": colour(0), "width": 3})
        else:
            used += 1
            styles.append({"color": colour(used), "width": 2, "dash": "dash"})
    return styles


def by_epoch(
    rows: Sequence["TrialRow"],
    best: "TrialRow | None",
    read: Callable[[Mapping[str, Any]], float | None],
    *,
    title: str,
    percent: bool,
    log: bool = False,
    unit: str = "epoch",
) -> go.Figure | None:
    """A quantity over epochs or tasks: the named rows in colour, all others faint behind them."""
    named = highlighted(rows, best)
    loud = {row.number for _, row in named}
    figure = go.Figure()

    def points(row: "TrialRow") -> tuple[list[int], list[float | None]]:
        xs = [int(entry["epoch"]) for entry in row.epochs]
        return xs, [_finite(read(entry)) for entry in row.epochs]

    xs: list[int | None] = []
    ys: list[float | None] = []
    notes: list[str] = []
    for row in rows:
        if row.number not in loud and row.epochs and row.duplicate_of is None:
            epochs, values = points(row)
            xs += [*epochs, None]
            ys += [*values, None]
            notes += [note(row)] * (len(epochs) + 1)
    if any(y is not None for y in ys):
        figure.add_trace(
            go.Scatter(
                x=xs,
                y=ys,
                mode="lines+markers",
                name="other trials",
                line={"color": faint(INK, 0.38), "width": 1},
                marker={"size": 3, "color": faint(INK, 0.5)},
                hoverinfo="text",
                hovertext=notes,
            )
        )
    shown = False
    for (name, row), line in zip(reversed(named), reversed(_styles(named)), strict=True):
        epochs, values = points(row)
        if any(value is not None for value in values):
            shown = True
            figure.add_trace(
                go.Scatter(
                    x=epochs,
                    y=values,
                    mode="lines+markers",
                    name=plain(name),
                    line=line,
                    marker={"size": 5, "color": line["color"]},
                    hoverinfo="text",
                    hovertext=[
                        f"{plain(name)}<br>{unit} {epoch}: {value:.4g}" if value is not None else ""
                        for epoch, value in zip(epochs, values, strict=True)
                    ],
                )
            )
    if not shown and not any(y is not None for y in ys):
        return None
    most = max((len(row.epochs) for row in rows), default=1)
    figure.update_layout(
        layout(
            xaxis=epoch_axis(unit, most),
            yaxis={**value_axis(percent, title), **({"type": "log"} if log else {})},
            legend={"traceorder": "reversed"},
        )
    )
    return figure


def _finite(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def learning_curves(
    rows: Sequence["TrialRow"],
    best: "TrialRow | None",
    *,
    percent: bool,
    title: str,
    unit: str,
) -> tuple[go.Figure | None, go.Figure | None]:
    """Validation accuracy, and training loss, epoch by epoch (task by task)."""
    accuracy = by_epoch(
        rows,
        best,
        lambda e: e.get("accuracy", e.get("value")),
        title=title,
        percent=percent,
        unit=unit,
    )
    losses = [entry.get("loss") for row in rows for entry in row.epochs]
    positive = [loss for loss in losses if isinstance(loss, int | float) and loss > 0]
    log = bool(positive) and max(positive) > 30 * min(positive)
    loss = by_epoch(
        rows,
        best,
        lambda e: e.get("loss"),
        title="training loss",
        percent=False,
        log=log,
        unit=unit,
    )
    return accuracy, loss


def after_each_task(
    rows: Sequence["TrialRow"], best: "TrialRow | None"
) -> tuple[go.Figure | None, go.Figure | None]:
    """A stream's accuracy on each task's images after it, and the norm of all weights."""
    accuracy = by_epoch(
        rows,
        best,
        lambda e: e.get("final_accuracy"),
        title="accuracy after the task",
        percent=True,
        unit="task",
    )
    return accuracy, by_epoch(
        rows, best, weight_norm, title="L2 norm of all weights", percent=False, unit="task"
    )


def weight_norm(entry: Mapping[str, Any]) -> float | None:
    """The L2 norm of all layers' weights together."""
    norms = [_finite(norm) for norm in (entry.get("weight_norms") or {}).values()]
    known = [norm for norm in norms if norm is not None]
    return math.hypot(*known) if known else None


def mean_dead(entry: Mapping[str, Any]) -> float | None:
    """The share of dead units, mean over layers."""
    dead = entry.get("dead") or {}
    shares = [share for share in map(_finite, dead.values()) if share is not None]
    return sum(shares) / len(shares) if shares else None


def dead_over_time(
    rows: Sequence["TrialRow"], best: "TrialRow | None", *, unit: str
) -> go.Figure | None:
    """The share of dead units, mean over layers, epoch by epoch (task by task)."""
    figure = by_epoch(
        rows, best, mean_dead, title="dead units, mean over layers", percent=True, unit=unit
    )
    if figure is not None:
        figure.update_layout(yaxis={"rangemode": "tozero"})
    return figure


def dead_by_layer(
    rows: Sequence["TrialRow"], best: "TrialRow | None", *, unit: str
) -> go.Figure | None:
    """The share of dead units of each layer after the last epoch (task), of the named rows."""
    named = [(n, r) for n, r in highlighted(rows, best) if r.epochs and r.epochs[-1].get("dead")]
    if not named:
        return None
    figure = go.Figure()
    styles = dict(
        zip((n for n, _ in highlighted(rows, best)), _styles(highlighted(rows, best)), strict=False)
    )
    for name, row in named:
        dead = row.epochs[-1]["dead"]
        figure.add_trace(
            go.Bar(
                x=[plain(layer) for layer in dead],
                y=[_finite(share) for share in dead.values()],
                name=plain(name),
                marker={"color": styles[name]["color"]},
                hoverinfo="text",
                hovertext=[
                    f"{plain(name)}<br>{plain(layer)}: {share:.2%} dead"
                    for layer, share in dead.items()
                ],
            )
        )
    figure.update_layout(
        layout(
            barmode="group",
            bargap=0.25,
            xaxis={"title": {"text": "layer, from the input", "standoff": 8}, "type": "category"},
            yaxis={**value_axis(True, f"dead units after the last {unit}"), "rangemode": "tozero"},
        )
    )
    return figure
