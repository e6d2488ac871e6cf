"""Figures with a dot for each trial: in order, by family, by parameter, by criterion."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from pdsearch.report.style import INK, axis, colour, label, layout, scatter

if TYPE_CHECKING:
    from pdsearch.insight import Insight, Learned
    from pdsearch.study import StoredStudy, TrialRow

__all__ = [
    "by_family",
    "family_of",
    "history",
    "importances",
    "learned",
    "name_of",
    "note",
    "objectives",
    "slices",
]

FEWEST = 5
"""Complete trials of a family below which an importance says nothing."""

SMALL = {"showlegend": False, "margin": {"l": 48, "r": 10, "t": 8, "b": 42}}
"""The layout of a small figure among others."""


def family_colours(stored: "StoredStudy") -> dict[str, str]:
    """Return one colour a family, grey for the baseline; the palette's first is for the best."""
    names = [name for name in stored.families if name != "relu"]
    return {"relu": INK, **{name: colour(i + 1) for i, name in enumerate(names)}}


def family_of(row: "TrialRow") -> str:
    """Return the name of a trial's family."""
    return row.candidate.family.name if row.candidate is not None else "?"


def name_of(row: "TrialRow") -> str:
    """Return the name of a trial's candidate."""
    return row.candidate.name if row.candidate is not None else "not drawn yet"


def note(row: "TrialRow") -> str:
    """Return what hovering over a trial shows."""
    value = "no value" if row.value is None else f"{row.value:.4g}"
    reason = f"<br>{label(row.reason)[:200]}" if row.reason else ""
    return f"trial {row.number}: {label(name_of(row))}<br>{row.status}, {value}{reason}"


def _with_value(rows: Sequence["TrialRow"], *, complete: bool = False) -> list["TrialRow"]:
    """Return the candidates' trials that have a value."""
    return [
        row
        for row in rows
        if row.kind == "candidate"
        and row.value is not None
        and (row.status == "complete" or not complete)
    ]


# ----------------------------------------------------------------------------------- in order

_SYMBOLS = {"complete": "circle", "pruned": "circle-open", "diverged": "x-thin"}


def history(
    stored: "StoredStudy", rows: Sequence["TrialRow"], *, percent: bool, title: str
) -> go.Figure:
    """Draw each trial's value in the order of trials, the best so far, baseline and references."""
    figure = go.Figure()
    colours = family_colours(stored)
    drawn = _with_value(rows)
    for family in dict.fromkeys(map(family_of, drawn)):
        tone = colours.get(family, colour(0))
        named = False
        for status, symbol in _SYMBOLS.items():
            chosen = [r for r in drawn if family_of(r) == family and r.status == status]
            if chosen:
                figure.add_trace(
                    scatter(
                        [row.number for row in chosen],
                        [row.value for row in chosen],
                        name=family,
                        notes=[note(row) for row in chosen],
                        legendgroup=label(family),
                        showlegend=not named,
                        marker={"size": 9, **_mark(tone, symbol, 1.6)},
                    )
                )
                named = True
    if complete := [row for row in drawn if row.status == "complete"]:
        better = min if stored.minimize else max
        best: list[float] = []
        for row in complete:
            value = float(row.value or 0.0)
            best.append(better(best[-1], value) if best else value)
        figure.add_trace(
            scatter(
                [*(row.number for row in complete), max(row.number for row in rows)],
                [*best, best[-1]],
                mode="lines",
                name="best so far",
                line={"shape": "hv", "color": colour(0), "width": 2},
            )
        )
    _levels(figure, rows, colours)
    values = axis(title, percent=percent, **_robust_range([*drawn, *_compared(rows).values()]))
    figure.update_layout(layout(xaxis=axis("trial", rangemode="tozero"), yaxis=values))
    return figure


def _mark(tone: str, symbol: str, width: float) -> dict[str, Any]:
    return {"color": tone, "symbol": symbol, "line": {"width": width, "color": tone}}


def _compared(rows: Sequence["TrialRow"]) -> dict[str, "TrialRow"]:
    """Return the baseline and the references that have a value, by their names."""
    return {
        "ReLU" if row.kind == "baseline" else name_of(row): row
        for row in rows
        if row.kind != "candidate" and row.value is not None and row.status == "complete"
    }


def _levels(figure: go.Figure, rows: Sequence["TrialRow"], colours: Mapping[str, str]) -> None:
    """Draw lines across at the values of the baseline (solid) and the references (dashed)."""
    for name, row in _compared(rows).items():
        tone = colours.get(family_of(row), INK)
        line = {"color": tone, "width": 2, "dash": "solid" if row.kind == "baseline" else "dash"}
        figure.add_hline(y=row.value, line=line, layer="below")
        # A shape has no place in the legend; a line without points stands for it there.
        figure.add_trace(scatter([None], [None], mode="lines", name=name, line=line))


def _robust_range(rows: Sequence["TrialRow"]) -> dict[str, Any]:
    """Return an axis that a few pruned or failed trials do not flatten; zooming out shows them."""
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


# ---------------------------------------------------------------------- by family, by parameter


def by_family(
    stored: "StoredStudy", rows: Sequence["TrialRow"], *, percent: bool, title: str
) -> go.Figure | None:
    """Draw the value of each complete trial, a column for each family; baseline and references."""
    complete = _with_value(rows, complete=True)
    if not complete:
        return None
    colours = family_colours(stored)
    figure = go.Figure()
    for family in dict.fromkeys(map(family_of, complete)):
        chosen = [row for row in complete if family_of(row) == family]
        figure.add_trace(
            go.Box(
                x=[label(family)] * len(chosen),
                y=[row.value for row in chosen],
                name=label(family),
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
    _levels(figure, rows, colours)
    values = axis(title, percent=percent, **_robust_range([*complete, *_compared(rows).values()]))
    figure.update_layout(layout(xaxis={"type": "category"}, yaxis=values))
    return figure


def slices(
    stored: "StoredStudy", rows: Sequence["TrialRow"], *, percent: bool
) -> dict[str, go.Figure]:
    """Draw value along each searched parameter: a small figure for each, by `family.parameter`."""
    colours = family_colours(stored)
    found = {}
    for family in dict.fromkeys(map(family_of, _with_value(rows, complete=True))):
        chosen = [row for row in _with_value(rows) if family_of(row) == family]
        space: Any = chosen[0].candidate.family.space if chosen[0].candidate else {}
        for name, distribution in space.items():
            if distribution.low != distribution.high:
                figure = _slice(chosen, name, distribution, colours.get(family, INK), percent)
                found[f"{family}.{name}"] = figure
    return found


def _slice(
    rows: Sequence["TrialRow"], name: str, distribution: Any, tone: str, percent: bool
) -> go.Figure:
    figure = go.Figure()
    for status in ("complete", "pruned"):
        some = [row for row in rows if row.status == status]
        figure.add_trace(
            scatter(
                [row.parameters[name] for row in some],
                [row.value for row in some],
                name=status,
                notes=[note(row) for row in some],
                marker={"size": 7, **_mark(tone, _SYMBOLS[status], 1.3)},
            )
        )
    log = bool(getattr(distribution, "log", False))
    ends = [math.log10(end) if log else end for end in (distribution.low, distribution.high)]
    margin = 0.04 * (ends[1] - ends[0])
    ticks: dict[str, Any] = {"dtick": 1} if log and ends[1] - ends[0] >= 2 else {"nticks": 6}
    figure.update_layout(
        layout(
            xaxis=axis(
                name + (" (log)" if log else ""),
                type="log" if log else "linear",
                range=[ends[0] - margin, ends[1] + margin],
                **ticks,
            ),
            yaxis=axis(percent=percent, nticks=6, **_robust_range(rows)),
            **SMALL,
        )
    )
    return figure


def importances(
    stored: "StoredStudy", rows: Sequence["TrialRow"]
) -> tuple[go.Figure | None, list[str]]:
    """Return Optuna's parameter importances within each family, and why any is missing.

    Parameters of different families never occur in one trial, so no importance can be computed
    across families; within one they add up to 1.
    """
    complete = _with_value(rows, complete=True)
    if not complete:
        return None, ["No candidate has been trained to the end yet."]
    frozen = {trial.number: trial for trial in stored.study.get_trials(deepcopy=False)}
    colours = family_colours(stored)
    notes: list[str] = []
    bars: list[tuple[str, float, str]] = []
    for family in sorted(set(map(family_of, complete))):
        numbers = [row.number for row in complete if family_of(row) == family]
        own = [frozen[number] for number in numbers if number in frozen]
        shares, why = _importances(stored, family, own)
        bars += [(name, share, colours.get(family, INK)) for name, share in shares.items()]
        notes.append(f"{family}: {why}.")
    if not bars:
        return None, notes
    bars.reverse()
    figure = go.Figure(
        go.Bar(
            x=[share for _, share, _ in bars],
            y=[label(name) for name, _, _ in bars],
            orientation="h",
            marker={"color": [tone for _, _, tone in bars]},
            text=[f"{share:.0%}" for _, share, _ in bars],
            textposition="outside",
            cliponaxis=False,
            hoverinfo="skip",
        )
    )
    figure.update_layout(
        layout(
            xaxis=axis("importance within the family", tickformat=".0%", range=[0, 1.08]),
            yaxis={"type": "category"},
            bargap=0.35,
            height=90 + 30 * len(bars),
        )
    )
    return figure, notes


def _importances(
    stored: "StoredStudy", family: str, trials: Sequence[Any]
) -> tuple[dict[str, float], str]:
    """Return one family's importances, and from what, or why there are none."""
    import optuna

    names = [n for n in trials[0].params if n.startswith(f"{family}.")] if trials else []
    varied = [n for n in names if len({trial.params.get(n) for trial in trials}) > 1]
    if len(varied) < 2:
        what = "only one parameter varied" if varied else "no parameter varied"
        return {}, f"{what}: nothing to share importance among"
    if len(trials) < FEWEST:
        return {}, f"{len(trials)} complete trials, fewer than {FEWEST}"
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # each new study logs a line otherwise
    try:
        # A study of its own: importances want the same parameters in all trials.
        alone = optuna.create_study(direction=stored.study.directions[0])
        alone.add_trials(
            optuna.trial.create_trial(
                params={name: trial.params[name] for name in varied},
                distributions={name: trial.distributions[name] for name in varied},
                value=trial.values[0],
            )
            for trial in trials
        )
        shares = optuna.importance.get_param_importances(alone, params=varied)
    except (ValueError, RuntimeError) as error:
        return {}, f"Optuna cannot compute it ({error})"
    finally:
        optuna.logging.set_verbosity(before)
    return shares, f"from {len(trials)} complete trials"


# ------------------------------------------------------------------- against something else


def objectives(stored: "StoredStudy", rows: Sequence["TrialRow"]) -> go.Figure | None:
    """Draw two objectives against each other; those that no trial beats in both are ringed."""
    names = [name.replace("_", " ") for name in stored.settings.study.objectives]
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
        rings = {"width": [2.5 if best else 0 for _, best in some], "color": colour(4)}
        figure.add_trace(
            scatter(
                [row.values[1] for row, _ in some],
                [row.values[0] for row, _ in some],
                name=family,
                notes=[note(row) for row, _ in some],
                marker={"size": 10, "color": colours.get(family, INK), "line": rings},
            )
        )
    figure.update_layout(layout(xaxis=axis(names[1]), yaxis=axis(names[0])))
    return figure


def learned(
    insight: "Insight", one: "Learned", rows: Mapping[int, "TrialRow"], *, percent: bool
) -> go.Figure:
    """Draw the trials' accuracy against a criterion's value; `rows` are the trials by number."""
    figure = go.Figure()
    for kind, tone in (("candidate", colour(0)), ("reference", colour(1)), ("baseline", INK)):
        some = [
            (value, point)
            for value, point in zip(one.values, insight.points, strict=True)
            if value is not None and point.kind == kind
        ]
        figure.add_trace(
            scatter(
                [value for value, _ in some],
                [point.accuracy for _, point in some],
                name=kind,
                notes=[note(rows[point.trial]) for _, point in some],
                # The value is in the template, so that the page keeps each trial's note once.
                hovertemplate=f"%{{hovertext}}<br>{label(one.name)} = %{{x:.5g}}<extra></extra>",
                marker={"size": 7, "color": tone},
            )
        )
    yaxis = axis(percent=percent, nticks=6)
    figure.update_layout(layout(xaxis=axis(one.measure, nticks=6), yaxis=yaxis, **SMALL))
    return figure
