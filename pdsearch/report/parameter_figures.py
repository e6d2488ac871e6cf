"""What the parameters did: value by family, slices along each parameter, importances."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from pdsearch.report.markup import plain
from pdsearch.report.study_figures import (
    compared,
    family_colours,
    family_of,
    levels,
    note,
    robust_range,
    value_axis,
)
from pdsearch.report.style import INK, colour, layout

if TYPE_CHECKING:
    from pdsearch.study import StoredStudy, TrialRow

__all__ = ["by_family", "importances", "objectives", "slices"]

FEWEST = 5
"""Complete trials of a family below which an importance says nothing."""


def _finished(rows: Sequence["TrialRow"]) -> list["TrialRow"]:
    return [
        row
        for row in rows
        if row.kind == "candidate" and row.value is not None and row.candidate is not None
    ]


def by_family(
    stored: "StoredStudy", rows: Sequence["TrialRow"], *, percent: bool, title: str
) -> go.Figure | None:
    """Each complete trial's value, a column a family, beside baseline and references."""
    complete = [row for row in _finished(rows) if row.status == "complete"]
    if not complete:
        return None
    colours = family_colours(stored)
    figure = go.Figure()
    for family in dict.fromkeys(map(family_of, complete)):
        chosen = [row for row in complete if family_of(row) == family]
        figure.add_trace(
            go.Box(
                x=[plain(family)] * len(chosen),
                y=[row.value for row in chosen],
                name=plain(family),
                boxpoints="all",
                jitter=0.5,
                pointpos=0,
                fillcolor="rgba(0,0,0,0)",
                line={"width": 0},
                marker={"color": colours.get(family, INK), "size": 8},
                hoveron="points",
                hoverinfo="text",
                hovertext=[note(row) for row in chosen],
                showlegend=False,
            )
        )
    levels(figure, rows, colours)
    figure.update_layout(
        layout(
            xaxis={"type": "category"},
            yaxis={
                **value_axis(percent, title),
                **robust_range([*complete, *(r for _, r in compared(rows))]),
            },
        )
    )
    return figure


def slices(
    stored: "StoredStudy", rows: Sequence["TrialRow"], *, percent: bool, title: str
) -> list[tuple[str, go.Figure]]:
    """Value along each searched parameter: a title and a small figure for each."""
    finished = _finished(rows)
    colours = family_colours(stored)
    found = []
    for family in dict.fromkeys(map(family_of, finished)):
        chosen = [row for row in finished if family_of(row) == family]
        if not any(row.status == "complete" for row in chosen):
            continue
        space: Any = chosen[0].candidate.family.space if chosen[0].candidate else {}
        for name, distribution in space.items():
            if distribution.low == distribution.high:
                continue
            tone = colours.get(family, INK)
            figure = go.Figure()
            for status, symbol in (("complete", "circle"), ("pruned", "circle-open")):
                some = [row for row in chosen if row.status == status]
                figure.add_trace(
                    go.Scatter(
                        x=[row.parameters[name] for row in some],
                        y=[row.value for row in some],
                        mode="markers",
                        name=status,
                        marker={
                            "color": tone, "size": 7, "symbol": symbol,
                            "line": {"width": 1.3, "color": tone},
                        },
                        hoverinfo="text",
                        hovertext=[note(row) for row in some],
                    )
                )  # fmt: skip
            low, high = float(distribution.low), float(distribution.high)
            log = bool(getattr(distribution, "log", False))
            ends = [math.log10(low), math.log10(high)] if log else [low, high]
            margin = 0.04 * (ends[1] - ends[0])
            figure.update_layout(
                layout(
                    xaxis={
                        "title": {"text": plain(name) + (" (log)" if log else ""), "standoff": 6},
                        "type": "log" if log else "linear",
                        "range": [ends[0] - margin, ends[1] + margin],
                        **({"dtick": 1} if log and ends[1] - ends[0] >= 2 else {"nticks": 6}),
                    },
                    yaxis={**value_axis(percent, ""), **robust_range(chosen), "nticks": 6},
                    showlegend=False,
                    margin={"l": 48, "r": 10, "t": 8, "b": 42},
                )
            )
            found.append((f"{family}.{name}", figure))
    return found


def importances(
    stored: "StoredStudy", rows: Sequence["TrialRow"]
) -> tuple[go.Figure | None, list[str]]:
    """Optuna's parameter importances within each family, and why any is missing.

    Parameters of different families never occur in one trial, so that no importance can be
    computed across families; within one they add up to 1.
    """
    import optuna

    complete = [row for row in _finished(rows) if row.status == "complete"]
    if not complete:
        return None, ["No candidate has been trained to the end yet."]
    frozen = {trial.number: trial for trial in stored.study.get_trials(deepcopy=False)}
    colours = family_colours(stored)
    notes: list[str] = []
    bars: list[tuple[str, float, str]] = []
    for family in sorted(set(map(family_of, complete))):
        of_family = [row.number for row in complete if family_of(row) == family]
        own = [frozen[number] for number in of_family if number in frozen]
        names = [n for n in own[0].params if n.startswith(f"{family}.")] if own else []
        varied = [n for n in names if len({trial.params.get(n) for trial in own}) > 1]
        if len(varied) < 2:
            what = {0: "no parameter varied", 1: "only one parameter varied"}[len(varied)]
            notes.append(f"{family}: {what}: nothing to share importance among.")
            continue
        if len(own) < FEWEST:
            notes.append(f"{family}: {len(own)} complete trials, fewer than {FEWEST}.")
            continue
        alone = _study(stored.study.directions[0])
        alone.add_trials([_only(trial, varied) for trial in own])
        try:
            values = optuna.importance.get_param_importances(alone, params=varied)
        except (ValueError, RuntimeError) as error:
            notes.append(f"{family}: Optuna cannot compute it ({error}).")
            continue
        tone = colours.get(family, INK)
        bars += [(name, value, tone) for name, value in values.items()]
        notes.append(f"{family}: from {len(own)} complete trials.")
    if not bars:
        return None, notes
    bars.reverse()
    figure = go.Figure(
        go.Bar(
            x=[value for _, value, _ in bars],
            y=[plain(name) for name, _, _ in bars],
            orientation="h",
            marker={"color": [tone for _, _, tone in bars]},
            text=[f"{value:.0%}" for _, value, _ in bars],
            textposition="outside",
            cliponaxis=False,
            hoverinfo="skip",
        )
    )
    figure.update_layout(
        layout(
            xaxis={
                "title": {"text": "importance within the family", "standoff": 8},
                "tickformat": ".0%",
                "range": [0, 1.08],
            },
            yaxis={"type": "category"},
            bargap=0.35,
            height=90 + 30 * len(bars),
        )
    )
    return figure, notes


def _study(direction: Any) -> Any:
    """A study in memory, without the line that Optuna logs for each new one."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        return optuna.create_study(direction=direction)
    finally:
        optuna.logging.set_verbosity(before)


def _only(trial: Any, names: Sequence[str]) -> Any:
    """The trial with these parameters alone; a study of its own wants all trials alike."""
    import optuna

    return optuna.trial.create_trial(
        params={name: trial.params[name] for name in names},
        distributions={name: trial.distributions[name] for name in names},
        value=trial.values[0],
    )


def objectives(stored: "StoredStudy", rows: Sequence["TrialRow"]) -> go.Figure | None:
    """Two objectives against each other, those that nothing beats in both ringed."""
    names = list(stored.settings.study.objectives)
    drawn = [row for row in rows if len(row.values) == 2 and row.candidate is not None]
    if len(names) != 2 or not drawn:
        return None
    signs = [1 if d.name == "MAXIMIZE" else -1 for d in stored.study.directions]
    scores = [[s * v for s, v in zip(signs, row.values, strict=True)] for row in drawn]
    front = [
        not any(all(o >= m for o, m in zip(b, a, strict=True)) and b != a for b in scores)
        for a in scores
    ]
    colours = family_colours(stored)
    figure = go.Figure()
    for family in dict.fromkeys(map(family_of, drawn)):
        some = [(row, f) for row, f in zip(drawn, front, strict=True) if family_of(row) == family]
        figure.add_trace(
            go.Scatter(
                x=[row.values[1] for row, _ in some],
                y=[row.values[0] for row, _ in some],
                mode="markers",
                name=plain(family),
                marker={
                    "size": 10,
                    "color": colours.get(family, INK),
                    "line": {
                        "width": [2.5 if best else 0 for _, best in some],
                        "color": colour(4),
                    },
                },
                hoverinfo="text",
                hovertext=[note(row) for row, _ in some],
            )
        )
    figure.update_layout(
        layout(
            xaxis={"title": {"text": names[1].replace("_", " "), "standoff": 8}},
            yaxis={"title": {"text": names[0].replace("_", " "), "standoff": 8}},
        )
    )
    return figure
