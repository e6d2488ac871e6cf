"""Figures with a dot for each trial: in order, by family, by parameter, by criterion."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
import plotly.graph_objects as go

from pdsearch.family import Candidate, Grouped
from pdsearch.insight import Insight, Learned
from pdsearch.study import StoredStudy, TrialRow
from pdsearch.style import INK, axis, chart, colour, label, scatter

FEWEST = 5
"""With fewer complete trials of a family, importances are not computed."""

SMALL = {"showlegend": False, "margin": {"l": 48, "r": 10, "t": 8, "b": 42}}
"""The layout of a small figure in a grid."""

_SYMBOLS = {"complete": "circle", "pruned": "circle-open", "diverged": "x-thin"}


def family_colours(stored: StoredStudy) -> dict[str, str]:
    """Return a colour for each family; the baseline is grey, the first colour is for the best."""
    names = [name for name in stored.families if name != "relu"]
    return {"relu": INK, **{name: colour(i + 1) for i, name in enumerate(names)}}


def family_of(row: TrialRow) -> str:
    """Return the name of a trial's family; of one with groups, a word for all such trials."""
    if isinstance(row.candidate, Grouped):
        return "candidates"
    return row.candidate.family.name if row.candidate is not None else "?"


def name_of(row: TrialRow) -> str:
    """Return the name of a trial's candidate."""
    return row.candidate.name if row.candidate is not None else "not drawn yet"


def short_name(row: TrialRow) -> str:
    """Return "ReLU" for the baseline, otherwise the name of the candidate."""
    return "ReLU" if row.kind == "baseline" else name_of(row)


def note(row: TrialRow) -> str:
    """Return a trial's hover text."""
    value = "no value" if row.value is None else f"{row.value:.4g}"
    reason = f"<br>{label(row.reason)[:200]}" if row.reason else ""
    return f"trial {row.number}: {label(name_of(row))}<br>{row.status}, {value}{reason}"


def _with_value(rows: Sequence[TrialRow], *, complete: bool = False) -> list[TrialRow]:
    """Return the candidates' trials that have a value."""
    return [
        row
        for row in rows
        if row.kind == "candidate"
        and row.value is not None
        and (row.status == "complete" or not complete)
    ]


def _grouped(rows: Sequence[TrialRow]) -> dict[str, list[TrialRow]]:
    """Return the trials of each family."""
    found: dict[str, list[TrialRow]] = {}
    for row in rows:
        found.setdefault(family_of(row), []).append(row)
    return found


def _dots(rows: Sequence[TrialRow], xs: list[Any], ys: list[Any], **more: Any) -> go.Scatter:
    """Draw a dot for each trial."""
    return scatter(xs, ys, notes=[note(row) for row in rows], **more)


def _mark(tone: str, status: str, width: float) -> dict[str, Any]:
    return {"color": tone, "symbol": _SYMBOLS[status], "line": {"width": width, "color": tone}}


# ----------------------------------------------------------------------------------- in order


def history(
    stored: StoredStudy, rows: Sequence[TrialRow], *, percent: bool, title: str
) -> go.Figure:
    """Draw each trial's value in the order of trials, the best so far, baseline and references."""
    traces = []
    colours = family_colours(stored)
    drawn = _with_value(rows)
    for family, own in _grouped(drawn).items():
        tone = colours.get(family, colour(1))
        named = False
        for status in _SYMBOLS:
            if chosen := [row for row in own if row.status == status]:
                traces.append(
                    _dots(
                        chosen,
                        [row.number for row in chosen],
                        [row.value for row in chosen],
                        name=family,
                        legendgroup=label(family),
                        showlegend=not named,
                        marker={"size": 9, **_mark(tone, status, 1.6)},
                    )
                )
                named = True
    if complete := [row for row in drawn if row.status == "complete"]:
        better = min if stored.minimize else max
        best: list[float] = []
        for row in complete:
            value = float(row.value or 0.0)
            best.append(better(best[-1], value) if best else value)
        traces.append(
            scatter(
                [*(row.number for row in complete), max(row.number for row in rows)],
                [*best, best[-1]],
                mode="lines",
                name="best so far",
                line={"shape": "hv", "color": colour(0), "width": 2},
            )
        )
    values = axis(title, percent=percent, **_robust_range([*drawn, *_compared(rows).values()]))
    figure = chart(traces, xaxis=axis("trial", rangemode="tozero"), yaxis=values)
    return _levels(figure, rows, colours)


def _compared(rows: Sequence[TrialRow]) -> dict[str, TrialRow]:
    """Return the complete trials of the baseline and the references by name."""
    return {
        short_name(row): row
        for row in rows
        if row.kind != "candidate" and row.value is not None and row.status == "complete"
    }


def _levels(figure: go.Figure, rows: Sequence[TrialRow], colours: Mapping[str, str]) -> go.Figure:
    """Draw horizontal lines at the values of the baseline (solid) and the references (dashed)."""
    for name, row in _compared(rows).items():
        tone = colours.get(family_of(row), INK)
        line = {"color": tone, "width": 2, "dash": "solid" if row.kind == "baseline" else "dash"}
        figure.add_hline(y=row.value, line=line, layer="below")
        # Shapes have no legend entry, so an empty line provides it.
        figure.add_trace(scatter([None], [None], mode="lines", name=name, line=line))
    return figure


def _robust_range(rows: Sequence[TrialRow]) -> dict[str, Any]:
    """Return an axis range that excludes outlying pruned trials; zooming out shows them."""
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
    stored: StoredStudy, rows: Sequence[TrialRow], *, percent: bool, title: str
) -> go.Figure | None:
    """Draw the value of each complete trial in a column for each family, and the baselines."""
    complete = _with_value(rows, complete=True)
    if not complete:
        return None
    colours = family_colours(stored)
    traces = [
        go.Box(
            x=[label(family)] * len(own),
            y=[row.value for row in own],
            name=label(family),
            boxpoints="all",
            jitter=0.5,
            pointpos=0,
            fillcolor="rgba(0,0,0,0)",
            line={"width": 0},
            marker={"color": colours.get(family, INK), "size": 8},
            hoveron="points",
            hoverinfo="text",
            hovertext=[note(row) for row in own],
            showlegend=False,
        )
        for family, own in _grouped(complete).items()
    ]
    values = axis(title, percent=percent, **_robust_range([*complete, *_compared(rows).values()]))
    return _levels(chart(traces, xaxis={"type": "category"}, yaxis=values), rows, colours)


def slices(stored: StoredStudy, rows: Sequence[TrialRow], *, percent: bool) -> dict[str, go.Figure]:
    """Draw value along each searched parameter: a small figure for each, by `family.parameter`."""
    colours = family_colours(stored)
    valued = _grouped(_with_value(rows))
    found = {}
    for family in _grouped(_with_value(rows, complete=True)):
        own = valued[family]
        first = own[0].candidate
        space: Any = first.family.space if isinstance(first, Candidate) else {}
        for name, distribution in space.items():
            if distribution.low != distribution.high:
                figure = _slice(own, name, distribution, colours.get(family, INK), percent)
                found[f"{family}.{name}"] = figure
    return found


def _slice(
    rows: Sequence[TrialRow], name: str, distribution: Any, tone: str, percent: bool
) -> go.Figure:
    traces = []
    for status in ("complete", "pruned"):
        some = [row for row in rows if row.status == status]
        traces.append(
            _dots(
                some,
                [row.parameters[name] for row in some],
                [row.value for row in some],
                name=status,
                marker={"size": 7, **_mark(tone, status, 1.3)},
            )
        )
    log = bool(getattr(distribution, "log", False))
    low, high = (math.log10(e) if log else e for e in (distribution.low, distribution.high))
    margin = 0.04 * (high - low)
    ticks: dict[str, Any] = {"dtick": 1} if log and high - low >= 2 else {"nticks": 6}
    return chart(
        traces,
        xaxis=axis(
            f"{name} (log)" if log else name,
            type="log" if log else "linear",
            range=[low - margin, high + margin],
            **ticks,
        ),
        yaxis=axis(percent=percent, nticks=6, **_robust_range(rows)),
        **SMALL,
    )


def importances(
    stored: StoredStudy, rows: Sequence[TrialRow], *, prefix: str = ""
) -> tuple[go.Figure | None, list[str]]:
    """Return Optuna's parameter importances within each family, and a note about each family.

    Importances across families cannot be computed, because parameters of different families never
    occur in one trial. Within a family they add up to 1. With groups, the rows are of one of them,
    and `prefix` is what the names of its parameters begin with.
    """
    complete = _with_value(rows, complete=True)
    if not complete:
        return None, ["No candidate has been trained to the end yet."]
    frozen = {trial.number: trial for trial in stored.study.get_trials(deepcopy=False)}
    colours = family_colours(stored)
    notes: list[str] = []
    bars: list[tuple[str, float, str]] = []
    for family, own in sorted(_grouped(complete).items()):
        trials = [frozen[row.number] for row in own if row.number in frozen]
        shares, why = _importances(stored, f"{prefix}{family}", trials)
        bars += [(name, share, colours.get(family, INK)) for name, share in shares.items()]
        notes.append(f"{family}: {why}.")
    if not bars:
        return None, notes
    bars.reverse()
    bar = go.Bar(
        x=[share for _, share, _ in bars],
        y=[label(name) for name, _, _ in bars],
        orientation="h",
        marker={"color": [tone for _, _, tone in bars]},
        text=[f"{share:.0%}" for _, share, _ in bars],
        textposition="outside",
        cliponaxis=False,
        hoverinfo="skip",
    )
    xaxis = axis("importance within the family", tickformat=".0%", range=[0, 1.08])
    yaxis = {"type": "category"}
    height = 90 + 30 * len(bars)
    return chart([bar], xaxis=xaxis, yaxis=yaxis, bargap=0.35, height=height), notes


def _importances(
    stored: StoredStudy, family: str, trials: Sequence[Any]
) -> tuple[dict[str, float], str]:
    """Return a family's importances and the number of trials, or none and the reason."""
    names = [n for n in trials[0].params if n.startswith(f"{family}.")] if trials else []
    varied = [n for n in names if len({trial.params.get(n) for trial in trials}) > 1]
    if len(varied) < 2:
        what = "only one parameter varied" if varied else "no parameter varied"
        return {}, f"{what}: nothing to share importance among"
    if len(trials) < FEWEST:
        return {}, f"{len(trials)} complete trials, fewer than {FEWEST}"
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # creating a study would be logged
    try:
        # A separate study, because importances need the same parameters in all trials.
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


def objectives(stored: StoredStudy, rows: Sequence[TrialRow]) -> go.Figure | None:
    """Draw two objectives against each other, with a ring around the Pareto-optimal trials."""
    names = [name.replace("_", " ") for name in stored.settings.study.objectives]
    drawn = [row for row in rows if len(row.values) == 2 and row.candidate is not None]
    if len(names) != 2 or not drawn:
        return None
    signs = [1 if d.name == "MAXIMIZE" else -1 for d in stored.study.directions]
    scores = {row.number: [s * v for s, v in zip(signs, row.values, strict=True)] for row in drawn}
    front = {
        number
        for number, a in scores.items()
        if not any(
            all(o >= m for o, m in zip(b, a, strict=True)) and b != a for b in scores.values()
        )
    }
    colours = family_colours(stored)
    traces = []
    for family, own in _grouped(drawn).items():
        widths = [2.5 if row.number in front else 0 for row in own]
        rings = {"width": widths, "color": colour(4)}
        traces.append(
            _dots(
                own,
                [row.values[1] for row in own],
                [row.values[0] for row in own],
                name=family,
                marker={"size": 10, "color": colours.get(family, INK), "line": rings},
            )
        )
    return chart(traces, xaxis=axis(names[1]), yaxis=axis(names[0]))


def learned(
    insight: Insight, one: Learned, rows: Mapping[int, TrialRow], *, percent: bool
) -> go.Figure:
    """Draw the trials' accuracy against a criterion's value; `rows` are the trials by number."""
    traces = []
    for kind, tone in (("candidate", colour(0)), ("reference", colour(1)), ("baseline", INK)):
        some = [
            (value, point)
            for value, point in zip(one.values, insight.points, strict=True)
            if value is not None and point.kind == kind
        ]
        traces.append(
            _dots(
                [rows[point.trial] for _, point in some],
                [value for value, _ in some],
                [point.accuracy for _, point in some],
                name=kind,
                # The value is in the template, so that the page stores each trial's note once.
                hovertemplate=f"%{{hovertext}}<br>{label(one.name)} = %{{x:.5g}}<extra></extra>",
                marker={"size": 7, "color": tone},
            )
        )
    yaxis = axis(percent=percent, nticks=6)
    return chart(traces, xaxis=axis(one.measure, nticks=6), yaxis=yaxis, **SMALL)
